"""What the demo shows AutoML on is new to the experience, and what it shows is there."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from automl_overlap import N_KEPT, hashes, shared
from sklearn import datasets
from typer.testing import CliRunner

from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.prior import TablePrior
from tasklore.cli import app
from tasklore.cli.demo import TABLES

SKETCHES = Path(__file__).parent / "data" / "past-rows.npz"
KINDS: tuple[Kind, ...] = ("classification", "regression")
SUSPICIOUS = re.compile("wisconsin|wdbc|wpbc|wine_?rec|optdigits|pendigits|^digits|diabet", re.IGNORECASE)


def table_of(name: str) -> Any:
    """Return a data set of the demo, without its target."""
    return getattr(datasets, TABLES[name][0])(return_X_y=True, as_frame=True)[0]


def test_no_family_of_the_experience_is_shown() -> None:
    for kind in KINDS:
        prior = TablePrior.shipped(kind)
        assert not [name for name in (*prior.tasks, *prior.families) if SUSPICIOUS.search(name)]


def test_every_past_table_has_a_sketch() -> None:
    with np.load(SKETCHES) as sketches:
        known = set(sketches.files)
    for kind in KINDS:
        assert set(TablePrior.shipped(kind).tasks) <= known


@pytest.mark.parametrize("name", TABLES)
def test_no_row_of_the_experience_is_shown(name: str) -> None:
    rows = hashes(table_of(name))
    assert len(rows) > 100
    with np.load(SKETCHES) as sketches:
        found = {past: shared(rows, sketches[past]) for past in sketches.files}
    assert {past for past, (_, n_shared) in found.items() if n_shared} == set()
    assert np.median([n_judged for n_judged, _ in found.values()]) > 0


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


@pytest.mark.skipif(
    "TASKLORE_DATA" not in os.environ, reason="TASKLORE_DATA names no folder with the past tables"
)
def test_sketches_are_those_of_the_past_tables() -> None:
    folder = Path(os.environ["TASKLORE_DATA"]) / "tabular"
    with np.load(SKETCHES) as sketches:
        manifest: Any = pd.read_csv(folder / "MANIFEST.csv")
        assert set(manifest["name"]) == set(sketches.files)
        few = manifest[manifest["rows"] < 1000].sample(8, random_state=0)
        for name, file in few[["name", "file"]].itertuples(index=False):
            rows = hashes(pd.read_csv(folder / file, low_memory=False).drop(columns="target"))
            np.testing.assert_array_equal(rows[:N_KEPT], sketches[name])


def test_the_demo_compares_and_remembers(tmp_path: Path) -> None:
    command = ["demo", "--only", "automl", "--budget", "2", "--store", str(tmp_path / "lore.db")]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    for word in (
        *TABLES,
        "Tasklore",
        "random search",
        "random forest",
        "boosting",
        "most like",
        "log loss ↓",
        "R² ↑",
    ):
        assert word in first.output
    assert "remembers breast" not in first.output
    again = CliRunner().invoke(app, command)
    assert "Your store remembers breast cancer, wine, digits, diabetes" in again.output
    assert "most like breast cancer" in again.output
