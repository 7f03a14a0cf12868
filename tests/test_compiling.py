"""When a run has lasted, its steps are compiled if that is faster; whatever comes of it, the run goes on."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from torch import Tensor

from tasklore import execution
from tasklore.errors import InvalidSetting
from tasklore.execution import Plan
from tasklore.learners.gradient import MAML
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.nets import MLP
from tasklore.state import MetaState
from tasklore.tasks.source import TaskSource
from tasklore.tasks.synthetic import SinusoidSource
from tasklore.train import TrainSettings, fit
from tasklore.types import Context, Episode, Params

SETTINGS = TrainSettings(steps=4, n_tasks=8)
LEARNER = MAML(MLP((8,)), inner_steps=2)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compiling be due after the first step, and whatever is tried count as faster."""
    monkeypatch.setattr(execution, "COMPILE_AFTER", 1e-9)
    monkeypatch.setattr(execution, "ABOUT_AS_FAST", 0.0)


def trained(learner: MAML, source: TaskSource, settings: TrainSettings = SETTINGS) -> tuple[MetaState, Plan]:
    *_, state = fit(learner, source, settings)
    assert state.plan is not None
    return state, state.plan


@pytest.mark.usefixtures("at_once")
def test_a_run_that_lasts_is_compiled_and_learns_the_same() -> None:
    state, plan = trained(LEARNER, SinusoidSource())
    assert plan.compiled
    assert plan.settled
    assert "once compiled, which took" in plan.why
    plain, other = trained(LEARNER, SinusoidSource(), dataclasses.replace(SETTINGS, execution="vectorised"))
    assert not other.compiled
    np.testing.assert_allclose(state.losses, plain.losses, rtol=1e-4)


@dataclass(frozen=True)
class Growing(SinusoidSource):
    """Tasks of which every third one is larger than the ones before."""

    def episodes(self, seed: int, stream: str, step: int, n_tasks: int) -> tuple[Episode, Tensor]:
        return SinusoidSource(n_shots=5 + step // 3).episodes(seed, stream, step, n_tasks)


@pytest.mark.usefixtures("at_once")
def test_tasks_of_other_sizes_are_not_compiled_again_and_again() -> None:
    *states, state = fit(LEARNER, Growing(), SETTINGS)
    assert states[-1].plan is not None
    assert states[-1].plan.compiled
    assert state.plan is not None
    assert not state.plan.compiled
    assert state.plan.settled
    assert "tasks of different sizes are not compiled" in state.plan.why


def test_a_slower_graph_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Plan] = []
    plan = Plan(4, settled=False, spent=60.0, why="4 tasks at once")
    assert plan.due
    monkeypatch.setattr(execution, "ABOUT_AS_FAST", 1e9)
    slower = execution.compiled_if_faster(plan, ran.append, lambda: None)
    assert [one.compiled for one in ran] == [True, False, False, True, True]
    assert "and is not used" in slower.why
    assert slower == dataclasses.replace(plan, settled=True, why=slower.why)


@pytest.mark.usefixtures("at_once")
def test_a_large_graph_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "MOST_COMPILED", 10)
    _, plan = trained(LEARNER, SinusoidSource())
    assert plan.settled
    assert not plan.compiled
    assert "operations would take minutes" in plan.why


def test_nothing_is_tried_before_its_time_or_where_it_cannot_work() -> None:
    _, plan = trained(LEARNER, SinusoidSource())
    assert not plan.due
    assert not plan.compiled
    assert 0 < plan.spent < 60 or plan.settled
    for learner, settings in (
        (LEARNER, dataclasses.replace(SETTINGS, execution="loop")),
        (LEARNER, dataclasses.replace(SETTINGS, memory_limit=1000)),
        (MAMLPlusPlus(MLP((8,)), inner_steps=2), SETTINGS),
    ):
        assert trained(learner, SinusoidSource(), settings)[1].settled


@dataclass(frozen=True)
class Opaque(MAML):
    """Looks at a value, which no graph can hold."""

    def objective(self, params: Params, episode: Episode, context: Context) -> Tensor:
        loss = super().objective(params, episode, context)
        return loss * float(loss.detach() > 0)


def test_a_run_from_a_machine_with_a_compiler_goes_on_without() -> None:
    learner = Opaque(MLP((8,)), inner_steps=1)
    settings = dataclasses.replace(SETTINGS, steps=2, n_tasks=1)
    first, *_ = fit(learner, SinusoidSource(), settings)
    assert first.plan is not None
    before = dataclasses.replace(first, plan=dataclasses.replace(first.plan, compiled=True))
    (state,) = fit(learner, SinusoidSource(), settings, before)
    assert state.plan is not None
    assert not state.plan.compiled
    assert "Opaque cannot be compiled here" in state.plan.why
    with pytest.raises(InvalidSetting, match="Opaque cannot be compiled here"):
        list(fit(learner, SinusoidSource(), dataclasses.replace(settings, execution="compiled")))
