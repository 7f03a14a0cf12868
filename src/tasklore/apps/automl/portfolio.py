"""What to try first: an order of candidates learned from past data sets.

The portfolio is built greedily on the loss of the *blend*: the next candidate is the one that, added to those
before it, lowers the blend's loss most on the average past data set. What comes first is good alone; what
follows is good where those before it fail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...artifacts import load_arrays
from ...errors import InvalidData
from ...experience.records import ModelRecord
from ...experience.store import ExperienceStore
from .losses import LEAST, LOSSES
from .pipelines import Kind

__all__ = ["Measured", "build_portfolio", "read_experience"]


OVERHEAD = 0.03  # seconds that trying anything takes
MOST_ROWS = 1000  # of a data set that a portfolio is judged on


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of one past data set.

    Parameters
    ----------
    name, family : str
    kind : {"classification", "regression"}
    y : ndarray, shape (n,)
    losses : mapping of str to float
        Mean over the folds that were done, for each candidate that did not fail.
    seconds : mapping of str to float
        To fit one fold.
    predictions : mapping of str to ndarray of float16, shape (n, n_outputs)
        Out of fold, of the candidates that were not given up.
    descriptors : mapping of str to float
        See :func:`.descriptors.describe`.
    """

    name: str
    family: str
    kind: Kind
    y: np.ndarray
    losses: Mapping[str, float]
    seconds: Mapping[str, float]
    predictions: Mapping[str, np.ndarray]
    descriptors: Mapping[str, float]

    def loss(self, outputs: np.ndarray) -> float:
        """Return the loss of predictions for all rows, see :mod:`.losses`."""
        return LOSSES[self.kind](self.y, outputs)

    @property
    def trivial(self) -> float:
        """The loss of predicting always the same."""
        return self.losses["constant"]


def read_experience(store: ExperienceStore, artifacts: Path, kind: Kind) -> list[Measured]:
    """Read what :func:`.collecting.collect` kept, one entry for each data set, sorted by name.

    Parameters
    ----------
    store : ExperienceStore
    artifacts : Path
        Where its measurements lie.
    kind : {"classification", "regression"}

    Raises
    ------
    DamagedArtifact
        A file is missing or was altered.
    """
    found: dict[str, Measured] = {}
    for record in store.find(ModelRecord, {"kind": "measurements"}):
        tensors, metadata = load_arrays(artifacts / record.path, "measurements", record.checksum)
        dataset = cast("dict[str, str]", metadata["dataset"])
        if dataset["kind"] != kind:
            continue
        tried = [
            entry
            for entry in cast("list[dict[str, Any]]", metadata["candidates"])
            if entry["losses"] and not entry["error"]
        ]
        found[dataset["name"]] = Measured(
            dataset["name"],
            dataset["family"],
            kind,
            tensors["y"],
            {entry["name"]: float(np.mean(entry["losses"])) for entry in tried},
            {entry["name"]: float(entry["fit_seconds"]) for entry in tried},
            {
                name.removeprefix("predictions/"): tensor
                for name, tensor in tensors.items()
                if name.startswith("predictions/")
            },
            metadata["descriptors"],
        )
    return [found[name] for name in sorted(found)]


def build_portfolio(
    experience: list[Measured], n_candidates: int = 25, *, begun: Sequence[str] = (), timed: bool = True
) -> list[str]:
    """Return names of candidates, the one to try first in front.

    Each is the one that lowers the blend's regret most, on the average past data set, for the time it takes.

    Parameters
    ----------
    experience : list of Measured
        Of one kind; leave out the family that the portfolio shall be judged on.
    n_candidates : int
    begun : sequence of str
        What it begins with.
    timed : bool
        Whether time counts.

    Raises
    ------
    InvalidData
        There is no experience.
    """
    blends = [_Blend(measured) for measured in experience]
    if not blends:
        raise InvalidData("there is no experience to learn a portfolio from; run `tasklore collect` first")
    names = sorted({name for measured in experience for name in measured.predictions})
    cost = {name: _typical_seconds(experience, name) if timed else 1.0 for name in names}
    chosen = list(begun)
    for name in chosen:
        for blend in blends:
            blend.add(name)
    names = [name for name in names if name not in chosen]
    while names and len(chosen) < n_candidates:
        gains = np.mean([blend.gains_with(names) for blend in blends], axis=0)
        best = names[int(np.argmax(gains / [cost[name] for name in names]))]
        for blend in blends:
            blend.add(best)
        chosen.append(best)
        names.remove(best)
    return chosen


def _typical_seconds(experience: list[Measured], name: str) -> float:
    """Return the geometric mean of what trying a candidate takes; more than nothing."""
    known = [measured.seconds[name] for measured in experience if name in measured.seconds]
    return float(np.exp(np.mean(np.log(np.array(known) + OVERHEAD))))


class _Blend:
    """The blend of the candidates chosen so far on one data set."""

    def __init__(self, measured: Measured) -> None:
        self.kind = measured.kind
        rows = np.sort(np.random.default_rng(0).permutation(len(measured.y))[:MOST_ROWS])
        self.y = measured.y[rows]
        # All that the loss needs: the chance of the true class, or the value, (candidates, rows).
        self.given = {
            name: predictions[rows, self.y if self.kind == "classification" else 0].astype(np.float64)
            for name, predictions in measured.predictions.items()
        }
        self.trivial = measured.trivial
        self.best = min(self._losses(np.stack(list(self.given.values()))).min(), self.trivial)
        self.total = np.zeros(len(self.y))
        self.count = 0
        self.loss = self.trivial

    def gains_with(self, names: list[str]) -> np.ndarray:
        """Return by how much the blend's regret (0: best single, 1: trivial) falls with each candidate."""
        losses = np.full(len(names), self.loss)
        known = [index for index, name in enumerate(names) if name in self.given]
        if known:
            added = np.stack([self.given[names[index]] for index in known])
            with_it = self._losses((self.total + added) / (self.count + 1))
            losses[known] = np.minimum(self.loss, with_it)
        return (self.loss - losses) / max(self.trivial - self.best, 1e-9)

    def add(self, name: str) -> None:
        """Take a candidate in if the blend is better with it."""
        if name not in self.given:
            return
        total = self.total + self.given[name]
        loss = float(self._losses(total[None] / (self.count + 1))[0])
        if loss < self.loss:
            self.total, self.count, self.loss = total, self.count + 1, loss

    def _losses(self, given: np.ndarray) -> np.ndarray:
        if self.kind == "classification":
            return -np.log(np.clip(given, LEAST, 1.0)).mean(1)
        return ((given - self.y) ** 2).mean(1) / max(float(self.y.var()), 1e-300)
