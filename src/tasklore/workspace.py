"""A run's folder, and its place in the experience store: what makes a run resumable and its lore lasting.

::

    FOLDER/run.json                 which run this is, and its settings
    FOLDER/checkpoint.safetensors   where it stands
    FOLDER/prior.safetensors        the best that was learned, once meta-learning is over
    ARTIFACTS/RUN_ID/prior-ROUND.safetensors   each prior that was the best when it was found

Everything is written so that a kill at any moment leaves the old or the new, never a half: artifacts before
the records that name them, records before the checkpoint that is past them. Records are named by content, so
work repeated after a resume adds nothing twice.
"""

import importlib.metadata
import json
import os
import platform
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator

from .canonical import digest, dumps, loads, plain
from .config import to_settings
from .errors import DamagedArtifact, InvalidData, InvalidSetting, StoreError
from .evaluate import Evaluation
from .experience.records import EvaluationRecord, EventRecord, ModelRecord, RoundRecord, RunRecord, TaskRecord
from .experience.store import ExperienceStore
from .files import replacing
from .placement import Device, device_for
from .registry import learners
from .state import MetaState, Prior, misfits
from .tasks.source import TaskSource
from .train import GradientTrainer

__all__ = ["Workspace", "check_same_tasks", "difference", "hardware", "task_record", "versions", "write_json"]

SCHEMA = 1


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("tasklore", "torch", "numpy", "scikit-learn")
    }


def hardware(device: Device = "cpu") -> dict[str, Any]:
    """Return what a time depends on; ``device`` is a setting of meta-training."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device_for(device).type,
    }


def task_record(source: TaskSource, name: str) -> TaskRecord:
    """Return the record of a source of tasks, with what makes it like or unlike others."""
    flat = {
        key: value
        for key, value in source.describe().items()
        if isinstance(value, int | float | str | bool) and not key.endswith("sha256")
    }
    descriptor = flat | {
        "input_size": torch.Size(source.spec.input_shape).numel(),
        "input_axes": len(source.spec.input_shape),
    }
    return TaskRecord(fingerprint=source.fingerprint, kind=source.spec.kind, name=name, descriptor=descriptor)


@dataclass
class Workspace:
    """The memory of one run of gradient meta-training, as :func:`tasklore.loop.run` needs it.

    Parameters
    ----------
    folder : Path
        Made if missing. If it holds a run with the same settings, that run is resumed; when to stop and how
        to test may differ.
    store : ExperienceStore
    artifacts : Path
        Where priors are kept; the store's model records are relative to it.
    trainer : GradientTrainer
    past, new : TaskSource
        To name them in the store, and to see that a run which is resumed has the same ones.
    name : str
        What people call the tasks.
    config : mapping
        The resolved settings of the run, JSON values.
    run_id : str, optional
        A fresh UUID by default.
    every : float
        Seconds between checkpoints within a round.
    judging : tuple of TaskSource
        What else will be judged on: no remembered prior that has learned from it is started from.

    Raises
    ------
    InvalidSetting
        The folder holds a run with other settings, or of other tasks.
    """

    folder: Path
    store: ExperienceStore
    artifacts: Path
    trainer: GradientTrainer
    past: TaskSource
    new: TaskSource
    name: str
    config: Mapping[str, Any]
    run_id: str | None = None
    every: float = 30.0
    judging: tuple[TaskSource, ...] = ()

    def __post_init__(self) -> None:
        self._saved_at = time.monotonic()
        self.id = self.run_id or str(uuid.uuid4())
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.folder / "run.json"
        config: Any = plain(self.config, "config")
        tasks: Any = {"past": self.past.fingerprint, "validation": self.new.fingerprint}
        if marker.exists():
            known = self._read_marker(marker)
            before, now = _what_is_learned(known["config"]), _what_is_learned(config)
            if before != now:
                raise InvalidSetting(
                    f"{self.folder} holds a run with other settings: {difference(before, now)}; "
                    "choose another folder, or delete this one to start anew"
                )
            check_same_tasks(self.folder, known.get("tasks", tasks), tasks)
            self.id, self.prior_id = known["run_id"], known["prior"]
            config = known["config"]  # one run has one record, whatever limits it is continued with
        else:
            remembered = self._find_prior() if self.trainer.settings.initial == "prior" else None
            self.prior_id = None if remembered is None else remembered.id
            about = {"schema": SCHEMA, "run_id": self.id, "prior": self.prior_id, "config": config}
            write_json(marker, about | {"tasks": tasks})
        self.store.add_all(
            [
                task_record(self.past, f"{self.name}, past"),
                task_record(self.new, f"{self.name}, validation"),
                RunRecord(
                    run_id=self.id,
                    config=config,
                    seed=self.trainer.settings.seed,
                    prior=self.prior_id,
                    versions=versions(),
                    hardware=hardware(self.trainer.settings.device),
                ),
            ]
        )

    @property
    def checkpoint_path(self) -> Path:
        """Where the state lies."""
        return self.folder / "checkpoint.safetensors"

    @property
    def prior_path(self) -> Path:
        """Where the best that was learned lies, once meta-learning is over."""
        return self.folder / "prior.safetensors"

    def collect(self, past: TaskSource) -> TaskSource:
        """Return the past tasks; :attr:`store` knows them since the run began."""
        return past

    def prior(self) -> Prior | None:
        """Return the remembered prior that this run starts from, if it starts from one."""
        if self.prior_id is None:
            return None
        try:
            record = cast("ModelRecord", self.store.get(self.prior_id))
        except StoreError as error:
            raise StoreError(
                f"the prior that this run started from is not in the store any more: {error}; delete "
                f"{self.folder} to start anew"
            ) from error
        return Prior.load(self.artifacts / record.path, record.checksum)

    def resume(self) -> tuple[MetaState, float] | None:
        """Return the state at the last checkpoint and the seconds it had taken."""
        if not self.checkpoint_path.exists():
            return None
        state, note = MetaState.load(self.checkpoint_path)
        if note.get("run_id") != self.id:
            raise DamagedArtifact(
                f"{self.checkpoint_path} belongs to another run; delete it to start this one anew"
            )
        return state, float(note["seconds"])

    def checkpoint(self, state: MetaState, seconds: float, due: bool) -> None:
        """Save the state if ``due``, or if the last save is :attr:`every` seconds old."""
        if due or time.monotonic() - self._saved_at >= self.every:
            state.save(self.checkpoint_path, {"run_id": self.id, "seconds": seconds})
            self._saved_at = time.monotonic()

    def remember(self, state: MetaState, scores: list[float], decision: str, seconds: float) -> None:
        """Record a finished round, its scores, and the prior if it is the best yet."""
        score, index = state.history[-1], state.round - 1
        evaluation = EvaluationRecord(
            run_id=self.id,
            split="validation",
            method=learners.name_of(type(self.trainer.learner)),
            metric=score.metric,
            task=self.new.fingerprint,
            scores=scores,
            mean=score.mean,
            interval=score.interval,
            round=index,
            seconds=seconds,
        )
        metrics = {"validation": score.mean, "loss": state.loss, "step": state.step, "rate": state.rate}
        turn = RoundRecord(run_id=self.id, index=index, metrics=metrics, decision=decision, seconds=seconds)
        improved = [self._keep_prior(state)] if state.best is state.average else []
        self.store.add_all([evaluation, *improved, turn])

    def record(
        self, evaluation: Evaluation, source: TaskSource, settings: Mapping[str, Any], name: str
    ) -> None:
        """Record the test score of one method."""
        score = evaluation.score
        self.store.add_all(
            [
                task_record(source, name),
                EvaluationRecord(
                    run_id=self.id,
                    split="test",
                    method=evaluation.method,
                    metric=evaluation.metric,
                    task=source.fingerprint,
                    scores=evaluation.scores,
                    mean=score.mean,
                    interval=score.interval,
                    settings=settings,
                    seconds=evaluation.seconds,
                ),
            ]
        )

    def finish(self, reason: str) -> None:
        """Record that the run has ended, and why."""
        self.store.add(EventRecord(subject=self.id, what="finished", detail={"reason": reason}))

    def best_prior(self, state: MetaState) -> Prior:
        """Return the best prior of this run."""
        return self.trainer.prior(state, self._provenance(state))

    def _keep_prior(self, state: MetaState) -> ModelRecord:
        name = learners.name_of(type(self.trainer.learner))
        path = f"{self.id}/prior-{state.round - 1:04d}.safetensors"
        checksum = self.best_prior(state).save(self.artifacts / path)
        score = state.history[-1]
        return ModelRecord(
            path=path,
            checksum=checksum,
            kind="prior",
            learner=name,
            run_id=self.id,
            task=self.past.fingerprint,
            metrics={
                "metric": score.metric,
                "validation": score.mean,
                "fits": self._fit_key(),
                "step": state.step,
            },
        )

    def _provenance(self, state: MetaState) -> dict[str, Any]:
        score = state.best_score
        return {
            "run_id": self.id,
            "tasks": self.name,
            "tasks_fingerprint": self.past.fingerprint,
            "origins": sorted(self.past.origins | self._origins_of_start),
            "collection": plain(self.config.get("tasks"), "tasks"),
            "seed": self.trainer.settings.seed,
            "validation": None
            if score is None
            else {"metric": score.metric, "mean": score.mean, "n_tasks": score.n_tasks},
        }

    @cached_property
    def _origins_of_start(self) -> frozenset[str]:
        """What the prior that this run starts from had learned from."""
        start = self.prior()
        return frozenset() if start is None else frozenset(start.provenance.get("origins", ()))

    def _fit_key(self) -> str:
        """Name what a prior must agree in: the net, the shape of the tasks, what params are relative to."""
        net = self.trainer.learner.backbone
        settings = {
            "learner": learners.name_of(type(self.trainer.learner)),
            "net": None if net is None else to_settings(net),
            "spec": self.trainer.spec.to_dict(),
        }
        return digest(dumps(plain(settings | self.trainer.learner.relative_to)))

    def _find_prior(self) -> ModelRecord | None:
        """Return the best intact prior from these very tasks, else from the most similar ones.

        One that has learned from what this run will be judged on, in another split perhaps, is none.
        """
        name = learners.name_of(type(self.trainer.learner))
        found = [
            record
            for record in self.store.find(ModelRecord, {"kind": "prior", "learner": name})
            if record.metrics.get("fits") == self._fit_key()
        ]
        nearness = {self.past.fingerprint: 0.0}
        if found:
            for neighbour in self.store.nearest(task_record(self.past, self.name), k=1000):
                nearness.setdefault(neighbour.task.fingerprint, neighbour.distance)
        sign = -1.0 if self.trainer.spec.kind == "classification" else 1.0

        def rank(record: ModelRecord) -> tuple[float, float]:
            return nearness.get(str(record.task), float("inf")), sign * float(record.metrics["validation"])

        judged = frozenset[str]().union(*(source.origins for source in (self.new, *self.judging)))
        unseen = judged - self.past.origins
        wanted = self.trainer.learner.init(self.trainer.spec, Generator().manual_seed(0)) if found else {}
        for record in sorted(found, key=rank):
            try:
                prior = Prior.load(self.artifacts / record.path, record.checksum)
            except DamagedArtifact:
                self.store.add(EventRecord(subject=record.id, what="unusable", detail={"path": record.path}))
                continue
            # Settings of the learner decide on shapes as well.
            if not prior.has_met(unseen) and not misfits(wanted, prior.params):
                return record
        return None

    @staticmethod
    def _read_marker(path: Path) -> dict[str, Any]:
        try:
            known = loads(path.read_bytes(), str(path))
            if (
                not isinstance(known, dict)
                or known.get("schema") != SCHEMA
                or not isinstance(known.get("run_id"), str)
            ):
                raise InvalidData(f"{path} does not describe a run of this version")
        except (InvalidData, OSError) as error:
            raise DamagedArtifact(
                f"{error}; choose another folder, or delete this one to start anew"
            ) from error
        return cast("dict[str, Any]", known)


def _what_is_learned(config: Any) -> Any:
    """Leave out when to stop and how to test: a run may be continued with other limits."""
    return {name: part for name, part in config.items() if name not in ("stop", "test")}


def check_same_tasks(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise ``InvalidSetting`` if tasks are not those, by their fingerprints, that a folder was begun with.

    What was learned from could be judged on else: with one more class, a split deals all of them anew.
    """
    if changed := [side for side in now if before.get(side) != now[side]]:
        raise InvalidSetting(
            f"the {' and '.join(changed)} tasks are not those that {folder} was begun with, though the "
            "settings are: their data has changed; choose another folder, or delete this one to start anew"
        )


def difference(old: Any, new: Any, where: str = "") -> str:
    """Name the first setting in which two configurations differ; of a section, its name comes first."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}, key=lambda key: (key != "name", key)):
            if old.get(key) != new.get(key):
                return difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    return f"{where} was {old!r}, is {new!r}"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON values to a file, whole or not at all.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(json.dumps(value, indent=2, sort_keys=True).encode())
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}; choose a folder that can be written"
        ) from error
