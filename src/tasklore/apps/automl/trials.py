"""The nouns of a search: what it may spend, what it tried, what it found."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InvalidSetting
from .calibrating import Calibration
from .losses import Metric
from .measuring import Folds, Measurement, Problem, fit_quietly, outputs_of
from .pipelines import Candidate, Features
from .tables import Table

__all__ = ["Blend", "Budget", "Design", "Found", "Trial", "growth"]

QUICK_CELLS = 250_000  # numbers that the first model sees: a tree fits so many in 0.2 s
QUICK_KINDS = ("boolean", "category", "date")  # of columns that it sees besides, the first of them
QUICK_OTHERS, OTHER_CELLS = 20, 5  # so many at most, each of which takes as long as so many of numbers
CONSTANT = Candidate("constant", "constant", {}, Features())


@dataclass(frozen=True)
class Budget:
    """What a search may spend.

    Parameters
    ----------
    seconds : float, optional
        Of wall-clock time, all included.
    evaluations : int, optional
        Candidates to try. Without ``seconds`` the search is reproducible: no measured time decides anything.
    n_jobs : int
        Candidates tried at the same time.
    memory : int, optional
        Megabytes for these processes together; 80 % of what is free by default.
    random_state : int
    """

    seconds: float | None = 60.0
    evaluations: int | None = None
    n_jobs: int = 1
    memory: int | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.seconds is None and self.evaluations is None:
            raise InvalidSetting("a budget is needed: seconds, or a number of evaluations")
        if self.seconds is not None and not self.seconds > 0:
            raise InvalidSetting(f"the budget must be more than 0 seconds, got {self.seconds!r}")
        if self.evaluations is not None and self.evaluations < 1:
            raise InvalidSetting(f"at least 1 evaluation is needed, got {self.evaluations!r}")


@dataclass(frozen=True, eq=False)
class Design:
    """On which rows and folds candidates are tried.

    Parameters
    ----------
    problem : Problem
    folds : list of (rows to fit, rows to judge)
    trivial : float
        The loss of predicting always the same.
    judges : bool
        Whether rows are judged that were not fitted to; if not, only the models are of use.
    """

    problem: Problem
    folds: Folds
    trivial: float
    judges: bool = True

    @property
    def n_rows(self) -> int:
        """Rows that are used."""
        return len(self.problem.y)


@dataclass(frozen=True, eq=False)
class Trial:
    """One candidate, tried.

    Parameters
    ----------
    index : int
        How many were begun before it.
    candidate : Candidate
    measured : Measurement
    level : int
        0 for the first design, higher ones have more rows.
    n_rows : int
    at : float
        Seconds after the start at which it was done.
    score : float
        By the metric that was asked for, over all rows judged; NaN if it was not finished.
    """

    index: int
    candidate: Candidate
    measured: Measurement
    level: int
    n_rows: int
    at: float
    score: float

    @property
    def whole(self) -> bool:
        """Whether all folds were done."""
        return math.isfinite(self.score)

    def bare(self) -> "Trial":
        """Return it without models and predictions, which take memory."""
        nothing = np.empty((0, 0), np.float32)
        return dataclasses.replace(
            self, measured=dataclasses.replace(self.measured, models=(), predictions=nothing)
        )


@dataclass(frozen=True, eq=False)
class Blend:
    """Models whose weighted mean is the prediction.

    Parameters
    ----------
    problem : Problem
        Without rows: what the outputs mean.
    members : tuple of (weight, candidate, fitted pipelines)
        The pipelines of a member count alike; one that stands there twice counts twice.
    calibration : Calibration
        What is done to the mean.
    """

    problem: Problem
    members: tuple[tuple[float, Candidate, tuple[Any, ...]], ...]
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def constant(cls, problem: Problem) -> "Blend":
        """Return what predicts always the same."""
        return cls(problem.rowless, ((1.0, CONSTANT, (fit_quietly(CONSTANT, problem),)),))

    @classmethod
    def first(cls, problem: Problem, random_state: int) -> "Blend":
        """Return a small tree, fitted to some rows, so that there is something whatever happens."""
        seen = [column for column in problem.schema.columns if column.kind == "number"]
        seen += [column for column in problem.schema.columns if column.kind in QUICK_KINDS][:QUICK_OTHERS]
        n_others = sum(column.kind != "number" for column in seen)
        cells = max(1, len(seen) + (OTHER_CELLS - 1) * n_others)
        few = problem.sample(max(200, QUICK_CELLS // cells), random_state)
        if seen:
            few = dataclasses.replace(few, schema=dataclasses.replace(few.schema, columns=tuple(seen)))
        always = dataclasses.replace(cls.constant(few), problem=problem.rowless)
        if not seen:
            return always
        leaf = max(5, len(few.y) // 50)
        quick = Candidate("first", "tree", {"max_depth": 6, "min_samples_leaf": leaf}, Features())
        try:
            pipeline = fit_quietly(quick, few, random_state)
            outputs_of(pipeline, few.table.iloc[:1], few)
        except (ValueError, ArithmeticError, MemoryError, TypeError):
            return always
        ((_, constant, fitted),) = always.members
        return dataclasses.replace(always, members=((0.8, quick, (pipeline,)), (0.2, constant, fitted)))

    def outputs(self, table: Table) -> np.ndarray:
        """Return probabilities or values, float64, shape (n, n_outputs)."""
        total = np.zeros((len(table), self.problem.n_classes or 1))
        for weight, _, pipelines in self.members:
            for pipeline in {id(pipeline): pipeline for pipeline in pipelines}.values():
                share = sum(one is pipeline for one in pipelines) / len(pipelines)
                total += weight * share * outputs_of(pipeline, table, self.problem)
        outputs, bounds = self.calibration(total), self.problem.bounds
        return outputs if bounds is None else np.clip(outputs, *bounds)

    def refitted(self, problem: Problem, random_state: int) -> "Blend":
        """Return the same blend with each member fitted once, to all rows of a problem."""
        members = tuple(
            (weight, candidate, (fit_quietly(candidate.sized(fitted), problem, random_state),))
            for weight, candidate, fitted in self.members
        )
        meaning = dataclasses.replace(self.problem, bounds=problem.bounds)
        return dataclasses.replace(self, problem=meaning, members=members)


def growth(rows: int, described: int) -> float:
    """Return how many times as long fitting takes on so many rows; some of it does not depend on them."""
    return max(0.2, rows / described)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ended with.

    Parameters
    ----------
    blend : Blend
    trials : tuple of Trial
        In the order in which they ended.
    curve : tuple of (seconds, loss)
        The loss of the best single candidate so far, as a share of the trivial loss.
    described : mapping
        The table's descriptors.
    level : int
        The design that the blend was chosen on.
    trivial : float
        The loss of predicting always the same, on the first design.
    loss : float
        Cross-validated, of the blend; slightly too good, as the blend was chosen on it. NaN if nothing but
        the first quick model was finished.
    metric : Metric
        What it was chosen by.
    reason : str
        Why the search ended.
    seconds : float
    first_model : float
        Seconds after which there was a first model.
    n_described : int
        Rows that the table was described by.
    """

    blend: Blend
    trials: tuple[Trial, ...]
    curve: tuple[tuple[float, float], ...]
    described: Mapping[str, float]
    level: int
    trivial: float
    loss: float
    metric: Metric
    reason: str
    seconds: float
    first_model: float
    n_described: int

    def seconds_of(self, trial: Trial) -> float:
        """Return what fitting a candidate to the rows that were described takes, as past tables tell it."""
        return trial.measured.fit_seconds / growth(trial.n_rows, self.n_described)
