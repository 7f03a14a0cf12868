"""The scikit-learn face: it keeps scikit-learn's contract, and past tasks help."""

import os
from pathlib import Path
from typing import Any, TypeVar, cast

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.base import clone as untyped_clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tasklore.errors import DamagedArtifact, InvalidData, InvalidSetting, UnknownName
from tasklore.estimators import MetaClassifier, MetaRegressor
from tasklore.experience import ModelRecord, RoundRecord, open_store
from tasklore.learners.baselines import FineTuning, FromScratch, LogisticBaseline
from tasklore.learners.gradient import MAML
from tasklore.learners.metric import Prototypes
from tasklore.loop import Stop
from tasklore.nets import MLP, Conv4, Identity
from tasklore.state import Prior
from tasklore.tasks.arrays import from_arrays
from tasklore.tasks.scaling import Scaling
from tasklore.tasks.source import Splits
from tasklore.tasks.synthetic import Sinusoid, SinusoidSource
from tasklore.train import TrainSettings
from tasklore.types import Batch, Context, TaskSpec

E = TypeVar("E", bound=BaseEstimator)
SHORT = TrainSettings(steps=3, n_tasks=2, n_validation=4, execution="vectorised")
ONCE = Stop(rounds=1)
QUICK = FromScratch(net=MLP(hidden=(16,)), inner_steps=30, step_size=0.05)


@parametrize_with_checks([MetaClassifier(), MetaClassifier(QUICK), MetaRegressor()])
def test_scikit_learn_accepts_it(estimator: BaseEstimator, check: Any) -> None:
    """Every check, without exceptions. They differ in their numbers of features, so a prior cannot be set."""
    check(estimator)


def clone(estimator: E) -> E:
    return cast("E", untyped_clone(estimator))


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return np.asarray(x), np.asarray(y)


def gaussian_tasks(n_tasks: int = 6, n_features: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    y = np.repeat(["left", "right"], 10)
    return [
        (rng.normal(size=(20, n_features)) * 50 + (y == "left")[:, None] * 90 + 1000, y)
        for _ in range(n_tasks)
    ]


def wave_tasks(n_tasks: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    x = [rng.uniform(-1, 1, size=(20, 2)) for _ in range(n_tasks)]
    return [(part, 500 + 100 * np.sin(part[:, 0] + shift)) for shift, part in enumerate(x)]


@pytest.fixture(scope="module")
def classifier() -> MetaClassifier:
    return MetaClassifier("maml", train=SHORT, stop=ONCE).meta_fit(gaussian_tasks(), n_shots=3)


@pytest.fixture(scope="module")
def regressor() -> MetaRegressor:
    return MetaRegressor(train=SHORT, stop=ONCE).meta_fit(wave_tasks())


# What is computed


def test_without_past_prototypes_are_class_means_of_standardised_features() -> None:
    x, y = load_iris(return_X_y=True)
    scaler = StandardScaler().fit(x[::3])
    reference = NearestCentroid().fit(scaler.transform(x[::3]), y[::3])
    z = np.asarray(scaler.transform(x))
    found = MetaClassifier().fit(x[::3], y[::3])
    np.testing.assert_array_equal(found.predict(x), reference.predict(z))
    distances = ((z[:, None] - reference.centroids_) ** 2).sum(2)
    expected = np.exp(-distances) / np.exp(-distances).sum(1, keepdims=True)
    np.testing.assert_allclose(found.predict_proba(x), expected, atol=1e-12)


def test_with_a_prior_it_is_the_learner_on_scaled_rows(classifier: MetaClassifier) -> None:
    x, y = gaussian_tasks(1)[0]
    prior = classifier.prior
    assert isinstance(prior, Prior)
    past = [task for task, _ in gaussian_tasks() if any((task == t.arrays.x).all() for t in _past())]
    pooled = StandardScaler().fit(np.concatenate(past))  # tasks of equal size weigh the same
    z = torch.from_numpy(pooled.transform(x))
    params = {name: tensor.double() for name, tensor in prior.params.items()}
    context = Context(TaskSpec("classification", (3,), 2), torch.tensor(0))
    support = Batch(z, torch.from_numpy((y == "right").astype(np.int64)), torch.ones(20, dtype=z.dtype))
    adapted = prior.learner.adapt(params, support, context)
    expected = prior.learner.predict(adapted, support.inputs).softmax(1).detach().numpy()
    np.testing.assert_allclose(classifier.fit(x, y).predict_proba(x), expected, atol=1e-9)


def _past() -> Any:
    from tasklore.estimators import _sides  # pyright: ignore[reportPrivateUsage]

    return _sides(from_arrays(gaussian_tasks()), 0)[0].tasks  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("learner", ["prototypes", "maml"])
def test_rows_of_predict_do_not_influence_each_other(learner: str) -> None:
    images, labels = digits()
    tasks = from_arrays([(images[:200], labels[:200])], input_shape=(1, 8, 8), max_ways=3)
    given = {"prototypes": Prototypes(net=Conv4(4, 2)), "maml": MAML(net=Conv4(4, 2))}[learner]
    found = MetaClassifier(given, train=SHORT, stop=ONCE).meta_fit(tasks)
    found.fit(images[:30], labels[:30] % 3)
    alone = np.concatenate([found.predict_proba(row.reshape(1, -1)) for row in images[200:220]])
    np.testing.assert_allclose(found.predict_proba(images[200:220]), alone, atol=1e-12)
    np.testing.assert_allclose(found.predict_proba(images[200:230][::-1])[::-1][:20], alone, atol=1e-12)


def test_units_of_the_target_do_not_matter() -> None:
    x, y = wave_tasks(1)[0]
    plain, other = (MetaRegressor().fit(x, target) for target in (y, 1e6 * y - 3))
    np.testing.assert_allclose(other.predict(x), 1e6 * plain.predict(x) - 3, rtol=1e-6)


def test_several_targets() -> None:
    x, y = wave_tasks(1)[0]
    both = np.stack([y, -y], 1)
    assert MetaRegressor().fit(x, both).predict(x).shape == (20, 2)
    assert MetaRegressor().fit(x, y).predict(x).shape == (20,)
    tasks = [(part, np.stack([target, -target], 1)) for part, target in wave_tasks()]
    learned = MetaRegressor(train=SHORT, stop=ONCE).meta_fit(tasks)
    assert learned.fit(x, both).predict(x).shape == (20, 2)
    with pytest.raises(InvalidData, match="y has 1 columns; this prior is for 2"):
        learned.fit(x, y)


# meta_fit


def test_meta_fit_returns_a_new_estimator(classifier: MetaClassifier) -> None:
    before = MetaClassifier("maml", train=SHORT, stop=ONCE)
    after = before.meta_fit(gaussian_tasks(), n_shots=3)
    assert before.prior is None
    assert type(after) is MetaClassifier
    assert {**after.get_params(), "prior": None} == before.get_params()
    first, second = classifier.prior, after.prior
    assert isinstance(first, Prior)
    assert isinstance(second, Prior)
    assert all(torch.equal(first.params[name], second.params[name]) for name in first.params), "seeded"
    assert second.provenance["validation"]["n_tasks"] == 4
    with pytest.raises(NotFittedError):
        after.predict(gaussian_tasks()[0][0])


def test_what_kind_of_tasks_it_takes() -> None:
    tasks = from_arrays(gaussian_tasks(9), n_shots=2)
    splits = tasks.split(seed=0)
    of = [MetaClassifier(train=SHORT, stop=ONCE).meta_fit(given).prior for given in (tasks, splits)]
    assert all(isinstance(prior, Prior) and prior.spec == tasks.spec for prior in of)
    one = MetaClassifier(train=SHORT, stop=ONCE).meta_fit(gaussian_tasks(1)).prior
    assert isinstance(one, Prior)
    waves = MetaRegressor(train=SHORT, stop=ONCE).meta_fit(SinusoidSource()).prior
    assert isinstance(waves, Prior)
    assert "scaling" not in waves.provenance, "a source's numbers are taken as they are"
    assert isinstance(splits, Splits)


def test_a_name_gets_a_net_for_the_examples() -> None:
    flat, images = gaussian_tasks(3, n_features=16), from_arrays(gaussian_tasks(3, 16), input_shape=(1, 4, 4))
    for tasks, net in ((flat, MLP), (images, Conv4)):
        prior = MetaClassifier(train=SHORT, stop=ONCE).meta_fit(tasks).prior
        assert isinstance(prior, Prior)
        assert isinstance(prior.learner.backbone, net)


@pytest.mark.parametrize("learner", ["matching", "relation", "ridge-head", "cavia"])
def test_any_learner_that_has_a_net_gets_one_that_suits(learner: str) -> None:
    x, y = gaussian_tasks(1, n_features=16)[0]
    images = from_arrays(gaussian_tasks(3, 16), input_shape=(1, 4, 4))
    untaught = MetaClassifier(learner, train=SHORT, stop=ONCE)
    assert untaught.fit(x, y).predict(x).shape == (20,)
    for tasks, net in ((gaussian_tasks(3, 16), MLP((64, 64))), (images, Conv4(halving="stride"))):
        taught = untaught.meta_fit(tasks)
        assert isinstance(taught.prior, Prior)
        assert taught.prior.learner.backbone == net
        assert taught.fit(x, y).predict(x).shape == (20,)


def test_a_collection_is_learned_from_by_its_splits() -> None:
    learned = MetaRegressor(train=SHORT, stop=ONCE).meta_fit(Sinusoid()).prior
    by_splits = MetaRegressor(train=SHORT, stop=ONCE).meta_fit(Sinusoid().splits()).prior
    assert isinstance(learned, Prior)
    assert isinstance(by_splits, Prior)
    assert learned.provenance["collection"]["name"] == "sinusoid"
    assert learned.provenance == {**by_splits.provenance, "collection": learned.provenance["collection"]}


def test_meta_learning_goes_on_from_a_prior(classifier: MetaClassifier) -> None:
    first = classifier.prior
    assert isinstance(first, Prior)
    shifted = [(x + 1e4, y) for x, y in gaussian_tasks(4)]
    second = classifier.meta_fit(shifted).prior
    assert isinstance(second, Prior)
    assert second.learner == first.learner
    assert second.scaling.to_dict() == first.scaling.to_dict(), "what the params were made for"
    assert second.provenance["tasks_fingerprint"] != first.provenance["tasks_fingerprint"]
    still = clone(classifier).set_params(train=TrainSettings(steps=1, n_validation=4, learning_rate=1e-12))
    third = still.meta_fit(gaussian_tasks()).prior
    assert isinstance(third, Prior)
    assert all(torch.allclose(third.params[name], first.params[name]) for name in first.params)
    with pytest.raises(InvalidData, match="set prior=None"):
        classifier.meta_fit(from_arrays(gaussian_tasks(n_features=5)))


def test_it_writes_to_a_store_if_one_is_given(tmp_path: Path, home: Path) -> None:
    with open_store(tmp_path / "lore.db") as store:
        estimator = MetaClassifier("maml", train=SHORT, stop=ONCE)
        learned = estimator.meta_fit(gaussian_tasks(), store=store, artifacts=tmp_path / "kept").prior
        (record,) = store.find(ModelRecord)
        assert len(list(store.find(RoundRecord))) == 1
    assert isinstance(learned, Prior)
    saved = Prior.load(tmp_path / "kept" / record.path, record.checksum)
    assert saved.provenance == learned.provenance
    assert saved.scaling.to_dict() == learned.scaling.to_dict() != Scaling.none().to_dict()
    estimator.meta_fit(gaussian_tasks())
    assert list(home.iterdir()) == [], "and nowhere otherwise"
    with open_store("memory:") as store, pytest.raises(InvalidSetting, match="go together"):
        estimator.meta_fit(gaussian_tasks(), store=store)


# Life among scikit-learn's tools


def test_a_saved_prior_predicts_the_same(classifier: MetaClassifier, tmp_path: Path) -> None:
    x, y = gaussian_tasks(1)[0]
    assert isinstance(classifier.prior, Prior)
    classifier.prior.save(tmp_path / "prior.safetensors")
    again = MetaClassifier(prior=tmp_path / "prior.safetensors").fit(x, y)
    np.testing.assert_array_equal(again.predict_proba(x), classifier.fit(x, y).predict_proba(x))
    assert isinstance(again.predictor_.learner, MAML), "the prior's learner, not the default"


def test_tools_keep_the_prior(classifier: MetaClassifier, tmp_path: Path) -> None:
    x, y = gaussian_tasks(1)[0]
    copied = clone(classifier).fit(x, y)
    np.testing.assert_array_equal(copied.predict_proba(x), classifier.fit(x, y).predict_proba(x))
    piped = make_pipeline(FunctionTransformer(), classifier)
    serial, parallel = (cross_val_score(piped, x, y, cv=2, n_jobs=n_jobs) for n_jobs in (1, 2))
    np.testing.assert_array_equal(serial, parallel)
    joblib.dump(copied, tmp_path / "fitted.joblib")
    np.testing.assert_array_equal(joblib.load(tmp_path / "fitted.joblib").predict(x), copied.predict(x))


def test_grid_search_chooses_between_prior_and_none(classifier: MetaClassifier) -> None:
    x, y = gaussian_tasks(1)[0]
    grid = {"prior": [None, classifier.prior], "learner": ["prototypes", "nearest-centroid"]}
    search = GridSearchCV(MetaClassifier(), grid, cv=2).fit(x, y)
    assert search.best_score_ > 0.5
    assert len(search.cv_results_["params"]) == 4


def test_columns_have_names() -> None:
    table = pd.DataFrame(gaussian_tasks(1)[0][0], columns=["a", "b", "c"])
    found = MetaClassifier().fit(table, gaussian_tasks(1)[0][1])
    assert found.feature_names_in_.tolist() == ["a", "b", "c"]
    assert found.n_features_in_ == 3
    with pytest.raises(ValueError, match="feature names"):
        found.predict(table.rename(columns={"a": "z"}))


def test_what_stands_in_for_a_prior() -> None:
    x, y = gaussian_tasks(1)[0]
    assert MetaClassifier().fit(x, y).predictor_.learner == Prototypes(net=Identity())
    assert isinstance(MetaClassifier("reptile").fit(x, y).predictor_.learner, FromScratch)
    assert MetaClassifier(QUICK).fit(x, y).predictor_.learner == QUICK
    assert MetaClassifier(LogisticBaseline(C=2.0)).fit(x, y).predictor_.learner == LogisticBaseline(C=2.0)
    seeds = [
        MetaClassifier("maml", random_state=seed).fit(x, y).predict_proba(x)
        for seed in cast("list[Any]", [0, np.int64(0), 1, np.random.RandomState(0)])
    ]
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert not np.array_equal(seeds[0], seeds[2])


# What is refused

X, Y = gaussian_tasks(1)[0]


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X[:, :2], Y, InvalidData, r"one example has shape \(2,\); \(3,\), or 3 values, are needed"),
        (X, np.arange(20) % 3, InvalidData, "at most 2 outputs, the new task has 3"),
        (X, ["left"] * 20, InvalidData, "one class"),
        (np.where(X > 1000, np.nan, X), Y, ValueError, "NaN"),
        (np.where(X > 1000, np.inf, X), Y, ValueError, "infinity"),
        (X[:0], Y[:0], ValueError, "0 sample"),
        (csr_array(X), Y, TypeError, "[Ss]parse"),
        (X, np.linspace(0, 1, 20), ValueError, "Unknown label type"),
        (X, Y[:5], ValueError, "inconsistent"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    classifier: MetaClassifier, x: Any, y: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        clone(classifier).fit(x, y)


def test_settings_that_cannot_work_are_refused(
    classifier: MetaClassifier, regressor: MetaRegressor, tmp_path: Path
) -> None:
    with pytest.raises(InvalidData, match="this prior is for regression; MetaClassifier does classification"):
        MetaClassifier(prior=regressor.prior).fit(X, Y)
    with pytest.raises(UnknownName, match="did you mean 'prototypes'"):
        MetaClassifier("prototype").fit(X, Y)
    with pytest.raises(InvalidSetting, match="learner is a int"):
        MetaClassifier(3).fit(X, Y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidSetting, match="prior is a dict"):
        MetaClassifier(prior={}).fit(X, Y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidData, match="Prototypes learns classification tasks"):
        MetaRegressor("prototypes").fit(X, X[:, 0])
    with pytest.raises(InvalidData, match="Conv4 needs images"):
        MetaClassifier(Prototypes(), train=SHORT).meta_fit(gaussian_tasks())
    with pytest.raises(InvalidSetting, match="does not meta-learn"):
        MetaClassifier(FineTuning(), train=SHORT).meta_fit(gaussian_tasks())
    for given, message in (
        ({"train": {"steps": 5}}, r"train is \{'steps': 5\}; give TrainSettings\("),
        ({"stop": 5}, r"stop is 5; give Stop\("),
    ):
        with pytest.raises(InvalidSetting, match=message):
            MetaClassifier().set_params(**given).meta_fit(gaussian_tasks())
    with pytest.raises(InvalidSetting, match=r"store is 'x.db'; open it .*open_store"):
        MetaClassifier().meta_fit(gaussian_tasks(), store=cast("Any", "x.db"))
    with pytest.raises(InvalidData, match="no past task"):
        MetaClassifier().meta_fit([])
    transductive = MetaClassifier(MAML(transductive=True), train=SHORT, stop=ONCE).meta_fit(gaussian_tasks())
    with pytest.raises(InvalidSetting, match="transductive=False"):
        transductive.fit(X, Y)
    assert isinstance(classifier.prior, Prior)
    wrong = Prior(
        classifier.prior.learner,
        classifier.prior.params,
        classifier.prior.spec,
        Scaling(np.zeros(1), np.zeros(1), np.zeros(1), np.ones(1)),
    )
    wrong.save(tmp_path / "wrong.safetensors")
    with pytest.raises(DamagedArtifact, match="this scaling does not fit"):
        MetaClassifier(prior=tmp_path / "wrong.safetensors").fit(X, Y)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedArtifact):
        MetaClassifier(prior=str(tmp_path / "broken.safetensors")).fit(X, Y)


# The point of it


def test_past_images_help_to_complete_unseen_ones() -> None:
    """Each image is a task: from 20 of its pixels, regress the other 44. New images show unseen digits."""
    images, labels = digits()
    places = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"), -1).reshape(64, 2)
    past, new = images[labels < 5][:200], images[labels >= 5][:20]
    estimator = MetaRegressor(
        MAML(net=MLP((40, 40)), inner_steps=3, step_size=0.1),
        train=TrainSettings(steps=150, n_validation=40, execution="vectorised"),
        stop=ONCE,
    )

    def errors(estimator: MetaRegressor) -> np.ndarray:
        rng, found = np.random.default_rng(0), list[float]()
        for pixels in new:
            seen, hidden = np.split(rng.permutation(64), [20])
            predicted = clone(estimator).fit(places[seen], pixels[seen]).predict(places[hidden])
            found.append(float(np.mean((predicted - pixels[hidden]) ** 2)))
        return np.array(found)

    tasks = [(places, pixels) for pixels in past]
    without, with_past = errors(estimator), errors(estimator.meta_fit(tasks, n_shots=20, n_queries=44))
    assert with_past.mean() < 0.75 * without.mean()
    assert (with_past < without).mean() > 0.7


@pytest.mark.skipif("TASKLORE_DATA" not in os.environ, reason="needs Omniglot: set TASKLORE_DATA")
def test_past_alphabets_help_to_read_unseen_ones() -> None:
    """Each alphabet is a task. Five characters of a new alphabet are told apart from one drawing of each."""
    with np.load(Path(os.environ["TASKLORE_DATA"]) / "images" / "omniglot.npz") as data:
        images, alphabet = data["images"], data["alphabet"]
        background = data["split"] == "background"
    small = images.reshape(-1, 20, 14, 2, 14, 2).mean((3, 5)).reshape(-1, 20, 196)

    def drawings(characters: np.ndarray, which: slice) -> tuple[np.ndarray, np.ndarray]:
        x = small[characters][:, which]
        return x.reshape(-1, 196), np.repeat(characters, x.shape[1])

    past = [
        drawings(np.flatnonzero(alphabet == name), slice(None)) for name in np.unique(alphabet[background])
    ]
    estimator = MetaClassifier(
        train=TrainSettings(steps=150, n_tasks=8, n_validation=40), stop=Stop(rounds=2)
    )

    def accuracy(estimator: MetaClassifier) -> float:
        rng, found = np.random.default_rng(0), list[float]()
        for _ in range(40):
            name = rng.choice(np.unique(alphabet[~background]))
            characters = rng.choice(np.flatnonzero(alphabet == name), 5, replace=False)
            fitted = clone(estimator).fit(*drawings(characters, slice(0, 1)))
            found.append(fitted.score(*drawings(characters, slice(1, None))))
        return float(np.mean(found))

    learned = estimator.meta_fit(from_arrays(past, max_ways=10, n_shots=1, n_queries=5))
    assert accuracy(learned) > accuracy(estimator) + 0.12


def test_a_task_that_is_refused_leaves_the_one_before() -> None:
    x, y = np.repeat(np.eye(3), 4, 0), np.repeat(["a", "b", "c"], 4)
    learner, spec = MAML(MLP((4,))), TaskSpec("classification", (3,), 3)
    prior = Prior(learner, learner.init(spec, torch.Generator().manual_seed(0)), spec)
    model = MetaClassifier(prior=prior).fit(x, y)
    before = model.predict(x)
    with pytest.raises(InvalidData, match="at most 3"):
        model.fit(np.repeat(np.eye(3), 2, 0), np.array(list("uvwxyz")))
    assert model.classes_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(model.predict(x), before)
