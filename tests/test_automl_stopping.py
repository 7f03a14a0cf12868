"""LightGBM that finds its number of trees itself, and where it is offered."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.base import clone

from tasklore import AutoClassifier, AutoRegressor
from tasklore.apps.automl.measuring import Problem, fit_quietly
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.stopping import StoppedClassifier, StoppedRegressor
from tasklore.apps.automl.trials import Blend
from tasklore.apps.automl.varying import Variations, varied

N = 6000
X = np.random.default_rng(0).normal(size=(N, 5))
VALUES = np.sin(3 * X[:, 0]) * X[:, 1] + X[:, 2] + np.random.default_rng(1).normal(size=N)
LABELS = np.digitize(VALUES, [-1.0, 1.0])
QUIET: dict[str, Any] = {"verbosity": -1, "random_state": 0, "n_jobs": 1}
FACES: dict[Kind, Any] = {"classification": AutoClassifier, "regression": AutoRegressor}


def stopped(kind: Kind, **settings: Any) -> Any:
    model: Any = StoppedClassifier if kind == "classification" else StoppedRegressor
    return model(n_estimators=3000, learning_rate=0.1, **QUIET, **settings)


@pytest.mark.parametrize("kind", FACES)
def test_it_stops_where_more_trees_do_not_help(kind: Kind) -> None:
    y = LABELS if kind == "classification" else VALUES
    model: Any = clone(stopped(kind))
    model.fit(X[:4000], y[:4000])
    assert 20 < model.best_iteration_ < 600
    plain: Any = lightgbm.LGBMClassifier if kind == "classification" else lightgbm.LGBMRegressor
    all_trees = plain(n_estimators=3000, learning_rate=0.1, **QUIET).fit(X[:4000], y[:4000])
    assert model.score(X[4000:], y[4000:]) > all_trees.score(X[4000:], y[4000:])


def test_rows_count_as_they_are_weighed() -> None:
    twice = np.where(X[:, 3] > 0, VALUES, -VALUES)
    model = stopped("regression").fit(X[:, :3], twice, sample_weight=np.where(X[:, 3] > 0, 1.0, 1e-6))
    assert model.score(X[:, :3], VALUES) > 0.5


def test_every_class_is_on_both_sides_of_the_rows_kept_aside() -> None:
    y = np.repeat(np.arange(40), 5)
    assert stopped("classification").fit(X[: len(y)], y).predict_proba(X[:2]).shape == (2, 40)
    with pytest.raises(ValueError, match="least populated"):
        stopped("classification").fit(X[:9], np.minimum(np.arange(9), 2))


@pytest.mark.parametrize("kind", FACES)
def test_it_is_saved_and_becomes_plain_lightgbm(kind: Kind, tmp_path: Path) -> None:
    y = LABELS if kind == "classification" else VALUES
    face = FACES[kind]
    model: Any = face(max_evaluations=1).fit(X[:300], y[:300])
    chosen = candidates(kind)["lightgbm-stopped"]
    model._blend = Blend(model._blend.problem, ((1.0, chosen, ()),))
    model._blend = model._blend.refitted(Problem.of(X, y, kind), 0)
    model.save(tmp_path / "model.skops")
    again = face.load(tmp_path / "model.skops")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    found = model._blend.members[0][2][0][-1].best_iteration_
    plain = again.to_pipeline()[-1]
    assert type(plain) in (lightgbm.LGBMClassifier, lightgbm.LGBMRegressor)
    assert plain.n_estimators == found


@pytest.mark.parametrize("refitted", [1, 3])
def test_models_of_all_rows_tell_how_many_trees_they_have(refitted: int) -> None:
    """They were told, so nothing was left for LightGBM to find."""
    chosen = candidates("regression")["lightgbm-stopped"]
    problem = Problem.of(X, VALUES, "regression")
    fold = fit_quietly(chosen, problem.rows(np.arange(4000)))
    found = fold[-1].best_iteration_
    whole = fit_quietly(chosen.sized((fold,)), problem)
    assert type(whole[-1]) is lightgbm.LGBMRegressor
    assert whole[-1].n_iter_ == found
    assert chosen.sized((fold,) * (refitted == 3) + (whole,) * refitted).settings["n_estimators"] == found
    blend = Blend(problem, ((1.0, chosen, (whole,)),)).refitted(problem, 0)
    assert blend.members[0][2][0][-1].n_iter_ == found
    mine = candidates("regression")["boosting-stopped"]
    other = fit_quietly(mine, problem)
    assert mine.sized((other,)).settings["max_iter"] == other[-1].n_iter_
    assert candidates("regression")["ridge-1"].sized((other,)) == candidates("regression")["ridge-1"]


def test_only_larger_tables_than_past_ones_are_offered_it() -> None:
    """Past tables, which had fewer rows, do not tell of it; its relatives do."""
    tried = [
        set(
            AutoRegressor(max_evaluations=24, random_state=0)
            .fit(X[:n, :3], VALUES[:n])
            .leaderboard_["candidate"]
        )
        for n in (500, 4600)
    ]
    found = [{name for name in names if name.startswith("lightgbm-stopped")} for names in tried]
    assert not found[0]
    assert found[1]


def test_what_past_tables_do_not_tell_is_foreseen_from_its_relatives() -> None:
    prior, space = TablePrior.shipped("regression"), candidates("regression")
    new = Variations(prior, space, lambda candidate: True, 0, ["lightgbm-stopped"])
    wider = new.offer((), (), 0)
    assert wider.candidates == (*prior.candidates, "lightgbm-stopped")
    again = new.offer([space["ridge-1"]], (), 8)
    assert again.candidates[len(prior.candidates)] == "lightgbm-stopped"
    assert (
        Variations(prior, space, lambda _: False, 0, ["lightgbm-stopped"]).offer((), (), 0).candidates
        == prior.candidates
    )


def test_the_number_of_trees_is_not_varied_where_it_is_found() -> None:
    rng = np.random.default_rng(0)
    for name, trees in (("lightgbm-stopped", "n_estimators"), ("boosting-stopped", "max_iter")):
        base = candidates("regression")[name]
        found = [varied(base, rng) for _ in range(20)]
        assert {one.settings[trees] for one in found if one} == {base.settings[trees]}
