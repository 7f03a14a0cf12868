"""What comes with the rows of a fit: labels or numbers to predict, weights, groups."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,  # pyright: ignore[reportPrivateUsage] - named in scikit-learn's guide for developers
    check_consistent_length,
    column_or_1d,
)

from ...errors import InvalidData
from .tables import Table

__all__ = ["classes_of", "groups_of", "indices_of", "numbers_of", "weights_of"]

LARGEST_TARGET = 1e100
TIMES = {
    "datetime64",
    "datetime",
    "date",
    "timedelta64",
    "timedelta",
    "time",
    "period",
}  # as pandas calls them


def classes_of(y: Any) -> np.ndarray:
    """Return the different labels, in order.

    Raises
    ------
    InvalidData
        Labels are missing, are no classes, or are all the same.
    """
    y = _labels(y)
    if pd.isna(pd.Series(y)).any():
        raise InvalidData("y contains NaN: labels are missing; leave out such rows first")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise InvalidData("Input y contains infinity or a value too large for dtype('float64').")
    if y.dtype == object and len(kinds := {type(label).__name__ for label in y}) > 1:
        raise InvalidData(
            f"y mixes labels of several types ({', '.join(sorted(kinds))}); make all of them text"
        )
    check_classification_targets(y)
    classes = np.unique(y)
    if len(classes) < 2:
        raise InvalidData(f"y holds one class only, {classes[0]}; two classes are needed")
    return classes


def indices_of(y: Any, classes: np.ndarray) -> np.ndarray:
    """Return the places of labels among the classes, int64."""
    y = _labels(y)
    strange = np.setdiff1d(y, classes)
    if len(strange):
        raise InvalidData(f"y holds the label {strange[0]}, which fit did not see; fit again instead")
    return np.searchsorted(classes, y).astype(np.int64)


def numbers_of(y: Any) -> np.ndarray:
    """Return targets as finite float64.

    Raises
    ------
    InvalidData
        They are not, or are so large that their squares are not.
    """
    y = column_or_1d(y, warn=True)
    _refuse_times(y, "give numbers, perhaps days since some date, or seconds")
    try:
        values = y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidData(
            f"y must hold numbers, got {y.dtype}: {error}; for labels use AutoClassifier"
        ) from error
    if not np.isfinite(values).all():
        raise InvalidData("y contains NaN or infinity; leave out such rows first")
    if np.abs(values).max(initial=0.0) > LARGEST_TARGET:
        raise InvalidData(
            f"y holds values up to {np.abs(values).max():.3g}, whose squares are no numbers any more; "
            f"divide y so that it is at most {LARGEST_TARGET:g}"
        )
    return values


def weights_of(sample_weight: Any, table: Table) -> np.ndarray | None:
    """Return weights of rows whose mean, where there is any weight, is 1: only their ratios count."""
    if sample_weight is None:
        return None
    weights: np.ndarray = _check_sample_weight(sample_weight, table)
    if (weights < 0).any():
        raise InvalidData("sample_weight holds negative values; weights must be 0 or more")
    if not (weights > 0).any():
        raise InvalidData("sample_weight is 0 everywhere; some rows must count")
    return weights / weights[weights > 0].mean()


def groups_of(groups: Any, table: Table) -> np.ndarray | None:
    """Return the group of each row as a number; rows without one (None, NaN) are a group together.

    Examples
    --------
    >>> groups_of(["b", None, "a", "b"], pd.DataFrame(index=range(4))).tolist()
    [1, 0, 2, 1]
    """
    if groups is None:
        return None
    values: Any = column_or_1d(groups)
    check_consistent_length(table, values)
    try:
        places = pd.factorize(pd.Series(values, dtype=object))[0]
    except TypeError as error:
        raise InvalidData(f"groups holds {error}; give numbers or texts") from error
    return places - places.min()


def _labels(y: Any) -> np.ndarray:
    """Return labels in numpy's plainest type: truth values, numbers or text."""
    if isinstance(y, list | tuple):  # as an array of texts, gaps would be texts too, and numbers among them
        y = np.asarray(y, dtype=object)
    if isinstance(y, pd.Series | pd.DataFrame) or np.asarray(y).dtype.kind in "OmM":
        _refuse_times(y, "classes must be text, whole numbers or truth values")
        found: Any = column_or_1d(y if isinstance(y, pd.DataFrame) else np.asarray(y, object), warn=True)
        y = pd.Series(found, dtype=object).infer_objects().to_numpy()
    return column_or_1d(y, warn=True)


def _refuse_times(y: Any, needed: str) -> None:
    if pd.api.types.infer_dtype(np.asarray(y).ravel(), skipna=True) in TIMES:
        raise InvalidData(f"y holds dates or lengths of time; {needed}")
