"""scikit-learn's embedded digits, and the roles that ten digits can play in learning to learn."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from sklearn.datasets import load_digits

from ...registry import sources
from ..few_shot import Examples, FewShotSource
from ..source import Collection, Splits

__all__ = ["Digits", "digit_roles"]


def digit_roles(past: FewShotSource, future: FewShotSource) -> Splits:
    """Make train, validation and test tasks out of the digits 0–9, which may be turned.

    Past tasks are made of the digits 0–4 and of their turns by 90° and 270° as classes of their own;
    validation tasks of 1–4 turned by 180° (a turned 0 is a 0), so they have four classes at most; test tasks
    of the unseen digits 5–9.

    Parameters
    ----------
    past, future : FewShotSource
        All ten digits, in the order of their labels; may be the same one. Train and validation tasks are
        drawn from the first, test tasks from the second.

    Notes
    -----
    A turned 1 looks much like a 1, so the validation score flatters; it ranks learners and rounds, and no
    test class is met in any orientation.
    """
    every = dataclasses.replace(past, variants=tuple((d, turns) for turns in range(4) for d in range(10)))
    turned = dataclasses.replace(every, n_ways=min(4, _most(past.n_ways))).only((1, 2, 3, 4), turns=(2,))
    return Splits(every.only(range(5), turns=(0, 1, 3)), turned, future.only(range(5, 10), turns=(0,)))


def _most(n_ways: int | tuple[int, int]) -> int:
    return n_ways if isinstance(n_ways, int) else n_ways[1]


@sources.register("digits")
@dataclass(frozen=True)
class Digits(Collection):
    """scikit-learn's 1,797 embedded images of handwritten digits, 8×8, with 17 grey levels from 0 to 255.

    Past tasks are made of the digits 0–4 and of their turns by 90° and 270° as classes of their own;
    validation tasks of 1–4 turned by 180° (a turned 0 is a 0), so they have four classes at most; test tasks
    of the unseen digits 5–9. See :func:`digit_roles`.

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    """

    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15

    def splits(self) -> Splits:
        data = cast("Any", load_digits())
        examples = Examples.from_arrays(
            "digits", np.rint(data.images[:, None] * (255 / 16)).astype(np.uint8), data.target, std=255.0
        )
        every = FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries)
        return digit_roles(every, every)
