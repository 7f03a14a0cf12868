"""Descriptors are finite whatever the table, mean what they say, and do not depend on units."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasklore.apps.automl.descriptors import NAMES, describe
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.tables import Schema
from tasklore.errors import InvalidData

N = 200
RNG = np.random.default_rng(0)


def found(x: Any, y: np.ndarray, kind: Kind = "classification") -> dict[str, float]:
    schema = Schema.of(x)
    return describe(schema.table(x), y, kind, schema)


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "plain": rng.normal(size=N),
            "heavy": rng.lognormal(sigma=2, size=N),
            "gaps": np.where(np.arange(N) < 50, np.nan, rng.normal(size=N)),
            "colour": rng.choice(np.array(["red", "green", "blue"], dtype=object), N),
            "flag": rng.random(N) < 0.5,
            "day": pd.date_range("2024-01-01", periods=N),
            "same": 1.0,
            "note": [f"a longer note about the thing {i}" for i in range(N)],
        }
    )


def test_what_can_be_counted_by_hand() -> None:
    y = np.repeat([0, 1], [150, 50])
    described = found(frame(), y)
    assert list(described) == list(NAMES["classification"])
    assert described["rows"] == pytest.approx(np.log1p(N))
    assert described["columns"] == pytest.approx(np.log1p(8))
    assert described["numbers"] == pytest.approx(4 / 8)
    assert described["categories"] == pytest.approx(1 / 8)
    assert described["dates"] == described["texts"] == described["booleans"] == pytest.approx(1 / 8)
    assert described["constants"] == pytest.approx(1 / 8)
    assert described["missing"] == pytest.approx(0.25 / 8)
    assert described["classes"] == pytest.approx(np.log1p(2))
    assert described["class_imbalance"] == pytest.approx(np.log(3))
    assert described["rarest_class"] == pytest.approx(0.25)
    shares = np.array([0.75, 0.25])
    assert described["class_entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())


def test_landmarkers_tell_kinds_of_problems_apart() -> None:
    x = RNG.normal(size=(400, 4))
    linear = found(x, (x @ [1, -1, 1, -1] > 0).astype(int))
    crossed = found(x, (x[:, 0] * x[:, 1] > 0).astype(int))
    step = found(x, (x[:, 2] > 0).astype(int))
    chance = found(x, RNG.integers(0, 2, 400))
    assert linear["linear"] > 0.85 > 0.3 > crossed["linear"]
    assert crossed["tree"] > crossed["linear"]
    assert step["stump"] > 0.95
    assert step["information_max"] > 0.85
    assert abs(chance["tree"]) < 0.3
    assert chance["information_max"] < 0.1


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_units_do_not_matter(kind: Kind) -> None:
    x = RNG.lognormal(size=(300, 5))
    y = (x[:, 0] > 1).astype(int) if kind == "classification" else x[:, 0]
    one, other = found(x, y, kind), found(x * 1e-6, y if kind == "classification" else y * 1e9, kind)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-6, abs=0.01), name


def test_equal_calls_give_equal_numbers() -> None:
    x, y = RNG.normal(size=(3000, 120)), RNG.integers(0, 3, 3000)
    assert found(x, y) == found(x, y), "though rows and columns are drawn"


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((N, 2)),
        np.full((N, 2), np.nan),
        np.where(RNG.random((N, 3)) < 0.5, np.inf, 1e300),
        RNG.normal(size=(N, 1)) * 1e-300,
        RNG.normal(size=(3, 5)),
        RNG.normal(size=(1, 1)),
        pd.DataFrame({"c": [f"v{i}" for i in range(N)]}),
        pd.DataFrame({"d": pd.to_datetime([None] * N)}),
        pd.DataFrame({"t": [""] * N, "n": [None] * N}),
        frame(),
    ],
)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_always_finite(x: Any, kind: Kind) -> None:
    for y in (np.arange(len(x)) % 3, np.zeros(len(x), dtype=int), np.arange(len(x))):
        described = found(x, y if kind == "classification" else y * 1e90, kind)
        assert list(described) == list(NAMES[kind])
        assert all(np.isfinite(value) for value in described.values())


def test_errors_are_clear() -> None:
    x = np.ones((5, 1))
    schema = Schema.of(x)
    with pytest.raises(InvalidData, match="5 rows and y 4"):
        describe(schema.table(x), np.zeros(4), "regression", schema)
    with pytest.raises(InvalidData, match="missing or infinite"):
        describe(schema.table(x), np.full(5, np.nan), "regression", schema)
