"""The main job on real input: AutoML on tables that experience has not seen, then images from few examples."""

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from .lore import STORE_HELP
from .running import conducted, resumable

if TYPE_CHECKING:
    import pandas as pd

    from ..apps.automl.pipelines import Kind
    from ..experience import ExperienceStore
    from ..experiment import Experiment, Findings

__all__ = ["TABLES", "demo"]

TABLES: Mapping[str, "tuple[str, Kind]"] = {
    "breast cancer": ("load_breast_cancer", "classification"),
    "wine": ("load_wine", "classification"),
    "digits": ("load_digits", "classification"),
    "diabetes": ("load_diabetes", "regression"),
}
"""Data sets of scikit-learn, and the functions that load them. None of them is among the past tables."""

PAST = "digits 0–4, upright and turned by 90° and 270°: 15 classes"
NEW = "digits 1–4, turned by 180°"

Part = Literal["automl", "few-shot"]


def demo(
    store: Annotated[str | None, typer.Option("--store", help=STORE_HELP)] = None,
    report: Annotated[Path | None, typer.Option(help="Where the few-shot HTML report goes.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds of each AutoML search.", min=1.0)] = 10.0,
    only: Annotated[Part | None, typer.Option(help="Show this part only.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Show on real data what experience is good for: AutoML on new tables, then new classes of images.

    Run it twice: the second time starts from what the first one left in your store.
    """
    from ..experience import open_store
    from ..report import check_installed

    check_installed()
    console = Console(quiet=quiet, highlight=False)
    with open_store(store) as opened:
        if only != "few-shot":
            _show_tables(opened, budget, console)
        if only != "automl":
            _show_images(opened, report, console)
        _tell_store(opened, console)


# --- tables -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Split:
    """A table of which a quarter is kept aside."""

    name: str
    kind: "Kind"
    x: "pd.DataFrame"
    y: "pd.Series"
    kept_x: "pd.DataFrame"
    kept_y: "pd.Series"

    @classmethod
    def of(cls, name: str) -> "_Split":
        from sklearn import datasets
        from sklearn.model_selection import train_test_split

        loader, kind = TABLES[name]
        x, y = getattr(datasets, loader)(return_X_y=True, as_frame=True)
        stratify = y if kind == "classification" else None
        parts: list[Any] = train_test_split(x, y, test_size=0.25, random_state=0, stratify=stratify)
        return cls(name, kind, parts[0], parts[2], parts[1], parts[3])

    def score(self, model: Any) -> float:
        """Return log loss (classes) or R² (numbers) on the rows kept aside."""
        from sklearn.metrics import log_loss

        if self.kind == "regression":
            return float(model.score(self.kept_x, self.kept_y))
        return float(log_loss(self.kept_y, model.predict_proba(self.kept_x), labels=list(model.classes_)))


def _show_tables(store: "ExperienceStore", budget: float, console: Console) -> None:
    """Search on each table with and without experience, beside two good defaults."""
    from ..apps.automl.memory import names_of
    from ..apps.automl.prior import TablePrior

    kinds: tuple[Kind, ...] = ("classification", "regression")
    past = [len(TablePrior.shipped(kind).tasks) for kind in kinds]
    console.rule("[bold]AutoML[/bold]", align="left")
    console.print(
        f"Tasklore knows {past[0]} past tables with classes and {past[1]} with numbers; these four are not "
        f"among them.\nA quarter of the rows is kept aside; each search may take {budget:g} s."
    )
    known = {name for kind in kinds for name in names_of(store, kind).values()}
    if again := [name for name in TABLES if name in known]:
        console.print(f"Your store remembers {', '.join(again)} from an earlier run, and starts from there.")
    splits = [_Split.of(name) for name in TABLES]
    results: dict[str, list[tuple[float, float]]] = {}
    reasons: list[str] = []
    for split in splits:
        for system, fit in _systems(split, store, budget, console).items():
            started = time.perf_counter()
            model = fit()
            seconds = time.perf_counter() - started
            results.setdefault(system, []).append((split.score(model), seconds))
            if system == "Tasklore":
                reasons.append(_why(split.name, model))
    console.print(_comparison(splits, results))
    for reason in reasons:
        console.print(reason)
    console.print()


def _systems(
    split: _Split, store: "ExperienceStore", budget: float, console: Console
) -> dict[str, Callable[[], Any]]:
    """Return how each system is fitted to a table, by name."""
    from sklearn import ensemble

    from ..apps.automl.estimators import AutoClassifier, AutoRegressor
    from ..apps.automl.losses import METRICS
    from ..apps.automl.prior import AtRandom, TablePrior
    from .searching import SearchDisplay

    classes = split.kind == "classification"
    face = AutoClassifier if classes else AutoRegressor
    metric = next(iter(METRICS[split.kind].values()))

    def searched(title: str, **settings: Any) -> Callable[[], Any]:
        def fit() -> Any:
            display = SearchDisplay(budget, None, metric, console)
            display.update(display.bar, description=f"{split.name}: {title}")
            with display:
                return face(budget, watch=display.watch, **settings).fit(split.x, split.y)

        return fit

    def default(model: Any) -> Callable[[], Any]:
        return lambda: model.fit(split.x, split.y)

    forest = ensemble.RandomForestClassifier if classes else ensemble.RandomForestRegressor
    boosting = ensemble.HistGradientBoostingClassifier if classes else ensemble.HistGradientBoostingRegressor
    return {
        "Tasklore": searched("with experience", store=store, name=split.name),
        "random search, same candidates": searched(
            "at random", prior=AtRandom.like(TablePrior.shipped(split.kind))
        ),
        "random forest, defaults": default(forest(random_state=0, n_jobs=-1)),
        "boosting, defaults": default(boosting(random_state=0)),
    }


def _why(name: str, model: Any) -> str:
    """Return a line about what suggested a model, and what it is made of."""
    alike = ", ".join(model.why_["past_table"].head(3))
    board = model.leaderboard_
    members = board[board["weight"] > 0].sort_values("weight", ascending=False)["candidate"]
    result = (
        f"the blend is mostly {members.iloc[0]}" if len(members) else "there was time for a first model only"
    )
    return f"[bold]{name}[/bold]: most like {alike}; {len(board)} candidates tried, {result}"


def _comparison(splits: list[_Split], results: Mapping[str, list[tuple[float, float]]]) -> Table:
    """Return scores and times, the best in bold."""
    table = Table(title="On the rows kept aside (seconds)", title_justify="left")
    table.add_column("")
    for split in splits:
        measure = "R² ↑" if split.kind == "regression" else "log loss ↓"
        table.add_column(f"{split.name}\n{measure}", justify="right")
    for system, row in results.items():
        cells: list[str] = []
        for place, (score, seconds) in enumerate(row):
            column = [other[place][0] for other in results.values()]
            best = max(column) if splits[place].kind == "regression" else min(column)
            shown = f"[bold]{score:.3f}[/bold]" if f"{score:.3f}" == f"{best:.3f}" else f"{score:.3f}"
            cells.append(f"{shown} ({seconds:.1f})")
        table.add_row(system, *cells)
    return table


# --- images -------------------------------------------------------------------------------------------------


def _show_images(store: "ExperienceStore", report: Path | None, console: Console) -> None:
    """Learn from the digits 0–4, then tell 5–9 apart from a few examples."""
    import torch
    from threadpoolctl import threadpool_limits

    from ..experience import user_folder
    from ..report import write_report
    from .show import Display, comparison

    torch.set_num_threads(1)  # such small models gain nothing from a second one, and lose on a busy machine
    threadpool_limits(1)
    findings: list[Findings] = []
    for experiment in _experiments():
        name = experiment.settings()["learner"]["name"]
        console.rule(f"[bold]{name}[/bold]", align="left")
        place = user_folder() / "runs" / f"demo-{name}-{uuid.uuid4().hex[:8]}"
        display = Display(experiment, PAST, NEW, console, console.quiet)
        with resumable("the best so far is remembered; the demo starts from it the next time:"):
            findings.append(conducted(experiment, place, store, display))
        _tell_savings(findings[-1], store, console)
    rows = tuple(row for found in findings for row in found.rows if not row.is_baseline)
    rows += tuple(row for found in findings for row in found.rows if row.is_baseline)
    merged = dataclasses.replace(findings[0], rows=rows)
    written = write_report(merged, report or merged.workspace.folder / "report.html")
    console.print()
    console.print(comparison(rows, "Digits 5–9, never seen before: accuracy among 5"))
    console.print("scratch and finetune (baselines) train the network of reptile")
    console.print(f"Report: {written}", soft_wrap=True)


def _experiments() -> "list[Experiment]":
    """Return what is run on images; the settings were chosen on validation tasks."""
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


def _tell_store(store: "ExperienceStore", console: Console) -> None:
    """Print what a store remembers now."""
    from ..experience import EvaluationRecord, ModelRecord, RunRecord, TaskRecord

    kinds = {TaskRecord: "tasks", RunRecord: "runs", EvaluationRecord: "evaluations", ModelRecord: "priors"}
    counts = ", ".join(f"{len(store.find(kind))} {word}" for kind, word in kinds.items())
    console.print(f"\nThe store now remembers {counts}: see `tasklore lore list`.")
    console.print("Run the demo again, and it starts from there.")
