# ruff: noqa: N803 - scikit-learn calls the rows X
"""What a search chose as scikit-learn's own parts, and what these cannot take that Tasklore can."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, issparse
from sklearn.ensemble import VotingClassifier, VotingRegressor

from ...errors import InvalidData
from .pipelines import Kind
from .tables import LARGEST, ColumnKind, Schema
from .trials import Blend

__all__ = ["pipeline_of", "unsuited"]

AT_ONCE = 1_000_000  # cells
BEYOND = f"numbers that are infinite or beyond {LARGEST:g}; leave gaps there, NaN"


def pipeline_of(blend: Blend, schema: Schema, kind: Kind, unsuited: Mapping[str, str]) -> Any:
    """Return the members of a blend as one estimator that is not fitted and takes rows as they were given.

    Parameters
    ----------
    blend : Blend
    schema : Schema
    kind : {"classification", "regression"}
    unsuited : mapping of str to str
        Columns that scikit-learn's parts cannot take as they were given, and why; see :func:`unsuited`.

    Raises
    ------
    InvalidData
        A step is Tasklore's own, or a column that is used is among these.
    """
    own = [candidate.name for _, candidate, _ in blend.members if candidate.needs_tasklore(schema)]
    if own:
        raise InvalidData(
            f"{', '.join(own)} use steps that scikit-learn lacks (dates in parts, texts of several "
            "columns, categories by frequency, or convolutions), so this pipeline needs Tasklore; save "
            "the model with save() instead"
        )
    used = schema.of_kind("number", "category", "boolean") or [schema.columns[0].name]
    if wrong := [f"{name!r} ({unsuited[name]})" for name in used if name in unsuited]:
        raise InvalidData(
            f"scikit-learn cannot take these columns as they were given to fit: {', '.join(wrong[:5])}"
            f"{', …' if len(wrong) > 5 else ''}; fit again with plain columns, whose names differ: finite "
            "numbers, texts, truth values or categories. Or save the model with save() instead"
        )
    parts = [
        (candidate.name, candidate.sized(fitted).build(schema, kind, 0, raw=True))
        for _, candidate, fitted in blend.members
    ]
    if len(parts) == 1:
        return parts[0][1]
    weights = [weight for weight, _, _ in blend.members]
    if kind == "classification":
        return VotingClassifier(parts, voting="soft", weights=weights)
    return VotingRegressor(parts, weights=weights)


def unsuited(X: Any, schema: Schema) -> dict[str, str]:
    """Return the columns of a table that scikit-learn's parts cannot take as they are, and why.

    Parameters
    ----------
    X : DataFrame, array-like or sparse matrix
        What the schema was learned from.
    schema : Schema
    """
    names = [column.name for column in schema.columns]
    if issparse(X):
        entries: Any = coo_array(X)
        beyond = np.unique(entries.coords[1][np.abs(entries.data.astype(np.float64)) > LARGEST])
        return {names[place]: BEYOND for place in beyond}
    if not isinstance(X, pd.DataFrame) and (block := np.asarray(X)).dtype.kind in "iuf":
        return {names[place]: BEYOND for place in np.flatnonzero(_beyond(block))}
    frame: Any = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    plain = np.array([isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in frame.dtypes])
    block = np.asarray(frame if plain.all() else frame.loc[:, plain])
    found = {names[place]: BEYOND for place in np.flatnonzero(plain)[_beyond(block)]}
    for place, column in enumerate(schema.columns):
        if not plain[place] and (why := _why_unsuited(frame.iloc[:, place], column.kind)):
            found[column.name] = why
    if not frame.columns.is_unique:
        twice = frame.columns.duplicated(keep=False)
        found |= {
            name: "another one has this name" for name, other in zip(names, twice, strict=True) if other
        }
    return found


def _beyond(block: np.ndarray) -> np.ndarray:
    """Return which columns hold a number that is infinite or too large; some rows at a time."""
    most = np.float64(
        LARGEST
    )  # of this type, so that nothing is compared in half precision, where it is infinite
    step = max(1, AT_ONCE // max(1, block.shape[1]))
    parts = (block[start : start + step] for start in range(0, len(block), step))
    return np.logical_or.reduce([((part > most) | (part < -most)).any(0) for part in parts])


def _why_unsuited(raw: Any, kind: ColumnKind) -> str:
    """Return why a column that is not of numpy's numbers is not plain either; empty if it is."""
    if kind not in ("number", "category", "boolean"):
        return ""
    if isinstance(raw.dtype, pd.CategoricalDtype):
        mixed = pd.api.types.infer_dtype(raw.cat.categories).startswith("mixed")
        return "categories of several types; take .astype(str)" if mixed else ""
    if pd.api.types.is_timedelta64_dtype(raw.dtype):
        return "lengths of time; take .dt.total_seconds()"
    missing = raw.isna()
    if not isinstance(raw.dtype, pd.BooleanDtype) and any(gap is pd.NA for gap in raw[missing]):
        return "gaps that are pandas.NA; take .astype(float) for numbers, or put None there"
    if kind == "number":
        values = np.asarray(pd.to_numeric(raw[~missing], errors="coerce"), dtype=np.float64)
        finite = (np.abs(values) <= LARGEST).all()
        return "" if finite else "what is no number, or no finite one; leave gaps there"
    if pd.api.types.infer_dtype(raw, skipna=True) not in ("string", "boolean", "empty"):
        return "values of several types, or of a rare one; take .astype(str)"
    return ""
