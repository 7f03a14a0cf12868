"""A prior adapted to one task: what a user keeps, sends and applies.

It holds the adapted tensors and the names of the classes, and none of the examples it was adapted to, unless
the learner's own way of adapting is to keep them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from .artifacts import load_artifact, save_artifact
from .config import from_settings, to_settings
from .errors import DamagedArtifact, InvalidData, InvalidSetting, NumericalFailure
from .learners.base import Learner
from .registry import learners
from .state import Prior
from .tasks.scaling import Scaling
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
        How raw numbers become what the learner sees.
    columns : tuple of str
        What the features are called, where they came from a table; to find them in another one.
    """

    learner: Learner
    adapted: Adapted
    spec: TaskSpec
    labels: tuple[str, ...] = ()
    scaling: Scaling = dataclasses.field(default_factory=Scaling.none)
    columns: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The precision it computes in."""
        return next((w.dtype for w in self.adapted.values() if w.is_floating_point()), torch.float32)

    @classmethod
    def adapt(
        cls,
        prior: Prior,
        x: np.ndarray,
        y: Sequence[object] | np.ndarray,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "Predictor":
        """Learn one task from its support.

        Parameters
        ----------
        prior : Prior
        x : ndarray, shape (n, *input_shape) or (n, n_features)
            In the units that the past tasks had.
        y : sequence of length n
            Labels of any kind that sorts, or numbers to regress; (n, n_outputs) where there are several.
        seed : int
            Of whatever chance the learner uses.
        dtype : torch.dtype
            The precision to compute in. In double precision the company of a row does not change the last
            digits of its prediction.

        Raises
        ------
        InvalidData
            The examples are empty, not finite, of the wrong shape, of one class only, or of more classes than
            the prior provides for.
        NumericalFailure
            Adapting gave numbers that are not finite.
        """
        scaling = prior.scaling
        examples = _examples(x, prior.spec, scaling, dtype)
        targets = np.asarray(y)
        if len(targets) != len(examples):
            raise InvalidData(f"{len(examples)} examples came with {len(targets)} targets; give one for each")
        labels: tuple[str, ...] = ()
        if prior.spec.kind == "classification":
            missing = np.flatnonzero(pd.isna(targets))
            if len(missing):
                raise InvalidData(
                    f"{len(missing)} of {len(targets)} labels are missing, the first in row {missing[0]}; "
                    "drop those examples or label them"
                )
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
            numbers = numbers.reshape(len(numbers), -1)
            if numbers.shape[1] != prior.spec.n_outputs:
                raise InvalidData(
                    f"y has {numbers.shape[1]} columns; this prior is for {prior.spec.n_outputs}; "
                    "meta-learn on tasks like it"
                )
            spec, wanted = prior.spec, torch.from_numpy(scaling.targets(numbers)).to(dtype)
        support = Batch(examples, wanted, torch.ones(len(examples), dtype=dtype))
        with torch.no_grad():
            params = {name: tensor.to(dtype) for name, tensor in prior.params.items()}
            adapted = prior.learner.adapt(params, support, Context(spec, torch.tensor(seed)))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in adapted.values()):
            raise NumericalFailure(
                f"{type(prior.learner).__name__} became NaN or infinite while adapting to {len(examples)} "
                "examples; lower its step_size, or look for extreme values"
            )
        tensors = {name: tensor.detach().to(dtype) for name, tensor in adapted.items()}
        return cls(prior.learner, tensors, spec, labels, scaling)

    def outputs(self, x: np.ndarray) -> Tensor:
        """Return logits, or values as the network gives them, shape (n, n_outputs).

        Raises
        ------
        InvalidData
            The examples are empty, not finite or of the wrong shape.
        NumericalFailure
            A prediction is not finite.
        """
        examples = _examples(x, self.spec, self.scaling, self.dtype)
        with torch.no_grad():
            parts = [
                self.learner.predict(self.adapted, Inputs(part, torch.ones(len(part), dtype=self.dtype)))
                for part in examples.split(ROWS_AT_ONCE)
            ]
        outputs = torch.cat(parts)
        if not bool(torch.isfinite(outputs).all()):
            raise NumericalFailure("some predictions are NaN or infinite; look for extreme values")
        return outputs

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
            "columns": list(self.columns),
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
                Scaling.from_dict(cast("dict[str, Any]", metadata["scaling"]), spec),
                tuple(map(str, cast("list[str]", metadata.get("columns", [])))),
            )
            weights = learner.init(spec, Generator().manual_seed(0))
            # Learned step sizes are no part of what was adapted; what predicting needs is missed just below.
            wrong = [
                name for name, w in weights.items() if name in tensors and tensors[name].shape != w.shape
            ]
            if wrong:
                raise DamagedArtifact(
                    f"{path}: the tensors {', '.join(wrong[:3])} do not fit the learner it names"
                )
            predictor.outputs(np.zeros((2, *spec.input_shape), np.float32))
        except (KeyError, TypeError, RuntimeError, InvalidSetting, InvalidData) as error:
            raise DamagedArtifact(f"{path} is no predictor that can be used here: {error}") from error
        return predictor


def _examples(x: np.ndarray, spec: TaskSpec, scaling: Scaling, dtype: torch.dtype) -> Tensor:
    """Return checked examples as the learner sees them, shape (n, *input_shape)."""
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
        values = torch.from_numpy(np.ascontiguousarray(scaling.inputs(raw))).to(dtype)
    if not bool(torch.isfinite(values).all()):
        raise InvalidData(
            "some values are NaN, infinite, or too large for their precision; impute or drop those examples"
        )
    return values
