"""A run that is killed again and again ends bit-identical to one that was left alone."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tasklore.artifacts import load_artifact
from tasklore.experience import Record, open_store
from tasklore.experience.records import RECORD_TYPES
from tasklore.state import MetaState

DRIVER = '''
"""Carry out one small run; the test may ask it to kill itself inside a chosen write."""
import os, signal, sys
from pathlib import Path

folder, kill_at = Path(sys.argv[1]), sys.argv[2]

if kill_at:
    kind, countdown = kill_at.split(":")
    left = [int(countdown)]

    def dying(function):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if kind == "after":
                    function(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapped

    if kind == "commit":
        from sqlalchemy.engine import Transaction
        Transaction.commit = dying(Transaction.commit)
    elif kind == "fsync":
        os.fsync = dying(os.fsync)
    else:
        os.replace = dying(os.replace)

from tasklore.learners.gradient import MAML
from tasklore.nets import MLP
from tasklore.loop import Stop, Tasks, run
from tasklore.experience import open_store
from tasklore.tasks.synthetic import Sinusoid
from tasklore.train import GradientTrainer, TrainSettings
from tasklore.workspace import Workspace
import torch

torch.set_num_threads(1)
splits = Sinusoid(n_test_queries=10).splits()
settings = TrainSettings(
    steps=8, n_tasks=4, learning_rate=0.05, averaging=0.5, patience=1, n_validation=10,
    execution="vectorised", seed=5,
)
trainer = GradientTrainer(MAML(MLP((8,)), inner_steps=2), settings, splits.train.spec)
with open_store(folder / "lore.db") as store:
    workspace = Workspace(
        folder / "run", store, folder / "artifacts", trainer, splits.train, splits.validation, "sinusoid",
        {"tasks": "sinusoid"}, run_id="fixed", every=0.0,
    )
    outcome = run(trainer, Tasks(splits.train, splits.validation), Stop(rounds=6), workspace)
    workspace.finish(outcome.reason)
'''


def start(folder: Path, kill_at: str = "") -> "subprocess.Popen[bytes]":
    folder.mkdir(exist_ok=True)
    driver = folder / "driver.py"
    driver.write_text(DRIVER)
    return subprocess.Popen([sys.executable, str(driver), str(folder), kill_at])


def records(folder: Path) -> dict[str, dict[str, object]]:
    with open_store(folder / "lore.db") as store:
        assert store.verify(folder / "artifacts") == []
        found: list[Record] = [record for kind in RECORD_TYPES for record in store.find(kind)]
    return {
        record.id: {
            f.name: getattr(record, f.name)
            for f in dataclasses.fields(record)
            if "volatile" not in f.metadata
        }
        for record in found
    }


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    assert start(tmp_path / "calm").wait() == 0
    kills = ["replace:3", "fsync:2", "commit:2", "after:5", "fsync:9", "commit:3", "replace:11"]
    torn = tmp_path / "torn"
    died = 0
    for kill_at in kills:
        died += start(torn, kill_at).wait() == -signal.SIGKILL
    chance = random.Random(0)
    while died < 10:
        process = start(torn)
        checkpoint = torn / "run" / "checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns
        while process.poll() is None and checkpoint.stat().st_mtime_ns == before:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break  # it was faster than the signal: nothing is left to kill
        died += 1
    assert died >= 8
    assert start(torn).wait() == 0

    states = [
        MetaState.load(folder / "run" / "checkpoint.safetensors")[0] for folder in (tmp_path / "calm", torn)
    ]
    calm, resumed = states
    for field in dataclasses.fields(MetaState):
        ours, theirs = getattr(calm, field.name), getattr(resumed, field.name)
        if isinstance(ours, dict):
            assert set(ours) == set(theirs)
            assert all(torch.equal(ours[name], theirs[name]) for name in ours), field.name
        else:
            assert ours == theirs, field.name
    assert calm.rate < 1.0  # the schedule had something to remember
    assert records(tmp_path / "calm") == records(torn)
    for prior in (torn / "artifacts").rglob("*.safetensors"):
        load_artifact(prior, kind="prior")


def test_half_a_checkpoint_is_never_loaded(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "replace:4")  # dies with the new file complete but not yet in its place
    assert process.wait() == -signal.SIGKILL
    left = [path for path in (tmp_path / "run" / "run").iterdir() if path.name.startswith(".")]
    state, _ = MetaState.load(tmp_path / "run" / "run" / "checkpoint.safetensors")
    assert state.step >= 1
    assert os.path.lexists(tmp_path / "run" / "run" / "run.json")
    assert left  # what the kill interrupted lies under another name
