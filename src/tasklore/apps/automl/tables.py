# ruff: noqa: N803 - scikit-learn calls the rows X
"""Any table, seen in one way: named columns, each of one of five kinds.

A :class:`Schema` is learned from the rows that a model is fitted to, and turns these and all later rows into
the same canonical table, whatever order, type or index they come with.
"""

import numbers
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format
from scipy.sparse import csr_array, issparse

from ...errors import InvalidData
from .quiet import QUIET

__all__ = ["LARGEST", "Column", "ColumnKind", "Schema", "Table", "plain_table"]

ColumnKind: TypeAlias = Literal["number", "category", "boolean", "date", "text"]
Table: TypeAlias = pd.DataFrame
Values: TypeAlias = Any
"""A column as pandas holds it; pandas is typed in parts only."""

MISSING = "(missing)"
"""What a category is called where there is none."""

SAMPLE = 1000  # values that a column's kind is guessed from
FEWEST = 100  # of them; where so many are not missing, the rows between are not looked at
COUNTED = 5000  # rows that different numbers are counted in: sorting all would outlast a short budget
MOST_CELLS = 250_000_000  # of a sparse matrix, which becomes dense: 2 GB
LARGEST = 1e30  # numbers are cut here: single precision, and squares of what is larger, would be infinite
READABLE = 0.95  # share of them that must be numbers or dates
LONG_TEXT = 25.0  # mean characters from which on distinct values are text
TRUTHS = {
    **dict.fromkeys(("1", "1.0", "t", "y", "yes", "on"), "True"),
    **dict.fromkeys(("0", "0.0", "f", "n", "no", "off"), "False"),
}
SHORT_DATE = re.compile(r"\s*(\d{1,2})([-/.])(\d{1,2})\2\d{2,4}\b")
DATE = re.compile(r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?\s*$")


@dataclass(frozen=True)
class Column:
    """One column as it was when a model was fitted.

    Parameters
    ----------
    name : str
        Unique in its schema.
    kind : {"number", "category", "boolean", "date", "text"}
    n_unique : int
        Different values, missing ones not counted; of numbers, those in 5,000 rows spread over the table, but
        at least 2 where there are 2.
    missing : float
        Share of rows without a value.
    day_first : bool
        Whether dates are written as in 31/12/2024.
    zone : str
        Where the days and hours of dates with a time zone are told; empty if they had none.
    """

    name: str
    kind: ColumnKind
    n_unique: int
    missing: float
    day_first: bool = False
    zone: str = ""


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
        """Look at a table, and return what its columns are; see :meth:`read`."""
        return cls.read(X)[0]

    @classmethod
    def read(cls, X: Any) -> tuple["Schema", Table]:
        """Look at a table, and return what its columns are and its rows in canonical form.

        Parameters
        ----------
        X : DataFrame, array-like or sparse matrix, shape (n_rows, n_columns)

        Raises
        ------
        InvalidData
            It is no table, or is empty.
        """
        frame = _frame(X)
        wanted = list(frame.columns)
        names, block = _block(frame, wanted)
        found = dict(zip(names, _number_columns(names, block), strict=True))
        others: dict[str, Values] = {}
        for name in wanted:
            if name not in found:
                found[name], others[name] = _read(name, frame[name])
        schema = cls(tuple(found[name] for name in wanted), isinstance(X, pd.DataFrame))
        return schema, _assembled(wanted, names, block, others)

    def of_kind(self, *kinds: ColumnKind) -> list[str]:
        """Return the columns of some kinds that tell rows apart: by more than one value, or by gaps."""
        return [
            column.name
            for column in self.columns
            if column.kind in kinds and (column.n_unique > 1 or (column.n_unique == 1 and column.missing > 0))
        ]

    def table(self, X: Any) -> Table:
        """Return rows in canonical form.

        Numbers become float64, at most 1e30 in size, with NaN for what is missing or infinite; categories and
        booleans text, with ``"(missing)"``; dates ``datetime64[us]``; text stays text, with ``""``. Columns
        that are absent are missing throughout, with a warning; others that were not there before are ignored.

        Parameters
        ----------
        X : DataFrame, array-like or sparse matrix

        Raises
        ------
        InvalidData
            It is no table, is empty, or is an array with another number of columns.
        """
        given = _frame(X)
        wanted = [column.name for column in self.columns]
        if not (self.named and isinstance(X, pd.DataFrame)):  # then places count, not names
            if given.shape[1] != len(wanted):
                raise InvalidData(
                    f"X has {given.shape[1]} features, but Tasklore is expecting {len(wanted)} features "
                    "as input: give the columns that the model was fitted to"
                )
            given.columns = wanted
        absent = [name for name in wanted if name not in given]
        if len(absent) == len(wanted):
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
        known = {column.name: column for column in self.columns}
        are_numbers = [name for name in wanted if known[name].kind == "number" and name in given]
        numbers, block = _block(given, are_numbers)
        nothing = pd.Series([None] * len(given), dtype=object)
        plain = set(numbers)
        others = {
            name: _canonical(
                given.get(name, nothing), known[name].kind, known[name].day_first, known[name].zone
            )
            for name in wanted
            if name not in plain
        }
        return _assembled(wanted, numbers, block, others)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"columns": [asdict(column) for column in self.columns], "named": self.named}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Schema":
        """Read what :meth:`to_dict` gave."""
        return cls(tuple(Column(**column) for column in values["columns"]), bool(values["named"]))


def plain_table(X: Any) -> Any:
    """Return a table of another library as a DataFrame of pandas, so that its names count.

    Whatever else is given stays as it is.

    Raises
    ------
    InvalidData
        It is one that cannot be turned into such.
    """
    convert: Any = getattr(X, "to_pandas", None)  # polars, pyarrow, cuDF, modin and others have it
    if isinstance(X, pd.DataFrame | pd.Series | np.ndarray) or not callable(convert):
        return X
    try:
        return convert()
    except Exception as error:  # a library of others may raise anything
        raise InvalidData(
            f"X is a {type(X).__module__}.{type(X).__name__} whose to_pandas() fails ({error}); give a "
            "DataFrame of pandas"
        ) from error


def _assembled(wanted: list[str], numbers: list[str], block: np.ndarray, others: dict[str, Values]) -> Table:
    table = pd.DataFrame(block, columns=pd.Index(numbers, dtype=object), copy=False)
    return pd.concat([table, pd.DataFrame(others)], axis=1).reindex(columns=wanted) if others else table


def _frame(X: Any) -> pd.DataFrame:
    """Return a table with unique names for its columns, on an index of its own."""
    if isinstance(X, pd.Series):
        raise InvalidData("X is one column; give a table, X.to_frame() perhaps")
    if isinstance(X, pd.DataFrame):
        frame = X.reset_index(drop=True)
        complex_ = any(getattr(dtype, "kind", "") == "c" for dtype in frame.dtypes)
        labels = [str(label) for label in frame.columns]
    else:
        array = _dense(X) if issparse(X) else np.asarray(X)
        if isinstance(X, np.ma.MaskedArray):
            array = np.where(np.ma.getmaskarray(X), np.nan, array.astype(object))
        if array.ndim != 2:
            raise InvalidData(
                f"X has shape {array.shape}; it needs rows and columns. Reshape your data: "
                "X.reshape(-1, 1) if it is one column, X.reshape(1, -1) if it is one row"
            )
        frame = pd.DataFrame(array, copy=False)
        complex_ = array.dtype.kind == "c"
        labels = [f"x{place}" for place in range(array.shape[1])]
    if complex_:
        raise InvalidData("Complex data not supported; give the real and imaginary parts as columns")
    if 0 in frame.shape:
        raise InvalidData(
            f"Found array with {frame.shape[0]} sample(s) and {frame.shape[1]} feature(s) "
            f"(shape={frame.shape}) while a minimum of 1 is required."
        )
    frame.columns = _unique(labels)
    return frame


def _dense(X: Any) -> np.ndarray:
    n_rows, n_columns = X.shape
    if n_rows * n_columns > MOST_CELLS:
        raise InvalidData(
            f"X is a sparse matrix of {n_rows} × {n_columns}; at most {MOST_CELLS:,} cells fit into memory: "
            "reduce its columns first, with sklearn.decomposition.TruncatedSVD perhaps"
        )
    return cast("Any", csr_array(X)).toarray()


def _unique(labels: list[str]) -> list[str]:
    """Tell equal labels apart: the second ``a`` is called ``a (2)``, unless there is one already."""
    if len(set(labels)) == len(labels):
        return labels
    taken, seen = set(labels), Counter[str]()
    names: list[str] = []
    for label in labels:
        seen[label] += 1
        name = label
        while seen[label] > 1 and name in taken:
            name = f"{label} ({seen[label]})"
            seen[label] += name in taken
        taken.add(name)
        names.append(name)
    return names


def _block(frame: pd.DataFrame, names: list[str]) -> tuple[list[str], np.ndarray]:
    """Return those of some columns that are plain numbers, all at once: one by one is slow in wide tables."""
    types = dict(zip(frame.columns, frame.dtypes, strict=True))
    plain = [name for name in names if isinstance(types[name], np.dtype) and types[name].kind in "iuf"]
    chosen = frame if plain == list(frame.columns) else frame[plain]
    block = chosen.to_numpy(dtype=np.float64)
    return plain, _usable(block)


def _usable(numbers: np.ndarray) -> np.ndarray:
    """Return numbers that every model can take: NaN for infinite ones, none larger than 1e30."""
    if ((numbers <= LARGEST) & (numbers >= -LARGEST)).all():
        return numbers
    return np.where(np.isfinite(numbers), np.clip(numbers, -LARGEST, LARGEST), np.nan)


def _number_columns(names: list[str], block: np.ndarray) -> Iterator[Column]:
    """Describe columns of numbers, NaN where there is none."""
    spread = block[:: max(1, -(-len(block) // COUNTED))]
    ordered = np.sort(spread, axis=0)  # NaN last
    new = np.concatenate([~np.isnan(ordered[:1]), ordered[1:] > ordered[:-1]])
    counts = new.sum(0)
    rare = np.flatnonzero(counts < 2)  # the rows between may hold another value
    others = block[:, rare]
    varies = np.fmax.reduce(others, axis=0) > np.fmin.reduce(others, axis=0)
    missing = np.isnan(block).mean(0)
    counts[rare] = np.where(varies, 2, missing[rare] < 1)
    for name, count, share in zip(names, counts, missing, strict=True):
        yield Column(name, "number", int(count), float(share))


def _read(name: str, raw: Values) -> tuple[Column, Values]:
    """Guess the kind of a column, describe it, and return it in canonical form."""
    kind = _kind(raw)
    if kind in ("category", "boolean", "text"):
        codes, levels = _levels(raw, kind)
        counts = Counter[str]()
        for code, count in enumerate(np.bincount(codes, minlength=len(levels)).tolist()):
            counts[levels[code]] += count
        missing = counts.pop(MISSING, 0) + counts.pop("", 0)
        n_unique = sum(count > 0 for count in counts.values())
        return Column(name, kind, n_unique, missing / len(codes)), _named(codes, levels)
    day_first = kind == "date" and _day_first(raw)
    zone = _zone(raw)
    values = _canonical(raw, kind, day_first, zone)
    column = Column(name, kind, int(values.nunique()), float(values.isna().mean()), day_first, zone)
    return column, values


def _zone(raw: Values) -> str:
    """Return the time zone of a column of dates, if it has one that a name tells; else nothing."""
    if not isinstance(raw.dtype, pd.DatetimeTZDtype):
        return ""
    name = str(raw.dt.tz)
    try:
        pd.Timestamp(0, tz=name)
    except (KeyError, ValueError):  # not every library names its zones; their dates are told in UTC
        return ""
    return name


def _day_first(raw: Values) -> bool:
    """Whether dates written as text have the day before the month; in doubt, those with points have."""
    known = raw.dropna()
    some = set(map(str, known.iloc[:: max(1, len(known) // COUNTED)].to_numpy(dtype=object)))
    found = [match for text in some if (match := SHORT_DATE.match(text))]
    if not found:
        return False
    first, second = (max(int(match[place]) for match in found) for place in (1, 3))
    if (first > 12) != (second > 12):
        return first > 12
    return all(match[2] == "." for match in found)


def _kind(raw: Values) -> ColumnKind:
    types = pd.api.types
    if types.is_bool_dtype(raw.dtype):
        return "boolean"
    if isinstance(raw.dtype, pd.CategoricalDtype):
        return "category"
    if types.is_datetime64_any_dtype(raw.dtype) or isinstance(raw.dtype, pd.PeriodDtype):
        return "date"
    if types.is_numeric_dtype(raw.dtype) or types.is_timedelta64_dtype(raw.dtype):
        return "number"
    sample = raw.iloc[:: max(1, len(raw) // SAMPLE)].dropna()
    if len(sample) < FEWEST:
        known = raw.dropna()
        sample = known.iloc[:: max(1, len(known) // SAMPLE)]
    if len(sample) == 0:
        return "number"
    if all(isinstance(value, bool | np.bool_) for value in sample):
        return "boolean"
    counts = Counter(map(str, sample.to_numpy(dtype=object)))
    levels, shares = np.array(list(counts), dtype=object), np.array(list(counts.values())) / len(sample)

    def mean(values: Any) -> float:
        return float(np.asarray(list(values), dtype=np.float64) @ shares)

    if mean(~np.isnan(cast("Values", pd.to_numeric(levels, errors="coerce")))) >= READABLE:
        return "number"
    dated = mean(DATE.match(level) is not None for level in levels) >= READABLE
    written = pd.Series(levels, dtype=object)
    if dated and mean(_dates(written, _day_first(written)).notna()) >= READABLE:
        return "date"
    long = mean(map(len, levels)) >= LONG_TEXT and mean(" " in level for level in levels) > 0.5
    return "text" if long and len(levels) > 0.5 * len(sample) else "category"


def _canonical(raw: Values, kind: ColumnKind, day_first: bool = False, zone: str = "") -> Values:
    if kind == "number":
        if pd.api.types.is_timedelta64_dtype(raw.dtype):
            raw = raw.dt.total_seconds()
        numbers = np.asarray(cast("Values", pd.to_numeric(raw, errors="coerce")).astype("float64"))
        return pd.Series(_usable(numbers))
    if kind == "date":
        return _dates(raw, day_first, zone)
    return _named(*_levels(raw, kind))


def _named(codes: np.ndarray, levels: list[str]) -> Values:
    return pd.Series(np.array(levels, dtype=object)[codes], dtype=object)


def _levels(raw: Values, kind: ColumnKind) -> tuple[np.ndarray, list[str]]:
    """Return each row's place in a list of canonical names, of which the last one is that of a gap.

    Each different value is named once where that is safe: of mixed types, ``1`` and ``True`` count as one.
    """
    name = _truth if kind == "boolean" else _level
    filler = "" if kind == "text" else MISSING
    if isinstance(raw.dtype, pd.CategoricalDtype):
        codes, values = raw.cat.codes.to_numpy(), raw.cat.categories
    elif pd.api.types.infer_dtype(raw, skipna=True) in ("string", "boolean", "integer", "floating"):
        codes, values = pd.factorize(raw)
    else:
        gaps = raw.isna().to_numpy()
        codes = np.where(gaps, -1, np.cumsum(~gaps) - 1)
        values = raw[~gaps]
    levels = [*(name(value) for value in values), filler]
    return np.where(codes < 0, len(levels) - 1, codes), levels


def _level(value: Any) -> str:
    """Return a category's name; that of a whole number is the same if a gap elsewhere made it a float."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _truth(value: Any) -> str:
    """Return ``"True"`` or ``"False"``, however it is written: 1, 1.0, true, yes."""
    if isinstance(value, int | float | np.number):
        return str(bool(value))
    text = str(value).strip().lower()
    return TRUTHS.get(text, text.capitalize())


def _dates(raw: Values, day_first: bool = False, zone: str = "") -> Values:
    if isinstance(raw.dtype, pd.PeriodDtype):
        raw = raw.dt.to_timestamp()
    if pd.api.types.is_numeric_dtype(raw.dtype):  # days, or seconds, since some day: nobody knows
        return pd.Series(np.full(len(raw), "NaT", dtype="datetime64[us]"))
    if not pd.api.types.is_datetime64_any_dtype(raw.dtype):
        if pd.api.types.infer_dtype(raw, skipna=True) not in ("string", "datetime", "date", "empty"):
            raw = raw.where([not isinstance(value, numbers.Real) for value in raw])
        with QUIET:  # about formats that differ from row to row
            raw = _parsed(raw, day_first)
    if raw.dt.tz is not None:
        raw = raw.dt.tz_convert(zone or "UTC").dt.tz_localize(None)
    return raw.astype("datetime64[us]")  # nanoseconds would end in the year 2262, and "never" is often 9999


def _parsed(raw: Values, day_first: bool) -> Values:
    """Read dates: in the format of the first one, which is many times as fast, and the rest one by one."""
    asked: dict[str, Any] = {"errors": "coerce", "dayfirst": day_first, "utc": True}
    first = raw.first_valid_index()
    layout = None
    if first is not None and pd.api.types.infer_dtype(raw, skipna=True) == "string":
        layout = guess_datetime_format(raw[first], dayfirst=day_first)
    if layout is None:
        return pd.to_datetime(raw, format="mixed", **asked)
    found: Values = pd.to_datetime(raw, format=layout, **asked)
    others = found.isna() & raw.notna()
    if others.any():
        found = found.where(~others, pd.to_datetime(raw.where(others), format="mixed", **asked))
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
