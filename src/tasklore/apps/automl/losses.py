"""What AutoML lowers: log loss for classes, the unexplained share of the variance for numbers."""

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["LEAST", "LOSSES", "log_loss", "one_minus_r2"]

LEAST = 1e-6  # no class is ruled out altogether: one row must not decide everything


def log_loss(y: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the mean of ``-log p(y)`` in nats, with p at least 1e-6.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
    probabilities : ndarray, shape (n, n_classes)
    weights : ndarray, shape (n,), optional
    """
    chances = np.clip(np.asarray(probabilities, dtype=np.float64), LEAST, 1.0)
    chances /= chances.sum(1, keepdims=True)
    return float(np.average(-np.log(chances[np.arange(len(y)), y]), weights=weights))


def one_minus_r2(y: np.ndarray, prediction: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the squared error over that of the mean: 0 is perfect, 1 as good as knowing only the mean.

    Parameters
    ----------
    y : ndarray, shape (n,)
    prediction : ndarray, shape (n,) or (n, 1)
    weights : ndarray, shape (n,), optional
    """
    y = np.asarray(y, dtype=np.float64)
    error = np.average((y - np.asarray(prediction, dtype=np.float64).reshape(len(y))) ** 2, weights=weights)
    spread = np.average((y - np.average(y, weights=weights)) ** 2, weights=weights)
    return float(error / spread) if spread > 0 else float(error > 0)


LOSSES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "classification": log_loss,
    "regression": one_minus_r2,
}
