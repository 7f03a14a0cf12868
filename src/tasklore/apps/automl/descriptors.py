"""What a table is like, in some forty numbers, to find past data sets that it resembles.

Sizes and kinds of columns, shapes of distributions, how much single columns tell of the target, and
*landmarkers*: how well very simple models do. All are finite, whatever the table; where a number cannot be
had (the skewness of no column), it is 0. Large tables are described by a sample of their rows.

References
----------
- Pfahringer, Bensusan, Giraud-Carrier: Meta-Learning by Landmarking Various Learning Algorithms, ICML 2000.
- Rivolli, Garcia, Soares, Vanschoren, de Carvalho: Meta-features for meta-learning, Knowledge-Based Systems
  240 (2022), sections 3 and 4.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from ...errors import InvalidData
from .pipelines import Kind
from .quiet import QUIET
from .tables import ColumnKind, Schema, Table

__all__ = ["NAMES", "describe"]

COMMON = (
    *("rows", "columns", "rows_per_column"),
    *("numbers", "categories", "booleans", "dates", "texts", "constants", "missing", "gappy_columns"),
    *("levels_mean", "levels_max", "few_values", "zeros", "outliers"),
    *("skewness_mean", "skewness_median", "skewness_max"),
    *("kurtosis_mean", "kurtosis_median", "kurtosis_max"),
    *("correlation_mean", "dimensions"),
    *("information_mean", "information_max", "information_top"),
)
LANDMARKS = ("nearest_neighbour", "neighbours", "linear", "stump", "tree")
NAMES: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "classification": (
            *COMMON,
            *("classes", "class_entropy", "class_imbalance", "rarest_class"),
            *LANDMARKS,
            "naive_bayes",
        ),
        "regression": (
            *COMMON,
            *("target_skewness", "target_kurtosis", "target_outliers", "target_distinct"),
            *("target_positive", "target_log_skewness"),
            *LANDMARKS,
        ),
    }
)
"""The descriptors of each kind of task, in the order in which :func:`describe` gives them."""

SAMPLED_ROWS = 1000
LANDMARK_ROWS = 500
MOST_COLUMNS = 100  # that distributions and landmarkers look at; of more, a sample
N_BINS = 8
N_FOLDS = 3
N_NEIGHBOURS = 10
FAR = 5.0  # numbers further from the median, in interquartile ranges, are cut here for landmarkers
FEW = 10


def describe(
    table: Table, y: np.ndarray, kind: Kind, schema: Schema, random_state: int = 0
) -> dict[str, float]:
    """Return the descriptors of a table.

    Parameters
    ----------
    table : Table
        Canonical, see :meth:`.tables.Schema.table`.
    y : ndarray, shape (n_rows,)
        Class indices, or finite targets.
    kind : {"classification", "regression"}
    schema : Schema
        Of this table.
    random_state : int
        Draws the rows that are looked at, if there are more than 1,000 (500 for landmarkers), the columns, if
        there are more than 100, and the folds.

    Returns
    -------
    dict of str to float
        ``NAMES[kind]``, in this order, all finite. Counts, skewness, kurtosis and imbalance are logarithms
        (``log(1 + x)``); shares, correlations and information (as a share of the target's entropy) lie in
        0…1; a landmarker is 0 for what always predicts the same, 1 for a faultless model, and at least -1.

    Raises
    ------
    InvalidData
        There are no rows, lengths differ, or a target is not finite.
    """
    y = np.asarray(y)
    if len(table) == 0 or len(table) != len(y):
        raise InvalidData(
            f"the table has {len(table)} rows and y {len(y)}; equally many are needed, one at least"
        )
    if not np.isfinite(y).all():
        raise InvalidData("a target is missing or infinite; leave out such rows first")
    rng = np.random.default_rng(random_state)
    rows = _draw(rng, len(y), SAMPLED_ROWS)
    seen = _look(table, rows, schema, rng)
    found = _sizes(schema, len(y)) | _distributions(seen)
    if kind == "classification":
        classes = np.unique(y, return_inverse=True)[1]
        found |= _information(seen, classes[rows]) | _class_shares(np.bincount(classes))
        target: np.ndarray = classes
    else:
        target = y.astype(np.float64)
        target /= max(float(np.abs(target).max()), 1e-300)  # squares of anything stay finite
        found |= _information(seen, _codes(target[rows, None])[:, 0]) | _target_shape(target)
    few = _draw(rng, len(rows), LANDMARK_ROWS)
    found |= _landmarks(_matrix(seen, rng)[few], target[rows[few]], kind, rng)
    return {name: float(found[name]) for name in NAMES[kind]}


class _Seen(NamedTuple):
    """A sample of a table, as numbers.

    ``ordered`` holds the same numbers as ``numbers``, each column sorted, NaN last; ``counts`` how many of a
    column are known; ``quantities`` how many of the first columns were numbers in the table, and not dates or
    lengths of texts; ``levels`` the categories, each as the rank of its level by frequency.
    """

    numbers: np.ndarray  # (n, columns) float64 with NaN
    ordered: np.ndarray
    counts: np.ndarray  # (columns,)
    quantities: int
    levels: np.ndarray  # (n, columns) int64


def _draw(rng: np.random.Generator, n: int, most: int) -> np.ndarray:
    """Return at most so many of ``n`` indices, in order."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _look(table: Table, rows: np.ndarray, schema: Schema, rng: np.random.Generator) -> _Seen:
    def some(*kinds: ColumnKind) -> pd.DataFrame:
        names = schema.of_kind(*kinds)
        chosen = [names[index] for index in _draw(rng, len(names), MOST_COLUMNS)]
        return table[chosen].iloc[rows]

    quantities = some("number")
    columns = [quantities.to_numpy(np.float64)]
    for dates in some("date").to_numpy("datetime64[us]").T:
        moments = dates.astype(np.int64) / 86.4e9  # days
        columns.append(np.where(np.isnat(dates), np.nan, moments)[:, None])
    for texts in some("text").to_numpy(object).T:
        columns.append(np.array([len(text) for text in texts], dtype=np.float64)[:, None])
    numbers = np.concatenate(columns, axis=1)
    categories = some("category", "boolean")
    levels = [_by_frequency(categories.iloc[:, place]) for place in range(categories.shape[1])]
    return _Seen(
        numbers,
        np.sort(numbers, axis=0),
        (~np.isnan(numbers)).sum(0),
        quantities.shape[1],
        np.stack(levels, axis=1) if levels else np.zeros((len(rows), 0), dtype=np.int64),
    )


def _by_frequency(values: Any) -> np.ndarray:
    """Return 0 for the most frequent level, 1 for the next …; among equals by name, not by place."""
    codes, _ = cast("tuple[np.ndarray, Any]", pd.factorize(values, sort=True))
    order = np.argsort(-np.bincount(codes), kind="stable")
    return np.argsort(order)[codes]


def _quantile(seen: _Seen, share: float) -> np.ndarray:
    """Return that quantile of each column of numbers, the nearest value; NaN where there is none."""
    if seen.numbers.size == 0:
        return np.zeros(seen.numbers.shape[1])
    places = np.rint(np.maximum(seen.counts - 1, 0) * share).astype(np.int64)
    return np.take_along_axis(seen.ordered, places[None], axis=0)[0]


def _sizes(schema: Schema, n_rows: int) -> dict[str, float]:
    columns = schema.columns
    n = len(columns)
    telling = len(schema.of_kind("number", "category", "boolean", "date", "text"))
    levels = [np.log1p(column.n_unique) for column in columns if column.kind in ("category", "boolean")]
    few = [column.n_unique <= FEW for column in columns if column.kind == "number"]
    kinds: dict[str, ColumnKind] = {
        **{"numbers": "number", "categories": "category", "booleans": "boolean"},
        **{"dates": "date", "texts": "text"},
    }
    return {
        "rows": np.log1p(n_rows),
        "columns": np.log1p(n),
        "rows_per_column": np.log1p(n_rows / n),
        **{name: sum(column.kind == kind for column in columns) / n for name, kind in kinds.items()},
        "constants": 1 - telling / n,
        "missing": _mean([column.missing for column in columns]),
        "gappy_columns": _mean([column.missing > 0 for column in columns]),
        "levels_mean": _mean(levels),
        "levels_max": max(levels, default=0.0),
        "few_values": _mean(few),
    }


def _distributions(seen: _Seen) -> dict[str, float]:
    """Describe the columns of numbers that vary in the sample."""
    varies = (seen.counts > 1) & (_quantile(seen, 1.0) > _quantile(seen, 0.0))
    varies &= np.arange(len(varies)) < seen.quantities
    numbers = seen.numbers[:, varies]
    if numbers.shape[1] == 0:
        absent = ("zeros", "outliers", "correlation_mean", "dimensions")
        shapes = [f"{name}_{how}" for name in ("skewness", "kurtosis") for how in ("mean", "median", "max")]
        return dict.fromkeys((*absent, *shapes), 0.0)
    low, high = (_quantile(seen, share)[varies] for share in (0.25, 0.75))
    margin = 3 * (high - low)  # of an empty margin, everything else would be an outlier
    outlying = ((numbers < low - margin) | (numbers > high + margin)) & (margin > 0)
    standard = np.nan_to_num(_standard(numbers))
    skewness, kurtosis = _shape(numbers)
    spectrum = np.linalg.eigvalsh(standard.T @ standard)[::-1].clip(0)
    reached = np.cumsum(spectrum) / spectrum.sum()
    correlations = np.abs(np.corrcoef(standard, rowvar=False)) if standard.shape[1] > 1 else np.ones((1, 1))
    others = ~np.eye(len(correlations), dtype=bool)
    return {
        "zeros": float((numbers == 0).mean()),
        "outliers": float(outlying.mean()),
        "skewness_mean": skewness.mean(),
        "skewness_median": np.median(skewness),
        "skewness_max": skewness.max(),
        "kurtosis_mean": kurtosis.mean(),
        "kurtosis_median": np.median(kurtosis),
        "kurtosis_max": kurtosis.max(),
        "correlation_mean": _mean(correlations[others]),
        "dimensions": (int(np.searchsorted(reached, 0.95 - 1e-9)) + 1) / len(spectrum),
    }


def _standard(numbers: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and variance 1, gaps left; each must vary."""
    largest = np.nanmax(np.abs(numbers), axis=0)
    centred = numbers / largest
    centred = centred - np.nanmean(centred, axis=0)
    spread = np.sqrt(np.nanmean(centred**2, axis=0))
    return centred / np.maximum(spread, 1e-300)


def _shape(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of 1 + |skewness| and of 1 + kurtosis (3 for the normal distribution)."""
    standard = _standard(numbers)
    skewness = np.abs(np.nanmean(standard**3, axis=0))
    return np.log1p(skewness), np.log1p(np.nanmean(standard**4, axis=0))


def _codes(numbers: np.ndarray) -> np.ndarray:
    """Return the octile that each number lies in, and 8 for what is missing."""
    counts = (~np.isnan(numbers)).sum(0)
    seen = _Seen(numbers, np.sort(numbers, axis=0), counts, 0, np.zeros((0, 0), dtype=np.int64))
    codes = np.zeros(numbers.shape, dtype=np.int64)
    for part in range(1, N_BINS):
        codes += numbers > _quantile(seen, part / N_BINS)
    codes[np.isnan(numbers)] = N_BINS
    return codes


def _information(seen: _Seen, target: np.ndarray) -> dict[str, float]:
    """Describe how much single columns tell of the target, as shares of its entropy.

    Mutual information of counts, less what chance alone gives (Miller, 1955, "Note on the bias of information
    estimates").
    """
    x = np.concatenate([_codes(seen.numbers), np.minimum(seen.levels, N_BINS)], axis=1)
    n, n_columns = x.shape
    target = np.unique(target, return_inverse=True)[1]
    n_targets = int(target.max()) + 1
    if n_columns == 0 or n_targets < 2:
        return dict.fromkeys(("information_mean", "information_max", "information_top"), 0.0)
    cells = (np.arange(n_columns) * (N_BINS + 1) + x) * n_targets + target[:, None]
    counts = np.bincount(cells.ravel(), minlength=n_columns * (N_BINS + 1) * n_targets)
    counts = counts.reshape(n_columns, N_BINS + 1, n_targets)
    alone = counts.sum(2)
    of_target = np.bincount(target)
    entropy = _entropy(of_target)
    plain = _entropy(alone) + entropy - _entropy(counts.reshape(n_columns, -1))
    excess = (counts > 0).sum((1, 2)) - (alone > 0).sum(1) - n_targets + 1
    shares = np.sort((plain - excess / (2 * n)) / entropy)[::-1].clip(0, 1)
    best = shares[: -(-n_columns // 10)].sum()
    return {
        "information_mean": shares.mean(),
        "information_max": shares[0],
        "information_top": best / shares.sum() if shares.sum() > 0 else 0.0,
    }


def _entropy(counts: np.ndarray) -> Any:
    """Return the entropy in nats, along the last axis."""
    shares = counts / counts.sum(-1, keepdims=True)
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)


def _class_shares(counts: np.ndarray) -> dict[str, float]:
    n_classes = len(counts)
    return {
        "classes": np.log1p(n_classes),
        "class_entropy": _entropy(counts) / np.log(n_classes) if n_classes > 1 else 0.0,
        "class_imbalance": np.log(counts.max() / counts.min()),
        "rarest_class": counts.min() / counts.sum(),
    }


def _target_shape(target: np.ndarray) -> dict[str, float]:
    distinct = len(np.unique(target))
    column = target[:, None]
    positive = float((target > 0).all())
    if distinct < 2:
        shape, outlying, log_skewness = (0.0, 0.0), 0.0, 0.0
    else:
        skewness, kurtosis = _shape(column)
        shape = (float(skewness[0]), float(kurtosis[0]))
        low, high = np.quantile(target, [0.25, 0.75])
        outlying = (
            float((np.abs(target - (low + high) / 2) > 3.5 * (high - low)).mean()) if high > low else 0.0
        )
        shifted = np.log1p((target - target.min()) / (np.median(target - target.min()) or 1.0))
        log_skewness = float(_shape(shifted[:, None])[0][0])
    return {
        "target_skewness": shape[0],
        "target_kurtosis": shape[1],
        "target_outliers": outlying,
        "target_distinct": distinct / len(target),
        "target_positive": positive,
        "target_log_skewness": log_skewness,
    }


def _matrix(seen: _Seen, rng: np.random.Generator) -> np.ndarray:
    """Return what landmarkers see: numbers on one scale, gaps filled, a column for each frequent level."""
    median = _quantile(seen, 0.5)
    spread = _quantile(seen, 0.75) - _quantile(seen, 0.25)
    spread = np.where(spread > 0, spread, _quantile(seen, 1.0) - _quantile(seen, 0.0))
    with_values = spread > 0  # false for NaN too
    scaled = (seen.numbers[:, with_values] - median[with_values]) / spread[with_values]
    parts = [np.nan_to_num(scaled.clip(-FAR, FAR))]
    for level in range(N_BINS):
        flags = seen.levels == level
        shares = flags.mean(0)
        parts.append(flags[:, (shares > 0.01) & (shares < 1)].astype(np.float64))
    matrix = np.concatenate(parts, axis=1)
    return matrix[:, _draw(rng, matrix.shape[1], MOST_COLUMNS)]


def _landmarks(x: np.ndarray, y: np.ndarray, kind: Kind, rng: np.random.Generator) -> dict[str, float]:
    """Return how well simple models predict rows that they were not fitted to."""
    names = (*LANDMARKS, "naive_bayes") if kind == "classification" else LANDMARKS
    if len(y) < 2 * N_FOLDS or x.shape[1] == 0 or (y == y[0]).all():
        return dict.fromkeys(names, 0.0)
    # Folds hold classes, or low and high targets, in proportion.
    order = np.lexsort((rng.random(len(y)), y))
    fold = np.empty(len(y), dtype=np.int64)
    fold[order] = np.arange(len(y)) % N_FOLDS
    if kind == "regression":
        y = (y - y.mean()) / y.std()
    predictions = {name: np.zeros(len(y), dtype=y.dtype) for name in names}
    predictions |= _neighbours(x, y, kind, fold)
    for part in range(N_FOLDS):
        inside, outside = fold != part, fold == part
        for name, model in _models(kind, y[inside]).items():
            with QUIET:  # a poor fit is what its score shows
                predictions[name][outside] = model.fit(x[inside], y[inside]).predict(x[outside])
    return {name: _skill(y, prediction, kind) for name, prediction in predictions.items()}


def _models(kind: Kind, y: np.ndarray) -> dict[str, Any]:
    """Return models by landmark; classes count alike, however rare, as they do in the score."""
    if kind == "regression":
        return {
            "linear": Ridge(),
            "stump": DecisionTreeRegressor(max_depth=1, random_state=0),
            "tree": DecisionTreeRegressor(max_depth=5, min_samples_leaf=3, random_state=0),
        }
    n_classes = len(np.unique(y))
    return {
        "linear": RidgeClassifier(class_weight="balanced"),
        "stump": DecisionTreeClassifier(max_depth=1, class_weight="balanced", random_state=0),
        "tree": DecisionTreeClassifier(
            max_depth=5, min_samples_leaf=3, class_weight="balanced", random_state=0
        ),
        "naive_bayes": GaussianNB(priors=np.full(n_classes, 1 / n_classes), var_smoothing=1e-3),
    }


def _neighbours(x: np.ndarray, y: np.ndarray, kind: Kind, fold: np.ndarray) -> dict[str, np.ndarray]:
    """Predict each row from the nearest one, and from the ten nearest, of the other folds."""
    squares = (x**2).sum(1)
    distances = squares[:, None] + squares - 2 * x @ x.T
    distances[fold[:, None] == fold] = np.inf
    k = min(N_NEIGHBOURS, len(y) // N_FOLDS)
    ranked = y[np.argsort(distances, axis=1, kind="stable")[:, :k]]
    if kind == "regression":
        return {"nearest_neighbour": ranked[:, 0], "neighbours": ranked.mean(1)}
    votes = (ranked[:, :, None] == np.arange(y.max() + 1)).sum(1)
    return {"nearest_neighbour": ranked[:, 0], "neighbours": votes.argmax(1)}


def _skill(y: np.ndarray, prediction: np.ndarray, kind: Kind) -> float:
    """Return 1 for no fault, 0 for predicting always the same, not less than -1."""
    if kind == "regression":
        return max(-1.0, 1 - float(((y - prediction) ** 2).mean() / y.var()))
    present = np.unique(y)
    recalls = [(prediction[y == label] == label).mean() for label in present]
    chance = 1 / len(present)
    return float((np.mean(recalls) - chance) / (1 - chance))


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
