"""Candidates that nobody named: the best ones with other settings, foreseen from past tables.

What a past table would have said about such a candidate is interpolated from what it says about the named
ones of the same model: a Gaussian process on their settings, with scales that foretell best, on all past
tables, each named candidate from the others. So these candidates compete with the named ones under the same
rule.
"""

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from .pipelines import VARIED, Candidate
from .prior import TablePrior

__all__ = ["RANGES", "Variations", "foreseen", "varied"]


@dataclass(frozen=True)
class Range:
    """Where a setting may lie.

    Parameters
    ----------
    low, high : float
    default : float
        Where the model has it if nothing is said.
    whole : bool
        Whether it is an integer.
    even : bool
        Whether its steps are even; else its logarithm's are.
    work : bool
        Whether time is in proportion to it.
    """

    low: float
    high: float
    default: float
    whole: bool = False
    even: bool = False
    work: bool = False

    def place(self, value: Any) -> float:
        """Return where a value lies, from 0 to 1."""
        scale = (lambda x: x) if self.even else np.log
        value = min(max(float(value), self.low), self.high)
        return float((scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low)))

    def value(self, place: float) -> float | int:
        """Return the value at a place."""
        if self.even:
            found = self.low + place * (self.high - self.low)
        else:
            found = self.low * (self.high / self.low) ** place
        return round(found) if self.whole else float(f"{found:.3g}")


TREE_COUNT = Range(30, 800, 100, whole=True, work=True)
RATE = Range(0.01, 0.3, 0.1)
LEAVES = Range(3, 127, 31, whole=True)
LEAF_ROWS = Range(2, 100, 20, whole=True)
PENALTY = Range(1e-3, 100.0, 1e-3)
SHARE = Range(0.2, 1.0, 1.0, even=True)
WOOD = {"min_samples_leaf": Range(1, 30, 1, whole=True), "max_features": SHARE}
RANGES: Mapping[str, Mapping[str, Range]] = MappingProxyType(
    {
        "lightgbm": {
            "n_estimators": TREE_COUNT,
            "learning_rate": RATE,
            "num_leaves": LEAVES,
            "min_child_samples": LEAF_ROWS,
            "colsample_bytree": SHARE,
            "reg_lambda": PENALTY,
        },
        "boosting": {
            "max_iter": TREE_COUNT,
            "learning_rate": RATE,
            "max_leaf_nodes": LEAVES,
            "min_samples_leaf": LEAF_ROWS,
            "max_features": SHARE,
            "l2_regularization": PENALTY,
        },
        "forest": WOOD,
        "extra-trees": WOOD,
        "logistic": {"C": Range(1e-3, 100.0, 1.0)},
        "ridge": {"alpha": Range(1e-2, 1e3, 1.0)},
        "support-vectors": {"C": Range(0.05, 100.0, 1.0)},
        "kernel-ridge": {"alpha": Range(1e-3, 10.0, 1.0), "gamma": Range(1e-3, 1.0, 0.1)},
        "network": {"alpha": Range(1e-4, 3.0, 1e-3), "learning_rate_init": Range(1e-3, 2e-2, 3e-3)},
        "neighbours": {"n_neighbors": Range(1, 60, 5, whole=True)},
    }
)
"""Settings that may be varied, by model."""

PER_PARENT = 6
STEP = 0.12  # of a range: how far a setting is usually moved
SCALES = tuple(product((0.15, 0.3, 0.6, 1.2), (0.5, 1.0, 2.0)))  # of settings, and of a difference in words
NOISE = 0.02
TYPICAL = 400.0  # trees of a candidate that finds out how many it takes
WORD = 0.3  # where a setting that is given as a word ("sqrt") is taken to lie


def varied(base: Candidate, rng: np.random.Generator) -> Candidate | None:
    """Return a candidate with other settings than a given one; None if there is nothing to vary."""
    ranges = {
        key: limits
        for key, limits in RANGES.get(base.model, {}).items()
        if not isinstance(base.settings.get(key, 0.0), str) and not (limits.work and base.sizes_itself)
    }
    if not ranges:
        return None
    moved = [key for key in ranges if rng.random() < 0.5] or [str(rng.choice(list(ranges)))]
    settings = dict(base.settings)
    for key in moved:
        limits = ranges[key]
        place = limits.place(settings.get(key, limits.default)) + STEP * rng.standard_normal()
        settings[key] = limits.value(float(np.clip(place, 0.0, 1.0)))
    stem = base.name.split(VARIED)[0]
    shown = ", ".join(f"{key} {settings[key]:g}" for key in sorted(ranges) if key in settings)
    return dataclasses.replace(base, name=f"{stem}{VARIED}{shown}", settings=settings)


class Variations:
    """The candidates of a search that nobody named: those tried, and some that may be.

    Parameters
    ----------
    prior : TablePrior
        What is known of the named ones.
    space : mapping of name to Candidate
        The named ones.
    suits : callable
        Whether a table is small enough for a candidate.
    seed : int
    unmeasured : sequence of str
        Named ones that past tables say nothing of, and that are offered all the same.
    """

    def __init__(
        self,
        prior: TablePrior,
        space: Mapping[str, Candidate],
        suits: Callable[[Candidate], bool],
        seed: int,
        unmeasured: Sequence[str] = (),
    ) -> None:
        self.named, self.space, self.suits, self.seed = prior, space, suits, seed
        models = {space[name].model for name in prior.candidates if name in space}
        known = (name for name in unmeasured if space[name].model in models and suits(space[name]))
        self.unmeasured = {name: space[name] for name in known}
        self.offered: dict[str, Candidate] = {}

    def offer(self, best: Sequence[Candidate], tried: Container[str], turn: int) -> TablePrior:
        """Replace those that were not tried by new ones near the best, and return what is foreseen of all."""
        rng = np.random.default_rng([self.seed, turn])
        varied_before = {name: one for name, one in self.offered.items() if name in tried}
        self.offered = self.unmeasured | varied_before
        for parent in (*best,) * PER_PARENT:
            candidate = varied(parent, rng)
            if candidate is not None and self.suits(candidate):
                self.offered.setdefault(candidate.name, candidate)
        return foreseen(self.named, self.space, list(self.offered.values()))


def foreseen(prior: TablePrior, space: Mapping[str, Candidate], new: Sequence[Candidate]) -> TablePrior:
    """Return a prior that also says what past tables would say about new candidates.

    Parameters
    ----------
    prior : TablePrior
    space : mapping of name to Candidate
        The named ones.
    new : sequence of Candidate
        Of models that the prior knows.
    """
    whole = ~prior.partly
    losses = np.nan_to_num(prior.losses.astype(np.float64), nan=1.0).clip(0.0, 1.0)
    shape = (len(prior.tasks), len(new))
    means, doubts, seconds = np.full(shape, np.nan), np.zeros(shape), np.empty(shape)
    for model in {candidate.model for candidate in new}:
        columns = [place for place, candidate in enumerate(new) if candidate.model == model]
        places = [
            place
            for place, name in enumerate(prior.candidates)
            if name in space and space[name].model == model
        ]
        named = [space[prior.candidates[place]] for place in places]
        numbers, words = _encoded([*named, *(new[column] for column in columns)])
        there = np.ix_(np.flatnonzero(whole), np.array(columns))  # the others tell of too few candidates
        means[there], doubts[there] = _interpolated(losses[whole][:, places], numbers, words)
        n = len(places)
        apart = np.abs(numbers[n:, None] - numbers[None, :n]).sum(2) + words[n:, :n]
        for column, nearest in zip(columns, apart.argmin(1), strict=True):
            ratio = _work(new[column]) / _work(named[nearest])
            seconds[:, column] = prior.seconds[:, places[nearest]] * ratio
    return dataclasses.replace(
        prior,
        candidates=(*prior.candidates, *(candidate.name for candidate in new)),
        losses=np.concatenate([prior.losses, means.clip(0.0, 1.0)], axis=1).astype(np.float32),
        seconds=np.concatenate([prior.seconds, seconds], axis=1).astype(np.float32),
        doubts=np.concatenate([np.zeros(losses.shape), doubts], axis=1),
    )


def _encoded(chosen: Sequence[Candidate]) -> tuple[np.ndarray, np.ndarray]:
    """Return places in the ranges, (candidates, settings), and the number of words in which pairs differ."""
    ranges = RANGES.get(chosen[0].model, {})
    numbers = np.array(
        [
            [
                WORD
                if isinstance(value := one.settings.get(key, limits.default), str)
                else limits.place(value)
                for key, limits in ranges.items()
            ]
            for one in chosen
        ]
    ).reshape(len(chosen), len(ranges))
    words = [_words(one, ranges) for one in chosen]
    differ = np.array([[len(one ^ other) / 2 for other in words] for one in words])
    return numbers, differ


def _words(candidate: Candidate, ranges: Mapping[str, Range]) -> frozenset[str]:
    rest = {f"{key}={value}" for key, value in candidate.settings.items() if key not in ranges}
    return frozenset({*rest, *map(str, dataclasses.astuple(candidate.features)), candidate.target})


def _kernel(numbers: np.ndarray, words: np.ndarray, scales: tuple[float, float]) -> np.ndarray:
    apart = ((numbers[:, None] - numbers[None]) ** 2).sum(2) / scales[0] ** 2 + words / scales[1]
    return np.exp(-0.5 * apart)


def _interpolated(known: np.ndarray, numbers: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what each past table would say about the candidates that follow the known ones, and how surely.

    Parameters
    ----------
    known : ndarray, shape (n_tasks, n_known)
    numbers : ndarray, shape (n_known + n_new, n_settings)
    words : ndarray, shape (n_known + n_new, n_known + n_new)

    Returns
    -------
    means, standard deviations : ndarray, shape (n_tasks, n_new)
    """
    n = known.shape[1]
    centre = known.mean(1, keepdims=True)
    spread = np.maximum(known.std(1, keepdims=True), 1e-4)
    away = known - centre
    found: list[tuple[float, np.ndarray, np.ndarray]] = []
    for scales in SCALES:
        kernel = _kernel(numbers, words, scales)
        inverse = np.linalg.inv(kernel[:n, :n] + NOISE * np.eye(n))
        # Each from the others, in closed form (Rasmussen & Williams 2006, equation 5.12).
        missed = (away @ inverse) / np.diag(inverse) / spread
        found.append((float(np.mean(missed**2)), kernel[n:, :n], inverse))
    error, cross, inverse = min(found, key=lambda entry: entry[0])
    weights = cross @ inverse
    share = np.maximum(1.0 - (weights * cross).sum(1), 0.0)
    return centre + away @ weights.T, spread * np.sqrt(share * min(error, 1.0))


def _work(candidate: Candidate) -> float:
    """Return what time is in proportion to."""
    found = 1.0
    for key, limits in RANGES.get(candidate.model, {}).items():
        if limits.work:
            found *= TYPICAL if candidate.sizes_itself else float(candidate.settings.get(key, limits.default))
    return found
