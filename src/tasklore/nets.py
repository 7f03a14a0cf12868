"""Backbones: networks seen as functions of their parameters.

A :class:`Net` is a frozen dataclass of settings. ``init`` makes named tensors, ``apply`` computes with
whatever tensors it is given: the shared ones, or those adapted to one task. Normalisation uses batch
statistics only, and leaves padding out of them. What a batch was normalised with comes back beside the
output, so that queries can be treated as the support was.
"""

import abc
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .convolutions import convolved, pooled, scaled
from .errors import InvalidData, InvalidSetting
from .registry import nets
from .types import Inputs, Params, TaskSpec

__all__ = [
    "MLP",
    "Conv4",
    "Identity",
    "Net",
    "ReadOut",
    "ResNet12",
    "TextEncoder",
    "check_net",
    "default_net",
    "fresh_head",
    "with_head",
]

EPS = 1e-5
SLOPE = 0.1  # of the leaky ReLU in residual blocks


class Net(abc.ABC):
    """A network without its weights.

    Attributes
    ----------
    has_output_layer : bool
        Whether it can have one, as learners need it that bring no head of their own.
    """

    has_output_layer: ClassVar[bool] = True

    @abc.abstractmethod
    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        """Return fresh weights.

        Parameters
        ----------
        input_shape : tuple of int
            Of one example.
        n_outputs : int or None
            Size of the output layer; None leaves it out, so that the net gives its features.
        generator : torch.Generator
        """

    @abc.abstractmethod
    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        """Compute outputs.

        Parameters
        ----------
        params : Params
            From :meth:`init`, or adapted from there.
        inputs : Inputs
            ``n`` examples.
        statistics : Params, optional
            Normalise with these instead of with the batch's own.

        Returns
        -------
        outputs : Tensor, shape (n, n_outputs) or (n, n_features)
        statistics : Params
            Means and variances that were used; empty for a net that does not normalise.
        """

    def output_layer(self, params: Params) -> frozenset[str]:
        """Name the tensors of the output layer; none for a net that gives its features."""
        return frozenset(name for name in params if name.startswith("head."))

    @property
    def read_out(self) -> "Net | None":
        """The output layer alone, so that what it reads need be computed once only; None if there is none.

        Without the tensors of the output layer, :meth:`apply` gives what it reads; applied to that, it gives
        what :meth:`apply` gives with them.
        """
        return None

    def linear_layers(self, params: Params) -> frozenset[str]:
        """Name weights that :meth:`apply` takes for linear layers on (n, n_in), and for nothing else."""
        return frozenset()

    def __init_subclass__(cls, **settings: Any) -> None:
        # What is said of a net's inside does not hold for a subclass that computes something else.
        super().__init_subclass__(**settings)

        def place(name: str) -> int:
            return next(place for place, base in enumerate(cls.__mro__) if name in base.__dict__)

        for name in ("read_out", "linear_layers"):
            if min(place("apply"), place("output_layer")) < place(name):
                setattr(cls, name, Net.__dict__[name])

    def normalisation(self, params: Params) -> frozenset[str]:
        """Name the scales and shifts that follow a normalisation."""
        return frozenset()


def check_net(given: object) -> None:
    """Raise ``InvalidSetting`` if what a learner was given as its net is none."""
    if isinstance(given, Net):
        return
    if isinstance(given, nn.Module):
        raise InvalidSetting(
            f"net is a torch module ({type(given).__name__}); wrap what makes it, so that its weights can be "
            "exchanged: tasklore.modules.ModuleNet(lambda shape: ...)"
        )
    raise InvalidSetting(
        f"net is {given!r}; give a net with its settings, such as tasklore.nets.MLP(hidden=(64, 64))"
    )


def default_net(spec: TaskSpec, suggested: str = "") -> Net:
    """Return the backbone that is suggested, else the usual one: convolutions for images, or a perceptron."""
    if suggested:
        return cast("Any", nets.get(suggested))()
    return Conv4(halving="stride") if len(spec.input_shape) == 3 else MLP((64, 64))


@nets.register("identity")
@dataclass(frozen=True)
class Identity(Net):
    """The flattened input itself: what a method does on raw data."""

    has_output_layer: ClassVar[bool] = False

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        if n_outputs is not None:
            raise InvalidSetting(
                "the identity net has no output layer; choose a net with weights, such as MLP"
            )
        return {}

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        return inputs.x.flatten(1), {}


@dataclass(frozen=True)
class ReadOut(Net):
    """A linear output layer alone; examples are the features that it reads.

    Parameters
    ----------
    layer : str
        What the names of its tensors begin with.
    """

    layer: str = "head"

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        return _linear(self.layer, math.prod(input_shape), n_outputs or 1, generator)

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        return F.linear(inputs.x, params[f"{self.layer}.weight"], params[f"{self.layer}.bias"]), {}

    def output_layer(self, params: Params) -> frozenset[str]:
        return frozenset(params)


@nets.register("mlp")
@dataclass(frozen=True)
class MLP(Net):
    """Fully connected layers with ReLU between them.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    """

    hidden: tuple[int, ...] = (40, 40)

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidSetting(f"hidden must name at least one positive width, got {self.hidden}")

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        widths = (math.prod(input_shape), *self.hidden, *(() if n_outputs is None else (n_outputs,)))
        params: Params = {}
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            params |= _linear(f"layer{i}", n_in, n_out, generator)
        return params

    @property
    def read_out(self) -> Net:
        return ReadOut(f"layer{len(self.hidden)}")

    def linear_layers(self, params: Params) -> frozenset[str]:
        return frozenset(name for name in params if name.endswith(".weight"))

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        x = inputs.x.flatten(1)
        n_layers = len(params) // 2
        for i in range(n_layers):
            x = F.linear(x, params[f"layer{i}.weight"], params[f"layer{i}.bias"])
            if i < len(self.hidden):
                x = x.relu()
        return x, {}

    def output_layer(self, params: Params) -> frozenset[str]:
        return frozenset(name for name in params if name.startswith(f"layer{len(self.hidden)}."))


@nets.register("conv4")
@dataclass(frozen=True)
class Conv4(Net):
    """Blocks of 3×3 convolution, batch normalisation, ReLU and halving: the standard few-shot backbone.

    Parameters
    ----------
    channels : int
    blocks : int
    halving : {"pool", "stride"}
        2×2 max-pooling (as in matching and prototypical networks), or convolutions of stride 2 (as MAML used
        on Omniglot: about a quarter of the work). An image of one pixel is not halved any more.

    References
    ----------
    Vinyals et al.: Matching Networks, NeurIPS 2016, section 4.1; Finn et al.: MAML, ICML 2017, section 5.2.
    """

    channels: int = 64
    blocks: int = 4
    halving: str = "pool"

    def __post_init__(self) -> None:
        if self.channels < 1 or self.blocks < 1:
            raise InvalidSetting(
                f"channels and blocks must be positive, got {self.channels} and {self.blocks}"
            )
        if self.halving not in ("pool", "stride"):
            raise InvalidSetting(f"halving is {self.halving!r}; use 'pool' or 'stride'")

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        if len(input_shape) != 3:
            raise InvalidData(
                f"Conv4 needs images of shape (channels, height, width), got examples of shape {input_shape}"
            )
        params: Params = {}
        size, n_in = input_shape[1:], input_shape[0]
        for i in range(self.blocks):
            fan_in = n_in * 9
            weight = torch.randn(self.channels, n_in, 3, 3, generator=generator) * math.sqrt(2 / fan_in)
            params[f"block{i}.weight"] = weight
            params[f"block{i}.scale"] = torch.ones(self.channels)
            params[f"block{i}.shift"] = torch.zeros(self.channels)
            size, n_in = self._halved(size), self.channels
        if n_outputs is not None:
            params |= fresh_head(self.channels * math.prod(size), n_outputs, generator)
        return params

    @property
    def read_out(self) -> Net:
        return ReadOut()

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        x = inputs.x
        used: Params = {}
        share = inputs.mask / inputs.mask.sum()  # (n,): what each image weighs in a mean; nothing for padding
        for i in range(self.blocks):
            smaller = self._halved(tuple(x.shape[-2:])) != tuple(x.shape[-2:])
            stride = 2 if smaller and self.halving == "stride" else 1
            # Turned to positive scales, normalisation never reverses an order, so that pooling may come
            # before it: the same values for a quarter of the work.
            scale = params[f"block{i}.scale"]
            sign = torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)
            weight = params[f"block{i}.weight"] * sign.view(-1, 1, 1, 1)
            known = None
            if statistics is not None:
                known = statistics[f"block{i}.mean"] * sign, statistics[f"block{i}.variance"]
            pool = smaller and self.halving == "pool"
            x, (mean, variance) = convolved(x, weight, share, known, stride, pool=pool)
            used[f"block{i}.mean"], used[f"block{i}.variance"] = mean * sign, variance
            factor = scale * sign * torch.rsqrt(variance + EPS)
            offset = params[f"block{i}.shift"] - mean * factor
            x = scaled(x, factor, offset).relu()
        return with_head(x.flatten(1), params), used

    def normalisation(self, params: Params) -> frozenset[str]:
        return frozenset(name for name in params if name.endswith((".scale", ".shift")))

    def _halved(self, size: tuple[int, ...]) -> tuple[int, ...]:
        if min(size) < 2:
            return size
        return tuple(s // 2 if self.halving == "pool" else (s + 1) // 2 for s in size)


@nets.register("resnet12")
@dataclass(frozen=True)
class ResNet12(Net):
    """Four residual blocks of three convolutions: the larger of the usual few-shot backbones.

    A block is ``pool(a(f(x) + s(x)))``: ``f`` is three 3×3 convolutions, each normalised, with ``a`` (leaky
    ReLU, slope 0.1) between them; ``s`` a normalised 1×1 convolution; and ``pool`` takes the largest of 2×2,
    as long as there are so many. The features are the means over all positions.

    Parameters
    ----------
    widths : tuple of int
        Channels of each block; (64, 160, 320, 640) in MetaOptNet, (64, 128, 256, 512) in TADAM.

    Notes
    -----
    Batch statistics as everywhere here, and no DropBlock: a mask that differs from step to step is noise in
    every inner gradient.

    References
    ----------
    Oreshkin, Rodríguez López, Lacoste: TADAM, NeurIPS 2018, section 3.2; Lee, Maji, Ravichandran, Soatto:
    Meta-Learning with Differentiable Convex Optimization, CVPR 2019, section 4.1.
    """

    widths: tuple[int, ...] = (64, 160, 320, 640)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise InvalidSetting(f"widths must name at least one positive number, got {self.widths}")

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        if len(input_shape) != 3:
            raise InvalidData(
                "ResNet12 needs images of shape (channels, height, width), "
                f"got examples of shape {input_shape}"
            )
        params: Params = {}
        n_in = input_shape[0]
        for i, width in enumerate(self.widths):
            for name, source, side in _layers(i, n_in, width):
                spread = math.sqrt(2 / (1.01 * source * side**2))  # He et al. for this slope
                params[f"{name}.weight"] = spread * torch.randn(
                    width, source, side, side, generator=generator
                )
                params[f"{name}.scale"] = torch.ones(width)
                params[f"{name}.shift"] = torch.zeros(width)
            n_in = width
        if n_outputs is not None:
            params |= fresh_head(n_in, n_outputs, generator)
        return params

    @property
    def read_out(self) -> Net:
        return ReadOut()

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        x = inputs.x
        share = inputs.mask / inputs.mask.sum()  # (n,): what each image weighs in a mean; nothing for padding
        used: Params = {}

        def layer(name: str, x: Tensor) -> Tensor:
            known = None
            if statistics is not None:
                known = statistics[f"{name}.mean"], statistics[f"{name}.variance"]
            x, (mean, variance) = convolved(x, params[f"{name}.weight"], share, known)
            used[f"{name}.mean"], used[f"{name}.variance"] = mean, variance
            factor = params[f"{name}.scale"] * torch.rsqrt(variance + EPS)
            offset = params[f"{name}.shift"] - mean * factor
            return scaled(x, factor, offset)

        for i in range(len(self.widths)):
            shortcut = layer(f"block{i}.shortcut", x)
            for j in range(3):
                x = layer(f"block{i}.conv{j}", x)
                # In place: the slope of a leaky ReLU shows in its results, so what goes in need not be kept.
                x = F.leaky_relu(x if j < 2 else x + shortcut, SLOPE, inplace=True)
            x = pooled(x) if min(x.shape[-2:]) >= 2 else x
        return with_head(x.mean((2, 3)), params), used

    def normalisation(self, params: Params) -> frozenset[str]:
        return frozenset(name for name in params if name.endswith((".scale", ".shift")))


def _layers(block: int, n_in: int, width: int) -> list[tuple[str, int, int]]:
    """Return the convolutions of a residual block: name, channels that it reads, side of its window."""
    convolutions = [(f"block{block}.conv{j}", n_in if j == 0 else width, 3) for j in range(3)]
    return [*convolutions, (f"block{block}.shortcut", n_in, 1)]


@nets.register("text")
@dataclass(frozen=True)
class TextEncoder(Net):
    """A weighted mean over the tokens of a text, of fixed and of learned vectors.

    With ``a_t = exp(s_t) / ‖exp(s)‖`` over the tokens of a text, the features are ``g · [Σ_t a_t e_t, h]``
    with ``h = Σ_t a_t v_t``, or what fully connected layers with ReLU between them add to it. Learned are the
    score ``s_t`` and the vector ``v_t`` of each token, the layers and the gain ``g``. The fixed ``e_t`` is 1
    or −1 in one of ``places`` places, by the id: a word that past tasks never showed still has a direction of
    its own. The scores learn that "please" says little.

    Parameters
    ----------
    n_buckets : int
        Tokens that are told apart by scores and learned vectors; higher ids share them.
    places : int
        Length of the fixed part.
    width : int
        Of a learned vector; 0: none.
    hidden : tuple of int
        Widths of the hidden layers above the mean of the learned vectors; none leave it as it is.

    Notes
    -----
    Examples are the ids of tokens, from 1 on; 0 is padding and has no influence, see
    :func:`tasklore.tasks.text.tokens`. Their order does not matter. Learned vectors start small, since large
    ones learn the past tasks by heart.

    References
    ----------
    Weinberger, Dasgupta, Langford, Smola, Attenberg: Feature hashing for large scale multitask learning, ICML
    2009, for the fixed part. Iyyer, Manjunatha, Boyd-Graber, Daumé: Deep unordered composition rivals
    syntactic methods for text classification, ACL 2015, for layers above a mean.
    """

    n_buckets: int = 16384
    places: int = 4096
    width: int = 64
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.n_buckets < 2 or min(self.places, *self.hidden, self.width + 1) < 1:
            raise InvalidSetting(
                "n_buckets must be at least 2, places and hidden widths positive, width not negative, got "
                f"{self.n_buckets}, {self.places}, {self.hidden} and {self.width}"
            )
        if self.hidden and not self.width:
            raise InvalidSetting(
                "hidden layers are above the learned vectors; give them a width, or no hidden"
            )

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        params: Params = {"tokens.score": torch.zeros(self.n_buckets, 1), "gain": torch.tensor(3.0)}
        if self.width:
            params["tokens.vector"] = 0.05 * torch.randn(self.n_buckets, self.width, generator=generator)
        for i, (n_in, n_out) in enumerate(pairwise(self._widths)):
            params |= _linear(f"layer{i}", n_in, n_out, generator)
        n_features = self.places + self.width
        return params if n_outputs is None else params | fresh_head(n_features, n_outputs, generator)

    @property
    def read_out(self) -> Net:
        return ReadOut()

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        ids = inputs.x.flatten(1).long().clamp(min=0)  # (n, length)
        rows = _token_ids(ids, self.n_buckets)
        weight = F.embedding(rows, params["tokens.score"]).squeeze(-1).exp().masked_fill(rows == 0, 0.0)
        weight = _unit(weight)
        sign = (1 - 2 * ((ids // self.places) % 2)).to(weight.dtype)
        fixed = torch.zeros(len(ids), self.places, dtype=weight.dtype, device=weight.device)
        parts = [fixed.scatter_add(1, ids % self.places, weight * sign)]
        if self.width:
            vectors = F.embedding(rows, params["tokens.vector"])  # (n, length, width)
            mean = x = torch.bmm(weight.unsqueeze(1), vectors).squeeze(1)  # (n, width)
            for i in range(len(self._widths) - 1):
                x = F.linear(x.relu() if i else x, params[f"layer{i}.weight"], params[f"layer{i}.bias"])
            parts.append(mean + x if self.hidden else mean)
        return with_head(params["gain"] * torch.cat(parts, 1), params), {}

    @property
    def _widths(self) -> tuple[int, ...]:
        return (self.width, *self.hidden, self.width) if self.hidden else ()


def _unit(x: Tensor) -> Tensor:
    """Return rows of length 1; those of zeros stay what they are."""
    return x * (x**2).sum(1, keepdim=True).clamp(min=1e-12).rsqrt()


def _token_ids(ids: Tensor, n_buckets: int) -> Tensor:
    """Return ids below ``n_buckets``; 0 stays padding, and no other id becomes it."""
    return torch.where(ids > 0, (ids - 1) % (n_buckets - 1) + 1, 0)


def _linear(name: str, n_in: int, n_out: int, generator: Generator) -> Params:
    bound = 1 / math.sqrt(n_in)  # as nn.Linear starts
    weight, bias = (
        torch.empty(size).uniform_(-bound, bound, generator=generator) for size in ((n_out, n_in), (n_out,))
    )
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def fresh_head(n_features: int, n_outputs: int, generator: Generator) -> Params:
    """Return the weights of an output layer."""
    return _linear("head", n_features, n_outputs, generator)


def with_head(features: Tensor, params: Params) -> Tensor:
    """Return the outputs, or the features where there is no output layer."""
    if "head.weight" not in params:
        return features
    return F.linear(features, params["head.weight"], params["head.bias"])
