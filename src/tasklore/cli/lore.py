"""What is remembered: look at it, take it along, merge it, check it, erase from it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["STORE_HELP", "app"]

STORE_HELP = "An SQLite file or a postgresql:// address; your own store by default."

app = typer.Typer(help="Look at, export, merge, verify and erase what was learned.", no_args_is_help=True)
Store = Annotated[str | None, typer.Option("--store", help=STORE_HELP)]


@app.command("list")
def list_(
    store: Store = None, limit: Annotated[int, typer.Option(help="The most rows, newest first.")] = 20
) -> None:
    """List the runs and the priors, newest first."""
    from ..experience import EventRecord, ModelRecord, RoundRecord, RunRecord, open_store

    records: dict[str, str] = {}
    with open_store(store) as opened:
        runs = Table("run", "tasks", "learner", "rounds", "ended by", "when")
        runs.title = "Runs, newest first"
        for run in opened.find(RunRecord, newest_first=True, limit=limit):
            ended = [
                event.detail.get("reason", "") for event in opened.find(EventRecord, {"subject": run.run_id})
            ]
            runs.add_row(
                run.id[:12],
                str(run.config.get("tasks", {}).get("name", "")),
                str(run.config.get("learner", {}).get("name", "")),
                str(len(opened.find(RoundRecord, {"run_id": run.run_id}))),
                str(ended[-1]).split(":")[0] if ended else "not yet",
                run.created_at[:16].replace("T", " "),
            )
            records[run.run_id] = run.id[:12]
        priors = Table("prior", "learner", "validation", "run", title="Priors, newest first")
        for model in opened.find(ModelRecord, newest_first=True, limit=limit):
            score = f"{model.metrics.get('validation', float('nan')):.4g} {model.metrics.get('metric', '')}"
            priors.add_row(model.id[:12], model.learner, score, records.get(str(model.run_id), ""))
        where = opened.location
    console = Console(highlight=False)
    console.print(runs)
    console.print(priors)
    console.print(f"store: {where}; any id above can be given to `tasklore lore show`", soft_wrap=True)


@app.command()
def show(
    record: Annotated[str, typer.Argument(help="The id, or its first eight digits.")], store: Store = None
) -> None:
    """Show one record whole, as JSON."""
    from ..experience import open_store

    with open_store(store) as opened:
        found = opened.get(record)
    typer.echo(json.dumps({"kind": found.kind_name, "id": found.id, **found.to_json()}, indent=2))


@app.command()
def export(file: Annotated[Path, typer.Argument(help="Where to write.")], store: Store = None) -> None:
    """Write every record to a file that ``merge`` reads."""
    from ..experience import open_store

    with open_store(store) as opened:
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
def verify(
    store: Store = None,
    artifacts: Annotated[
        Path | None, typer.Option(help="The folder of the priors; your own by default.")
    ] = None,
) -> None:
    """Look for altered rows, dangling references, and priors that are missing or altered."""
    from ..errors import StoreError
    from ..experience import open_store, user_folder

    with open_store(store) as opened:
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

    with open_store(store) as opened:
        purged = opened.erase(record, reason)
    needed: set[str] = set()
    if store is not None:  # one's own store may know the same prior
        with open_store() as own:
            needed = {model.path for model in own.find(ModelRecord)}
    for gone in purged:
        if isinstance(gone, ModelRecord) and gone.path not in needed:
            (user_folder() / "artifacts" / gone.path).unlink(missing_ok=True)
    typer.echo(f"{len(purged)} records erased")
