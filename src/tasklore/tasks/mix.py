"""Past tasks of several origins, learned from together and judged apart: across domains."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidData, InvalidSetting
from ..registry import sources
from .few_shot import Examples, FewShotSource
from .scaling import Scaling
from .source import Collection, MixedSource, Splits, TaskSource

__all__ = ["Mix", "reshaped"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
AT_ONCE = 4096  # images that are scaled in one go


@sources.register("mix")
@dataclass(frozen=True)
class Mix(Collection):
    """Several collections in one: each task is of one of them, and a run judges methods on each by itself.

    Images of different size or number of channels are brought to one shape.

    Parameters
    ----------
    of : tuple of str
        The collections to learn from, by name.
    unseen : tuple of str
        Collections whose test tasks are judged too, although nothing is learned from them.
    weights : tuple of float
        How often each of ``of`` gives a past task, relative to the others; equally often by default.
    n_ways, n_shots, n_queries : int
        Of a task.
    train_ways : int, optional
        Of a training task, where it shall differ and the collection can.
    size : int, optional
        Side of an image, in pixels; that of the first collection by default.
    channels : {1, 3}, optional
        Of an image, grey or colour; those of the first collection by default.
    download : bool
        Whether published files may be fetched if they are nowhere.

    References
    ----------
    Triantafillou et al.: Meta-Dataset, ICLR 2020, is the larger idea of this kind.
    """

    suggested_net: ClassVar[str] = ""

    of: tuple[str, ...] = ("omniglot", "cifar-fs")
    unseen: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15
    train_ways: int | None = None
    size: int | None = None
    channels: int | None = None
    download: bool = True

    def __post_init__(self) -> None:
        names = (*self.of, *self.unseen)
        if not self.of or len(set(names)) < len(names) or "mix" in names:
            raise InvalidSetting(
                f"a mix needs the names of different collections, got of={self.of} and unseen={self.unseen}"
            )
        if self.weights and (len(self.weights) != len(self.of) or min(self.weights) <= 0):
            raise InvalidSetting(
                f"{len(self.of)} collections need as many weights above 0, got {self.weights}"
            )
        if self.size is not None and self.size < 1:
            raise InvalidSetting(f"size must be at least 1 pixel or left out, got {self.size}")
        if self.channels not in (None, 1, 3):
            raise InvalidSetting(f"channels must be 1 or 3 or left out, got {self.channels}")

    def splits(self) -> Splits:
        found = {name: self._collection(name).splits() for name in (*self.of, *self.unseen)}
        shape = found[self.of[0]].train.spec.input_shape
        if len(shape) == 3:
            side = self.size
            shape = (self.channels or shape[0], *((side, side) if side else shape[1:]))
        known: dict[int, Examples] = {}
        common = _common_scale([_alike(found[name].train, shape, known) for name in self.of])

        def side_of(side: str, names: Sequence[str], weights: tuple[float, ...] = ()) -> MixedSource:
            alike = (_alike(getattr(found[name], side), shape, known) for name in names)
            parts = tuple(alike) if common is None else tuple(source.scaled(common) for source in alike)
            return MixedSource(parts, weights, tuple(names))

        return Splits(
            side_of("train", self.of, self.weights),
            side_of("validation", self.of, self.weights),
            side_of("test", (*self.of, *self.unseen)),
        )

    def _collection(self, name: str) -> Collection:
        kind: Any = sources.get(name)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for field in fields.values():
            if field.default is field.default_factory is dataclasses.MISSING:
                raise InvalidSetting(
                    f"{name} needs {field.name}, which a mix cannot give; choose other collections"
                )
        given = {
            field: getattr(self, field)
            for field in ("n_ways", "n_shots", "n_queries", "train_ways", "download")
            if field in fields
        }
        return kind(**given)


def _alike(source: TaskSource, shape: tuple[int, ...], known: dict[int, Examples]) -> TaskSource:
    """Return a source whose examples have a shape; ``known`` remembers those that were converted."""
    if source.spec.input_shape == shape:
        return source
    if isinstance(source, MixedSource):
        return dataclasses.replace(source, parts=tuple(_alike(part, shape, known) for part in source.parts))
    if not isinstance(source, FewShotSource) or len(shape) != 3 or len(source.spec.input_shape) != 3:
        raise InvalidData(
            f"examples of shape {source.spec.input_shape} cannot be brought to {shape}; mix images with "
            "images, and anything else with what has its shape"
        )
    old = source.examples
    if id(old) not in known:
        known[id(old)] = reshaped(old, (shape[0], shape[1], shape[2]))
    return dataclasses.replace(source, examples=known[id(old)])


def _parts(source: TaskSource) -> list[TaskSource]:
    """Return what a source is mixed of, or itself."""
    return (
        [each for part in source.parts for each in _parts(part)]
        if isinstance(source, MixedSource)
        else [source]
    )


def _common_scale(sources: Sequence[TaskSource]) -> Scaling | None:
    """Return one scaling for images of several sources; None if some are none."""
    moments: list[tuple[float, float]] = []
    for source in sources:
        seen: list[Tensor] = []
        for part in _parts(source):
            if not isinstance(part, FewShotSource) or part.examples.x.ndim != 4:
                return None
            labels = sorted({label for label, _ in part.variants})
            rows = np.concatenate([part.examples.members[label] for label in labels])
            seen.append(
                part.examples.x[torch.from_numpy(rows[:: -(-len(rows) // AT_ONCE)])].to(torch.float64)
            )
        values = torch.cat(seen)
        moments.append((float(values.mean()), float(values.var())))
    mean = sum(mean for mean, _ in moments) / len(moments)
    variance = sum(variance + (each - mean) ** 2 for each, variance in moments) / len(moments)
    return Scaling(np.array([mean]), np.array([math.sqrt(variance)]), np.zeros(1), np.ones(1))


def reshaped(examples: Examples, shape: tuple[int, int, int]) -> Examples:
    """Return images of another size (linear interpolation, areas averaged) and number of channels.

    Colours become grey by their luminance, grey is repeated. What images are scaled with when they are drawn
    becomes one number for all channels.

    Parameters
    ----------
    examples : Examples
        Images (n, 1 or 3, height, width).
    shape : (channels, height, width)
    """
    parts = [_converted(some, shape) for some in examples.x.split(AT_ONCE)]
    mean, std = (sum(values) / len(values) for values in (examples.mean, examples.std))
    return dataclasses.replace(examples, x=torch.cat(parts), mean=(mean,), std=(std,))


def _converted(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Convert some images, keeping their data type."""
    found = x.to(torch.float32)
    if found.shape[1] == 3 and shape[0] == 1:
        found = (found * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if tuple(found.shape[2:]) != shape[1:]:
        found = F.interpolate(found, shape[1:], mode="bilinear", antialias=True)
    if found.shape[1] != shape[0]:
        found = found.expand(-1, shape[0], -1, -1)
    return found.clone() if x.is_floating_point() else found.round().clamp(0, 255).to(x.dtype)
