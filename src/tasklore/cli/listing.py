"""What there is to choose from, and whether one's own addition is sound."""

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["check", "learners", "load_plugin", "tasks"]

PLUGIN_HELP = "A Python file that registers learners or tasks of your own; it is executed."


def learners() -> None:
    """List the ways of learning, with their settings."""
    from ..registry import learners as registry

    _print_table("learner", registry)


def tasks() -> None:
    """List the collections of tasks, with their settings."""
    from ..registry import sources

    _print_table("tasks", sources)


def check(file: Annotated[Path, typer.Argument(help=PLUGIN_HELP, exists=True, dir_okay=False)]) -> None:
    """Run the public check suites on every learner and collection of tasks that FILE registers."""
    from ..errors import InvalidSetting
    from ..registry import learners, sources
    from ..testing.learner import check_learner
    from ..testing.source import check_splits

    before = {*learners.names()}, {*sources.names()}
    load_plugin(file)
    new_learners = sorted({*learners.names()} - before[0])
    new_sources = sorted({*sources.names()} - before[1])
    if not new_learners and not new_sources:
        raise InvalidSetting(
            f"{file} registers nothing; put @learners.register('name') or @sources.register('name') before "
            "your class"
        )
    table = Table("name", "check", "result", title="Checks")
    for name in new_learners:
        for passed in check_learner(learners.get(name)()):
            table.add_row(name, passed, "[green]passed[/green]")
    for name in new_sources:
        for passed in check_splits(cast("Any", sources.get(name))().splits()):
            table.add_row(name, passed, "[green]passed[/green]")
    Console().print(table)


def load_plugin(path: Path) -> None:
    """Execute a file that the user named, so that it registers what it defines."""
    import importlib.util
    import sys

    from ..errors import InvalidSetting, TaskloreError

    name = f"tasklore_plugin_{path.stem}"  # not the bare one, which a module of Python may have
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidSetting(f"{path} is not a Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except TaskloreError:
        raise
    except Exception as error:  # a file of the user's own may raise anything
        del sys.modules[name]
        raise InvalidSetting(
            f"{path} cannot be executed: {type(error).__name__}: {error}; mend it, or see the traceback with "
            "`tasklore --debug …`"
        ) from error


def _print_table(kind: str, registry: Any) -> None:
    table = Table(show_lines=True)
    table.add_column(kind, no_wrap=True)
    table.add_column("what it is", ratio=4)
    table.add_column("settings and their defaults", ratio=5, overflow="fold")
    for name in registry.names():
        entry = registry.get(name)
        summary = (inspect.getdoc(entry) or "").splitlines()[0]
        table.add_row(f"[bold]{name}[/bold]", summary, ", ".join(_settings(entry)))
    Console().print(table)


def _settings(entry: Any) -> list[str]:
    settings: list[str] = []
    for field in dataclasses.fields(entry):
        if field.default is not dataclasses.MISSING:
            settings.append(f"{field.name}={field.default!r}")
        elif field.default_factory is not dataclasses.MISSING:
            settings.append(f"{field.name}={field.default_factory()!r}")
        else:
            settings.append(f"{field.name} (needed)")
    return settings
