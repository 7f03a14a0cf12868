"""AutoML's settings are checked before any work, and a fit that finished no candidate says so."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from automl_cases import classifier, quick_prior, regressor

from tasklore import AutoClassifier
from tasklore.apps.automl.settings import (
    _cores,  # pyright: ignore[reportPrivateUsage]
    budget_of,
    seconds_of,
)
from tasklore.errors import InvalidSetting

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
Y = (X[:, 0] > 0).astype(int)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"memory_limit": -5}, "memory_limit is -5; give megabytes as a whole number, 1 at least"),
        ({"memory_limit": 0}, "memory_limit is 0"),
        ({"memory_limit": "2GB"}, "memory_limit is '2GB'"),
        ({"memory_limit": 1500.5}, r"memory_limit is 1500\.5"),
        ({"n_jobs": 0}, "n_jobs is 0; give a whole number of processes"),
        ({"n_jobs": "2"}, "n_jobs is '2'"),
        ({"n_jobs": 1.5}, r"n_jobs is 1\.5"),
        ({"max_evaluations": "3"}, "max_evaluations is '3'; at least 1 evaluation"),
        ({"max_evaluations": 2.5}, r"max_evaluations is 2\.5"),
        ({"max_evaluations": True}, "max_evaluations is True"),
        ({"max_evaluations": -1}, "max_evaluations is -1"),
        ({"max_evaluations": None, "budget": None}, "budget is None; give seconds"),
        ({"max_evaluations": None, "budget": True}, "budget is True"),
        ({"max_evaluations": None, "budget": float("nan")}, "budget is nan"),
        ({"max_evaluations": None, "budget": [60]}, r"budget is \[60\]"),
        ({"metric": ["log_loss"]}, r"metric is \['log_loss'\]; give its name"),
        ({"metric": "r2"}, "metric is 'r2'; for classification there are"),
        ({"store": 7}, "store is 7; give an open store, a path"),
        ({"prior": 3}, "prior is 3; give a TablePrior"),
        ({"prior": quick_prior("regression")}, "the prior is for regression; one for classification"),
        ({"watch": "loudly"}, "watch is 'loudly'; give a function"),
        ({"name": " "}, "name is ' '; give a text of 1 to 200"),
        ({"name": "caf\udce9"}, "it has characters that cannot be written down"),
        ({"name": "a\0b"}, "it has characters that cannot be written down"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_work_is_refused_before_the_data_are_looked_at(
    setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSetting, match=message):
        classifier(**setting).fit("no table", None)


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"max_evaluations": np.int64(2), "n_jobs": np.int32(1), "memory_limit": np.int64(3000)}
    assert classifier(**given).fit(X, Y).score(X, Y) > 0.9
    assert budget_of({**given, "budget": "60s"}, 0).memory == 3000
    half: Any = np.float32(0.5)
    assert seconds_of(half) == 0.5
    assert seconds_of(1e-5) == 1e-5


def test_a_fit_that_finished_nothing_says_so() -> None:
    with pytest.warns(UserWarning, match=r"no candidate was finished \(0 were tried; the time was over\)"):
        model = AutoClassifier(budget=1e-5, n_jobs=1, prior=quick_prior("classification")).fit(X, Y)
    assert len(model.leaderboard_) == 0
    assert model.predict(X).shape == (60,), "and still there is a model"
    large = np.repeat(RNG.normal(size=(4000, 1)), 300, axis=1)
    with pytest.warns(UserWarning, match=r"\(2 were tried; .*2 × failed: .*or memory_limit"):
        regressor(memory_limit=60).fit(large, RNG.normal(size=4000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier().fit(X, Y)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60), ("10min", 600), ("1.5 h", 5400), (20, 20), ("2 minutes", 120), (0.5, 0.5)],
)
def test_budgets_as_text(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0s", "-5s", "10 parsecs", "nan", "1 2 s"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(InvalidSetting, match="budget is"):
        seconds_of(text)


def test_a_container_has_fewer_cores_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert _cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert _cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert _cores(tmp_path) == 3
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert _cores(tmp_path) == 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert _cores(tmp_path) == 8
