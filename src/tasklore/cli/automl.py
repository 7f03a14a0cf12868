"""A model for a table, and experience with tables."""

import contextlib
import json
import os
import shlex
from collections.abc import Generator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .running import Json, Quiet, Store, command_given

__all__ = ["collect", "fit"]


class Task(StrEnum):
    """What a target asks for."""

    classification = "classification"
    regression = "regression"


Metric = Annotated[
    str | None,
    typer.Option(
        help="What to search by: log_loss (by default), accuracy, balanced_accuracy or roc_auc; for numbers "
        "r2 (by default), mean_absolute_error or root_mean_squared_error."
    ),
]
Evaluations = Annotated[
    int | None, typer.Option(help="Try so many candidates instead, however long it takes.", min=1)
]
TestSize = Annotated[
    float, typer.Option(help="Share of the rows kept aside to test on; 0 for none.", min=0.0, max=0.5)
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="A column that says which rows belong together, as those of one person: never divided."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where the model goes.")]
Report = Annotated[Path | None, typer.Option(help="Where the HTML report goes; beside the model by default.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.")]
NoRemember = Annotated[bool, typer.Option("--no-remember", help="Use what the store knows, but add nothing.")]


def fit(  # noqa: PLR0913 - one parameter for each option
    data: Annotated[Path, typer.Argument(help="A .csv, .csv.gz or .parquet: one row for each example.")],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    budget: Annotated[str, typer.Option(help="Time of the search: 60s, 10min, 1h.")] = "60s",
    max_evaluations: Evaluations = None,
    task: Annotated[Task | None, typer.Option(help="Decided from the target by default.")] = None,
    metric: Metric = None,
    groups: Groups = None,
    test_size: TestSize = 0.2,
    output: Output = Path("model.skops"),
    report: Report = None,
    no_report: NoReport = False,
    store: Store = None,
    no_remember: NoRemember = False,
    jobs: Annotated[int, typer.Option(help="Candidates tried at a time; -1 for one for each core.")] = -1,
    seed: Annotated[int, typer.Option(help="Of the search and of the draw of test rows.", min=0)] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find a model for a table within a time budget, test it on rows kept aside, save it, and report.

    It starts from experience with past tables, and adds its own to your store: never a row of the data.
    """
    from ..apps.automl.report import write_report
    from . import searching, tables

    console = Console(quiet=quiet or as_json, highlight=False)
    _check_place(output)
    place = None if no_report else _report_place(report, output, console)
    asked = searching.Asked(
        budget, max_evaluations, None if task is None else task.value, metric, groups, test_size, seed, jobs
    )
    asked.check()
    _check_places(data, output, place)
    table = tables.Prepared.of(data, target, asked.task, test_size, seed, groups)
    with _stopping("stopped: no model was saved, nothing was remembered. To begin again:", again=True):
        fitted = searching.conduct(table, asked, store, not no_remember, console)
    fitted.model.save(output)
    with _stopping(f"stopped after the model had been saved in {output}; there is no report"):
        with tables.telling_warnings(console):
            fitted = searching.tested(fitted)
        searching.tell(fitted, console)
        if place is not None:
            asking = console.status("asking what each column is worth, and writing the report")
            with asking, tables.telling_warnings(Console(quiet=True)):  # they were told with the test
                write_report(fitted, place)
    if as_json:
        places = {"model": str(output), "report": None if place is None else str(place)}
        typer.echo(json.dumps({**searching.as_json(fitted), **places}, allow_nan=False))
    else:
        _tell_places(output, place, console)


def _report_place(report: Path | None, output: Path, console: Console) -> Path | None:
    """Return where the report goes; None if it cannot be written and nobody asked for it."""
    from ..errors import MissingDependency
    from ..pages import check_installed

    try:
        check_installed()
    except MissingDependency as error:
        if report is not None:
            raise
        console.print(f"note: there will be no report: {error}", markup=False, soft_wrap=True)
        return None
    return report or output.with_suffix(".html")


def _check_places(data: Path, output: Path, report: Path | None) -> None:
    """Raise, before any work, where a result could not be written, or would replace something else."""
    from ..errors import InvalidSetting

    places = [output] if report is None else [output, report]
    if len({place.resolve() for place in places}) < len(places):
        raise InvalidSetting(
            f"model and report would both be written to {output}; give --output a name that ends in .skops, "
            "give --report another one, or --no-report"
        )
    for place in places:
        if place.resolve() == data.resolve():
            raise InvalidSetting(f"{place} is the table itself and would be replaced; choose another place")
        _check_place(place)


def _check_place(place: Path) -> None:
    """Raise where no file can be written; the folder is made if need be."""
    from ..errors import StoreError

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{place.parent} cannot be made: {error.strerror}; choose another place") from error
    if place.is_dir() or not os.access(place.parent, os.W_OK):
        raise StoreError(f"{place} cannot be written; give the path of a file in a folder of yours")


def _tell_places(output: Path, report: Path | None, console: Console) -> None:
    console.print(f"Model: {output}", markup=False, soft_wrap=True)
    if report is not None:
        console.print(f"Report: {report}", markup=False, soft_wrap=True)
    command = shlex.join(["tasklore", "predict", str(output), "NEW.csv", "--output", "predictions.csv"])
    console.print(f"To predict: {command}", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _stopping(what: str, *, again: bool = False) -> Generator[None]:
    """Turn Ctrl-C, or the wish of the system to end us, into a message that says what is lost or kept."""
    from ..errors import Interrupted

    try:
        yield
    except KeyboardInterrupt:
        command = "\n" + command_given() if again else ""
        raise Interrupted(what + command) from None


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
    ray: Annotated[
        bool, typer.Option("--ray", help="Work on a Ray cluster, started on this machine.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Work on this Ray cluster, HOST:PORT or auto, instead.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Try every AutoML candidate on past data sets; remember losses, times, predictions, and the target.

    It takes a minute or two for each data set. What is in the store is not tried again, so a collection that
    was stopped goes on where it was when the same command is given again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..apps.automl.collecting import Collecting, read_manifest
    from ..apps.automl.collecting import collect as collect_all
    from ..errors import Interrupted
    from ..experience import open_store, user_folder
    from ..runners.ray import join

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
    with contextlib.ExitStack() as leaving:
        opened = leaving.enter_context(open_store(store))
        try:
            cluster = None
            if ray or ray_address:
                with console.status("joining the Ray cluster"):
                    cluster = leaving.enter_context(join(ray_address, n_cpus=workers))
            progress = leaving.enter_context(Progress(*columns, console=console, disable=quiet))
            bars = {dataset.name: progress.add_task(dataset.name, visible=False) for dataset in datasets}

            def watch(dataset: str, done: int, total: int) -> None:
                progress.update(bars[dataset], completed=done, total=total, visible=True)

            added = collect_all(
                datasets,
                opened,
                user_folder() / "artifacts",
                settings,
                n_workers=workers,
                cluster=cluster,
                watch=watch,
            )
        except KeyboardInterrupt:
            told = f"stopped, and whole data sets are remembered; to go on:\n{command_given()}"
            raise Interrupted(told) from None
    console.print(
        f"{added} of {len(datasets)} data sets were added; the others are in the store, or erased from it."
    )
