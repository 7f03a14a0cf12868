# ruff: noqa: N803 - scikit-learn calls the rows X
"""Feature steps that scikit-learn lacks: dates in parts, and categories by how frequent they are."""

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

__all__ = ["DateParts", "FrequencyEncoder", "OneText"]


class DateParts(TransformerMixin, BaseEstimator):
    """Turn each date into numbers: days since the first one, year, month, weekday, day, hour.

    Missing dates become NaN throughout.

    Parameters
    ----------
    None; dates are the columns of a DataFrame of ``datetime64``.
    """

    PARTS = ("days", "year", "month", "weekday", "day", "hour")

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Note the first date of each column."""
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        known = [_days(X[name]) for name in X.columns]
        self.first_ = np.array([days.min() if len(days) else 0.0 for days in known])
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Return the parts, float64, shape (n_rows, 6 × n_columns)."""
        check_is_fitted(self)
        parts: list[Any] = []
        for name, first in zip(self.feature_names_in_, self.first_, strict=True):
            dates, days = X[name].dt, np.full(len(X), np.nan)
            days[X[name].notna()] = _days(X[name]) - first
            parts.append(days)
            parts += [dates.year, dates.month, dates.day_of_week, dates.day, dates.hour]
        return np.column_stack([np.asarray(part, dtype=np.float64) for part in parts])

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return ``column part`` for each part of each column."""
        check_is_fitted(self)
        return np.array([f"{name} {part}" for name in self.feature_names_in_ for part in self.PARTS], object)


def _days(dates: Any) -> np.ndarray:
    """Return the days since 1970 of those that are known."""
    return dates.dropna().to_numpy("datetime64[us]").astype(np.int64) / 86.4e9


class FrequencyEncoder(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Replace each category by the share of rows that have it; a new one by 0."""

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Count."""
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        counted = {name: X[name].value_counts(normalize=True) for name in X.columns}
        self.shares_ = {
            name: dict(zip(map(str, shares.index), map(float, shares), strict=True))
            for name, shares in counted.items()
        }
        return self

    def transform(self, X: pd.DataFrame) -> np.ndarray:
        """Return the shares, float64, shape (n_rows, n_columns)."""
        check_is_fitted(self)
        shares = [X[name].map(self.shares_[name].get).fillna(0.0) for name in self.feature_names_in_]
        return np.column_stack([np.asarray(share, dtype=np.float64) for share in shares])


class OneText(TransformerMixin, BaseEstimator):
    """Join the text columns of a row into one text, for vectorisers, which take a list of texts."""

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Learn nothing."""
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> list[str]:
        """Return a text for each row."""
        return [" ".join(row) for row in X.to_numpy(dtype=object)]

    def __sklearn_is_fitted__(self) -> bool:
        return True
