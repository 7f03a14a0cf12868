"""How a search spends its time: whose turn it is, and what the members of the blend are fitted to."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from automl_cases import quick_prior
from sklearn.datasets import load_diabetes, load_iris

import tasklore.apps.automl.search as search_module
from tasklore import AutoClassifier, AutoRegressor
from tasklore.apps.automl.losses import metric_for
from tasklore.apps.automl.measuring import (
    Measurement,
    Problem,
    fit_quietly,
    folds_of,
    measure,
    outputs_of,
)
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.saving import open_saved, write
from tasklore.apps.automl.search import _Search  # pyright: ignore[reportPrivateUsage]
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.trials import Blend, Budget, Design, Found, Trial
from tasklore.apps.automl.worker import Worker, _left_to_container  # pyright: ignore[reportPrivateUsage]


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


def test_models_are_kept_as_far_as_memory_goes() -> None:
    """The best one's in any case, then those of the best that there is room for."""
    search = begun(100)
    search.most_kept = 100

    def kept() -> list[str]:
        return [trial.candidate.name for trial in search.trials if trial.measured.models]

    for place, (name, loss, size) in enumerate(
        (("ridge-1", 0.5, 60), ("forest", 0.4, 50), ("boosting", 0.6, 40), ("lightgbm", 0.3, 140))
    ):
        found = Measurement(name, (loss,), 1.0, 0.0, 0.0, np.empty(0), models=(Constant(loss),), size=size)
        search.trials.append(Trial(place, search.suited[name], found, 0, 100, 1.0, 1.0 - loss))
        search._forget_models(0)
        if name == "boosting":
            assert kept() == ["forest", "boosting"], "there was no room for both of the first two"
    assert kept() == ["lightgbm"]


def of_kinds(n: int, **columns: Any) -> Problem:
    rng = np.random.default_rng(0)
    given = {name: make(rng, n) for name, make in columns.items()}
    return Problem.of(pd.DataFrame(given), np.arange(n) % 2, "classification")


def texts(rng: np.random.Generator, n: int) -> list[str]:
    words = np.array([f"word{i}" for i in range(500)], dtype=object)
    return [" ".join(row) for row in rng.choice(words, (n, 30))]


def levels(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice(np.array(["one", "two", "three"], dtype=object), n)


def searching(problem: Problem, budget: Budget) -> Any:
    prior = TablePrior.shipped("classification")
    return _Search(problem, prior, budget, metric_for("classification"), 0.0, lambda trial: None)


def test_the_first_model_reads_no_texts_and_few_categories() -> None:
    one = Blend.first(of_kinds(60, a=texts, b=texts), 0)
    assert [candidate.name for _, candidate, _ in one.members] == ["constant"]
    wide = {f"c{i}": levels for i in range(40)}
    problem = of_kinds(60, text=texts, **wide)
    (_, candidate, (pipeline,)), _ = Blend.first(problem, 0).members
    assert candidate.name == "first"
    ((_, _, columns),) = pipeline.named_steps["columns"].transformers
    assert columns == [f"c{i}" for i in range(20)]
    assert pipeline.predict_proba(problem.table).shape == (60, 2)


@pytest.mark.parametrize("budget", [Budget(5.0), Budget(5.0, memory=2000)], ids=["texts", "memory"])
def test_what_must_be_ended_or_bounded_is_not_tried_in_this_process(
    budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[str] = []
    monkeypatch.setattr(
        search_module, "measure", lambda candidate, *rest, **more: here.append(candidate.name)
    )
    problem = of_kinds(300, a=levels) if budget.memory else of_kinds(300, a=levels, text=texts)
    found = searching(problem, dataclasses.replace(budget, seconds=2.0))
    found.started = time.monotonic()
    result = found.run()
    assert here == []
    assert result.trials


def test_what_a_text_takes_to_read_is_expected() -> None:
    plain, long = (searching(of_kinds(100, a=levels, **more), Budget(1.0)) for more in ({}, {"text": texts}))
    for search in (plain, long):
        search.started = time.monotonic()
        search.run()
    assert plain.reading == pytest.approx(100 * 5e-7)
    assert long.reading > 100 * 30 * 5 * 1e-6
    assert min(long.expected.values()) >= long.reading


def test_what_fitting_takes_is_remembered_for_the_rows_that_are_described() -> None:
    problem = numbers(50)
    measured = Measurement("ridge-1", (0.5,), 8.0, 0.0, 0.0, np.zeros((50, 1)))
    trial = Trial(0, candidates("regression")["ridge-1"], measured, 0, 12_000, 1.0, 0.5)
    blend = Blend(problem, ())
    metric = metric_for("regression")
    found = Found(blend, (trial,), (), {}, 0, 1.0, 0.5, metric, "", 1.0, 0.1, n_described=3000)
    assert found.seconds_of(trial) == 2.0
    assert found.seconds_of(dataclasses.replace(trial, n_rows=100)) == 40.0  # not all of it is for rows


def test_no_other_fold_is_begun_when_the_time_is_over() -> None:
    problem = numbers(60)
    late = measure(candidates("regression")["ridge-1"], problem, folds_of(problem, 5), until=0.0)
    assert len(late.losses) == 1
    assert not late.error


def test_a_row_unlike_all_others_spoils_no_prediction(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = 10 - rng.exponential(0.01, size=(200, 1))
    problem = Problem.of(x, (x[:, 0] > np.median(x)).astype(int), "classification")
    pipeline = fit_quietly(candidates("classification")["logistic-power"], problem)
    rows = problem.schema.table(np.array([[1e6], [x[0, 0]], [-1e30]]))
    found = outputs_of(pipeline, rows, problem)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1], outputs_of(pipeline, rows.iloc[1:2], problem)[0])
    write(tmp_path / "model.skops", {"pipeline": pipeline})
    again = open_saved(tmp_path / "model.skops")["pipeline"]
    np.testing.assert_array_equal(outputs_of(again, rows, problem), found)


def test_a_run_with_a_store_repeats_itself(tmp_path: Path) -> None:
    """On what the store knew when it began, however many processes there are."""
    x, y = load_iris(return_X_y=True)
    store = tmp_path / "lore.db"
    AutoClassifier(store=store, max_evaluations=6, random_state=0).fit(x[::2], y[::2])
    boards = [
        AutoClassifier(store=store, max_evaluations=6, random_state=0, remember=False, n_jobs=n_jobs)
        .fit(x, y)
        .leaderboard_
        for n_jobs in (1, 2)
    ]
    assert list(boards[0]["candidate"]) == list(boards[1]["candidate"])
    np.testing.assert_array_equal(boards[0]["score"], boards[1]["score"])


def test_a_process_that_cannot_start_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no more processes are allowed, say: whoever asked hears that the other end hung up."""
    monkeypatch.setattr("tasklore.apps.automl.nursery.spawn", lambda descriptor, limit: None)
    with Worker(500) as worker:
        worker.start()
        assert not worker.starting
        assert not worker.ready
        problem = numbers(50)
        worker.load(problem, folds_of(problem, 2, 0))
        found = worker.measure(candidates("regression")["ridge-1"], 5.0)
    assert "its process ended" in found.error


def test_a_container_has_less_than_its_machine(tmp_path: Path) -> None:
    assert _left_to_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_to_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text(f"{4000 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{3000 << 20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {500 << 20}\n")
    assert _left_to_container(tmp_path) == 1500.0
    (tmp_path / "memory.max").write_text("max\n")
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text(f"{2000 << 20}\n")
    (old / "memory.usage_in_bytes").write_text(f"{2500 << 20}\n")
    (old / "memory.stat").write_text(f"total_inactive_file {100 << 20}\n")
    assert _left_to_container(tmp_path) == 0.0


def test_the_models_that_are_kept_are_those_a_blend_would_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the folds of all repeats predict together: the mean loss of the folds orders otherwise."""
    monkeypatch.setattr(search_module, "N_NEAREST", 5)
    x, y = load_iris(return_X_y=True)
    problem = Problem.of(x[::2], y[::2], "classification")
    prior, space = TablePrior.shipped("classification"), candidates("classification")
    search: Any = _Search(problem, prior, Budget(60.0), metric_for("classification"), 0.0, lambda _: None)
    search.levels = [search._design(75, 5, 2)]
    search.suited, search.most_kept = space, 2**40
    search.expected = dict.fromkeys(space, 0.1)
    design = search.levels[0]
    names = [
        name for name in space if name.startswith(("logistic", "tree", "neighbours", "naive", "support"))
    ]
    for place, name in enumerate(names):
        search.taken[name, 0] = place
        search._note(name, 0, measure(space[name], design.problem, design.folds, 0, keep_models=True))
    losses = {t.candidate.name: design.problem.loss(*pooled(t)) for t in search.trials if t.whole}
    kept = {t.candidate.name for t in search.trials if t.measured.models}
    assert kept == set(sorted(losses, key=losses.__getitem__)[:5])
    by_folds = sorted((t for t in search.trials if t.whole), key=lambda t: t.measured.loss)
    assert kept != {t.candidate.name for t in by_folds[:5]}  # else this shows nothing
    weights, whole = search._weights(0)
    assert {t.candidate.name for t in whole} == kept
    assert weights.sum() == pytest.approx(1.0)


def pooled(trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(75), trial.measured.predictions


def test_what_has_no_models_is_in_no_blend() -> None:
    search = begun(60)
    design = search.levels[0]
    for place, name in enumerate(("ridge-1", "tree-3", "constant")):
        one = candidates("regression")[name]
        found = measure(one, design.problem, design.folds, 0, keep_models=place == 1)
        search.trials.append(Trial(place, one, found, 0, 60, 0.0, score=-found.loss))
    weights, whole = search._weights(0)
    assert [trial.candidate.name for trial in whole] == ["tree-3"]
    assert weights.tolist() == [1.0]
