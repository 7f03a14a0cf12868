"""Where tensors lie, and in how many digits nets compute."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .errors import InvalidSetting
from .learners.base import Learner
from .nets import Net
from .types import Inputs, Params

__all__ = [
    "Device",
    "Lowered",
    "Precision",
    "computes_bfloat16",
    "device_for",
    "device_of",
    "in_precision",
    "placed",
]

Tree = TypeVar("Tree")

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
"""Where to compute; "auto" is a CUDA device where there is one."""

Precision: TypeAlias = Literal["float32", "bfloat16"]
"""What a net's convolutions and products of matrices compute in."""


def device_for(wanted: Device) -> torch.device:
    """Return the device that a setting means on this machine.

    Raises
    ------
    InvalidSetting
        There is no such device here.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise InvalidSetting(f"device is {wanted!r}; use 'auto', 'cpu' or 'cuda'")
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise InvalidSetting(
            "device is 'cuda', and torch sees no CUDA device here; use 'cpu' or 'auto', or install a build "
            "of torch with CUDA and its driver"
        )
    if not there or wanted == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 itself; a CPU without AVX-512 does so step by step."""
    if device.type != "cpu":
        return True
    return not torch.backends.cpu.get_cpu_capability().startswith(("AVX2", "DEFAULT", "NO AVX"))


def device_of(params: Params) -> torch.device:
    """Return where params lie; without any, that is the CPU."""
    return next((tensor.device for tensor in params.values()), torch.device("cpu"))


def placed(tree: Tree, device: torch.device) -> Tree:
    """Return tensors, or a tree of them, on a device; the very same if all lie there already."""
    if all(leaf.device == device for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)):
        return tree
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


@dataclass(frozen=True)
class Lowered(Net):
    """Another net, whose convolutions and products compute in bfloat16 (mixed precision).

    Weights, statistics, outputs and all that a learner does with them stay in single precision: a read-out
    that is solved for, or a difference of distances, would lose its digits.

    Parameters
    ----------
    net : Net

    References
    ----------
    Micikevicius et al.: Mixed Precision Training, ICLR 2018. Kalamkar et al.: A Study of BFLOAT16 for Deep
    Learning Training, 2019: as large a range as float32, so that losses need no scaling.
    """

    net: Net

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        return self.net.init(input_shape, n_outputs, generator)

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        # A cache of lowered weights would outlive the transform that made them.
        with torch.autocast(inputs.mask.device.type, torch.bfloat16, cache_enabled=False):
            outputs, used = self.net.apply(params, inputs, statistics)
        return outputs.float(), {name: tensor.float() for name, tensor in used.items()}

    def output_layer(self, params: Params) -> frozenset[str]:
        return self.net.output_layer(params)

    @property
    def read_out(self) -> Net | None:
        return self.net.read_out

    def linear_layers(self, params: Params) -> frozenset[str]:
        return self.net.linear_layers(params)

    def normalisation(self, params: Params) -> frozenset[str]:
        return self.net.normalisation(params)


def in_precision(learner: Learner, precision: Precision) -> Learner:
    """Return the learner with its net computing in this precision.

    Raises
    ------
    InvalidSetting
        It has no net, or looks into it, or solves for a direction with the net's curvature.
    """
    if precision == "float32":
        return learner
    name = type(learner).__name__
    if learner.backbone is None:
        raise InvalidSetting(f"{name} has no network to compute in {precision}; use precision = 'float32'")
    if learner.rule == "implicit":
        raise InvalidSetting(
            f"{name} solves a system with the curvature of its network, of which {precision} leaves too few "
            "digits; use precision = 'float32'"
        )
    changed: Any = learner
    try:
        return dataclasses.replace(changed, net=Lowered(learner.backbone))
    except (InvalidSetting, TypeError) as error:
        raise InvalidSetting(
            f"{name} cannot compute in {precision}, as it works inside its network; use precision = 'float32'"
        ) from error
