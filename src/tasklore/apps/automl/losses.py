"""What AutoML lowers: log loss for classes, the unexplained share of the variance for numbers.

And what a user may want instead: the metrics that scikit-learn knows by these names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from ...errors import InvalidSetting

__all__ = ["LEAST", "LOSSES", "METRICS", "Metric", "drawn_in", "log_loss", "metric_for", "one_minus_r2"]

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


def drawn_in(y: np.ndarray, *values: np.ndarray, reach: float = 2.0) -> list[np.ndarray]:
    """Return values between the limits beyond which only the targets of heavy tails lie.

    These are ``reach`` times the distance of the 5th and the 95th percentile of the targets ``y`` beyond
    those. Nothing is drawn in where most targets are the same, as many zeros: the others are what matters
    then.
    """
    low, high = np.quantile(y, [0.05, 0.95])
    beyond = reach * (high - low) if high > low else np.inf
    return [np.clip(each, low - beyond, high + beyond) for each in values]


LOSSES: Mapping[str, Callable[..., float]] = {
    "classification": log_loss,
    "regression": one_minus_r2,
}


@dataclass(frozen=True)
class Metric:
    """How good predictions are, in the unit that people ask for.

    Parameters
    ----------
    name : str
    score : callable (y, outputs, weights) -> float
        ``y`` and ``outputs`` as for the losses; ``weights`` of rows, or None.
    larger_is_better : bool
    is_default : bool
        Whether it orders predictions as the loss does.
    """

    name: str
    score: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]
    larger_is_better: bool = True
    is_default: bool = False

    def loss(self, y: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None = None) -> float:
        """Return the score, or its negative: less is better."""
        return self.as_loss(self.score(y, outputs, weights))

    def as_loss(self, score: float) -> float:
        """Turn a score round where more is better."""
        return -score if self.larger_is_better else score


def _accuracy(y: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None) -> float:
    return float(np.average(outputs.argmax(1) == y, weights=weights))


def _balanced(y: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None) -> float:
    return float(balanced_accuracy_score(y, outputs.argmax(1), sample_weight=weights))


def _roc_auc(y: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None) -> float:
    """Return the area under the curve; of several classes the mean, each against the rest."""
    present = np.unique(y)
    if len(present) < 2:
        return 0.5
    judged = present[1:] if outputs.shape[1] == 2 else present
    weights = np.ones(len(y)) if weights is None else weights
    return float(np.mean([_area(y == label, outputs[:, label], weights) for label in judged]))


def _area(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of pairs that a score orders well, by one sort: many times as quick as a curve."""
    order = np.argsort(score)
    score, of_positive = score[order], (weights * positive)[order]
    of_negative = weights[order] - of_positive
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])  # equal ones are half in order
    of_positive, of_negative = (np.add.reduceat(each, starts) for each in (of_positive, of_negative))
    below = np.cumsum(of_negative) - of_negative
    pairs = of_positive.sum() * of_negative.sum()
    return float(of_positive @ (below + 0.5 * of_negative)) / pairs if pairs else 0.5


def _r2(y: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None) -> float:
    return 1 - one_minus_r2(y, outputs, weights)


def _absolute(y: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None) -> float:
    return float(np.average(np.abs(y - outputs.reshape(len(y))), weights=weights))


def _root_mean_square(y: np.ndarray, outputs: np.ndarray, weights: np.ndarray | None) -> float:
    return float(np.sqrt(np.average((y - outputs.reshape(len(y))) ** 2, weights=weights)))


METRICS: Mapping[str, Mapping[str, Metric]] = {
    kind: {metric.name: metric for metric in metrics}
    for kind, metrics in {
        "classification": (
            Metric("log_loss", log_loss, larger_is_better=False, is_default=True),
            Metric("accuracy", _accuracy),
            Metric("balanced_accuracy", _balanced),
            Metric("roc_auc", _roc_auc),
        ),
        "regression": (
            Metric("r2", _r2, is_default=True),
            Metric("mean_absolute_error", _absolute, larger_is_better=False),
            Metric("root_mean_squared_error", _root_mean_square, larger_is_better=False),
        ),
    }.items()
}
"""By kind of task and name."""


def metric_for(kind: str, name: str | None = None) -> Metric:
    """Return a metric by its name; by default the one that orders predictions as the loss does.

    Raises
    ------
    InvalidSetting
        There is no such metric for this kind of task.
    """
    known = METRICS[kind]
    if name is None:
        return next(metric for metric in known.values() if metric.is_default)
    if name not in known:
        raise InvalidSetting(f"metric is {name!r}; for {kind} there are {', '.join(known)}")
    return known[name]
