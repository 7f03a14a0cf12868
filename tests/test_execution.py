"""How steps are run: measured, within a memory limit, and the same result whichever way."""

import ctypes
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasklore.derivatives import recomputed, slopes
from tasklore.errors import InvalidSetting
from tasklore.evaluate import evaluate
from tasklore.execution import HEAVY, LARGE, Plan, choose, held_bytes, memory_kept
from tasklore.learners.base import Learner
from tasklore.learners.cavia import CAVIA
from tasklore.learners.gradient import ANIL, MAML, FirstOrderMAML, ImplicitMAML, MetaSGD, Reptile
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.metagrad import MetaGradient, rule_for
from tasklore.modules import ModuleNet
from tasklore.nets import MLP, Conv4
from tasklore.state import MetaState
from tasklore.tasks.source import TaskSource
from tasklore.tasks.synthetic import SinusoidSource
from tasklore.testing.learner import toy_source
from tasklore.train import TrainSettings, fit
from tasklore.types import Context

MIB = 2**20


class Looks(nn.Module):
    """Decides by what it computes."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n, 8)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(x.flatten(1))
        return features if features.sum() > 1e9 else features.tanh()


def test_tasks_that_cannot_be_stacked_run_one_by_one_and_that_is_said() -> None:
    learner, source = MAML(ModuleNet(lambda shape: Looks(shape[0]))), SinusoidSource()
    expected = one_step(learner, source, Plan())
    with pytest.warns(UserWarning, match="tasks run one by one, as they cannot be stacked: vmap"):
        found = one_step(learner, source, Plan(4))
    torch.testing.assert_close(found.total, expected.total)
    with pytest.warns(UserWarning, match="one by one"):
        (*_, last) = fit(learner, source, TrainSettings(steps=2, n_tasks=4))
    with pytest.warns(UserWarning, match="one by one"):
        judged = evaluate(learner, last.params, source, method="maml", n_tasks=4)
    assert judged.score.n_tasks == 4


def one_step(
    learner: Learner, source: TaskSource, plan: Plan, n_tasks: int = 4, *, step: int = 0
) -> MetaGradient:
    params = learner.init(source.spec, torch.Generator().manual_seed(0))
    episodes, keys = source.episodes(0, "train", 0, n_tasks)
    context = Context(source.spec, keys, step, training=True, recompute=plan.recompute)
    return rule_for(learner, plan.tasks_at_once, threads=plan.threads)(learner, params, episodes, context)


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(
    "learner",
    [
        MAML(MLP((8,)), inner_steps=5),
        MAML(MLP((8,)), inner_steps=0),
        MAML(Conv4(4, blocks=2), inner_steps=3, transductive=True),
        MetaSGD(MLP((8,)), inner_steps=3),
        MAML(MLP((8,)), inner_steps=3, learned_step_sizes="per-layer-and-step"),
        ANIL(MLP((8,)), inner_steps=3),
        CAVIA(MLP((8,)), inner_steps=3),
        FirstOrderMAML(MLP((8,)), inner_steps=3),
        MAMLPlusPlus(Conv4(4, blocks=2), inner_steps=3, first_order_steps=0),
        ImplicitMAML(MLP((8,)), inner_steps=3),
        Reptile(MLP((8,)), inner_steps=3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Learner) else str(value),
)
def test_computing_steps_again_gives_what_keeping_them_gives(learner: Learner, at_once: int) -> None:
    source = toy_source(learner)
    kept, again = (one_step(learner, source, Plan(at_once, 1, way), step=1) for way in (False, True))
    torch.testing.assert_close(again.losses, kept.losses)
    for name, total in kept.total.items():
        torch.testing.assert_close(again.total[name], total, rtol=1e-5, atol=1e-6)


def test_memory_grows_with_the_root_of_the_number_of_steps() -> None:
    """Nine times the steps: three times the memory at most, where keeping all takes about nine."""
    source = SinusoidSource(n_shots=50, n_queries=50)

    def held(n_steps: int, recompute: bool) -> int:
        learner = MAML(MLP((32,)), inner_steps=n_steps)
        return held_bytes(lambda: one_step(learner, source, Plan(1, 1, recompute), 1))

    assert held(36, False) > 4.5 * held(4, False)
    assert held(36, True) < 3 * held(4, True)


def test_tensors_are_counted_while_they_are_there() -> None:
    def run() -> Tensor:
        first = torch.zeros(1000)
        second = first + 1  # both: 8,000 bytes
        del first
        third = second.reshape(10, 100).T  # a view takes nothing
        return third * torch.ones(())  # 8,004

    assert held_bytes(run) == 8004
    assert held_bytes(lambda: None) == 0


def test_memory_does_not_grow_with_the_tasks_under_a_limit() -> None:
    learner = MAML(MLP((128,)), inner_steps=3)
    source = SinusoidSource(n_shots=100, n_queries=100)
    held: dict[int, int] = {}
    for n_tasks in (12, 36):
        settings = TrainSettings(steps=1, n_tasks=n_tasks, memory_limit=2, execution="vectorised")
        (state,) = fit(learner, source, settings)
        plan = state.plan
        assert plan is not None
        assert 1 < plan.tasks_at_once < 12
        assert "fit into 2 MiB" in plan.why

        held[n_tasks] = held_bytes(lambda n=n_tasks, plan=plan: one_step(learner, source, plan, n))
        assert held[n_tasks] < 2 * MIB
        free = held_bytes(lambda n=n_tasks: one_step(learner, source, Plan(n), n))
        assert free > 2 * MIB
    assert held[36] < 1.2 * held[12]


def test_where_one_task_does_not_fit_its_steps_are_computed_again(tmp_path: Path) -> None:
    learner = MAML(MLP((128,)), inner_steps=50)
    source = SinusoidSource(n_shots=100, n_queries=100)
    (state,) = fit(learner, source, TrainSettings(steps=1, n_tasks=2, memory_limit=2))
    assert state.plan is not None
    assert state.plan.recompute
    assert "computed again instead of kept" in state.plan.why
    state.save(tmp_path / "state.safetensors", {})
    assert MetaState.load(tmp_path / "state.safetensors")[0].plan == state.plan
    (free,) = fit(learner, source, TrainSettings(steps=1, n_tasks=2))
    for name, tensor in free.params.items():
        torch.testing.assert_close(state.params[name], tensor, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidSetting, match="even with one task at a time, and memory_limit is 1 MiB"):
        list(fit(learner, SinusoidSource(n_shots=2000), TrainSettings(steps=1, n_tasks=2, memory_limit=1)))


def test_each_thread_holds_what_is_shared_as_well() -> None:
    """60 MiB for a thread with one task, and 30 for each further one."""

    def holding(plan: Plan) -> object:
        return torch.zeros((60 + 30 * (plan.tasks_at_once - 1)) * MIB // 4)

    for limit, threads in ((100, 1), (119, 1), (120, 2), (200, 2)):
        seen: list[Plan] = []

        def run(plan: Plan, seen: list[Plan] = seen) -> None:
            seen.append(plan)
            time.sleep(0.003 * plan.tasks_at_once)  # several at once do not pay, so that threads are tried

        choose(16, "auto", run, holding, threads=2, memory_limit=limit)
        assert max(plan.threads for plan in seen) == threads
        for plan in seen:
            assert plan.threads * (60 + 30 * (plan.tasks_at_once - 1)) <= limit


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_that_make_no_sense_are_refused(limit: int) -> None:
    with pytest.raises(InvalidSetting, match="at least 1 MiB"):
        TrainSettings(memory_limit=limit)
    with pytest.raises(InvalidSetting, match="leave it out"):
        TrainSettings(memory_limit=100, execution="compiled")


def test_what_is_chosen_is_said() -> None:
    tried: list[Plan] = []
    plan = choose(3, "auto", tried.append, tried.append, vectorises=False)
    assert plan.why.startswith("1 task at once: a step took ")
    assert {one.tasks_at_once for one in tried} == {1}
    plan = choose(3, "vectorised", tried.append, tried.append)
    assert plan == Plan(3, 1, False, "3 tasks at once, as execution = 'vectorised' asks")
    assert choose(3, "loop", tried.append, tried.append).tasks_at_once == 1


def test_tasks_that_hold_much_are_not_tried_several_at_once() -> None:
    tried: list[Plan] = []

    def run(plan: Plan) -> None:
        tried.append(plan)
        torch.zeros(1000)

    plan = choose(16, "auto", run, run, task=lambda: torch.zeros(HEAVY // 4 + 1))
    assert {one.tasks_at_once for one in tried} == {1}
    assert "one task holds 24 MiB, too much for several at once to pay" in plan.why
    choose(16, "auto", run, run, task=lambda: torch.zeros(HEAVY // 4))
    assert {one.tasks_at_once for one in tried} > {1}
    for n_bytes, threads in ((LARGE, {1, 2}), (LARGE + 4, {1})):
        tried.clear()
        choose(16, "auto", run, run, task=lambda n=n_bytes: torch.empty(n // 4), threads=2)
        assert {one.threads for one in tried} == threads
    tried.clear()
    choose(64, "auto", run, run, task=lambda: torch.zeros(HEAVY // 8), threads=2)
    assert max(one.tasks_at_once for one in tried) <= 2 * LARGE // HEAVY, "no more than hold so much together"


def test_what_does_not_fit_into_a_device_is_not_chosen() -> None:
    def run(plan: Plan) -> None:
        if plan.tasks_at_once > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        time.sleep(0.02 / plan.tasks_at_once)

    plan = choose(64, "auto", run, run, compiles=True)
    assert plan.tasks_at_once == 4
    assert "no memory for 8" in plan.why

    def never(plan: Plan) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        choose(64, "auto", never, never)


def test_tasks_that_do_not_fit_together_are_not_compiled_together() -> None:
    def run(plan: Plan) -> None:
        time.sleep(0.01 / plan.tasks_at_once)

    for n_tasks, settled in ((8, False), (64, True)):
        plan = choose(n_tasks, "auto", run, run, task=lambda: torch.zeros(HEAVY // 8), compiles=True)
        assert plan.tasks_at_once > 1
        assert plan.settled is settled


def test_a_meta_step_needs_no_compiler() -> None:
    """torch imports its compiler, sympy and all, for some operations: two seconds and 60 MiB."""
    code = """
import sys, torch
from tasklore.execution import held_bytes
from tasklore.learners.gradient import MAML
from tasklore.metagrad import rule_for
from tasklore.nets import MLP, Conv4, ResNet12
from tasklore.types import Batch, Context, Episode, TaskSpec

spec, x, y = TaskSpec("classification", (1, 28, 28), 5), torch.rand(2, 5, 1, 28, 28), torch.arange(5)
batch, context = Batch(x, y.repeat(2, 1), torch.ones(2, 5)), Context(spec, torch.arange(2), training=True)
nets = Conv4(8), Conv4(8, halving="stride"), ResNet12((4, 4, 4, 4)), MLP((8,))
for net, at_once in zip(nets, (1, 1, 1, 2)):
    learner = MAML(net, inner_steps=2)
    params = learner.init(spec, torch.Generator().manual_seed(0))
    held_bytes(lambda: rule_for(learner, at_once)(learner, params, Episode(batch, batch), context))
raise SystemExit("sympy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_what_a_task_holds_is_measured_before_the_first_step() -> None:
    source = SinusoidSource(n_shots=60_000, n_queries=60_000)
    (state,) = fit(MAML(MLP((40, 40))), source, TrainSettings(steps=1, n_tasks=2, n_validation=2))
    assert state.plan is not None
    assert "too much for several at once to pay" in state.plan.why
    (state,) = fit(MAML(MLP((2000,))), SinusoidSource(), TrainSettings(steps=1, n_tasks=2, n_validation=2))
    assert state.plan is not None
    assert "with 2" in state.plan.why


@pytest.mark.parametrize("watched", ["x", "other", "nothing"])
def test_slopes_from_the_tape_are_those_of_the_transform(watched: str) -> None:
    x, other = torch.randn(3), torch.randn(3)
    for tensor in (tensor for name, tensor in (("x", x), ("other", other)) if name == watched):
        tensor.requires_grad_()

    def function(at: dict[str, Tensor], other: Tensor, same: Tensor) -> Tensor:
        return (at["x"] ** 3 * other).sum() + (same**2).sum()

    at = {"x": x, "unused": x}
    found = slopes(function, at, other, x)
    torch.testing.assert_close(found["x"], 3 * x**2 * other)
    torch.testing.assert_close(found, torch.func.grad(function)(at, other, x))
    assert slopes(lambda at: torch.ones(()), at)["x"].tolist() == [0.0] * 3
    assert slopes(lambda at: torch.ones(()), {}) == {}
    assert found["unused"].tolist() == [0.0] * 3
    assert found["x"].requires_grad is (watched != "nothing")
    if watched == "nothing":
        return
    (bent,) = torch.autograd.grad(found["x"].sum(), x if watched == "x" else other)
    torch.testing.assert_close(bent, 6 * x * other if watched == "x" else 3 * x**2)
    constant = slopes(function, at, other, x, again=False)["x"]
    assert not constant.requires_grad
    torch.testing.assert_close(constant, found["x"].detach())


def test_there_are_no_slopes_in_inference_mode() -> None:
    """torch would say zero, and a learner that takes steps would silently stay where it starts."""
    x = torch.randn(3)
    with torch.inference_mode(), pytest.raises(InvalidSetting, match=r"use torch\.no_grad\(\) there instead"):
        slopes(lambda at: (at["x"] ** 2).sum(), {"x": x})
    with torch.no_grad():
        torch.testing.assert_close(slopes(lambda at: (at["x"] ** 2).sum(), {"x": x})["x"], 2 * x)
        list(fit(MAML(MLP((4,))), SinusoidSource(), TrainSettings(steps=1, n_tasks=2, n_validation=2)))


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_slopes_of_stacked_tasks_are_those_of_each(shared: bool, again: bool) -> None:
    """Of what all tasks share as well, which has a slope of its own in each."""
    start, other = torch.randn(2, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    rows = torch.randn(4, 3)

    def function(at: dict[str, Tensor], other: Tensor, row: Tensor) -> Tensor:
        return ((at["x"] * row).sin() * other).sum() ** 2

    def stepped(row: Tensor) -> Tensor:
        at = {"x": start if shared else start * row.exp(), "unused": row}
        for _ in range(2):
            slope = slopes(function, at, other, row, again=again)
            at = {name: tensor - 0.1 * slope[name] for name, tensor in at.items()}
        return function(at, other, row)

    stacked = torch.func.vmap(stepped)(rows)
    each = torch.stack([stepped(row) for row in rows])
    torch.testing.assert_close(stacked, each)
    found, wanted = (torch.autograd.grad(losses.sum(), (start, other)) for losses in (stacked, each))
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(stepped)(rows), each.detach())
    twice = torch.func.vmap(lambda row: torch.func.vmap(lambda scale: stepped(row * scale))(torch.ones(2)))(
        rows
    )
    torch.testing.assert_close(twice, each.repeat(2, 1).T)


def test_what_is_computed_again_can_be_vectorised_and_differentiated() -> None:
    weight, x = torch.randn(3, requires_grad=True), torch.randn(5, 3)

    def energy(weight: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"energy": (weight * x).sin().sum() ** 2}

    plain = torch.func.vmap(lambda x: energy(weight, x)["energy"])(x).sum()
    again = torch.func.vmap(lambda x: recomputed(energy, weight, x)["energy"])(x).sum()
    torch.testing.assert_close(again, plain)
    torch.testing.assert_close(torch.autograd.grad(again, weight), torch.autograd.grad(plain, weight))


def page_faults() -> int:
    """Return how often the system maps a page while 8 MiB are taken and freed ten times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_freed_memory_is_kept_inside_and_given_back_after() -> None:
    with memory_kept():
        page_faults()
        assert page_faults() < 1000, "20,480 pages if each tensor were mapped anew"
        blocks = [torch.ones(2**20) for _ in range(50)]  # 4 MiB each
        held = resident_mib()
        del blocks
        assert resident_mib() > held - 100
    assert resident_mib() < held - 100


def resident_mib() -> float:
    """Return what this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
