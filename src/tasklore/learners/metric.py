"""Learning by comparing: embed, then measure distances."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Generator, Tensor

from ..nets import Conv4, Net
from ..registry import learners
from ..types import Adapted, Batch, Context, Inputs, Params, TaskSpec
from .base import PRESENT, Learner, Tags, hide_absent, named_statistics, weights_and_statistics

__all__ = ["Prototypes"]

PROTOTYPES = "task/prototypes"


@learners.register("prototypes")
@dataclass(frozen=True)
class Prototypes(Learner):
    """Prototypical networks: a class is the mean of its embedded examples, and the nearest mean wins.

    The logit of class ``k`` is ``−‖f(x) − c_k‖²``, with ``c_k`` the mean of ``f`` over the support of class
    ``k``. There is nothing to fit, so a new task costs one forward pass, and it may have any number of
    classes.

    Parameters
    ----------
    net : Net
        The embedding ``f``.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    References
    ----------
    Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, NeurIPS 2017, equations 1 and 2.
    """

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True)

    net: Net = dataclasses.field(default_factory=Conv4)
    transductive: bool = False

    @property
    def backbone(self) -> Net:
        return self.net

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        return self.net.init(spec.input_shape, None, generator)

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        features, statistics = self.net.apply(params, support.inputs)  # (n, d)
        members = F.one_hot(support.y, context.spec.n_outputs).to(features.dtype) * support.mask.unsqueeze(
            1
        )  # (n, c)
        counts = members.sum(0)  # (c,)
        adapted = dict(params)
        adapted[PROTOTYPES] = (members.T @ features) / counts.clamp(min=1).unsqueeze(1)  # (c, d)
        adapted[PRESENT] = (counts > 0).to(features.dtype)
        if not self.transductive:
            adapted |= named_statistics(statistics)
        return adapted

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        weights, statistics = weights_and_statistics(adapted)
        features, _ = self.net.apply(weights, inputs, statistics)  # (n, d)
        centres = adapted[PROTOTYPES]  # (c, d)
        # −‖f − c‖² without the term ‖f‖², which all classes of a query share: softmax and arg max do not
        # change.
        logits = 2 * features @ centres.T - (centres**2).sum(1)
        return hide_absent(logits, adapted[PRESENT])
