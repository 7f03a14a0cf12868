"""Which tables the shipped experience was learned from, as sketches: no value can be read from them.

    python benchmarks/automl_overlap.py DATA/MANIFEST.csv tests/data/past-rows.npz

Of every past table the smallest hashes of its rows are kept, 256 at most. A row of another table that hashes
below the largest of these is in the past table if, and only if, its hash is among them; small tables are kept
whole. Rows count as equal if their numbers agree in four digits, in whatever order the columns stand.

The same table in other units has other rows. For that the shapes of its columns are kept as well: skewness
and kurtosis, which neither a unit nor the order of the rows changes.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasklore.apps.automl.collecting import read_manifest

N_KEPT = 256
LEAST_VALUES = 10  # columns with fewer different ones are alike by chance
MOST_COLUMNS = 256
CLOSE = 5e-3
SHAPES = " shapes"  # what the names of these arrays end with


def hashes(frame: pd.DataFrame) -> np.ndarray:
    """Return a number for each different row, uint64, sorted.

    Parameters
    ----------
    frame : DataFrame
        Without the target.
    """
    columns = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in column]
        for column in (_values(frame.iloc[:, place]) for place in range(frame.shape[1]))
    ]
    rows = {"|".join(sorted(row)) for row in zip(*columns, strict=True)}
    found = [int.from_bytes(hashlib.blake2b(row.encode(), digest_size=8).digest(), "big") for row in rows]
    return np.sort(np.array(found, dtype=np.uint64))


def shared(rows: np.ndarray, kept: np.ndarray) -> tuple[int, int]:
    """Return how many rows of a table a sketch can speak of, and how many of these it holds.

    Parameters
    ----------
    rows : ndarray
        Hashes of the table.
    kept : ndarray
        The sketch of another.
    """
    judged = rows if len(kept) < N_KEPT else rows[rows <= kept[-1]]
    return len(judged), int(np.isin(judged, kept).sum())


def shapes(frame: pd.DataFrame) -> np.ndarray:
    """Return size of skewness, and kurtosis, of the columns of numbers with many values.

    Parameters
    ----------
    frame : DataFrame
        Without the target.

    Returns
    -------
    ndarray of float32, shape (n, 2)
    """
    found: list[tuple[float, float]] = []
    for place in range(min(frame.shape[1], MOST_COLUMNS)):
        known: Any = pd.to_numeric(frame.iloc[:, place], errors="coerce")
        values = known.dropna().to_numpy(dtype=np.float64)
        if len(np.unique(values)) < LEAST_VALUES:
            continue
        standard = (values - values.mean()) / values.std()
        found.append((abs(float((standard**3).mean())), float((standard**4).mean())))
    return np.array(found, dtype=np.float32).reshape(-1, 2)


def alike(columns: np.ndarray, kept: np.ndarray) -> float:
    """Return the share of the columns of a table that another has a column of the same shape for.

    Parameters
    ----------
    columns, kept : ndarray, shape (n, 2)
        What :func:`shapes` gave.
    """
    if not len(columns) or not len(kept):
        return 0.0
    close: Any = np.abs(columns[:, None] - kept) < CLOSE * (1 + columns[:, None])
    return float(close.all(axis=2).any(axis=1).mean())


def _values(column: Any) -> list[object]:
    known: Any = pd.to_numeric(column, errors="coerce")
    numbers = known.astype(float)
    whole = column.notna() & numbers.isna()
    return [
        str(value) if text else number for value, number, text in zip(column, numbers, whole, strict=True)
    ]


def main() -> None:
    """Write the sketches."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="list of tables")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for dataset in read_manifest(arguments.manifest):
        frame = pd.read_csv(dataset.path, low_memory=False).drop(columns=dataset.target)
        found[dataset.name] = hashes(frame)[:N_KEPT]
        found[dataset.name + SHAPES] = shapes(frame)
    np.savez_compressed(arguments.output, **found)


if __name__ == "__main__":
    main()
