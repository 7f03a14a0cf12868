"""Whatever it is given, AutoML returns a model or says clearly what is wrong: before any long work."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from automl_cases import classifier, regressor
from scipy.sparse import coo_array

from tasklore.apps.automl.measuring import Problem, fit_quietly, outputs_of
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.tables import Schema
from tasklore.errors import TaskloreError

N = 60
RNG = np.random.default_rng(0)
X = pd.DataFrame({"a": RNG.normal(size=N), "b": RNG.normal(size=N)})
LABELS = np.where(X["a"] > 0, "yes", "no")
VALUES = X["a"].to_numpy() + 0.1 * RNG.normal(size=N)
MANY = np.array([f"id {i}" for i in range(N)], dtype=object)

Given = tuple[Any, Any]

WORKS: dict[str, Callable[[], Given]] = {
    "a constant column": lambda: (X.assign(c=1.0), LABELS),
    "nothing but constant columns": lambda: (X * 0, LABELS),
    "a column that is missing throughout": lambda: (X.assign(c=np.nan), LABELS),
    "nothing but missing values": lambda: (X * np.nan, LABELS),
    "a column of None": lambda: (X.assign(c=None), LABELS),
    "ten rows": lambda: (X[:10], LABELS[:10]),
    "four rows": lambda: (X[:4], ["a", "b", "a", "b"]),
    "infinite values": lambda: (X.assign(a=np.where(X["a"] > 1, np.inf, X["a"])), LABELS),
    "minus infinity": lambda: (X.assign(a=np.where(X["a"] > 1, -np.inf, X["a"])), LABELS),
    "enormous numbers": lambda: (X * 1e300, LABELS),
    "tiny numbers": lambda: (X * 1e-300, LABELS),
    "duplicate names of columns": lambda: (X.set_axis(["a", "a"], axis=1), LABELS),
    "names that are numbers": lambda: (X.set_axis([0, 1], axis=1), LABELS),
    "names that are tuples": lambda: (X.set_axis([("a", 1), ("b", 2)], axis=1), LABELS),
    "an empty name": lambda: (X.set_axis(["", " "], axis=1), LABELS),
    "a category of its own for each row": lambda: (X.assign(c=MANY), LABELS),
    "categories that mix numbers and texts": lambda: (X.assign(c=[1, "1", 1.0, None, "x"] * 12), LABELS),
    "a categorical column with unused levels": lambda: (
        X.assign(c=pd.Categorical(["u", "v"] * 30, categories=["u", "v", "w"])),
        LABELS,
    ),
    "an index of equal labels": lambda: (X.set_axis([7] * N), LABELS),
    "a hierarchical index": lambda: (X.set_axis(pd.MultiIndex.from_product([range(6), range(10)])), LABELS),
    "dates with gaps": lambda: (X.assign(d=[pd.Timestamp("2024-01-01"), pd.NaT] * 30), LABELS),
    "dates of the year 9999": lambda: (X.assign(d=["9999-12-31", "2024-01-01"] * 30), LABELS),
    "dates with a time zone": lambda: (X.assign(d=pd.date_range("2024", periods=N, tz="Asia/Tokyo")), LABELS),
    "lengths of time": lambda: (X.assign(d=pd.to_timedelta(np.arange(N), unit="h")), LABELS),
    "nullable integers": lambda: (X.assign(c=pd.array([1, None] * 30, dtype="Int64")), LABELS),
    "nullable truth values": lambda: (X.assign(c=pd.array([True, None] * 30, dtype="boolean")), LABELS),
    "texts that are empty": lambda: (X.assign(c=""), LABELS),
    "texts of other scripts": lambda: (X.assign(c=["はい", "نعم", "да"] * 20), LABELS),
    "a text of a megabyte": lambda: (X.assign(c=["x" * 1_000_000] + ["y"] * (N - 1)), LABELS),
    "one column": lambda: (X[["a"]], LABELS),
    "more columns than rows": lambda: (RNG.normal(size=(N, 300)), LABELS),
    "a sparse matrix": lambda: (coo_array(X.to_numpy()), LABELS),
    "lists": lambda: (X.to_numpy().tolist(), LABELS.tolist()),
    "integers": lambda: ((X * 100).astype(int), LABELS),
    "truth values as labels": lambda: (X, LABELS == "yes"),
    "numbers as labels": lambda: (X, np.where(LABELS == "yes", 5, -3)),
    "labels as a category": lambda: (X, pd.Series(LABELS, dtype="category")),
    "labels on another index": lambda: (X, pd.Series(LABELS, index=range(500, 500 + N))),
    "a class of one row": lambda: (X, np.where(np.arange(N) == 3, "rare", LABELS)),
    "thirty classes": lambda: (X, np.arange(N) % 30),
    "read-only arrays": lambda: (_read_only(X.to_numpy()), LABELS),
    "columns in Fortran's order": lambda: (np.asfortranarray(X.to_numpy()), LABELS),
    "half precision": lambda: (X.astype(np.float16), LABELS),
}

FAILS: dict[str, tuple[Callable[[], Given], str]] = {
    "one class": (lambda: (X, ["same"] * N), "one class only, same"),
    "labels missing": (lambda: (X, [None, *LABELS[1:]]), "labels are missing"),
    "no labels": (lambda: (X, None), "requires y to be passed"),
    "one row": (lambda: (X[:1], LABELS[:1]), "minimum of 2 is required"),
    "no rows": (lambda: (X[:0], LABELS[:0]), "0 sample"),
    "no columns": (lambda: (X[[]], LABELS), r"0 feature\(s\)"),
    "too few labels": (lambda: (X, LABELS[:5]), "inconsistent numbers of samples"),
    "a class for each row": (lambda: (X, MANY), "every class has one row only"),
    "one dimension": (lambda: (X["a"].to_numpy(), LABELS), "Reshape your data"),
    "a series": (lambda: (X["a"], LABELS), "to_frame"),
    "three dimensions": (lambda: (np.zeros((N, 2, 2)), LABELS), "needs rows and columns"),
    "complex numbers": (lambda: (X.to_numpy() * 1j, LABELS), "Complex data not supported"),
    "several targets": (lambda: (X, np.column_stack([LABELS, LABELS])), "1d array"),
    "numbers that are no classes": (lambda: (X, VALUES), "Unknown label type"),
}

REGRESSION_FAILS: dict[str, tuple[Callable[[], Given], str]] = {
    "infinite targets": (lambda: (X, np.where(np.arange(N) == 3, np.inf, VALUES)), "NaN or infinity"),
    "missing targets": (lambda: (X, np.where(np.arange(N) == 3, np.nan, VALUES)), "NaN or infinity"),
    "enormous targets": (lambda: (X, VALUES * 1e200), "squares are no numbers"),
    "labels as targets": (lambda: (X, LABELS), "for labels use AutoClassifier"),
}


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


@pytest.mark.filterwarnings(
    "ignore:A column-vector", "ignore:.*looks like leakage", "ignore:The number of unique"
)
@pytest.mark.parametrize("case", WORKS)
def test_it_copes_with(case: str) -> None:
    x, y = WORKS[case]()
    model = classifier(max_evaluations=3).fit(x, y)
    chances = model.predict_proba(x)
    assert chances.shape == (len(y), len(np.unique(np.asarray(y))))
    np.testing.assert_allclose(chances.sum(1), 1.0)


@pytest.mark.filterwarnings("ignore:A column-vector", "ignore:The number of unique")
@pytest.mark.parametrize("case", FAILS)
def test_it_says_what_is_wrong_with(case: str) -> None:
    make, message = FAILS[case]
    with pytest.raises((TaskloreError, ValueError), match=message):
        classifier().fit(*make())


@pytest.mark.parametrize("case", REGRESSION_FAILS)
def test_it_says_what_is_wrong_with_targets(case: str) -> None:
    make, message = REGRESSION_FAILS[case]
    with pytest.raises(TaskloreError, match=message):
        regressor().fit(*make())


@pytest.mark.parametrize("values", [np.zeros(N), np.full(N, 1e90), VALUES * 1e90, VALUES * 1e-90])
def test_targets_of_any_size(values: np.ndarray) -> None:
    model = regressor(max_evaluations=3).fit(X, values)
    assert np.isfinite(model.predict(X)).all()


def test_new_categories_and_missing_columns_when_predicting() -> None:
    frame = X.assign(c=np.where(X["b"] > 0, "u", "v"))
    model = classifier(max_evaluations=3).fit(frame, LABELS)
    assert model.predict(frame.assign(c="never seen")).shape == (N,)
    assert model.predict(frame.assign(c=None, more=3)).shape == (N,)
    with pytest.warns(UserWarning, match="lacks 2 of 3 columns"):
        model.predict(frame[["a"]])
    with pytest.raises(TaskloreError, match="none of the columns"):
        model.predict(frame[["a"]].set_axis(["z"], axis=1))


def test_texts_among_numbers_to_predict_for_are_told_once() -> None:
    model = classifier(max_evaluations=3).fit(X, LABELS)
    texts = pd.DataFrame({"b": ["1.5", "2,5", None, ""], "a": ["1", "x", "2", " NaN "]})
    with pytest.warns(UserWarning, match="taken as missing") as noticed:
        chances = model.predict_proba(texts)
    assert [str(one.message)[:90] for one in noticed] == [
        "texts in columns of numbers are taken as missing: 'b' ('2,5'), 'a' ('x'); write numbers wi"
    ]
    gaps = pd.DataFrame({"a": [1, None, 2, None], "b": [1.5, None, None, None]})
    np.testing.assert_array_equal(chances, model.predict_proba(gaps))
    with pytest.warns(UserWarning, match=r"'a' \('x'\); "):
        model.predict(np.array([["x", 1.0]], dtype=object))
    plain = texts.assign(a=["1", "2", None, "4"], b=pd.array([1, None, 2, 3], dtype="Int64"), more="text")
    model.predict(plain)  # warnings are errors here


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_evaluations": 0}, "at least 1 evaluation"),
        ({"max_evaluations": None, "budget": "soon"}, "budget is 'soon'"),
        ({"max_evaluations": None, "budget": -1}, "budget is -1"),
        ({"n_jobs": 0}, "n_jobs is 0"),
        ({"metric": "auc"}, "metric is 'auc'"),
    ],
)
def test_settings_that_make_no_sense(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskloreError, match=message):
        classifier(**setting).fit(X, LABELS)


def test_a_fit_that_fails_leaves_the_last_model_whole() -> None:
    model = classifier().fit(X, LABELS)
    for others in (np.where(LABELS == "yes", "cat", "dog"), np.arange(N) % 3):
        with pytest.raises(TaskloreError, match="one group only"):
            model.fit(X, others, groups=np.zeros(N))
        assert model.classes_.tolist() == ["no", "yes"]
        assert model.score(X, LABELS) > 0.9


def test_a_gap_among_labels_in_a_list_is_no_label() -> None:
    labels = [np.nan, *LABELS[1:].tolist()]
    with pytest.raises(TaskloreError, match="labels are missing"):
        classifier().fit(X, labels)
    with pytest.raises(TaskloreError, match="y mixes labels of several types \\(int, str\\)"):
        classifier().fit(X, [1, "a"] * (N // 2))


def test_what_is_masked_is_missing() -> None:
    x = np.ma.masked_less(X.to_numpy(), 0.0)
    table = Schema.read(x)[1].to_numpy(dtype=float)
    np.testing.assert_array_equal(table, np.where(X < 0.0, np.nan, X))


def test_texts_in_a_column_of_numbers_are_told_of_when_they_are_learned_from() -> None:
    x = pd.DataFrame({"a": [str(value) for value in X["a"]], "b": X["b"]})
    x.loc[7, "a"] = "<0.5"
    for call in (classifier().fit, classifier().fit(X, LABELS).refit):
        with pytest.warns(UserWarning, match="taken as missing: 'a' \\('<0.5'\\)"):
            call(x, LABELS)


def test_one_row_unlike_all_others_costs_no_other_its_prediction() -> None:
    """The inverse of the logarithm of a target is infinite where a linear model is far outside."""
    problem = Problem.of(X, np.sinh(3 * VALUES), "regression")
    model = fit_quietly(candidates("regression")["ridge-log-target"], problem)
    rows = problem.schema.table(pd.DataFrame({"a": [0.0, 1e6], "b": [0.0, 0.0]}))
    found = outputs_of(model, rows, problem)
    assert found[1, 0] == (problem.bounds or (0.0, 0.0))[1]
    np.testing.assert_allclose(found[0, 0], model.predict(rows[:1])[0])
