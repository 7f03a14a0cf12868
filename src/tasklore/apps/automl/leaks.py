"""Columns that give the target away."""

import warnings

import numpy as np
import pandas as pd

from .measuring import Problem

__all__ = ["warn_of_leaks"]

LEAK = 0.9999
"""A single column that tells the target as well as this is taken for a leak."""


def warn_of_leaks(problem: Problem) -> None:
    """Warn if a single column is the target in another form."""
    problem = problem.sample(2000)
    y = problem.y
    names = problem.schema.of_kind("number")
    for name, x in zip(names, problem.table[names].to_numpy(np.float64).T, strict=True):
        if problem.kind == "regression":
            known = np.isfinite(x)
            if known.sum() > 10 and x[known].std() > 0 and y[known].std() > 0:
                told = abs(float(np.corrcoef(x[known], y[known])[0, 1])) > LEAK
            else:
                told = False
        else:
            told = len(y) > 10 and _tells(x, y)
        if told:
            warnings.warn(_leak(name), UserWarning, stacklevel=3)
    if problem.kind == "classification":
        for name in problem.schema.of_kind("category", "boolean"):
            codes = pd.factorize(problem.table[name])[0]
            if len(y) > 10 and _tells(codes.astype(np.float64), y):
                warnings.warn(_leak(name), UserWarning, stacklevel=3)


def _tells(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether each value belongs to one class, and there are no more values than classes."""
    values = np.unique(x[:200])
    if len(values) > int(y.max()) + 1 or len(y) < 5 * len(values):
        return False
    pairs = np.unique(np.column_stack([np.nan_to_num(x, nan=-1e31), y]), axis=0)
    return len(pairs) == int(y.max()) + 1 == len(np.unique(pairs[:, 0]))


def _leak(name: str) -> str:
    return (
        f"the column {name!r} tells the target without fault, which looks like leakage: leave it out if it "
        "will not be known when predicting"
    )
