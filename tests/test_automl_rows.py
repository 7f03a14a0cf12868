"""AutoML's face: weights of rows, labels of every type, what cannot be remembered, processes that wait."""

import dataclasses
import datetime
import threading
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from automl_cases import classifier, regressor
from sklearn.metrics import roc_auc_score

from tasklore.apps.automl.losses import METRICS
from tasklore.apps.automl.measuring import Problem, folds_of
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.quiet import QUIET
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


@pytest.mark.parametrize(
    "times",
    [
        pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"] * 10)),
        pd.Series(pd.to_datetime(["2024-01-01", "2024-01-02"] * 10, utc=True)),
        np.array(["2024-01-01", "2024-01-02"] * 10, dtype="datetime64[ns]"),
        np.array(["2024-01-01", "2024-01-02"] * 10, dtype="datetime64[D]"),
        pd.Series(pd.to_timedelta([1, 2] * 10, unit="h")),
        np.array([1, 2] * 10, dtype="timedelta64[ns]"),
        pd.Series(pd.period_range("2024-01", periods=20, freq="M")),
        np.array([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)] * 10, dtype=object),
        [datetime.timedelta(hours=1), datetime.timedelta(hours=2)] * 10,
        pd.DataFrame({"y": pd.to_datetime(["2024-01-01", "2024-01-02"] * 10)}),
    ],
    ids=lambda times: f"{type(times).__name__} {getattr(times, 'dtype', '')}",
)
@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.filterwarnings("ignore:A column-vector")
def test_dates_are_no_targets(make: Any, times: Any) -> None:
    with pytest.raises(InvalidData, match=r"y holds dates or lengths of time; .* numbers"):
        make().fit(np.arange(20.0)[:, None], times)


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


def test_one_row_with_weight_is_too_few() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    with pytest.raises(InvalidData, match="only one row has a weight above 0; two are needed"):
        regressor().fit(x, y, sample_weight=(np.arange(len(y)) == 3).astype(float))


def test_rows_without_weight_say_nothing_of_the_range_of_targets() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    weights = np.where(np.arange(len(y)) == 3, 0.0, 1.0)
    far = np.where(weights > 0, y, 1e6)
    model: Any = regressor().fit(x, far, sample_weight=weights)
    assert model._blend.problem.bounds == pytest.approx((25 - 32.1, 346 + 32.1))
    assert model.refit(x, far, sample_weight=weights)._blend.problem.bounds == pytest.approx((-7.1, 378.1))


def grouped(groups: np.ndarray, kind: Kind, y: np.ndarray | None = None) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(groups), 2))
    given = y if y is not None else x[:, 0] > 0 if kind == "classification" else x[:, 0]
    return dataclasses.replace(Problem.of(x, given, kind), groups=groups)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_sample_is_of_two_groups_at_least(kind: Kind) -> None:
    groups = np.zeros(20_000, dtype=int)
    groups[:5] = 1
    sample = grouped(groups, kind).sample(1250)
    assert len(sample.y) == 1250
    assert sample.groups is not None
    assert np.bincount(sample.groups).tolist() == [1245, 5]
    assert len(folds_of(sample, 5)) == 2
    halves = grouped(np.arange(20_000) % 2, kind).sample(1250)
    assert halves.groups is not None
    assert 500 < halves.groups.sum() < 750
    with pytest.raises(InvalidData, match="one group only"):
        folds_of(grouped(np.zeros(50, dtype=int), kind), 3)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_one_fold_judges_a_part_of_the_groups(kind: Kind) -> None:
    groups = np.random.default_rng(0).integers(0, 500, 20_000)
    ((fitted, judged),) = folds_of(grouped(groups, kind), 1)
    assert len(judged) == pytest.approx(4000, rel=0.05)
    assert not set(groups[fitted]) & set(groups[judged])
    ((fitted, judged),) = folds_of(grouped(groups % 3, kind), 1)
    assert len(judged) == pytest.approx(20_000 / 3, rel=0.05), "of three groups it is one"


def test_folds_of_groups_have_rows_on_either_side() -> None:
    for seed in range(400):
        rng = np.random.default_rng(seed)
        n, n_groups = int(rng.integers(6, 40)), int(rng.integers(2, 9))
        shares = rng.dirichlet(np.full(n_groups, 0.3))
        groups = np.unique(rng.choice(n_groups, n, p=shares), return_inverse=True)[1]
        y = np.unique(groups % int(rng.integers(2, 4)), return_inverse=True)[1]
        if groups.max() == 0 or y.max() == 0:
            continue
        problem = grouped(groups, "classification", y)
        for n_folds in (1, 3, 5):
            for fitted, judged in folds_of(problem, n_folds):
                assert len(fitted)
                assert len(judged)
                assert not set(groups[fitted]) & set(groups[judged])


def test_rows_without_a_group_are_one() -> None:
    x, y = datasets.load_iris(return_X_y=True)
    names = np.array(["a", None, "b", np.nan, 3] * 30, dtype=object)
    numbers = np.array([1, 0, 2, 0, 3] * 30)
    one, other = (classifier(max_evaluations=3).fit(x, y, groups=given) for given in (names, numbers))
    assert one.score(x, y) == other.score(x, y) > 0.9
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier().fit(x, y, groups=names[:5])
    with pytest.raises(InvalidData, match=r"unhashable.*; give numbers or texts"):
        classifier().fit(x, y, groups=pd.Series([{}] * 150))


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
    weights = rng.exponential(size=300)
    judged = range(1, 2) if n_classes == 2 else range(n_classes)
    areas = [roc_auc_score(y == k, outputs[:, k], sample_weight=weights) for k in judged]
    assert METRICS["classification"]["roc_auc"].score(y, outputs, weights) == pytest.approx(np.mean(areas))


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


def test_rows_of_weight_zero_have_no_part_in_a_refit() -> None:
    """Scalers and encodings know no weights, so these rows must not reach them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = x[:, 0] + 0.1 * rng.normal(size=200)
    x[100:], y[100:] = 1e6, 1e5
    weights = np.repeat([1.0, 0.0], 100)
    model = regressor(max_evaluations=4).fit(x, y, sample_weight=weights)
    whole = model.refit(x, y, sample_weight=weights).predict(x[:100])
    alone = model.refit(x[:100], y[:100], sample_weight=weights[:100]).predict(x[:100])
    np.testing.assert_array_equal(whole, alone)
    labels = classifier().fit(x, y > 0)
    with pytest.raises(InvalidData, match="a class has no row with a weight above 0"):
        labels.refit(x, y > 0, sample_weight=(y > 0).astype(float))


def test_threads_that_want_silence_leave_what_is_shown_as_it_was() -> None:
    before, inside = list(warnings.filters), threading.Barrier(2)

    def one(first: bool) -> None:
        with QUIET:
            inside.wait(10)
            if first:
                ended.wait(10)
        if not first:
            ended.set()

    ended = threading.Event()
    threads = [threading.Thread(target=one, args=[first]) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
