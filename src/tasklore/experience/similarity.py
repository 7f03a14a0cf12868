"""How alike two tasks are, judged by their descriptors.

The distance is Gower's, made robust: the mean, over all fields that either descriptor has, of

* numbers: ``d / (d + s)`` with ``d = |a - b|`` and ``s`` the interquartile range of that field over all
  tasks, the query included (their mean absolute value where that is zero, and 1 where that is zero too), so
  that units do not matter and one field gone wild cannot drown the others;
* anything else (text, truth values, ``None``): 0 where equal, 1 where not;
* a field that only one of them has: 1.

It lies between 0 (nothing tells them apart) and 1. The kind of a task counts as one more field.

References
----------
J. C. Gower, "A general coefficient of similarity and some of its properties", Biometrics 27 (1971), equation
3.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .records import TaskRecord

__all__ = ["Neighbour", "rank"]


class Neighbour(NamedTuple):
    """A remembered task and how far it is.

    Attributes
    ----------
    task : TaskRecord
    distance : float
        From 0, alike in every field, to 1.
    """

    task: TaskRecord
    distance: float


def rank(query: TaskRecord | Mapping[str, Any], remembered: Sequence[TaskRecord], k: int) -> list[Neighbour]:
    """Return the ``k`` remembered tasks most like ``query``, nearest first.

    Parameters
    ----------
    query : TaskRecord or mapping
        A task, or a descriptor alone; then kinds are not compared.
    remembered : sequence of TaskRecord
        Where a fingerprint occurs twice, the later record counts.
    k : int

    Returns
    -------
    list of Neighbour
        At most ``k``. Among equals the query's own fingerprint comes first, then the order is that of
        fingerprints.
    """
    tasks = list({task.fingerprint: task for task in remembered}.values())
    asked = isinstance(query, TaskRecord)
    wanted = _features(query) if asked else dict(query)
    candidates = [_features(task) if asked else dict(task.descriptor) for task in tasks]
    scales = _scales([*candidates, wanted])
    own = query.fingerprint if asked else None
    neighbours = [
        Neighbour(task, _distance(wanted, candidate, scales))
        for task, candidate in zip(tasks, candidates, strict=True)
    ]
    return sorted(
        neighbours, key=lambda found: (found.distance, found.task.fingerprint != own, found.task.fingerprint)
    )[:k]


def _features(task: TaskRecord) -> dict[str, Any]:
    return {
        "/kind": task.kind,
        **task.descriptor,
    }  # a slash, so that no field of the descriptor hides it by chance


def _number(value: float) -> float:
    return float(min(max(value, -1e100), 1e100))  # differences and sums stay finite


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scales(descriptors: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    columns: dict[str, list[float]] = {}
    for descriptor in descriptors:
        for name, value in descriptor.items():
            if _is_number(value):
                columns.setdefault(name, []).append(_number(value))
    return {name: _scale(values) for name, values in columns.items()}


def _scale(values: list[float]) -> float:
    if len(values) > 1:
        lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
        if upper > lower:
            return upper - lower
    return statistics.fmean(abs(value) for value in values) or 1.0


def _distance(one: Mapping[str, Any], other: Mapping[str, Any], scales: Mapping[str, float]) -> float:
    names = one.keys() | other.keys()
    if not names:
        return 0.0
    return sum(_difference(name, one, other, scales) for name in sorted(names)) / len(names)


def _difference(
    name: str, one: Mapping[str, Any], other: Mapping[str, Any], scales: Mapping[str, float]
) -> float:
    if name not in one or name not in other:
        return 1.0
    a, b = one[name], other[name]
    if _is_number(a) and _is_number(b):
        gap = abs(_number(a) - _number(b))
        return gap / (gap + scales[name])
    return 0.0 if type(a) is type(b) and a == b else 1.0
