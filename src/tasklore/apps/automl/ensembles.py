"""Blend what was tried: greedy selection over out-of-fold predictions.

Models are added one at a time, with replacement, each time the one that lowers the loss of the mean
prediction most. On few rows such a choice fits chance, so it is made among the best models only, it is
repeated on halves of the rows and averaged, and the best single model is taken where the blend is no better.
"""

from collections.abc import Sequence

import numpy as np

from ...errors import InvalidData
from .losses import LEAST, LOSSES
from .pipelines import Kind

__all__ = ["select"]


def select(
    predictions: np.ndarray,
    y: np.ndarray,
    kind: Kind,
    *,
    n_steps: int = 30,
    n_bags: int = 5,
    n_nearest: int = 20,
    random_state: int = 0,
) -> np.ndarray:
    """Return the weight of each model, not negative, with sum 1.

    Parameters
    ----------
    predictions : ndarray, shape (n_models, n_rows, n_outputs)
        Out of fold: probabilities of all classes, or values with ``n_outputs`` = 1. A model with a NaN gets
        no weight.
    y : ndarray, shape (n_rows,)
        int64 class indices, or float64 targets.
    kind : {"classification", "regression"}
    n_steps : int
        Models that are added, the same one several times perhaps.
    n_bags : int
        Halves of the rows that the choice is repeated on; fewer than 2 uses all rows once.
    n_nearest : int
        Only so many of the best models are candidates.
    random_state : int

    Raises
    ------
    InvalidData
        No model has whole predictions.

    References
    ----------
    Caruana, Niculescu-Mizil, Crew, Ksikes: Ensemble Selection from Libraries of Models, ICML 2004, sections
    2.1 to 2.3.
    """
    whole = np.flatnonzero(np.isfinite(predictions).all((1, 2)))
    if len(whole) == 0:
        raise InvalidData("no model has a prediction for every row; nothing can be blended")
    single = np.array([LOSSES[kind](y, predictions[model]) for model in whole])
    nearest = whole[np.argsort(single, kind="stable")[:n_nearest]]
    pool = np.asarray(predictions[nearest], dtype=np.float64)
    rng = np.random.default_rng(random_state)
    n_rows = len(y)
    bags: Sequence[np.ndarray] = [
        np.sort(rng.permutation(n_rows)[: max(1, n_rows // 2)]) for _ in range(n_bags)
    ]
    if n_bags < 2:
        bags = [np.arange(n_rows)]
    counts = sum(_greedy(pool[:, rows], y[rows], kind, n_steps) for rows in bags)
    weights = np.zeros(len(predictions))
    weights[nearest] = counts / np.sum(counts)
    # What the blend gains must exceed what chance gives on so many rows; else the best model stays alone.
    blend = np.tensordot(weights, np.nan_to_num(predictions), 1)
    if LOSSES[kind](y, blend) >= single.min():
        weights[:] = 0.0
        weights[nearest[0]] = 1.0
    return weights


def _greedy(pool: np.ndarray, y: np.ndarray, kind: Kind, n_steps: int) -> np.ndarray:
    """Return how often each model of a pool, sorted by its loss, is chosen."""
    if kind == "classification":
        pool = np.take_along_axis(pool, np.broadcast_to(y[:, None], (len(pool), len(y), 1)), 2)
    pool = pool[..., 0]  # (models, rows): what the true class was given, or the value
    counts = np.zeros(len(pool))
    total = np.zeros(pool.shape[1])
    for step in range(n_steps):
        mean = (total + pool) / (step + 1)
        if kind == "classification":
            loss = -np.log(np.clip(mean, LEAST, 1.0)).mean(1)
        else:
            loss = ((mean - y) ** 2).mean(1)
        best = int(loss.argmin())
        counts[best] += 1
        total += pool[best]
    return counts
