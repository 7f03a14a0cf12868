"""Calibration: what averaging did is undone, and no more than the rows tell."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from tasklore.apps.automl.calibrating import Calibration, calibrated


def power(p: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    return calibrated(p, y, "classification", weights).power


def flatter(p: np.ndarray, by: float) -> np.ndarray:
    return Calibration(power=by)(p)


def chances(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """True chances of three classes, and classes drawn with them."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.5, 0.5, 0.5], n_rows).clip(1e-6)
    p /= p.sum(1, keepdims=True)
    return p, (rng.random((n_rows, 1)) > p.cumsum(1)[:, :2]).sum(1)


@pytest.mark.parametrize("flattened", [0.5, 1.0, 1.5])
def test_the_power_undoes_what_flattened_the_chances(flattened: float) -> None:
    p, y = chances(20_000)
    assert power(flatter(p, flattened), y) == pytest.approx(1 / flattened, rel=0.05)


def test_few_rows_move_the_power_little() -> None:
    p, y = chances(2000)
    timid = flatter(p, 0.5)
    powers = [power(timid[:n], y[:n]) for n in (5, 50, 2000)]
    assert 1.0 < powers[0] < powers[1] < powers[2] < 2.1
    assert powers[0] < 1.3


def test_rows_count_by_their_weight_for_the_power() -> None:
    p, y = chances(4000)
    mixed = np.concatenate([flatter(p[:2000], 0.5), p[2000:]])
    weights = np.repeat([0.0, 1.0], 2000)
    assert power(mixed, y, weights) < 1.1 < power(mixed, y, 1 - weights)


def shrunken(n_rows: int, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that should have been ``slope`` times as far from their mean, and targets."""
    rng = np.random.default_rng(seed)
    values = 5 + rng.normal(size=n_rows)
    return values[:, None], 5 + slope * (values - 5) + 0.3 * rng.normal(size=n_rows)


def test_values_are_stretched_as_a_line_through_them_says() -> None:
    values, y = shrunken(5000, 1.2)
    line = LinearRegression().fit(values, y)
    found = calibrated(values, y, "regression")
    np.testing.assert_allclose(found(values)[:, 0], line.predict(values), atol=0.01)


@pytest.mark.parametrize("n_rows", [10, 100, 1000])
def test_little_is_believed_of_a_stretch_that_chance_would_give(n_rows: int) -> None:
    drawn = [shrunken(n_rows, 1.0, seed) for seed in range(50)]
    stretched = [abs(calibrated(values, y, "regression").stretch - 1) for values, y in drawn]
    by_chance = [abs(LinearRegression().fit(values, y).coef_[0] - 1) for values, y in drawn]
    assert np.mean(stretched) < 0.5 * np.mean(by_chance)


def test_equal_predictions_are_left_alone() -> None:
    assert calibrated(np.ones((20, 1)), np.arange(20.0), "regression") == Calibration()


def test_one_row_far_out_does_not_decide() -> None:
    values, y = shrunken(500, 1.0)
    values[0], y[0] = 50.0, 5000.0
    assert calibrated(values, y, "regression").stretch < 1.1


def test_rows_count_by_their_weight_for_the_stretch() -> None:
    values, y = shrunken(4000, 1.0)
    y[:2000] = 5 + 1.5 * (y[:2000] - 5)
    weights = np.repeat([0.0, 1.0], 2000)
    assert calibrated(values, y, "regression", weights).stretch == pytest.approx(1.0, abs=0.02)
    assert calibrated(values, y, "regression", 1 - weights).stretch == pytest.approx(1.5, abs=0.03)
