"""Meta-gradients against references written by hand, without torch.func and without Tasklore."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tasklore.errors import InvalidSetting
from tasklore.learners.gradient import MAML, FirstOrderMAML, ImplicitMAML, Reptile
from tasklore.metagrad import Backprop, Implicit, conjugate_gradients, rule_for
from tasklore.nets import MLP
from tasklore.types import Batch, Context, Episode, Params, TaskSpec

SPEC = TaskSpec("regression", (3,), 1)
STEP, N_TASKS, N = 0.1, 4, 6
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def episodes(dtype: torch.dtype) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch() -> Batch:
        x = torch.randn(N_TASKS, N, 3, generator=generator, dtype=dtype)
        y = torch.randn(N_TASKS, N, 1, generator=generator, dtype=dtype)
        return Batch(x, y, torch.ones(N_TASKS, N, dtype=dtype))

    return Episode(batch(), batch())


def start(dtype: torch.dtype) -> Params:
    params = MLP((5,)).init((3,), 1, torch.Generator().manual_seed(1))
    return {name: tensor.to(dtype) for name, tensor in params.items()}


def forward(w: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    hidden = x @ w[0].T + w[1]
    return hidden, hidden.clamp(min=0) @ w[2].T + w[3]


def gradient(w: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the slopes of the mean squared error, by the chain rule."""
    hidden, out = forward(w, x)
    d_out = 2 * (out - y) / len(x)
    d_hidden = (d_out @ w[2]) * (hidden > 0)
    return [d_hidden.T @ x, d_hidden.sum(0), d_out.T @ hidden.clamp(min=0), d_out.sum(0)]


def hessian_product(w: list[Tensor], x: Tensor, y: Tensor, v: list[Tensor]) -> list[Tensor]:
    """Return H·v of the same loss: the derivative of ``gradient`` along ``v``, by hand."""
    hidden, out = forward(w, x)
    on = (hidden > 0).to(x.dtype)
    active = hidden * on
    moved_hidden = x @ v[0].T + v[1]
    moved_active = moved_hidden * on
    moved_out = moved_active @ w[2].T + active @ v[2].T + v[3]
    d_out, moved_d_out = 2 * (out - y) / len(x), 2 * moved_out / len(x)
    moved_d_hidden = (moved_d_out @ w[2] + d_out @ v[2]) * on
    return [
        moved_d_hidden.T @ x,
        moved_d_hidden.sum(0),
        moved_d_out.T @ active + d_out.T @ moved_active,
        moved_d_out.sum(0),
    ]


def reference(kind: str, params: Params, episode: Episode, n_steps: int) -> list[Tensor]:
    total = [torch.zeros_like(w) for w in params.values()]
    for task in range(N_TASKS):
        x, y, _ = (part[task] for part in episode.support)
        x_query, y_query, _ = (part[task] for part in episode.query)
        if kind == "reptile":
            x, y = torch.cat([x, x_query]), torch.cat([y, y_query])
        path = [list(params.values())]
        for _ in range(n_steps):
            path.append([w - STEP * g for w, g in zip(path[-1], gradient(path[-1], x, y), strict=True)])
        if kind == "reptile":
            slopes = [a - b for a, b in zip(path[0], path[-1], strict=True)]
        else:
            slopes = gradient(path[-1], x_query, y_query)
            for w in reversed(path[:-1] if kind == "maml" else []):  # (I − α H) from the last step back
                bent = hessian_product(w, x, y, slopes)
                slopes = [s - STEP * h for s, h in zip(slopes, bent, strict=True)]
        total = [t + s for t, s in zip(total, slopes, strict=True)]
    return total


LEARNERS = {
    "maml": lambda n: MAML(MLP((5,)), inner_steps=n, step_size=STEP),
    "fomaml": lambda n: FirstOrderMAML(MLP((5,)), inner_steps=n, step_size=STEP),
    "reptile": lambda n: Reptile(MLP((5,)), inner_steps=n, step_size=STEP, inner_optimizer="sgd"),
}


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("tasks_at_once", [1, 3, N_TASKS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", LEARNERS)
def test_meta_gradient_equals_the_hand_written_one(
    kind: str, dtype: torch.dtype, tasks_at_once: int, n_steps: int
) -> None:
    learner, params, data = LEARNERS[kind](n_steps), start(dtype), episodes(dtype)
    context = Context(SPEC, torch.arange(N_TASKS), training=True)
    found = rule_for(learner, tasks_at_once)(learner, params, data, context)
    for ours, theirs in zip(found.total.values(), reference(kind, params, data, n_steps), strict=True):
        assert torch.allclose(ours, theirs, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert found.weight == N_TASKS
    assert found.losses.shape == (N_TASKS,)


def test_second_order_differs_from_first_order() -> None:
    params, data = start(torch.float64), episodes(torch.float64)
    second, first = (reference(kind, params, data, 3) for kind in ("maml", "fomaml"))
    assert max(float((a - b).abs().max()) for a, b in zip(second, first, strict=True)) > 1e-3


@dataclass(frozen=True)
class Through(ImplicitMAML):
    """The same inner steps, differentiated."""

    differentiates_steps: ClassVar[bool] = True

    def __init__(self, like: ImplicitMAML) -> None:
        super().__init__(like.net, like.inner_steps, like.step_size, penalty=like.penalty)


class ImplicitHead(ImplicitMAML):
    """Moves its output layer only; where the minimum lies depends on the rest as well."""

    def moving(self, weights: Params) -> Params:
        return {name: w for name, w in weights.items() if name in self.net.output_layer(weights)}


class ThroughHead(Through):
    moving = ImplicitHead.moving


@pytest.mark.parametrize(("kind", "through"), [(ImplicitMAML, Through), (ImplicitHead, ThroughHead)])
def test_the_implicit_gradient_solves_the_dense_system(
    kind: type[ImplicitMAML], through: type[Through]
) -> None:
    """Against the Hessian written out as a matrix, at the minimum that the inner steps reach."""
    spec = TaskSpec("regression", (3,), 1)
    # With a weaker pull one task would end on a kink of the ReLU, where there is no Hessian.
    learner = kind(MLP((4,)), inner_steps=300, step_size=0.1, penalty=5.0)
    params = start_of(learner, spec)
    support, query = episodes(torch.float64)
    context = Context(spec, torch.arange(N_TASKS), training=True)
    found = Implicit(tasks_at_once=2, steps=60)(learner, params, Episode(support, query), context)
    names, sizes = list(params), [w.numel() for w in params.values()]
    moving = learner.moving(params)

    def unflat(vector: Tensor) -> Params:
        parts = vector.split(sizes)
        return {name: part.view_as(params[name]) for name, part in zip(names, parts, strict=True)}

    def of_task(task: int) -> Tensor:
        one, other = (Batch(*(part[task] for part in side)) for side in (support, query))
        here = Context(spec, torch.tensor(task), training=True)
        adapted = learner.adapt(params, one, here)
        flat = torch.cat([adapted[name].flatten() for name in names]).detach().requires_grad_()
        hessian: Tensor = torch.autograd.functional.hessian(  # pyright: ignore[reportAssignmentType]
            lambda v: learner.support_loss(unflat(v), one, here), flat
        )
        loss = learner.loss(learner.predict(unflat(flat), other.inputs), other)
        (slope,) = torch.autograd.grad(loss, flat)
        moves = torch.cat([torch.full((n,), name in moving) for name, n in zip(names, sizes, strict=True)])
        system = torch.eye(int(moves.sum()), dtype=torch.float64) + hessian[moves][:, moves] / 5.0
        solved = torch.linalg.solve(system, slope[moves])
        slope[~moves] -= hessian[~moves][:, moves] @ solved / 5.0
        slope[moves] = solved
        return slope

    expected = torch.stack([of_task(task) for task in range(N_TASKS)]).sum(0)
    total = torch.cat([found.total[name].flatten() for name in names])
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-8)
    # And it is what differentiating through the steps gives, since they have converged.
    all_steps = Backprop(1)(through(learner), params, Episode(support, query), context)
    whole = torch.cat([all_steps.total[name].flatten() for name in names])
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=1e-8)


def start_of(learner: ImplicitMAML, spec: TaskSpec) -> Params:
    params = learner.init(spec, torch.Generator().manual_seed(1))
    return {name: tensor.to(torch.float64) for name, tensor in params.items()}


def test_the_implicit_rule_needs_a_pull() -> None:
    spec = TaskSpec("regression", (3,), 1)
    with pytest.raises(InvalidSetting, match="MAML is not"):
        Implicit()(
            MAML(MLP((4,))), start(torch.float32), episodes(torch.float32), Context(spec, torch.arange(4))
        )
    with pytest.raises(InvalidSetting, match="penalty must be positive"):
        ImplicitMAML(penalty=0.0)


def test_an_inner_adam_reaches_the_same_minimum_and_does_not_diverge() -> None:
    spec = TaskSpec("regression", (3,), 1)
    learner = ImplicitMAML(MLP((4,)), inner_steps=300, step_size=0.1, penalty=5.0)
    params = start_of(learner, spec)
    adam = dataclasses.replace(learner, inner_steps=2000, step_size=0.01, inner_optimizer="adam")
    support = Batch(*(part[0] for part in episodes(torch.float64).support))
    here = Context(spec, torch.tensor(0), training=True)
    expected, found = (one.adapt(params, support, here) for one in (learner, adam))
    for name in params:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    steep = Batch(100 * support.x, support.y, support.mask)
    assert not all(w.isfinite().all() for w in learner.adapt(params, steep, here).values())
    assert all(w.isfinite().all() for w in adam.adapt(params, steep, here).values())
    with pytest.raises(InvalidSetting, match="inner_optimizer is 'lion'"):
        ImplicitMAML(inner_optimizer="lion")


def solved(diagonal: list[float], wanted: list[float], n_steps: int) -> list[float]:
    matrix = torch.tensor(diagonal)
    found = conjugate_gradients(lambda v: {"x": matrix * v["x"]}, {"x": torch.tensor(wanted)}, n_steps)
    return found["x"].tolist()


def test_conjugate_gradients_end_where_the_matrix_is_not_positive_definite() -> None:
    assert solved([2.0, 4.0], [1.0, 1.0], 5) == pytest.approx([0.5, 0.25])
    ended = solved([2.0, 1.0, -0.5], [1.0, 1.0, 0.9], 3)
    assert solved([2.0, 1.0, -0.5], [1.0, 1.0, 0.9], 9) == ended
    assert solved([1.0, -3.0], [1.0, 1.0], 5) == [1.0, 1.0], "as if there were no curvature"
    assert solved([1.0, -3.0], [0.0, 0.0], 5) == [0.0, 0.0]
