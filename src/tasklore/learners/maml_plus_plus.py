"""MAML with what makes its training stable: a loss after each step, and tensors that each step has alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..errors import InvalidSetting
from ..registry import learners
from ..types import Context, Episode, Params, TaskSpec
from .base import Tags
from .gradient import MAML, StepSizes

__all__ = ["MAMLPlusPlus"]

EACH_STEP = "each-step/"


@learners.register("maml-plus-plus")
@dataclass(frozen=True)
class MAMLPlusPlus(MAML):
    """MAML++: MAML with learned step sizes, a loss after each step and, at first, first-order gradients.

    The objective is ``Σ_i v_i L_query(w_i)`` over the weights ``w_i`` after each of the inner steps. The
    shares ``v_i`` start equal, and move linearly to all for the last step during the first
    ``multi_step_loss_steps`` meta-steps. Every layer has a learned step size for every inner step. During the
    first ``first_order_steps`` meta-steps the inner gradients count as constants. Of Conv-4, the scale and
    shift after normalisation do not move in the inner loop; each inner step has its own, meta-learned.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive, learned_step_sizes
        See :class:`~tasklore.learners.gradient.RatedLearner`.
    multi_step_loss_steps : int
        Meta-steps until only the loss after the last inner step counts; 0: from the start.
    first_order_steps : int
        Meta-steps until the meta-gradient holds second derivatives; 0: from the start.

    Notes
    -----
    Not from the paper: its normalisation keeps running statistics for each step, here each step uses those of
    its own batch, as everywhere in this package; and its cosine schedule of the outer rate belongs to the
    training, as ``cosine_steps`` of its settings. In the authors' code the earlier
    losses keep a small share for ever, here none. Further steps on a new task than were meta-learned take the
    last step's tensors.

    References
    ----------
    Antoniou, Edwards, Storkey: How to Train Your MAML, ICLR 2019, section 4.
    """

    tags: ClassVar[Tags] = Tags(scheduled=True)

    inner_steps: int = 5
    learned_step_sizes: StepSizes = "per-layer-and-step"
    multi_step_loss_steps: int = 1000
    first_order_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_steps < 1:
            raise InvalidSetting(f"MAML++ needs at least one of inner_steps, got {self.inner_steps}")
        if self.multi_step_loss_steps < 0 or self.first_order_steps < 0:
            raise InvalidSetting(
                "meta-steps cannot be negative, got "
                f"multi_step_loss_steps={self.multi_step_loss_steps}, "
                f"first_order_steps={self.first_order_steps}"
            )

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        params = super().init(spec, generator)
        for name in self.net.normalisation(params):
            first = params.pop(name)
            params[EACH_STEP + name] = first.expand(self.inner_steps, *first.shape).clone()
        return params

    def begun(self, params: Params, weights: Params) -> Params:
        each = {
            EACH_STEP + name: weights[name].expand(self.inner_steps, *weights[name].shape).clone()
            for name in self.net.normalisation(weights)
        }
        return super().begun(params, weights | each)

    def moving(self, weights: Params) -> Params:
        fixed = self.net.normalisation(weights)
        return {name: tensor for name, tensor in weights.items() if name not in fixed}

    def weights_at(self, params: Params, step: int) -> Params:
        weights: Params = {}
        for name, tensor in super().weights_at(params, step).items():
            if name.startswith(EACH_STEP):
                weights[name.removeprefix(EACH_STEP)] = tensor[min(step, len(tensor) - 1)]
            else:
                weights[name] = tensor
        return weights

    def differentiates(self, context: Context) -> bool:
        return context.step >= self.first_order_steps

    def objective(self, params: Params, episode: Episode, context: Context) -> Tensor:
        """Return the losses on the queries after each inner step, weighted for this meta-step."""
        support, query = episode
        shares = self.shares(context)
        total = torch.zeros((), dtype=support.mask.dtype, device=support.mask.device)
        for weights, share in zip(self._after_each(params, episode, context), shares, strict=True):
            if share > 0:
                outputs = self.predict(self.finished(weights, support, context), query.inputs)
                total = total + share * self.loss(outputs, query)
        return total

    def shares(self, context: Context) -> list[float]:
        """Return what the loss after each inner step counts at this meta-step; they sum to 1."""
        n_steps = self.n_steps(context)
        done = min(1.0, context.step / self.multi_step_loss_steps) if self.multi_step_loss_steps else 1.0
        early = (1 - done) / n_steps
        return [early] * (n_steps - 1) + [1 - early * (n_steps - 1)]

    def _after_each(self, params: Params, episode: Episode, context: Context) -> Iterator[Params]:
        path = self.path(self.prepared(params, episode.support, context), episode.support, context)
        next(path)  # the start
        return path
