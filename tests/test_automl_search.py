"""How a search spends its time: whose turn it is, and what the members of the blend are fitted to."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from automl_cases import quick_prior
from sklearn.datasets import load_diabetes

import tasklore.apps.automl.search as search_module
from tasklore import AutoRegressor
from tasklore.apps.automl.losses import metric_for
from tasklore.apps.automl.measuring import Measurement, Problem, folds_of
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.search import _Search  # pyright: ignore[reportPrivateUsage]
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.trials import Blend, Budget, Design, Trial


def numbers(n: int) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    return Problem.of(x, x[:, 0] + 0.1 * rng.normal(size=n), "regression")


def begun(n: int) -> Any:
    """Return a search on a table of so many rows, before its first trial."""
    problem, prior = numbers(n), TablePrior.shipped("regression")
    search = _Search(problem, prior, Budget(10.0), metric_for("regression"), 0.0, lambda trial: None)
    search.suited = dict(candidates("regression"))
    search.named = frozenset(search.suited)
    search.suited["ridge-1 with alpha 3"] = dataclasses.replace(
        search.suited["ridge-1"], name="ridge-1 with alpha 3", settings={"alpha": 3.0}
    )
    search.levels = [Design(problem, folds_of(problem, 1), 1.0)]
    return search


class Constant:
    """A fitted pipeline that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, table: Any) -> np.ndarray:
        return np.full(len(table), self.value)


def test_a_model_that_stands_twice_counts_twice() -> None:
    problem = dataclasses.replace(numbers(50), bounds=None)
    one, whole = Constant(1.0), Constant(4.0)
    blend = Blend(problem, ((1.0, candidates("regression")["ridge-1"], (one, one, whole)),))
    np.testing.assert_allclose(blend.outputs(problem.table), 2.0)
    half = (0.5, candidates("regression")["ridge-1"], (one, whole))
    np.testing.assert_allclose(Blend(problem, (half, half)).outputs(problem.table), 2.5)


def test_variations_and_what_finds_its_size_have_their_turns() -> None:
    search = begun(400)
    fits = {"ridge-1": 0.1, "boosting-stopped": 2.0, "ridge-1 with alpha 3": 0.1}
    by_turn = []
    for turn in range(3):
        search.taken = {(str(i), 0): i for i in range(turn)}
        by_turn.append(set(search._of_this_turn(fits)))
    assert by_turn == [
        {"ridge-1 with alpha 3"},
        {"ridge-1", "boosting-stopped"},
        {"ridge-1", "boosting-stopped"},
    ]
    assert set(search._of_this_turn({"ridge-1 with alpha 3": 0.1})) == {"ridge-1 with alpha 3"}
    large = begun(5000)
    large.taken = {(str(i), 0): i for i in range(2)}
    assert set(large._of_this_turn(fits)) == {"boosting-stopped"}, "larger than what is known of past tables"
    assert set(large._of_this_turn({"ridge-1": 0.1})) == {"ridge-1"}


def test_the_best_goes_up_while_there_is_time_for_it() -> None:
    """Four times the rows would take it 4 of 10 seconds, and the others hardly any: half-time is too late."""
    search = begun(8000)
    few, many = (search._design(rows, 1) for rows in (2000, 8000))
    search.levels = [few, many, Design(many.problem, many.folds, many.trivial, judges=False)]
    search.trials = [
        Trial(
            place,
            search.suited[name],
            Measurement(name, (loss,), 1.0, 0.0, 0.0, np.empty(0)),
            0,
            2000,
            1.0,
            loss,
        )
        for place, (name, loss) in enumerate({"boosting": 0.1, "ridge-1": 0.5}.items())
    ]
    search.taken = {("boosting", 0): 0, ("ridge-1", 0): 1}
    search.took = {("boosting", 0): 1.0, ("ridge-1", 0): 0.01}
    chosen = {}
    for left in (9.5, 7.5, 6.5, 5.5, 4.5):
        search._left = lambda left=left: left
        chosen[left] = search._next_upward()
    assert chosen == {9.5: None, 7.5: None, 6.5: ("boosting", 1), 5.5: ("boosting", 1), 4.5: ("ridge-1", 1)}
    search.taken["boosting", 1] = 2
    search._left = lambda: 6.5
    assert search._next_upward() is None, "the others wait for half-time"


@pytest.mark.timeout(240)
def test_members_are_fitted_to_all_rows_with_the_time_that_is_left() -> None:
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    for budget in (6.0, 12.0, 24.0):  # on a machine that is busy there may be no time left
        model = AutoRegressor(budget=budget, n_jobs=1, random_state=0).fit(x, y)
        blend = model._blend  # pyright: ignore[reportPrivateUsage]
        models = [[id(pipeline) for pipeline in pipelines] for _, _, pipelines in blend.members]
        refitted = [member for member in models if len(set(member)) < len(member)]
        if refitted:
            break
    else:
        pytest.fail("no member was fitted to all rows")
    for member in refitted:
        whole = max(set(member), key=member.count)
        assert member.count(whole) == len(member) // 2, "it counts as often as those of the folds together"
    assert model.score(x, y) > 0.4


def test_models_that_no_blend_may_take_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "N_NEAREST", 2)
    x, y = load_diabetes(return_X_y=True)
    problem = Problem.of(x, y, "regression")
    search = _Search(
        problem, quick_prior("regression"), Budget(None, 5, 1), metric_for("regression"), 0.0, lambda _: None
    )
    found = search.run()
    losses = [trial.measured.loss for trial in search.trials]
    kept = [bool(trial.measured.models) for trial in search.trials]
    assert sorted(losses)[:2] == sorted(np.array(losses)[kept].tolist())
    assert all(pipelines for _, _, pipelines in found.blend.members)
    assert np.isfinite(found.blend.outputs(problem.table)).all()
