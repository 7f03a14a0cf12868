"""Blend what was tried: greedy selection over out-of-fold predictions.

Models are added one at a time, with replacement, each time the one that lowers the loss of the mean
prediction most. On few rows such a choice fits chance, so it is made among the best models only, it is
repeated on halves of the rows and averaged, a part of the weight goes to the best models by rank alone, and
the best single model is taken where the blend is no better. Targets far out in a tail are drawn in first:
else a few rows decide everything.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import InvalidData
from .losses import LEAST, LOSSES, Metric, drawn_in
from .pipelines import Kind

__all__ = ["select"]

MOST_RANKED = 10  # models that get weight for their rank; a quarter of them if there are fewer than forty
METRIC_CELLS = 10_000  # that a metric which is not the loss is computed on in each step, which costs more
FEWEST_ROWS = 1000  # of them
BAGGED_ROWS = 100_000  # of all bags together


def select(  # noqa: PLR0913 - settings of one step
    predictions: np.ndarray,
    y: np.ndarray,
    kind: Kind,
    *,
    n_steps: int = 15,
    n_bags: int = 20,
    n_nearest: int = 20,
    by_rank: float = 0.2,
    reach: float = 2.0,
    metric: Metric | None = None,
    row_weights: np.ndarray | None = None,
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
        Halves of the rows that the choice is repeated on, from 5,000 rows on fewer of them, but five at
        least; fewer than 2 uses all rows once, and gives nothing for ranks.
    n_nearest : int
        Only so many of the best models are candidates.
    by_rank : float
        Share of the weight that the best models get for their rank alone, falling from the first on.
    reach : float
        In regression by the loss, targets and predictions are drawn in to so many times the distance of the
        5th and the 95th percentile of the targets beyond these; infinity draws none in.
    metric : Metric, optional
        What to choose by, instead of the loss.
    row_weights : ndarray, shape (n_rows,), optional
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
    by_loss = metric is None or metric.is_default
    loss = LOSSES[kind] if metric is None or metric.is_default else metric.loss
    if by_loss and kind == "regression":
        y, predictions = drawn_in(y, y, predictions, reach=reach)
    if not by_loss:
        n_bags = 0  # each step costs more
    single = np.array([loss(y, predictions[model], row_weights) for model in whole])
    nearest = whole[np.argsort(single, kind="stable")[:n_nearest]]
    pool = np.asarray(predictions[nearest], dtype=np.float64)
    rng = np.random.default_rng(random_state)
    n_rows = len(y)
    n_bags = min(n_bags, max(5, BAGGED_ROWS // n_rows))
    bags: Sequence[np.ndarray] = [
        np.sort(rng.permutation(n_rows)[: max(1, n_rows // 2)]) for _ in range(n_bags)
    ]
    if n_bags < 2:
        most = max(FEWEST_ROWS, METRIC_CELLS // max(2, predictions.shape[2]))
        bags = [np.arange(n_rows) if by_loss else np.sort(rng.permutation(n_rows)[:most])]
    counts = np.zeros(len(pool))
    for rows in bags:
        some = None if row_weights is None else row_weights[rows]
        if by_loss:
            counts += _greedy(pool[:, rows], y[rows], kind, n_steps, some)
        else:
            counts += _greedy_by(pool[:, rows], y[rows], loss, n_steps, some)
    weights = np.zeros(len(predictions))
    weights[nearest] = counts / np.sum(counts)
    if n_bags >= 2:
        falling = np.arange(min(MOST_RANKED, -(-len(whole) // 4)), 0, -1.0)
        weights *= 1 - by_rank
        weights[nearest[: len(falling)]] += by_rank * falling / falling.sum()
    # What the blend gains must exceed what chance gives on so many rows; else the best model stays alone.
    blend = np.tensordot(weights, np.nan_to_num(predictions), 1)
    if loss(y, blend, row_weights) >= single.min():
        weights[:] = 0.0
        weights[nearest[0]] = 1.0
    return weights


def _greedy_by(
    pool: np.ndarray,
    y: np.ndarray,
    loss: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float],
    n_steps: int,
    weights: np.ndarray | None,
) -> np.ndarray:
    """Do what :func:`_greedy` does for any loss."""
    counts, total = np.zeros(len(pool)), np.zeros(pool.shape[1:])
    for step in range(n_steps):
        losses = [loss(y, (total + model) / (step + 1), weights) for model in pool]
        best = int(np.argmin(losses))
        counts[best] += 1
        total += pool[best]
    return counts


def _greedy(
    pool: np.ndarray, y: np.ndarray, kind: Kind, n_steps: int, weights: np.ndarray | None
) -> np.ndarray:
    """Return how often each model of a pool, sorted by its loss, is chosen."""
    if kind == "classification":
        pool = np.take_along_axis(pool, np.broadcast_to(y[:, None], (len(pool), len(y), 1)), 2)
    pool = pool[..., 0]  # (models, rows): what the true class was given, or the value
    counts = np.zeros(len(pool))
    total = np.zeros(pool.shape[1])
    for step in range(n_steps):
        mean = (total + pool) / (step + 1)
        if kind == "classification":
            loss = np.average(-np.log(np.clip(mean, LEAST, 1.0)), axis=1, weights=weights)
        else:
            loss = np.average((mean - y) ** 2, axis=1, weights=weights)
        best = int(loss.argmin())
        counts[best] += 1
        total += pool[best]
    return counts
