"""Several learners under the same budget, and one ranked table."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .arguments import collection, settings_of
from .listing import load_plugin
from .running import Json, Plugin, Quiet, Store, resumable

if TYPE_CHECKING:
    from ..contest import Standing

__all__ = ["compare"]


def compare(  # noqa: PLR0913 - options of a command
    tasks: Annotated[str, typer.Option(help="A collection; see `tasklore tasks`.")],
    learner: Annotated[
        list[str] | None,
        typer.Option(help="Who takes part, see `tasklore learners`; may be given several times."),
    ] = None,
    ways: Annotated[int | None, typer.Option(help="Classes of a task; the collection's default.")] = None,
    shots: Annotated[
        list[int] | None,
        typer.Option(
            help="Support examples; may be given several times, the first is learned and ranked by."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another setting of the collection; several times."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Of meta-training for each learner, all included.")] = 10.0,
    tuning: Annotated[float, typer.Option(help="Share of them for choosing each one's settings.")] = 0.25,
    net: Annotated[str | None, typer.Option(help="The backbone of all; by default one that suits.")] = None,
    n_tasks: Annotated[int, typer.Option(help="Test episodes of each method.")] = 600,
    seed: Annotated[int, typer.Option(help="Names all random draws.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Of this contest; an unfinished one in it is continued.")
    ] = None,
    store: Store = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the HTML report goes; into the folder by default.")
    ] = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Meta-train learners under the same budget, and rank them on test tasks, beside the baselines.

    A contest that is stopped, by Ctrl-C or by force, goes on where it was when the same command is given
    again; with one more --learner, those that are done are not done again.
    """
    from ..config import from_settings
    from ..contest import Contest, hold, on_sources
    from ..experience import open_store, user_folder
    from ..pages import check_installed
    from ..registry import nets
    from ..report.contest import write_contest
    from ..train import TrainSettings
    from .show import ContestDisplay, by_source, print_json, standings

    if plugin is not None:
        load_plugin(plugin)
    counts = tuple(shots or [1])
    learned_from = counts[0] if shots or "n_shots" in settings_of(tasks) else None
    contest = Contest(
        collection(tasks, ways, learned_from, changes or ()),
        None if net is None else from_settings(nets, {"name": net}, "--net"),
        TrainSettings(steps=100, n_validation=100, pretrain_steps=2000, seed=seed),
        minutes=minutes,
        tuning=tuning,
        shots=counts,
        n_tasks=n_tasks,
        seed=seed,
    )
    check_installed()
    silent = quiet or as_json
    console = Console(quiet=silent, highlight=False)
    parts = [tasks, *([f"{ways}way"] if ways else []), *(f"{n}shot" for n in counts), f"{minutes:g}min"]
    parts += [*([net] if net else []), *([f"seed{seed}"] if seed else []), *(changes or [])]
    place = folder or user_folder() / "contests" / re.sub(r"[^\w.=-]+", "_", "-".join(parts))[:200]
    display = ContestDisplay(console, silent)
    going_on = resumable(f"saved in {place}; to go on where it was, give the same command again:")
    with open_store(store) as opened, display.progress, going_on:
        found = hold(contest, tuple(learner or ()), place, opened, user_folder() / "artifacts", display)
    written = write_contest(contest, found, report or place / "report.html", display.without_result)
    if as_json:
        rows = [_as_json(standing) for standing in found]
        print_json({"standings": rows, "lost": display.without_result, "report": str(written)})
    elif not quiet:
        console.print(standings(contest, found))
        if apart := on_sources(found):
            console.print(by_source(apart))
        console.print(f"Report: {written}", soft_wrap=True)
        console.print(f"What was learned: {place}/LEARNER.safetensors, for `tasklore adapt`", soft_wrap=True)


def _as_json(standing: "Standing") -> dict[str, Any]:
    return {
        "method": standing.method,
        "baseline": standing.is_baseline,
        "scores": {str(n): dataclasses.asdict(e.score) for n, e in standing.evaluations.items()},
        "by_source": {
            part: {str(n): dataclasses.asdict(e.score) for n, e in there.items()}
            for part, there in standing.by_source.items()
        },
        "settings": dict(standing.chosen),
        "steps": standing.steps,
        "seconds": standing.seconds,
        "prior": standing.prior,
    }
