"""The result in words and numbers: which method is best, by how much, and how sure that is."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UnknownName
from ..experiment import Findings, Row
from ..registry import learners
from ..scores import Score

__all__ = ["Cell", "Comparison", "Method", "Overview", "Verdict", "compare", "duration", "overview"]

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
    """

    name: str
    about: str
    is_baseline: bool
    style: int


@dataclass(frozen=True)
class Cell:
    """A method with a number of shots."""

    score: Score
    is_best: bool
    seconds_per_task: float

    @property
    def text(self) -> str:
        """The mean and its interval."""
        return str(self.score)


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
        """``"ahead"`` or ``"behind"`` if the whole interval of the gain says so, ``"level"`` else, ``"alone"`` without a rival."""
        if self.gain is None:
            return "alone"
        low, high = self.gain.interval
        return "ahead" if low > 0 else "behind" if high < 0 else "level"

    @property
    def sentence(self) -> str:
        """The comparison with its interval."""
        if self.gain is None or self.rival is None:
            return f"{self.learner} reaches {self.score}; no baseline was run beside it."
        low, high = self.gain.interval
        scale, unit = (100.0, "points") if self.score.metric == "accuracy" else (1.0, "less squared error")
        by = f"{scale * abs(self.gain.mean):.3g} {unit}"
        interval = f"95 % interval {_signed(scale * low)} to {_signed(scale * high)}"
        if self.outcome == "level":
            return (
                f"{self.learner} ({self.score}) and the best baseline, {self.baseline} ({self.rival}), cannot be told apart: "
                f"the difference is {_signed(scale * self.gain.mean)} ({interval})."
            )
        first, second = (self.learner, "the best baseline, " + self.baseline)
        if self.outcome == "behind":
            first, second = f"the baseline {self.baseline}", self.learner
            ours, theirs = self.rival, self.score
            interval = f"95 % interval {_signed(-scale * high)} to {_signed(-scale * low)}"
        else:
            ours, theirs = self.score, self.rival
        verb = f"{by} more than" if self.score.metric == "accuracy" else f"{by} than"
        return f"{first} reaches {ours}, {verb} {second} ({theirs}); {interval}, task by task."


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

    def count(self, shots: int) -> str:
        """Say how many support examples that is."""
        noun = "example" if shots == 1 else "examples"
        return f"{shots} {noun}" + (" per class" if self.per_class else "")

    @property
    def headline(self) -> str:
        """The main result in one sentence: that with the fewest examples, and whether more examples change it."""
        if not self.verdicts:
            return "Nothing was tested"
        first = self.verdicts[0]
        start = f"From {self.count(first.shots)}"
        size = _short(first.score)
        if first.outcome == "alone" or first.rival is None:
            return f"{start}, {first.learner} reaches {size} on unseen tasks"
        if first.outcome == "ahead":
            return (
                f"{start}, {first.learner} reaches {size} on unseen tasks, {_margin(first)} the best baseline"
            )
        if first.outcome == "behind":
            return f"{start}, a baseline wins: {first.baseline} reaches {_short(first.rival)}, {first.learner} {size}"
        return f"{start}, {first.learner} is no better than the baseline {first.baseline}: {size} against {_short(first.rival)}"


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
    baseline = {row.evaluation.method: row.is_baseline for row in findings.rows}
    names = sorted(baseline, key=lambda name: baseline[name])  # learners first, else in their own order
    methods = tuple(
        Method(name, _about(name), baseline[name], index % N_STYLES) for index, name in enumerate(names)
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


def overview(findings: Findings) -> Overview:
    """Say what was run, and for how long."""
    state = findings.outcome.state
    name = learners.name_of(type(findings.prior.learner))
    return Overview(
        name,
        _about(name),
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
    >>> [duration(s) for s in (0.00042, 0.0314, 2.5, 75, 3700)]
    ['0.42 ms', '31 ms', '2.5 s', '1 min 15 s', '1 h 2 min']
    """
    if seconds < 1:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


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


def _short(score: Score) -> str:
    return (
        f"{100 * score.mean:.1f} %" if score.metric == "accuracy" else f"a squared error of {score.mean:.3g}"
    )


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _about(name: str) -> str:
    """Return the first paragraph of the documentation of a registered learner, as plain words."""
    try:
        text = inspect.getdoc(learners.get(name)) or ""
    except UnknownName:
        return ""
    first = " ".join(text.split("\n\n")[0].split())
    first = re.sub(r" \(:\w+:`[^`]*`\)", "", first)
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`|``([^`]*)``", lambda m: m.group(1) or m.group(2), first)
