"""Blending: what greedy selection gives, against brute force and against the best single model."""

from itertools import combinations_with_replacement

import numpy as np
import pytest

from tasklore.apps.automl.ensembles import select
from tasklore.apps.automl.losses import log_loss, one_minus_r2
from tasklore.errors import InvalidData


def regressors(n_rows: int = 200, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Four models whose errors are independent, and one that is useless."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=n_rows)
    models = [y + noise * rng.normal(size=n_rows) for _ in range(4)] + [5 * rng.normal(size=n_rows)]
    return np.stack(models)[..., None], y


def test_independent_errors_are_averaged() -> None:
    predictions, y = regressors()
    weights = select(predictions, y, "regression", by_rank=0.0)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert weights[4] == 0.0
    np.testing.assert_allclose(weights[:4], 0.25, atol=0.1)
    blended = one_minus_r2(y, np.tensordot(weights, predictions, 1))
    assert blended < 0.5 * min(one_minus_r2(y, model) for model in predictions)


def test_a_fifth_of_the_weight_goes_by_rank() -> None:
    predictions, y = regressors()
    chosen = select(predictions, y, "regression", by_rank=0.0)
    order = np.argsort([one_minus_r2(y, model) for model in predictions])
    ranks = np.zeros(5)
    ranks[order[:2]] = [2 / 3, 1 / 3]  # a quarter of five, rounded up
    np.testing.assert_allclose(select(predictions, y, "regression"), 0.8 * chosen + 0.2 * ranks, atol=1e-12)


def test_three_steps_are_as_good_as_brute_force() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 60)
    predictions = rng.dirichlet(np.ones(3), (4, 60))
    predictions[:, np.arange(60), y] += rng.random((4, 60))
    predictions /= predictions.sum(2, keepdims=True)
    weights = select(predictions, y, "classification", n_steps=3, n_bags=0)
    best = min(
        log_loss(y, predictions[list(chosen)].mean(0))
        for chosen in combinations_with_replacement(range(4), 3)
    )
    assert log_loss(y, np.tensordot(weights, predictions, 1)) == pytest.approx(best, rel=0.02)


def test_a_model_that_is_best_alone_stays_alone() -> None:
    predictions, y = regressors()
    perfect = np.concatenate([y[None, :, None], predictions])
    np.testing.assert_array_equal(select(perfect, y, "regression"), [1, 0, 0, 0, 0, 0])


def test_the_order_of_models_does_not_matter_and_broken_ones_are_left_out() -> None:
    predictions, y = regressors()
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(
        select(predictions[order], y, "regression"), select(predictions, y, "regression")[order], atol=1e-12
    )
    broken = predictions.copy()
    broken[0, 5] = np.nan
    assert select(broken, y, "regression")[0] == 0.0
    with pytest.raises(InvalidData, match="nothing can be blended"):
        select(np.full((2, 10, 1), np.nan), np.zeros(10), "regression")


def test_on_few_rows_chance_is_not_mistaken_for_skill() -> None:
    """Of 60 guesses at a coin none is better than another: the blend must not claim much more."""
    rng = np.random.default_rng(0)
    gains: list[float] = []
    for _ in range(20):
        y, later = rng.integers(0, 2, 40), rng.integers(0, 2, 2000)
        chances = rng.uniform(0.35, 0.65, (60, 2040))
        predictions = np.stack([1 - chances, chances], 2)
        weights = select(predictions[:, :40], y, "classification")
        blended = np.tensordot(weights, predictions[:, 40:], 1)
        gains.append(log_loss(later, blended) - np.log(2))
    assert np.mean(gains) < 0.03, "nats lost to the coin's own chance"


def test_a_few_rows_of_a_heavy_tail_do_not_decide() -> None:
    """One model knows most rows well, the other a single huge one by chance."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    y[0] = 1000.0
    sound, lucky = y + 0.1 * rng.normal(size=300), 3 * rng.normal(size=300)
    sound[0], lucky[0] = 0.0, 1000.0
    predictions = np.stack([sound, lucky])[..., None]
    assert select(predictions, y, "regression")[0] > 0.9
    assert select(predictions, y, "regression", reach=np.inf)[1] > 0.9


def test_rare_targets_count_where_most_are_the_same() -> None:
    rng = np.random.default_rng(0)
    y = np.where(np.arange(300) % 30 == 0, rng.gamma(2.0, 50.0, 300), 0.0)
    knows, zeros = y + 5 * rng.normal(size=300), np.zeros(300)
    assert select(np.stack([zeros, knows])[..., None], y, "regression")[1] > 0.9
