"""Meta-learn, compare, report."""

import contextlib
import dataclasses
import shlex
import sys
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .listing import PLUGIN_HELP, load_plugin
from .lore import STORE_HELP

if TYPE_CHECKING:
    from ..experience import ExperienceStore
    from ..experiment import Experiment, Findings
    from .show import Display

__all__ = ["demo", "evaluate", "run"]

Store = Annotated[str | None, typer.Option("--store", help=STORE_HELP)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Plugin = Annotated[Path | None, typer.Option("--plugin", help=PLUGIN_HELP, exists=True, dir_okay=False)]


def run(
    file: Annotated[Path, typer.Argument(help="A TOML file: [tasks] [learner] [net] [train] [stop] [test].")],
    folder: Annotated[
        Path | None, typer.Option(help="Of this run; an unfinished run in it is continued.")
    ] = None,
    store: Store = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the HTML report goes; into the folder by default.")
    ] = None,
    plugin: Plugin = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Carry out the run that FILE describes, or continue it: meta-learn, compare with the baselines, report.

    A run that is stopped, by Ctrl-C or by force, goes on where it was when the same command is given again.
    """
    from ..experience import open_store, user_folder
    from ..experiment import Experiment
    from ..registry import sources
    from ..report import check_installed, write_report
    from .show import Display

    if plugin is not None:
        load_plugin(plugin)
    experiment = Experiment.from_toml(file)
    if seed is not None:
        experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, seed=seed))
    check_installed()
    silent = quiet or as_json
    console = Console(quiet=silent)
    place = folder or user_folder() / "runs" / file.stem
    with open_store(store) as opened:
        with _resumable(f"saved in {place}; to go on where it was, give the same command again:"):
            name = sources.name_of(type(experiment.tasks))
            display = Display(experiment, f"{name}, training", f"{name}, validation", console, silent)
            findings = _conduct(experiment, place, opened, display)
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

    from ..config import from_settings
    from ..evaluate import evaluate as judge
    from ..registry import learners, sources
    from ..train import Prior

    if plugin is not None:
        load_plugin(plugin)
    loaded = Prior.load(prior)
    settings = {"name": tasks} if ways is None else {"name": tasks, "n_ways": ways}
    splits = from_settings(sources, settings, f"the settings of {tasks}").splits()
    name = learners.name_of(type(loaded.learner))
    found = {
        n: judge(
            loaded.learner,
            loaded.params,
            splits.test.with_shots(n),
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


def demo(
    store: Store = None,
    report: Annotated[Path | None, typer.Option(help="Where the HTML report goes.")] = None,
    quiet: Quiet = False,
) -> None:
    """Show the six steps on real images: learn from the digits 0–4, then tell 5–9 apart from a few examples.

    Run it twice: the second time starts from what the first one left in your store.
    """
    import torch
    from threadpoolctl import threadpool_limits

    from ..experience import EvaluationRecord, ModelRecord, RunRecord, TaskRecord, open_store, user_folder
    from ..report import check_installed, write_report
    from .show import Display, comparison

    check_installed()
    torch.set_num_threads(1)  # such small models gain nothing from a second one, and lose on a busy machine
    threadpool_limits(1)
    console = Console(quiet=quiet, highlight=False)
    with open_store(store) as opened:
        findings: list[Findings] = []
        for experiment in _demo_experiments():
            name = experiment.settings()["learner"]["name"]
            console.rule(f"[bold]{name}[/bold]", align="left")
            place = user_folder() / "runs" / f"demo-{name}-{uuid.uuid4().hex[:8]}"
            display = Display(experiment, DEMO_PAST, DEMO_NEW, console, quiet)
            with _resumable("the best so far is remembered; the demo starts from it the next time:"):
                findings.append(_conduct(experiment, place, opened, display))
            _tell_savings(findings[-1], opened, console)
        rows = tuple(row for found in findings for row in found.rows if not row.is_baseline)
        rows += tuple(row for found in findings for row in found.rows if row.is_baseline)
        merged = dataclasses.replace(findings[0], rows=rows)
        written = write_report(merged, report or merged.workspace.folder / "report.html")
        console.print()
        console.print(comparison(rows, "Digits 5–9, never seen before: accuracy among 5"))
        console.print("scratch and finetune (baselines) train the network of reptile")
        kinds = {
            TaskRecord: "tasks",
            RunRecord: "runs",
            EvaluationRecord: "evaluations",
            ModelRecord: "priors",
        }
        counts = ", ".join(f"{len(opened.find(kind))} {word}" for kind, word in kinds.items())
        console.print(f"\nThe store now remembers {counts}: see `tasklore lore list`.")
        console.print("Run the demo again, and it starts from there.")
        console.print(f"Report: {written}", soft_wrap=True)


DEMO_PAST = "digits 0–4, upright and turned by 90° and 270°: 15 classes"
DEMO_NEW = "digits 1–4, turned by 180°"


def _demo_experiments() -> "list[Experiment]":
    """Return what the demo runs; the settings were chosen on validation tasks."""
    from ..experiment import Experiment, TestSettings
    from ..learners.gradient import MAML, Reptile
    from ..learners.metric import Prototypes
    from ..loop import Stop
    from ..nets import MLP, Conv4
    from ..tasks.images import Digits
    from ..train import TrainSettings

    train = TrainSettings(steps=5, n_tasks=8, learning_rate=3e-3, n_validation=300, initial="prior")
    judged = TestSettings(n_tasks=600, shots=(1, 5), inner_steps=(0, 1, 2, 5, 10, 20), n_curve=200)
    alone = dataclasses.replace(judged, baselines=False)  # one run has the baselines: its net trains fast
    few = Digits(n_shots=5)
    return [
        Experiment(Digits(), Prototypes(Conv4(32, blocks=2)), train, Stop(target=0.77, rounds=10), alone),
        Experiment(
            few,
            Reptile(MLP((64, 64)), inner_steps=5, step_size=0.01, test_steps=20),
            dataclasses.replace(train, steps=10, n_tasks=16, optimizer="sgd", learning_rate=0.5),
            Stop(target=0.895, rounds=10),
            judged,
        ),
        Experiment(
            few,
            MAML(MLP((256,)), inner_steps=5, step_size=0.5, test_steps=20),
            dataclasses.replace(train, steps=30, n_tasks=16, learning_rate=1e-3),
            Stop(target=0.9, rounds=6),
            alone,
        ),
    ]


def _conduct(
    experiment: "Experiment", folder: Path, store: "ExperienceStore", display: "Display"
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
        )


@contextlib.contextmanager
def _resumable(what: str) -> Generator[None]:
    """Turn Ctrl-C, or the wish of the system to end us, into a message that says how to go on."""
    from ..errors import Interrupted

    try:
        yield
    except KeyboardInterrupt:
        command = shlex.join(["tasklore", *sys.argv[1:]])
        raise Interrupted(f"stopped, and {what}\n{command}") from None


def _tell(findings: "Findings", report: Path, quiet: bool, as_json: bool) -> None:
    """Print the result of a run."""
    from .show import comparison, print_json

    if as_json:
        print_json(_as_json(findings, report))
    elif not quiet:
        console = Console()
        console.print(comparison(findings.rows, f"{findings.name}: the comparison on test tasks"))
        console.print(f"ended by {findings.outcome.reason}", highlight=False)
        console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _as_json(findings: "Findings", report: Path) -> dict[str, Any]:
    score = findings.outcome.state.best_score
    return {
        "run_id": findings.workspace.id,
        "reason": findings.outcome.reason,
        "seconds": findings.seconds,
        "steps": findings.outcome.state.step,
        "validation": None if score is None else dataclasses.asdict(score),
        "rows": [
            {
                "method": r.evaluation.method,
                "shots": r.shots,
                "baseline": r.is_baseline,
                **dataclasses.asdict(r.evaluation.score),
            }
            for r in findings.rows
        ],
        "report": str(report),
    }


def _tell_savings(findings: "Findings", store: "ExperienceStore", console: Console) -> None:
    """Print what starting from a remembered prior saved, against the run that had to learn it."""
    from ..experience import ModelRecord, RoundRecord, RunRecord

    spent = findings.outcome
    console.print(f"  took {spent.state.step} steps, {spent.seconds:.1f} s")
    steps, seconds, ancestor = 0, 0.0, findings.workspace.prior_id
    while ancestor is not None:  # a prior may itself have been learned from another one
        model = store.get(ancestor)
        if not isinstance(model, ModelRecord):
            return
        rounds = store.find(RoundRecord, {"run_id": model.run_id})
        steps += max((int(turn.metrics["step"]) for turn in rounds), default=0)
        seconds += max((turn.seconds or 0.0 for turn in rounds), default=0.0)
        runs = store.find(RunRecord, {"run_id": model.run_id})
        ancestor = runs[0].prior if runs else None
    if findings.workspace.prior_id is not None:
        console.print(
            f"  anew it took {steps} steps and {seconds:.1f} s: "
            f"[bold]saved {steps - spent.state.step} steps and {seconds - spent.seconds:.1f} s[/bold]"
        )
