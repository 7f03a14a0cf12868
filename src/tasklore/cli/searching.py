# ruff: noqa: N806 - scikit-learn calls the rows X
"""`tasklore fit`: the search, a bar while it is under way, and what is told afterwards."""

import dataclasses
import importlib.util
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ..apps.automl.estimators import AutoClassifier, AutoRegressor
from ..apps.automl.judging import Judged, judge
from ..apps.automl.losses import Metric, metric_for
from ..apps.automl.pipelines import Kind
from ..apps.automl.report import METRIC_WORDS, Fitted, duration, written
from ..apps.automl.settings import LONGEST_NAME, seconds_of
from ..apps.automl.trials import Trial
from ..errors import InvalidSetting, MissingDependency
from ..experience import open_store
from .tables import Prepared, telling_warnings

__all__ = ["Asked", "SearchDisplay", "as_json", "conduct", "leaderboard", "score_table", "tell", "tested"]

N_SHOWN = 10  # candidates of the leaderboard


@dataclass(frozen=True)
class Asked:
    """What the command line asked for.

    Parameters
    ----------
    budget : str
    max_evaluations : int, optional
    task : {"classification", "regression"}, optional
    metric, groups : str, optional
    test_size : float
    seed, jobs : int
    """

    budget: str
    max_evaluations: int | None
    task: Kind | None
    metric: str | None
    groups: str | None
    test_size: float
    seed: int
    jobs: int

    @property
    def seconds(self) -> float:
        """The budget."""
        return seconds_of(self.budget)

    def check(self) -> None:
        """Raise, before any work, if the search could not be done or its model not be saved.

        Raises
        ------
        InvalidSetting
            The budget is no time, or there are 0 jobs.
        MissingDependency
            skops is not installed.
        """
        _ = self.seconds
        if self.jobs == 0:
            raise InvalidSetting("--jobs is 0; give a number of processes, or -1 for one for each core")
        if importlib.util.find_spec("skops") is None:
            raise MissingDependency(
                "skops is needed to save models without pickle: pip install 'tasklore[automl]'"
            )

    def command(self, data: str, target: str) -> str:
        """Return the command that does it again, without folders and addresses."""
        limit = ("--budget", self.budget)
        if self.max_evaluations is not None:
            limit = ("--max-evaluations", str(self.max_evaluations))
        words = ["tasklore", "fit", data, "--target", target, *limit]
        if self.task is not None:
            words += ["--task", self.task]
        if self.metric is not None:
            words += ["--metric", self.metric]
        if self.groups is not None:
            words += ["--groups", self.groups]
        return shlex.join([*words, "--test-size", f"{self.test_size:g}", "--seed", str(self.seed)])

    def shown(self) -> dict[str, str]:
        """Return the settings by names for people."""
        evaluations = self.max_evaluations
        return {
            "Budget": self.budget if evaluations is None else f"{evaluations} candidates",
            "Kept aside": f"{100 * self.test_size:g} % of the rows",
            **({} if self.groups is None else {"Kept together": f"rows of one {self.groups}"}),
            "Jobs": "one for each core" if self.jobs == -1 else str(self.jobs),
            "Seed": str(self.seed),
        }


class SearchDisplay(Progress):
    """A bar over the budget, with the candidates tried and the best score so far.

    Parameters
    ----------
    seconds : float
        The budget.
    evaluations : int, optional
        Candidates to try instead.
    metric : Metric
    console : Console
    """

    def __init__(self, seconds: float, evaluations: int | None, metric: Metric, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[spent]}"),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=console.quiet or not console.is_terminal,
        )
        self.seconds, self.evaluations, self.metric = seconds, evaluations, metric
        self.n_tried, self.best = 0, (-1, math.inf, "")
        total = seconds if evaluations is None else evaluations
        self.bar = self.add_task("searching", total=total, spent="", note="")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Draw the bar as it is at this moment."""
        for task in self.tasks:
            elapsed = task.elapsed or 0.0
            if self.evaluations is None:
                task.completed = min(elapsed, self.seconds)
                task.fields["spent"] = f"{elapsed:.0f} of {self.seconds:.0f} s"
            else:
                task.fields["spent"] = f"{elapsed:.0f} s"
        yield from super().get_renderables()

    def watch(self, trial: Trial) -> None:
        """Take note of a candidate that was tried."""
        self.n_tried += 1
        if math.isfinite(trial.score):
            loss = -trial.score if self.metric.larger_is_better else trial.score
            level, least, _ = self.best
            if trial.level > level or (trial.level == level and loss < least):  # on more rows counts more
                self.best = (trial.level, loss, trial.candidate.name)
        note = f"{self.n_tried} candidate{'' if self.n_tried == 1 else 's'}"
        if self.best[2]:
            score = -self.best[1] if self.metric.larger_is_better else self.best[1]
            note += (
                f", best {METRIC_WORDS[self.metric.name]} {written(self.metric.name, score)} ({self.best[2]})"
            )
        self.update(self.bar, note=note)
        if self.evaluations is not None:
            self.update(self.bar, completed=self.n_tried)


def leaderboard(board: pd.DataFrame, metric: str, n: int) -> Table:
    """Return the best candidates as a table.

    Parameters
    ----------
    board : DataFrame
        Best first.
    metric : str
    n : int
    """
    whole: Any = board[board["score"].notna()] if len(board) else board
    title = f"The best {min(n, len(whole))} of {len(board)} candidates, cross-validated"
    table = Table(title=title, title_justify="left")
    for name in ("candidate", METRIC_WORDS[metric], "weight", "rows", "fit"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    for row in whole.head(n).to_dict("records"):
        weight = f"{100 * row['weight']:.0f} %" if row["weight"] else ""
        fit = f"{row['fit_seconds']:.2g} s"
        table.add_row(row["candidate"], written(metric, row["score"]), weight, f"{row['rows']:,}", fit)
    return table


def score_table(judged: Judged) -> Table:
    """Return the scores on the rows kept aside, beside those of predicting always the same."""
    title = f"Test on {len(judged.y):,} rows that the search did not see"
    low, high = (written(judged.scores[0].metric, end) for end in judged.interval)
    caption = f"95 % interval of {METRIC_WORDS[judged.scores[0].metric]}: {low} to {high}"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for name in ("score", "model", "always the same", "better is"):
        table.add_column(name, justify="left" if name == "score" else "right")
    for one in judged.scores:
        table.add_row(
            METRIC_WORDS[one.metric],
            f"[bold]{written(one.metric, one.value)}[/bold]",
            written(one.metric, one.constant),
            "more" if one.larger_is_better else "less",
        )
    return table


def conduct(table: Prepared, asked: Asked, store: str | None, remember: bool, console: Console) -> Fitted:
    """Search for a model, with a bar while it is under way.

    Parameters
    ----------
    table : Prepared
    asked : Asked
    store : str, optional
        Address; the user's own by default.
    remember : bool
    console : Console
    """
    wanted, rows = table.wanted, table.searched
    metric = metric_for(wanted.kind, asked.metric)
    _introduce(table, asked, console)
    display = SearchDisplay(asked.seconds, asked.max_evaluations, metric, console)
    face = AutoClassifier if wanted.kind == "classification" else AutoRegressor
    X, y = table.X.iloc[rows].reset_index(drop=True), wanted.y[rows]
    with telling_warnings(console), open_store(store) as opened:
        model = face(
            asked.budget,
            max_evaluations=asked.max_evaluations,
            metric=asked.metric,
            n_jobs=asked.jobs,
            random_state=asked.seed,
            store=opened,
            remember=remember,
            name=_called(table.name),
            watch=display.watch,
        )
        with display:
            model.fit(X, y, groups=None if table.groups is None else table.groups[rows])
    kept, kept_y = table.X.iloc[table.kept].reset_index(drop=True), wanted.y[table.kept]
    settings = {
        "Searched by": METRIC_WORDS[metric.name],
        **asked.shown(),
        "Remembered": "yes" if remember else "no",
    }
    command = asked.command(table.name, table.target)
    return Fitted(
        model, table.name, table.target, X, y, kept, kept_y, None, wanted.n_left_out, settings, command
    )


def _called(file: str) -> str | None:
    """Return what a table is called after its file, without dots in front and without endings.

    Examples
    --------
    >>> _called("sales.2024.csv.gz"), _called(".hidden.csv"), _called(" .csv")
    ('sales', 'hidden', 'csv')
    """
    file = file.encode(errors="ignore").decode()  # a name that is no UTF-8 cannot be written down
    return file.lstrip(" .").split(".")[0].strip()[:LONGEST_NAME] or None


def _introduce(table: Prepared, asked: Asked, console: Console) -> None:
    """Say what was understood, before the time is spent."""
    wanted, n_kept = table.wanted, len(table.kept)
    other = "regression" if wanted.kind == "classification" else "classification"
    hint = f" (--task {other} if that is wrong)" if asked.task is None and wanted.y.dtype.kind in "if" else ""
    lines = [
        f"{table.name}: {len(table.X):,} rows, {table.X.shape[1]} columns",
        f"{table.target}: {wanted.kind}, {wanted.described}{hint}",
    ]
    if wanted.n_left_out:
        lines.append(f"{wanted.n_left_out:,} rows without {table.target} are left out")
    if table.groups is not None:
        lines.append(f"rows of one {asked.groups} stay together: {len(set(table.groups.tolist())):,} groups")
    if n_kept:
        lines.append(f"{n_kept:,} rows are kept aside for the test")
    elif asked.test_size:
        lines.append("too few rows to keep some aside: there will be no test")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def tested(fitted: Fitted) -> Fitted:
    """Return it judged on the rows that were kept aside, if there are any."""
    if not len(fitted.kept_y):
        return fitted
    judged = judge(fitted.model, fitted.kept, fitted.kept_y, fitted.y)
    return dataclasses.replace(fitted, judged=judged)


def tell(fitted: Fitted, console: Console) -> None:
    """Print what came of it."""
    found, metric = fitted.found, fitted.metric
    console.print()
    if found.trials:
        console.print(leaderboard(fitted.board, metric, N_SHOWN))
    console.print(
        f"{len(found.trials)} candidates in {duration(found.seconds)}; it ended because {found.reason}"
    )
    console.print()
    if fitted.judged is None:
        console.print("No rows were kept aside, so nothing says how good the model is on new ones.")
    else:
        console.print(score_table(fitted.judged))
        console.print(
            f"The saved model is the one tested: it never saw these {len(fitted.kept_y):,} rows. "
            "With --test-size 0 it learns from all.",
            soft_wrap=True,
        )
    console.print()


def as_json(fitted: Fitted) -> dict[str, Any]:
    """Return what came of it as JSON values, with None where there is no number."""
    board, judged, model = fitted.board, fitted.judged, fitted.model
    return {
        "task": model.kind,
        "target": fitted.target,
        "classes": [str(name) for name in model.classes_] if isinstance(model, AutoClassifier) else None,
        "metric": fitted.metric,
        "rows": {"searched": len(fitted.y), "test": len(fitted.kept_y), "left_out": fitted.n_left_out},
        "seconds": fitted.found.seconds,
        "candidates": len(fitted.found.trials),
        "ended": fitted.found.reason,
        "test": None
        if judged is None
        else {
            one.metric: {"score": _number(one.value), "constant": _number(one.constant)}
            for one in judged.scores
        },
        "leaderboard": [
            {str(key): _number(value) if isinstance(value, float) else value for key, value in row.items()}
            for row in board.head(N_SHOWN).to_dict("records")
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
