"""Where tensors lie and how precisely nets compute."""

import dataclasses
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tasklore.errors import InvalidSetting
from tasklore.execution import Plan
from tasklore.learners.closed_form import LogisticHead, RidgeHead, SVMHead
from tasklore.learners.gradient import ANIL, BOIL, MAML, ImplicitMAML, MetaSGD
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.learners.metric import MatchingNetwork, Prototypes, RelationNetwork
from tasklore.metagrad import rule_for
from tasklore.modules import ModuleNet, PretrainedModule
from tasklore.nets import MLP, Conv4, ResNet12
from tasklore.placement import Lowered, computes_bfloat16, device_for, in_precision, placed
from tasklore.registry import learners
from tasklore.tasks.images.digits import Digits
from tasklore.train import TrainSettings, fit, init, pretrain, step
from tasklore.types import Batch, Context, Episode, TaskSpec

SPEC = TaskSpec("classification", (1, 12, 12), 3)
META = torch.device("meta")


def episodes(n_tasks: int = 4, seed: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(4).expand(n_tasks, 12)
    # Each class is bright in a place of its own, so that there is something to learn.
    x = torch.randn(n_tasks, 12, 1, 12, 12, generator=generator)
    x[..., :3, :3] += 3 * y[:, :, None, None, None]
    ones = torch.ones(n_tasks, 6)
    return Episode(Batch(x[:, :6], y[:, :6], ones), Batch(x[:, 6:], y[:, 6:], ones))


def convolutions_above_products() -> nn.Module:
    """Make a network whose convolutions are given what a product computed."""
    below = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Unflatten(1, (1, 4, 4)))
    above = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, bias=False), nn.Flatten()
    )
    return nn.Sequential(below, above)


class Attending(nn.Module):
    """Attention over the rows of an image, by a layer and by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(12, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.layer(x.squeeze(1))
        return nn.functional.scaled_dot_product_attention(rows, rows, rows, is_causal=True).flatten(1)


def with_buffers() -> nn.Module:
    """Make a small network with a frozen layer and constants."""
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3).requires_grad_(False), norm, nn.AvgPool2d(5), Shifted())
    return nn.Sequential(layers, nn.Flatten(), nn.Linear(16, 5))


class Shifted(nn.Module):
    """Adds a constant, and knows a number that is no float."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.ones(4, 1, 1))
        self.register_buffer("channel", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        shift, channel = cast("tuple[Tensor, Tensor]", (self.shift, self.channel))
        return x[:, channel] + shift


def test_devices_are_chosen_and_refused() -> None:
    assert device_for("cpu") == torch.device("cpu")
    there = torch.cuda.is_available()
    assert device_for("auto").type == ("cuda" if there else "cpu")
    if not there:
        with pytest.raises(InvalidSetting, match="torch sees no CUDA device here; use 'cpu' or 'auto'"):
            device_for("cuda")
    gpu: Any = "gpu"
    with pytest.raises(InvalidSetting, match="device is 'gpu'; use 'auto', 'cpu' or 'cuda'"):
        device_for(gpu)


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(
    "learner",
    [
        MAML(Conv4(4, 2), inner_steps=2),
        MAML(ResNet12((4, 6)), inner_steps=1),
        MAMLPlusPlus(Conv4(4, 2)),
        *(kind(Conv4(4, 2)) for kind in (ANIL, BOIL, MetaSGD, ImplicitMAML, Prototypes, MatchingNetwork)),
        *(kind(Conv4(4, 2)) for kind in (RelationNetwork, RidgeHead, LogisticHead, SVMHead)),
        Prototypes(Conv4(4, 2), distance="mahalanobis", temperature=1.0),
        RidgeHead(PretrainedModule(build=with_buffers)),
        MAML(ModuleNet(lambda _: with_buffers())),
    ],
    ids=lambda learner: str(learner).split(" at 0x")[0][:60] if not isinstance(learner, int) else None,
)
def test_everything_is_computed_where_the_params_lie(learner: Any, at_once: int) -> None:
    """Tensors without values stand in for another device: mixing them with real ones is an error."""
    params, stack = placed((learner.init(SPEC, torch.Generator().manual_seed(0)), episodes()), META)
    context = Context(SPEC, torch.arange(4, device=META), training=True)
    found = rule_for(learner, at_once)(learner, params, stack, context)
    assert {tensor.device for tensor in found.total.values()} == {META}
    assert found.losses.device == META


def test_a_state_moves_whole_and_shares_what_it_shared() -> None:
    learner = MAML(MLP((4,)))
    state = init(learner.init(SPEC, torch.Generator().manual_seed(0)), TrainSettings(device="cpu"))
    assert state.on(torch.device("cpu")) is state
    moved = state.on(META)
    assert moved.device == META
    assert moved.average is moved.params is moved.best
    assert dataclasses.replace(state, plan=Plan(4)).on(META).plan is None, "measured elsewhere"
    assert all(tensor.device == META for tensor in moved.moments.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("execution", ["auto", "compiled"])
def test_a_gpu_learns_as_a_cpu_does(execution: Any) -> None:
    learner, source = MAML(MLP((16,)), inner_steps=2, step_size=0.1), Digits().splits().train
    ended: list[Any] = []
    for device in ("cpu", "cuda"):
        settings = TrainSettings(steps=3, n_tasks=4, device=device, execution=execution)
        (*_, last) = fit(learner, source, settings)
        assert last.device.type == device
        ended.append(last.on(torch.device("cpu")))
    for name, tensor in ended[0].params.items():
        torch.testing.assert_close(ended[1].params[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "learner",
    [
        MAML(Conv4(8, 2), inner_steps=2, step_size=0.05, transductive=True),
        MAMLPlusPlus(Conv4(8, 2), inner_steps=2, first_order_steps=0, transductive=True),
        Prototypes(ResNet12((8, 8)), transductive=True),
        *(kind(Conv4(8, 2), transductive=True) for kind in (RidgeHead, LogisticHead, SVMHead)),
        MAML(ModuleNet(lambda shape: convolutions_above_products()), step_size=0.01, transductive=True),
        MAML(ModuleNet(lambda shape: Attending()), step_size=0.01),
    ],
    ids=lambda learner: f"{type(learner).__name__}-{type(learner.backbone).__name__}",
)
@pytest.mark.parametrize("tasks_at_once", [1, 4])
def test_fewer_digits_give_nearly_the_same_direction(learner: Any, tasks_at_once: int) -> None:
    params = learner.init(SPEC, torch.Generator().manual_seed(0))
    context = Context(SPEC, torch.arange(4), training=True)
    low = in_precision(learner, "bfloat16")
    assert isinstance(low.backbone, Lowered)
    assert set(low.init(SPEC, torch.Generator().manual_seed(0))) == set(params)
    found, lowered = (
        rule_for(one, tasks_at_once)(one, params, episodes(), context) for one in (learner, low)
    )
    assert all(tensor.dtype == torch.float32 for tensor in lowered.total.values())
    flat, low_flat = (torch.cat([t.flatten() for t in each.total.values()]) for each in (found, lowered))
    assert torch.cosine_similarity(flat, low_flat, dim=0) > 0.97
    assert not torch.equal(flat, low_flat)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", [MAML, ANIL])
def test_what_lies_between_products_takes_fewer_digits(kind: Any, recompute: bool) -> None:
    def build(_: tuple[int, ...]) -> nn.Module:
        below = nn.Sequential(nn.Conv2d(1, 4, 3), nn.PReLU(4), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
        return nn.Sequential(below, nn.Flatten(), nn.Linear(256, 8), Paired())

    learner = in_precision(kind(ModuleNet(build)), "bfloat16")
    params = learner.init(SPEC, torch.Generator().manual_seed(0))
    context = Context(SPEC, torch.arange(4), training=True, recompute=recompute)
    alone, together = (rule_for(learner, n)(learner, params, episodes(), context).total for n in (1, 4))
    for name, tensor in alone.items():
        assert torch.cosine_similarity(together[name].flatten(), tensor.flatten(), dim=0) > 0.97


class Paired(nn.Module):
    """Products of features with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.Bilinear(8, 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pairs(x, x)


def test_meta_learning_in_fewer_digits_learns() -> None:
    learner = Prototypes(Conv4(8, 2), transductive=True)
    settings = TrainSettings(steps=30, n_tasks=4, precision="bfloat16", learning_rate=1e-2)
    state = init(learner.init(SPEC, torch.Generator().manual_seed(1)), settings)
    losses: list[float] = []
    for seed in range(30):
        state = step(learner, state, SPEC, episodes(seed=seed), torch.arange(4), settings)
        losses.append(state.losses[-1])
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert all(tensor.dtype == torch.float32 for tensor in state.params.values())


@pytest.mark.parametrize(("capability", "slow"), [("AVX2", True), ("AVX512", False)])
def test_a_processor_without_bfloat16_is_named(
    capability: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert computes_bfloat16(torch.device("cpu")) is not slow
    source = Digits(n_ways=2).splits().train
    settings = TrainSettings(steps=1, n_tasks=2, precision="bfloat16", device="cpu")
    (state,) = fit(Prototypes(MLP((8,))), source, settings)
    assert state.plan is not None
    assert ("has no instructions for bfloat16" in state.plan.why) is slow


def test_what_cannot_be_lowered_is_refused_with_the_cure() -> None:
    with pytest.raises(InvalidSetting, match="works inside its network; use precision = 'float32'"):
        in_precision(learners.get("cavia")(), "bfloat16")
    with pytest.raises(InvalidSetting, match=r"curvature of its network.*precision = 'float32'"):
        in_precision(ImplicitMAML(Conv4(8, 4)), "bfloat16")
    with pytest.raises(InvalidSetting, match="no network to compute in bfloat16"):
        in_precision(learners.get("ridge-regression")(), "bfloat16")
    half: Any = "float16"
    with pytest.raises(InvalidSetting, match="precision is 'float16'; use one of 'float32', 'bfloat16'"):
        TrainSettings(precision=half)


def test_pre_training_can_be_lowered_too() -> None:
    source = Digits().splits().train
    learner = MAML(Conv4(8, 2))
    found = pretrain(learner, source, TrainSettings(pretrain_steps=3, precision="bfloat16"))
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
