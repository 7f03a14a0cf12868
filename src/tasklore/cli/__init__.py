"""The command line: one short function for each command, and nothing else.

Heavy modules are imported inside the functions, so that ``--help`` answers at once.
"""

import signal
import sys
from types import FrameType

import typer
from rich.console import Console
from rich.panel import Panel

from .. import errors
from . import apply, listing, lore, running

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
app.command("demo")(running.demo)
app.command("run")(running.run)
app.command("evaluate")(running.evaluate)
app.command("adapt")(apply.adapt)
app.command("predict")(apply.predict)
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
    """Run the command line; what fails on purpose is told in one panel, without a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # also where a shell started us in the background, ignoring it
    try:
        app()
    except errors.TaskloreError as error:
        title = "interrupted" if isinstance(error, errors.Interrupted) else "error"
        Console(stderr=True).print(
            Panel(str(error), title=title, title_align="left", border_style="red", highlight=False)
        )
        sys.exit(next(code for kind, code in CODES if isinstance(error, kind)))
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(130)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
