"""The tensors of all tasks that stand behind those of one while tasks are vectorised."""

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue] - as torch.func does

__all__ = ["Stack", "transformed"]


def transformed() -> bool:
    """Return whether one of ``torch.func``'s transforms is at work: ``vmap``, ``grad``, ..."""
    # torch's own functions ask in the same way, in 2.8 to 2.13.
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]


class Stack:
    """Tensors of one task, and those of all tasks that they are parts of: the same where tasks are looped."""

    @classmethod
    def here(cls) -> "Stack | None":
        """Return the one at hand; None in compiled graphs, and inside transforms but a single ``vmap``."""
        if torch.compiler.is_compiling():
            return None
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

    def node(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same numbers, as a place on the tape of their own, of all tasks and as a part of that.

        What else was made of the tensor does not depend on that place.
        """
        whole = self.whole(tensor, each=True)
        whole = whole.view_as(whole)
        return whole, self.part(whole)


class _Vectorised(Stack):
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
