"""What was learned from is not judged on: not by another split, not after the data has changed."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from tasklore import MetaClassifier
from tasklore.cli import main
from tasklore.contest import Contest, hold
from tasklore.errors import InvalidSetting
from tasklore.experience import open_store
from tasklore.experiment import Experiment, TestSettings, conduct
from tasklore.files import alone
from tasklore.learners.metric import Prototypes
from tasklore.loop import Stop
from tasklore.nets import MLP
from tasklore.state import Prior
from tasklore.tasks.arrays import from_arrays
from tasklore.tasks.images.digits import Digits
from tasklore.tasks.images.folder import ImageFolder
from tasklore.tasks.source import TaskList
from tasklore.train import TrainSettings

SETTINGS = TrainSettings(steps=2, n_tasks=2, n_validation=4, execution="vectorised")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Fifteen classes of four images."""
    for label in range(15):
        draw(tmp_path / "pictures" / f"class {label:02}", label)
    return tmp_path / "pictures"


def draw(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(4):
        Image.fromarray(rng.integers(255, size=(6, 6), dtype=np.uint8)).save(folder / f"{number}.png")


def birds(folder: Path, seed: int = 0) -> ImageFolder:
    return ImageFolder(str(folder), size=6, grey=True, n_ways=3, n_queries=2, seed=seed)


def learned(tasks: ImageFolder, folder: Path, initial: str = "random") -> Any:
    settings = dataclasses.replace(SETTINGS, initial=initial)
    test = TestSettings(n_tasks=4, shots=(1,), baselines=False, n_curve=2)
    experiment = Experiment(tasks, Prototypes(MLP((8,))), settings, Stop(rounds=1), test)
    with open_store(folder.parent / "lore.db") as store:
        return conduct(experiment, folder, store, folder.parent / "artifacts")


def test_a_run_is_not_continued_on_other_data(pictures: Path, tmp_path: Path) -> None:
    learned(birds(pictures), tmp_path / "run")
    learned(birds(pictures), tmp_path / "run")
    draw(pictures / "class 00 more", 99)
    with pytest.raises(InvalidSetting, match=r"past and validation tasks are not those that .*run was begun"):
        learned(birds(pictures), tmp_path / "run")
    learned(birds(pictures), tmp_path / "other")
    with pytest.raises(InvalidSetting, match=r"holds a run with other settings: tasks\.seed was 0, is 1"):
        learned(birds(pictures, seed=1), tmp_path / "other")


def test_a_contest_is_not_continued_on_other_data(pictures: Path, tmp_path: Path) -> None:
    contest = Contest(birds(pictures), MLP((8,)), SETTINGS, minutes=0.005, tuning=0, n_tasks=4)

    def held() -> object:
        with open_store("memory:") as store:
            return hold(contest, ("prototypes",), tmp_path / "contest", store, tmp_path / "artifacts")

    held()
    held()
    (pictures / "class 03" / "3.png").unlink()
    with pytest.raises(InvalidSetting, match="their data has changed; choose another folder"):
        held()


def test_a_prior_that_has_met_the_test_classes_is_not_started_from(pictures: Path, tmp_path: Path) -> None:
    first = learned(birds(pictures), tmp_path / "first")
    same = learned(birds(pictures), tmp_path / "same", "prior").workspace
    assert same.prior_id is not None
    other = learned(birds(pictures, seed=1), tmp_path / "other", "prior")
    assert first.prior.has_met(other.splits.test.origins | other.splits.validation.origins)
    assert other.workspace.prior_id is None
    again = Prior.load(same.prior_path)
    assert again.has_met(first.splits.train.origins) == first.splits.train.origins
    for label in range(15):
        draw(tmp_path / "elsewhere" / f"class {label:02}", 100 + label)
    others = learned(birds(tmp_path / "elsewhere", seed=1), tmp_path / "elsewhere run", "prior").workspace
    assert others.prior_id is not None  # the same names, in a folder of another name, are other classes


def test_evaluate_refuses_what_was_learned_from(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = learned(birds(pictures), tmp_path / "run").workspace.prior_path
    asked = [str(prior), "--tasks", "image-folder", "--shots", "1", "--n-tasks", "4", "--json"]
    assert evaluated(monkeypatch, asked) == 0
    draw(pictures / "class 00 more", 99)  # deals all classes anew
    capsys.readouterr()
    assert evaluated(monkeypatch, asked) == 2
    assert "test classes or tasks of image-folder: it comes from another split" in capsys.readouterr().err


def evaluated(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["tasklore", "evaluate", *asked])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_an_estimator_says_which_collection_it_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = Digits(n_ways=2, n_shots=3)
    model = MetaClassifier(Prototypes(MLP((8,))), train=SETTINGS, stop=Stop(rounds=1)).meta_fit(tasks)
    prior = cast("Prior", model.prior)
    assert prior.provenance["collection"] == {**dataclasses.asdict(tasks), "name": "digits"}
    assert prior.has_met(tasks.splits().train.origins) == tasks.splits().train.origins
    assert not prior.has_met(tasks.splits().test.origins)
    prior.save(tmp_path / "p.safetensors")
    asked = [str(tmp_path / "p.safetensors"), "--tasks", "digits", "--n-tasks", "4"]
    assert evaluated(monkeypatch, asked) == 0
    assert "digits" in capsys.readouterr().out
    with open_store("memory:") as store:
        further = model.meta_fit(tasks.splits().validation, store=store, artifacts=tmp_path / "artifacts")
    origins = tasks.splits().train.origins | tasks.splits().validation.origins
    assert cast("Prior", further.prior).has_met(origins) == origins


def test_test_tasks_are_seen_as_the_prior_saw_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mix scales all images alike; alone, each collection scales its own."""
    learner = Prototypes(MLP((8,)))
    prior = cast(
        "Prior", MetaClassifier(learner, train=SETTINGS, stop=Stop(rounds=1)).meta_fit(Digits()).prior
    )
    other = dataclasses.replace(prior.scaling, x_mean=np.array([3.0]), x_std=np.array([7.0]))
    dataclasses.replace(prior, scaling=other).save(tmp_path / "p.safetensors")
    seen: list[Any] = []
    monkeypatch.setattr("tasklore.evaluate.evaluate", watching(seen))
    assert (
        evaluated(monkeypatch, [str(tmp_path / "p.safetensors"), "--tasks", "digits", "--n-tasks", "4"]) == 0
    )
    assert [source.scaling.to_dict() for source in seen] == [other.to_dict()] * 2


def watching(seen: list[Any]) -> Callable[..., Any]:
    from tasklore.evaluate import evaluate

    def judge(learner: Any, params: Any, source: Any, **given: Any) -> Any:
        seen.append(source)
        return evaluate(learner, params, source, **given)

    return judge


HOLDING = """
import sys, time
from pathlib import Path
from tasklore.files import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_are_not_at_one_run(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InvalidSetting, match=r"another process is at the run in .*; wait for it"):
            learned(birds(pictures), tmp_path / "run")
        other.kill()
    learned(birds(pictures), tmp_path / "run")
    with alone(tmp_path / "run", "nobody is there"):
        pass


def test_equal_data_stays_on_one_side_whatever_it_is_called() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(12, 2)), np.repeat([0, 1], 6)) for _ in range(5)]
    tasks = from_arrays(pairs + pairs)
    sides = [cast("TaskList", side) for side in tasks.split(seed=0)]
    data = [{cast("Any", task).arrays.fingerprint for task in side.tasks} for side in sides]
    assert [len(side) for side in sides] == [6, 2, 2]
    assert sum(map(len, data)) == len(set().union(*data)) == 5
