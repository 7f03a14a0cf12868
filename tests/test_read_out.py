"""Where inner steps move the output layer only, what it reads is computed once; nothing else changes."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from tasklore.learners.base import Learner
from tasklore.learners.gradient import ANIL, MAML, FirstOrderMAML, StepSizes
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.metagrad import MetaGradient, adapt_tasks, predict_tasks, rule_for
from tasklore.modules import ModuleNet, PretrainedModule
from tasklore.nets import MLP, Conv4, Net, ResNet12, TextEncoder
from tasklore.testing.learner import toy_source
from tasklore.types import Batch, Context, Inputs, Params

N_TASKS = 4


@dataclass(frozen=True)
class Whole(Net):
    """Another net that does not tell of its output layer, so that every step computes all of it."""

    net: Net

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        return self.net.init(input_shape, n_outputs, generator)

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        return self.net.apply(params, inputs, statistics)

    def output_layer(self, params: Params) -> frozenset[str]:
        return self.net.output_layer(params)


def found(
    learner: Learner, *, at_once: int = N_TASKS, recompute: bool = False
) -> tuple[MetaGradient, Tensor]:
    source = toy_source(learner)
    params = learner.init(source.spec, torch.Generator().manual_seed(0))
    episodes, keys = source.episodes(0, "train", 0, N_TASKS)
    context = Context(source.spec, keys, training=True, recompute=recompute)
    direction = rule_for(learner, at_once)(learner, params, episodes, context)
    tasks = adapt_tasks(learner, params, episodes.support, context, at_once)
    return direction, predict_tasks(learner, tasks, episodes.query.inputs, at_once)


def same(one: tuple[MetaGradient, Tensor], other: tuple[MetaGradient, Tensor]) -> None:
    torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5)
    assert one[0].total.keys() == other[0].total.keys()
    for name, total in other[0].total.items():
        torch.testing.assert_close(one[0].total[name], total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [{"at_once": 1}, {"at_once": N_TASKS}, {"recompute": True}], ids=str)
@pytest.mark.parametrize("net", [MLP((16,)), Conv4(8, blocks=2)], ids=lambda net: type(net).__name__)
def test_anil_is_what_it_is_with_all_computed_in_every_step(net: Net, way: dict[str, Any]) -> None:
    same(*(found(ANIL(n, inner_steps=3, step_size=0.1), **way) for n in (net, Whole(net))))


@pytest.mark.parametrize("sizes", ["one", "per-layer-and-step", "per-parameter"])
def test_so_it_is_with_step_sizes_that_are_learned(sizes: StepSizes) -> None:
    nets = MLP((16,)), Whole(MLP((16,)))
    same(*(found(ANIL(net, inner_steps=3, step_size=0.1, learned_step_sizes=sizes)) for net in nets))


@dataclass(frozen=True)
class Sharper(MLP):
    """Does more with its outputs than the layer that it inherits."""

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        return 5 * super().apply(params, inputs, statistics)[0], {}


class Colder:
    """Something to be mixed into a net."""

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        mixed: Any = super()
        return 5 * mixed.apply(params, inputs, statistics)[0], {}


@dataclass(frozen=True)
class Mixed(Colder, MLP):
    """Does the same as ``Sharper``, by inheritance alone."""


class Moody(ANIL):
    """Has another body from the second step on."""

    def weights_at(self, params: Params, step: int) -> Params:
        weights = super().weights_at(params, step)
        return weights | {"layer0.bias": weights["layer0.bias"] + 1.0} if step else weights


class Shifted(ANIL):
    """Learns from examples that it changes first."""

    def support_loss(self, weights: Params, support: Batch, context: Context) -> Tensor:
        return super().support_loss(weights, support._replace(x=support.x + 1), context)


class Doubled(ANIL):
    """Computes with other weights than it keeps."""

    def net_weights(self, weights: Params) -> Params:
        return {name: 2 * w for name, w in weights.items()}


@pytest.mark.parametrize(
    ("kind", "net"),
    [
        *((ANIL, net) for net in (Sharper((16,)), Mixed((16,)))),
        *((kind, MLP((16,))) for kind in (Moody, Shifted, Doubled)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_what_others_change_is_respected(kind: type[ANIL], net: Net) -> None:
    same(*(found(kind(n, inner_steps=3, step_size=0.1)) for n in (net, Whole(net))))


@pytest.mark.parametrize("net", [MLP((16,)), Conv4(8, blocks=2), ResNet12((4, 4)), TextEncoder(n_buckets=50)])
def test_the_output_layer_alone_on_what_it_reads_is_the_net(net: Net) -> None:
    shape = (9,) if isinstance(net, TextEncoder) else (1, 8, 8)
    params = net.init(shape, 3, torch.Generator().manual_seed(0))
    x, mask = torch.randint(1, 40, (6, *shape)).float(), torch.ones(6)
    body = {name: w for name, w in params.items() if name not in net.output_layer(params)}
    features, _ = net.apply(body, Inputs(x, mask))
    assert net.read_out is not None
    outputs, _ = net.read_out.apply(params, Inputs(features, mask))
    torch.testing.assert_close(outputs, net.apply(params, Inputs(x, mask))[0])


class Counted(nn.Module):
    """Counts how often it is called."""

    n = 0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        Counted.n += 1
        return self.layer(x.flatten(1)).tanh()


@pytest.mark.parametrize(
    "learner",
    [
        ANIL(ModuleNet(lambda shape: Counted()), inner_steps=5, transductive=True),
        MAML(PretrainedModule(build=Counted), inner_steps=5, transductive=True),
        FirstOrderMAML(PretrainedModule(build=Counted), inner_steps=5, transductive=True),
        MAMLPlusPlus(
            PretrainedModule(build=Counted), inner_steps=5, transductive=True, multi_step_loss_steps=0
        ),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_a_body_that_stays_is_computed_once_for_all_steps(learner: Learner) -> None:
    source = toy_source(learner)
    params = learner.init(source.spec, torch.Generator().manual_seed(0))
    episodes, keys = source.episodes(0, "train", 0, N_TASKS)
    context = Context(source.spec, keys, training=True)
    rule = rule_for(learner, N_TASKS)
    Counted.n = 0
    rule(learner, params, episodes, context)
    assert Counted.n == 2  # of the support, and of the queries
