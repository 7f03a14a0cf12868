"""Learners under the same budget: who is ranked where, what is done once, and what survives a stop."""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from tasklore.contest import Contest, Spectator, Standing, Trial, hold, ranked
from tasklore.errors import DamagedArtifact, InvalidData, InvalidSetting, UnknownName
from tasklore.evaluate import Evaluation
from tasklore.experience import open_store
from tasklore.experience.records import RunRecord
from tasklore.learners.gradient import MAML
from tasklore.nets import MLP, Conv4
from tasklore.registry import learners, sources
from tasklore.report.contest import headline, write_contest
from tasklore.state import Prior
from tasklore.train import TrainSettings
from tasklore.types import Context, Episode, Params

SETTINGS = TrainSettings(steps=3, n_tasks=2, n_validation=4, pretrain_steps=5, execution="vectorised")
NAMES = ("prototypes", "maml")
BASELINES = {"scratch", "finetune", "linear-probe", "nearest-centroid", "logistic-regression"}


def contest(tasks: str = "digits", **changes: Any) -> Contest:
    given: dict[str, Any] = {"net": MLP((8,)), "train": SETTINGS, "minutes": 0.02, "n_tasks": 6} | changes
    return Contest(sources.get(tasks)(), **given)  # pyright: ignore[reportArgumentType]


class Notes(Spectator):
    """Writes down what it hears; interrupts when a learner of some name begins."""

    def __init__(self, interrupts: str = "") -> None:
        self.entered: list[str] = []
        self.trials: list[Trial] = []
        self.losses: list[tuple[str, str]] = []
        self.interrupts = interrupts

    def enters(self, method: str, what: str, minutes: float) -> None:
        if method == self.interrupts:
            raise KeyboardInterrupt
        self.entered.append(f"{method} {what}")

    def tried(self, method: str, trial: Trial) -> None:
        self.trials.append(trial)

    def lost(self, method: str, why: str) -> None:
        self.losses.append((method, why))


def held(given: Contest, folder: Path, names: tuple[str, ...] = NAMES, notes: Notes | None = None) -> Any:
    with open_store(folder / "lore.db") as store:
        return hold(given, names, folder / "contest", store, folder / "artifacts", notes)


def test_everyone_is_ranked_and_had_as_many_trials(tmp_path: Path) -> None:
    found = held(contest(shots=(1, 2)), tmp_path)
    assert {standing.method for standing in found} == {*NAMES, *BASELINES}
    means = [standing.evaluations[1].score.mean for standing in found]
    assert means == sorted(means, reverse=True)
    for standing in found:
        assert set(standing.evaluations) == {1, 2}
        assert all(len(tested.scores) == 6 for tested in standing.evaluations.values())
        if standing.method == "nearest-centroid":  # there is nothing to choose
            assert not standing.trials
            continue
        assert len(standing.trials) == 3
        best = max(standing.trials, key=lambda trial: trial.score.mean)
        assert standing.chosen == best.settings
        if standing.is_baseline:
            continue
        assert standing.seconds >= 0.02 * 60
        assert [seconds for seconds, _ in standing.curve] == sorted(seconds for seconds, _ in standing.curve)
        prior = Prior.load(tmp_path / "contest" / standing.prior)
        assert all(getattr(prior.learner, name, value) == value for name, value in standing.chosen.items())


def test_what_was_done_is_not_done_again_and_others_may_join(tmp_path: Path) -> None:
    first = held(contest(), tmp_path)
    notes = Notes()
    assert held(contest(), tmp_path, notes=notes) == first
    assert notes.entered == []
    more = held(contest(), tmp_path, ("maml", "ridge-head"), notes)
    assert {entered.split()[0] for entered in notes.entered} == {"ridge-head"}
    assert next(s for s in more if s.method == "maml") == next(s for s in first if s.method == "maml")


def test_its_runs_are_told_once_in_the_store(tmp_path: Path) -> None:
    held(contest(), tmp_path)
    with open_store(tmp_path / "lore.db") as store:
        runs = store.find(RunRecord)
        assert len(runs) == len({run.run_id for run in runs}) == 6  # three trials of two learners
        assert not store.verify(tmp_path / "artifacts")


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        held(contest(), tmp_path, notes=Notes(interrupts="maml"))
    notes = Notes()
    found = held(contest(), tmp_path, notes=notes)
    assert {entered.split()[0] for entered in notes.entered} == {"maml"}
    assert {standing.method for standing in found} == {*NAMES, *BASELINES}


def test_a_trial_that_is_done_is_kept_when_its_learner_is_stopped(tmp_path: Path) -> None:
    class Late(Notes):
        def tried(self, method: str, trial: Trial) -> None:
            super().tried(method, trial)
            if len(self.trials) == 2:
                raise KeyboardInterrupt

    late = Late()
    with pytest.raises(KeyboardInterrupt):
        held(contest(), tmp_path, ("prototypes",), late)
    again = Notes()
    held(contest(), tmp_path, ("prototypes",), again)
    assert again.trials[:2] == late.trials
    assert len(again.entered) == 2  # the third trial, and the best for the rest of the time


def test_without_tuning_each_keeps_its_own_settings(tmp_path: Path) -> None:
    notes = Notes()
    found = held(contest(tuning=0.0), tmp_path, ("maml",), notes)
    assert notes.entered == ["maml as it is", "maml as it is"]
    assert next(s for s in found if s.method == "maml").chosen == {}


def test_rates_are_tried_around_the_given_one(tmp_path: Path) -> None:
    notes = Notes()
    train = dataclasses.replace(SETTINGS, optimizer="sgd", learning_rate=0.5)
    held(contest(train=train), tmp_path, ("prototypes",), notes)
    assert [dict(trial.settings) for trial in notes.trials] == [
        {"learning_rate": rate} for rate in (0.15, 0.5, 1.5)
    ]


def test_regression_ranks_the_lowest_error_first(tmp_path: Path) -> None:
    found = held(contest("sinusoid"), tmp_path, ("maml",))
    means = [standing.evaluations[1].score.mean for standing in found]
    assert means == sorted(means)
    assert {s.method for s in found} == {"maml", "scratch", "finetune", "ridge-regression"}


def test_a_folder_belongs_to_one_contest(tmp_path: Path) -> None:
    held(contest(), tmp_path, ("prototypes",))
    with pytest.raises(InvalidSetting, match=r"other settings: minutes was 0.02, is 0.03"):
        held(contest(minutes=0.03), tmp_path, ("prototypes",))


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("finetune",), InvalidSetting, "finetune is a baseline"),
        (("prototype",), UnknownName, "did you mean 'prototypes'"),
    ],
)
def test_who_cannot_take_part_is_told_why(
    names: tuple[str, ...], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        held(contest(), tmp_path, names)
    with pytest.raises(InvalidData, match="Conv4 needs images"):
        held(contest("sinusoid", net=Conv4()), tmp_path, ("maml",))
    assert not (tmp_path / "contest").exists(), "free for settings that work"


def test_a_learner_of_classes_takes_no_part_in_regression(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="learns classification tasks"):
        held(contest("sinusoid"), tmp_path, ("prototypes",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.0}, "minutes must be positive"),
        ({"tuning": 1.0}, r"tuning is a share of the minutes in \[0, 1\)"),
        ({"n_tasks": 1}, "n_tasks must be at least 2"),
        ({"shots": ()}, "shots must be positive"),
        ({"shots": (0,)}, "shots must be positive"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        contest(**changes)


def test_names_where_things_are_needed_are_refused(tmp_path: Path) -> None:
    names: Any = "maml"
    with pytest.raises(InvalidSetting, match=r"give a tuple of names: \('maml',\)"):
        held(contest(), tmp_path, names)
    with pytest.raises(InvalidSetting, match="tasks is 'digits'; give a collection"):
        Contest(names.replace("maml", "digits"))
    with pytest.raises(InvalidSetting, match="net is 'maml'"):
        contest(net=names)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"method": 1, "evaluations": {}, "trials": [], "curve": [1]}']
)
def test_a_damaged_result_is_named(content: str, tmp_path: Path) -> None:
    held(contest(), tmp_path, ("prototypes",))
    (tmp_path / "contest" / "prototypes.json").write_text(content)
    with pytest.raises(DamagedArtifact, match=r"prototypes\.json.*delete"):
        held(contest(), tmp_path, ("prototypes",))


def standing(method: str, scores: list[float], is_baseline: bool = False) -> Standing:
    return Standing(method, is_baseline, {1: Evaluation(method, "accuracy", tuple(scores), 1.0)})


def test_a_gain_is_paired_by_task() -> None:
    a, b = standing("a", [0.5, 0.9, 0.7]), standing("b", [0.4, 0.8, 0.6])
    gain = a.gain_over(b, 1)
    assert gain.mean == pytest.approx(0.1)
    assert gain.half_width == pytest.approx(0.0, abs=1e-12)  # though the tasks differ much
    error = [
        Standing("c", False, {1: Evaluation("c", "mse", values, 1.0)}) for values in ((1.0, 2.0), (2.0, 4.0))
    ]
    lower = error[0].gain_over(error[1], 1)
    assert lower.mean == pytest.approx(1.5)
    # Student's t with one degree of freedom: 12.706 · s / √2, with s = √0.5
    assert lower.half_width == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2), rel=1e-4)


def test_the_headline_says_whether_the_first_is_clearly_ahead() -> None:
    about = contest()
    ahead = ranked([standing("b", [0.5, 0.6, 0.5]), standing("a", [0.9, 1.0, 0.9])], 1)
    assert headline(about, ahead) == (
        "From 1 example per class, a is best on digits: 93.3 %, clearly ahead of all others"
    )
    level = ranked([standing("b", [0.9, 0.8, 0.9], is_baseline=True), standing("a", [0.8, 0.9, 0.8])], 1)
    assert headline(about, level) == (
        "From 1 example per class, a baseline, b, is best on digits: 86.7 %, no clear difference to a"
    )
    assert headline(about, level[:1]).endswith("is best on digits: 86.7 %")


def test_what_is_written_is_plain_json(tmp_path: Path) -> None:
    held(contest(), tmp_path, ("prototypes",))
    read = json.loads((tmp_path / "contest" / "prototypes.json").read_text())
    assert read["method"] == "prototypes"
    assert len(read["evaluations"]["1"]["scores"]) == 6
    settings = json.loads((tmp_path / "contest" / "contest.json").read_text())["settings"]
    assert settings["net"] == {"name": "mlp", "hidden": [8]}


@dataclass(frozen=True)
class Diverging(MAML):
    """Tries an inner rate that no loss survives, and perhaps another one."""

    alternatives: ClassVar[tuple[dict[str, float], ...]] = ({"step_size": 1e30}, {"step_size": 0.05})


@dataclass(frozen=True)
class Lost(MAML):
    """Tries nothing else."""

    alternatives: ClassVar[tuple[dict[str, float], ...]] = ({"step_size": 1e30}, {"step_size": 1e31})


@dataclass(frozen=True)
class LateDiverging(MAML):
    """Learns until it is told not to."""

    alternatives: ClassVar[tuple[dict[str, float], ...]] = ({"step_size": 0.01}, {"step_size": 0.05})
    lost: ClassVar[bool] = False

    def objective(self, params: Params, episode: Episode, context: Context) -> Tensor:
        return super().objective(params, episode, context) * (math.nan if self.lost else 1.0)


@pytest.fixture
def those_who_diverge() -> Iterator[None]:
    learners.names()  # the built-in ones come first
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in (("test-diverging", Diverging), ("test-lost", Lost), ("test-late", LateDiverging)):
            patch.setitem(learners._entries, name, kind)  # pyright: ignore[reportPrivateUsage]
        yield


@pytest.mark.usefixtures("those_who_diverge")
def test_a_trial_that_is_lost_does_not_end_the_contest(tmp_path: Path) -> None:
    given = contest("sinusoid", shots=(5,))
    first = held(given, tmp_path, ("test-diverging",))
    found = held(given, tmp_path, ("test-diverging",))  # read back from the folder
    for standings in (first, found):
        standing = next(one for one in standings if one.method == "test-diverging")
        assert standing.chosen == {"step_size": 0.05}
        assert [trial.score is None for trial in standing.trials] == [True, False]
    assert "lost: not finite" in write_contest(given, found, tmp_path / "report.html").read_text()
    notes = Notes()
    for _ in range(2):  # found again in what the folder keeps
        rest = held(given, tmp_path / "other", ("test-lost", "test-diverging"), notes)
        ((method, why),) = notes.losses
        assert method == "test-lost"
        assert "no settings of test-lost worked" in why
        assert {standing.method for standing in rest} >= {"test-diverging", "ridge-regression"}
        assert "test-lost" not in {standing.method for standing in rest}
        page = write_contest(given, rest, tmp_path / "lost.html", {method: why}).read_text()
        assert "test-lost has no result" in page
        notes.losses.clear()


def test_baselines_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    class Leaves(Notes):
        def stands(self, standing: Standing) -> None:
            if standing.method == "finetune":
                raise KeyboardInterrupt

    given, folder = contest(tuning=0.0), tmp_path / "contest"
    with pytest.raises(KeyboardInterrupt):
        held(given, tmp_path, ("prototypes",), Leaves())
    done = {name: (folder / f"{name}.json").read_bytes() for name in ("scratch", "finetune")}
    assert not (folder / "linear-probe.json").exists()
    assert {standing.method for standing in held(given, tmp_path, ("prototypes",))} == BASELINES | {
        "prototypes"
    }
    assert done == {name: (folder / f"{name}.json").read_bytes() for name in done}


@pytest.mark.usefixtures("those_who_diverge")
def test_who_diverges_after_the_trials_is_judged_by_the_best_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoils(Notes):
        def tried(self, method: str, trial: Trial) -> None:
            super().tried(method, trial)
            monkeypatch.setattr(LateDiverging, "lost", len(self.trials) == 2)

    notes = Spoils()
    found = held(contest("sinusoid", shots=(5,)), tmp_path, ("test-late",), notes)
    assert [trial.score is None for trial in notes.trials] == [False, False, True]
    standing = next(one for one in found if one.method == "test-late")
    best = min(trial.score.mean for trial in standing.trials)
    assert min(score.mean for _, score in standing.curve) == best
    assert math.isfinite(standing.evaluations[5].score.mean)


def test_a_contest_does_not_start_from_its_own_trials() -> None:
    with pytest.raises(InvalidSetting, match="each trial would go on from the one before"):
        contest(train=TrainSettings(initial="prior"))


def test_shots_that_no_class_has_are_refused_at_once(tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(InvalidSetting, match="200 shots and 15 queries need 215"):
        held(contest(shots=(1, 200)), tmp_path, ("prototypes",), notes)
    assert not notes.entered
