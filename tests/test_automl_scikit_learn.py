"""AutoML inside scikit-learn: metadata routing, set_output, names and types of columns, searches."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import sklearn
import sklearn.datasets
from automl_cases import classifier, regressor
from scipy.sparse import coo_matrix, csc_array, csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import VotingClassifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from tasklore import AutoClassifier, AutoRegressor
from tasklore.apps.automl.measuring import Problem
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.space import candidates
from tasklore.errors import InvalidData, InvalidSetting
from tasklore.experience import open_store
from tasklore.experience.records import TaskRecord

datasets: Any = sklearn.datasets  # which is typed in parts only
RAISE: Any = "raise"


def copied(model: Any) -> Any:
    """Return a clone, of a type that is not known to be the same."""
    return clone(model)


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class Noting(AutoClassifier):
    """Keeps what each fit was given."""

    given: list[tuple[Any, Any]] = []  # noqa: RUF012 - of all its copies

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> "Noting":  # noqa: N803
        self.given.append((sample_weight, groups))
        return super().fit(X, y, sample_weight, groups)


@pytest.fixture
def noting() -> Noting:
    Noting.given.clear()
    return Noting(**classifier(max_evaluations=1).get_params())


def flowers() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Iris with weights, and groups of five rows."""
    x, y = datasets.load_iris(return_X_y=True, as_frame=True)
    rng = np.random.default_rng(0)
    return x, y.to_numpy(), rng.uniform(0.5, 2.0, len(y)), np.arange(len(y)) // 5


@pytest.mark.usefixtures("routing")
def test_a_pipeline_hands_weights_and_groups_on(noting: Noting) -> None:
    x, y, weights, groups = flowers()
    asking = noting.set_fit_request(sample_weight=True, groups=True)
    scaling: Any = StandardScaler().set_fit_request(sample_weight=False)
    model: Any = make_pipeline(scaling, asking)
    model.fit(x, y, sample_weight=weights, groups=groups)
    ((given, together),) = Noting.given
    np.testing.assert_array_equal(given, weights)
    np.testing.assert_array_equal(together, groups)
    assert model.score(x, y) > 0.9
    with pytest.raises(ValueError, match="not explicitly set as requested or not requested"):
        make_pipeline(StandardScaler(), classifier()).fit(x, y, sample_weight=weights)


@pytest.mark.usefixtures("routing")
def test_cross_validation_hands_on_the_rows_of_each_fold(noting: Noting) -> None:
    x, y, weights, groups = flowers()
    asking: Any = noting.set_fit_request(sample_weight=True, groups=True)
    model = asking.set_score_request(sample_weight=True)
    found = cross_validate(
        model,
        x,
        y,
        cv=GroupKFold(3),
        params={"sample_weight": weights, "groups": groups},
        error_score=RAISE,
    )
    assert (found["test_score"] > 0.8).all()
    assert len(Noting.given) == 3
    for given, together in Noting.given:
        assert len(given) == len(together)
        np.testing.assert_array_equal(np.bincount(together)[np.unique(together)], 5)
        np.testing.assert_array_equal(given, weights[np.isin(groups, together)])


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize(
    "grid", [{"metric": ["log_loss", "accuracy"]}, {"max_evaluations": [1, 2]}, {"budget": ["2s", 3.0]}]
)
def test_a_grid_over_its_settings(noting: Noting, grid: dict[str, list[Any]]) -> None:
    x, y, weights, groups = flowers()
    if "budget" in grid:
        noting.set_params(max_evaluations=None)
    scorer: Any = get_scorer("accuracy")
    search = GridSearchCV(
        noting.set_fit_request(sample_weight=True, groups=True),
        grid,
        cv=GroupKFold(2),
        scoring=scorer.set_score_request(sample_weight=True),
        error_score=RAISE,
    )
    search.fit(x, y, sample_weight=weights, groups=groups)
    assert search.best_score_ > 0.85
    assert len(Noting.given) == 5, "two folds for each of two settings, and the best one again"
    assert all(given is not None and together is not None for given, together in Noting.given)
    (name,) = grid
    assert search.best_estimator_.get_params()[name] in grid[name]
    assert list(search.best_estimator_.feature_names_in_) == list(x.columns)


def test_a_grid_reaches_into_a_pipeline() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    steps = Pipeline([("scale", StandardScaler()), ("auto", regressor(max_evaluations=1))])
    search = GridSearchCV(steps, {"auto__metric": ["r2", "mean_absolute_error"]}, cv=2, error_score=RAISE)
    assert search.fit(x, y).best_score_ > 0.3


def test_a_pipeline_of_tables() -> None:
    """The step before gives a DataFrame, whose names and types arrive."""
    x, y = datasets.load_iris(return_X_y=True, as_frame=True)
    x = x.assign(colour=np.where(np.arange(len(x)) % 2, "red", "green"))
    number = list(x.columns[:4])
    encoder: Any = OneHotEncoder(sparse_output=False)
    columns = make_column_transformer((StandardScaler(), number), (encoder, ["colour"]))
    model: Any = make_pipeline(columns, classifier()).set_output(transform="pandas").fit(x, y)
    names = [*(f"standardscaler__{name}" for name in number), "onehotencoder__colour_green"]
    assert list(model[-1].feature_names_in_[:5]) == names
    assert model[-1].n_features_in_ == 6
    assert model.score(x, y) > 0.9
    with sklearn.config_context(transform_output="pandas"):
        again: Any = make_pipeline(copied(columns), classifier()).fit(x, y)
        np.testing.assert_allclose(again.predict_proba(x), model.predict_proba(x))


class AsTable(TransformerMixin, BaseEstimator):
    """Gives what it was given, as a table."""

    def fit(self, X: Any, y: Any = None) -> "AsTable":  # noqa: N803
        return self

    def transform(self, X: Any) -> pd.DataFrame:  # noqa: N803
        return pd.DataFrame(X).rename(columns=lambda place: f"part {place}")


def test_a_step_of_ones_own_before_it() -> None:
    x, y = datasets.load_iris(return_X_y=True)
    model: Any = make_pipeline(AsTable(), FunctionTransformer(), classifier()).fit(x, y)
    assert list(model[-1].feature_names_in_) == [f"part {place}" for place in range(4)]
    assert model.score(x, y) > 0.9


def mixed(n: int = 160) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": rng.lognormal(size=n),
            "weight": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
            "colour": rng.choice(["red", "green", "blue"], n),
            "member": rng.random(n) < 0.5,
        }
    )
    return frame, (frame["size"].to_numpy() + frame["member"].to_numpy() > 1.5).astype(int)


SPACE = candidates("classification")
WITHOUT_TASKLORE = {
    SPACE[name].features: name
    for name in sorted(SPACE)
    if SPACE[name].features.categories != "frequency"
    and SPACE[name].model not in ("constant", "network")
    and SPACE[name].features.extra != "information"  # which scikit-learn estimates with noise
}


@pytest.mark.parametrize("name", sorted(WITHOUT_TASKLORE.values()))
@pytest.mark.filterwarnings("ignore:.*:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:k=10 is greater than n_features")
@pytest.mark.filterwarnings("ignore:n_components > n_samples")
def test_what_is_chosen_gives_tables_between_its_steps(name: str) -> None:
    """As to_pipeline() gives it: every kind of features, with pandas from step to step."""
    x, y = mixed()
    problem = Problem.of(x, y, "classification")
    make = SPACE[name].build
    plain = make(problem.schema, "classification", raw=True).fit(x, y)
    tables: Any = make(problem.schema, "classification", raw=True).set_output(transform="pandas").fit(x, y)
    assert isinstance(tables[:-1].transform(x), pd.DataFrame)
    np.testing.assert_allclose(tables.predict_proba(x), plain.predict_proba(x), atol=1e-6)


def test_the_blend_as_scikit_learn_parts_gives_tables() -> None:
    x, y = mixed()
    model = classifier(max_evaluations=5).fit(x, y)
    parts = model.to_pipeline()
    singles: list[Any] = (
        [part for _, part in parts.estimators] if isinstance(parts, VotingClassifier) else [parts]
    )
    before = copied(parts).fit(x, y).predict_proba(x)
    for single in singles:
        single.set_output(transform="pandas")
    np.testing.assert_allclose(parts.fit(x, y).predict_proba(x), before, atol=1e-6)


def test_names_and_numbers_of_columns() -> None:
    x, y = datasets.load_iris(return_X_y=True, as_frame=True)
    model = classifier().fit(x, y)
    assert model.n_features_in_ == 4
    assert model.feature_names_in_.dtype == object
    assert list(model.feature_names_in_) == list(x.columns)
    expected = model.predict_proba(x)
    other: Any = x[x.columns[::-1]].assign(new=1.0)
    np.testing.assert_array_equal(model.predict_proba(other), expected)
    np.testing.assert_array_equal(model.predict_proba(x.to_numpy()), expected)
    with pytest.raises(InvalidData, match="X has 3 features, but Tasklore is expecting 4"):
        model.predict(x.to_numpy()[:, :3])
    with pytest.raises(InvalidData, match="has none of the columns"):
        model.predict(x.rename(columns=str.upper))
    model.fit(x.to_numpy(), y)
    assert "feature_names_in_" not in vars(model), "an array has no names"
    model.fit(x.set_axis(range(4), axis=1), y)
    assert "feature_names_in_" not in vars(model), "numbers are no names"


def test_types_of_pandas_that_know_what_is_missing() -> None:
    x, y = mixed()
    nullable = x.convert_dtypes()
    nullable["whole"] = pd.array([*range(len(x) - 1), None], dtype="Int16")
    x = x.assign(whole=[*map(float, range(len(x) - 1)), np.nan])
    assert {str(dtype) for dtype in nullable.dtypes} >= {"Float64", "boolean", "Int16"}
    one, two = classifier(max_evaluations=4).fit(x, y), classifier(max_evaluations=4).fit(nullable, y)
    np.testing.assert_allclose(one.predict_proba(x), two.predict_proba(nullable))
    np.testing.assert_allclose(one.predict_proba(nullable), two.predict_proba(x))
    categories = x.astype({"colour": "category"})
    np.testing.assert_allclose(one.predict_proba(categories), one.predict_proba(x))


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "category", "object"])
def test_targets_of_every_type_of_pandas(dtype: str) -> None:
    x, y = mixed()
    labels: Any = pd.Series(y.astype(str) if dtype in ("string", "object") else y).astype(cast("Any", dtype))
    model = classifier().fit(x, labels)
    assert len(model.classes_) == 2
    assert np.mean(model.predict(x) == labels.to_numpy()) > 0.85
    labels[3] = None
    with pytest.raises(InvalidData, match=r"labels are missing|contains NaN"):
        model.fit(x, labels)


def test_numbers_to_predict_of_every_type_of_pandas() -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    expected = regressor(max_evaluations=1).fit(x, y).predict(x)
    for dtype in ("Float64", "float32", "Int64"):
        model = regressor(max_evaluations=1).fit(x, pd.Series(y).astype(cast("Any", dtype)))
        np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)
    gap = pd.Series(y).astype("Float64")
    gap[2] = pd.NA
    with pytest.raises(InvalidData):
        regressor().fit(x, gap)


@pytest.mark.parametrize("form", [csr_matrix, csc_array, coo_matrix])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_sparse_tables_in_every_form(kind: Kind, form: Any) -> None:
    rng = np.random.default_rng(0)
    x = np.where(rng.random((200, 30)) < 0.8, 0.0, rng.normal(size=(200, 30)))
    y = x[:, 0] + x[:, 1] + 0.1 * rng.normal(size=200)
    model = classifier() if kind == "classification" else regressor()
    target = (y > 0).astype(int) if kind == "classification" else y
    expected = copied(model).fit(x, target).predict(x)
    np.testing.assert_allclose(model.fit(form(x), target).predict(form(x)), expected)
    assert len(cross_val_predict(model, csr_matrix(x), target, cv=2)) == 200
    frame: Any = pd.DataFrame.sparse.from_spmatrix(coo_matrix(x))
    np.testing.assert_allclose(model.predict(frame), expected)


def test_what_a_table_is_called_is_a_setting() -> None:
    x, y = datasets.load_iris(return_X_y=True)
    model = copied(classifier(name="flowers"))
    assert model.get_params()["name"] == "flowers"
    for wrong in ("", "  ", "n" * 201, 7):
        with pytest.raises(InvalidSetting, match="give a text of 1 to 200 characters"):
            classifier(name=wrong).fit(x, y)


def test_copies_know_all_settings_and_no_result() -> None:
    for model in (classifier(budget="5s", metric="accuracy"), regressor(n_jobs=2, memory_limit=500)):
        copy: AutoClassifier | AutoRegressor = copied(model)
        given, known = (each.get_params() for each in (model, copy))
        assert repr(known.pop("prior")) == repr(given.pop("prior"))
        assert known == given
        x, y = datasets.load_iris(return_X_y=True)
        copy.fit(x, y)
        again: Any = copied(copy)
        assert [name for name in vars(again) if name.startswith("_") or name.endswith("_")] == []


def test_an_open_store_goes_along_with_copies(tmp_path: Path) -> None:
    x, y = datasets.load_iris(return_X_y=True)
    with open_store(tmp_path / "lore.db") as store:
        model = classifier(store=store)
        assert copied(model).get_params()["store"] is store
        scores = cross_val_score(model, x, y, cv=KFold(3, shuffle=True, random_state=0))
        assert scores.min() > 0.8
        assert len(store.find(TaskRecord)) == 3
        search = GridSearchCV(model, {"max_evaluations": [1, 2]}, cv=2).fit(x, y)
        assert search.best_estimator_.store is store
        again: Any = pickle.loads(pickle.dumps(search.best_estimator_))  # noqa: S301 - written a moment ago
        np.testing.assert_array_equal(again.predict(x), search.predict(x))
        with again.store as opened:
            assert len(opened.find(TaskRecord)) == len(store.find(TaskRecord))
        n_known = len(store.find(TaskRecord))
        cross_val_score(model, x[::-1], y[::-1], cv=KFold(2, shuffle=True, random_state=1), n_jobs=2)
        assert len(store.find(TaskRecord)) == n_known + 2, "processes open it by its address"


def test_folders_to_import_from_that_are_no_texts(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; sys.path += [pathlib.Path(sys.argv[1]), sys.argv[2]]\n"
        "import numpy as np; from automl_cases import classifier\n"
        "x = np.random.default_rng(0).normal(size=(60, 2))\n"
        "print(classifier().fit(x, x[:, 0] > 0).predict(x).shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "(60,)\n"
