"""Candidates that nobody named are what was asked for, and past tables speak of them as of the named ones."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from tasklore import AutoClassifier
from tasklore.apps.automl.descriptors import NAMES
from tasklore.apps.automl.measuring import Problem, fit_quietly
from tasklore.apps.automl.pipelines import MODELS, Kind
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.varying import RANGES, Variations, foreseen, varied

KINDS: tuple[Kind, ...] = ("classification", "regression")


@pytest.mark.parametrize("kind", KINDS)
def test_settings_stay_in_their_ranges(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    for base in candidates(kind).values():
        found = [varied(base, rng) for _ in range(20)]
        if base.model not in RANGES or base.model not in MODELS[kind]:
            assert found == [None] * 20
            continue
        for new in found:
            assert new is not None
            assert new.features == base.features
            assert new.target == base.target
            assert new.name != base.name
            changed = {key for key, value in new.settings.items() if base.settings.get(key) != value}
            assert changed <= set(RANGES[base.model])
            for key in changed:
                limits, value = RANGES[base.model][key], float(new.settings[key])
                assert limits.low * 0.99 <= value <= limits.high * 1.01
                assert limits.value(limits.place(value)) == pytest.approx(value, rel=0.01)


def test_every_varied_setting_is_one_of_its_model() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(1)
    problem = Problem.of(pd.DataFrame(x[:120, :4]), pd.Series(y[:120]), "classification")
    for model in {candidate.model for candidate in candidates("classification").values()} & set(RANGES):
        base = next(c for c in candidates("classification").values() if c.model == model)
        new = varied(base, rng)
        assert new is not None
        settings = {key: limits.low for key, limits in RANGES[model].items()} | dict(new.settings)
        fit_quietly(dataclasses.replace(new, settings=settings), problem)


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_candidate_is_foreseen_as_it_was_measured(kind: Kind) -> None:
    prior, space = TablePrior.shipped(kind), candidates(kind)
    named = space["lightgbm-slow"]
    twin = dataclasses.replace(named, name="twin")
    far = dataclasses.replace(named, name="far", settings={"n_estimators": 30, "num_leaves": 127})
    wider = foreseen(prior, space, [twin, far])
    measured = np.nan_to_num(prior.losses[:, prior.candidates.index(named.name)], nan=1.0).clip(0, 1)
    assert wider.doubts is not None
    assert np.corrcoef(wider.losses[:, -2], measured)[0, 1] > 0.98
    assert wider.doubts[:, -2].mean() < 0.5 * wider.doubts[:, -1].mean()
    assert (wider.doubts[:, : len(prior.candidates)] == 0).all()
    np.testing.assert_array_equal(wider.losses[:, : len(prior.candidates)], prior.losses)
    described = {name: float(value) for name, value in zip(NAMES[kind], prior.descriptors[0], strict=True)}
    seconds = wider.seconds_for(described)
    assert seconds[-2] == pytest.approx(seconds[prior.candidates.index(named.name)], rel=0.2)


def test_doubt_is_worth_something() -> None:
    prior, space = TablePrior.shipped("classification"), candidates("classification")
    far = dataclasses.replace(space["lightgbm"], name="far", settings={"n_estimators": 800, "num_leaves": 3})
    wider = foreseen(prior, space, [far])
    weights = np.ones(len(prior.tasks))
    tried = list(prior.candidates)
    assert wider.improvement(tried, weights)[-1] > 0
    assert (wider.improvement(tried, weights)[:-1] == 0).all()


def test_offers_keep_those_tried_and_are_drawn_with_a_seed() -> None:
    space = candidates("regression")
    prior = TablePrior.shipped("regression")
    first, again = (Variations(prior, space, lambda candidate: True, 3) for _ in range(2))
    best = [space["lightgbm"], space["ridge-1"], space["bayesian-ridge"]]
    first.offer(best, set(), 8)
    again.offer(best, set(), 8)
    assert list(first.offered) == list(again.offered)
    assert len(first.offered) > 8
    kept = next(iter(first.offered))
    wider = first.offer(best, {kept}, 16)
    assert kept in first.offered
    assert kept in wider.candidates
    assert set(again.offered) & set(first.offered) == {kept}
    none = Variations(prior, space, lambda candidate: False, 3)
    assert none.offer(best, set(), 8).candidates == prior.candidates


def test_a_search_goes_beyond_the_named_candidates_when_all_were_tried() -> None:
    whole = TablePrior.shipped("classification")
    places = [whole.candidates.index(name) for name in whole.portfolio[:10]]
    few = dataclasses.replace(
        whole,
        portfolio=whole.portfolio[:10],
        candidates=whole.portfolio[:10],
        losses=whole.losses[:, places],
        seconds=whole.seconds[:, places],
    )
    x, y = load_breast_cancer(return_X_y=True)
    boards = [
        AutoClassifier(max_evaluations=18, n_jobs=n_jobs, random_state=1, prior=few)
        .fit(x[:200, :5], y[:200])
        .leaderboard_
        for n_jobs in (1, 2)
    ]
    varied = [" with " in name for name in boards[0].sort_values("at")["candidate"]]
    assert 5 <= sum(varied) <= 12
    assert sorted(varied) == varied, "the named ones come first"
    assert list(boards[0]["candidate"]) == list(boards[1]["candidate"])
    np.testing.assert_array_equal(boards[0]["score"], boards[1]["score"])
