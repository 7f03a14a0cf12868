"""Experience with tables."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .running import Quiet, Store

__all__ = ["collect"]


def collect(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="A .csv with the columns name, file, task (classification or regression) and family; the "
            "files lie beside it and have a column named target.",
            exists=True,
            dir_okay=False,
        ),
    ],
    store: Store = None,
    workers: Annotated[int, typer.Option(help="Data sets tried at the same time.", min=1)] = 1,
    rows: Annotated[int, typer.Option(help="Of a larger table so many are drawn.", min=20)] = 3000,
    seconds: Annotated[float, typer.Option(help="That trying one candidate may take.")] = 30.0,
    quiet: Quiet = False,
) -> None:
    """Try every AutoML candidate on past data sets, and remember losses, times and predictions.

    It takes a minute or two for each data set. What is in the store is not tried again, so a collection that
    was stopped goes on where it was when the same command is given again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..apps.automl.collecting import Collecting, read_manifest
    from ..apps.automl.collecting import collect as collect_all
    from ..errors import Interrupted
    from ..experience import open_store, user_folder

    settings = Collecting(rows=rows, seconds=seconds)
    datasets = read_manifest(manifest)
    console = Console(quiet=quiet, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("candidates"),
        TimeElapsedColumn(),
    )
    with open_store(store) as opened, Progress(*columns, console=console, disable=quiet) as progress:
        bars = {dataset.name: progress.add_task(dataset.name, visible=False) for dataset in datasets}

        def watch(dataset: str, done: int, total: int) -> None:
            progress.update(bars[dataset], completed=done, total=total, visible=True)

        try:
            added = collect_all(
                datasets,
                opened,
                user_folder() / "artifacts",
                settings,
                n_workers=workers,
                watch=watch,
            )
        except KeyboardInterrupt:
            command = shlex.join(["tasklore", *sys.argv[1:]])
            raise Interrupted(f"stopped, and whole data sets are remembered; to go on:\n{command}") from None
    console.print(f"{added} of {len(datasets)} data sets were added; the others were in the store already.")
