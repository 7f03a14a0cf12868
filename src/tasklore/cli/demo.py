"""The main job on real input: AutoML on tables new to the experience, then images from few examples."""

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from rich import box
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
    from ..pages import check_installed

    check_installed()
    console = Console(quiet=quiet, highlight=False)
    with open_store(store) as opened:
        if only != "few-shot":
            with resumable(
                "the searches that ended are remembered; the demo starts from them the next time:"
            ):
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
        x, kept, y, kept_y = (part.reset_index(drop=True) for part in parts)
        return cls(name, kind, x, y, kept, kept_y)

    def score(self, model: Any, seconds: float) -> "_Score":
        """Judge a model on the rows kept aside."""
        from sklearn.metrics import log_loss

        if self.kind == "regression":
            return _Score(float(model.score(self.kept_x, self.kept_y)), None, seconds)
        chances = model.predict_proba(self.kept_x)
        right = float((model.classes_[chances.argmax(1)] == self.kept_y).mean())
        return _Score(float(log_loss(self.kept_y, chances, labels=list(model.classes_))), right, seconds)


class _Score(NamedTuple):
    """How good a model is: log loss and the share that it gets right, or R² alone."""

    value: float
    right: float | None
    seconds: float


def _show_tables(store: "ExperienceStore", budget: float, console: Console) -> None:
    """Search on each table with and without experience, beside two good defaults."""
    from ..apps.automl.prior import TablePrior
    from ..experience import user_folder

    past = [len(TablePrior.shipped(kind).tasks) for kind in ("classification", "regression")]
    console.rule("[bold]AutoML[/bold]", align="left")
    console.print(
        f"Tasklore comes with experience from {past[0]} past tables with classes and {past[1]} with numbers; "
        f"these four are not among them. A quarter of the rows is kept aside, and no search sees it; each "
        f"search may take {budget:g} s."
    )
    _tell_known(store, console)
    folder = user_folder() / "runs" / f"demo-automl-{uuid.uuid4().hex[:8]}"
    splits = [_Split.of(name) for name in TABLES]
    with console.status("starting processes"):
        _warm_up()
    results: list[dict[str, _Score]] = []
    reasons = Table.grid(padding=(0, 2, 0, 0))
    for place, split in enumerate(splits, 1):
        results.append({})
        title = f"{split.name} ({place} of {len(splits)})"
        for system, fit in _systems(split, store, budget, title, console).items():
            started = time.perf_counter()
            model = fit()
            results[-1][system] = split.score(model, time.perf_counter() - started)
            if system == "Tasklore":
                reasons.add_row(f"[bold]{split.name}[/bold]", _why(model))
                with console.status(f"{title}: writing the report"):
                    _write_report(split, model, budget, folder / f"{split.name.replace(' ', '-')}.html")
    console.print(_comparison(splits, results))
    console.print("\n[bold]Why[/bold]")
    console.print(reasons)
    console.print(f"\nReports, one for each table: {folder}\n", soft_wrap=True)


def _tell_known(store: "ExperienceStore", console: Console) -> None:
    """Say which of the tables the store has met before, as it is no longer true that they are new."""
    from ..apps.automl.memory import names_of, recall

    known: list[str] = []
    kinds: tuple[Kind, ...] = ("classification", "regression")
    for kind in kinds:
        names, tables = names_of(store, kind), recall(store, kind)
        known += [
            f"{names[table]} ({len(tried) - 1} candidates)"  # all but that to predict always the same
            for table, (_, tried) in tables.items()
            if names[table] in TABLES
        ]
    if known:
        console.print(
            f"[bold]Remembered from your last run:[/bold] {', '.join(known)}. Tasklore starts from there, so "
            "these are no longer new to it; the rows kept aside are the same, and still unseen. The random "
            "search starts anew."
        )


def _warm_up() -> None:
    """Load libraries and start processes, which is no part of any budget."""
    import numpy as np

    from ..apps.automl.estimators import AutoClassifier

    AutoClassifier(max_evaluations=2).fit(np.arange(40.0).reshape(20, 2), np.arange(20) % 2)


def _systems(
    split: _Split, store: "ExperienceStore", budget: float, title: str, console: Console
) -> dict[str, Callable[[], Any]]:
    """Return how each system is fitted to a table, by name."""
    from sklearn import ensemble

    from ..apps.automl.estimators import AutoClassifier, AutoRegressor
    from ..apps.automl.losses import metric_for
    from ..apps.automl.prior import AtRandom, TablePrior
    from .searching import SearchDisplay

    classes = split.kind == "classification"
    face = AutoClassifier if classes else AutoRegressor
    metric = metric_for(split.kind)

    def searched(how: str, **settings: Any) -> Callable[[], Any]:
        def fit() -> Any:
            display = SearchDisplay(budget, None, metric, console)
            display.update(display.bar, description=f"{title}: {how}")
            with display:
                return face(budget, watch=display.watch, **settings).fit(split.x, split.y)

        return fit

    def default(model: Any) -> Callable[[], Any]:
        def fit() -> Any:
            with console.status(f"{title}: {type(model).__name__}"):
                return model.fit(split.x, split.y)

        return fit

    forest = ensemble.RandomForestClassifier if classes else ensemble.RandomForestRegressor
    boosting = ensemble.HistGradientBoostingClassifier if classes else ensemble.HistGradientBoostingRegressor
    at_random = AtRandom.like(TablePrior.shipped(split.kind))
    return {
        "Tasklore": searched("with experience", store=store, name=split.name),
        "random search": searched("at random", prior=at_random),
        "random forest": default(forest(random_state=0, n_jobs=-1)),
        "boosting": default(boosting(random_state=0)),
    }


def _why(model: Any) -> str:
    """Return a line about what suggested a model, and what it is made of."""
    past, board = model.why_.head(3), model.leaderboard_
    alike = ", ".join(
        f"{name} (remembered)" if own else name
        for name, own in past[["past_table", "own"]].itertuples(index=False)
    )
    members = board[board["weight"] > 0].sort_values("weight", ascending=False)
    kept = ", ".join(
        f"{100 * weight:.0f} % {name}"
        for name, weight in members[["candidate", "weight"]].head(2).itertuples(index=False)
    )
    if not kept:
        return f"most like {alike}; {len(board)} tried, but there was time for a first model only"
    more = f" and {len(members) - 2} more" if len(members) > 2 else ""
    return f"most like {alike}; {len(board)} tried, kept {kept}{more}"


def _write_report(split: _Split, model: Any, budget: float, path: Path) -> None:
    """Write what a search found as an HTML file."""
    from ..apps.automl.judging import judge
    from ..apps.automl.report import Fitted, write_report

    y, kept_y = split.y.to_numpy(), split.kept_y.to_numpy()
    settings = {"Budget": f"{budget:g} s", "Kept aside": "25 % of the rows", "Remembered": "yes"}
    fitted = Fitted(
        model,
        split.name,
        str(split.y.name),
        split.x,
        y,
        split.kept_x,
        kept_y,
        judge(model, split.kept_x, kept_y, y),
        0,
        settings,
        f"tasklore demo --only automl --budget {budget:g}",
    )
    write_report(fitted, path, seconds=2.0)


def _comparison(splits: list[_Split], results: list[dict[str, _Score]]) -> Table:
    """Return scores and times, the best in bold."""
    table = Table(
        title="On the rows kept aside",
        title_justify="left",
        caption="Bold: the best. %: classes that were right. Random search: same candidates, same time, "
        "no experience. Random forest, boosting: scikit-learn's, with default settings.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for system in results[0]:
        table.add_column(system, justify="right", no_wrap=True)
    for split, scores in zip(splits, results, strict=True):
        regression = split.kind == "regression"
        best = (max if regression else min)(score.value for score in scores.values())
        cells: list[str] = []
        for value, right, seconds in scores.values():
            shown = f"[bold]{value:.3f}[/bold]" if f"{value:.3f}" == f"{best:.3f}" else f"{value:.3f}"
            share = "" if right is None else f"{100 * right:.1f} % "
            cells.append(f"{shown}\n[dim]{share}{seconds:.1f} s[/dim]")
        table.add_row(f"{split.name}\n[dim]{'R² ↑' if regression else 'log loss ↓'}[/dim]", *cells)
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
    console.print("scratch, finetune and linear-probe (baselines) train the network of reptile")
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
    from ..errors import StoreError
    from ..experience import ModelRecord, RoundRecord, RunRecord

    spent = findings.outcome
    console.print(f"  took {spent.state.step} steps, {spent.seconds:.1f} s")
    steps, seconds, ancestor = 0, 0.0, findings.workspace.prior_id
    while ancestor is not None:  # a prior may itself have been learned from another one
        try:
            model = store.get(ancestor)
        except StoreError:  # erased
            return
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

    kinds = {TaskRecord: "tasks", RunRecord: "runs", EvaluationRecord: "evaluations"}
    counts = ", ".join(f"{len(store.find(kind))} {word}" for kind, word in kinds.items())
    priors = len(store.find(ModelRecord, {"kind": "prior"}))
    console.print(f"\nThe store now remembers {counts}, {priors} priors: see `tasklore lore list`.")
    console.print("Run the demo again, and it starts from there.")
