"""Gradients that are differentiated themselves, and results that are computed again for it, not kept."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue] - as torch.func does
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from .errors import InvalidSetting
from .types import Params

__all__ = ["recomputed", "slopes", "transformed"]

Tree = TypeVar("Tree")


def transformed() -> bool:
    """Return whether one of ``torch.func``'s transforms is at work: ``vmap``, ``grad``, ..."""
    # torch's own functions ask in the same way, in 2.8 to 2.13.
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]


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
    stack = None if compiling else _Stack.here()
    if stack is None:
        found: Params = torch.func.grad(function)(at, *given)
        return found if again else {name: slope.detach() for name, slope in found.items()}
    leaves: list[Any] = tree_leaves((at, given))
    watched = any(isinstance(leaf, Tensor) and stack.whole(leaf).requires_grad for leaf in leaves)
    again = again and torch.is_grad_enabled() and watched
    with torch.enable_grad():
        # A view is a tensor of its own: what else the function makes of the same tensor is no part of this.
        wholes = [stack.whole(tensor, each=True) for tensor in at.values()]
        wholes = [
            whole.view_as(whole) if again and whole.requires_grad else stack.leaf(whole) for whole in wholes
        ]
        value = stack.whole(function(dict(zip(at, map(stack.part, wholes), strict=True)), *given))
        if not at or not value.requires_grad:  # the tape has nothing to say
            return {name: torch.zeros_like(tensor) for name, tensor in at.items()}
        each = torch.autograd.grad(value.sum(), wholes, create_graph=again, materialize_grads=True)
    return dict(zip(at, map(stack.part, each), strict=True))


class _Stack:
    """Tensors of one task, and those of all tasks that they are parts of."""

    @classmethod
    def here(cls) -> "_Stack | None":
        """Return the one at hand; None inside transforms that are more than one ``vmap``."""
        if not transformed():
            return cls()
        interpreters = functorch.get_interpreter_stack() or []
        alone = len(interpreters) == 1 and interpreters[0].key() == functorch.TransformType.Vmap
        return _Vectorised(interpreters[0]) if alone else None

    def whole(self, tensor: Tensor, each: bool = False) -> Tensor:
        """Return the tensor of all tasks, which comes first if there is an axis for them.

        Parameters
        ----------
        tensor : Tensor
        each : bool
            Whether there must be one, as if each task had a tensor of its own.
        """
        return tensor

    def part(self, whole: Tensor) -> Tensor:
        """Return what is one task's, of a tensor with an axis for them."""
        return whole

    def leaf(self, whole: Tensor) -> Tensor:
        """Return the same numbers, of which the tape knows nothing yet."""
        return whole.detach().requires_grad_()


class _Vectorised(_Stack):
    def __init__(self, interpreter: Any) -> None:
        self.level = interpreter.level()
        self.n_tasks = functorch.CVmapInterpreterPtr(interpreter).batchSize()

    def whole(self, tensor: Tensor, each: bool = False) -> Tensor:
        if functorch.is_batchedtensor(tensor):
            return functorch.get_unwrapped(tensor).movedim(functorch.maybe_get_bdim(tensor), 0)
        return tensor.expand(self.n_tasks, *tensor.shape) if each else tensor

    def part(self, whole: Tensor) -> Tensor:
        return functorch._add_batch_dim(whole, 0, self.level)

    def leaf(self, whole: Tensor) -> Tensor:
        functorch.set_inplace_requires_grad_allowed(True)  # as torch.func.grad does
        try:
            return super().leaf(whole)
        finally:
            functorch.set_inplace_requires_grad_allowed(False)


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
