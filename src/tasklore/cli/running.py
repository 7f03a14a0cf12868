"""Meta-learn, compare, report."""

import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .arguments import check_is_there, collection
from .listing import PLUGIN_HELP, load_plugin
from .lore import STORE_HELP

if TYPE_CHECKING:
    from ..experience import ExperienceStore
    from ..experiment import Experiment, Findings
    from ..train import Around
    from .show import Display

__all__ = ["command_given", "conducted", "evaluate", "resumable", "run"]

FILE_HELP = "A TOML file with the sections tasks, learner, net, train, stop and test."

Store = Annotated[str | None, typer.Option("--store", help=STORE_HELP)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Plugin = Annotated[Path | None, typer.Option("--plugin", help=PLUGIN_HELP, exists=True, dir_okay=False)]


def run(  # noqa: PLR0913 - options of a command
    file: Annotated[Path, typer.Argument(help=FILE_HELP)],
    folder: Annotated[
        Path | None, typer.Option(help="Of this run; an unfinished run in it is continued.")
    ] = None,
    store: Store = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the HTML report goes; into the folder by default.")
    ] = None,
    plugin: Plugin = None,
    workers: Annotated[
        int | None, typer.Option(help="Parts of a meta-step, with --ray; 2 by default.", min=1)
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Meta-learn on a Ray cluster, started on this machine.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Meta-learn on this Ray cluster, HOST:PORT or auto, instead.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Carry out the run that FILE describes, or continue it: meta-learn, compare with the baselines, report.

    A run that is stopped, by Ctrl-C or by force, goes on where it was when the same command is given again.
    Under torchrun, every process computes a part of each meta-step.
    """
    from ..errors import InvalidSetting
    from ..experience import open_store, user_folder
    from ..experiment import Experiment
    from ..pages import check_installed
    from ..registry import sources
    from ..report import write_report
    from .show import Display

    if workers is not None and not (ray or ray_address):
        raise InvalidSetting("--workers is for --ray or --ray-address; add one of them, or use torchrun")
    if plugin is not None:
        load_plugin(plugin)
    experiment = Experiment.from_toml(file)
    if seed is not None:
        experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, seed=seed))
    check_installed()
    silent = quiet or as_json
    console = Console(quiet=silent)
    place = folder or user_folder() / "runs" / (file.stem if seed is None else f"{file.stem}-seed{seed}")
    with contextlib.ExitStack() as leaving:
        around = _around(leaving, (workers or 2) if ray or ray_address else 0, ray_address)
        if around is None and _in_torchrun():
            return  # this process has worked for the first one
        opened = leaving.enter_context(open_store(store))
        with resumable(f"saved in {place}; to go on where it was, give the same command again:"):
            name = sources.name_of(type(experiment.tasks))
            display = Display(experiment, f"{name}, training", f"{name}, validation", console, silent)
            findings = conducted(experiment, place, opened, display, around)
        written = write_report(findings, report or place / "report.html")
    _tell(findings, written, quiet, as_json)


def evaluate(
    prior: Annotated[Path, typer.Argument(help="A prior, as a run leaves it.")],
    tasks: Annotated[str, typer.Option(help="A collection; see `tasklore tasks`.")],
    ways: Annotated[int | None, typer.Option(help="Classes of a task; the collection's default.")] = None,
    shots: Annotated[
        list[int] | None, typer.Option(help="Support examples; may be given several times.")
    ] = None,
    n_tasks: Annotated[int, typer.Option(help="Test episodes.")] = 600,
    seed: Annotated[int, typer.Option(help="Names the episodes.")] = 0,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Score a prior on the test tasks of a collection."""
    from rich.table import Table

    from ..errors import InvalidData
    from ..evaluate import evaluate as judge
    from ..registry import learners
    from ..state import Prior

    if plugin is not None:
        load_plugin(plugin)
    check_is_there(prior, "a prior")
    loaded = Prior.load(prior)
    # Other settings may split otherwise, and then what was learned from would be judged on.
    learned: Any = loaded.provenance.get("collection")
    known = isinstance(learned, dict) and learned.get("name") == tasks
    test = collection(tasks, ways, learned=learned if known else None).splits().test
    if met := loaded.has_met(test.origins):
        raise InvalidData(
            f"{prior} has learned from {len(met)} of the {len(test.origins)} test classes or tasks of "
            f"{tasks}: it comes from another split, or the data has changed since; judge it on what it has "
            "not seen"
        )
    test = test.scaled(loaded.scaling)
    name = learners.name_of(type(loaded.learner))
    found = {
        n: judge(
            loaded.learner,
            loaded.params,
            test.with_shots(n),
            method=name,
            trained=loaded.spec,
            n_tasks=n_tasks,
            seed=seed,
        )
        for n in shots or [1, 5]
    }
    if as_json:
        from .show import print_json

        print_json({str(n): {**dataclasses.asdict(e.score), "seconds": e.seconds} for n, e in found.items()})
        return
    table = Table("shots", "score", "seconds", title=f"{name} on {tasks}, {n_tasks} test tasks, seed {seed}")
    for n, evaluation in found.items():
        table.add_row(str(n), str(evaluation.score), f"{evaluation.seconds:.1f}")
    Console().print(table)


def _around(leaving: contextlib.ExitStack, n_workers: int, address: str | None) -> "Around | None":
    """Return what lets meta-steps run on a cluster, or on the processes of torchrun; by default nothing."""
    if n_workers:
        from ..runners.ray import join
        from ..runners.rules import OnCluster

        cluster = leaving.enter_context(join(address, n_cpus=n_workers))
        return lambda rule: OnCluster(rule, cluster, n_workers)
    if _in_torchrun():
        from ..runners.rules import group

        processes = leaving.enter_context(group())
        return None if processes is None else processes.around
    return None


def _in_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def conducted(
    experiment: "Experiment",
    folder: Path,
    store: "ExperienceStore",
    display: "Display",
    around: "Around | None" = None,
) -> "Findings":
    """Carry out an experiment under a progress display."""
    from ..experience import user_folder
    from ..experiment import conduct

    with display.progress:
        return conduct(
            experiment,
            folder,
            store,
            user_folder() / "artifacts",
            watch=display,
            on_progress=display.compared,
            around=around,
        )


@contextlib.contextmanager
def resumable(what: str) -> Generator[None]:
    """Turn Ctrl-C, or the wish of the system to end us, into a message that says how to go on."""
    from ..errors import Interrupted

    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped, and {what}\n{command_given()}") from None


def command_given() -> str:
    """Return what was typed, but for passwords in addresses."""
    typed = shlex.join(["tasklore", *sys.argv[1:]])
    typed = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:PASSWORD@", typed)
    return re.sub(r"([?&]password=)[^&\s']*", r"\1PASSWORD", typed)


def _tell(findings: "Findings", report: Path, quiet: bool, as_json: bool) -> None:
    """Print the result of a run."""
    from .show import by_source, comparison, print_json

    if as_json:
        print_json(_as_json(findings, report))
    elif not quiet:
        console = Console()
        console.print(comparison(findings.rows, f"{findings.name}: the comparison on test tasks"))
        if findings.by_source:
            console.print(by_source(findings.by_source))
        console.print(f"ended by {findings.outcome.reason}", highlight=False)
        if (plan := findings.outcome.state.plan) is not None:
            console.print(f"ran {plan.why}", highlight=False)
        console.print(f"Report: {report}", highlight=False, soft_wrap=True)
        what = f"What was learned: {findings.workspace.prior_path}, for `tasklore adapt`"
        console.print(what, highlight=False, soft_wrap=True)


def _as_json(findings: "Findings", report: Path) -> dict[str, Any]:
    score = findings.outcome.state.best_score
    return {
        "run_id": findings.workspace.id,
        "reason": findings.outcome.reason,
        "seconds": findings.seconds,
        "steps": findings.outcome.state.step,
        "execution": plan.why if (plan := findings.outcome.state.plan) else "",
        "validation": None if score is None else dataclasses.asdict(score),
        "rows": [
            {
                "method": r.evaluation.method,
                "shots": r.shots,
                "baseline": r.is_baseline,
                "transductive": r.evaluation.transductive,
                "source": r.source,
                **dataclasses.asdict(r.evaluation.score),
            }
            for r in (*findings.rows, *findings.by_source)
        ],
        "prior": str(findings.workspace.prior_path),
        "report": str(report),
    }
