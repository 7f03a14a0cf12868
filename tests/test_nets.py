"""The backbones against torch's own layers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tasklore import convolutions
from tasklore.convolutions import convolved, moments, pooled
from tasklore.errors import InvalidData, InvalidSetting
from tasklore.nets import MLP, Conv4, Identity, ResNet12
from tasklore.types import Inputs, Params


def images(n: int, channels: int = 1) -> Tensor:
    return torch.rand(n, channels, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def weights(net: Conv4, channels: int = 1) -> Params:
    generator = torch.Generator().manual_seed(4)
    params = net.init((channels, 12, 12), 5, generator)
    for name in params:  # scales of both signs, shifts that matter
        if name.endswith(("scale", "shift")):
            params[name] = torch.randn(params[name].shape, generator=generator)
    return {name: tensor.double() for name, tensor in params.items()}


def by_the_book(params: Params, x: Tensor, halving: str) -> Tensor:
    for i in range(4):
        halves = min(x.shape[-2:]) >= 2
        x = F.conv2d(
            x, params[f"block{i}.weight"], padding=1, stride=2 if halves and halving == "stride" else 1
        )
        x = F.batch_norm(x, None, None, params[f"block{i}.scale"], params[f"block{i}.shift"], training=True)
        x = x.relu()
        x = F.max_pool2d(x, 2) if halves and halving == "pool" else x
    return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("halving", ["pool", "stride"])
def test_conv4_equals_the_usual_order_of_layers(halving: str, channels: int) -> None:
    net = Conv4(6, halving=halving)
    params, x = weights(net, channels), images(7, channels)
    leaves = [{name: w.clone().requires_grad_() for name, w in params.items()} for _ in range(2)]
    ours, _ = net.apply(leaves[0], Inputs(x, torch.ones(7, dtype=torch.float64)))
    theirs = by_the_book(leaves[1], x, halving)
    assert torch.allclose(ours, theirs, atol=1e-9)
    slopes = [
        torch.autograd.grad((out**2).sum(), list(p.values()))
        for out, p in zip((ours, theirs), leaves, strict=True)
    ]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*slopes, strict=True))


class Residual(nn.Module):
    """A block of ResNet-12 in torch's own layers."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        sizes = [(n_in, 3), (width, 3), (width, 3), (n_in, 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(source, width, side, padding=side // 2, bias=False) for source, side in sizes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, track_running_stats=False) for _ in sizes)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.norms[3](self.convolutions[3](x))
        for j in range(3):
            x = self.norms[j](self.convolutions[j](x))
            x = F.leaky_relu(x if j < 2 else x + shortcut, 0.1)
        return F.max_pool2d(x, 2) if min(x.shape[-2:]) >= 2 else x


@pytest.mark.parametrize("channels", [1, 3])
def test_resnet12_equals_the_usual_order_of_layers(channels: int) -> None:
    net = ResNet12((4, 6, 5, 7))
    generator = torch.Generator().manual_seed(5)
    params = net.init((channels, 12, 12), 5, generator)
    params = {n: w + 0.3 * torch.randn(w.shape, generator=generator) for n, w in params.items()}
    params = {name: weight.double().requires_grad_() for name, weight in params.items()}
    blocks: Any = nn.Sequential(*(Residual(n, w) for n, w in ((channels, 4), (4, 6), (6, 5), (5, 7))))
    blocks = blocks.double()
    names = ("conv0", "conv1", "conv2", "shortcut")
    with torch.no_grad():
        for i, block in enumerate(blocks):
            for place, name in enumerate(names):
                block.convolutions[place].weight.copy_(params[f"block{i}.{name}.weight"])
                block.norms[place].weight.copy_(params[f"block{i}.{name}.scale"])
                block.norms[place].bias.copy_(params[f"block{i}.{name}.shift"])
    x = images(6, channels)
    ours, used = net.apply(params, Inputs(x, torch.ones(6, dtype=torch.float64)))
    features = blocks(x).mean((2, 3))
    theirs = F.linear(features, params["head.weight"], params["head.bias"])
    assert torch.allclose(ours, theirs, atol=1e-9)
    mine = torch.autograd.grad((ours**2).sum(), params["block0.conv0.weight"])[0]
    (theirs**2).sum().backward()
    assert torch.allclose(mine, blocks[0].convolutions[0].weight.grad, atol=1e-7)
    # Padding has no part, and queries can be treated as the support was.
    padded = Inputs(
        torch.cat([x, 9 * torch.ones_like(x[:2])]), torch.tensor([1.0] * 6 + [0.0] * 2, dtype=torch.float64)
    )
    assert torch.allclose(net.apply(params, padded)[0][:6], ours, atol=1e-9)
    one = Inputs(x[:1], torch.ones(1, dtype=torch.float64))
    assert torch.allclose(net.apply(params, one, used)[0], ours[:1], atol=1e-9)
    assert net.output_layer(params) == {"head.weight", "head.bias"}


def test_resnet12_gives_as_many_features_as_its_last_block_has_channels() -> None:
    net = ResNet12()
    params = net.init((3, 32, 32), None, torch.Generator().manual_seed(0))
    assert (
        sum(weight.numel() for weight in params.values()) == 12_424_320
    )  # 9ab + 18b² + ab weights and 8b scales and shifts of each block
    with pytest.raises(InvalidData, match="ResNet12 needs images"):
        net.init((8,), 5, torch.Generator())
    with pytest.raises(InvalidSetting, match="at least one positive number"):
        ResNet12(())


def test_moments_and_pooling_have_right_first_and_second_derivatives() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    share = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    mean, variance = moments(x, share)
    torch.testing.assert_close(mean, x[:2].mean((0, 2, 3)))
    torch.testing.assert_close(variance, x[:2].var((0, 2, 3), correction=0))
    assert torch.autograd.gradcheck(lambda x: moments(x, share), x)
    assert torch.autograd.gradgradcheck(lambda x: moments(x, share), x)
    assert torch.equal(pooled(x), F.max_pool2d(x, 2))
    assert torch.autograd.gradcheck(pooled, x)
    assert torch.autograd.gradgradcheck(pooled, x)


@pytest.mark.parametrize("cached", [2**20, 1000], ids=["all images at once", "a few"])
def test_a_first_layer_is_pooled_as_it_is_made(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as convolving, then pooling; derivatives too, with respect to images and weights."""
    monkeypatch.setattr(convolutions, "CACHED", cached)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    share = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0], dtype=torch.float64)

    def layer(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        largest, (mean, variance) = convolved(x, weight, share, None, pool=True)
        return largest, mean, variance

    largest, mean, variance = layer(x, weight)
    plain = F.conv2d(x, weight, padding=1)
    torch.testing.assert_close(largest, F.max_pool2d(plain, 2))
    torch.testing.assert_close(mean, plain[:4].mean((0, 2, 3)))
    torch.testing.assert_close(variance, plain[:4].var((0, 2, 3), correction=0))
    assert torch.autograd.gradcheck(layer, (x, weight))
    assert torch.autograd.gradgradcheck(layer, (x, weight))

    def bent(x: Tensor, weight: Tensor) -> Tensor:
        slope = torch.func.grad(lambda w: (layer(x, w)[0] ** 3).sum())
        return torch.func.grad(lambda x: (slope(weight) ** 2).sum())(x)

    stack = torch.stack([x.detach(), x.detach().flip(0)])
    together = torch.func.vmap(bent, in_dims=(0, None))(stack, weight.detach())
    for place, each in enumerate(stack):
        torch.testing.assert_close(together[place], bent(each, weight.detach()))


def test_images_need_no_slope_where_nobody_asks_for_it() -> None:
    """It would be a product as large as the layer itself."""
    weight = torch.randn(3, 1, 3, 3, requires_grad=True)
    largest, _ = convolved(torch.randn(4, 1, 6, 6), weight, torch.full((4,), 0.25), None, pool=True)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(largest.sum(), weight)
    assert counter.get_total_flops() == 2 * 4 * 36 * 9 * 3


def test_second_derivatives_of_a_stack_of_tasks() -> None:
    net, x = Conv4(4, blocks=2), images(6)
    params = {name: tensor.float() for name, tensor in weights(net).items()}
    stack = torch.stack([x.float(), x.float().flip(0) + 0.1])

    def bend(x: Tensor) -> Params:
        def slope(w: Params) -> Tensor:
            slopes = torch.func.grad(lambda w: (net.apply(w, Inputs(x, torch.ones(len(x))))[0] ** 2).sum())(w)
            return torch.stack([(s**2).sum() for s in slopes.values()]).sum()

        return torch.func.grad(slope)(params)

    together = torch.func.vmap(bend)(stack)
    for place, each in enumerate(stack):
        alone = bend(each)
        for name, tensor in alone.items():
            torch.testing.assert_close(
                together[name][place], tensor, rtol=1e-3, atol=1e-3 * float(tensor.abs().max())
            )


@pytest.mark.parametrize("halving", ["pool", "stride"])
def test_padding_never_enters_the_statistics(halving: str) -> None:
    net = Conv4(6, halving=halving)
    params, x = weights(net), images(7)
    ones = torch.ones(7, dtype=torch.float64)
    alone, used = net.apply(params, Inputs(x, ones))
    padded = Inputs(
        torch.cat([x, 99 * torch.ones(3, 1, 12, 12, dtype=torch.float64)]), torch.cat([ones, torch.zeros(3)])
    )
    among, used_padded = net.apply(params, padded)
    assert torch.allclose(alone, among[:7], atol=1e-9)
    assert all(torch.allclose(used[name], used_padded[name], atol=1e-9) for name in used)


def test_queries_normalised_as_the_support_was_do_not_depend_on_each_other() -> None:
    net = Conv4(6)
    params, x = weights(net), images(7)
    _, used = net.apply(params, Inputs(x, torch.ones(7, dtype=torch.float64)))
    together, _ = net.apply(params, Inputs(x, torch.ones(7, dtype=torch.float64)), used)
    first, _ = net.apply(params, Inputs(x[:1], torch.ones(1, dtype=torch.float64)), used)
    assert torch.allclose(together[:1], first, atol=1e-12)
    own, _ = net.apply(params, Inputs(x, torch.ones(7, dtype=torch.float64)))
    assert torch.allclose(together, own, atol=1e-9)


def test_mistakes_are_told() -> None:
    with pytest.raises(InvalidData, match="images of shape"):
        Conv4().init((7,), 5, torch.Generator())
    with pytest.raises(InvalidSetting, match="pool"):
        Conv4(halving="half")
    with pytest.raises(InvalidSetting, match="width"):
        MLP(())
    with pytest.raises(InvalidSetting, match="no output layer"):
        Identity().init((3,), 2, torch.Generator())
