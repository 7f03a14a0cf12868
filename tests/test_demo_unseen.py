"""What the demo shows AutoML on is new to the experience."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from automl_overlap import N_KEPT, SHAPES, alike, hashes, shapes, shared
from sklearn import datasets

from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.prior import TablePrior
from tasklore.cli.demo import TABLES

SKETCHES = Path(__file__).parent / "data" / "past-rows.npz"
KINDS: tuple[Kind, ...] = ("classification", "regression")
SUSPICIOUS = re.compile(
    # Not arff_breast_cancer: that is another table, from Ljubljana; nor wine_quality.
    "wisconsin|breast_?w|wdbc|wpbc|(^|_)wine$|wine_?rec|opt_?digits|pen_?digits|(^|_)digits|optical|diabet",
    re.IGNORECASE,
)
MOST_ALIKE = 0.2  # share of columns; by chance one in nine


def table_of(name: str) -> Any:
    """Return a data set of the demo, without its target."""
    return getattr(datasets, TABLES[name][0])(return_X_y=True, as_frame=True)[0]


@pytest.fixture(scope="module")
def sketches() -> dict[str, np.ndarray]:
    """Of the rows of each past table by its name, and of its columns by its name with an ending."""
    with np.load(SKETCHES) as held:
        return dict(held)


def test_no_family_of_the_experience_is_shown() -> None:
    assert all(SUSPICIOUS.search(name) for name in ("pmlb_wine_recognition", "uci_wine", "pmlb_optdigits"))
    for kind in KINDS:
        prior = TablePrior.shipped(kind)
        assert not [name for name in (*prior.tasks, *prior.families) if SUSPICIOUS.search(name)]


def test_every_past_table_has_a_sketch(sketches: dict[str, np.ndarray]) -> None:
    for kind in KINDS:
        for name in TablePrior.shipped(kind).tasks:
            assert name in sketches
            assert name + SHAPES in sketches


@pytest.mark.parametrize("name", TABLES)
def test_no_row_of_the_experience_is_shown(name: str, sketches: dict[str, np.ndarray]) -> None:
    rows = hashes(table_of(name))
    assert len(rows) > 100
    found = {past: shared(rows, kept) for past, kept in sketches.items() if not past.endswith(SHAPES)}
    assert {past for past, (_, n_shared) in found.items() if n_shared} == set()
    assert np.median([n_judged for n_judged, _ in found.values()]) > 0


@pytest.mark.parametrize("name", TABLES)
def test_no_table_of_the_experience_is_shown_in_other_units(
    name: str, sketches: dict[str, np.ndarray]
) -> None:
    columns = shapes(table_of(name))
    assert len(columns) > 8
    found = {past: alike(columns, kept) for past, kept in sketches.items() if past.endswith(SHAPES)}
    assert {past for past, share in found.items() if share > MOST_ALIKE} == set()


def test_shared_rows_would_be_seen() -> None:
    frame = table_of("digits")
    rows = hashes(frame)
    turned = frame.iloc[::-1, ::-1] * 1.0000001  # other order of rows and columns, rounding
    assert (hashes(turned) == rows).all()
    judged, n_shared = shared(hashes(frame.iloc[:900]), rows[:N_KEPT])
    assert judged == n_shared > 50
    words = pd.DataFrame({"a": ["x", None, "1"], "b": [1, 2.5, 3]})
    assert len(hashes(words)) == 3
    assert shared(hashes(words), hashes(words.iloc[:2])) == (3, 2)


def test_a_table_in_other_units_would_be_seen() -> None:
    frame = table_of("diabetes")
    raw: Any = datasets.load_diabetes(return_X_y=True, as_frame=True, scaled=False)[0]
    assert shared(hashes(raw), hashes(frame))[1] == 0  # by rows it is not
    assert alike(shapes(raw), shapes(frame)) == 1.0
    assert alike(shapes(-2.5 * frame.iloc[::-1, ::-1] + 7), shapes(frame)) == 1.0
    assert alike(shapes(frame), shapes(table_of("wine"))) < MOST_ALIKE
    assert alike(shapes(frame), shapes(frame[["sex"]])) == 0.0  # of two values: nothing to compare by


@pytest.mark.skipif(
    "TASKLORE_DATA" not in os.environ, reason="TASKLORE_DATA names no folder with the past tables"
)
def test_sketches_are_those_of_the_past_tables(sketches: dict[str, np.ndarray]) -> None:
    folder = Path(os.environ["TASKLORE_DATA"]) / "tabular"
    manifest: Any = pd.read_csv(folder / "MANIFEST.csv")
    assert {*manifest["name"], *(manifest["name"] + SHAPES)} == set(sketches)
    assert not [name for name in manifest["name"] if SUSPICIOUS.search(name)]
    few = manifest[manifest["rows"] < 1000].sample(8, random_state=0)
    for name, file in few[["name", "file"]].itertuples(index=False):
        frame = pd.read_csv(folder / file, low_memory=False).drop(columns="target")
        rows, columns = hashes(frame), shapes(frame)
        np.testing.assert_array_equal(rows[:N_KEPT], sketches[name])
        np.testing.assert_allclose(columns, sketches[name + SHAPES], rtol=1e-4)
        judged, n_shared = shared(rows, sketches[name])  # a table that is there is found
        assert judged == n_shared > 0
        assert not len(columns) or alike(columns, sketches[name + SHAPES]) == 1.0
