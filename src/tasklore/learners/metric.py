"""Learning by comparing: embed, then measure distances."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..errors import InvalidSetting
from ..nets import Conv4, Net
from ..registry import learners
from ..types import Adapted, Batch, Context, Inputs, Params, TaskSpec
from .base import PRESENT, Learner, Tags, hide_absent, named_statistics, one_hot, weights_and_statistics

__all__ = ["MatchingNetwork", "Prototypes"]

PROTOTYPES = "task/prototypes"
SHARPNESS = "sharpness"
FEATURES, MEMBERS = "task/features", "task/members"


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
        members = one_hot(support, context.spec.n_outputs)  # (n, c)
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


@learners.register("matching")
@dataclass(frozen=True)
class MatchingNetwork(Learner):
    """Matching networks: a query is labelled as the support examples that it resembles, by attention.

    ``p(y = k) = Σ_i a(x, x_i) [y_i = k]`` with ``a`` the softmax over the support of the cosine similarity
    between embeddings, divided by a temperature.

    Parameters
    ----------
    net : Net
        The embedding of supports and queries.
    temperature : float
        Where the meta-learned temperature starts; the smaller, the more the nearest example counts.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    Notes
    -----
    Without the full context embeddings of the paper's section 2.1.2, whose result depends on the order of the
    support. The paper has no temperature; without one the attention over cosines is nearly even.

    References
    ----------
    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning, NeurIPS
    2016, equation 1 and section 2.1.1.
    """

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True)

    net: Net = dataclasses.field(default_factory=Conv4)
    temperature: float = 0.1
    transductive: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InvalidSetting(f"temperature must be positive, got {self.temperature}")

    @property
    def backbone(self) -> Net:
        return self.net

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        weights = self.net.init(spec.input_shape, None, generator)
        return weights | {SHARPNESS: torch.tensor(-math.log(self.temperature))}

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        features, statistics = self.net.apply(_without(params, SHARPNESS), support.inputs)  # (n, d)
        members = one_hot(support, context.spec.n_outputs)  # (n, c)
        adapted = dict(params)
        adapted[FEATURES] = F.normalize(features, dim=1)
        adapted[MEMBERS] = members
        adapted[PRESENT] = members.amax(0)
        if not self.transductive:
            adapted |= named_statistics(statistics)
        return adapted

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        weights, statistics = weights_and_statistics(adapted)
        features, _ = self.net.apply(_without(weights, SHARPNESS), inputs, statistics)  # (n, d)
        cosines = F.normalize(features, dim=1) @ adapted[FEATURES].T  # (n, support)
        similarity = cosines * adapted[SHARPNESS].exp()
        # The logarithm of attention summed over each class; padding has no member and so no share.
        shares = torch.where(adapted[MEMBERS] > 0, 0.0, -torch.inf).T  # (c, support)
        present = adapted[PRESENT]
        shares = torch.where(present.unsqueeze(1) > 0, shares, 0.0)  # absent classes: finite, hidden below
        return hide_absent(torch.logsumexp(similarity.unsqueeze(1) + shares, 2), present)


def _without(params: Params, name: str) -> Params:
    return {key: tensor for key, tensor in params.items() if key != name}
