"""Learning by solving: embed, then fit a linear read-out exactly, and differentiate through the solution."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ..errors import InvalidSetting
from ..nets import MLP, Net
from ..registry import learners
from ..types import Adapted, Batch, Context, Inputs, Params, TaskSpec
from .base import PRESENT, Learner, Tags, hide_absent, named_statistics, one_hot, weights_and_statistics

__all__ = ["RidgeHead"]

READ_OUT = "task/read_out"
PENALTY, SCALE = "log_penalty", "log_scale"


@learners.register("ridge-head")
@dataclass(frozen=True)
class RidgeHead(Learner):
    """Ridge regression on meta-learned features, solved exactly for each task (R2-D2).

    With the support's features ``Z`` (n × d, a constant appended) and targets ``Y`` (n × c, one-hot for
    classes), the read-out is ``W = Zᵀ (Z Zᵀ + λ I)⁻¹ Y``: a system as small as the support, whatever the
    width of the features. Predictions are ``α z W``; the penalty λ and the scale α are meta-learned with the
    embedding.

    Parameters
    ----------
    net : Net
        The embedding.
    penalty : float
        Where λ starts.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    Notes
    -----
    For regression α is 1, so that predictions are in the units of the targets. The paper's shift β is left
    out: it is the same for all classes, so the softmax does not see it.

    References
    ----------
    Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers, ICLR 2019,
    equations 4 to 6.
    """

    net: Net = dataclasses.field(default_factory=MLP)
    penalty: float = 1.0
    transductive: bool = False

    tags: ClassVar[Tags] = Tags(any_ways=True)

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise InvalidSetting(f"penalty must be positive, got {self.penalty}")

    @property
    def backbone(self) -> Net:
        return self.net

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        params = self.net.init(spec.input_shape, None, generator)
        params[PENALTY] = torch.tensor(math.log(self.penalty))
        if spec.kind == "classification":
            params[SCALE] = torch.tensor(math.log(10.0))
        return params

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        features, statistics = self.net.apply(_weights(params), support.inputs)  # (n, d)
        z = _with_constant(features) * support.mask.unsqueeze(1)  # padding: rows of zeros
        adapted = dict(params)
        if context.spec.kind == "classification":
            targets = one_hot(support, context.spec.n_outputs)  # (n, c)
            adapted[PRESENT] = targets.amax(0)
        else:
            targets = support.y * support.mask.unsqueeze(1)
        gram = z @ z.T + params[PENALTY].exp() * torch.eye(len(z), dtype=z.dtype)  # (n, n)
        adapted[READ_OUT] = z.T @ torch.linalg.solve(gram, targets)  # (d + 1, c)
        if not self.transductive:
            adapted |= named_statistics(statistics)
        return adapted

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        weights, statistics = weights_and_statistics(adapted)
        features, _ = self.net.apply(_weights(weights), inputs, statistics)
        outputs = _with_constant(features) @ adapted[READ_OUT]  # (n, c)
        if SCALE not in adapted:
            return outputs
        return hide_absent(outputs * adapted[SCALE].exp(), adapted[PRESENT])


def _weights(params: Params) -> Params:
    """Return the tensors of the net."""
    return {name: tensor for name, tensor in params.items() if name not in (PENALTY, SCALE)}


def _with_constant(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)
