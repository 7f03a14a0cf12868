"""Learning by a few context parameters: the network stays, what it is told about the task changes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..errors import InvalidSetting
from ..nets import MLP, Conv4, Net
from ..registry import learners
from ..types import Params, TaskSpec
from .gradient import MAML

__all__ = ["CAVIA"]

CONTEXT, CONDITION = "context", "condition/"


@learners.register("cavia")
@dataclass(frozen=True)
class CAVIA(MAML):
    """MAML whose inner steps change a few context parameters ``φ`` only, which a network is conditioned on.

    On every task ``φ`` starts at zero, and ``φ ← φ − α ∇_φ L_support(φ, θ)``; the network ``θ`` is
    meta-learned and the same for all tasks. An MLP gets ``φ`` beside its input: the first layer computes ``W
    x + U φ + b``. In Conv-4 it sets how each channel is scaled and shifted after normalisation (FiLM):
    ``scale + U φ`` and ``shift + V φ``.

    Parameters
    ----------
    net : MLP or Conv4
    inner_steps, test_steps, transductive, learned_step_sizes
        See :class:`~tasklore.learners.gradient.RatedLearner`.
    step_size : float
        The inner rate α; the paper finds that results hardly depend on it.
    n_context : int
        How many context parameters; about as many as tasks differ in.

    Notes
    -----
    All blocks of Conv-4 are conditioned. What moves for a task is ``φ`` alone, a few numbers.

    References
    ----------
    Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson: Fast Context Adaptation via Meta-Learning, ICML 2019,
    sections 3.1 and 3.3.
    """

    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = tuple({"step_size": a} for a in (0.1, 1.0, 5.0))
    moves_output: ClassVar[bool] = False

    step_size: float = 1.0
    n_context: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_context < 1:
            raise InvalidSetting(f"n_context must be at least 1, got {self.n_context}")
        if not isinstance(self.net, MLP | Conv4):
            raise InvalidSetting(
                f"CAVIA conditions an MLP or a Conv4, not {type(self.net).__name__}; choose one of them"
            )

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        params = super().init(spec, generator)
        n_inputs = math.prod(spec.input_shape) if isinstance(self.net, MLP) else 0
        bound = 1 / math.sqrt(n_inputs + self.n_context)  # as a linear layer on both starts
        for name in _conditioned(self.net, params):
            size = (len(params[name]), self.n_context)
            params[CONDITION + name] = torch.empty(size).uniform_(-bound, bound, generator=generator)
        return params

    def moving(self, weights: Params) -> Params:
        some = next(iter(weights.values()))
        return {CONTEXT: torch.zeros(self.n_context, dtype=some.dtype, device=some.device)}

    def net_weights(self, weights: Params) -> Params:
        context: Tensor = weights[CONTEXT]
        plain = {n: w for n, w in weights.items() if n != CONTEXT and not n.startswith(CONDITION)}
        for name in _conditioned(self.net, plain):
            plain[name] = plain[name] + weights[CONDITION + name] @ context
        return plain


def _conditioned(net: Net, weights: Params) -> list[str]:
    """Name the tensors that the context parameters add to."""
    if isinstance(net, MLP):
        return ["layer0.bias"]
    return [name for name in weights if name.startswith("block") and name.endswith((".scale", ".shift"))]
