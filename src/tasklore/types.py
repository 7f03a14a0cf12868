"""The nouns that everything else shares.

A task is seen through *episodes*: a **support** set to learn from and a **query** set to be judged on. Shapes
are static, so that many tasks can be stacked and run as one: a set smaller than its place is padded, and
``mask`` says what is real.

Shape letters used throughout: ``t`` tasks, ``n`` examples of a set, ``c`` outputs (classes, or target
dimensions).
"""

from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .errors import InvalidSetting

__all__ = ["Adapted", "Batch", "Context", "Episode", "Inputs", "Kind", "Params", "TaskSpec"]

Params: TypeAlias = dict[str, Tensor]
"""Named tensors: a network's weights, and whatever else was meta-learned, flat, in a fixed order."""

Adapted: TypeAlias = Params
"""What a learner knows after adapting to one task: named tensors too, so it is saved and stacked like any."""

Kind: TypeAlias = Literal["classification", "regression"]


class Inputs(NamedTuple):
    """The part of a :class:`Batch` that a predictor may see.

    Attributes
    ----------
    x : Tensor, shape (n, *input_shape)
    mask : Tensor, shape (n,)
    """

    x: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """A set of examples, or several stacked along a leading task axis.

    Attributes
    ----------
    x : Tensor, shape (n, *input_shape)
    y : Tensor, shape (n,) of int64 class indices, or (n, c) of float targets
    mask : Tensor, shape (n,)
        1 where the example is real, 0 where it is padding. Always a tensor: ``None`` does not survive
        ``vmap``.
    """

    x: Tensor
    y: Tensor
    mask: Tensor

    @property
    def inputs(self) -> Inputs:
        """The examples without their targets."""
        return Inputs(self.x, self.mask)


class Episode(NamedTuple):
    """One support/query draw of a task; with a leading task axis when several are stacked."""

    support: Batch
    query: Batch

    @property
    def joined(self) -> Batch:
        """Support and query as one set, for a single task (no leading task axis)."""
        return Batch(*(torch.cat(pair) for pair in zip(self.support, self.query, strict=True)))


@dataclass(frozen=True)
class TaskSpec:
    """What every task of a source has in common, enough to build a network for it.

    Parameters
    ----------
    kind : {"classification", "regression"}
    input_shape : tuple of int
        Shape of one example, without the batch axis; images are (channels, height, width).
    n_outputs : int
        The largest number of classes in a task (``max_ways``), or the dimension of the target.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    n_outputs: int

    def __post_init__(self) -> None:
        if self.kind not in ("classification", "regression"):
            raise InvalidSetting(f"kind is {self.kind!r}; use 'classification' or 'regression'")
        if self.n_outputs < 1 or any(size < 1 for size in self.input_shape):
            raise InvalidSetting(
                f"sizes must be positive, got input_shape={self.input_shape}, n_outputs={self.n_outputs}"
            )
        object.__setattr__(self, "input_shape", tuple(self.input_shape))

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {**asdict(self), "input_shape": list(self.input_shape)}


@dataclass(frozen=True)
class Context:
    """The circumstances of one call, handed down instead of being read from globals.

    Attributes
    ----------
    spec : TaskSpec
        What the task looks like; static.
    key : Tensor, int64 scalar
        Names this (seed, step, task); all randomness inside a learner derives from it, so that nothing
        depends on the order of execution.
    step : int
        The meta-update under way; schedules inside learners depend on it.
    training : bool
        Whether a meta-update follows (with as many inner steps as are meta-learned), or the result is used as
        it is (with those for new tasks).
    recompute : bool
        Whether to save memory: inner steps keep little of what they compute, and compute it again when they
        are differentiated, in up to twice the time.
    """

    spec: TaskSpec
    key: Tensor
    step: int = 0
    training: bool = False
    recompute: bool = False
