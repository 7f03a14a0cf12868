"""The loop: six steps in order, four reasons to end, and nothing of torch."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from tasklore.errors import InvalidSetting
from tasklore.loop import Stop, Tasks, run
from tasklore.scores import Score


@dataclass(frozen=True)
class Count:
    """A state that only counts."""

    step: int = 0
    history: tuple[Score, ...] = ()

    @property
    def round(self) -> int:
        return len(self.history)


@dataclass
class Traced:
    """A trainer and a memory in one, which write down what is asked of them."""

    values: tuple[float, ...] = (0.5,) * 99
    trace: list[str] = field(default_factory=list[str])
    saved: tuple[Count, float] | None = None
    interrupt_at: int = -1

    def resume(self) -> tuple[Count, float] | None:
        self.trace.append("resume")
        return self.saved

    def prior(self) -> None:
        self.trace.append("prior")

    def initialise(self, past: str, prior: object) -> Count:
        self.trace.append(f"initialise {past}")
        return Count()

    def collect(self, past: str) -> str:
        self.trace.append("collect")
        return past

    def learn(self, state: Count, past: str) -> Iterator[Count]:
        self.trace.append(f"learn {past}")
        for _ in range(2):
            if state.step == self.interrupt_at:
                raise KeyboardInterrupt
            state = replace(state, step=state.step + 1)
            yield state

    def unseen(self, new: str) -> Iterator[tuple[str, str]]:
        yield f"support of {new}", f"query of {new}"

    def apply(self, state: Count, support: str) -> str:
        self.trace.append(f"apply {support}")
        return "fitted"

    def score(self, state: Count, fitted: str, query: str) -> list[float]:
        self.trace.append(f"score {query}")
        return [self.values[state.round] - 0.01, self.values[state.round] + 0.01] * 20

    def adjust(self, state: Count, scores: list[float]) -> Count:
        self.trace.append("adjust")
        return replace(state, history=(*state.history, Score.of("accuracy", scores)))

    def checkpoint(self, state: Count, seconds: float, due: bool) -> None:
        if due:
            self.trace.append("checkpoint")
            self.saved = state, seconds

    def remember(self, state: Count, scores: list[float], decision: str, seconds: float) -> None:
        self.trace.append(f"remember: {decision}")


def conduct(traced: Traced, stop: Stop, seconds_a_look: float = 1.0):
    now = iter(range(10**6))
    return run(traced, Tasks("past", "new"), stop, traced, clock=lambda: seconds_a_look * next(now))


def test_the_six_steps_happen_in_order() -> None:
    traced = Traced()
    outcome = conduct(traced, Stop(rounds=2))
    one_round = ["collect", "learn past", "apply support of new", "score query of new", "adjust"]
    assert traced.trace == [
        *("resume", "prior", "initialise past"),
        *(*one_round, "remember: go on", "checkpoint"),
        *(*one_round, "remember: stop: rounds: 2 are done", "checkpoint"),
    ]
    assert (outcome.state.step, outcome.reason) == (4, "rounds: 2 are done")


RISING = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.96)


@pytest.mark.parametrize(
    ("stop", "values", "seconds_a_look", "reason", "rounds"),
    [
        (Stop(target=0.75, rounds=6, plateau=3, minutes=99), RISING, 1, "target", 4),
        (Stop(target=0.99, rounds=3, plateau=3, minutes=99), RISING, 1, "rounds", 3),
        (Stop(target=0.99, rounds=6, plateau=2, minutes=99), (0.5, 0.7, 0.6, 0.65, 0.9), 1, "plateau", 4),
        (Stop(target=0.99, rounds=6, plateau=3, minutes=1), RISING, 17, "time", 2),
    ],
    ids=["target", "rounds", "plateau", "time"],
)
def test_whichever_limit_comes_first_ends_it_and_is_named(
    stop: Stop, values: tuple[float, ...], seconds_a_look: float, reason: str, rounds: int
) -> None:
    outcome = conduct(Traced(values), stop, seconds_a_look)
    assert outcome.reason.startswith(reason)
    assert outcome.state.round == rounds


@dataclass
class Slow(Traced):
    """One whose start takes fifty seconds, as plain pre-training may."""

    now: float = 0.0

    def initialise(self, past: str, prior: object) -> Count:
        self.now += 50.0
        return super().initialise(past, prior)


def test_what_the_start_takes_counts() -> None:
    slow = Slow(RISING)
    outcome = run(slow, Tasks("past", "new"), Stop(minutes=0.5), slow, clock=lambda: slow.now)
    assert (outcome.state.round, outcome.seconds) == (1, 50.0)


def test_target_needs_the_whole_interval() -> None:
    wide, narrow = Score("accuracy", 0.8, 0.06, 9), Score("accuracy", 0.8, 0.04, 9)
    assert not wide.reaches(0.75)
    assert narrow.reaches(0.75)
    assert Score("mse", 0.6, 0.04, 9).reaches(0.65)
    assert not Score("mse", 0.6, 0.06, 9).reaches(0.65)


def test_interval_is_students() -> None:
    from scipy import stats

    values = [0.1, 0.5, 0.4, 0.9, 0.7]
    low, high = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=stats.sem(values))
    assert Score.of("accuracy", values).interval == pytest.approx((low, high))


def test_interrupt_saves_the_last_whole_state_and_the_run_goes_on() -> None:
    traced = Traced(interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        conduct(traced, Stop(rounds=3))
    assert traced.saved is not None
    assert traced.saved[0].step == 3
    traced.interrupt_at = -1
    again = conduct(traced, Stop(rounds=3))
    assert again.state.round == 3


def test_a_finished_run_is_not_continued() -> None:
    traced = Traced()
    conduct(traced, Stop(rounds=2))
    traced.trace.clear()
    assert conduct(traced, Stop(rounds=2)).state.step == 4
    assert traced.trace == ["resume"]


def test_without_any_limit_there_are_ten_rounds() -> None:
    assert Stop().rounds == 10
    assert Stop(target=0.9).rounds == 10
    assert Stop(minutes=1).rounds is None
    with pytest.raises(InvalidSetting, match="positive"):
        Stop(rounds=0)


def test_the_loop_needs_no_torch() -> None:
    program = "import sys, tasklore.loop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
