"""Weights of linear layers that inner gradient steps move, without making them for each task.

Where a weight multiplies ``n`` examples, the slope of a loss is a product of two thin matrices: the slopes at
the ``n`` outputs, and the ``n`` inputs. After some steps on a few examples a task's weight is thus the shared
one plus a thin product. Kept like that, the shared weight stays one large multiplication for the examples of
all tasks, and nothing of its size is made for a task: neither for a step, nor for the derivative of a step.

Only for weights that a net names as such (:meth:`tasklore.nets.Net.linear_layers`): what is done to them is
seen by torch's protocol for subclasses, which in-place functions, custom functions and transforms go past.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from .stacks import Stack
from .types import Params

__all__ = ["LowRank", "made", "thin"]

SMALL = 0.5
"""The most numbers that a thin product may have, as a share of the weight's."""


NOTHING = torch.empty(0)


class _Unmade(Tensor):
    """A matrix that is known by its parts, and made for a function of torch that does not know them."""

    def __new__(cls, *_: object) -> Self:
        return Tensor._make_subclass(cls, NOTHING)  # of which nothing but the type is used

    def made(self) -> Tensor:
        """Return it as a plain tensor."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            raise TypeError(f"a weight that inner steps have moved cannot be changed in place, by {name}")
        known = KNOWN.get(func)
        found = NotImplemented if known is None else known(*args, **(kwargs or {}))
        if found is NotImplemented:
            return func(*tree_map(made, args), **tree_map(made, kwargs or {}))
        return found


class LowRank(_Unmade):
    """A matrix ``base + slopesᵀ inputs`` that is multiplied with, not made.

    Layers compute with it as with any tensor, by ``torch.nn.functional.linear``; for any other function of
    torch it is made, and for a layer that is given more than two axes.

    Parameters
    ----------
    base : Tensor, shape (n_out, n_in)
    slopes : Tensor, shape (rank, n_out), optional
    inputs : Tensor, shape (rank, n_in), optional
        None, both of them, where nothing is added to the base.

    Examples
    --------
    >>> import torch
    >>> weight = LowRank(torch.zeros(3, 2), torch.ones(1, 3), torch.tensor([[1.0, 2.0]]))
    >>> torch.nn.functional.linear(torch.tensor([[10.0, 1.0]]), weight)
    tensor([[12., 12., 12.]])
    >>> weight.sum()
    tensor(9.)
    """

    def __init__(  # pyright: ignore[reportInconsistentConstructor] - what is taken is said here only
        self, base: Tensor, slopes: Tensor | None = None, inputs: Tensor | None = None
    ) -> None:
        self.base, self.slopes, self.inputs = base, slopes, inputs
        self._uses: list[tuple[Tensor, Tensor | None]] | None = None  # what came out, and what went in

    def watched(self) -> "LowRank":
        """Return the same matrix, which remembers what is computed with it."""
        copy = LowRank(self.base, self.slopes, self.inputs)
        copy._uses = []
        return copy

    @property
    def results(self) -> list[Tensor]:
        """What was computed with it since it is watched, of all tasks."""
        return [result for result, _ in self._uses or ()]

    def made(self) -> Tensor:
        if self.slopes is None or self.inputs is None:
            return self._noted(self.base, None)
        return self._noted(self.base + self.slopes.T @ self.inputs, None)

    def linear(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return ``x @ matrix.T + bias`` of (n, n_in)."""
        y = F.linear(x, self.base, bias)
        if self.slopes is not None and self.inputs is not None:
            y = y + (x @ self.inputs.T) @ self.slopes
        return self._noted(y, x)

    def slope(self, at_results: Iterator[Tensor], again: bool = True) -> "Slope":
        """Return the slope with respect to it.

        Parameters
        ----------
        at_results : iterator of Tensor
            The slopes at its results, in their order.
        again : bool
            Whether it may be differentiated; else it is constant.
        """
        full: Tensor | None = None
        pairs: list[tuple[Tensor, Tensor]] = []
        # What follows in the iterator are slopes of others. Either may be of lowered precision.
        for (_, x), slope in zip(self._uses or (), at_results, strict=False):
            if x is None:
                full = slope if full is None else full + slope
            else:
                x = x if again else x.detach()
                pairs.append((slope.to(self.base.dtype), x.to(self.base.dtype)))
        return Slope(self.base, full, pairs)

    def moved(self, slope: "Slope", alpha: float = 1.0) -> "LowRank":
        """Return the sum with ``alpha`` times a slope."""
        base = self.base if slope.full is None else torch.add(self.base, slope.full, alpha=alpha)
        pairs = [] if self.slopes is None or self.inputs is None else [(self.slopes, self.inputs)]
        pairs += [(alpha * slopes, inputs) for slopes, inputs in slope.pairs]
        if not pairs:
            return LowRank(base)
        slopes, inputs = (torch.cat(tensors) for tensors in zip(*pairs, strict=True))
        return LowRank(base, slopes, inputs)

    def _noted(self, result: Tensor, x: Tensor | None) -> Tensor:
        stack = None if self._uses is None else Stack.here()
        if stack is None or self._uses is None:
            return result
        whole, part = stack.node(result)
        self._uses.append((whole, x))
        return part


class Slope(_Unmade):
    """A slope with respect to a :class:`LowRank`: a sum of a tensor and of thin products.

    Parameters
    ----------
    like : Tensor, shape (n_out, n_in)
        What has the shape of it.
    full : Tensor, shape (n_out, n_in), optional
    pairs : list of (Tensor, shape (rank, n_out); Tensor, shape (rank, n_in))
    """

    def __init__(  # pyright: ignore[reportInconsistentConstructor]
        self, like: Tensor, full: Tensor | None, pairs: list[tuple[Tensor, Tensor]]
    ) -> None:
        self.like, self.full, self.pairs = like, full, pairs

    def times(self, factor: Tensor) -> "Slope":
        """Return it times a number."""
        full = None if self.full is None else factor * self.full
        return Slope(self.like, full, [(factor * slopes, inputs) for slopes, inputs in self.pairs])

    def made(self) -> Tensor:
        total = torch.zeros_like(self.like) if self.full is None else self.full
        for slopes, inputs in self.pairs:
            total = total + slopes.T @ inputs
        return total


def made(value: Any) -> Any:
    """Return what is kept by its parts as a plain tensor; anything else as it is."""
    return value.made() if isinstance(value, _Unmade) else value


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002 - torch's names
    if not isinstance(weight, LowRank) or isinstance(input, _Unmade) or input.ndim != 2:
        return NotImplemented
    return weight.linear(input, made(bias))


def _add(input: Tensor, other: Tensor, *, alpha: float = 1.0) -> Tensor:  # noqa: A002
    if not isinstance(input, LowRank) or not isinstance(other, Slope):
        return NotImplemented
    return input.moved(other, alpha)


def _mul(self: Tensor, other: Any) -> Tensor:
    if not isinstance(other, Slope) or isinstance(self, _Unmade) or self.ndim:
        return NotImplemented
    return other.times(self)


KNOWN: Mapping[Any, Callable[..., Any]] = {F.linear: _linear, torch.add: _add, Tensor.mul: _mul}
"""What is done without making a matrix, where it can be: a layer, a step, and a size of steps."""


def thin(weights: Params, rank: int) -> Params:
    """Return weights of linear layers, kept as a base and a product where that is smaller than the weight.

    Parameters
    ----------
    weights : Params
    rank : int
        Examples times steps.
    """

    def pays(weight: Tensor) -> bool:
        return weight.ndim == 2 and rank * sum(weight.shape) <= SMALL * weight.numel()

    return {name: LowRank(w) if pays(w) else w for name, w in weights.items()}
