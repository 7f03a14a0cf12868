# ruff: noqa: N803 - scikit-learn calls the rows X
"""Texts in columns of numbers, which become gaps."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from .tables import Schema, Table

__all__ = ["warn_of_lost_texts"]

GAPS = {"", "nan"}  # texts that say themselves that nothing is there, in small letters and without spaces
N_NAMED = 3


def warn_of_lost_texts(X: Any, schema: Schema, table: Table) -> None:
    """Warn, once for all columns, if texts where numbers are needed were taken as missing.

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
    numbers = {column.name for column in schema.columns if column.kind == "number"}
    found: dict[str, str] = {}
    for place, name in enumerate(names):
        if name not in numbers or name in found or not pd.api.types.is_string_dtype(frame.dtypes.iloc[place]):
            continue
        given = frame.iloc[:, place]
        lost: set[str] = {
            str(value) for value in given[given.notna().to_numpy() & table[name].isna().to_numpy()]
        }
        if lost := {text for text in lost if text.strip().lower() not in GAPS}:
            found[name] = min(lost)[:30]
    if found:
        named = [f"{name!r} ({text!r})" for name, text in found.items()]
        shown = ", ".join(named[:N_NAMED]) + (", …" if len(named) > N_NAMED else "")
        warnings.warn(
            f"texts in columns of numbers are taken as missing: {shown}; write numbers with a decimal point "
            "and nothing else, and leave gaps empty",
            UserWarning,
            stacklevel=4,
        )
