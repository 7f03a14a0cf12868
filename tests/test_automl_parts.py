"""What was chosen as scikit-learn's own parts: it takes rows as fit was given them, or says why it cannot."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from automl_cases import classifier, regressor
from scipy.sparse import coo_array

from tasklore import AutoClassifier
from tasklore.apps.automl.parts import unsuited
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.tables import Schema
from tasklore.errors import InvalidData

N = 60
A = np.random.default_rng(0).normal(size=N)
VALUES = A + np.random.default_rng(1).normal(size=N)
LABELS = np.where(A > 0, "yes", "no")
NAMES = ("logistic-1", "lightgbm", "forest-target", "tree-6", "boosting")

PLAIN: dict[str, Any] = {
    "half precision": A.astype(np.float16),
    "whole numbers": np.arange(N, dtype=np.uint8),
    "truth values": np.arange(N) % 2 == 0,
    "truth values and None": pd.Series([True, False, None] * 20, dtype=object),
    "nullable truth values": pd.array([True, None] * 30, dtype="boolean"),
    "nullable numbers without a gap": pd.array([1, 2, 3] * 20, dtype="Int64"),
    "numbers as texts": pd.Series([str(place) for place in range(N)], dtype=object),
    "numbers as texts, with gaps": pd.Series([*map(str, range(N - 2)), None, None], dtype=object),
    "texts": ["red", "green"] * 30,
    "texts and None": pd.Series(["red", None] * 30, dtype=object),
    "texts and NaN": pd.Series(["red", np.nan] * 30, dtype=object),
    "pandas' texts with gaps": pd.Series(["red", None] * 30, dtype="str"),
    "categories": pd.Categorical(["u", None, "v"] * 20),
    "numbers as categories": pd.Categorical([1, 2, 3] * 20),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "lengths of time": (pd.to_timedelta(np.arange(N), unit="h"), "lengths of time; take .dt.total_seconds"),
    "infinity": (np.where(A > 1, -np.inf, A), "numbers that are infinite or beyond"),
    "enormous numbers": (np.where(A > 1, 1e300, A), "numbers that are infinite or beyond"),
    "a text among numbers": ([*map(str, range(N - 2)), "?", "?"], "what is no number"),
    "infinity as text": ([*map(str, range(N - 2)), "inf", "inf"], "what is no number"),
    "nullable numbers": (pd.array([1, None, 3] * 20, dtype="Int64"), "pandas.NA; take .astype"),
    "nullable texts": (pd.array(["a", None] * 30, dtype="string"), "pandas.NA; take .astype"),
    "numbers and texts": (pd.Series([1, "b"] * 30, dtype=object), "values of several types"),
    "texts and NaT": (pd.Series(["a", pd.NaT] * 30, dtype=object), "values of several types"),
    "tuples": (pd.Series([(1,), (2,)] * 30, dtype=object), "values of several types"),
    "categories of several types": (pd.Categorical([1, "a", 3] * 20), "categories of several types"),
}


@pytest.mark.filterwarnings("ignore:.*:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("case", PLAIN)
def test_plain_columns_are_taken_as_they_are(case: str) -> None:
    frame = pd.DataFrame({"a": A, "c": PLAIN[case]})
    schema = Schema.of(frame)
    half = pd.DataFrame({"a": A.astype(np.float16)})
    assert unsuited(half, Schema.of(half)) == {}
    assert unsuited(frame, schema) == {}
    for name in NAMES:
        pipeline = candidates("classification")[name].build(schema, "classification", 0, raw=True)
        assert pipeline.fit(frame, LABELS).predict(frame).shape == (N,)


@pytest.mark.filterwarnings("ignore:texts in columns of numbers")
@pytest.mark.parametrize("case", REFUSED)
def test_others_are_refused_by_name(case: str, tmp_path: Path) -> None:
    values, why = REFUSED[case]
    frame = pd.DataFrame({"a": A, "c": values})
    model = classifier(max_evaluations=3).fit(frame, LABELS)
    with pytest.raises(
        InvalidData, match=r"as they were given to fit: 'c' \(.*; fit again with plain"
    ) as told:
        model.to_pipeline()
    assert why in str(told.value)
    model.save(tmp_path / "model.skops")
    with pytest.raises(InvalidData, match="as they were given to fit: 'c'"):
        AutoClassifier.load(tmp_path / "model.skops").to_pipeline()


def test_names_that_two_columns_have() -> None:
    twice = pd.DataFrame(np.column_stack([A, A**2]), columns=pd.Index(["a", "a"]))
    with pytest.raises(InvalidData, match=r"'a' \(another one has this name\), 'a \(2\)' \(another"):
        classifier().fit(twice, LABELS).to_pipeline()


def test_columns_that_tell_nothing_may_be_anything() -> None:
    frame = pd.DataFrame({"a": A, "c": pd.array([pd.NA] * N, dtype="Int64"), "d": np.inf})
    assert classifier().fit(frame, LABELS).to_pipeline().fit(frame, LABELS).score(frame, LABELS) > 0.9


def test_arrays_are_looked_at_by_place() -> None:
    x = np.column_stack([A, np.where(A > 1, np.inf, A)])
    for given in (x, x.tolist(), coo_array(x)):
        with pytest.raises(InvalidData, match=r"'x1' \(numbers that are infinite"):
            regressor().fit(given, VALUES).to_pipeline()
    plain = np.column_stack([A, A**2])
    assert (
        regressor().fit(coo_array(plain), VALUES).to_pipeline().fit(plain, VALUES).score(plain, VALUES) > 0.3
    )
