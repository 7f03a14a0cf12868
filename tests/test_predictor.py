"""A predictor refuses bad examples before any work, survives a save, and is never half loaded."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tasklore.artifacts import load_artifact, save_artifact
from tasklore.errors import DamagedArtifact, InvalidData
from tasklore.learners.base import Learner
from tasklore.learners.gradient import MAML
from tasklore.learners.metric import Prototypes
from tasklore.nets import MLP
from tasklore.predictor import Predictor
from tasklore.registry import learners
from tasklore.state import Prior
from tasklore.types import TaskSpec

SHAPE = (1, 4, 4)
CLASSIFICATION = TaskSpec("classification", SHAPE, 3)


def prior_of(learner: Learner, spec: TaskSpec = CLASSIFICATION) -> Prior:
    return Prior(learner, learner.init(spec, torch.Generator().manual_seed(0)), spec)


@pytest.fixture(params=["maml", "prototypes"])
def prior(request: pytest.FixtureRequest) -> Prior:
    net = MLP((8,))
    return prior_of(MAML(net, step_size=0.5, test_steps=20) if request.param == "maml" else Prototypes(net))


def blobs(n_classes: int = 3, each: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(n_classes, 1, *SHAPE))
    x = centres + 0.1 * rng.normal(size=(n_classes, each, *SHAPE))
    return x.reshape(-1, *SHAPE), np.repeat([f"class {i}" for i in range(n_classes)], each)


def test_learns_a_task_and_names_its_classes(prior: Prior) -> None:
    x, y = blobs()
    before = {name: tensor.clone() for name, tensor in prior.params.items()}
    predictor = Predictor.adapt(prior, x, y)
    chances = predictor.predict_proba(x)
    assert predictor.labels == ("class 0", "class 1", "class 2")
    assert (predictor.predict(x) == y).all()
    assert chances.shape == (15, 3)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in prior.params.items())


def test_flat_rows_are_the_same_examples(prior: Prior) -> None:
    x, y = blobs()
    flat = x.reshape(len(x), -1)
    np.testing.assert_array_equal(
        Predictor.adapt(prior, flat, y).predict_proba(flat), Predictor.adapt(prior, x, y).predict_proba(x)
    )


def test_a_saved_predictor_predicts_the_same(prior: Prior, tmp_path: Path) -> None:
    x, y = blobs()
    predictor = Predictor.adapt(prior, x, y)
    predictor.save(tmp_path / "p.safetensors")
    loaded = Predictor.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(x), predictor.predict_proba(x))
    assert loaded.labels == predictor.labels


NETS = [
    name
    for name in learners.names()
    if "net" in learners.get(name).__dataclass_fields__ and "classification" in learners.get(name).tags.kinds
]


@pytest.mark.parametrize("name", NETS)
def test_a_saved_predictor_of_any_learner_loads(name: str, tmp_path: Path) -> None:
    x, y = blobs()
    learner = learners.get(name)(MLP((8,)))
    predictor = Predictor.adapt(prior_of(learner), x, y)
    predictor.save(tmp_path / "p.safetensors")
    loaded = Predictor.load(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(x), predictor.predict_proba(x))


def test_fewer_classes_than_the_prior_provides_for(prior: Prior) -> None:
    x, y = blobs(2)
    predictor = Predictor.adapt(prior, x, y)
    assert predictor.predict_proba(x).shape == (10, 2)
    assert (predictor.predict(x) == y).all()


def test_regression() -> None:
    spec = TaskSpec("regression", (1,), 1)
    learner = MAML(MLP((20,)), step_size=0.05, test_steps=50)
    x = np.linspace(-1, 1, 20)[:, None]
    predictor = Predictor.adapt(prior_of(learner, spec), x, 2 * x[:, 0])
    assert predictor.labels == ()
    assert predictor.predict(x).shape == (20,)
    assert np.mean((predictor.predict(x) - 2 * x[:, 0]) ** 2) < 0.2
    with pytest.raises(InvalidData, match="no classes"):
        predictor.predict_proba(x)
    with pytest.raises(InvalidData, match="target is not one"):
        Predictor.adapt(prior_of(learner, spec), x, np.array(["a"] * 20))
    with pytest.raises(InvalidData, match="targets are NaN"):
        Predictor.adapt(prior_of(learner, spec), x, np.full(20, np.nan))


def spoilt(x: np.ndarray, value: float) -> np.ndarray:
    x = x.copy()
    x[0, 0, 0, 0] = value
    return x


X, Y = blobs()
BAD_SUPPORT = {
    "NaN": (spoilt(X, np.nan), Y, "NaN"),
    "infinite": (spoilt(X, np.inf), Y, "infinite"),
    "too large": (spoilt(X, 1e300), Y, "too large"),
    "empty": (X[:0], Y[:0], "no examples"),
    "one class": (X[:5], Y[:5], "two classes"),
    "wrong shape": (X[..., :3], Y, "shape"),
    "same size, other shape": (X.transpose(0, 2, 1, 3), Y, "shape"),
    "a label too few": (X, Y[:-1], "15 examples came with 14"),
    "text": (np.full(X.shape, "a"), Y, "numbers are needed"),
    "a label missing": (X, np.array([*Y[:-1].tolist(), None], dtype=object), "1 of 15 labels are missing"),
    "a label is NaN": (X, np.array([*range(14), np.nan]), "1 of 15 labels are missing, the first in row 14"),
    "a label is NA": (X, np.array([*range(14), pd.NA], dtype=object), "1 of 15 labels are missing"),
    "a scalar": (np.array(1.0), Y, "no examples"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("case", BAD_SUPPORT)
def test_bad_support_is_refused(prior: Prior, case: str) -> None:
    x, y, message = BAD_SUPPORT[case]
    with pytest.raises(InvalidData, match=message):
        Predictor.adapt(prior, x, y)


def test_more_classes_than_outputs() -> None:
    x, y = blobs(4)
    with pytest.raises(InvalidData, match="at most 3"):
        Predictor.adapt(prior_of(MAML(MLP((8,)))), x, y)
    assert len(Predictor.adapt(prior_of(Prototypes(MLP((8,)))), x, y).labels) == 4  # needs no output layer


@pytest.mark.parametrize("case", ["NaN", "infinite", "empty", "wrong shape", "text"])
def test_bad_queries_are_refused(prior: Prior, case: str) -> None:
    x, _, message = BAD_SUPPORT[case]
    with pytest.raises(InvalidData, match=message):
        Predictor.adapt(prior, X, Y).predict(x)


@pytest.mark.parametrize("what", ["learner", "spec", "labels", "weight", "truncated", "kind"])
def test_damage_is_named_and_nothing_is_loaded(prior: Prior, tmp_path: Path, what: str) -> None:
    path = tmp_path / "p.safetensors"
    Predictor.adapt(prior, X, Y).save(path)
    tensors, metadata = load_artifact(path, kind="predictor")
    kind = "predictor"
    if what == "learner":
        metadata["learner"] = {"name": "no such thing"}
    elif what == "weight":
        tensors = {name: tensor[..., :-1] for name, tensor in tensors.items()}
    elif what == "kind":
        kind = "prior"
    elif what != "truncated":
        del metadata[what]
    save_artifact(path, {name: t.contiguous() for name, t in tensors.items()}, metadata, kind=kind)
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedArtifact):
        Predictor.load(path)
