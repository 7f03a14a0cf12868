# ruff: noqa: N803 - scikit-learn calls the rows X
"""Any table, seen in one way: named columns, each of one of five kinds.

A :class:`Schema` is learned from the rows that a model is fitted to, and turns these and all later rows into
the same canonical table, whatever order, type or index they come with.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse

from ...errors import InvalidData

__all__ = ["Column", "ColumnKind", "Schema", "Table"]

ColumnKind: TypeAlias = Literal["number", "category", "boolean", "date", "text"]
Table: TypeAlias = pd.DataFrame
Values: TypeAlias = Any
"""A column as pandas holds it; pandas is typed in parts only."""

MISSING = "(missing)"
"""What a category is called where there is none."""

SAMPLE = 1000  # values that a column's kind is guessed from
READABLE = 0.95  # share of them that must be numbers or dates
LONG_TEXT = 25.0  # mean characters from which on distinct values are text
DATE = r"^\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?\s*$"


@dataclass(frozen=True)
class Column:
    """One column as it was when a model was fitted.

    Parameters
    ----------
    name : str
        Unique in its schema.
    kind : {"number", "category", "boolean", "date", "text"}
    n_unique : int
        Different values, missing ones not counted.
    missing : float
        Share of rows without a value.
    """

    name: str
    kind: ColumnKind
    n_unique: int
    missing: float


@dataclass(frozen=True)
class Schema:
    """What the columns of a table are.

    Parameters
    ----------
    columns : tuple of Column
        In the order of the table that was given.
    named : bool
        Whether columns are found by their names (tables) or by their places (arrays).
    """

    columns: tuple[Column, ...]
    named: bool

    @classmethod
    def of(cls, X: Any) -> "Schema":
        """Look at a table.

        Parameters
        ----------
        X : DataFrame, array-like or sparse matrix, shape (n_rows, n_columns)

        Raises
        ------
        InvalidData
            It is no table, or is empty.
        """
        columns = [
            Column(name, kind, int(values.nunique()), float(values.isna().mean()))
            for name, values, kind in ((name, *_read(raw)) for name, raw in _columns(X))
        ]
        return cls(tuple(columns), isinstance(X, pd.DataFrame))

    def of_kind(self, *kinds: ColumnKind) -> list[str]:
        """Return the columns of some kinds that tell rows apart: by more than one value, or by gaps."""
        return [
            column.name
            for column in self.columns
            if column.kind in kinds and (column.n_unique > 1 or (column.n_unique == 1 and column.missing > 0))
        ]

    def table(self, X: Any) -> Table:
        """Return rows in canonical form.

        Numbers become float64 with NaN for what is missing or infinite; categories and booleans text, with
        ``"(missing)"``; dates ``datetime64[ns]``; text stays text, with ``""``. Columns that are absent are
        missing throughout, with a warning; others that were not there before are left out.

        Parameters
        ----------
        X : DataFrame, array-like or sparse matrix

        Raises
        ------
        InvalidData
            It is no table, is empty, or is an array with another number of columns.
        """
        given = dict(_columns(X))
        if not (self.named and isinstance(X, pd.DataFrame)):  # then places count, not names
            if len(given) != len(self.columns):
                raise InvalidData(
                    f"X has {len(given)} features, but this model is expecting {len(self.columns)} features "
                    "as input: give the same columns"
                )
            given = dict(zip((column.name for column in self.columns), given.values(), strict=True))
        absent = [column.name for column in self.columns if column.name not in given]
        if len(absent) == len(self.columns):
            raise InvalidData(
                f"X has none of the columns that this model was fitted to; it needs {_some(absent)}"
            )
        if absent:
            warnings.warn(
                f"X lacks {len(absent)} of {len(self.columns)} columns ({_some(absent)}); they are taken as "
                "missing",
                UserWarning,
                stacklevel=3,
            )
        n_rows = len(next(iter(given.values())))
        parts = {
            column.name: _canonical(given.get(column.name, pd.Series([None] * n_rows)), column.kind)
            for column in self.columns
        }
        return pd.DataFrame(parts, copy=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"columns": [asdict(column) for column in self.columns], "named": self.named}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Schema":
        """Read what :meth:`to_dict` gave."""
        return cls(tuple(Column(**column) for column in values["columns"]), bool(values["named"]))


def _columns(X: Any) -> Iterator[tuple[str, Values]]:
    """Yield the columns of a table with unique names, on an index of their own."""
    if isinstance(X, pd.Series):
        raise InvalidData("X is one column; give a table, X.to_frame() perhaps")
    if isinstance(X, pd.DataFrame):
        frame = X
    else:
        array = cast("Any", csr_array(X)).toarray() if issparse(X) else np.asarray(X)
        if array.ndim != 2:
            raise InvalidData(
                f"X has shape {array.shape}; it needs rows and columns, X.reshape(-1, 1) perhaps"
            )
        if array.dtype.kind == "c":
            raise InvalidData("Complex data not supported; give the real and imaginary parts as columns")
        frame = pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
    if 0 in frame.shape:
        raise InvalidData(
            f"Found array with {frame.shape[0]} sample(s) and {frame.shape[1]} feature(s) "
            f"(shape={frame.shape}) while a minimum of 1 is required."
        )
    seen = Counter[str]()
    for place, label in enumerate(frame.columns):
        name = str(label)
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        yield unique, frame.iloc[:, place].reset_index(drop=True)


def _read(raw: Values) -> tuple[Values, ColumnKind]:
    """Return a column with its missing values as such, and guess its kind."""
    kind = _kind(raw)
    values = _canonical(raw, kind)
    if kind in ("category", "boolean", "text"):
        values = values.where(~values.isin([MISSING, ""]), None)
    return values, kind


def _kind(raw: Values) -> ColumnKind:
    types = pd.api.types
    if types.is_bool_dtype(raw.dtype):
        return "boolean"
    if isinstance(raw.dtype, pd.CategoricalDtype):
        return "category"
    if types.is_datetime64_any_dtype(raw.dtype):
        return "date"
    if types.is_numeric_dtype(raw.dtype) or types.is_timedelta64_dtype(raw.dtype):
        return "number"
    known = raw.dropna()
    if len(known) == 0:
        return "number"
    sample = known.iloc[:: max(1, len(known) // SAMPLE)]
    if all(isinstance(value, bool | np.bool_) for value in sample):
        return "boolean"
    text: Values = sample.astype(str)
    if cast("Values", pd.to_numeric(text, errors="coerce")).notna().mean() >= READABLE:
        return "number"
    if text.str.match(DATE).mean() >= READABLE and _dates(text).notna().mean() >= READABLE:
        return "date"
    distinct = text.nunique() / len(text)
    if distinct > 0.5 and text.str.len().mean() >= LONG_TEXT and text.str.contains(" ").mean() > 0.5:
        return "text"
    return "category"


def _canonical(raw: Values, kind: ColumnKind) -> Values:
    if kind == "number":
        if pd.api.types.is_timedelta64_dtype(raw.dtype):
            raw = raw.dt.total_seconds()
        numbers = np.asarray(cast("Values", pd.to_numeric(raw, errors="coerce")).astype("float64"))
        return pd.Series(np.where(np.isfinite(numbers), numbers, np.nan))
    if kind == "date":
        return _dates(raw)
    missing = raw.isna().to_numpy()
    filler = "" if kind == "text" else MISSING
    values = np.array([filler if gap else str(v) for v, gap in zip(raw, missing, strict=True)], dtype=object)
    return pd.Series(values, dtype=object)


def _dates(raw: Values) -> Values:
    if not pd.api.types.is_datetime64_any_dtype(raw.dtype):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about formats that differ from row to row
            raw = pd.to_datetime(raw, errors="coerce", format="mixed", utc=True)
    if raw.dt.tz is not None:
        raw = raw.dt.tz_convert("UTC").dt.tz_localize(None)
    return raw.astype("datetime64[ns]")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
