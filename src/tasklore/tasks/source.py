"""Where tasks come from.

A :class:`TaskSource` is a family of related problems; it draws a :class:`Task`, and a task draws an
:class:`Episode`. Every draw is a pure function of ``(seed, stream, step, index)``, so that a run can stop and
resume anywhere, and so that two methods are judged on the same episodes.
"""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidData, InvalidSetting
from ..types import Batch, Episode, TaskSpec
from .scaling import Scaling

__all__ = [
    "Collection",
    "MixedSource",
    "Splits",
    "Task",
    "TaskList",
    "TaskSource",
    "check_is_source",
    "pad",
    "short_hash",
    "stack",
    "task_key",
    "task_rng",
]


class Task(abc.ABC):
    """One learning problem."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A short name for tables and pictures."""

    @property
    def family(self) -> str:
        """What this task is about: tasks of one family stay on one side of a split. By default its name."""
        return self.name

    @property
    def labels(self) -> tuple[str, ...]:
        """What the class indices of this task mean; empty where there are no classes."""
        return ()

    @abc.abstractmethod
    def episode(self, rng: np.random.Generator) -> Episode:
        """Draw disjoint support and query examples.

        Parameters
        ----------
        rng : numpy.random.Generator
            The only source of chance.

        Returns
        -------
        Episode
            Without a task axis; see :class:`~tasklore.types.Batch` for shapes.
        """


class TaskSource(abc.ABC):
    """A family of related tasks. Subclasses are frozen dataclasses."""

    @property
    @abc.abstractmethod
    def spec(self) -> TaskSpec:
        """What all tasks of this source have in common."""

    @abc.abstractmethod
    def task(self, rng: np.random.Generator) -> Task:
        """Draw one task."""

    @abc.abstractmethod
    def describe(self) -> dict[str, object]:
        """Return JSON values that identify this source, its data (by hash) included."""

    @abc.abstractmethod
    def with_shots(self, n_shots: int) -> "TaskSource":
        """Return the same source with other support sizes: examples per class, where there are classes."""

    @property
    def scaling(self) -> Scaling:
        """How the raw numbers of new examples become what these tasks show; by default they are the same."""
        return Scaling.none()

    def scaled(self, scaling: Scaling) -> "TaskSource":
        """Return the same tasks, seen through a scaling of their raw numbers: that of a prior.

        Raises
        ------
        InvalidData
            They are scaled otherwise, and cannot be scaled anew.
        """
        if self.scaling.to_dict() == scaling.to_dict():
            return self
        raise InvalidData(
            f"the numbers of a {type(self).__name__} are not scaled as those that were learned from, and "
            "cannot be; use a prior of tasks like these"
        )

    @property
    def plain(self) -> Callable[[Tensor], Tensor] | None:
        """How a shallow model should see examples, (n, *input_shape) to (n, f); None: as they are."""
        return None

    @property
    def classes(self) -> frozenset[str]:
        """What tasks are made of: names of classes, or of whole tasks; empty where the supply is endless.

        Two sources of one data set that have none in common never show the same thing.
        """
        return frozenset()

    @property
    def origins(self) -> frozenset[str]:
        """Short hashes of what tasks are made of, its data set included: a prior keeps them.

        So a class that was learned from is recognised where it is to be judged on, in another split perhaps.
        """
        return frozenset(map(short_hash, self.classes))

    @property
    def named(self) -> Mapping[str, "TaskSource"]:
        """Parts that shall each be judged by itself too, by name; none by default."""
        return {}

    @property
    def pool_spec(self) -> TaskSpec:
        """The one problem that :meth:`pool` samples; its classes are those of all tasks together."""
        if self.spec.kind == "classification":
            raise InvalidData(
                f"the tasks of a {type(self).__name__} have no classes in common, so they cannot be pooled; "
                "start from random params instead"
            )
        return self.spec

    @property
    def can_be_pooled(self) -> bool:
        """Whether there is a :attr:`pool_spec`."""
        try:
            return bool(self.pool_spec.n_outputs)
        except InvalidData:
            return False

    def pool(self, rng: np.random.Generator, n: int) -> Batch:
        """Draw at least ``n`` examples of all tasks as one problem, for plain pre-training."""
        drawn: list[Batch] = []
        while sum(len(batch.mask) for batch in drawn) < n:
            drawn.append(self.task(rng).episode(rng).joined)
        return Batch(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))

    @property
    def fingerprint(self) -> str:
        """A hash of :meth:`describe`: equal for equal sources, on every machine."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()

    def episodes(self, seed: int, stream: str, step: int, n_tasks: int) -> tuple[Episode, Tensor]:
        """Draw a stack of tasks, each with its key.

        Parameters
        ----------
        seed, stream, step
            Name the draw: the same ones give the same episodes. Streams (``"train"``, ``"validation"``, …)
            never share random numbers.
        n_tasks : int

        Returns
        -------
        episodes : Episode
            With a leading axis of ``n_tasks``, padded to common sizes.
        keys : Tensor, int64, shape (n_tasks,)
            For :class:`~tasklore.types.Context`.
        """
        draws: list[Episode] = []
        for index in range(n_tasks):
            rng = task_rng(seed, stream, step, index)
            draws.append(self.task(rng).episode(rng))
        keys = [task_key(seed, stream, step, index) for index in range(n_tasks)]
        return stack(draws), torch.tensor(keys, dtype=torch.int64)


class Splits(NamedTuple):
    """Three sources that share no task (or, for few-shot classification, no class)."""

    train: TaskSource
    validation: TaskSource
    test: TaskSource


class Collection(abc.ABC):
    """A named collection of past and future tasks, as settings.

    A frozen dataclass, filed in ``registry.sources``. Its fields are what a ``[tasks]`` section of a
    configuration may say; nothing is read before :meth:`splits`.
    """

    suggested_net: ClassVar[str] = ""
    """The registered name of a backbone for its examples; empty where their shape tells."""

    @abc.abstractmethod
    def splits(self) -> Splits:
        """Read the data and return its train, validation and test tasks.

        Raises
        ------
        DownloadError
            The data is neither in the given folder, nor under ``TASKLORE_DATA``, nor could it be fetched.
        """


def check_is_source(given: object) -> None:
    """Raise ``InvalidData`` if a whole collection is given where one side of it is needed."""
    if isinstance(given, Collection | Splits):
        name = type(given).__name__
        sides = f"{name}(...).splits()" if isinstance(given, Collection) else "splits"
        raise InvalidData(
            f"a {name} is given, which is past and new tasks together; give one side: {sides}.train to learn "
            f"from, {sides}.test to be judged on"
        )


def short_hash(text: str) -> str:
    """Return sixteen hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def task_rng(seed: int, stream: str, step: int, index: int) -> np.random.Generator:
    """Return the generator that belongs to one draw of one task."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(_entropy(seed, stream, step, index))))


def task_key(seed: int, stream: str, step: int, index: int) -> int:
    """Return the 63-bit key of one draw of one task."""
    words = np.random.SeedSequence(_entropy(seed, stream, step, index)).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def _entropy(seed: int, stream: str, step: int, index: int) -> list[int]:
    if seed < 0:
        raise InvalidSetting(f"a seed cannot be negative, got {seed}")
    return [seed, int.from_bytes(stream.encode(), "little"), step, index]


def pad(batch: Batch, n: int) -> Batch:
    """Return ``batch`` with zeros appended up to ``n`` examples, masked out."""
    missing = n - len(batch.mask)
    if missing == 0:
        return batch
    return Batch(*(torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) for part in batch))


def stack(episodes: Sequence[Episode]) -> Episode:
    """Stack episodes along a new leading task axis, padding to the longest support and query."""
    if not episodes:
        raise InvalidData("no episodes were given; at least one is needed to make a stack")

    def stacked(batches: list[Batch]) -> Batch:
        longest = max(len(batch.mask) for batch in batches)
        padded = [pad(batch, longest) for batch in batches]
        return Batch(*(torch.stack(parts) for parts in zip(*padded, strict=True)))

    return Episode(stacked([e.support for e in episodes]), stacked([e.query for e in episodes]))


@dataclass(frozen=True)
class TaskList(TaskSource):
    """A finite list of tasks with a common spec, each equally likely.

    Parameters
    ----------
    tasks : tuple of Task
    common : TaskSpec
        The spec that every task fits.
    description : str
        Names the list; together with the names of the tasks it makes the fingerprint.
    reshoot : callable (Task, n_shots) -> Task
        Gives a task another number of support examples.
    """

    tasks: tuple[Task, ...]
    common: TaskSpec
    description: str
    reshoot: Callable[[Task, int], Task]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InvalidData(f"the task list {self.description!r} is empty; give at least one task")

    @property
    def spec(self) -> TaskSpec:
        return self.common

    @property
    def classes(self) -> frozenset[str]:
        return frozenset(task.family for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def task(self, rng: np.random.Generator) -> Task:
        return self.tasks[int(rng.integers(len(self.tasks)))]

    def describe(self) -> dict[str, object]:
        names = hashlib.sha256("\n".join(task.name for task in self.tasks).encode()).hexdigest()
        return {
            "source": self.description,
            "n_tasks": len(self.tasks),
            "tasks": names,
            **self.common.to_dict(),
        }

    def with_shots(self, n_shots: int) -> "TaskList":
        tasks = tuple(self.reshoot(task, n_shots) for task in self.tasks)
        return dataclasses.replace(self, tasks=tasks, description=f"{self.description}, {n_shots} shots")

    def filter(self, keep: Callable[[Task], bool]) -> "TaskList":
        """Return the tasks for which ``keep`` is true."""
        return dataclasses.replace(self, tasks=tuple(filter(keep, self.tasks)))

    def split(
        self,
        seed: int,
        fractions: tuple[float, float] = (0.6, 0.2),
        family: Callable[[Task], str] | None = None,
    ) -> Splits:
        """Split into train, validation and test tasks.

        Parameters
        ----------
        seed : int
        fractions : (train, validation)
            Of the families; the rest is for testing.
        family : callable, optional
            Tasks of one family stay on one side; :attr:`Task.family` by default.

        Raises
        ------
        InvalidData
            A side would be empty.
        """
        family_of = family or (lambda task: task.family)
        names = sorted({family_of(task) for task in self.tasks})
        order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
        first, second = (round(share * len(order)) for share in (fractions[0], sum(fractions)))
        parts = [set(order[:first]), set(order[first:second]), set(order[second:])]
        if not all(parts):
            raise InvalidData(
                f"{len(names)} families cannot be split by {fractions} without an empty side; "
                "collect more tasks or change the fractions"
            )
        return Splits(*(self.filter(lambda task, part=part: family_of(task) in part) for part in parts))


@dataclass(frozen=True)
class MixedSource(TaskSource):
    """Draw each task from one of several sources of the same shape.

    Parameters
    ----------
    parts : tuple of TaskSource
    weights : tuple of float, optional
        Relative frequencies; equal by default.
    names : tuple of str, optional
        Of the parts, where each shall be judged by itself.
    """

    parts: tuple[TaskSource, ...]
    weights: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kinds = {(part.spec.kind, part.spec.input_shape) for part in self.parts}
        if len(kinds) != 1:
            raise InvalidData(
                f"sources can be mixed only if their kind and input shape agree, got {sorted(kinds)}"
            )
        if self.weights and len(self.weights) != len(self.parts):
            raise InvalidSetting(f"{len(self.parts)} sources need as many weights, got {len(self.weights)}")
        if self.names and len(self.names) != len(self.parts):
            raise InvalidSetting(f"{len(self.parts)} sources need as many names, got {len(self.names)}")

    @property
    def spec(self) -> TaskSpec:
        first = self.parts[0].spec
        return TaskSpec(first.kind, first.input_shape, max(part.spec.n_outputs for part in self.parts))

    @property
    def classes(self) -> frozenset[str]:
        return frozenset[str]().union(*(part.classes for part in self.parts))

    @property
    def origins(self) -> frozenset[str]:
        return frozenset[str]().union(*(part.origins for part in self.parts))

    def scaled(self, scaling: Scaling) -> "MixedSource":
        return dataclasses.replace(self, parts=tuple(part.scaled(scaling) for part in self.parts))

    @property
    def plain(self) -> Callable[[Tensor], Tensor] | None:
        return self.parts[0].plain

    @property
    def named(self) -> Mapping[str, TaskSource]:
        return dict(zip(self.names, self.parts, strict=False))

    @property
    def pool_spec(self) -> TaskSpec:
        """All parts as one problem: the classes of the first, then those of the second, and so on."""
        specs = [part.pool_spec for part in self.parts]
        if self.spec.kind == "regression":
            return specs[0]
        return TaskSpec(self.spec.kind, self.spec.input_shape, sum(spec.n_outputs for spec in specs))

    def pool(self, rng: np.random.Generator, n: int) -> Batch:
        share = np.asarray(self.weights or (1.0,) * len(self.parts))
        counts = rng.multinomial(n, share / share.sum())
        offset, drawn = 0, list[Batch]()
        for part, count in zip(self.parts, counts.tolist(), strict=True):
            if count:
                x, y, mask = part.pool(rng, count)
                drawn.append(Batch(x, y if y.is_floating_point() else y + offset, mask))
            offset += part.pool_spec.n_outputs
        return Batch(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))

    @property
    def scaling(self) -> Scaling:
        first, *others = (part.scaling for part in self.parts)
        return first if all(other.to_dict() == first.to_dict() for other in others) else Scaling.none()

    def task(self, rng: np.random.Generator) -> Task:
        weights = np.asarray(self.weights or (1.0,) * len(self.parts))
        return self.parts[int(rng.choice(len(self.parts), p=weights / weights.sum()))].task(rng)

    def describe(self) -> dict[str, object]:
        return {
            "source": "mixed",
            "parts": [part.describe() for part in self.parts],
            "weights": list(self.weights),
            **({"names": list(self.names)} if self.names else {}),
        }

    def with_shots(self, n_shots: int) -> "MixedSource":
        return dataclasses.replace(self, parts=tuple(part.with_shots(n_shots) for part in self.parts))
