# ruff: noqa: N803 - scikit-learn calls the rows X
"""How good a fitted model is on rows that its search never saw, and what it looks at."""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.inspection import permutation_importance

from .estimators import AutoClassifier, AutoRegressor
from .losses import METRICS, Metric, metric_for
from .pipelines import Kind
from .quiet import QUIET

__all__ = ["Bin", "Importance", "Judged", "Model", "TestScore", "calibration", "importance", "judge"]

Model = AutoClassifier | AutoRegressor
N_DRAWS = 200
MOST_DRAWN = 5000  # rows of a draw: more would take long, and an interval is narrow by then
MOST_ROWS = 2000  # that columns are shuffled in
FEW_ROWS = 300
MOST_REPEATS, ENOUGH_REPEATS = 5, 3
ROWS_PER_BIN = 15
MOST_BINS = 10
Z = 1.96  # of a normal distribution, 95 %


@dataclass(frozen=True)
class TestScore:
    """A model's score beside that of predicting always the same.

    Parameters
    ----------
    metric : str
    value : float
    constant : float
        Of the shares of the classes, or of the mean, whatever the row.
    larger_is_better : bool
    """

    __test__ = False  # for pytest: a noun, not a test

    metric: str
    value: float
    constant: float
    larger_is_better: bool


@dataclass(frozen=True, eq=False)
class Judged:
    """What came of predicting rows that were kept aside.

    Parameters
    ----------
    kind : {"classification", "regression"}
    y : ndarray, shape (n,)
        Indices of classes, or numbers.
    outputs : ndarray, shape (n, n_outputs)
        Probabilities, or values.
    scores : tuple of TestScore
        By every metric; the one that the search was asked for comes first.
    interval : tuple of float
        95 % of the first score, from draws of the rows.
    """

    kind: Kind
    y: np.ndarray
    outputs: np.ndarray
    scores: tuple[TestScore, ...]
    interval: tuple[float, float]

    @property
    def beats_constant(self) -> bool:
        """Whether the whole interval is better than predicting always the same."""
        first, (low, high) = self.scores[0], self.interval
        return low > first.constant if first.larger_is_better else high < first.constant


@dataclass(frozen=True)
class Importance:
    """How much worse the score becomes when the values of a column are shuffled.

    Parameters
    ----------
    columns : tuple of str
        Most important first.
    mean, spread : tuple of float
        Over repeats, by the metric; positive means that the column helps.
    n_rows, n_repeats : int
    is_whole : bool
        Whether the model itself was asked, or to save time one of the fold models of each member.
    """

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    n_rows: int
    n_repeats: int
    is_whole: bool


@dataclass(frozen=True)
class Bin:
    """Rows with about the same predicted chance.

    Parameters
    ----------
    predicted, observed : float
        Mean chance, and the share of the rows where it came true.
    low, high : float
        95 % interval of ``observed`` (Wilson).
    n_rows : int
    """

    predicted: float
    observed: float
    low: float
    high: float
    n_rows: int


def judge(model: Model, X: pd.DataFrame, y: np.ndarray, y_searched: np.ndarray) -> Judged:
    """Score a model on rows that its search never saw.

    Parameters
    ----------
    model : AutoClassifier or AutoRegressor
    X : DataFrame, shape (n, n_columns)
    y : ndarray, shape (n,)
        Labels that the search knew, or numbers.
    y_searched : ndarray
        Targets that the search saw.
    """
    outputs, targets = _outputs(model, X), _targets(model, y)
    seen = _targets(model, y_searched)
    if model.kind == "classification":
        constant = np.bincount(seen, minlength=outputs.shape[1]) / len(seen)
    else:
        constant = np.array([seen.mean()])
    always = np.tile(constant, (len(targets), 1))
    asked = metric_for(model.kind, model.metric)
    metrics = [asked, *(metric for metric in METRICS[model.kind].values() if metric is not asked)]
    with QUIET:  # about a rare class that no kept row has
        scores = [
            TestScore(
                metric.name,
                metric.score(targets, outputs, None),
                metric.score(targets, always, None),
                metric.larger_is_better,
            )
            for metric in metrics
        ]
        interval = _interval(asked, targets, outputs)
    return Judged(model.kind, targets, outputs, tuple(scores), interval)


def _interval(metric: Metric, y: np.ndarray, outputs: np.ndarray) -> tuple[float, float]:
    """Return the bootstrap's 2.5 % and 97.5 % points."""
    rng = np.random.default_rng(0)
    n = min(len(y), MOST_DRAWN)
    drawn: list[float] = []
    for _ in range(N_DRAWS):
        rows = rng.integers(len(y), size=n)
        drawn.append(metric.score(y[rows], outputs[rows], None))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def importance(
    model: Model, X: pd.DataFrame, y: np.ndarray, seconds: float = 10.0, random_state: int = 0
) -> Importance | None:
    """Shuffle each column in turn, and see how much worse the score becomes.

    Within about so many ``seconds``: on fewer rows, with fewer repeats, and with one fold model of each
    member of a blend if need be; None if that would still take longer.

    Parameters
    ----------
    model : AutoClassifier or AutoRegressor
    X : DataFrame, shape (n, n_columns)
        Rows that the search did not see.
    y : ndarray, shape (n,)
    seconds : float
    random_state : int
    """
    targets, metric = _targets(model, y), metric_for(model.kind, model.metric)
    order = np.random.default_rng(random_state).permutation(len(X))

    def score(asked: Model, rows: pd.DataFrame, expected: np.ndarray) -> float:
        return -metric.loss(expected, _outputs(asked, rows))

    for asked, most, least in _quicker(model):
        rows = np.sort(order[:most])
        some, expected = X.iloc[rows].reset_index(drop=True), targets[rows]
        started = time.monotonic()
        with QUIET:  # about a rare class that no such row has
            score(asked, some, expected)
            each = max(time.monotonic() - started, 1e-4) * X.shape[1]
            n_repeats = int(min(MOST_REPEATS, seconds // each))
            if n_repeats < least:
                continue
            found: Any = permutation_importance(
                asked, some, expected, scoring=score, n_repeats=n_repeats, random_state=random_state
            )
        best = np.argsort(-found.importances_mean, kind="stable")
        return Importance(
            tuple(str(X.columns[place]) for place in best),
            tuple(found.importances_mean[best].tolist()),
            tuple(found.importances_std[best].tolist()),
            len(rows),
            n_repeats,
            asked is model,
        )
    return None


def _quicker(model: Model) -> Iterator[tuple[Model, int, int]]:
    """Yield ways to ask a model, from thorough to quick: on how many rows, and the fewest repeats."""
    yield model, MOST_ROWS, ENOUGH_REPEATS
    yield model, FEW_ROWS, ENOUGH_REPEATS
    light = copy.copy(model)
    blend = model._blend  # pyright: ignore[reportPrivateUsage]
    members = tuple((weight, candidate, pipelines[:1]) for weight, candidate, pipelines in blend.members)
    light._blend = dataclasses.replace(blend, members=members)  # pyright: ignore[reportPrivateUsage]
    yield light, MOST_ROWS, ENOUGH_REPEATS
    yield light, FEW_ROWS, 1


def calibration(judged: Judged) -> tuple[Bin, ...]:
    """Return whether predicted chances come true.

    Of two classes, the chance of the second; of several, that of the class which was predicted. Bins have
    equal numbers of rows; there are none if there are too few rows for two.
    """
    y, outputs = judged.y, judged.outputs
    if outputs.shape[1] == 2:
        chances, came_true = outputs[:, 1], y == 1
    else:
        chances, came_true = outputs.max(1), outputs.argmax(1) == y
    n_bins = min(MOST_BINS, len(y) // ROWS_PER_BIN)
    if n_bins < 2:
        return ()
    bins: list[Bin] = []
    for rows in np.array_split(np.argsort(chances, kind="stable"), n_bins):
        share = float(came_true[rows].mean())
        low, high = _wilson(share, len(rows))
        bins.append(Bin(float(chances[rows].mean()), share, low, high, len(rows)))
    return tuple(bins)


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of n rows.

    Examples
    --------
    >>> [round(end, 3) for end in _wilson(0.5, 10)]
    [0.237, 0.763]
    """
    scale = 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / scale
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def _outputs(model: Model, X: pd.DataFrame) -> np.ndarray:
    if isinstance(model, AutoClassifier):
        return model.predict_proba(X)
    return model.predict(X)[:, None]


def _targets(model: Model, y: np.ndarray) -> np.ndarray:
    return np.searchsorted(model.classes_, y) if isinstance(model, AutoClassifier) else np.asarray(y, float)
