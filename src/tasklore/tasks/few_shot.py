"""Few-shot classification from any labelled array: tell a few classes apart from a few examples of each.

Two pieces: :class:`Examples` holds the data once, whatever the number of sources that look at it;
:class:`FewShotSource` says which classes may appear and how many ways, shots and queries a task has.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidData, InvalidSetting
from ..types import Batch, Episode, TaskSpec
from .distortion import Distortion
from .scaling import Scaling
from .source import Splits, Task, TaskSource, short_hash

__all__ = ["Examples", "FewShotSource", "FewShotTask", "Variant"]

Variant = tuple[int, int]
"""A class as it may appear in a task: (label index, quarter turns). A turned image is another class."""


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Labelled examples in memory.

    Parameters
    ----------
    name : str
        Of the data set.
    x : Tensor, shape (n, *input_shape)
        Any real dtype; images are (n, channels, height, width), usually uint8. Kept as given, scaled when
        drawn.
    y : Tensor, int64, shape (n,)
        Indices into ``labels``.
    labels : tuple of str
    mean, std : tuple of float
        Per channel, or one for all: an example enters an episode as ``(x - mean) / std``.
    plain : callable, optional
        See :attr:`~.source.TaskSource.plain`.
    """

    name: str
    x: Tensor
    y: Tensor
    labels: tuple[str, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    plain: Callable[[Tensor], Tensor] | None = None

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.x.shape[1:]))
        return f"Examples({self.name!r}, {len(self.x)} of {shape}, {len(self.labels)} classes)"

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) == 0:
            raise InvalidData(
                f"{self.name}: {len(self.x)} examples and {len(self.y)} labels; as many, and some, are needed"
            )
        if self.x.is_floating_point() and not bool(torch.isfinite(self.x).all()):
            raise InvalidData(
                f"{self.name}: some values are NaN or infinite; impute or drop those examples first"
            )
        if int(self.y.min()) < 0 or int(self.y.max()) >= len(self.labels):
            raise InvalidData(
                f"{self.name}: labels must lie in 0…{len(self.labels) - 1}, found up to {int(self.y.max())}"
            )
        if any(value <= 0 for value in self.std):
            raise InvalidSetting(f"{self.name}: std must be positive, got {self.std}")

    @classmethod
    def from_arrays(
        cls, name: str, x: np.ndarray, y: Sequence[object] | np.ndarray, mean: float = 0.0, std: float = 1.0
    ) -> "Examples":
        """Take an array and its labels, of any type that sorts.

        Parameters
        ----------
        name : str
        x : ndarray, shape (n, *input_shape)
        y : sequence of length n
        mean, std : float
        """
        labels, indices = np.unique(np.asarray(y), return_inverse=True)
        tensor = torch.from_numpy(np.ascontiguousarray(x if x.dtype != np.float64 else x.astype(np.float32)))
        return cls(
            name, tensor, torch.from_numpy(indices.astype(np.int64)), tuple(map(str, labels)), (mean,), (std,)
        )

    def variant_name(self, variant: Variant) -> str:
        """Return what a class is called, with its turn."""
        label, turns = variant
        return self.labels[label] + (f" ↻{90 * turns}°" if turns else "")

    @property
    def scaling(self) -> Scaling:
        """What examples are scaled with when they are drawn."""
        channels = (-1,) + (1,) * (self.x.ndim - 2) if max(len(self.mean), len(self.std)) > 1 else (1,)
        return Scaling(
            np.asarray(self.mean).reshape(channels),
            np.asarray(self.std).reshape(channels),
            np.zeros(1),
            np.ones(1),
        )

    @cached_property
    def members(self) -> tuple[np.ndarray, ...]:
        """For each label, the indices of its examples."""
        y = self.y.numpy()
        order = np.argsort(y, kind="stable")
        edges = np.searchsorted(y[order], np.arange(len(self.labels) + 1))
        return tuple(order[start:stop] for start, stop in pairwise(edges))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the examples and labels."""
        digest = hashlib.sha256(
            f"{self.x.dtype}{tuple(self.x.shape)}{self.labels}{self.mean}{self.std}".encode()
        )
        digest.update(self.x.contiguous().numpy().tobytes())
        digest.update(self.y.numpy().tobytes())
        return digest.hexdigest()

    def read(self, indices: np.ndarray, turns: np.ndarray) -> Tensor:
        """Return examples, scaled, as float32.

        Parameters
        ----------
        indices : ndarray of int, shape (n,)
        turns : ndarray of int, shape (n,)
            Counter-clockwise quarter turns of each.
        """
        x = self.x[torch.from_numpy(indices)].to(torch.float32)
        shape = (-1,) + (1,) * (x.ndim - 2) if len(self.mean) > 1 or len(self.std) > 1 else (1,)
        x = x.sub_(torch.tensor(self.mean).view(shape)).div_(torch.tensor(self.std).view(shape))
        for quarter in (1, 2, 3):
            turned = torch.from_numpy(np.flatnonzero(turns == quarter))
            if len(turned):
                x[turned] = torch.rot90(x[turned], quarter, dims=(-2, -1))
        return x


@dataclass(frozen=True)
class FewShotTask(Task):
    """Tell the given classes apart. Class ``i`` of the task is ``variants[i]``."""

    source: "FewShotSource"
    variants: tuple[Variant, ...]
    n_shots: int

    @property
    def name(self) -> str:
        return f"{self.source.examples.name}: {', '.join(self.labels)}"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.source.examples.variant_name(variant) for variant in self.variants)

    def episode(self, rng: np.random.Generator) -> Episode:
        examples, n_queries = self.source.examples, self.source.n_queries
        each = self.n_shots + n_queries
        picks = np.stack(
            [rng.choice(examples.members[label], each, replace=False) for label, _ in self.variants]
        )
        turns = np.repeat([turn for _, turn in self.variants], each)
        x = self.source.read(picks.ravel(), turns, rng)  # (ways * each, *input_shape)
        x = x.view(len(self.variants), each, *x.shape[1:])
        y = torch.arange(len(self.variants)).unsqueeze(1).expand(-1, each)  # (ways, each)
        return Episode(
            _batch(x[:, : self.n_shots], y[:, : self.n_shots]),
            _batch(x[:, self.n_shots :], y[:, self.n_shots :]),
        )


def _batch(x: Tensor, y: Tensor) -> Batch:
    flat = y.reshape(-1)
    return Batch(x.reshape(len(flat), *x.shape[2:]), flat, torch.ones(len(flat)))


@dataclass(frozen=True)
class FewShotSource(TaskSource):
    """N-way K-shot classification over some of the classes of a data set.

    Parameters
    ----------
    examples : Examples
    variants : tuple of (label index, quarter turns)
        The classes that tasks are made of. A class turned by a quarter counts as a class of its own.
    n_ways : int or (low, high)
        Classes per task; a pair draws it uniformly for each task.
    n_shots : int or (low, high)
        Support examples per class.
    n_queries : int
        Query examples per class.
    distortion : Distortion, optional
        Images are a little different each time that they are drawn.

    Raises
    ------
    InvalidSetting
        More ways than classes, or a class with fewer examples than shots and queries need.
    """

    examples: Examples
    variants: tuple[Variant, ...] = field(repr=False)
    n_ways: int | tuple[int, int] = 5
    n_shots: int | tuple[int, int] = 1
    n_queries: int = 15
    distortion: Distortion | None = None

    def __post_init__(self) -> None:
        if self.distortion and self.examples.x.ndim != 4:
            raise InvalidSetting(
                f"only images can be distorted; examples of {self.examples.name} have shape "
                f"{tuple(self.examples.x.shape[1:])}"
            )
        for name, value in (
            ("n_ways", self.n_ways),
            ("n_shots", self.n_shots),
            ("n_queries", self.n_queries),
        ):
            low, high = _range(value)
            least = 2 if name == "n_ways" else 1
            if low < least or high < low:
                raise InvalidSetting(
                    f"{name} is {value}; it must be at least {least}, and a range must not fall"
                )
        if _range(self.n_ways)[1] > len(self.variants):
            raise InvalidSetting(
                f"n_ways is {self.n_ways} but {self.examples.name} offers {len(self.variants)} classes here; "
                "lower n_ways or give more classes"
            )
        needed = _range(self.n_shots)[1] + self.n_queries
        for label, turns in self.variants:
            if turns % 4 != turns:
                raise InvalidSetting(f"a class can be turned by 0, 1, 2 or 3 quarters, got {turns}")
            if len(self.examples.members[label]) < needed:
                raise InvalidSetting(
                    f"class {self.examples.labels[label]!r} of {self.examples.name} has "
                    f"{len(self.examples.members[label])} "
                    f"examples; {_range(self.n_shots)[1]} shots and {self.n_queries} queries need {needed}: "
                    "lower n_shots or n_queries, or leave that class out"
                )
        turned = any(turns % 2 for _, turns in self.variants)
        if turned and (self.examples.x.ndim < 4 or self.examples.x.shape[-1] != self.examples.x.shape[-2]):
            raise InvalidSetting(
                f"only square images can be turned; those of {self.examples.name} have shape "
                f"{tuple(self.examples.x.shape[1:])}"
            )

    @classmethod
    def of(
        cls,
        examples: Examples,
        n_ways: int = 5,
        n_shots: int = 1,
        n_queries: int = 15,
        turns: Sequence[int] = (0,),
    ) -> "FewShotSource":
        """Use every class of ``examples``, once for each of ``turns``."""
        variants = tuple((label, turn) for turn in turns for label in range(len(examples.labels)))
        return cls(examples, variants, n_ways, n_shots, n_queries)

    def read(self, picks: np.ndarray, turns: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Return examples as :meth:`Examples.read` does, distorted if they are to be."""
        x = self.examples.read(picks, turns)
        return self.distortion.apply(x, rng) if self.distortion else x

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec("classification", tuple(self.examples.x.shape[1:]), _range(self.n_ways)[1])

    @property
    def scaling(self) -> Scaling:
        return self.examples.scaling

    @property
    def plain(self) -> Callable[[Tensor], Tensor] | None:
        return self.examples.plain

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(map(self.examples.variant_name, self.variants))

    @property
    def origins(self) -> frozenset[str]:
        """Of labels: a class and its turned forms are one here."""
        named = (f"{self.examples.name}: {self.examples.labels[label]}" for label, _ in self.variants)
        return frozenset(map(short_hash, named))

    def scaled(self, scaling: Scaling) -> "FewShotSource":
        mean, std = (tuple(values.ravel().tolist()) for values in (scaling.x_mean, scaling.x_std))
        if (mean, std) == (self.examples.mean, self.examples.std):
            return self
        return dataclasses.replace(self, examples=dataclasses.replace(self.examples, mean=mean, std=std))

    def task(self, rng: np.random.Generator) -> FewShotTask:
        n_ways, n_shots = _draw(rng, self.n_ways), _draw(rng, self.n_shots)
        chosen = rng.choice(len(self.variants), n_ways, replace=False)
        return FewShotTask(self, tuple(self.variants[i] for i in chosen), n_shots)

    @property
    def pool_spec(self) -> TaskSpec:
        return TaskSpec("classification", self.spec.input_shape, len(self.variants))

    def pool(self, rng: np.random.Generator, n: int) -> Batch:
        classes = rng.integers(len(self.variants), size=n)
        labels, turns = np.asarray(self.variants)[classes].T
        picks = np.array([rng.choice(self.examples.members[label]) for label in labels])
        return Batch(self.read(picks, turns, rng), torch.from_numpy(classes), torch.ones(n))

    def describe(self) -> dict[str, object]:
        return {
            "source": "few-shot",
            "data": self.examples.name,
            "data_sha256": self.examples.fingerprint,
            "classes": [list(variant) for variant in self.variants],
            "n_ways": self.n_ways,
            "n_shots": self.n_shots,
            "n_queries": self.n_queries,
            **({"distortion": dataclasses.asdict(self.distortion)} if self.distortion else {}),
            **self.spec.to_dict(),
        }

    def with_shots(self, n_shots: int) -> "FewShotSource":
        return dataclasses.replace(self, n_shots=n_shots)

    def split(self, seed: int, fractions: tuple[float, float] = (0.6, 0.2)) -> Splits:
        """Split by label into train, validation and test; a class and its turned forms stay on one side.

        Parameters
        ----------
        seed : int
        fractions : (train, validation)
            Shares of the labels; the rest is for testing.
        """
        labels = sorted({label for label, _ in self.variants})
        order = [labels[i] for i in np.random.default_rng(seed).permutation(len(labels))]
        first, second = (round(share * len(order)) for share in (fractions[0], sum(fractions)))
        sides = (order[:first], order[first:second], order[second:])
        return Splits(*(self.only(side) for side in sides))

    def only(self, labels: Sequence[int], turns: Sequence[int] | None = None) -> "FewShotSource":
        """Return this source restricted to some labels, and to some quarter turns if given."""
        wanted = set(labels)
        kept = tuple(v for v in self.variants if v[0] in wanted and (turns is None or v[1] in turns))
        return dataclasses.replace(self, variants=kept)


def _range(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _draw(rng: np.random.Generator, value: int | tuple[int, int]) -> int:
    low, high = _range(value)
    return low if low == high else int(rng.integers(low, high + 1))
