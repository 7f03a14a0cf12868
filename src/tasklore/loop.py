"""The whole system on one page.

Tasklore learns from past tasks so that the next one needs little: initialise → collect past tasks →
meta-learn what they share → apply it to new tasks → evaluate and adjust → repeat until the target or the
limit. :func:`run` is that sentence.

What "learn" and "apply" mean is up to a :class:`MetaTrainer`. Gradient training of a network's start is one,
building a portfolio of models for tables is another; the loop is the same, and knows neither.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from .errors import InvalidSetting, NumericalFailure
from .scores import Score

__all__ = ["Memory", "MetaTrainer", "Outcome", "Stop", "Tasks", "Watch", "run"]


class State(Protocol):
    """What any trainer's state tells the loop."""

    @property
    def step(self) -> int: ...
    @property
    def round(self) -> int: ...
    @property
    def history(self) -> tuple[Score, ...]: ...


S = TypeVar("S", bound=State)
Past = TypeVar("Past")
New = TypeVar("New")
Support = TypeVar("Support")
Fitted = TypeVar("Fitted")
Query = TypeVar("Query")
Prior = TypeVar("Prior")
PastIn = TypeVar("PastIn", contravariant=True)
NewIn = TypeVar("NewIn", contravariant=True)
PriorIn = TypeVar("PriorIn", contravariant=True)
PriorOut = TypeVar("PriorOut", covariant=True)


class MetaTrainer(Protocol[S, PastIn, NewIn, Support, Fitted, Query, PriorIn]):
    """The verbs of one way of meta-learning. States are values: no verb changes the state it is given."""

    def initialise(self, past: PastIn, prior: PriorIn | None) -> S:
        """Return the first state: from a remembered prior if there is one."""
        ...

    def learn(self, state: S, past: PastIn) -> Iterator[S]:
        """Learn from past tasks until this round is over, yielding every state on the way."""
        ...

    def unseen(self, new: NewIn) -> Iterator[tuple[Support, Query]]:
        """Draw new tasks: what to learn each from, and what to judge it on."""
        ...

    def apply(self, state: S, support: Support) -> Fitted:
        """Learn new tasks from their support, with what was meta-learned."""
        ...

    def score(self, state: S, fitted: Fitted, query: Query) -> list[float]:
        """Judge the result, one value for each task."""
        ...

    def adjust(self, state: S, scores: list[float]) -> S:
        """Decide from the scores what to keep and what to change; appends to the state's history."""
        ...


class Memory(Protocol[S, Past, PriorOut]):
    """What outlives the process: the checkpoint of this run, and the store of all runs."""

    def collect(self, past: Past) -> Past:
        """Note which past tasks are learned from, and return them."""
        ...

    def prior(self) -> PriorOut | None:
        """Return the remembered prior to start from, if one is wanted and fits."""
        ...

    def resume(self) -> tuple[S, float] | None:
        """Return the state that an interrupted run left, and the seconds it had taken; None for a new run."""
        ...

    def checkpoint(self, state: S, seconds: float, due: bool) -> None:
        """Save the state: at once if ``due``, else when the last checkpoint has become old."""
        ...

    def remember(self, state: S, scores: list[float], decision: str, seconds: float) -> None:
        """Record a finished round, and the prior if it is the best yet."""
        ...


@dataclass(frozen=True)
class Tasks(Generic[Past, New]):
    """Past tasks to learn from, and new ones (of which nothing is learned) to judge by."""

    past: Past
    new: New


@dataclass(frozen=True)
class Stop:
    """When to end; whichever comes first.

    Parameters
    ----------
    target : float, optional
        End when the whole 95 % interval of the validation score is at least this good.
    rounds : int, optional
        End after so many rounds; 10 if no limit at all is given.
    minutes : float, optional
        End after so much wall-clock time, earlier sittings of a resumed run included.
    plateau : int, optional
        End when so many rounds in a row brought no new best.
    """

    target: float | None = None
    rounds: int | None = None
    minutes: float | None = None
    plateau: int | None = None

    def __post_init__(self) -> None:
        if self.rounds is None and self.minutes is None and self.plateau is None:
            object.__setattr__(self, "rounds", 10)  # a target alone might never be reached
        for name in ("rounds", "minutes", "plateau"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidSetting(f"{name} must be positive or left out, got {value}")

    def time_is_up(self, seconds: float) -> bool:
        """Whether the wall-clock limit has passed."""
        return self.minutes is not None and seconds >= 60 * self.minutes

    def reason(self, history: tuple[Score, ...], seconds: float) -> str | None:
        """Return why to end after the rounds so far, or None to go on."""
        if not history:
            return None
        latest = history[-1]
        if self.target is not None and latest.reaches(self.target):
            return f"target: {latest} reaches {self.target:g} with its whole interval"
        if self.plateau is not None and _rounds_since_best(history) >= self.plateau:
            return f"plateau: no new best in {self.plateau} rounds"
        if self.rounds is not None and len(history) >= self.rounds:
            return f"rounds: {self.rounds} are done"
        if self.time_is_up(seconds):
            return f"time: {self.minutes:g} minutes are over"
        return None


class Watch:
    """Is told what happens, and ignores it; the command line shows it instead."""

    def stepped(self, state: Any, seconds: float) -> None:
        """Hear that a meta-update is done."""

    def judged(self, score: Score, decision: str) -> None:
        """Hear that a round is over."""


@dataclass(frozen=True)
class Outcome(Generic[S]):
    """How a run ended.

    Parameters
    ----------
    state : State
    reason : str
        Which limit came first.
    seconds : float
        Wall-clock time of all sittings together.
    """

    state: S
    reason: str
    seconds: float


def run(
    trainer: MetaTrainer[S, Past, New, Support, Fitted, Query, Prior],
    tasks: Tasks[Past, New],
    stop: Stop,
    memory: Memory[S, Past, Prior],
    watch: Watch | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome[S]:
    """Meta-learn from past tasks until new ones are learned well enough, or a limit is reached.

    Parameters
    ----------
    trainer : MetaTrainer
        What learning means here.
    tasks : Tasks
    stop : Stop
    memory : Memory
        Makes the run resumable, and its lore available to the next one.
    watch : Watch, optional
        Shows progress.
    clock : callable
        Seconds; only differences count.
    """
    watch = watch or Watch()

    # 1. Initialise: go on with an interrupted run, from a remembered prior (initial = "prior"), or anew.
    began, resumed = clock(), memory.resume()
    state, earlier = resumed or (trainer.initialise(tasks.past, memory.prior()), 0.0)
    started = began - earlier
    reason = stop.reason(state.history, earlier)

    try:
        while reason is None:
            # 2. Collect the past tasks.
            past = memory.collect(tasks.past)

            # 3. Meta-learn what they share.
            for state in trainer.learn(state, past):  # noqa: B020 - each state takes the last one's place
                seconds = clock() - started
                watch.stepped(state, seconds)
                memory.checkpoint(state, seconds, due=False)
                if stop.time_is_up(seconds):
                    break

            # 4. Apply it to new tasks.
            scores: list[float] = []
            for support, query in trainer.unseen(tasks.new):
                fitted = trainer.apply(state, support)
                scores += trainer.score(state, fitted, query)

            # 5. Evaluate and adjust.
            adjusted = trainer.adjust(state, scores)

            # 6. Repeat until the target or the limit.
            seconds = clock() - started
            reason = stop.reason(adjusted.history, seconds)
            decision = f"stop: {reason}" if reason else "go on"
            memory.remember(adjusted, scores, decision, seconds)
            state = adjusted
            memory.checkpoint(state, seconds, due=True)
            watch.judged(state.history[-1], decision)
    except (KeyboardInterrupt, NumericalFailure):
        memory.checkpoint(state, clock() - started, due=True)  # states are values: this one is whole
        raise
    return Outcome(state, reason, clock() - started)


def _rounds_since_best(history: tuple[Score, ...]) -> int:
    best = 0
    for index, score in enumerate(history):
        if score.beats(history[best]):
            best = index
    return len(history) - 1 - best
