"""Experience is collected once, whole, and goes on where it stopped."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_iris

import tasklore.apps.automl.collecting as collecting
from tasklore.apps.automl.collecting import Collecting, Dataset, collect, read_manifest
from tasklore.apps.automl.losses import log_loss
from tasklore.apps.automl.pipelines import Candidate, Kind
from tasklore.apps.automl.portfolio import build_portfolio, read_experience
from tasklore.apps.automl.space import candidates
from tasklore.artifacts import load_artifact
from tasklore.errors import InvalidData, InvalidSetting
from tasklore.experience.records import EvaluationRecord, ModelRecord, RunRecord, TaskRecord
from tasklore.experience.store import open_store

FEW = {"constant", "lightgbm-quick", "logistic-1", "ridge-1", "tree-3", "neighbours-5"}
SETTINGS = Collecting(rows=120, seconds=60.0)


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a list of three data sets, and make the search space small."""

    def few(kind: Kind) -> dict[str, Candidate]:
        return {name: candidate for name, candidate in candidates(kind).items() if name in FEW}

    monkeypatch.setattr(collecting, "candidates", few)
    rows: list[tuple[str, str, str, str]] = []
    for name, loader, kind in (
        ("iris", load_iris, "classification"),
        ("iris again", load_iris, "classification"),
        ("diabetes", load_diabetes, "regression"),
    ):
        frame = loader(as_frame=True).frame  # pyright: ignore[reportAttributeAccessIssue]
        if name == "iris again":
            frame = frame.iloc[::-1]
        frame.to_csv(tmp_path / f"{name}.csv.gz", index=False)
        rows.append((name, f"{name}.csv.gz", kind, name.split()[0]))
    path = tmp_path / "list.csv"
    pd.DataFrame(rows, columns=["name", "file", "task", "family"]).to_csv(path, index=False)
    return path


def test_everything_is_remembered_once(manifest: Path, tmp_path: Path) -> None:
    datasets = read_manifest(manifest)
    assert [d.family for d in datasets] == ["iris", "iris", "diabetes"]
    with open_store(tmp_path / "lore.db") as store:
        assert collect(datasets[:1], store, tmp_path / "kept", SETTINGS) == 1
        assert collect(datasets, store, tmp_path / "kept", SETTINGS, n_workers=2) == 2
        assert collect(datasets, store, tmp_path / "kept", SETTINGS) == 0
        assert {t.name for t in store.find(TaskRecord)} == {d.name for d in datasets}
        iris = next(t for t in store.find(TaskRecord) if t.name == "iris")
        assert iris.descriptor["rows"] == pytest.approx(np.log1p(120))
        found = store.find(EvaluationRecord, {"task": iris.fingerprint})
        assert {e.method for e in found} == {
            "constant",
            "lightgbm-quick",
            "logistic-1",
            "tree-3",
            "neighbours-5",
        }
        (kept,) = store.find(ModelRecord, {"task": iris.fingerprint})
    tensors, metadata = load_artifact(tmp_path / "kept" / kept.path, "measurements", kept.checksum)
    measured = {entry["name"]: entry for entry in metadata["candidates"]}  # type: ignore[index,union-attr]
    assert measured["constant"]["losses"] == pytest.approx([np.log(3)] * 3, abs=1e-3)
    chances, y = tensors["predictions/logistic-1"].numpy(), tensors["y"].numpy()
    assert log_loss(y, chances) == pytest.approx(np.mean(measured["logistic-1"]["losses"]), abs=1e-3)
    assert log_loss(y, chances) < 0.3
    assert measured["logistic-1"]["megabytes"] > 10
    columns = [column["name"] for column in metadata["schema"]["columns"]]  # type: ignore[index,union-attr]
    assert columns == ["x0", "x1", "x2", "x3"], "no names of the table's own"
    assert not {"sepal", "petal", "target"} & set(re.findall("[a-z]+", str(metadata)))


def test_large_targets_keep_their_size(manifest: Path, tmp_path: Path) -> None:
    """Half precision ends at 65,504; house prices do not."""
    path = tmp_path / "diabetes.csv.gz"
    pd.read_csv(path).assign(target=lambda frame: frame["target"] * 1e4).to_csv(path, index=False)
    with open_store(tmp_path / "lore.db") as store:
        collect(read_manifest(manifest)[2:], store, tmp_path / "kept", SETTINGS)
        (measured,) = read_experience(store, tmp_path / "kept", "regression")
    assert measured.y.max() > 1e6
    values = measured.predictions["ridge-1"][:, 0]
    assert np.mean((values - measured.y) ** 2) / measured.y.var() == pytest.approx(
        measured.losses["ridge-1"], abs=0.05
    )


def test_hopeless_candidates_are_given_up(manifest: Path, tmp_path: Path) -> None:
    with open_store("memory:") as store:
        collect(read_manifest(manifest)[:1], store, tmp_path / "kept", Collecting(rows=120, hopeless=1e-6))
        lengths = {e.method: len(e.scores) for e in store.find(EvaluationRecord)}
    assert lengths["constant"] == 3
    assert min(lengths.values()) == 1


def test_what_cannot_be_collected_is_told(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="folds ≥ 2"):
        Collecting(folds=1)
    broken = Dataset("x", "regression", tmp_path / "none.csv", "x")
    with open_store("memory:") as store, pytest.raises((InvalidData, OSError), match=r"none\.csv"):
        collect([broken], store, tmp_path)
    wrong = Dataset("x", "regression", tmp_path / "iris.csv.gz", "x", target="weight")
    with open_store("memory:") as store, pytest.raises(InvalidData, match="no column 'weight'"):
        collect([wrong], store, tmp_path)
    (tmp_path / "bad.csv").write_text("name,file\n")
    with pytest.raises(InvalidData, match="lacks the columns family, task"):
        read_manifest(tmp_path / "bad.csv")


def test_the_command(manifest: Path, tmp_path: Path, home: Path) -> None:
    from typer.testing import CliRunner

    from tasklore.cli import app

    table = pd.read_csv(manifest)
    table[table["name"] == "diabetes"].to_csv(manifest, index=False)
    command = ["collect", str(manifest), "--rows", "60", "--seconds", "60"]
    first = CliRunner().invoke(app, command)
    assert "1 of 1 data sets were added" in first.output, first.output
    assert "0 of 1 data sets were added" in CliRunner().invoke(app, command).output
    with open_store() as store:
        experience = read_experience(store, home / "artifacts", "regression")
    assert [measured.name for measured in experience] == ["diabetes"]
    assert build_portfolio(experience)[0] in FEW
    assert experience[0].trivial == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,file,task,family\na,a.csv,Classification,a\n", "tasks are classification or regression"),
        ("", "cannot be read as a list"),
        ("name,file\na,a.csv\n", "lacks the columns family, task"),
    ],
)
def test_a_list_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(InvalidData, match=message):
        read_manifest(tmp_path / "list.csv")


def test_several_stores_may_share_a_folder_of_artifacts(manifest: Path, tmp_path: Path) -> None:
    datasets, kept = read_manifest(manifest)[:1], tmp_path / "kept"
    for name in ("a.db", "b.db"):
        with open_store(tmp_path / name) as store:
            assert collect(datasets, store, kept, SETTINGS) == 1
    for name in ("a.db", "b.db"):
        with open_store(tmp_path / name) as store:
            assert store.verify(kept) == []
            assert len(read_experience(store, kept, "classification")) == 1


def test_what_was_erased_is_not_collected_for_nothing(manifest: Path, tmp_path: Path) -> None:
    datasets, kept = read_manifest(manifest)[:1], tmp_path / "kept"
    with open_store(tmp_path / "lore.db") as store:
        assert collect(datasets, store, kept, SETTINGS) == 1
        store.erase(store.find(RunRecord)[0].id, "measured on a busy machine")
        assert collect(datasets, store, kept, SETTINGS) == 1
        assert len(store.find(ModelRecord)) == 1, "a run that was erased does not hide later ones"
        store.erase(store.find(TaskRecord)[0].id, "its owner asked for it")
        assert collect(datasets, store, kept, SETTINGS) == 0
