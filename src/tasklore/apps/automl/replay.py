"""A search on a past table, played back from what was measured there: nothing is fitted.

So an order of candidates, or a way to choose the next one, can be judged on every past table in milliseconds.
The prior must not know the table's family.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .ensembles import select
from .portfolio import Measured
from .prior import LEAST_GAP, TablePrior

__all__ = ["Choose", "Played", "as_in_search", "play"]

Choose = Callable[[Mapping[str, float]], str | None]
"""(losses of those tried so far, as shares of the trivial loss) → the candidate to try next, None to stop."""


@dataclass(frozen=True)
class Played:
    """What a search came to.

    Parameters
    ----------
    tried : tuple of str
    at : tuple of float
        Seconds of processor time after which each was done.
    single : tuple of float
        Regret of the best single candidate after each: 0 for the best of all candidates, 1 for predicting
        always the same. What separates these is taken to be 2 % of the trivial loss at least: where nothing
        can be learned, regret is small and not noise.
    blend : float
        Regret of the blend at the end; below 0 if it is better than every candidate.
    """

    tried: tuple[str, ...]
    at: tuple[float, ...]
    single: tuple[float, ...]
    blend: float


def as_in_search(prior: TablePrior, measured: Measured, *, timed: bool = True, n_folds: int = 3) -> Choose:
    """Return how a real search chooses: with its estimates of time, or by the number of evaluations."""
    expected = dict(zip(prior.candidates, prior.seconds_for(measured.descriptors).tolist(), strict=True))
    known = [name for name in expected if name in measured.losses and name != "constant"]

    def choose(tried: Mapping[str, float]) -> str | None:
        cost = {name: expected[name] * n_folds + 0.02 for name in known if name not in tried}
        if not timed and cost:
            likeness = prior.likeness(tried, measured.descriptors)
            return prior.most_promising(tried, likeness, dict.fromkeys(cost, 1.0))
        return prior.choose(tried, measured.descriptors, cost, len(tried))

    return choose


def play(
    measured: Measured,
    choose: Choose,
    seconds: float = float("inf"),
    evaluations: int = 10**9,
    n_folds: int = 3,
) -> Played:
    """Play a search back.

    Parameters
    ----------
    measured : Measured
    choose : callable
        See :data:`Choose`.
    seconds : float
        Of processor time; a candidate that is not done by then counts for nothing.
    evaluations : int
    n_folds : int
        That each candidate was measured on.
    """
    trivial = max(measured.trivial, 1e-12)
    best_of_all = min(measured.losses.values())
    gap = max(trivial - best_of_all, LEAST_GAP * trivial)
    tried: dict[str, float] = {}
    at: list[float] = []
    single: list[float] = []
    now, best = 0.0, trivial
    while len(tried) < evaluations and (name := choose(tried)) is not None:
        now += measured.seconds.get(name, 0.0) * n_folds
        if now > seconds:
            break
        loss = measured.losses.get(name, trivial)
        tried[name] = min(loss / trivial, 1.0)
        best = min(best, loss)
        at.append(now)
        single.append((best - best_of_all) / gap)
    known = [name for name in tried if name in measured.predictions]
    blend = 1.0
    if known:
        predictions = np.stack([measured.predictions[name] for name in known]).astype(np.float32)
        weights = select(predictions, measured.y, measured.kind)
        loss = measured.loss(np.tensordot(weights, np.nan_to_num(predictions), 1))
        blend = min((loss - best_of_all) / gap, 1.0)  # else predicting always the same is taken instead
    return Played(tuple(tried), tuple(at), tuple(single), blend)
