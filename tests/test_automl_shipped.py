"""What the package ships about past tables, and the command that builds it again from what was collected."""

import dataclasses
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris, load_wine
from typer.testing import CliRunner

import tasklore.apps.automl.collecting as collecting
from tasklore.apps.automl.collecting import Collecting, Dataset, collect
from tasklore.apps.automl.descriptors import NAMES
from tasklore.apps.automl.learning import KINDS
from tasklore.apps.automl.pipelines import Candidate, Kind
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.space import candidates
from tasklore.artifacts import load_arrays
from tasklore.cli import app
from tasklore.experience.records import ModelRecord, RunRecord
from tasklore.experience.store import open_store

SHIPPED = Path(collecting.__file__).parent / "shipped"
MOST_BYTES = 3 << 20
FEW = {"constant", "lightgbm-quick", "logistic-1", "ridge-1", "tree-3"}


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Collect parts of small tables, one of them twice; return the folder with store and artifacts."""

    def few(kind: Kind) -> dict[str, Candidate]:
        return {name: candidate for name, candidate in candidates(kind).items() if name in FEW}

    monkeypatch.setattr(collecting, "candidates", few)
    rng = np.random.default_rng(0)
    loaders = {"iris": load_iris, "wine": load_wine, "diabetes": load_diabetes}
    datasets: list[Dataset] = []
    for name, loader in loaders.items():
        loaded: Any = loader(as_frame=True)
        kind: Kind = "regression" if name == "diabetes" else "classification"
        for part in range(4):
            path = tmp_path / f"{name}-{part}.csv"
            loaded.frame.iloc[rng.permutation(len(loaded.frame))[:90]].to_csv(path, index=False)
            family = f"{name}-{part % 2}" if kind == "regression" else name
            datasets.append(Dataset(f"{name}-{part}", kind, path, family))
    with open_store(tmp_path / "lore.db") as store:
        artifacts = tmp_path / "artifacts"
        assert collect(datasets[:1], store, artifacts, Collecting(rows=40, seconds=60.0)) == 1
        assert collect(datasets, store, artifacts, Collecting(rows=80, seconds=60.0), n_workers=2) == 12
    return tmp_path


def learn(store: Path, artifacts: Path, to: Path) -> str:
    """Give the command; return what it prints."""
    command = ["lore", "learn", "--store", str(store), "--artifacts", str(artifacts), "--to", str(to)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def same(one: TablePrior, other: TablePrior) -> None:
    """Compare exactly, the bytes of arrays included."""
    for field in dataclasses.fields(TablePrior):
        mine, yours = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            assert (mine.dtype, mine.shape, mine.tobytes()) == (yours.dtype, yours.shape, yours.tobytes())
        else:
            assert mine == yours


def test_the_order_of_records_does_not_matter(collected: Path, tmp_path: Path) -> None:
    """Two halves of the records, merged either way round, and learned from twice."""
    with open_store(collected / "lore.db") as store:
        records = list(store.find(ModelRecord))
        runs = list(store.find(RunRecord))
    assert len(records) == 13
    random.Random(0).shuffle(records)
    for name, half in (("first", records[:7]), ("second", records[7:])):
        with open_store(tmp_path / f"{name}.db") as store:
            store.add_all([*runs, *half])
            store.export(tmp_path / f"{name}.jsonl")
    for into, other in (("first", "second"), ("second", "first")):
        with open_store(tmp_path / f"{into}.db") as store:
            store.merge(tmp_path / f"{other}.jsonl")
    stores = [collected / "lore.db", tmp_path / "first.db", tmp_path / "second.db", tmp_path / "first.db"]
    for index, path in enumerate(stores):
        shown = learn(path, collected / "artifacts", tmp_path / f"learned-{index}")
        assert "8 tables of 2 families, 4 candidates" in shown
        assert "4 tables of 2 families, 4 candidates" in shown
        assert "score on held-out families" in shown
        with open_store(path) as store:
            assert [*store.find(RunRecord)] == runs or path == collected / "lore.db", "it is left as it is"
    for kind in KINDS:
        files = [tmp_path / f"learned-{index}" / f"{kind}.safetensors" for index in range(len(stores))]
        priors = [TablePrior.load(file) for file in files]
        for prior, file in zip(priors, files, strict=True):
            same(prior, priors[0])
            assert file.read_bytes() == files[0].read_bytes()
        names = list(NAMES[kind])
        rows = np.expm1(priors[0].descriptors[:, names.index("rows")])
        assert rows == pytest.approx(80), "the latest measurements of a table count"


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db"):
        pass
    command = ["lore", "learn", "--store", str(tmp_path / "lore.db"), "--to", str(tmp_path / "learned")]
    done = CliRunner().invoke(app, command)
    assert "run `tasklore collect` first" in str(done.exception)
    assert list((tmp_path / "learned").iterdir()) == []
    done = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "lore.db")])
    assert "choose another folder" in str(done.exception)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shipped_is_of_this_version(kind: Kind) -> None:
    arrays, metadata = load_arrays(SHIPPED / f"{kind}.safetensors", "table-prior")
    assert metadata["descriptor_names"] == list(NAMES[kind])
    prior = TablePrior.load(SHIPPED / f"{kind}.safetensors")
    space = candidates(kind)
    assert set(prior.candidates) <= set(space)
    assert set(prior.portfolio) <= set(prior.candidates)
    assert len(set(prior.portfolio)) == len(prior.portfolio) > 0
    assert list(prior.tasks) == sorted(set(prior.tasks))
    assert np.isfinite(prior.descriptors).all()
    # No rows: three arrays with one line for each table, and numbers of which each is about a whole table.
    shape = {
        "losses": len(prior.candidates),
        "seconds": len(prior.candidates),
        "descriptors": len(NAMES[kind]),
    }
    assert {name: array.shape for name, array in arrays.items()} == {
        name: (len(prior.tasks), width) for name, width in shape.items()
    }
    assert set(metadata) == {"kind", "portfolio", "candidates", "tasks", "families", "descriptor_names"}


def test_what_is_shipped_is_small() -> None:
    files = list(SHIPPED.iterdir())
    assert sorted(file.name for file in files) == [f"{kind}.safetensors" for kind in KINDS]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


def test_what_is_shipped_was_learned_from_the_collection(tmp_path: Path) -> None:
    given = os.environ.get("TASKLORE_EXPERIENCE")
    if not given:
        pytest.skip(
            "TASKLORE_EXPERIENCE names no folder with the lore.db and artifacts/ of the collection that the "
            "shipped files were learned from"
        )
    source = sqlite3.connect(f"file:{Path(given) / 'lore.db'}?mode=ro", uri=True)
    copy = sqlite3.connect(tmp_path / "lore.db")
    source.backup(copy)
    for connection in (source, copy):
        connection.close()
    learn(tmp_path / "lore.db", Path(given) / "artifacts", tmp_path / "learned")
    for kind in KINDS:
        name = f"{kind}.safetensors"
        same(TablePrior.load(tmp_path / "learned" / name), TablePrior.load(SHIPPED / name))
        assert (tmp_path / "learned" / name).read_bytes() == (SHIPPED / name).read_bytes()
