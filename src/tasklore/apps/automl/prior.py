"""What was meta-learned from past tables: what to try first, what next, and how long it takes.

Candidates come in turn from a portfolio, whose members complement one another, and by promise: the one that
would have helped most, for its time, on past tables that are alike. These have similar descriptors, and the
candidates tried so far did as well there, compared with one another, as they do here. What "helped" means
needs no model of losses: the past tables say by how much the candidate beat the best of those tried.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import ndtr

from ...artifacts import load_arrays, save_artifact
from ...errors import DamagedArtifact, InvalidData
from ...experience.store import ExperienceStore
from .descriptors import NAMES
from .memory import recall
from .pipelines import Kind
from .portfolio import OVERHEAD, Measured, build_portfolio
from .space import candidates as space

__all__ = ["AtRandom", "TablePrior"]

N_PORTFOLIO = 30
LEAST_GAP = 0.02  # of the trivial loss: what separates the trivial from the best is taken to be at least this
LIKENESS = (
    0.25  # how far apart, in the mean of normalised differences, a past table counts half as much … e⁻¹
)
TRUST = 3.0  # tried candidates from which on behaviour counts as much as descriptors
LEAST_SECONDS = 2e-3
DENSITY = 1 / np.sqrt(2 * np.pi)


@dataclass(frozen=True, eq=False, repr=False)
class TablePrior:
    """Past tables, and an order of candidates.

    Parameters
    ----------
    kind : {"classification", "regression"}
    portfolio : tuple of str
        Candidates to begin with, in this order.
    candidates : tuple of str
        Names of the columns of ``losses`` and ``seconds``.
    tasks, families : tuple of str
        Names of their rows.
    losses : ndarray of float32, shape (n_tasks, n_candidates)
        Cross-validated, divided by the loss of predicting always the same; NaN where not tried or failed.
    seconds : ndarray of float32, shape (n_tasks, n_candidates)
        Of processor time to fit one fold.
    descriptors : ndarray of float32, shape (n_tasks, n_descriptors)
        See :data:`.descriptors.NAMES`.
    doubts : ndarray, shape (n_tasks, n_candidates), optional
        Standard deviations of losses that were not measured but foreseen, see :mod:`.varying`; not saved.
    sampled : ndarray of bool, shape (n_tasks,), optional
        Tables of which only some candidates are known, since a search had no time for the others; not saved.
        NaN says nothing of a candidate there, where else it says that it failed.
    """

    varies: ClassVar[bool] = True
    """Whether a search may also vary the best candidates, see :mod:`.varying`."""

    kind: Kind
    portfolio: tuple[str, ...]
    candidates: tuple[str, ...]
    tasks: tuple[str, ...]
    families: tuple[str, ...]
    losses: np.ndarray
    seconds: np.ndarray
    descriptors: np.ndarray
    doubts: np.ndarray | None = None
    sampled: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"TablePrior({self.kind!r}, {len(self.tasks)} tables, {len(self.candidates)} candidates)"

    @classmethod
    def learn(cls, experience: Sequence[Measured], n_portfolio: int = N_PORTFOLIO) -> Self:
        """Meta-learn from past tables of one kind.

        Raises
        ------
        InvalidData
            There are none, or they are of both kinds.
        """
        kinds: set[Kind] = {measured.kind for measured in experience}
        if len(kinds) != 1:
            raise InvalidData(
                f"past tables of one kind are needed, got {', '.join(sorted(kinds)) or 'none'}; "
                "run `tasklore collect` first"
            )
        kind = kinds.pop()
        names = sorted({name for measured in experience for name in measured.losses})
        losses = [[m.losses.get(name, np.nan) / max(m.trivial, 1e-12) for name in names] for m in experience]
        return cls(
            kind,
            tuple(build_portfolio(list(experience), n_portfolio)),
            tuple(names),
            tuple(measured.name for measured in experience),
            tuple(measured.family for measured in experience),
            np.array(losses, dtype=np.float32),
            np.array([[m.seconds.get(name, np.nan) for name in names] for m in experience], dtype=np.float32),
            np.array([[m.descriptors[name] for name in NAMES[kind]] for m in experience], dtype=np.float32),
        )

    def without(self, families: Collection[str]) -> Self:
        """Return what the other families alone say; as long a portfolio is built from their losses.

        Predictions are not kept, so each of its members lowers the best loss, not the blend's, as far as it
        can for the time it takes.

        Raises
        ------
        InvalidData
            There are no other families.
        """
        kept = self._rows(np.flatnonzero([family not in families for family in self.families]))
        if not kept.tasks:
            raise InvalidData(f"there are no past tables but those of {', '.join(sorted(families))}")
        alike = np.ones(len(kept.tasks))
        tried = np.isfinite(kept.seconds).any(0)
        typical = np.exp(np.nanmean(np.log(kept.seconds[:, tried] + OVERHEAD), axis=0))
        cost = dict(zip(np.array(kept.candidates)[tried].tolist(), typical.tolist(), strict=True))
        portfolio: list[str] = []
        while cost and len(portfolio) < len(self.portfolio):
            portfolio.append(kept.most_promising(portfolio, alike, cost))
            del cost[portfolio[-1]]
        return dataclasses.replace(kept, portfolio=tuple(portfolio))

    def with_store(self, store: ExperienceStore) -> Self:
        """Return it with the tables that a store knows; those that are known already are replaced.

        Named candidates that this prior says nothing of are not taken from the store, where one table at
        most tells of each: they are foreseen from their relatives, if at all.
        """
        known = recall(store, self.kind)
        if not known:
            return self
        names = NAMES[self.kind]
        found = {c for _, tried in known.values() for c in tried}
        candidates = (*self.candidates, *sorted(found - {*self.candidates, *space(self.kind)}))
        kept = self._rows(np.array([task not in known for task in self.tasks], dtype=bool).nonzero()[0])
        wider = ((0, len(known)), (0, len(candidates) - len(self.candidates)))
        losses = np.pad(kept.losses, wider, constant_values=np.nan)
        seconds = np.pad(kept.seconds, wider, constant_values=np.nan)
        places = {name: place for place, name in enumerate(candidates)}
        for row, (_, tried) in enumerate(known.values(), start=len(kept.tasks)):
            for name in tried.keys() & places.keys():
                losses[row, places[name]], seconds[row, places[name]] = tried[name]
        described = np.array([[d[name] for name in names] for d, _ in known.values()], dtype=np.float32)
        return dataclasses.replace(
            self,
            candidates=candidates,
            tasks=(*kept.tasks, *known),
            families=(*kept.families, *known),
            losses=losses,
            seconds=seconds,
            descriptors=np.concatenate([kept.descriptors, described]),
            sampled=np.concatenate([kept.partly, np.ones(len(known), dtype=bool)]),
        )

    @property
    def partly(self) -> np.ndarray:
        """Of which tables only some candidates are known, shape (n_tasks,)."""
        return np.zeros(len(self.tasks), dtype=bool) if self.sampled is None else self.sampled

    @classmethod
    def shipped(cls, kind: Kind) -> Self:
        """Return what the package comes with: learned from the tables that `docs/automl.md` lists."""
        return _shipped(cls, kind)

    def _rows(self, kept: np.ndarray) -> Self:
        return dataclasses.replace(
            self,
            tasks=tuple(self.tasks[row] for row in kept),
            families=tuple(self.families[row] for row in kept),
            losses=self.losses[kept],
            seconds=self.seconds[kept],
            descriptors=self.descriptors[kept],
            sampled=None if self.sampled is None else self.sampled[kept],
        )

    def likeness(self, tried: Mapping[str, float], described: Mapping[str, float]) -> np.ndarray:
        """Return how much each past table counts for a new one, between 0 and 1.

        Parameters
        ----------
        tried : mapping of candidate to loss
            On the new table, divided by its trivial loss; NaN if it is not known yet.
        described : mapping
            Its descriptors.

        Returns
        -------
        ndarray, shape (n_tasks,)
        """
        new = np.array([described[name] for name in NAMES[self.kind]], dtype=np.float64)
        spread = np.maximum(self.descriptors.std(0), 1e-6)
        differences = np.minimum(np.abs(self.descriptors - new) / spread, 3.0) / 3.0
        distance = differences.mean(1)
        known = [name for name, loss in tried.items() if name in self.candidates and not math.isnan(loss)]
        if len(known) > 1:
            columns = [self.candidates.index(name) for name in known]
            here = _compared(np.array([[tried[name] for name in known]]))
            there = _compared(self.losses[:, columns].astype(np.float64))
            apart = np.abs(here - there)
            known_there = np.isfinite(apart)
            behaviour = np.where(known_there, apart, 0.0).sum(1) / np.maximum(known_there.sum(1), 1)
            behaviour[~known_there.any(1)] = 1.0
            share = len(known) / (len(known) + TRUST)
            distance = (1 - share) * distance + share * behaviour
        return np.exp(-(distance - distance.min()) / (LIKENESS / 2))

    def improvement(self, tried: Collection[str], weights: np.ndarray) -> np.ndarray:
        """Return by how much each candidate is expected to lower the best loss so far.

        The weighted mean over past tables that tell of it, in shares of what separates the trivial loss from
        the best one there. 0 for those tried.

        Returns
        -------
        ndarray, shape (n_candidates,)
        """
        told = np.isfinite(self.losses) | ~self.partly[:, None]
        losses = np.nan_to_num(self.losses.astype(np.float64), nan=1.0).clip(0.0, 1.0)
        columns = [self.candidates.index(name) for name in tried if name in self.candidates]
        if columns:  # a table that tells of none of those tried says nothing about what would be better
            told &= told[:, columns].any(1, keepdims=True)
        so_far = losses[:, columns].min(1) if columns else np.ones(len(losses))
        gap = np.maximum(1.0 - losses.min(1), LEAST_GAP)
        ahead = so_far[:, None] - losses
        gains = np.maximum(ahead, 0.0)
        if self.doubts is not None:
            unsure = self.doubts > 0
            scaled = ahead[unsure] / self.doubts[unsure]
            gains[unsure] = self.doubts[unsure] * (scaled * ndtr(scaled) + DENSITY * np.exp(-0.5 * scaled**2))
        gains /= gap[:, None]
        gains[:, columns] = 0.0
        return weights @ (gains * told) / np.maximum(weights @ told, 1e-12)

    def choose(
        self, tried: Mapping[str, float], described: Mapping[str, float], cost: Mapping[str, float], turn: int
    ) -> str | None:
        """Return the candidate to try next: from the portfolio and by its promise, in turn.

        Parameters
        ----------
        tried : mapping of candidate to loss
            Divided by the trivial loss.
        described : mapping
            The table's descriptors.
        cost : mapping of candidate to seconds
            Of those that may be chosen; None is returned if there are none.
        turn : int
            How many were chosen before.
        """
        if not cost:
            return None
        from_portfolio = next((name for name in self.portfolio if name in cost), None)
        if turn % 2 == 0 and from_portfolio is not None:
            return from_portfolio
        return self.most_promising(tried, self.likeness(tried, described), cost)

    def most_promising(self, tried: Collection[str], weights: np.ndarray, cost: Mapping[str, float]) -> str:
        """Return the candidate of the largest expected improvement for its cost.

        Where none promises any, as next to a good one that is under way, it is the best one on average.
        """
        gains = dict(zip(self.candidates, self.improvement(tried, weights).tolist(), strict=True))
        if any(gains[name] > 0 for name in cost):
            return max(sorted(cost), key=lambda name: gains[name] / cost[name])
        means = weights @ np.nan_to_num(self.losses.astype(np.float64), nan=1.0).clip(0.0, 1.0)
        losses = dict(zip(self.candidates, means.tolist(), strict=True))
        return min(sorted(cost), key=losses.__getitem__)

    def seconds_for(self, described: Mapping[str, float]) -> np.ndarray:
        """Return the processor time that fitting each candidate is expected to take, in seconds.

        Log-linear in rows, columns and classes, with slopes and an offset of each candidate's own, drawn to
        those of all.

        Returns
        -------
        ndarray, shape (n_candidates,)
        """
        names = list(NAMES[self.kind])
        used = [names.index(name) for name in ("rows", "columns", "classes") if name in names]
        centre = self.descriptors[:, used].mean(0)
        x = np.column_stack([np.ones(len(self.tasks)), self.descriptors[:, used] - centre])
        new = np.array([1.0, *(described[names[place]] for place in used)])
        new[1:] -= centre
        logs = np.log(np.maximum(self.seconds, LEAST_SECONDS))
        timed = np.isfinite(logs).any(1)
        common = _ridge(x[timed], np.nanmean(logs[timed], axis=1), 1e-3 * np.ones(x.shape[1]))
        found = np.empty(len(self.candidates))
        for place, log in enumerate(logs.T):
            known = np.isfinite(log)
            residual = log[known] - x[known] @ common
            own = _ridge(x[known], residual, np.array([0.1, *[3.0] * len(used)]))
            found[place] = np.exp(new @ (common + own))
        return found

    def save(self, path: str | Path) -> str:
        """Write it to a file and return its checksum."""
        arrays = {name: getattr(self, name) for name in ("losses", "seconds", "descriptors")}
        metadata = {
            name: getattr(self, name) for name in ("kind", "portfolio", "candidates", "tasks", "families")
        }
        metadata["descriptor_names"] = NAMES[self.kind]
        return save_artifact(path, arrays, metadata, kind="table-prior")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DamagedArtifact
            The file is missing, altered, or of another version.
        """
        arrays, metadata = load_arrays(path, "table-prior")
        listed = ("portfolio", "candidates", "tasks", "families")
        given: dict[str, Any] = {**arrays, **{name: tuple(metadata[name]) for name in listed}}
        prior = cls(kind=metadata["kind"], **given)
        shape = (len(prior.tasks), len(prior.candidates))
        names = NAMES.get(prior.kind, ())
        if (
            tuple(metadata["descriptor_names"]) != tuple(names)
            or prior.losses.shape != shape
            or prior.seconds.shape != shape
            or prior.descriptors.shape != (len(prior.tasks), len(names))
        ):
            raise DamagedArtifact(
                f"{path} describes tables in another way than this version of Tasklore; build it again"
            )
        return prior


class AtRandom(TablePrior):
    """The same candidates in a random order: what a search is without experience."""

    varies = False

    def choose(
        self, tried: Mapping[str, float], described: Mapping[str, float], cost: Mapping[str, float], turn: int
    ) -> str | None:
        return str(np.random.default_rng(turn).choice(sorted(cost))) if cost else None

    def improvement(self, tried: Collection[str], weights: np.ndarray) -> np.ndarray:
        return np.array([float(name not in tried) for name in self.candidates])

    @classmethod
    def like(cls, prior: TablePrior) -> Self:
        """Return a prior without its knowledge of what is good; what things cost is still known."""
        return cls(**{each.name: getattr(prior, each.name) for each in dataclasses.fields(TablePrior)})


@cache
def _shipped(cls: type[TablePrior], kind: Kind) -> Any:
    return cls.load(Path(__file__).parent / "shipped" / f"{kind}.safetensors")


def _compared(losses: np.ndarray) -> np.ndarray:
    """Return losses of one table from 0, the best, to 1, the trivial one; the gap is at least a little."""
    best = np.where(np.isnan(losses), 1.0, losses).min(1, keepdims=True)
    return ((losses - best) / np.maximum(1.0 - best, LEAST_GAP)).clip(0.0, 1.0)


def _ridge(x: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    return np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y)
