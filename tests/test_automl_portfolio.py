"""A portfolio puts first what is good everywhere, and then what helps where that fails."""

import numpy as np
import pytest

from tasklore.apps.automl.portfolio import Measured, build_portfolio
from tasklore.errors import InvalidData


def dataset(name: str, noise: dict[str, float], seed: int) -> Measured:
    """Return a regression data set on which each candidate errs by so much, independently."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=300)
    predictions = {c: (y + e * rng.normal(size=300)).astype(np.float16)[:, None] for c, e in noise.items()}
    predictions["constant"] = np.full((300, 1), y.mean(), dtype=np.float16)
    losses = {c: float(((p[:, 0] - y) ** 2).mean() / y.var()) for c, p in predictions.items()}
    return Measured(name, name, "regression", y, losses, dict.fromkeys(losses, 1.0), predictions, {})


def past() -> list[Measured]:
    """Eight data sets: one candidate is good on all, two on half each, one nowhere."""
    some = {"steady": 0.3, "left": 0.1, "right": 3.0, "poor": 5.0}
    others = {"steady": 0.3, "left": 3.0, "right": 0.1, "poor": 5.0}
    return [dataset(f"set {i}", some if i % 2 else others, i) for i in range(8)]


def test_the_steady_one_comes_first_and_specialists_follow() -> None:
    found = build_portfolio(past())
    assert found[0] == "steady"
    assert set(found[1:3]) == {"left", "right"}
    assert sorted(found) == ["constant", "left", "poor", "right", "steady"]
    assert build_portfolio(past(), n_candidates=2) == found[:2]


def test_candidates_that_were_given_up_do_no_harm() -> None:
    experience = past()
    first = experience[0]
    fewer = {name: p for name, p in first.predictions.items() if name != "steady"}
    experience[0] = Measured(
        first.name, first.family, "regression", first.y, first.losses, first.seconds, fewer, {}
    )
    assert build_portfolio(experience)[0] == "steady"


def test_without_experience_there_is_no_portfolio() -> None:
    with pytest.raises(InvalidData, match="tasklore collect"):
        build_portfolio([])
