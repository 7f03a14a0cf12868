"""Gradients that are differentiated themselves, and results that are computed again for it, not kept."""

from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from .errors import InvalidSetting
from .lowrank import LowRank, made
from .stacks import Stack
from .types import Params

__all__ = ["recomputed", "slopes"]

Tree = TypeVar("Tree")


def slopes(function: Callable[..., Tensor], at: Params, *given: Any, again: bool = True) -> Params:
    """Return the gradient of ``function(at, *given)`` with respect to ``at``.

    It is taken from the tape, which spends less time on each small operation than the transform, also where
    tasks are vectorised: they do not depend on each other, so the slopes of the sum over tasks are those of
    each task. In compiled graphs, and inside other transforms than one ``vmap``, it is ``torch.func.grad``.

    Parameters
    ----------
    function : callable -> Tensor, shape ()
        Pure, and depending on no tensors but those given.
    at : Params
        Where.
    given : pytrees of tensors
        What else it is called with.
    again : bool
        Whether the gradient may be differentiated with respect to ``at`` and ``given``; else it is constant.

    Returns
    -------
    Params
        As ``at``; zero where the function does not depend on a tensor.

    Raises
    ------
    InvalidSetting
        Inside ``torch.inference_mode()``.

    Examples
    --------
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> slope = slopes(lambda at: at["x"] ** 3, {"x": x})["x"]
    >>> slope.item(), torch.autograd.grad(slope, x)[0].item()
    (27.0, 18.0)
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and torch.is_inference_mode_enabled():
        raise InvalidSetting(
            "inner gradient steps are asked for inside torch.inference_mode(), where there are no gradients; "
            "use torch.no_grad() there instead"
        )
    stack = Stack.here()
    if stack is None:
        at = {name: made(weight) for name, weight in at.items()}
        found: Params = torch.func.grad(function)(at, *given)
        return found if again else {name: slope.detach() for name, slope in found.items()}

    def on_tape(leaf: Any) -> bool:
        tensor = leaf.base if isinstance(leaf, LowRank) else leaf
        return isinstance(tensor, Tensor) and stack.whole(tensor).requires_grad

    again = again and torch.is_grad_enabled() and any(map(on_tape, tree_leaves((at, given))))
    with torch.enable_grad():
        here: dict[str, Any] = {}
        places: dict[str, Tensor] = {}
        for name, weight in at.items():
            if isinstance(weight, LowRank) and on_tape(weight):
                here[name] = weight.watched()
            elif again and on_tape(weight):
                places[name], here[name] = stack.node(weight)
            else:
                places[name] = stack.leaf(stack.whole(made(weight), each=True))
                here[name] = stack.part(places[name])
        value = stack.whole(function(here, *given))
        if not at or not value.requires_grad:  # the tape has nothing to say
            return {name: torch.zeros_like(made(weight)) for name, weight in at.items()}
        wholes = {name: [places[name]] if name in places else weight.results for name, weight in here.items()}
        asked = [*chain(*wholes.values())]
        each = torch.autograd.grad(value.sum(), asked, create_graph=again, materialize_grads=True)
    parts = map(stack.part, each)
    return {
        name: next(parts) if name in places else weight.slope(parts, again) for name, weight in here.items()
    }


def recomputed(function: Callable[..., Tree], *given: Any) -> Tree:
    """Return ``function(*given)``, whose intermediate results are not kept.

    It may be differentiated once, and vectorised; ``torch.utils.checkpoint`` cannot be, as its hooks do not
    work inside ``torch.func``'s transforms.

    Parameters
    ----------
    function : callable
        Pure. All tensors that it depends on are given: what it only encloses would be constant.
    given : pytrees of tensors
        What it is called with.

    Returns
    -------
    pytree of tensors
        As ``function`` returns it.

    Examples
    --------
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> y = recomputed(lambda x: {"y": x.sin() ** 2}, x)["y"]
    >>> torch.autograd.grad(y, x)[0] == 2 * x.sin() * x.cos()
    tensor(True)

    References
    ----------
    Chen, Xu, Zhang, Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016.
    """
    tensors, layout = tree_flatten(given)
    found: list[Any] = []  # the layout of what is returned

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        results, returned = tree_flatten(function(*tree_unflatten(list(tensors), layout)))
        found[:] = [returned]
        return tuple(results)

    results: Any = _Recomputed.apply(flat, *tensors)
    return tree_unflatten(list(results), found[0])


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004 - torch's
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        places = [place for place, tensor in enumerate(tensors) if tensor.is_floating_point()]

        def of_floats(*floats: Tensor) -> tuple[Tensor, ...]:
            given = list(tensors)
            for place, tensor in zip(places, floats, strict=True):
                given[place] = tensor
            return ctx.function(*given)

        found = torch.func.vjp(of_floats, *(tensors[place] for place in places))[1](slopes)
        each: list[Tensor | None] = [None] * len(tensors)
        for place, slope in zip(places, found, strict=True):
            each[place] = slope
        return None, *each
