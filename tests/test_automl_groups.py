"""Rows that belong together stay together on the command line as well."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasklore import AutoClassifier
from tasklore.apps.automl.targets import groups_of
from tasklore.cli.tables import Prepared, Target, keep_groups_aside
from tasklore.errors import InvalidData

N_PEOPLE, EACH = 40, 6


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """Six visits of each of forty people, who are ill or not; a visit tells who comes, and little more."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(N_PEOPLE), EACH)
    about = rng.normal(size=(N_PEOPLE, 3))[person] + 0.01 * rng.normal(size=(len(person), 3))
    frame = pd.DataFrame(about, columns=["height", "weight", "age"])
    frame["person"] = [f"P{number}" for number in person]
    frame["ill"] = np.where(rng.random(N_PEOPLE)[person] < 0.5, "yes", "no")
    frame.sample(frac=1.0, random_state=0).to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path / "visits.csv"


def test_groups_are_kept_aside_whole() -> None:
    groups = np.repeat(np.arange(12), [30, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 20])
    y = np.where(groups == 11, "only there", np.where(np.arange(100) % 2, "a", "b"))
    target = Target(y, "classification", np.ones(100, dtype=bool))
    sizes: list[int] = []
    for seed in range(30):
        searched, kept = keep_groups_aside(target, groups, 0.2, seed)
        assert sorted([*searched, *kept]) == list(range(100))
        assert not set(groups[searched]) & set(groups[kept])
        assert 11 not in groups[kept], "no class is lost to the search"
        sizes.append(len(kept))
    assert np.mean(sizes) == pytest.approx(20, abs=3)
    numbers = Target(np.arange(100.0), "regression", np.ones(100, dtype=bool))
    assert len(keep_groups_aside(numbers, groups, 0.0, 0)[1]) == 0
    assert len(keep_groups_aside(numbers, np.arange(100) // 34, 0.2, 0)[1]) in (32, 34)


def test_what_is_learned_of_people_does_not_count_for_others(visits: Path, tmp_path: Path) -> None:
    """Nothing but the person tells who is ill, so the test on other people must be no better than chance."""
    scores: list[float] = []
    for groups in ((), ("--groups", "person")):
        command = [
            "fit",
            visits,
            "--target",
            "ill",
            *groups,
            "--max-evaluations",
            "3",
            "--no-report",
            "--json",
        ]
        command += ["--output", tmp_path / "model.skops", "--store", "memory:"]
        done = subprocess.run(
            [sys.executable, "-m", "tasklore", *map(str, command)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        scores.append(told["test"]["accuracy"]["score"])
    assert scores[0] > 0.9 > 0.85 > scores[1]
    model = AutoClassifier.load(tmp_path / "model.skops")
    assert list(model.feature_names_in_) == ["height", "weight", "age"]


def test_gaps_are_a_group_as_for_the_estimators(visits: Path) -> None:
    frame = pd.read_csv(visits)
    frame.loc[frame["person"] == "P0", "person"] = None
    frame.to_csv(visits, index=False)
    table = Prepared.of(visits, "ill", None, 0.2, 0, "person")
    assert table.groups is not None
    assert len(np.unique(table.groups)) == N_PEOPLE
    np.testing.assert_array_equal(table.groups, groups_of(frame["person"], frame))
    assert "person" not in table.X


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("nobody", "'nobody' is no column of .*; its other columns are height, weight, age, person"),
        ("ill", "'ill' is the target"),
        ("sex", "has 2 different values; 3 are needed"),
    ],
)
def test_groups_that_cannot_be(visits: Path, column: str, told: str) -> None:
    frame = pd.read_csv(visits)
    frame["sex"] = np.where(np.arange(len(frame)) % 2, "f", "m")
    frame.to_csv(visits, index=False)
    with pytest.raises(InvalidData, match=told):
        Prepared.of(visits, "ill", None, 0.2, 0, column)
    if column == "sex":
        assert len(Prepared.of(visits, "ill", None, 0.0, 0, column).kept) == 0
