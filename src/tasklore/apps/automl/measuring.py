"""How good a candidate is on a table: cross-validated losses, predictions, times and memory."""

import dataclasses
import resource
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from .losses import LOSSES
from .pipelines import Candidate, Kind
from .tables import Schema, Table

__all__ = ["Measurement", "Problem", "fit_quietly", "folds_of", "measure", "outputs_of"]


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
    """

    table: Table
    y: np.ndarray
    kind: Kind
    schema: Schema
    n_classes: int

    @classmethod
    def of(cls, X: Any, y: Any, kind: Kind) -> "Problem":  # noqa: N803
        """Look at a table and its target; rows without a target are left out."""
        schema = Schema.of(X)
        table = schema.table(X)
        if kind == "regression":
            targets = np.asarray(y, dtype=np.float64)
            known = np.isfinite(targets)
            rows = np.flatnonzero(known)
            return cls(table.iloc[rows].reset_index(drop=True), targets[rows], kind, schema, 0)
        names, indices = np.unique(np.asarray(y).astype(str), return_inverse=True)
        return cls(table, indices.astype(np.int64), kind, schema, len(names))

    def rows(self, which: np.ndarray) -> "Problem":
        """Return the problem on some rows, with the same columns and classes."""
        table = self.table.iloc[which].reset_index(drop=True)
        return dataclasses.replace(self, table=table, y=self.y[which])

    def sample(self, most: int, random_state: int = 0) -> "Problem":
        """Return at most so many rows, classes in proportion."""
        n = len(self.y)
        if n <= most:
            return self
        rng = np.random.default_rng(random_state)
        order = rng.permutation(n)
        if self.kind == "classification":  # take turns by class, so that none is lost
            order = order[np.argsort(_rank_in_class(self.y[order]) / np.bincount(self.y)[self.y[order]])]
        return self.rows(np.sort(order[:most]))


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
    predictions : ndarray of float32, shape (n, n_outputs)
        Out of fold: probabilities or values; NaN for rows of folds that were not done.
    error : str
        Why it failed; empty if it did not.
    """

    candidate: str
    losses: tuple[float, ...]
    fit_seconds: float
    predict_seconds: float
    megabytes: float
    predictions: np.ndarray
    error: str = ""

    @property
    def loss(self) -> float:
        """The mean over folds; infinite if it failed."""
        return float(np.mean(self.losses)) if self.losses and not self.error else float("inf")


def folds_of(problem: Problem, n_folds: int, random_state: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to fit and rows to judge, for each fold; classes in proportion."""
    if problem.kind == "regression":
        return list(KFold(n_folds, shuffle=True, random_state=random_state).split(problem.y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than folds
        splitter = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
        return list(splitter.split(problem.y, problem.y))


def measure(
    candidate: Candidate,
    problem: Problem,
    folds: list[tuple[np.ndarray, np.ndarray]],
    random_state: int = 0,
    give_up_above: float = float("inf"),
) -> Measurement:
    """Cross-validate a candidate.

    Parameters
    ----------
    candidate : Candidate
    problem : Problem
    folds : list of (rows to fit, rows to judge)
    random_state : int
    give_up_above : float
        Stop before the next fold once the mean loss is larger.
    """
    loss = LOSSES[problem.kind]
    n_outputs = problem.n_classes or 1
    predictions = np.full((len(problem.y), n_outputs), np.nan, dtype=np.float32)
    losses: list[float] = []
    fit_seconds = predict_seconds = 0.0
    error = ""
    for fitted, judged in folds:
        part = problem.rows(fitted)
        started = time.process_time()
        try:
            pipeline = fit_quietly(candidate, part, random_state)
            between = time.process_time()
            found = outputs_of(pipeline, problem.table.iloc[judged], problem)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError, MemoryError, TypeError) as fault:
            error = f"{type(fault).__name__}: {fault}"[:300]
            break
        ended = time.process_time()
        if not np.isfinite(found).all():
            error = "a prediction is not finite"
            break
        predictions[judged] = found
        losses.append(loss(problem.y[judged], found))
        fit_seconds += between - started
        predict_seconds += ended - between
        if np.mean(losses) > give_up_above:
            break
    done = max(1, len(losses))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measurement(
        candidate.name,
        tuple(losses),
        fit_seconds / done,
        predict_seconds / done,
        megabytes,
        predictions,
        error,
    )


def fit_quietly(candidate: Candidate, problem: Problem, random_state: int = 0) -> Any:
    """Return the fitted pipeline.

    Warnings are not shown: they are about one of very many attempts (an optimiser that did not converge, a
    constant feature), and its score says what they would.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = candidate.build(problem.schema, problem.kind, random_state)
        return pipeline.fit(problem.table, problem.y)


def outputs_of(pipeline: Any, table: Table, problem: Problem) -> np.ndarray:
    """Return probabilities of all classes of the problem, or values, float32, shape (n, n_outputs)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if problem.kind == "regression":
            return np.asarray(pipeline.predict(table), dtype=np.float32).reshape(-1, 1)
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
