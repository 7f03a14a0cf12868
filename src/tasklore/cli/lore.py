"""What is remembered: look at it, take it along, merge it, learn from it, check it, erase from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ..experience import ExperienceStore, RunRecord
    from ..types import Kind

__all__ = ["STORE_HELP", "app"]

STORE_HELP = "An SQLite file or a postgresql:// address; your own store by default."

app = typer.Typer(
    help="Look at, export, merge, learn from, verify and erase what is remembered.", no_args_is_help=True
)
Store = Annotated[str | None, typer.Option("--store", help=STORE_HELP)]


def _opened(store: str | None) -> "ExperienceStore":
    """Open a store to read from: one's own, or one that is there."""
    from ..errors import InvalidSetting
    from ..experience import open_store

    if store not in (None, "memory:") and "://" not in store and not Path(store).exists():
        raise InvalidSetting(f"{store} does not exist; give the path of a store, or none for your own")
    return open_store(store)


@app.command("list")
def list_(
    store: Store = None, limit: Annotated[int, typer.Option(help="The most rows, newest first.")] = 20
) -> None:
    """List the runs, the AutoML fits and the priors, newest first."""
    from ..experience import EventRecord, ModelRecord, RoundRecord, RunRecord

    records: dict[str, str] = {}
    with _opened(store) as opened:
        runs = _listing("Runs", "run", "tasks", "learner", "rounds", "ended by", "when")
        fits = _listing("AutoML fits", "run", "table", "tried", "best candidate", "its loss", "when")
        for run in opened.find(RunRecord, newest_first=True, limit=limit):
            if "face" in run.config:
                fits.add_row(*_fit_of(opened, run))
                continue
            ended = [
                event.detail.get("reason", "") for event in opened.find(EventRecord, {"subject": run.run_id})
            ]
            runs.add_row(
                run.id[:12],
                _what(run.config),
                str(run.config.get("learner", {}).get("name", "")),
                str(len(opened.find(RoundRecord, {"run_id": run.run_id}))),
                str(ended[-1]).split(":")[0] if ended else "not yet" if "learner" in run.config else "",
                run.created_at[:16].replace("T", " "),
            )
            records[run.run_id] = run.id[:12]
        priors = _listing("Priors", "prior", "learner", "validation", "run")
        for model in opened.find(ModelRecord, {"kind": "prior"}, newest_first=True, limit=limit):
            score = f"{model.metrics.get('validation', float('nan')):.4g} {model.metrics.get('metric', '')}"
            priors.add_row(model.id[:12], model.learner, score, records.get(str(model.run_id), ""))
        where = opened.location
    console = Console(highlight=False)
    listed = [table for table in (runs, fits, priors) if table.row_count]
    if not listed:
        console.print(f"store: {where}; nothing is remembered yet", soft_wrap=True)
        return
    for table in listed:
        console.print(table)
    console.print(f"store: {where}; any id above can be given to `tasklore lore show`", soft_wrap=True)


def _listing(title: str, *names: str) -> Table:
    """Return a table that cuts neither an id nor a name, however narrow the terminal is."""
    table = Table(title=f"{title}, newest first")
    for place, name in enumerate(names):
        table.add_column(name, no_wrap=place == 0, overflow="fold")
    return table


def _what(config: Mapping[str, Any]) -> str:
    """Return what a run was about: its tasks, or a collection of tables."""
    if "learner" in config:  # tasks that were given as arrays have no name
        return str(config.get("tasks", {}).get("name", ""))
    return "tables"


def _fit_of(store: "ExperienceStore", run: "RunRecord") -> list[str]:
    """Return what is listed of an AutoML fit."""
    from ..apps.automl.memory import METRIC_NAMES, names_of
    from ..experience import EvaluationRecord

    tried, when = store.find(EvaluationRecord, {"run_id": run.run_id}), run.created_at[:16].replace("T", " ")
    if not tried:
        return [run.id[:12], "erased", "", "", "", when]
    best = min(tried, key=lambda one: (one.mean, one.method))
    kind: Kind = "classification" if best.metric == METRIC_NAMES["classification"] else "regression"
    return [
        run.id[:12],
        names_of(store, kind).get(best.task, ""),
        str(len(tried) - 1),
        best.method,
        f"{best.mean:.4g} {'log loss' if kind == 'classification' else '1 − R²'}",
        when,
    ]


@app.command()
def show(
    record: Annotated[str, typer.Argument(help="The id, or its first eight digits.")], store: Store = None
) -> None:
    """Show one record whole, as JSON."""
    with _opened(store) as opened:
        found = opened.get(record)
    typer.echo(json.dumps({"kind": found.kind_name, "id": found.id, **found.to_json()}, indent=2))


@app.command()
def export(file: Annotated[Path, typer.Argument(help="Where to write.")], store: Store = None) -> None:
    """Write every record to a file that `tasklore lore merge` reads."""
    with _opened(store) as opened:
        count = opened.export(file)
    typer.echo(f"{count} records written to {file}")


@app.command()
def merge(
    file: Annotated[Path, typer.Argument(help="Written by export, here or elsewhere.")], store: Store = None
) -> None:
    """Add the records of an exported file: nothing is lost, nothing doubled."""
    from ..experience import open_store

    with open_store(store) as opened:
        merged = opened.merge(file)
    typer.echo(f"{merged.added} records added, {merged.kept_out} were here already or had been erased")


@app.command()
def learn(
    to: Annotated[
        Path, typer.Option(help="The folder for classification.safetensors and regression.safetensors.")
    ],
    store: Store = None,
    artifacts: Annotated[
        Path | None, typer.Option(help="The folder of the measurements; your own by default.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Learn, from the tables that `tasklore collect` measured, what to try on a new one.

    The same measurements give the same files, byte by byte. The store is left as it is.
    """
    from ..apps.automl.learning import kinds_in, learn_from
    from ..errors import InvalidData, StoreError
    from ..experience import user_folder

    console = Console(quiet=quiet, highlight=False)
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{to} cannot be made: {error.strerror}; choose another folder") from error
    with _opened(store) as opened:
        kinds = kinds_in(opened)
        if not kinds:
            raise InvalidData(
                f"no tables were collected into {opened.location}: run `tasklore collect` first"
            )
        with console.status("learning what to try first"):
            learned = {
                kind: learn_from(opened, artifacts or user_folder() / "artifacts", kind) for kind in kinds
            }
    for kind, found in learned.items():
        prior = found.prior
        rounds = Table("round", "portfolio", "score on held-out families", "", title=f"{kind}")
        for record in found.rounds:
            score = f"{record.metrics['score']:.4f} ± {record.metrics['half_width']:.4f}"
            rounds.add_row(str(record.index + 1), str(record.metrics["portfolio"]), score, record.decision)
        console.print(rounds)
        console.print(
            f"{len(prior.tasks)} tables of {len(set(prior.families))} families, {len(prior.candidates)} "
            f"candidates; to begin with {len(prior.portfolio)}: {', '.join(prior.portfolio)}"
        )
        place = to / f"{kind}.safetensors"
        checksum = prior.save(place)
        console.print(f"{place}\nSHA-256 {checksum}\n", markup=False, soft_wrap=True)


@app.command()
def verify(
    store: Store = None,
    artifacts: Annotated[
        Path | None, typer.Option(help="The folder of the priors; your own by default.")
    ] = None,
) -> None:
    """Look for altered rows, dangling references, and priors that are missing or altered."""
    from ..errors import StoreError
    from ..experience import user_folder

    with _opened(store) as opened:
        faults = opened.verify(artifacts or user_folder() / "artifacts")
    if faults:
        raise StoreError(f"{len(faults)} faults:\n" + "\n".join(faults))
    typer.echo("all is well")


@app.command()
def erase(
    record: Annotated[str, typer.Argument(help="The id, or its first eight digits.")],
    reason: Annotated[str, typer.Option(help="Kept in the tombstone.")],
    store: Store = None,
) -> None:
    """Purge a record and all that belongs to it, artifacts included, and leave a tombstone."""
    from ..experience import ModelRecord, open_store, user_folder

    with _opened(store) as opened:
        purged = opened.erase(record, reason)
    needed: set[str] = set()
    if store is not None:  # one's own store may know the same prior
        with open_store() as own:
            needed = {model.path for model in own.find(ModelRecord)}
    for gone in purged:
        if isinstance(gone, ModelRecord) and gone.path not in needed:
            (user_folder() / "artifacts" / gone.path).unlink(missing_ok=True)
    typer.echo(f"{len(purged)} records erased")
