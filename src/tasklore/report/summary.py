"""The result in words and numbers: which method is best, by how much, and how sure that is."""

import dataclasses
import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UnknownName
from ..experiment import Findings, Row
from ..registry import learners
from ..scores import Score

__all__ = [
    "Cell",
    "Comparison",
    "Method",
    "Overview",
    "Verdict",
    "about",
    "compare",
    "duration",
    "overview",
    "short",
    "written",
]

N_STYLES = 8
"""Colours and markers there are; more methods than that share them."""


@dataclass(frozen=True)
class Method:
    """A line of the comparison, and how it looks wherever it appears.

    Parameters
    ----------
    name : str
    about : str
        One sentence.
    is_baseline : bool
    style : int
        Index of its colour and marker.
    transductive : bool
        Whether the queries of a task influence each other's predictions.
    """

    name: str
    about: str
    is_baseline: bool
    style: int
    transductive: bool


@dataclass(frozen=True)
class Cell:
    """A method with a number of shots."""

    score: Score
    is_best: bool
    seconds_per_task: float


@dataclass(frozen=True)
class Verdict:
    """The best learner against the best baseline, on the same tasks.

    Parameters
    ----------
    shots : int
    learner, baseline : str
        Names; no baseline is empty text.
    score : Score
        Of the learner.
    rival : Score, optional
        Of the baseline.
    gain : Score, optional
        Mean over tasks of how much better the learner is on that very task, negative if it is worse.
    """

    shots: int
    learner: str
    baseline: str
    score: Score
    rival: Score | None
    gain: Score | None

    @property
    def outcome(self) -> str:
        """One of ``ahead``, ``behind`` (the whole interval of the gain says so), ``level``, or ``alone``."""
        if self.gain is None:
            return "alone"
        low, high = self.gain.interval
        return "ahead" if low > 0 else "behind" if high < 0 else "level"

    @property
    def sentence(self) -> str:
        """The comparison with its interval."""
        ours = f"{self.learner} reaches {written(self.score)}"
        if self.gain is None or self.rival is None:
            return f"{ours}; no baseline was run beside it."
        both = f"{ours}, the best baseline ({self.baseline}) {written(self.rival)}"
        if self.score.metric == "accuracy":
            scale, decimals, better, worse = 100.0, 1, "points better", "points worse"
        else:
            scale, decimals, better, worse = 1.0, _decimals(self.gain.half_width), "lower", "higher"
        low, high = (scale * end for end in self.gain.interval)
        if self.outcome == "level":
            interval = f"{low:+.{decimals}f} to {high:+.{decimals}f}".replace("-", "−")
            return f"{both}: no clear difference (95 % interval {interval}, paired by task)."
        if self.outcome == "behind":
            low, high = -high, -low
        difference = (
            f"{scale * abs(self.gain.mean):.{decimals}f} {better if self.outcome == 'ahead' else worse}"
        )
        interval = f"{low:.{decimals}f} to {high:.{decimals}f}"
        return f"{both}: {difference} (95 % interval {interval}, paired by task)."


@dataclass(frozen=True)
class Comparison:
    """The table, and what it says.

    Parameters
    ----------
    metric : str
    methods : tuple of Method
    shots : tuple of int
        Ascending.
    cells : mapping of (method name, shots) to Cell
    verdicts : tuple of Verdict
        One for each number of shots that a learner was tested with.
    n_tasks : int
        Test tasks behind each cell, the fewest.
    per_class : bool
        Whether shots are counted for each class.
    """

    metric: str
    methods: tuple[Method, ...]
    shots: tuple[int, ...]
    cells: dict[tuple[str, int], Cell]
    verdicts: tuple[Verdict, ...]
    n_tasks: int
    per_class: bool

    def style_of(self, name: str) -> int:
        """Return the colour and marker of a method; the first where it is not in the table."""
        return next((method.style for method in self.methods if method.name == name), 0)

    def count(self, shots: int) -> str:
        """Say how many support examples that is."""
        noun = "example" if shots == 1 else "examples"
        return f"{shots} {noun}" + (" per class" if self.per_class else "")

    @property
    def headline(self) -> str:
        """The main result in one sentence: that with the fewest examples, and where else a baseline wins."""
        if not self.verdicts:
            return "Nothing was tested"
        lost = [str(verdict.shots) for verdict in self.verdicts[1:] if verdict.outcome == "behind"]
        if not lost or self.verdicts[0].outcome == "behind":
            return self._main_result
        return f"{self._main_result}; from {' and '.join(lost)}, a baseline wins"

    @property
    def _main_result(self) -> str:
        first = self.verdicts[0]
        start = f"From {self.count(first.shots)}"
        size = short(first.score)
        if first.outcome == "alone" or first.rival is None:
            return f"{start}, {first.learner} reaches {size} on unseen tasks"
        if first.outcome == "ahead":
            return (
                f"{start}, {first.learner} reaches {size} on unseen tasks, {_margin(first)} the best baseline"
            )
        rival = f"{first.baseline} reaches {short(first.rival)}"
        if first.outcome == "behind":
            return f"{start}, a baseline wins: {rival}, {first.learner} {size}"
        return f"{start}, {first.learner} reaches {size}, no clear difference to a baseline: {rival}"


@dataclass(frozen=True)
class Overview:
    """What was run."""

    learner: str
    about: str
    tasks: str
    steps: int
    rounds: int
    n_train_tasks: int
    training_seconds: float
    total_seconds: float
    started_from: str
    best: Score | None


def compare(findings: Findings) -> Comparison:
    """Arrange the rows of the findings as a table and judge them."""
    rows = {(row.evaluation.method, row.shots): row for row in findings.rows}
    shots = tuple(sorted({row.shots for row in findings.rows}))
    of_each = {row.evaluation.method: row for row in findings.rows}
    ordered = sorted(of_each.items(), key=lambda one: one[1].is_baseline)  # learners first
    methods = tuple(
        Method(name, about(name), row.is_baseline, index % N_STYLES, row.evaluation.transductive)
        for index, (name, row) in enumerate(ordered)
    )
    cells: dict[tuple[str, int], Cell] = {}
    for count in shots:
        here = [row for row in findings.rows if row.shots == count]
        best = _best(here)
        for row in here:
            found = row.evaluation
            cells[found.method, count] = Cell(found.score, row is best, found.seconds / len(found.scores))
    verdicts = tuple(
        filter(None, (_judge([row for row in rows.values() if row.shots == n], n) for n in shots))
    )
    return Comparison(
        findings.rows[0].evaluation.metric if findings.rows else "accuracy",
        methods,
        shots,
        cells,
        verdicts,
        min((len(row.evaluation.scores) for row in findings.rows), default=0),
        findings.splits.test.spec.kind == "classification",
    )


def by_source(findings: Findings) -> dict[str, Comparison]:
    """Arrange what each part of a mix by itself came to, part → table."""
    parts = dict.fromkeys(row.source for row in findings.by_source)
    return {
        part: compare(
            dataclasses.replace(findings, rows=tuple(r for r in findings.by_source if r.source == part))
        )
        for part in parts
    }


def overview(findings: Findings) -> Overview:
    """Say what was run, and for how long."""
    state = findings.outcome.state
    name = learners.name_of(type(findings.prior.learner))
    return Overview(
        name,
        about(name),
        findings.name,
        state.step,
        state.round,
        state.step * findings.experiment.train.n_tasks,
        findings.outcome.seconds,
        findings.seconds,
        state.started_from,
        state.best_score,
    )


def duration(seconds: float) -> str:
    """Write a time so that it can be read aloud.

    Examples
    --------
    >>> [duration(s) for s in (0.00042, 0.0314, 0.59, 2.5, 75, 3700)]
    ['0.42 ms', '31 ms', '590 ms', '2.5 s', '1 min 15 s', '1 h 1 min']
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def written(score: Score) -> str:
    """Write a score with as many digits as its interval justifies.

    Examples
    --------
    >>> written(Score("mse", 0.867512, 0.1634, 100)), written(Score("accuracy", 0.9, 0.012, 100))
    ('0.87 ± 0.16', '90.00 ± 1.20 %')
    """
    if score.metric == "accuracy" or not 0 < score.half_width < math.inf:
        return str(score)
    decimals = _decimals(score.half_width)
    return f"{score.mean:.{decimals}f} ± {score.half_width:.{decimals}f}"


def _best(rows: Sequence[Row]) -> Row | None:
    best: Row | None = None
    for row in rows:
        if best is None or row.evaluation.score.beats(best.evaluation.score):
            best = row
    return best


def _judge(rows: Sequence[Row], shots: int) -> Verdict | None:
    learner = _best([row for row in rows if not row.is_baseline])
    baseline = _best([row for row in rows if row.is_baseline])
    if learner is None:
        return None
    ours = learner.evaluation
    if baseline is None:
        return Verdict(shots, ours.method, "", ours.score, None, None)
    theirs = baseline.evaluation
    # Both faced the same episodes, so the difference within each task is free of how hard the task was.
    sign = 1.0 if ours.score.higher_is_better else -1.0
    gains = [sign * (a - b) for a, b in zip(ours.scores, theirs.scores, strict=True)]
    return Verdict(shots, ours.method, theirs.method, ours.score, theirs.score, Score.of(ours.metric, gains))


def _margin(verdict: Verdict) -> str:
    if verdict.gain is None or verdict.rival is None:
        return ""
    if verdict.score.metric == "accuracy":
        return f"{100 * verdict.gain.mean:.1f} points above"
    return (
        f"{verdict.rival.mean / verdict.score.mean:.1f} times lower than"
        if verdict.score.mean > 0
        else "lower than"
    )


def short(score: Score) -> str:
    """Write a mean alone, as in a headline."""
    return (
        f"{100 * score.mean:.1f} %" if score.metric == "accuracy" else f"a squared error of {score.mean:.3g}"
    )


def _decimals(half_width: float) -> int:
    """Return how many decimals show two digits of an interval."""
    return max(0, 1 - math.floor(math.log10(half_width))) if 0 < half_width < math.inf else 3


def about(name: str) -> str:
    """Return the first paragraph of the documentation of a registered learner, as plain words."""
    try:
        text = inspect.getdoc(learners.get(name)) or ""
    except UnknownName:
        return ""
    first = " ".join(text.split("\n\n")[0].split())
    first = re.sub(r" \(:\w+:`[^`]*`\)", "", first)
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`|``([^`]*)``", lambda m: m.group(1) or m.group(2), first)
