"""A prior adapted to one task: what a user keeps, sends and applies.

It holds the adapted tensors and the names of the classes, and none of the examples it was adapted to, unless
the learner's own way of adapting is to keep them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Generator, Tensor

from .artifacts import load_artifact, save_artifact
from .config import from_settings, to_settings
from .errors import DamagedArtifact, InvalidData, InvalidSetting
from .learners.base import Learner
from .registry import learners
from .tasks.arrays import Scaling
from .train import Prior
from .types import Adapted, Batch, Context, Inputs, TaskSpec

__all__ = ["Predictor"]

ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Predictor:
    """What a learner knows about one task.

    Parameters
    ----------
    learner : Learner
    adapted : Adapted
    spec : TaskSpec
        Of the task.
    labels : tuple of str
        The names of the classes in the order of the outputs; empty for regression.
    scaling : Scaling
        How the past tasks' raw numbers were scaled, if they were.
    """

    learner: Learner
    adapted: Adapted
    spec: TaskSpec
    labels: tuple[str, ...] = ()
    scaling: Scaling = dataclasses.field(default_factory=Scaling.none)

    @classmethod
    def adapt(cls, prior: Prior, x: np.ndarray, y: Sequence[object] | np.ndarray) -> "Predictor":
        """Learn one task from its support.

        Parameters
        ----------
        prior : Prior
        x : ndarray, shape (n, *input_shape) or (n, n_features)
            In the units that the past tasks had.
        y : sequence of length n
            Labels of any kind that sorts, or numbers to regress.

        Raises
        ------
        InvalidData
            The examples are empty, not finite, of the wrong shape, of one class only, or of more classes than
            the prior provides for.
        """
        scaling = _scaling(prior.provenance, prior.spec)
        examples = _examples(x, prior.spec, scaling)
        targets = np.asarray(y)
        if len(targets) != len(examples):
            raise InvalidData(f"{len(examples)} examples came with {len(targets)} targets; give one for each")
        labels: tuple[str, ...] = ()
        if prior.spec.kind == "classification":
            names, indices = np.unique(targets, return_inverse=True)
            if len(names) < 2:
                raise InvalidData(
                    f"all {len(targets)} examples are of class {names[0]}; give two classes or more"
                )
            labels = tuple(map(str, names))
            spec = prior.learner.spec_for(prior.spec, dataclasses.replace(prior.spec, n_outputs=len(names)))
            wanted = torch.from_numpy(indices.astype(np.int64))
        else:
            try:
                numbers = np.asarray(targets, np.float64)
            except ValueError as error:
                raise InvalidData(
                    f"this prior regresses numbers, and a target is not one: {error}"
                ) from error
            if not np.isfinite(numbers).all():
                raise InvalidData("some targets are NaN or infinite; drop those examples")
            scaled = scaling.targets(numbers.reshape(len(numbers), -1)).astype(np.float32)
            spec, wanted = prior.spec, torch.from_numpy(scaled)
        batch = Batch(examples, wanted, torch.ones(len(examples)))
        with torch.no_grad():
            adapted = prior.learner.adapt(prior.params, batch, Context(spec, torch.tensor(0)))
        return cls(
            prior.learner, {name: tensor.detach() for name, tensor in adapted.items()}, spec, labels, scaling
        )

    def outputs(self, x: np.ndarray) -> Tensor:
        """Return logits, or values as the network gives them, shape (n, n_outputs)."""
        examples = _examples(x, self.spec, self.scaling)
        with torch.no_grad():
            parts = [
                self.learner.predict(self.adapted, Inputs(part, torch.ones(len(part))))
                for part in examples.split(ROWS_AT_ONCE)
            ]
        return torch.cat(parts)

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Return the probability of each class, shape (n, n_classes)."""
        if not self.labels:
            raise InvalidData("this predictor regresses numbers and has no classes; use predict")
        return torch.softmax(self.outputs(x), dim=1)[:, : len(self.labels)].numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the label of each example, or the regressed values, shape (n,)."""
        if self.labels:
            return np.asarray(self.labels)[self.predict_proba(x).argmax(1)]
        values = self.scaling.values(self.outputs(x).numpy())
        return values[:, 0] if values.shape[1] == 1 else values

    def save(self, path: str | Path) -> str:
        """Write the predictor to a file and return its SHA-256."""
        metadata = {
            "learner": to_settings(self.learner, learners),
            "spec": self.spec.to_dict(),
            "labels": list(self.labels),
            "scaling": self.scaling.to_dict(),
        }
        return save_artifact(path, self.adapted, metadata, kind="predictor")

    @classmethod
    def load(cls, path: str | Path) -> "Predictor":
        """Read a predictor, and check that it can predict.

        Raises
        ------
        DamagedArtifact
            The file is not a whole, unaltered predictor, or its tensors do not fit the learner it names.
        """
        tensors, metadata = load_artifact(path, kind="predictor")
        try:
            described = cast("dict[str, Any]", metadata["spec"])
            spec = TaskSpec(described["kind"], tuple(described["input_shape"]), described["n_outputs"])
            learner = from_settings(
                learners, cast("dict[str, Any]", metadata["learner"]), "the predictor's learner"
            )
            predictor = cls(
                learner,
                tensors,
                spec,
                tuple(map(str, cast("list[str]", metadata["labels"]))),
                _scaling(metadata, spec),
            )
            weights = learner.init(spec, Generator().manual_seed(0))
            wrong = [
                name for name, w in weights.items() if name not in tensors or tensors[name].shape != w.shape
            ]
            if wrong:
                raise DamagedArtifact(
                    f"{path}: the tensors {', '.join(wrong[:3])} do not fit the learner it names"
                )
            predictor.outputs(np.zeros((2, *spec.input_shape), np.float32))
        except (KeyError, TypeError, RuntimeError, InvalidSetting, InvalidData) as error:
            raise DamagedArtifact(f"{path} is no predictor that can be used here: {error}") from error
        return predictor


def _scaling(described: Mapping[str, Any], spec: TaskSpec) -> Scaling:
    """Return the scaling that a prior or a predictor names; none if it names none."""
    return Scaling.from_dict(described["scaling"], spec) if "scaling" in described else Scaling.none()


def _examples(x: np.ndarray, spec: TaskSpec, scaling: Scaling) -> Tensor:
    """Return checked examples, float32, shape (n, *input_shape)."""
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise InvalidData(f"the examples are {array.dtype}; numbers are needed")
    if array.ndim < 1 or len(array) == 0:
        raise InvalidData("there are no examples; give at least one row")
    size = int(np.prod(spec.input_shape))
    if array.size != len(array) * size or (array.ndim > 2 and array.shape[1:] != spec.input_shape):
        raise InvalidData(
            f"one example has shape {array.shape[1:]}; {spec.input_shape}, or {size} values, are needed"
        )
    raw = array.reshape(len(array), *spec.input_shape).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        values = scaling.inputs(raw).astype(np.float32)
    if not np.isfinite(values).all():
        raise InvalidData(
            "some values are NaN, infinite, or too large for float32; impute or drop those examples"
        )
    return torch.from_numpy(np.ascontiguousarray(values))
