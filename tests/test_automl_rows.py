"""AutoML's face: weights of rows, labels of every type, what cannot be remembered, processes that wait."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from automl_cases import classifier, regressor
from sklearn.metrics import roc_auc_score

from tasklore.apps.automl.losses import METRICS
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.worker import _idle, lent  # pyright: ignore[reportPrivateUsage]
from tasklore.errors import InvalidData, StoreError
from tasklore.experience.memory import MemoryStore

datasets: Any = sklearn.datasets  # which is typed in parts only


def test_only_the_ratios_of_weights_count() -> None:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    weights = np.where(y == 1, 1.0, 3.0)
    one, other = (
        classifier(max_evaluations=3).fit(x, y, sample_weight=scale * weights) for scale in (1.0, 2.0**-12)
    )
    np.testing.assert_array_equal(one.predict_proba(x), other.predict_proba(x))
    for wrong, message in ((-weights, "negative"), (0 * weights, "0 everywhere|non-zero")):
        with pytest.raises(ValueError, match=message):
            one.refit(x, y, sample_weight=wrong)


def test_what_cannot_weigh_rows_is_not_refitted_with_weights() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    model: Any = regressor(max_evaluations=5).fit(x, y)
    neighbours = candidates("regression")["neighbours-5"]
    model._blend = dataclasses.replace(model._blend, members=((1.0, neighbours, ()),))
    with pytest.raises(InvalidData, match="neighbours-5 cannot weigh rows"):
        model.refit(x, y, sample_weight=np.ones(len(y)))


class Full(MemoryStore):
    """A store on a disk without room."""

    def add_all(self, records: Any) -> list[str]:
        raise StoreError("no space left on device")


def test_a_fit_that_cannot_be_remembered_is_a_fit() -> None:
    x, y = datasets.load_iris(return_X_y=True)
    with pytest.warns(UserWarning, match="could not be remembered: no space left"):
        model = classifier(store=Full()).fit(x, y)
    assert model.score(x, y) > 0.9
    assert model.n_features_in_ == 4


@pytest.mark.filterwarnings("ignore:.*looks like leakage")
@pytest.mark.parametrize(
    "labels",
    [
        pd.array([True, False] * 30, dtype="boolean"),
        pd.array([3, 7] * 30, dtype="Int64"),
        np.array([True, False] * 30, dtype=object),
        np.array([3, 7] * 30, dtype=object),
        pd.array(["a", "b"] * 30, dtype="string"),
        pd.Categorical(["a", "b"] * 30, categories=["a", "b", "c"]),
    ],
    ids=["boolean", "Int64", "bool in objects", "int in objects", "string", "categorical"],
)
def test_labels_come_back_as_they_are(labels: Any) -> None:
    x = np.tile([[0.0], [1.0]], (30, 1))
    model = classifier().fit(x, pd.Series(labels))
    assert model.classes_.tolist() == sorted(set(labels))
    assert model.predict(x).tolist() == list(labels)
    assert model.refit(x, pd.Series(labels)).predict(x).tolist() == list(labels)


def test_dates_are_no_labels() -> None:
    x, days = np.arange(20.0)[:, None], pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"] * 10))
    with pytest.raises(InvalidData, match="y holds dates"):
        classifier().fit(x, days)


def test_a_pipeline_takes_columns_that_are_called_by_numbers() -> None:
    x, y = datasets.load_iris(return_X_y=True)
    frame = pd.DataFrame(x)
    model = classifier(max_evaluations=3).fit(frame, y)
    assert (model.to_pipeline().fit(frame, y).predict(frame) == y).mean() > 0.9


def test_a_date_that_is_rarely_there() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(100, 2)), columns=pd.Index(["a", "b"]))
    frame["when"] = pd.NaT
    frame.loc[3, "when"] = pd.Timestamp("2024-01-05")
    model = regressor(max_evaluations=5).fit(frame, frame["a"] + frame["b"])
    reasons: Any = model.leaderboard_["reason"]
    assert not reasons.str.contains("infinity").any()
    assert np.isfinite(model.predict(frame)).all()


def test_one_group_with_weight_is_one_group() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    groups = np.repeat([0, 1], [200, len(y) - 200])
    with pytest.raises(InvalidData, match="one group only"):
        regressor().fit(x, y, sample_weight=(groups == 1).astype(float), groups=groups)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_area_under_the_curve_is_scikit_learns(n_classes: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(n_classes, size=300)
    outputs = rng.dirichlet(np.ones(n_classes), 300).round(1)  # with ties
    found = METRICS["classification"]["roc_auc"].score(y, outputs, None)
    given = outputs[:, 1] if n_classes == 2 else [outputs[:, k] for k in range(n_classes)]
    if n_classes == 2:
        assert found == pytest.approx(roc_auc_score(y, given))
    else:
        assert found == pytest.approx(np.mean([roc_auc_score(y == k, given[k]) for k in range(n_classes)]))


def test_processes_with_another_limit_end_and_keep_no_table() -> None:
    x, y = datasets.load_iris(return_X_y=True)
    with lent(1, 1500) as (first,):
        pass
    classifier(memory_limit=1501).fit(x, y)
    with lent(1, 1501) as (worker,):
        assert worker.ready
        assert worker._loaded is None  # pyright: ignore[reportPrivateUsage]
        assert not first.ready
    assert sum(map(len, _idle.values())) == 1
