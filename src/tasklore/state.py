"""What meta-training carries from step to step, and what is kept of it in the end: files, without code."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator

from .artifacts import load_artifact, save_artifact
from .config import from_settings, to_settings
from .errors import DamagedArtifact, InvalidData, InvalidSetting
from .execution import Plan
from .learners.base import Learner
from .placement import device_of, placed
from .registry import learners
from .scores import Score
from .tasks.scaling import Scaling
from .types import Params, TaskSpec

__all__ = ["MetaState", "Prior", "misfits"]


@dataclass(frozen=True)
class MetaState:
    """Everything that meta-training carries from one step to the next.

    Parameters
    ----------
    params : Params
        What is being meta-learned.
    moments : Params
        State of the outer optimiser.
    average : Params
        Their running mean, which is what is judged; the same object where there is no averaging.
    best : Params
        The averages that did best on the validation tasks; the initial ones before the first round ends.
    step : int
        Meta-updates done.
    rate : float
        Current factor on the learning rate.
    stale : int
        Rounds since the last improvement or decay.
    history : tuple of Score
        Validation score after each round.
    losses : tuple of float
        Mean training loss of each step of the round under way.
    loss : float, optional
        Mean training loss of the last finished round.
    plan : Plan, optional
        How steps are run; none before the first one.
    threads : int
        torch threads of the run; other numbers sum in another order.
    started_from : str
        What the initial params were, for the record.
    """

    params: Params
    moments: Params
    average: Params
    best: Params
    step: int = 0
    rate: float = 1.0
    stale: int = 0
    history: tuple[Score, ...] = ()
    losses: tuple[float, ...] = ()
    loss: float | None = None
    plan: Plan | None = None
    threads: int = dataclasses.field(default_factory=torch.get_num_threads)
    started_from: str = "random"

    @property
    def round(self) -> int:
        """Rounds finished."""
        return len(self.history)

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""
        return device_of(self.params)

    def on(self, device: torch.device) -> "MetaState":
        """Return the state with its tensors on a device; what they share, they share there too.

        How to run there is measured again.
        """
        if device == self.device:
            return self
        groups = (self.params, self.moments, self.average, self.best)
        moved = {id(group): placed(group, device) for group in groups}
        params, moments, average, best = (moved[id(group)] for group in groups)
        return dataclasses.replace(
            self, params=params, moments=moments, average=average, best=best, plan=None
        )

    @property
    def best_score(self) -> Score | None:
        """The validation score of :attr:`best`."""
        best: Score | None = None
        for score in self.history:
            best = score if score.beats(best) else best
        return best

    def save(self, path: str | Path, note: dict[str, Any]) -> str:
        """Write the state to a file, whole or not at all, and return its SHA-256."""
        groups = {"params": self.params, "moments": self.moments, "average": self.average, "best": self.best}
        tensors = {
            f"{group}/{name}": tensor for group, part in groups.items() for name, tensor in part.items()
        }
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in groups
        }
        if self.average is self.params:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("average/")}
        plain["history"] = [dataclasses.asdict(score) for score in self.history]
        plain["plan"] = self.plan and dataclasses.asdict(self.plan)
        return save_artifact(path, tensors, {"state": plain, "note": note}, kind="checkpoint")

    @classmethod
    def load(cls, path: str | Path) -> tuple["MetaState", dict[str, Any]]:
        """Read a state and its note.

        Raises
        ------
        DamagedArtifact
            The file is not a whole, unaltered checkpoint of this version.
        """
        tensors, metadata = load_artifact(path, kind="checkpoint")
        groups: dict[str, Params] = {"params": {}, "moments": {}, "average": {}, "best": {}}
        try:
            for name, tensor in sorted(tensors.items()):
                group, _, rest = name.partition("/")
                groups[group][rest] = tensor
            groups["average"] = groups["average"] or groups["params"]
            plain = cast("dict[str, Any]", metadata["state"])
            plain |= {
                "history": tuple(Score(**score) for score in plain["history"]),
                "losses": tuple(plain["losses"]),
                "plan": plain["plan"] and Plan(**plain["plan"]),
            }
            return cls(**groups, **plain), cast("dict[str, Any]", metadata["note"])
        except (KeyError, TypeError) as error:
            raise DamagedArtifact(
                f"{path} is no checkpoint of this version: {error}; start the run anew"
            ) from error


def misfits(expected: Params, given: Params) -> list[str]:
    """Name the tensors that are in one of the two only, or of another shape."""
    return sorted(
        name
        for name in expected.keys() | given.keys()
        if name not in expected or name not in given or expected[name].shape != given[name].shape
    )


@dataclass(frozen=True)
class Prior:
    """What was meta-learned, ready to be applied: a learner, its params, and the tasks it is for.

    Parameters
    ----------
    learner : Learner
    params : Params
    spec : TaskSpec
    scaling : Scaling
        How the past tasks' raw numbers were scaled; new examples are given in the same raw units.
    provenance : dict
        JSON values: where it comes from.
    """

    learner: Learner
    params: Params
    spec: TaskSpec
    scaling: Scaling = dataclasses.field(default_factory=Scaling.none)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def has_met(self, origins: Collection[str]) -> set[str]:
        """Return which of the :attr:`~tasklore.tasks.source.TaskSource.origins` it has learned from."""
        return {*self.provenance.get("origins", ())} & {*origins}

    def save(self, path: str | Path) -> str:
        """Write the prior to a file and return its SHA-256."""
        metadata = {
            "learner": to_settings(self.learner, learners),
            "spec": self.spec.to_dict(),
            "scaling": self.scaling.to_dict(),
            "provenance": self.provenance,
        }
        return save_artifact(path, self.params, metadata, kind="prior")

    @classmethod
    def load(cls, path: str | Path, checksum: str | None = None) -> "Prior":
        """Read a prior, and check that its params fit its learner.

        Raises
        ------
        DamagedArtifact
            The file is not a whole, unaltered prior, or its tensors do not fit the learner it names.
        """
        tensors, metadata = load_artifact(path, kind="prior", expected_checksum=checksum)
        try:
            spec = cast("dict[str, Any]", metadata["spec"])
            spec = TaskSpec(spec["kind"], tuple(spec["input_shape"]), spec["n_outputs"])
            learner: Learner = from_settings(
                learners, cast("dict[str, Any]", metadata["learner"]), "the prior's learner"
            )
            scaling = Scaling.from_dict(cast("dict[str, Any]", metadata["scaling"]), spec)
            provenance = cast("dict[str, Any]", metadata["provenance"])
            expected = learner.init(spec, Generator().manual_seed(0))
        except (KeyError, TypeError, InvalidSetting, InvalidData) as error:
            raise DamagedArtifact(f"{path} is no prior that can be used here: {error}") from error
        if wrong := misfits(expected, tensors):
            raise DamagedArtifact(
                f"{path}: the tensors {', '.join(wrong[:3])} do not fit the learner it names"
            )
        return cls(learner, dict(sorted(tensors.items())), spec, scaling, provenance)
