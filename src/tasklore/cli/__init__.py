"""The command line: one short function for each command, and nothing else.

Heavy modules are imported inside the functions, so that ``--help`` answers at once.
"""

import signal
import sys
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from .. import __version__, errors
from . import apply, automl, comparing, demo, listing, lore, running

__all__ = ["app", "main"]

EPILOG = (
    "Exit codes: 0 done; 1 a fault in Tasklore itself; 2 wrong use, settings or data; 3 a check failed; "
    "4 a damaged file or store; 5 a download failed; 6 training became NaN; 130 interrupted, after saving."
)

app = typer.Typer(
    name="tasklore",
    help="Learn from the tasks you have solved, so that the next one needs a handful of examples.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tasklore {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Take the options that stand before the command."""
    global _debug
    _debug = debug


_debug = False

app.command("demo")(demo.demo)
app.command("run")(running.run)
app.command("evaluate")(running.evaluate)
app.command("compare")(comparing.compare)
app.command("adapt")(apply.adapt)
app.command("predict")(apply.predict)
app.command("fit")(automl.fit)
app.command("collect")(automl.collect)
app.command("learners")(listing.learners)
app.command("tasks")(listing.tasks)
app.command("check")(listing.check)
app.add_typer(lore.app, name="lore")

CODES: tuple[tuple[type[errors.TaskloreError], int], ...] = (
    (errors.CheckFailed, 3),
    (errors.DamagedArtifact, 4),
    (errors.StoreError, 4),
    (errors.DownloadError, 5),
    (errors.NumericalFailure, 6),
    (errors.Interrupted, 130),
    (errors.TaskloreError, 2),
)


def main() -> None:
    """Run the command line; what fails on purpose is told in one message, without a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # also where a shell started us in the background, ignoring it
    try:
        app()
    except errors.TaskloreError as error:
        if _debug:
            raise
        _tell(error)
        sys.exit(next(code for kind, code in CODES if isinstance(error, kind)))
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != 130:  # with which typer ends for the former
            raise
        Console(stderr=True).print("interrupted")
        sys.exit(130)


def _tell(error: errors.TaskloreError) -> None:
    """Print an error: a panel for people; one unbroken text for logs, and where a command is to be copied."""
    console = Console(stderr=True, highlight=False)
    message = Text(str(error))  # not markup: messages speak of [sections]
    if isinstance(error, errors.Interrupted):
        console.print(message, soft_wrap=True)
    elif console.is_terminal:
        console.print(Panel(message, title="error", title_align="left", border_style="red"))
    else:
        console.print(Text("error: ").append(message), soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
