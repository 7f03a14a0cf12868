"""Past tasks from plain arrays: every ``(X, y)`` pair is a task with labels of its own."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import issparse

from ..canonical import digest, dumps, plain
from ..errors import InvalidData, InvalidSetting
from ..types import Batch, Episode, Kind, TaskSpec
from .scaling import Floats, Scaling
from .source import Task, TaskList

__all__ = ["ArrayTask", "ArrayTaskList", "Arrays", "from_arrays"]


@dataclass(frozen=True, eq=False)
class Arrays:
    """The examples of one task, checked.

    Parameters
    ----------
    given_name : str
    x : ndarray of float64, shape (n, *input_shape)
    y : ndarray, int64 of shape (n,), indices into ``labels``; or float64 of shape (n, c)
    labels : tuple of str
        Empty for regression.
    """

    given_name: str
    x: Floats
    y: np.ndarray
    labels: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the examples, targets and labels."""
        shapes = dumps(plain([list(self.x.shape), list(self.y.shape), list(self.labels)]))
        found = hashlib.sha256(shapes.encode())
        for part in (self.x, self.y):
            found.update(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes())
        return found.hexdigest()

    @cached_property
    def members(self) -> tuple[np.ndarray, ...]:
        """For each label, the indices of its examples; for regression, once all."""
        if not self.labels:
            return (np.arange(len(self.x)),)
        return tuple(np.flatnonzero(self.y == index) for index in range(len(self.labels)))


@dataclass(frozen=True, eq=False)
class ArrayTask(Task):
    """Learn the examples of one pair of arrays. Class ``i`` of the task is label ``classes[i]`` of the pair.

    Parameters
    ----------
    arrays : Arrays
    classes : tuple of int
        Empty for regression.
    n_shots, n_queries : int
        At most so many support and query examples, of each class where there are classes. Where fewer are to
        be had, the support goes first, but leaves one for the query.
    scaling : Scaling
    """

    arrays: Arrays
    classes: tuple[int, ...]
    n_shots: int
    n_queries: int
    scaling: Scaling

    @property
    def name(self) -> str:
        return f"{self.arrays.given_name} #{self.arrays.fingerprint[:16]}"

    @property
    def family(self) -> str:
        """The same for equal data, whatever it is called."""
        return self.arrays.fingerprint

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.arrays.labels[index] for index in self.classes)

    def episode(self, rng: np.random.Generator) -> Episode:
        support: list[np.ndarray] = []
        query: list[np.ndarray] = []
        for index in self.classes or (0,):
            rows = rng.permutation(self.arrays.members[index])
            n_shots = min(self.n_shots, len(rows) - 1)
            support.append(rows[:n_shots])
            query.append(rows[n_shots : n_shots + self.n_queries])
        return Episode(self._batch(np.concatenate(support)), self._batch(np.concatenate(query)))

    def _batch(self, rows: np.ndarray) -> Batch:
        x = torch.from_numpy(self.scaling.inputs(self.arrays.x[rows])).to(torch.float32)
        if not self.classes:
            y = torch.from_numpy(self.scaling.targets(self.arrays.y[rows])).to(torch.float32)
        else:
            place = np.zeros(len(self.arrays.labels), dtype=np.int64)
            place[list(self.classes)] = np.arange(len(self.classes))
            y = torch.from_numpy(place[self.arrays.y[rows]])
        return Batch(x, y, torch.ones(len(rows)))


@dataclass(frozen=True)
class ArrayTaskList(TaskList):
    """A finite list of tasks from arrays; made by :func:`from_arrays`.

    Whenever a task is drawn, so is the order of its classes: what "class 0" means differs from task to task
    and must be learned from the support. Of a task with more classes than ``max_ways``, so many are drawn.
    """

    tasks: tuple[ArrayTask, ...]

    def task(self, rng: np.random.Generator) -> ArrayTask:
        task = cast("ArrayTask", super().task(rng))
        chosen = rng.permutation(len(task.arrays.labels))[: self.common.n_outputs]
        return dataclasses.replace(task, classes=tuple(chosen.tolist()))

    def describe(self) -> dict[str, object]:
        first = self.tasks[0]
        return super().describe() | {
            "n_shots": first.n_shots,
            "n_queries": first.n_queries,
            "scaling_sha256": digest(dumps(plain(first.scaling.to_dict()))),
        }

    @property
    def scaling(self) -> Scaling:
        return self.tasks[0].scaling

    @property
    def pooled_scaling(self) -> Scaling:
        """What standardises the raw numbers of these tasks together."""
        return Scaling.of([(task.arrays.x, task.arrays.y) for task in self.tasks])

    def scaled(self, scaling: Scaling) -> "ArrayTaskList":
        """Return the same tasks, seen through a scaling of their raw numbers."""
        tasks = tuple(dataclasses.replace(task, scaling=scaling) for task in self.tasks)
        return dataclasses.replace(self, tasks=tasks)

    @property
    def pool_spec(self) -> TaskSpec:
        if self.common.kind == "regression":
            return self.common
        n_classes = sum(len(task.arrays.labels) for task in self.tasks)
        return TaskSpec("classification", self.common.input_shape, n_classes)

    def pool(self, rng: np.random.Generator, n: int) -> Batch:
        """Draw examples of all tasks as one problem, in which every class of every task is one of its own."""
        if self.common.kind == "regression":
            return super().pool(rng, n)
        offsets = np.cumsum([0, *(len(task.arrays.labels) for task in self.tasks)])
        x: list[Floats] = []
        y: list[int] = []
        for which in rng.integers(len(self.tasks), size=n):
            task = self.tasks[which]
            label = int(rng.integers(len(task.arrays.labels)))
            x.append(task.scaling.inputs(task.arrays.x[rng.choice(task.arrays.members[label])]))
            y.append(int(offsets[which]) + label)
        return Batch(torch.from_numpy(np.stack(x)).to(torch.float32), torch.tensor(y), torch.ones(n))


def from_arrays(
    datasets: Iterable[tuple[Any, Any]],
    kind: Kind = "classification",
    *,
    names: Sequence[str] | None = None,
    input_shape: tuple[int, ...] | None = None,
    max_ways: int | None = None,
    n_shots: int = 5,
    n_queries: int = 15,
) -> ArrayTaskList:
    """Make each pair of arrays a past task.

    Parameters
    ----------
    datasets : iterable of (X, y)
        Arrays or tables of numbers. ``X`` has shape (n, *input_shape), the same for all; ``y`` has shape
        (n,), or (n, c) for regression. Labels may be of any type that sorts, and belong to their own pair
        only.
    kind : {"classification", "regression"}
    names : sequence of str, optional
        Of the tasks; related ones can be kept together with ``split(family=...)``. The hash of the data is
        always part of a task's name, so that fingerprints tell data apart. Pairs given twice stay on one side
        of a split, whatever they are called.
    input_shape : tuple of int, optional
        Shape of one example, for images given as flat rows: (channels, height, width).
    max_ways : int, optional
        Most classes in an episode; by default those of the pair that has most.
    n_shots, n_queries : int
        Most support and query examples in an episode, of each class where there are classes. Tasks may have
        fewer, and differ in that.

    Returns
    -------
    ArrayTaskList
        The numbers as given; see :meth:`ArrayTaskList.scaled`.

    Raises
    ------
    InvalidData
        A pair cannot be learned from, or differs in shape from the first.
    InvalidSetting
        A number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tasks = from_arrays([(rng.normal(size=(20, 3)), np.repeat(["no", "yes"], 10)) for _ in range(10)])
    >>> tasks.spec
    TaskSpec(kind='classification', input_shape=(3,), n_outputs=2)
    >>> [len(side) for side in tasks.split(seed=0)]
    [6, 2, 2]
    """
    pairs = list(datasets)
    if not pairs:
        raise InvalidData("no past task was given; give at least one pair (X, y)")
    if names is not None and len(names) != len(pairs):
        raise InvalidSetting(f"{len(pairs)} tasks need as many names, got {len(names)}")
    for name, value, least in (
        ("n_shots", n_shots, 1),
        ("n_queries", n_queries, 1),
        ("max_ways", max_ways, 2),
    ):
        if value is not None and value < least:
            raise InvalidSetting(f"{name} is {value}; it must be at least {least}")
    checked = [
        _checked(pair, kind, f"task {index}" if names is None else names[index], input_shape)
        for index, pair in enumerate(pairs)
    ]
    first = checked[0]
    for other in checked[1:]:
        if other.x.shape[1:] != first.x.shape[1:] or other.y.shape[1:] != first.y.shape[1:]:
            raise InvalidData(
                f"{other.given_name} has examples of shape {other.x.shape[1:]} and targets of shape "
                f"{other.y.shape[1:]}, {first.given_name} has {first.x.shape[1:]} and {first.y.shape[1:]}; "
                "tasks to learn from together need the same columns"
            )
    if kind == "classification":
        most = max(len(arrays.labels) for arrays in checked)
        n_outputs = most if max_ways is None else max_ways
    else:
        n_outputs = first.y.shape[1]
    tasks = tuple(
        ArrayTask(
            arrays, tuple(range(min(len(arrays.labels), n_outputs))), n_shots, n_queries, Scaling.none()
        )
        for arrays in checked
    )
    return ArrayTaskList(tasks, TaskSpec(kind, first.x.shape[1:], n_outputs), "arrays", _reshoot)


def _reshoot(task: Task, n_shots: int) -> Task:
    return dataclasses.replace(cast("ArrayTask", task), n_shots=n_shots)


def _checked(pair: object, kind: Kind, name: str, input_shape: tuple[int, ...] | None) -> Arrays:
    """Return one pair as arrays that can be learned from."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise InvalidData(f"{name} is a {type(pair).__name__}; a past task is a pair (X, y)")
    x = _numbers(pair[0], f"X of {name}")
    if x.ndim < 2:
        raise InvalidData(
            f"X of {name} has shape {x.shape}; it needs rows and columns, X.reshape(-1, 1) perhaps"
        )
    if kind == "classification":
        y, labels = _classes(pair[1], name)
    else:
        y, labels = _numbers(pair[1], f"y of {name}"), ()
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        if y.ndim != 2:
            raise InvalidData(f"y of {name} has shape {y.shape}; it needs one row for each example")
    if len(x) != len(y):
        raise InvalidData(f"{name} has {len(x)} examples and {len(y)} targets; as many of both are needed")
    if len(x) < 2 or 0 in x.shape:
        raise InvalidData(
            f"X of {name} has shape {x.shape}; at least two rows, one to learn from and one to be judged on, "
            "and one column are needed"
        )
    if input_shape is not None:
        if math.prod(x.shape[1:]) != math.prod(input_shape):
            raise InvalidData(
                f"examples of {name} have shape {x.shape[1:]}, which cannot be seen as {input_shape}"
            )
        x = x.reshape(len(x), *input_shape)
    return Arrays(name, x, y, labels)


def _numbers(values: Any, what: str) -> Floats:
    if issparse(values):
        raise InvalidData(f"{what} is sparse; dense numbers are needed, give its .toarray()")
    try:
        array = np.array(values, dtype=np.float64)  # a copy: what was hashed must not change later
    except (TypeError, ValueError) as error:
        raise InvalidData(
            f"{what} cannot be read as numbers ({error}); encode text and categories first"
        ) from error
    if not np.isfinite(array).all():
        raise InvalidData(f"{what} has NaN or infinite values; impute or drop them first")
    return array


def _classes(values: Any, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class indices and labels."""
    y = np.asarray(values)
    if y.ndim != 1:
        raise InvalidData(f"y of {name} has shape {y.shape}; classes are one label for each example")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.floor(y)).all()):
        raise InvalidData(
            f"y of {name} has NaN or continuous values; classes are needed, or kind='regression'"
        )
    try:
        labels, indices, counts = np.unique(y, return_inverse=True, return_counts=True)
    except TypeError as error:
        raise InvalidData(f"y of {name} mixes labels that do not sort ({error}); use one type") from error
    if len(labels) < 2:
        raise InvalidData(f"y of {name} has {len(labels)} class; at least two are needed to tell apart")
    if counts.min() < 2:
        raise InvalidData(
            f"class {labels[counts.argmin()]!s} of {name} has one example; a class needs two, one to learn "
            "from and one to be judged on: leave it out"
        )
    return indices.astype(np.int64), tuple(map(str, labels))
