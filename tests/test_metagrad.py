"""Meta-gradients against references written by hand, without torch.func and without Tasklore."""

import pytest
import torch
from torch import Tensor

from tasklore.learners.gradient import MAML, FirstOrderMAML, Reptile
from tasklore.metagrad import rule_for
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
