"""How good a candidate is on a table: cross-validated losses, predictions, times and memory."""

import dataclasses
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from ...errors import InvalidData
from .losses import LOSSES
from .pipelines import Candidate, Kind
from .quiet import QUIET
from .tables import Schema, Table

__all__ = [
    "Folds",
    "Measurement",
    "Problem",
    "bounds_of",
    "fit_quietly",
    "folds_of",
    "measure",
    "outputs_of",
]

ENOUGH_JUDGED = 4000  # rows of a holdout
BEYOND = 0.1  # of the range of targets: how far outside it a prediction is believed
SECONDS_A_CHARACTER = 1e-6  # of a text: words and pairs of them are counted, and reduced to a few numbers
SECONDS_A_LEVEL = 5e-7  # of a cell that is encoded

Folds: TypeAlias = list[tuple[np.ndarray, np.ndarray]]
"""Rows to fit, and rows to judge."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A table to learn, with what is known of it.

    Parameters
    ----------
    table : Table
        Canonical, see :meth:`Schema.table`.
    y : ndarray, shape (n,)
        int64 class indices, or float64 targets.
    kind : {"classification", "regression"}
    schema : Schema
    n_classes : int
        0 for regression.
    weights : ndarray, shape (n,), optional
        How much each row counts, in fitting and in judging.
    groups : ndarray, shape (n,), optional
        Rows of one group are never on both sides of a fold.
    bounds : tuple of float, optional
        Least and largest prediction that is believed, for regression; see :func:`bounds_of`.
    """

    table: Table
    y: np.ndarray
    kind: Kind
    schema: Schema
    n_classes: int
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None
    bounds: tuple[float, float] | None = None

    @classmethod
    def of(cls, X: Any, y: Any, kind: Kind) -> "Problem":  # noqa: N803
        """Look at a table and its target; rows without a target are left out."""
        schema, table = Schema.read(X)
        if kind == "regression":
            targets = np.asarray(y, dtype=np.float64)
            known = np.isfinite(targets)
            rows = np.flatnonzero(known)
            table, targets = table.iloc[rows].reset_index(drop=True), targets[rows]
            return cls(table, targets, kind, schema, 0, bounds=bounds_of(targets))
        names, indices = np.unique(np.asarray(y).astype(str), return_inverse=True)
        return cls(table, indices.astype(np.int64), kind, schema, len(names))

    def suits(self, candidate: Candidate) -> bool:
        """Whether a candidate can take the table: its size, and weights if there are any."""
        if self.weights is not None and not candidate.takes_weights(self.kind):
            return False
        rarest = int(np.bincount(self.y).min()) if self.kind == "classification" else 0
        return candidate.suits(self.schema, len(self.y), self.n_classes, rarest)

    def rows(self, which: np.ndarray) -> "Problem":
        """Return the problem on some rows, with the same columns and classes."""
        table = self.table.iloc[which].reset_index(drop=True)
        weights = None if self.weights is None else self.weights[which]
        groups = None if self.groups is None else self.groups[which]
        return dataclasses.replace(self, table=table, y=self.y[which], weights=weights, groups=groups)

    @property
    def rowless(self) -> "Problem":
        """What is left without rows: what a model's input and output mean."""
        return self.rows(np.arange(0))

    def loss(self, which: np.ndarray, outputs: np.ndarray) -> float:
        """Return the loss of predictions for some rows, see :mod:`.losses`."""
        weights = None if self.weights is None else self.weights[which]
        return LOSSES[self.kind](self.y[which], outputs, weights)

    def trivial(self, folds: "Folds") -> float:
        """Return the cross-validated loss of predicting always the same."""
        losses: list[float] = []
        for fitted, judged in folds:
            y, weights = self.y[fitted], None if self.weights is None else self.weights[fitted]
            if self.kind == "regression":
                constant = np.array([np.average(y, weights=weights)])
            else:
                shares = np.bincount(y, weights, minlength=self.n_classes)
                constant = shares / shares.sum()
            losses.append(self.loss(judged, np.tile(constant, (len(judged), 1))))
        return float(np.mean(losses))

    @property
    def seconds_to_read(self) -> float:
        """About how long it takes to turn texts and categories into numbers."""
        texts = self.schema.of_kind("text")
        characters = sum(int(self.table[name].str.len().sum()) for name in texts)
        n_encoded = len(self.y) * len(self.schema.of_kind("boolean", "category", "date"))
        return SECONDS_A_CHARACTER * characters + SECONDS_A_LEVEL * n_encoded

    def sample(self, most: int, random_state: int = 0) -> "Problem":
        """Return at most so many rows, classes in proportion, and of two groups at least if there are two."""
        n = len(self.y)
        if n <= most:
            return self
        rng = np.random.default_rng(random_state)
        order = rng.permutation(n)
        if self.kind == "classification":  # take turns by class, so that none is lost
            order = order[np.argsort(_rank_in_class(self.y[order]) / np.bincount(self.y)[self.y[order]])]
        chosen = order[:most]
        if self.groups is not None and (self.groups[chosen] == self.groups[chosen[0]]).all():
            others = order[self.groups[order] != self.groups[chosen[0]]][: max(1, most // 5)]
            chosen = np.concatenate([chosen[: most - len(others)], others])
        return self.rows(np.sort(chosen))


@dataclass(frozen=True, eq=False)
class Measurement:
    """What came of trying a candidate.

    Parameters
    ----------
    candidate : str
    losses : tuple of float
        One for each fold that was done; see :mod:`.losses`.
    fit_seconds, predict_seconds : float
        Mean of a fold, in seconds of processor time.
    megabytes : float
        Largest size of the process so far.
    predictions : ndarray, shape (n, n_outputs)
        Out of fold: probabilities or values, the mean where a row was judged several times; NaN for rows that
        never were.
    error : str
        Why it failed; empty if it did not.
    models : tuple
        The fitted pipelines of the folds, if they were asked for.
    seconds : float
        Of wall-clock time, for all folds, until the result was where it is used; not what a process needed
        to start or to be told of the table.
    size : int
        Bytes of all this, models included, as they came from another process; 0 from this one.
    """

    candidate: str
    losses: tuple[float, ...]
    fit_seconds: float
    predict_seconds: float
    megabytes: float
    predictions: np.ndarray
    error: str = ""
    models: tuple[Any, ...] = ()
    seconds: float = 0.0
    size: int = 0

    @property
    def loss(self) -> float:
        """The mean over folds; infinite if it failed."""
        return float(np.mean(self.losses)) if self.losses and not self.error else float("inf")


def folds_of(problem: Problem, n_folds: int, random_state: int = 0, n_repeats: int = 1) -> Folds:
    """Return rows to fit and rows to judge, for each fold of each repetition.

    Classes are in proportion, groups whole. One fold is a holdout of a fifth, of large tables of less, down
    to a twentieth: 4,000 rows tell enough; of few groups it is one of them.

    Raises
    ------
    InvalidData
        There are no two rows of a class, or no two groups.
    """
    y, groups = problem.y, problem.groups
    classes = problem.kind == "classification"
    largest = int(np.bincount(y).max()) if classes else len(y)
    n_folds = min(n_folds, largest)
    n_parts = max(2, min(largest, max(5, min(20, len(y) // ENOUGH_JUDGED)))) if n_folds == 1 else n_folds
    if classes and largest < 2:
        raise InvalidData("every class has one row only; two rows of a class are needed to judge a model")
    with QUIET:  # a class with fewer rows than folds
        if groups is not None:
            folds = [
                fold
                for repeat in range(n_repeats)
                for fold in _folds_of_groups(problem, groups, n_parts, random_state + repeat)
            ]
        else:
            kind = StratifiedKFold if classes else KFold
            splitters = [
                kind(n_parts, shuffle=True, random_state=random_state + repeat) for repeat in range(n_repeats)
            ]
            folds = [pair for splitter in splitters for pair in splitter.split(y, y)]
    return folds[:1] if n_folds == 1 else folds


def _folds_of_groups(problem: Problem, groups: np.ndarray, n_parts: int, random_state: int) -> Folds:
    """Return folds that no group is on both sides of, with rows on either side."""
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise InvalidData("the rows are of one group only; two are needed to judge on other groups")
    n_parts = min(n_parts, n_groups)
    folds: Folds = []
    if problem.kind == "classification":
        splitter = StratifiedGroupKFold(n_parts, shuffle=True, random_state=random_state)
        folds = [fold for fold in splitter.split(problem.y, problem.y, groups) if all(map(len, fold))]
    if not folds:
        splitter = GroupKFold(n_parts, shuffle=True, random_state=random_state)
        folds = list(splitter.split(problem.y, problem.y, groups))
    return folds


def measure(
    candidate: Candidate,
    problem: Problem,
    folds: Folds,
    random_state: int = 0,
    give_up_above: Sequence[float] = (),
    keep_models: bool = False,
    until: float = math.inf,
) -> Measurement:
    """Cross-validate a candidate.

    Parameters
    ----------
    candidate : Candidate
    problem : Problem
    folds : list of (rows to fit, rows to judge)
    random_state : int
    give_up_above : sequence of float
        For each number of folds, the mean loss above which to stop there; to the end if there are fewer.
    keep_models : bool
        Whether to return the fitted pipelines too.
    until : float
        ``time.monotonic()`` from which on no other fold is begun.
    """
    begun = time.monotonic()
    precision = np.float32 if problem.n_classes else np.float64
    total = np.zeros((len(problem.y), problem.n_classes or 1), dtype=precision)
    times = np.zeros((len(problem.y), 1), dtype=np.float32)
    losses: list[float] = []
    models: list[Any] = []
    fit_seconds = predict_seconds = 0.0
    error = ""
    for fitted, judged in folds:
        if losses and time.monotonic() >= until:
            break
        part = problem.rows(fitted)
        started = time.process_time()
        try:
            pipeline = fit_quietly(candidate, part, random_state)
            between = time.process_time()
            found = outputs_of(pipeline, problem.table.iloc[judged], problem)
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is the candidate's
            error = f"{type(fault).__name__}: {fault}"[:300]
            break
        ended = time.process_time()
        if not np.isfinite(found).all():
            error = "a prediction is not finite"
            break
        total[judged] += found
        times[judged] += 1
        losses.append(problem.loss(judged, found))
        if keep_models:
            models.append(pipeline)
        fit_seconds += between - started
        predict_seconds += ended - between
        if len(losses) <= len(give_up_above) and np.mean(losses) > give_up_above[len(losses) - 1]:
            break
    done = max(1, len(losses))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    predictions = np.divide(total, times, out=np.full_like(total, np.nan), where=times > 0)
    return Measurement(
        candidate.name,
        tuple(losses),
        fit_seconds / done,
        predict_seconds / done,
        megabytes,
        predictions,
        error,
        tuple(models),
        time.monotonic() - begun,
    )


def fit_quietly(candidate: Candidate, problem: Problem, random_state: int = 0) -> Any:
    """Return the fitted pipeline.

    Warnings are not shown: they are about one of very many attempts (an optimiser that did not converge, a
    constant feature), and its score says what they would.
    """
    with QUIET:
        pipeline = candidate.build(problem.schema, problem.kind, random_state)
        given = {} if problem.weights is None else {"model__sample_weight": problem.weights}
        return pipeline.fit(problem.table, problem.y, **given)


def bounds_of(y: np.ndarray) -> tuple[float, float]:
    """Return the range of targets and a tenth of it on either side.

    A linear model on a row unlike all others, or the inverse of a logarithm, may predict anything; one such
    row outweighs all others in a squared error.

    Examples
    --------
    >>> bounds_of(np.array([3.0, 0.0, 10.0]))
    (-1.0, 11.0)
    """
    least, largest = float(np.min(y)), float(np.max(y))
    margin = BEYOND * (largest - least)
    return least - margin, largest + margin


def outputs_of(pipeline: Any, table: Table, problem: Problem) -> np.ndarray:
    """Return probabilities of all classes (float32), or values (float64), shape (n, n_outputs).

    Values are kept within the problem's bounds, if it has any; NaN stays NaN.
    """
    with QUIET:
        if problem.kind == "regression":
            values = np.asarray(pipeline.predict(table), dtype=np.float64).reshape(-1, 1)
            return values if problem.bounds is None else np.clip(values, *problem.bounds)
        found = np.zeros((len(table), problem.n_classes), dtype=np.float32)
        found[:, pipeline.classes_] = pipeline.predict_proba(table)  # a fold may lack a rare class
    return found


def _rank_in_class(y: np.ndarray) -> np.ndarray:
    """Return how many rows of the same class stand before each."""
    order = np.argsort(y, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(y))])[:-1]
    ranks = np.empty(len(y), dtype=np.int64)
    ranks[order] = np.arange(len(y)) - starts[y[order]]
    return ranks
