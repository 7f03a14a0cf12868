import pytest
import torch

from tasklore.errors import InvalidSetting
from tasklore.optimizers import SGD, Adam, Optimizer


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adam(0.05, beta1=0.8, beta2=0.95), lambda w: torch.optim.Adam(w, 0.05, (0.8, 0.95))),
        (SGD(0.05), lambda w: torch.optim.SGD(w, 0.05)),
    ],
    ids=["adam", "sgd"],
)
def test_hundred_updates_equal_torch(ours: Optimizer, theirs: object) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    leaf = start.clone().requires_grad_()
    other = theirs([leaf])  # pyright: ignore[reportCallIssue]
    params, state = {"w": start}, ours.init({"w": start})
    for _ in range(100):
        slope = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        leaf.grad = slope.clone()
        other.step()
        params, state = ours.update(params, {"w": slope}, state)
    assert torch.allclose(params["w"], leaf.detach(), atol=1e-6)


def test_differentiating_through_adam_at_a_zero_gradient_stays_finite() -> None:
    w = torch.zeros(3, requires_grad=True)
    rule = Adam(0.1, eps_root=1e-12)
    updated, _ = rule.update({"w": w}, {"w": w * 0.0}, rule.init({"w": w}))
    (slope,) = torch.autograd.grad(updated["w"].sum(), w)
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("make", [lambda: SGD(0.0), lambda: Adam(-1.0), lambda: Adam(beta1=1.0)])
def test_impossible_settings(make: object) -> None:
    with pytest.raises(InvalidSetting):
        make()  # pyright: ignore[reportCallIssue]
