"""Any ``nn.Module`` as a backbone: fresh, or trained elsewhere, or of Hugging Face or timm by its name.

What was trained elsewhere is a feature extractor as long as it is frozen, and what is meta-learned lies
behind it; else its weights are where meta-learning starts. In both cases it stays in evaluation mode: dropout
is off, and normalisation keeps the statistics that it came with, so that tasks do not share any through it.
"""

import abc
import contextlib
import functools
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .errors import DownloadError, InvalidData, InvalidSetting, MissingDependency
from .functional import called, check_module
from .nets import Net, ReadOut, fresh_head, with_head
from .registry import nets
from .types import Inputs, Params

__all__ = ["HuggingFace", "ModuleNet", "PretrainedModule", "PretrainedNet", "Timm"]

BODY = "body."
ROUNDING = 0.01  # of the largest feature: what two ways of computing the same may differ by
Made = TypeVar("Made")


@dataclass(frozen=True)
class ModuleNet(Net):
    """Any ``nn.Module`` that turns examples into features, with a linear output layer where one is asked for.

    Attention, recurrent layers, tied weights and autocast inside are fine. Weights that do not require a
    gradient, and buffers, stay as ``build`` makes them; that must be the same each time, as it is for
    constants and for what is loaded.

    Parameters
    ----------
    build : callable (input_shape) -> nn.Module
        Makes a fresh module from (n, *input_shape) to (n, ...). Called with torch's global generator seeded,
        and restored afterwards.

    Raises
    ------
    InvalidSetting
        The module has layers that meta-learning cannot use, see :func:`~tasklore.functional.check_module`.

    Examples
    --------
    >>> import torch
    >>> net = ModuleNet(lambda shape: torch.nn.GRUCell(shape[0], 4))
    >>> sorted(net.init((3,), 2, torch.Generator().manual_seed(0)))[-2:]
    ['head.bias', 'head.weight']
    """

    build: Callable[[tuple[int, ...]], nn.Module]

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        module = _built(self.build, input_shape, int(torch.randint(2**62, (), generator=generator)))
        check_module(module)
        own = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        params = {f"{BODY}{name}": weight.detach().clone() for name, weight in own.items()}
        n_features = _n_features(module, _examples(input_shape), own)
        return params if n_outputs is None else params | fresh_head(n_features, n_outputs, generator)

    @property
    def read_out(self) -> Net:
        return ReadOut()

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        module = _template(self.build, tuple(inputs.x.shape[1:]))
        weights = _own(module, inputs) | _body(params)
        features, used = called(module, weights, inputs, statistics)
        return with_head(features.flatten(1).to(inputs.mask.dtype), params), used


def _built(build: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(shape)


@functools.lru_cache(maxsize=16)
def _template(build: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """Return a module whose weights are always exchanged, but for those that are frozen."""
    return _aside(lambda: _built(build, shape, 0).requires_grad_(False))


def _aside(make: Callable[[], Made]) -> Made:
    """Make something in a thread of its own: transforms that are under way belong to this one."""
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(make).result()


_elsewhere: weakref.WeakKeyDictionary[nn.Module, dict[tuple[torch.device, torch.dtype], Params]]
_elsewhere = weakref.WeakKeyDictionary()  # weights and buffers of modules, by device and precision


def _examples(shape: tuple[int, ...]) -> Tensor:
    """Return three examples to try a module on; from 0 to 1, so that as whole numbers they are all 0."""
    return torch.rand(3, *shape, generator=Generator().manual_seed(0))


def _n_features(module: nn.Module, some: Tensor, exchanged: Mapping[str, Tensor]) -> int:
    """Return how many features a module makes of each example.

    Parameters
    ----------
    module : nn.Module
    some : Tensor, shape (3, ...)
    exchanged : Params
        Those of its weights that others will be put in the place of.

    Raises
    ------
    InvalidSetting
        It makes something else, or not the same each time, or it mixes examples, or computes with weights
        past those that it is given.
    """
    inputs = Inputs(some, torch.ones(len(some)))
    own, drawn = _own(module, inputs), torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in own.items()}
    with torch.no_grad():
        features: Any = called(module, own, inputs)[0]
    if not torch.equal(torch.random.get_rng_state(), drawn):
        raise InvalidSetting(
            "the module draws at random when it is called, and no inner gradient can repeat that; leave that "
            "out of it"
        )
    if changed := [name for name, tensor in own.items() if not torch.equal(tensor, before[name])]:
        raise InvalidSetting(
            f"the module changes its {changed[0]} when it is called, so that tasks would share what is in "
            "there; leave that out of it, or call its eval() where that stops it"
        )
    if not isinstance(features, Tensor) or features.shape[:1] != (len(some),):
        shape = f"a tensor of shape {tuple(features.shape)}" if isinstance(features, Tensor) else "no tensor"
        raise InvalidSetting(
            f"the module made {shape} of {len(some)} examples; it must return one tensor, with a row for each"
        )
    with torch.no_grad():
        _check_apart(module, own, inputs)
        _check_exchanged(module, own, exchanged, inputs)
    return features.flatten(1).shape[1]


def _check_apart(module: nn.Module, own: Params, inputs: Inputs) -> None:
    """Refuse a module that lets an example change what it makes of the others, padding above all."""
    padded = inputs._replace(mask=torch.tensor([1.0, 1.0, 0.0]))
    features, used = called(module, own, padded)
    other = padded._replace(x=torch.cat([inputs.x[:2], inputs.x[2:] / 2]))
    for statistics in (None, used):
        if not _alike(called(module, own, other, statistics)[0][:2], features[:2]):
            raise InvalidSetting(
                "the module mixes examples: what it makes of one changes with another, so that padding and "
                "queries would take part; keep them apart along the first axis, and normalise batches with "
                "torch.nn.functional.batch_norm or its layers, an example's rows together"
            )


def _check_exchanged(module: nn.Module, own: Params, exchanged: Mapping[str, Tensor], inputs: Inputs) -> None:
    """Refuse a module that computes with other weights than those that are put in the place of its own."""
    chance = Generator().manual_seed(1)
    moved = {
        name: w + (0.1 + w.abs().mean()) * torch.randn(w.shape, generator=chance).to(w)
        for name, w in exchanged.items()
        if w.is_floating_point()
    }
    if not moved:
        return
    expected = torch.func.functional_call(module, moved, (inputs.x,))
    if not _alike(called(module, own | moved, inputs)[0], expected):
        raise InvalidSetting(
            "the module computes with weights that it does not look up where it is called, as a lambda, a "
            "hook or a weak reference does that was made with a module and refers to it; use methods of the "
            "module instead, which go with it when it is copied"
        )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether features are the same but for rounding."""
    largest = max(1e-6, float(other.abs().max()))
    return bool(torch.allclose(one, other, rtol=0.0, atol=ROUNDING * largest, equal_nan=True))


def _own(module: nn.Module, inputs: Inputs) -> Params:
    """Return a module's own weights and buffers, where examples lie and in their precision."""
    floats = inputs.x.dtype if inputs.x.is_floating_point() else inputs.mask.dtype
    known = _elsewhere.setdefault(module, {})
    if (place := (inputs.x.device, floats)) not in known:
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        known[place] = _aside(
            lambda: {n: t.to(place[0], floats if t.is_floating_point() else None) for n, t in tensors.items()}
        )
    return known[place]


def _body(params: Params) -> Params:
    return {name.removeprefix(BODY): w for name, w in params.items() if name.startswith(BODY)}


@dataclass(frozen=True)
class PretrainedNet(Net):
    """What all such backbones do; a subclass says where the module comes from.

    Parameters
    ----------
    frozen : bool
        Keep the weights as they are: then they are no params, and no part of a saved prior, which loads them
        again from where they came. If not, those that do not require a gradient where the module comes from
        stay nevertheless.

    Raises
    ------
    InvalidSetting
        The module draws at random, changes itself, mixes examples, or computes with weights past its own.
    """

    frozen: bool = True

    @abc.abstractmethod
    def load(self) -> nn.Module:
        """Return the module, from (n, *input_shape) to (n, ...); called once in a process."""

    def shown(self, x: Tensor) -> Tensor:
        """Return examples as the module wants them."""
        return x

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: Generator) -> Params:
        module, trainable = _loaded(self)
        own = {} if self.frozen else {name: module.get_parameter(name) for name in trainable}
        params = {f"{BODY}{name}": weight.detach().clone() for name, weight in own.items()}
        n_features = _n_features(module, self.shown(_examples(input_shape)), own)
        return params if n_outputs is None else params | fresh_head(n_features, n_outputs, generator)

    @property
    def read_out(self) -> Net:
        return ReadOut()

    def apply(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        (module, _), inputs = _loaded(self), inputs._replace(x=self.shown(inputs.x))
        weights = _own(module, inputs) | _body(params)
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            features, used = called(module, weights, inputs, statistics)
        return with_head(features.flatten(1).to(inputs.mask.dtype), params), used


@functools.lru_cache(maxsize=8)
def _loaded(net: PretrainedNet) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module, and the names of the weights that require a gradient where it comes from."""
    module = _aside(lambda: net.load().eval())
    trainable = tuple(name for name, weight in module.named_parameters() if weight.requires_grad)
    return module.requires_grad_(False), trainable


@dataclass(frozen=True)
class PretrainedModule(PretrainedNet):
    """Any ``nn.Module``, with the weights that it has when it is built.

    Parameters
    ----------
    frozen : bool
        See :class:`PretrainedNet`.
    build : callable () -> nn.Module
        Makes the module, for example by loading its weights.

    Examples
    --------
    >>> import torch
    >>> net = PretrainedModule(build=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)))
    >>> net.init((1, 2, 2), None, torch.Generator())
    {}
    >>> net.apply({}, Inputs(torch.ones(5, 1, 2, 2), torch.ones(5)))[0].shape
    torch.Size([5, 3])
    """

    build: Callable[[], nn.Module] | None = None

    def load(self) -> nn.Module:
        if self.build is None:
            raise InvalidSetting("there is no module; give build=, a callable that makes one")
        return self.build()


@dataclass(frozen=True)
class ImageBackbone(PretrainedNet):
    """What backbones for images have in common: they see three channels, perhaps of a size of their own.

    Parameters
    ----------
    frozen : bool
        See :class:`PretrainedNet`.
    model : str
    size : int, optional
        Height and width that images are brought to; by default they stay as they are.
    """

    model: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidSetting("which model? Give its name as model, or the folder that it was saved in")
        if self.size is not None and self.size < 1:
            raise InvalidSetting(f"size must be positive or left out, got {self.size}")

    def shown(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InvalidData(
                f"{type(self).__name__} needs images of shape (1 or 3, height, width), got examples of shape "
                f"{tuple(x.shape[1:])}"
            )
        if self.size is not None:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)


@nets.register("hugging-face")
@dataclass(frozen=True)
class HuggingFace(ImageBackbone):
    """A vision model of Hugging Face: its pooled output, else the mean over positions of its last layer.

    Parameters
    ----------
    frozen : bool
        Keep the weights as they are; else they are where meta-learning starts.
    model : str
        A name on the hub, from where it is fetched, or a folder that ``save_pretrained`` wrote. Weights are
        read as safetensors only, and no code that comes with a model is run.
    size : int, optional
        Height and width that images are brought to, for models that want their own.
    """

    def load(self) -> nn.Module:
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise MissingDependency(
                "a model of Hugging Face needs transformers: pip install 'tasklore[pretrained]'"
            ) from error
        try:
            model = AutoModel.from_pretrained(self.model, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise DownloadError(
                f"the model {self.model!r} cannot be loaded: {lines[0]}; give a name on the hub or a folder "
                "that save_pretrained wrote, with weights as safetensors"
            ) from error
        return _Pooled(model)


class _Pooled(nn.Module):
    """A model of Hugging Face as a function from images to features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found = self.model(pixel_values=x)
        pooled = found.get("pooler_output")
        if pooled is not None:
            return pooled
        last = found["last_hidden_state"]  # (n, positions, f), or (n, f, height, width)
        return last.mean(1) if last.ndim == 3 else last.flatten(2).mean(2)


@nets.register("timm")
@dataclass(frozen=True)
class Timm(ImageBackbone):
    """A vision model of timm, without its output layer.

    Parameters
    ----------
    frozen : bool
        Keep the weights as they are; else they are where meta-learning starts.
    model : str
        As ``timm.list_models(pretrained=True)`` names it; its weights are fetched.
    size : int, optional
        Height and width that images are brought to, for models that want their own.
    """

    def load(self) -> nn.Module:
        try:
            import timm  # pyright: ignore[reportMissingImports] - needs torchvision, so it is not in our extras
        except ImportError as error:
            raise MissingDependency(
                "a model of timm needs timm and torchvision: pip install timm torchvision"
            ) from error
        try:
            return timm.create_model(self.model, pretrained=True, num_classes=0)
        except (RuntimeError, OSError, ValueError) as error:
            raise DownloadError(
                f"the model {self.model!r} cannot be loaded: {error}; see timm.list_models(pretrained=True)"
            ) from error
