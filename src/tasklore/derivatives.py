"""Gradients that are differentiated themselves, and results that are computed again for it, not kept."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from .types import Params

__all__ = ["recomputed", "slopes", "transformed"]

Tree = TypeVar("Tree")


def transformed() -> bool:
    """Return whether one of ``torch.func``'s transforms is at work: ``vmap``, ``grad``, ..."""
    # torch's own functions ask in the same way, in 2.8 to 2.13.
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]


def slopes(function: Callable[..., Tensor], at: Params, *given: Any, again: bool = True) -> Params:
    """Return the gradient of ``function(at, *given)`` with respect to ``at``.

    Inside ``torch.func``'s transforms it is one of them. Elsewhere it is taken from the tape, which spends
    less time on each small operation.

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

    Examples
    --------
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> slope = slopes(lambda at: at["x"] ** 3, {"x": x})["x"]
    >>> slope.item(), torch.autograd.grad(slope, x)[0].item()
    (27.0, 18.0)
    """
    if torch.compiler.is_compiling() or transformed():
        found: Params = torch.func.grad(function)(at, *given)
        return found if again else {name: slope.detach() for name, slope in found.items()}
    leaves: list[Any] = tree_leaves((at, given))
    watched = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
    again = again and torch.is_grad_enabled() and watched
    with torch.enable_grad():
        # A view is a tensor of its own: what else the function makes of the same tensor is no part of this.
        here = {
            name: tensor.view_as(tensor)
            if again and tensor.requires_grad
            else tensor.detach().requires_grad_()
            for name, tensor in at.items()
        }
        value = function(here, *given)
        if not here or not value.requires_grad:  # the tape has nothing to say
            return {name: torch.zeros_like(tensor) for name, tensor in here.items()}
        each = torch.autograd.grad(value, list(here.values()), create_graph=again, materialize_grads=True)
    return dict(zip(here, each, strict=True))


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
