"""Every candidate learns a messy table, and is what its description says."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import r2_score

from tasklore.apps.automl.features import DateParts, FrequencyEncoder
from tasklore.apps.automl.losses import log_loss, one_minus_r2
from tasklore.apps.automl.measuring import Problem, fit_quietly, folds_of, measure, outputs_of
from tasklore.apps.automl.pipelines import Candidate, Kind
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.tables import Schema
from tasklore.apps.automl.worker import Worker
from tasklore.errors import InvalidSetting

N = 90


def table(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "amount": np.where(rng.random(N) < 0.1, np.nan, rng.normal(size=N)),
            "size": rng.lognormal(size=N),
            "colour": rng.choice(np.array(["red", "green", "blue", None], dtype=object), N),
            "town": [f"town {i}" for i in rng.integers(0, 40, N)],
            "member": rng.random(N) < 0.5,
            "day": pd.date_range("2024-01-01", periods=N),
            "remark": [f"remark {i} about the item number {i * 7} in stock" for i in range(N)],
            "same": 1.0,
            "empty": None,
        }
    )


def problem(kind: Kind, n_classes: int = 3) -> Problem:
    frame, rng = table(), np.random.default_rng(1)
    signal = frame["size"].to_numpy() + frame["member"].to_numpy() + 0.1 * rng.normal(size=N)
    if kind == "regression":
        return Problem.of(frame, signal, kind)
    ranks = np.argsort(np.argsort(signal)) * n_classes // N
    return Problem.of(frame, np.array(["low", "middle", "high", "a", "b"])[ranks], kind)


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {
        "regression": problem("regression"),
        "classification": problem("classification"),
        "two classes": problem("classification", 2),
    }


def slow(candidate: Candidate) -> bool:
    return any(word in candidate.name for word in ("-many", "-long"))


CASES = [
    (what, name)
    for what, kind in (("classification", "classification"), ("regression", "regression"))
    for name, candidate in candidates(kind).items()  # type: ignore[arg-type]
    if not slow(candidate)
]


@pytest.mark.parametrize(("what", "name"), CASES)
def test_every_candidate_learns_a_messy_table(what: str, name: str, problems: dict[str, Problem]) -> None:
    posed = problems[what]
    candidate = candidates(posed.kind)[name]
    fitted = fit_quietly(candidate, posed)
    other = posed.schema.table(table(5).assign(town="elsewhere"))
    outputs = outputs_of(fitted, other, posed)
    assert outputs.shape == (N, posed.n_classes or 1)
    assert np.isfinite(outputs).all()
    if posed.kind == "classification":
        np.testing.assert_allclose(outputs.sum(1), 1.0, atol=1e-4)
    clone(fitted)


def test_descriptions_survive_a_file() -> None:
    for kind in ("classification", "regression"):
        for name, candidate in candidates(kind).items():
            assert candidate.name == name
            again = Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())))
            assert again.to_dict() == candidate.to_dict()
    good = candidates("regression")["ridge-1"].to_dict()
    with pytest.raises(InvalidSetting, match="no model 'eval'"):
        Candidate.from_dict(good | {"model": "eval"})
    with pytest.raises(InvalidSetting, match="no candidate"):
        Candidate.from_dict(good | {"code": "x"})


def test_the_space_is_wide() -> None:
    for kind, families in (("classification", 14), ("regression", 16)):
        space = candidates(kind)
        assert 90 <= len(space) <= 150
        assert len({candidate.family for candidate in space.values()}) == families


def test_choices_that_change_nothing_give_one_pipeline() -> None:
    numbers = Schema.of(np.random.default_rng(0).normal(size=(20, 3)))
    messy = Schema.of(table())
    space = candidates("classification")
    names = ("forest", "forest-onehot", "forest-target", "forest-frequency")
    assert len({str(space[name].on(numbers)) for name in names}) == 1
    assert len({str(space[name].on(messy)) for name in names}) == 4
    assert space["lightgbm-missing"].on(numbers) == space["lightgbm"].on(numbers)
    assert space["lightgbm-missing"].on(messy) != space["lightgbm"].on(messy)
    distinct = {str(candidate.on(messy)) for candidate in space.values()}
    assert len(distinct) == len(space), "no two names for one pipeline"


def test_which_pipelines_stand_alone() -> None:
    numbers = Schema.of(pd.DataFrame({"x": [1.0, 2.0], "c": ["a", "b"]}))
    space = candidates("regression")
    assert not space["forest"].needs_tasklore(numbers)
    assert space["forest-frequency"].needs_tasklore(numbers)
    assert not space["forest-frequency"].needs_tasklore(Schema.of(np.eye(3)))
    assert space["forest"].needs_tasklore(Schema.of(table()[["day"]]))


def test_what_is_too_large_for_a_candidate() -> None:
    space = candidates("classification")
    levels = Schema.of(pd.DataFrame({f"c{i}": ["a", "b", "c"] for i in range(30)}))
    assert space["logistic-1"].width(levels, 2) == 90
    assert space["logistic-target"].width(levels, 2) == 30
    assert space["logistic-target"].width(levels, 19) == 570
    assert space["logistic-target"].suits(levels, 100, 2, 5)
    assert not space["logistic-target"].suits(levels, 100, 19, 5), "an encoding for each class and column"
    assert not space["neighbours-5"].suits(levels, 20_001, 2, 5)
    assert not space["logistic-1"].suits(levels, 2_000_000, 2, 5), "more numbers than fit into memory"
    assert not space["support-vectors"].suits(levels, 100, 2, 4), "a class too rare to be calibrated"


@pytest.mark.parametrize("name", ["network", "lightgbm-robust"])
def test_targets_of_any_unit_are_learned(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = x[:, 0] + 0.1 * rng.normal(size=400)
    measured = [
        measure(candidates("regression")[name], posed, folds_of(posed, 3)).loss
        for posed in (Problem.of(x, unit * y, "regression") for unit in (1e-4, 1.0, 1e4))
    ]
    assert max(measured) < 0.2
    np.testing.assert_allclose(measured, measured[0], rtol=0.05)


@pytest.mark.parametrize("name", ["lightgbm-target", "forest-target", "logistic-target"])
def test_encodings_of_the_target_do_not_leak(name: str) -> None:
    """A category of its own for almost each row, and a target of pure chance."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"id": [f"v{i}" for i in rng.integers(0, 150, 300)], "x": rng.normal(size=300)})
    posed = Problem.of(frame, rng.integers(0, 2, 300), "classification")
    fitted = fit_quietly(candidates("classification")[name], posed)
    seen = fitted[:-1].fit_transform(posed.table, posed.y)
    column = seen[:, -1]
    assert abs(np.corrcoef(column, posed.y)[0, 1]) < 0.2, "what the model was given to learn from"
    measured = measure(candidates("classification")[name], posed, folds_of(posed, 3))
    assert measured.loss > 0.66


def test_losses_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y, chances = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    assert log_loss(y, chances) == pytest.approx(sklearn_log_loss(y, chances), rel=1e-4)
    weights = rng.random(50)
    assert log_loss(y, chances, weights) == pytest.approx(
        sklearn_log_loss(y, chances, sample_weight=weights), rel=1e-4
    )
    targets, values = rng.normal(size=50), rng.normal(size=50)
    assert one_minus_r2(targets, values) == pytest.approx(1 - r2_score(targets, values))
    assert one_minus_r2(targets, values, weights) == pytest.approx(
        1 - r2_score(targets, values, sample_weight=weights)
    )
    assert one_minus_r2(np.ones(3), np.ones(3)) == 0.0


def test_feature_steps() -> None:
    dates = pd.DataFrame({"d": pd.to_datetime(["2024-02-01 06:00", "2024-02-29 12:00", None])})
    parts = DateParts().fit(dates)
    np.testing.assert_array_equal(
        parts.transform(dates),
        [[0, 2024, 2, 3, 1, 6], [28.25, 2024, 2, 3, 29, 12], [np.nan] * 6],
    )
    assert parts.get_feature_names_out()[3] == "d weekday"
    colours = pd.DataFrame({"c": ["a", "a", "b", "a"]})
    encoder = FrequencyEncoder().fit(colours)
    np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"c": ["a", "z"]})), [[0.75], [0.0]])


def test_a_sample_keeps_every_class() -> None:
    y = np.array([0] * 500 + [1] * 5 + [2] * 50)
    posed = Problem.of(np.arange(555.0).reshape(-1, 1), y, "classification").sample(60)
    counts = np.bincount(posed.y)
    assert len(posed.y) == 60
    assert counts.min() >= 1
    np.testing.assert_allclose(counts / 60, [500 / 555, 5 / 555, 50 / 555], atol=0.02)


def test_looking_for_neighbours_is_foreseen() -> None:
    """Only they take it; twice the rows on either side are twice the time."""
    schema = Schema.of(pd.DataFrame(np.zeros((4, 40)) + np.arange(4)[:, None]))
    space = candidates("classification")
    assert space["forest"].seconds_to_look_up(schema, 2, 10_000, 2500) == 0.0
    city, plain = (space[name] for name in ("neighbours-10-city", "neighbours-5"))
    seconds = city.seconds_to_look_up(schema, 2, 10_000, 2500)
    assert seconds == pytest.approx(1.0)  # 25 million pairs of 40 numbers, a billionth each
    assert plain.seconds_to_look_up(schema, 2, 10_000, 2500) == pytest.approx(0.15)
    assert city.seconds_to_look_up(schema, 2, 20_000, 5000) == pytest.approx(4 * seconds)


# The process that tries candidates


def test_a_worker_measures_as_here_and_survives_everything(problems: dict[str, Problem]) -> None:
    posed = problems["classification"]
    folds = folds_of(posed, 3)
    space = candidates("classification")
    with Worker(memory_limit=3000) as worker:
        worker.load(posed, folds)
        there, here = worker.measure(space["tree-3"], 60.0), measure(space["tree-3"], posed, folds)
        assert there.losses == here.losses
        np.testing.assert_array_equal(there.predictions, here.predictions)
        kept = worker.measure(space["forest"], 60.0, keep_models=True)
        assert len(kept.models) == 3
        assert kept.predictions.base is None  # of its own: the models' memory can be let go
        assert kept.seconds >= 0.5 * 3 * (kept.fit_seconds + kept.predict_seconds)
        late = worker.measure(space["forest-many"], 0.01)
        assert "took longer than 0.01 s" in late.error
        assert late.loss == float("inf")
        again = worker.measure(space["tree-3"], 60.0)  # in a new process, which knows the problem too
        assert again.losses == here.losses
        given_up = worker.measure(space["constant"], 60.0, give_up_above=(0.0,))
        assert len(given_up.losses) == 1
        assert np.isnan(given_up.predictions).any()


def test_a_worker_keeps_its_memory_limit(problems: dict[str, Problem]) -> None:
    posed = problems["classification"]
    with Worker(memory_limit=120) as worker:
        worker.load(posed, folds_of(posed, 3))
        assert worker.measure(candidates("classification")["forest-many"], 60.0).error


def test_none_of_it_needs_torch() -> None:
    code = (
        "import sys, tasklore.apps.automl.space, tasklore.apps.automl.worker as w; "
        "raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
