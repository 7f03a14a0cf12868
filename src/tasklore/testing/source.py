"""What every source of tasks must do, as checks that anyone can run on a source of their own.

``check_source(source)`` raises at the first broken promise and says which and how to mend it;
``check_splits(splits)`` does so for the three sides of a collection.
"""

import json
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckFailed
from ..tasks.source import Splits, TaskSource
from ..types import Batch, Episode

__all__ = ["check_source", "check_splits"]

N_TASKS = 8


def check_source(source: TaskSource) -> list[str]:
    """Check that a source keeps the promises of :class:`~tasklore.tasks.source.TaskSource`.

    Parameters
    ----------
    source : TaskSource

    Returns
    -------
    list of str
        The names of the checks that passed.

    Raises
    ------
    CheckFailed
        One did not; the message says which, and how to mend it.
    """
    checks: list[Callable[[TaskSource], None]] = [
        shapes_follow_the_spec,
        masks_are_zero_or_one,
        values_are_finite,
        labels_fit_the_task,
        no_example_appears_twice,
        same_draw_same_episodes,
        other_draw_other_episodes,
        chance_comes_from_the_generator_only,
        shots_can_be_set,
        fingerprint_identifies,
    ]
    for check in checks:
        check(source)
    return [check.__name__.replace("_", " ") for check in checks]


def check_splits(splits: Splits) -> list[str]:
    """Check the three sides of a collection, and that no class or task is on two of them.

    Parameters
    ----------
    splits : Splits

    Returns
    -------
    list of str
        The names of the checks that passed.

    Raises
    ------
    CheckFailed
        A check did not pass; the message says which, and how to mend it.
    """
    passed = [f"{side}: {name}" for side, source in splits._asdict().items() for name in check_source(source)]
    for (one, left), (other, right) in combinations(splits._asdict().items(), 2):
        if shared := sorted(left.classes & right.classes):
            raise CheckFailed(
                f"{one} and {other} share {len(shared)} classes or tasks, such as {shared[0]!r}; split by "
                "class"
            )
        if left.spec.input_shape != right.spec.input_shape or left.spec.kind != right.spec.kind:
            raise CheckFailed(f"{one} has tasks of {left.spec}, {other} of {right.spec}; make them alike")
    return [*passed, "classes never meet"]


def same_draw_same_episodes(source: TaskSource) -> None:
    """Equal seed, stream and step give equal episodes."""
    if not _equal(_draw(source), _draw(source)):
        raise _fault(source, "the same draw gave other episodes", "draw only from the generator given")


def other_draw_other_episodes(source: TaskSource) -> None:
    """Another seed, stream or step gives other episodes."""
    first = _draw(source)
    for name, other in (
        ("seed", _draw(source, seed=1)),
        ("stream", _draw(source, stream="other")),
        ("step", _draw(source, step=1)),
    ):
        if _equal(first, other):
            raise _fault(source, f"another {name} gave the same episodes", "draw from the generator given")


def chance_comes_from_the_generator_only(source: TaskSource) -> None:
    """Drawing leaves the global generators alone."""
    before = (torch.random.get_rng_state(), np.random.get_state(legacy=False))  # noqa: NPY002
    _draw(source)
    after = (torch.random.get_rng_state(), np.random.get_state(legacy=False))  # noqa: NPY002
    if not torch.equal(before[0], after[0]) or str(before[1]) != str(after[1]):
        raise _fault(source, "a global generator was used", "draw only from the generator given")


def shapes_follow_the_spec(source: TaskSource) -> None:
    """Give inputs, targets and masks the shapes that the spec says."""
    for episode in _singly(source):
        for side, batch in zip(Episode._fields, episode, strict=True):
            n = len(batch.mask)
            target = (n,) if source.spec.kind == "classification" else (n, source.spec.n_outputs)
            wanted = ((n, *source.spec.input_shape), target, (n,))
            found = tuple(tuple(part.shape) for part in batch)
            if n == 0 or found != wanted:
                raise _fault(
                    source,
                    f"x, y and mask of a {side} set have the shapes {found}",
                    f"for {source.spec} they must be {wanted}, with at least one example",
                )
            types = (torch.float32, torch.int64 if source.spec.kind == "classification" else torch.float32)
            if (batch.x.dtype, batch.y.dtype) != types:
                raise _fault(
                    source,
                    f"x and y of a {side} set are {batch.x.dtype} and {batch.y.dtype}",
                    f"make them {types[0]} and {types[1]}",
                )


def masks_are_zero_or_one(source: TaskSource) -> None:
    """Say by the mask what is real and what padding, and have a real example in every set."""
    for batch in (batch for episode in _singly(source) for batch in episode):
        if not bool(((batch.mask == 0) | (batch.mask == 1)).all()) or not bool(batch.mask.any()):
            raise _fault(source, "a mask is neither 0 nor 1, or is 0 throughout", "1 = real, 0 = padding")


def values_are_finite(source: TaskSource) -> None:
    """No input or target is NaN or infinite."""
    for batch in (batch for episode in _singly(source) for batch in episode):
        if not bool(torch.isfinite(batch.x).all()) or not bool(torch.isfinite(batch.y).all()):
            raise _fault(source, "an episode holds NaN or infinite values", "impute or drop those examples")


def labels_fit_the_task(source: TaskSource) -> None:
    """Classes are numbered from 0, and the support shows each class that the query asks for."""
    if source.spec.kind != "classification":
        return
    for episode in _singly(source):
        support, query = (_real(batch)[1] for batch in episode)
        if int(torch.cat([support, query]).min()) < 0 or int(torch.cat([support, query]).max()) >= (
            source.spec.n_outputs
        ):
            raise _fault(
                source, "a label is out of range", f"number the classes from 0 to {source.spec.n_outputs - 1}"
            )
        shown, asked = set(support.tolist()), set(query.tolist())
        if asked - shown or shown != set(range(len(shown))):
            raise _fault(
                source,
                f"the support shows the classes {sorted(shown)} and the query asks for {sorted(asked)}",
                "show every class from 0 on, without a gap",
            )


def no_example_appears_twice(source: TaskSource) -> None:
    """Support and query are disjoint, and nothing is drawn twice."""
    for episode in _singly(source):
        rows = torch.cat([_real(batch)[0].flatten(1) for batch in episode])
        if len(torch.unique(rows, dim=0)) < len(rows):
            raise _fault(
                source,
                "an example appears twice in one episode",
                "draw without replacement, and drop duplicates from the data",
            )


def shots_can_be_set(source: TaskSource) -> None:
    """``with_shots`` gives that many support examples, of each class where there are classes, at most."""
    for n_shots in (1, 2):
        for episode in _singly(source.with_shots(n_shots)):
            y = _real(episode.support)[1]
            counts = torch.bincount(y) if source.spec.kind == "classification" else torch.tensor([len(y)])
            if int(counts.max()) > n_shots or int(counts.min()) < 1:
                raise _fault(
                    source, f"with_shots({n_shots}) gave supports of {counts.tolist()}", "let it set n_shots"
                )


def fingerprint_identifies(source: TaskSource) -> None:
    """Describe in JSON that does not change by itself, and changes with the settings."""
    try:
        json.dumps(source.describe(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _fault(
            source, f"describe() is not JSON: {error}", "return numbers, texts, lists and dicts"
        ) from error
    before = source.fingerprint
    _draw(source)
    if source.fingerprint != before:
        raise _fault(source, "the fingerprint changed by drawing", "describe settings and data, not state")
    if source.with_shots(1).fingerprint == source.with_shots(2).fingerprint:
        raise _fault(source, "with_shots does not change the fingerprint", "describe the number of shots")


def _draw(source: TaskSource, seed: int = 0, stream: str = "check", step: int = 0) -> Episode:
    return source.episodes(seed, stream, step, N_TASKS)[0]


def _singly(source: TaskSource) -> list[Episode]:
    """Return episodes one by one, as a task draws them, without the padding of a stack."""
    rng = np.random.default_rng(0)
    return [source.task(rng).episode(rng) for _ in range(N_TASKS)]


def _real(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch.x[batch.mask == 1], batch.y[batch.mask == 1]


def _equal(one: Episode, other: Episode) -> bool:
    parts = zip((*one.support, *one.query), (*other.support, *other.query), strict=True)
    return all(torch.equal(left, right) for left, right in parts)


def _fault(source: TaskSource, what: str, cure: str) -> CheckFailed:
    return CheckFailed(f"{type(source).__name__}: {what}; {cure}")
