"""Tables from files: rows, the target and what kind of task it is, and rows kept aside for an honest test."""

import contextlib
import difflib
import importlib
import lzma
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Collection, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from rich.console import Console

from ..apps.automl.pipelines import Kind
from ..apps.automl.targets import groups_of
from ..errors import InvalidData, MissingDependency
from ..files import reason_of, table_from_csv

__all__ = [
    "Prepared",
    "Target",
    "keep_aside",
    "keep_groups_aside",
    "read_table",
    "read_target",
    "telling_warnings",
]

MOST_CLASSES = 20  # whole numbers with no more different values are taken for labels
ROWS_PER_CLASS = 5  # … if there are so many rows of each, on average
UNREADABLE = (ValueError, OSError, EOFError, RuntimeError)  # the last is what an encrypted .zip raises
DAMAGED = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
CODE = re.compile("0[0-9]+")  # a label of which the number is not all
SEEN_FOR_CODES = 10_000  # rows
NUMBERS = 0.5  # share of a text column that are numbers, from which on the others look like faults


@dataclass(frozen=True, eq=False)
class Target:
    """The column to predict.

    Parameters
    ----------
    y : ndarray, shape (n_known,)
        Labels (text, truth values or int64), or float64 numbers.
    kind : {"classification", "regression"}
    known : ndarray of bool, shape (n_rows,)
        Which rows of the table have one.
    """

    y: np.ndarray
    kind: Kind
    known: np.ndarray

    @property
    def n_left_out(self) -> int:
        """Rows without a target."""
        return int((~self.known).sum())

    @property
    def described(self) -> str:
        """What it is, in words."""
        if self.kind == "regression":
            return f"numbers from {self.y.min():.6g} to {self.y.max():.6g}"
        names = [str(name) for name in np.unique(self.y)]
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        return f"{len(names)} class{'' if len(names) == 1 else 'es'}: {shown}"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table that is ready for a search.

    Parameters
    ----------
    name, target : str
        Of the file without folders, and of the column to predict.
    X : DataFrame
        All rows with a target, without it.
    wanted : Target
    searched, kept : ndarray of int
        Rows to search on, and rows kept aside.
    groups : ndarray of int, shape (n_rows,), optional
        Which rows belong together.
    """

    name: str
    target: str
    X: pd.DataFrame
    wanted: Target
    searched: np.ndarray
    kept: np.ndarray
    groups: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        path: Path,
        target: str,
        task: Kind | None,
        test_size: float,
        seed: int,
        groups: str | None = None,
    ) -> Self:
        """Read a table, its target and the column of its groups, and draw the rows of the test.

        Raises
        ------
        InvalidData
            It is no table, a column is not there, or there are too few groups.
        """
        table = read_table(path, target)
        wanted = read_target(table, target, task, path)
        rows: Any = table.drop(columns=target)[wanted.known]
        rows = rows.reset_index(drop=True)
        if groups is None:
            return cls(path.name, target, rows, wanted, *keep_aside(wanted, test_size, seed))
        together = _groups(rows, groups, target, path, 3 if test_size else 2)
        parts = keep_groups_aside(wanted, together, test_size, seed)
        return cls(path.name, target, rows.drop(columns=groups), wanted, *parts, together)


def read_table(path: Path, target: str | None = None, texts: Collection[str] = ()) -> pd.DataFrame:
    """Read a .csv (columns apart by comma, semicolon or tab; packed or not) or a .parquet.

    Parameters
    ----------
    path : Path
    target : str, optional
        Where it is text, "None" is one of its labels; elsewhere it is a gap.
    texts : collection of str
        Columns of a .csv that stay as they are written, although all that is in them may look like numbers.

    Raises
    ------
    InvalidData
        There is no such file, or it is no table.
    MissingDependency
        A .parquet needs pyarrow, a .zst needs zstandard.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InvalidData(f"{path} {found}; give a .csv, a .csv.gz or a .parquet")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path, target, texts)
    except InvalidData:
        raise
    except ImportError as error:
        needed = "zstandard" if path.suffix == ".zst" else "pyarrow"
        raise MissingDependency(
            f"{path} needs {needed} to be read: pip install {needed}, or give a .csv"
        ) from error
    except (*DAMAGED, *_zstandard_errors()) as error:
        raise InvalidData(
            f"{path} cannot be unpacked: {str(error).partition(chr(10))[0]}; it is damaged, or no "
            f"{path.suffix}: give a whole one, or a plain .csv"
        ) from error
    except UNREADABLE as error:
        raise InvalidData(f"{path} cannot be read as a table: {reason_of(error)}") from error
    table.columns = [str(name) for name in table.columns]
    if len(table) == 0:
        raise InvalidData(f"{path} has columns but no rows; give a table with some")
    return table


def _zstandard_errors() -> tuple[type[Exception], ...]:
    with contextlib.suppress(ImportError):
        return (importlib.import_module("zstandard").ZstdError,)
    return ()


def _read_csv(path: Path, target: str | None, texts: Collection[str]) -> pd.DataFrame:
    """Read it with the separator that its first line has, and commas in numbers if they are decimal ones."""
    header = [str(name) for name in pd.read_csv(path, nrows=0).columns]
    separator = ","
    if len(header) == 1:
        separator = next((mark for mark in (";", "\t") if mark in header[0]), ",")
    # All at once, as a column read in pieces may change its type on the way.
    as_they_are: dict[str, Any] = {"sep": separator, "low_memory": False, "dtype": dict.fromkeys(texts, str)}
    table = table_from_csv(path, **as_they_are)
    if separator != ",":
        other = table_from_csv(path, **as_they_are, decimal=",")
        numbers, with_commas = (len(each.select_dtypes("number").columns) for each in (table, other))
        table = other if with_commas > numbers else table
    if target not in table.columns:
        return table
    as_text: dict[str, Any] = {"sep": separator, "usecols": [target], "dtype": str}
    if pd.api.types.is_numeric_dtype(table[target]):
        some = table_from_csv(path, **as_text, nrows=SEEN_FOR_CODES)[target]
        if some.str.fullmatch(CODE).any():
            table[target] = table_from_csv(path, **as_text)[target]
    elif table[target].isna().any():
        literal = table_from_csv(path, **as_text, keep_default_na=False)
        table.loc[literal[target].to_numpy() == "None", target] = "None"
    return table


def read_target(table: pd.DataFrame, name: str, task: Kind | None, path: Path) -> Target:
    """Take the column to predict, and decide whether it is labels or numbers.

    Text, truth values and few different whole numbers are labels.

    Parameters
    ----------
    table : DataFrame
    name : str
    task : {"classification", "regression"}, optional
        Decided already.
    path : Path
        Of the table, for messages.

    Raises
    ------
    InvalidData
        There is no such column, no other one, or what is in it cannot be a target of that kind.
    """
    columns: list[str] = list(table.columns)
    if name not in columns:
        nearest = difflib.get_close_matches(name, columns, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        shown = ", ".join(columns[:10]) + (", …" if len(columns) > 10 else "")
        raise InvalidData(f"{path} has no column {name!r}: {hint}it has {shown}")
    if len(columns) == 1:
        raise InvalidData(f"{path} has no column but {name!r}; something to predict it from is needed")
    column: Any = table.iloc[:, columns.index(name)]
    if column.dtype.kind in "mM":
        raise InvalidData(
            f"the column {name!r} of {path} holds dates or times; give labels or numbers, perhaps days since "
            "some date"
        )
    numbers: Any = pd.to_numeric(column, errors="coerce")
    numbers = numbers.to_numpy(dtype=float, na_value=np.nan)
    finite = np.isfinite(numbers)
    is_text = column.notna().to_numpy() & np.isnan(numbers)
    texts, known = column[is_text], finite | is_text
    if not known.any():
        raise InvalidData(f"the column {name!r} of {path} is empty; rows with a target are needed")
    if len(texts) and (task == "regression" or (task is None and finite.sum() > NUMBERS * known.sum())):
        raise InvalidData(
            f"the column {name!r} of {path} holds {int(finite.sum())} numbers and {len(texts)} other values, "
            f"{str(texts.iloc[0])!r} for one; correct these, or give --task classification"
        )
    values = numbers[known]
    has_texts = len(texts) > 0 or any(isinstance(value, str) and CODE.fullmatch(value) for value in column)
    labels = _labels(column[known], values, has_texts=has_texts)
    if task is None:
        task = "classification" if has_texts or _are_labels(labels) else "regression"
    return Target(labels if task == "classification" else values, task, known)


def _labels(column: Any, values: np.ndarray, *, has_texts: bool) -> np.ndarray:
    """Return truth values, whole numbers, or text."""
    if all(isinstance(value, bool | np.bool_) for value in column):
        return column.to_numpy(dtype=bool)
    if not has_texts and (values == np.round(values)).all() and np.abs(values).max() < 2**53:
        return values.astype(np.int64)
    return np.array([str(value) for value in column])


def _are_labels(labels: np.ndarray) -> bool:
    """Whether a column without other text is labels: truth values, or few different whole numbers."""
    n_different = len(np.unique(labels))
    few = n_different <= max(2, min(MOST_CLASSES, len(labels) // ROWS_PER_CLASS))
    return labels.dtype.kind == "b" or (labels.dtype.kind == "i" and few)


def keep_aside(target: Target, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows for the test, classes in proportion; a class with one or two rows stays whole.

    Parameters
    ----------
    target : Target
    share : float
        Of the rows, at most a half.
    seed : int

    Returns
    -------
    searched, kept : ndarray of int
        Places in ``target.y``, in order.
    """
    rng = np.random.default_rng(seed)
    n = len(target.y)
    groups = np.zeros(n, dtype=np.int64)
    if target.kind == "classification":
        groups = np.unique(target.y, return_inverse=True)[1]
    sizes = np.bincount(groups)
    place = np.empty(n)
    for group, size in enumerate(sizes):
        # Evenly spread over 0…1 from a random start, so that small classes are kept in proportion on average.
        place[rng.permutation(np.flatnonzero(groups == group))] = (np.arange(size) + rng.random()) / size
    kept = (place < share) & (sizes[groups] > 2)
    return np.flatnonzero(~kept), np.flatnonzero(kept)


def _groups(rows: Any, name: str, target: str, path: Path, least: int) -> np.ndarray:
    """Return the group of each row as a number, as the estimators do."""
    if name not in rows.columns:
        why = "is the target" if name == target else f"is no column of {path}"
        near = ", ".join(map(str, rows.columns[:10]))
        raise InvalidData(f"--groups {name!r} {why}; its other columns are {near}")
    if len(rows.columns) == 1:
        raise InvalidData(f"{path} has no column left to learn from but {target!r} and {name!r}")
    numbers = np.asarray(groups_of(rows[name], rows))
    if (n := len(np.unique(numbers))) < least:
        raise InvalidData(
            f"--groups {name!r} has {n} different values; {least} are needed, to learn from, to judge on and "
            "to test on (with --test-size 0 two are enough)"
        )
    return numbers


def keep_groups_aside(
    target: Target, groups: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole groups for the test; two at least are left, and rows of every class.

    Parameters
    ----------
    target : Target
    groups : ndarray of int, shape (n_rows,)
    share : float
        Of the rows, at most a half; about as many are kept.
    seed : int

    Returns
    -------
    searched, kept : ndarray of int
        Places in ``target.y``, in order.
    """
    n, classes = len(target.y), np.zeros(len(target.y), dtype=np.int64)
    if target.kind == "classification":
        classes = np.unique(target.y, return_inverse=True)[1]
    left, kept = np.bincount(classes), np.zeros(n, dtype=bool)
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    for group in order[:-2]:
        rows = groups == group
        of_each = np.bincount(classes[rows], minlength=len(left))
        if kept.sum() + rows.sum() / 2 <= share * n and (left > of_each).all():
            kept |= rows
            left = left - of_each
    return np.flatnonzero(~kept), np.flatnonzero(kept)


@contextlib.contextmanager
def telling_warnings(console: Console) -> Generator[None]:
    """Print warnings for users as notes, each once, when the work is done."""
    with warnings.catch_warnings(record=True) as noticed:
        warnings.simplefilter("always", UserWarning)
        yield
    for message in dict.fromkeys(str(w.message) for w in noticed if issubclass(w.category, UserWarning)):
        console.print(f"note: {message}", markup=False, soft_wrap=True)
