"""Weights that are multiplied with but not made: the same numbers, in less memory."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasklore.derivatives import slopes
from tasklore.execution import held_bytes
from tasklore.learners.base import Learner
from tasklore.learners.gradient import ANIL, BOIL, MAML, FirstOrderMAML, MetaSGD
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.lowrank import LowRank, thin
from tasklore.metagrad import Backprop, MetaGradient
from tasklore.modules import ModuleNet
from tasklore.nets import MLP
from tasklore.optimizers import SGD
from tasklore.placement import in_precision
from tasklore.types import Adapted, Batch, Context, Episode, Inputs, Params, TaskSpec

N_TASKS, N_SHOTS = 4, 3
SPEC = TaskSpec("classification", (64,), N_SHOTS)


def drawn(n_in: int = 64, n_tasks: int = N_TASKS) -> Episode:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_tasks, 3 * N_SHOTS, n_in, generator=generator)
    y = torch.arange(N_SHOTS).repeat(3).expand(n_tasks, -1)
    parts = slice(0, N_SHOTS), slice(N_SHOTS, None)
    support, query = (Batch(x[:, part], y[:, part], torch.ones(y[:, part].shape)) for part in parts)
    return Episode(support, query)


@dataclass(frozen=True)
class Scaled(MLP):
    """Computes something else than an MLP, and says nothing of its layers."""

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        outputs, _ = super().apply({name: 2 * w for name, w in params.items()}, inputs)
        return outputs, {}


def in_place(shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 48), nn.ReLU(inplace=True))


def direction(learner: Learner, episodes: Episode, rule: Backprop, double: bool = True) -> MetaGradient:
    params = learner.init(SPEC, torch.Generator().manual_seed(1))
    if double:
        params = {name: w.double() for name, w in params.items()}
        support, query = (part._replace(x=part.x.double(), mask=part.mask.double()) for part in episodes)
        episodes = Episode(support, query)
    return rule(learner, params, episodes, Context(SPEC, torch.arange(N_TASKS), training=True))


@pytest.mark.parametrize("at_once", [1, N_TASKS])
@pytest.mark.parametrize(
    "learner",
    [
        MAML(MLP((48, 32)), inner_steps=2, step_size=0.3),
        MAML(MLP((48, 32)), inner_steps=0),
        MAML(MLP((48,)), inner_steps=2, step_size=0.3, learned_step_sizes="per-layer-and-step"),
        MAML(Scaled((48,)), inner_steps=2, step_size=0.3),
        MAML(ModuleNet(in_place), inner_steps=2, step_size=0.3),
        MetaSGD(MLP((48,)), inner_steps=2, step_size=0.3),
        ANIL(MLP((48,)), inner_steps=2, step_size=0.3),
        BOIL(MLP((48,)), inner_steps=2, step_size=0.3),
        FirstOrderMAML(MLP((48,)), inner_steps=2, step_size=0.3),
        MAMLPlusPlus(MLP((48,)), inner_steps=2, step_size=0.3, first_order_steps=0),
    ],
    ids=lambda value: (
        f"{type(value).__name__}-{type(value.net).__name__}" if isinstance(value, MAML) else None
    ),
)
def test_the_meta_gradient_is_that_of_weights_that_are_made(learner: Learner, at_once: int) -> None:
    """A transform makes them: it is another way to the same numbers."""
    expected = direction(learner, drawn(), Backprop(N_TASKS, functional=True))
    found = direction(learner, drawn(), Backprop(at_once))
    torch.testing.assert_close(found.losses, expected.losses)
    for name, total in expected.total.items():
        torch.testing.assert_close(found.total[name], total, rtol=1e-9, atol=1e-12)


def test_no_task_holds_a_weight_of_its_own() -> None:
    n_in, n_tasks = 512, 16
    spec = TaskSpec("classification", (n_in,), N_SHOTS)
    learner = MAML(MLP((512,)), inner_steps=3)
    params = learner.init(spec, torch.Generator().manual_seed(0))
    context = Context(spec, torch.arange(n_tasks), training=True)

    def held(rule: Backprop) -> int:
        return held_bytes(lambda: rule(learner, params, drawn(n_in, n_tasks), context))

    weight = 4 * n_in * 512  # bytes
    assert held(Backprop(n_tasks)) < 6 * weight
    assert held(Backprop(n_tasks, functional=True)) > 2 * n_tasks * weight


@pytest.mark.parametrize("at_once", [1, N_TASKS])
@pytest.mark.parametrize("kind", [MAML, MetaSGD])
def test_in_half_precision_it_points_the_same_way(kind: type[MAML], at_once: int) -> None:
    learner = kind(MLP((48, 32)), inner_steps=3, step_size=0.1)
    exact = direction(learner, drawn(), Backprop(N_TASKS), double=False)
    half = direction(in_precision(learner, "bfloat16"), drawn(), Backprop(at_once), double=False)
    one, other = (torch.cat([t.flatten() for t in found.total.values()]) for found in (exact, half))
    assert torch.cosine_similarity(one, other, 0) > 0.98


def test_what_does_not_know_a_product_gets_the_matrix() -> None:
    """Three axes, a size, twice, transposed: the slope is that of a tensor, a step from it too."""
    base = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64)

    def value(weights: Params) -> Tensor:
        w = weights["w"]
        layers = F.linear(x, w) + F.linear(x.sin(), weight=w) + F.linear(x[None], w)[0] + x @ w.T
        return (layers.tanh() / (1 + (w**2).sum())).sum()

    def stepped(weight: Tensor) -> Tensor:
        found = slopes(value, {"w": weight})["w"]
        return value({"w": torch.add(weight, torch.tensor(0.5) * found, alpha=-1.0)})

    plain = base + factors[0].T @ factors[1]
    found, expected = stepped(LowRank(base, *factors)), stepped(plain)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(end, base) for end in (found, expected)))


def test_only_small_products_are_kept_as_products() -> None:
    weights = {"wide": torch.ones(100, 80), "narrow": torch.ones(5, 80), "bias": torch.ones(100)}
    kept = thin(weights, rank=20)
    assert [name for name, weight in kept.items() if isinstance(weight, LowRank)] == ["wide"]
    assert not any(isinstance(weight, LowRank) for weight in thin(weights, rank=30).values())


def test_what_a_task_learns_are_tensors_for_those_who_ask() -> None:
    learner = MAML(MLP((48,)), inner_steps=2)
    params = learner.init(SPEC, torch.Generator().manual_seed(1))
    params = {name: w.requires_grad_() for name, w in params.items()}
    support = Batch(*(tensor[0] for tensor in drawn().support))
    adapted = learner.adapt(params, support, Context(SPEC, torch.tensor(0), training=True))
    assert all(isinstance(tensor, Tensor) for tensor in adapted.values())


@dataclass(frozen=True)
class Decayed(SGD):
    """Changes the weights that it has found, in place."""

    def update(
        self, params: Params, gradient: Params, state: Params, scale: float = 1.0
    ) -> tuple[Params, Params]:
        found, state = super().update(params, gradient, state, scale)
        for w in found.values():
            w.mul_(0.5)
        return found, state


@dataclass(frozen=True)
class WithDecay(MAML):
    """Takes its steps by another rule, which is a kind of the usual one."""

    @property
    def inner(self) -> SGD:
        return Decayed(self.step_size)


@pytest.mark.parametrize("at_once", [1, N_TASKS])
def test_a_rule_of_ones_own_gets_tensors(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = WithDecay(MLP((48, 32)), inner_steps=2, step_size=0.3)
    found = direction(learner, drawn(), Backprop(at_once))
    monkeypatch.setattr("tasklore.lowrank.SMALL", 0.0)
    expected = direction(learner, drawn(), Backprop(at_once))
    for name, total in expected.total.items():
        torch.testing.assert_close(found.total[name], total)


def test_a_product_cannot_be_changed_in_place() -> None:
    """What is done to a matrix that is made for a moment would be lost."""
    weight: Any = LowRank(torch.zeros(3, 2), torch.ones(1, 3), torch.ones(1, 2))
    with pytest.raises(TypeError, match="cannot be changed in place, by mul_"):
        weight.mul_(0.5)
    with pytest.raises(TypeError, match="by __setitem__"):
        weight[:, 0] = 0.0
    with pytest.raises(TypeError, match="by add_"):
        torch.zeros(3, 2).add_(weight)


@dataclass(frozen=True)
class OwnSteps(MAML):
    """Takes its steps in a way of its own, by a transform, which sees through no matrix kept by its parts."""

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        slopes_of = torch.func.grad(lambda weights: self.support_loss(weights, support, context))
        slope = slopes_of(params)
        weights = {name: w - self.step_size * slope[name] for name, w in params.items()}
        return self.finished(weights, support, context)


def test_a_learner_with_steps_of_its_own_gets_tensors() -> None:
    net = MLP((48, 32))
    expected = direction(MAML(net, step_size=0.3), drawn(), Backprop(N_TASKS))
    found = direction(OwnSteps(net, step_size=0.3), drawn(), Backprop(N_TASKS))
    for name, total in expected.total.items():
        torch.testing.assert_close(found.total[name], total)


def test_a_weight_without_influence_has_a_slope_of_zero() -> None:
    used, unused = (torch.ones(4, 3, requires_grad=True) for _ in range(2))
    kept: Params = {"used": LowRank(used), "unused": LowRank(unused)}
    x = torch.tensor([[1.0, 2.0, 3.0]])
    found = slopes(lambda weights: F.linear(x, weights["used"]).sum(), kept)
    moved = torch.add(kept["used"], found["used"], alpha=-1)
    assert torch.equal(F.linear(x, moved), F.linear(x, 1 - x.expand(4, 3)))
    assert torch.equal(torch.add(kept["unused"], found["unused"]).neg(), -torch.ones(4, 3))
