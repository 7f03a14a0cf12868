# ruff: noqa: N803 - scikit-learn calls the rows X
"""Values that are no numbers, or no dates, where such are needed: they become gaps."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from .tables import Schema, Table

__all__ = ["warn_of_lost_texts"]

WANTED = {
    "number": (
        "texts in columns of numbers",
        "write numbers with a decimal point and nothing else, and leave gaps empty",
    ),
    "date": (
        "values in columns of dates that are no dates",
        "write dates as when the model was fitted; of numbers nobody knows what they count: "
        "pd.to_datetime(column, unit='s') perhaps",
    ),
}
"""By kind of column: what was lost there, and what to do about it."""

GAPS = {"", "nan"}  # texts that say themselves that nothing is there, in small letters and without spaces
N_NAMED = 3


def warn_of_lost_texts(X: Any, schema: Schema, table: Table) -> None:
    """Warn, once for all columns, if values were taken as missing: texts among numbers, and what is no date.

    Parameters
    ----------
    X : DataFrame, array-like or sparse matrix
        As it was given.
    schema : Schema
    table : Table
        What the schema made of it.
    """
    if issparse(X) or (isinstance(X, np.ndarray) and X.dtype.kind in "biufc"):
        return
    frame: Any = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    by_name = schema.named and isinstance(X, pd.DataFrame)
    names = [str(name) for name in frame.columns] if by_name else [column.name for column in schema.columns]
    kinds = {column.name: column.kind for column in schema.columns if column.kind in WANTED}
    found: dict[str, dict[str, str]] = {kind: {} for kind in WANTED}
    for place, (name, dtype) in enumerate(zip(names, frame.dtypes, strict=True)):
        kind = kinds.pop(name, "")  # of columns of one name, the first counts
        if not kind or (kind == "number" and not pd.api.types.is_string_dtype(dtype)):
            continue
        given = frame.iloc[:, place]
        lost: set[str] = {
            str(value) for value in given[given.notna().to_numpy() & table[name].isna().to_numpy()]
        }
        if lost := {text for text in lost if text.strip().lower() not in GAPS}:
            found[kind][name] = min(lost)[:30]
    for kind, lost_there in found.items():
        if lost_there:
            named = [f"{name!r} ({text!r})" for name, text in lost_there.items()]
            shown = ", ".join(named[:N_NAMED]) + (", …" if len(named) > N_NAMED else "")
            what, cure = WANTED[kind]
            warnings.warn(f"{what} are taken as missing: {shown}; {cure}", UserWarning, stacklevel=4)
