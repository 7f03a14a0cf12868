"""Meta-learning from tables, as the loop sees it: past tables in, a prior out.

A round adds candidates to the portfolio, and searches played back on tables of other families say whether the
longer one is better. :func:`meta_learn` runs that through :func:`tasklore.loop.run`.
"""

import dataclasses
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InvalidData
from ...experience.records import RoundRecord, RunRecord
from ...experience.store import ExperienceStore
from ...loop import Outcome, Stop, Tasks, Watch, run
from ...scores import Score
from .pipelines import Kind
from .portfolio import Measured, build_portfolio, read_experience
from .prior import TablePrior
from .replay import Played, as_in_search, play

__all__ = ["PortfolioTrainer", "PriorState", "meta_learn"]

HELD_OUT = 0.25
"""Share of the families that judge the portfolio instead of being learned from."""


@dataclass(frozen=True, eq=False)
class PriorState:
    """Where meta-learning stands.

    Parameters
    ----------
    prior : TablePrior
    round : int
    history : tuple of Score
        1 for a blend as good as the best of all candidates, 0 for predicting always the same.
    """

    prior: TablePrior
    round: int = 0
    history: tuple[Score, ...] = ()

    @property
    def step(self) -> int:
        """Candidates in the portfolio."""
        return len(self.prior.portfolio)


@dataclass(frozen=True)
class PortfolioTrainer:
    """The verbs of :class:`~tasklore.loop.MetaTrainer` for tables.

    Parameters
    ----------
    seconds : float
        Of processor time that a search is played back for.
    growth : int
        Candidates that a round adds.
    """

    seconds: float = 20.0
    growth: int = 5

    def initialise(self, past: Sequence[Measured], prior: TablePrior | None) -> PriorState:
        """Know the past tables, and begin with the portfolio of a remembered prior, or with none."""
        known = TablePrior.learn(past, n_portfolio=0)
        return PriorState(dataclasses.replace(known, portfolio=prior.portfolio if prior else ()))

    def learn(self, state: PriorState, past: Sequence[Measured]) -> Iterator[PriorState]:
        """Add the candidates that help the blend most for their time."""
        begun = state.prior.portfolio
        grown = build_portfolio(list(past), len(begun) + self.growth, begun=begun)
        for n in range(len(begun) + 1, len(grown) + 1):
            yield dataclasses.replace(
                state, prior=dataclasses.replace(state.prior, portfolio=tuple(grown[:n]))
            )

    def unseen(self, new: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
        """Return tables of other families."""
        for measured in new:
            yield measured, measured

    def apply(self, state: PriorState, support: Measured) -> Played:
        """Play a search back."""
        return play(support, as_in_search(state.prior, support), self.seconds)

    def score(self, state: PriorState, fitted: Played, query: Measured) -> list[float]:
        """Return how good the blend is."""
        return [1.0 - fitted.blend]

    def adjust(self, state: PriorState, scores: list[float]) -> PriorState:
        """Note the score."""
        score = Score.of("normalised score", scores)
        return dataclasses.replace(state, round=state.round + 1, history=(*state.history, score))


@dataclass(eq=False)
class _Memory:
    """Notes rounds in the store and keeps the best prior; a run takes seconds, so it is not resumed."""

    store: ExperienceStore
    run_id: str
    begun: TablePrior | None = None
    best: PriorState | None = None

    def collect(self, past: Sequence[Measured]) -> Sequence[Measured]:
        return past

    def prior(self) -> TablePrior | None:
        return self.begun

    def resume(self) -> tuple[PriorState, float] | None:
        return None

    def checkpoint(self, state: PriorState, seconds: float, due: bool) -> None:
        pass

    def remember(self, state: PriorState, scores: list[float], decision: str, seconds: float) -> None:
        latest = state.history[-1]
        metrics = {"score": latest.mean, "portfolio": state.step}
        if np.isfinite(latest.half_width):  # one table has none
            metrics["half_width"] = latest.half_width
        self.store.add(
            RoundRecord(
                run_id=self.run_id,
                index=state.round - 1,
                metrics=metrics,
                decision=decision,
                seconds=seconds,
            )
        )
        if self.best is None or latest.beats(self.best.history[-1]):
            self.best = state


def meta_learn(
    store: ExperienceStore,
    artifacts: Path,
    kind: Kind,
    *,
    trainer: PortfolioTrainer | None = None,
    seed: int = 0,
    watch: Watch | None = None,
) -> tuple[TablePrior, Outcome[PriorState]]:
    """Learn a prior from the tables that were collected into a store.

    How long the portfolio should be is found on held-out families; the prior returned is then learned from
    all.

    Parameters
    ----------
    store : ExperienceStore
    artifacts : Path
        Where its measurements lie.
    kind : {"classification", "regression"}
    trainer : PortfolioTrainer, optional
    seed : int
        Draws the families to hold out.
    watch : Watch, optional

    Raises
    ------
    InvalidData
        There are fewer than two families.
    DamagedArtifact
        A file is missing or was altered.
    """
    experience = read_experience(store, artifacts, kind)
    families = sorted({measured.family for measured in experience})
    if len(families) < 2:
        raise InvalidData(
            f"the store knows {len(families)} families of {kind} tables; two at least are needed to learn "
            "from and to judge on: run `tasklore collect` first"
        )
    n_held_out = max(1, round(HELD_OUT * len(families)))
    held_out = set(np.random.default_rng(seed).permutation(np.array(families, dtype=object))[:n_held_out])
    past = [measured for measured in experience if measured.family not in held_out]
    new = [measured for measured in experience if measured.family in held_out]
    run_id = str(uuid.uuid4())
    trainer = trainer or PortfolioTrainer()
    store.add(RunRecord(run_id=run_id, config=dataclasses.asdict(trainer), seed=seed))
    memory = _Memory(store, run_id)
    outcome = run(trainer, Tasks(past, new), Stop(plateau=3, rounds=12), memory, watch)
    best = memory.best or outcome.state
    return TablePrior.learn(experience, n_portfolio=best.step), outcome
