"""Learning by comparing: embed, then measure distances."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..errors import InvalidSetting
from ..nets import MLP, Conv4, Net, check_net
from ..registry import learners
from ..types import Adapted, Batch, Context, Episode, Inputs, Params, TaskSpec
from .base import (
    PRESENT,
    Learner,
    Tags,
    hide_absent,
    named_statistics,
    one_hot,
    require_positive,
    weights_and_statistics,
)

__all__ = ["Distance", "MatchingNetwork", "Prototypes", "RelationNetwork"]

PROTOTYPES, COUNTS = "task/prototypes", "task/counts"
SHARPNESS, METRIC, RELATION = "sharpness", "metric", "relation/"
FEATURES, MEMBERS = "task/features", "task/members"

Distance: TypeAlias = Literal["euclidean", "scaled", "mahalanobis"]
"""How :class:`Prototypes` measure how far a query is from a class."""


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
        Let the queries influence each other: they are normalised with their own batch's statistics instead of
        with the support's, and may refine the means.
    distance : {"euclidean", "scaled", "mahalanobis"}
        Squared, between embeddings: ``Σ_j (f_j − c_j)²``; ``Σ_j exp(s_j) (f_j − c_j)²`` with meta-learned
        ``s``, at first 0; or ``‖A (f − c)‖²`` with a meta-learned square matrix ``A``, at first the identity.
    temperature : float, optional
        Where a meta-learned temperature starts, by which the distances are divided; None: they are not.
    refinement_steps : int
        Steps of soft k-means in which the queries, without their labels, move the means; ``transductive``
        only, and not while meta-learning. With ``z_jk`` the chance that query ``j`` is of class ``k``, a step
        is ``c_k ← (Σ_i f(x_i) [y_i = k] + Σ_j f(x_j) z_jk) / (Σ_i [y_i = k] + Σ_j z_jk)``.

    Notes
    -----
    A predictor answers many rows in batches, and only queries of one batch refine the means together.

    References
    ----------
    Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, NeurIPS 2017, equations 1 and 2. Ren,
    Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel: Meta-Learning for Semi-Supervised
    Few-Shot Classification, ICLR 2018, section 3.1.1, for the refinement; there the examples without labels
    are others than the queries. Bateni, Goyal, Masrani, Wood, Sigal: Improved Few-Shot Visual
    Classification, CVPR 2020, for distances other than the Euclidean one.
    """

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True)

    net: Net = dataclasses.field(default_factory=Conv4)
    transductive: bool = False
    distance: Distance = "euclidean"
    temperature: float | None = None
    refinement_steps: int = 0

    def __post_init__(self) -> None:
        check_net(self.net)
        if self.distance not in get_args(Distance):
            raise InvalidSetting(
                f"distance is {self.distance!r}; use one of {', '.join(map(repr, get_args(Distance)))}"
            )
        if self.temperature is not None:
            require_positive(temperature=self.temperature)
        if self.refinement_steps < 0:
            raise InvalidSetting(f"refinement_steps cannot be negative, got {self.refinement_steps}")
        if self.refinement_steps and not self.transductive:
            raise InvalidSetting(
                f"refinement_steps={self.refinement_steps} lets the queries influence each other's "
                "predictions; set transductive=True too, or refinement_steps=0"
            )

    @property
    def backbone(self) -> Net:
        return self.net

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        weights = self.net.init(spec.input_shape, None, generator)
        learned: Params = {}
        if self.distance == "scaled":
            learned[METRIC] = torch.zeros(_n_features(self.net, weights, spec))
        elif self.distance == "mahalanobis":
            learned[METRIC] = torch.eye(_n_features(self.net, weights, spec))
        if self.temperature is not None:
            learned[SHARPNESS] = torch.tensor(-math.log(self.temperature))
        return weights | learned

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        features, statistics = self._embedded(params, support.inputs)  # (n, d)
        members = one_hot(support, context.spec.n_outputs)  # (n, c)
        counts = members.sum(0)  # (c,)
        adapted = dict(params)
        adapted[PROTOTYPES] = _class_means(features, members)
        adapted[PRESENT] = (counts > 0).to(features.dtype)
        if self.refinement_steps and not context.training:
            adapted[COUNTS] = counts
        if not self.transductive:
            adapted |= named_statistics(statistics)
        return adapted

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        weights, statistics = weights_and_statistics(adapted)
        features, _ = self._embedded(weights, inputs, statistics)  # (n, d)
        centres = adapted[PROTOTYPES]  # (c, d)
        for _ in range(self.refinement_steps if COUNTS in adapted else 0):
            shares = torch.softmax(self._logits(adapted, features, centres), 1) * inputs.mask.unsqueeze(1)
            counts = adapted[COUNTS]
            sums = counts.unsqueeze(1) * adapted[PROTOTYPES] + shares.T @ features
            centres = sums / (counts + shares.sum(0)).clamp(min=1).unsqueeze(1)
        return self._logits(adapted, features, centres)

    def _embedded(
        self, params: Params, inputs: Inputs, statistics: Params | None = None
    ) -> tuple[Tensor, Params]:
        """Return features between which the Euclidean distance is the one that was asked for."""
        features, statistics = self.net.apply(_without(params, METRIC, SHARPNESS), inputs, statistics)
        if self.distance == "scaled":
            features = features * (params[METRIC] / 2).exp()
        elif self.distance == "mahalanobis":
            features = features @ params[METRIC].T
        return features, statistics

    def _logits(self, adapted: Adapted, features: Tensor, centres: Tensor) -> Tensor:
        # −‖f − c‖² without the term ‖f‖², which all classes of a query share: softmax and arg max do not
        # change.
        logits = 2 * features @ centres.T - (centres**2).sum(1)
        if SHARPNESS in adapted:
            logits = logits * adapted[SHARPNESS].exp()
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
        check_net(self.net)
        require_positive(temperature=self.temperature)

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


@learners.register("relation")
@dataclass(frozen=True)
class RelationNetwork(Learner):
    """Relation networks: a query is compared with each class by a network that is meta-learned too.

    The score of class ``k`` is ``r_k = sigmoid(g([c_k, f(x)]))``, with ``c_k`` the mean of the embedding
    ``f`` over the support of class ``k`` and ``g`` a network of one hidden layer. Meta-learning lowers the
    squared error ``Σ_k (r_k − [y = k])²`` of the scores, as in the paper, not a cross-entropy.

    Parameters
    ----------
    net : Net
        The embedding ``f``.
    hidden : int
        Width of the hidden layer of ``g``.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    Notes
    -----
    Predictions are the logits ``g``, so the class with the best score wins; probabilities by softmax follow,
    up to normalisation, the odds ``r_k / (1 − r_k)``, and are not calibrated. The paper adds up the
    embeddings of a class, which depends on the number of shots; here they are averaged. Its ``g`` begins with
    two blocks of convolutions, which need feature maps; here it sees any net's flat features.

    References
    ----------
    Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning,
    CVPR 2018, equations 1 and 2.
    """

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True)

    net: Net = dataclasses.field(default_factory=Conv4)
    hidden: int = 64
    transductive: bool = False

    def __post_init__(self) -> None:
        check_net(self.net)
        if self.hidden < 1:
            raise InvalidSetting(f"hidden must be at least 1, got {self.hidden}")

    @property
    def backbone(self) -> Net:
        return self.net

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        weights = self.net.init(spec.input_shape, None, generator)
        n_pair = 2 * _n_features(self.net, weights, spec)
        relation = MLP((self.hidden,)).init((n_pair,), 1, generator)
        return weights | {RELATION + name: tensor for name, tensor in relation.items()}

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        features, statistics = self.net.apply(_embedding(params), support.inputs)  # (n, d)
        members = one_hot(support, context.spec.n_outputs)  # (n, c)
        adapted = dict(params)
        adapted[PROTOTYPES] = _class_means(features, members)
        adapted[PRESENT] = members.amax(0)
        if not self.transductive:
            adapted |= named_statistics(statistics)
        return adapted

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        weights, statistics = weights_and_statistics(adapted)
        features, _ = self.net.apply(_embedding(weights), inputs, statistics)  # (n, d)
        relation = {
            name.removeprefix(RELATION): w for name, w in weights.items() if name.startswith(RELATION)
        }
        # The first layer is linear, so its part for the class and that for the query are added up instead of
        # being computed for every pair.
        of_class, of_query = relation["layer0.weight"].chunk(2, 1)  # (h, d) each
        classes = F.linear(adapted[PROTOTYPES], of_class, relation["layer0.bias"])  # (c, h)
        hidden = (F.linear(features, of_query).unsqueeze(1) + classes).relu()  # (n, c, h)
        logits = F.linear(hidden, relation["layer1.weight"], relation["layer1.bias"]).squeeze(2)  # (n, c)
        return hide_absent(logits, adapted[PRESENT])

    def objective(self, params: Params, episode: Episode, context: Context) -> Tensor:
        """Return the squared error of the scores, added up over classes and averaged over real queries."""
        adapted = self.adapt(params, episode.support, context)
        logits = self.predict(adapted, episode.query.inputs)
        right = one_hot(episode.query, context.spec.n_outputs)  # (n, c)
        each = ((logits.sigmoid() - right) ** 2).sum(1)  # absent classes: nothing
        return (each * episode.query.mask).sum() / episode.query.mask.sum()


def _class_means(features: Tensor, members: Tensor) -> Tensor:
    """Return the mean of the features of each class, shape (c, d); zeros for absent classes."""
    return (members.T @ features) / members.sum(0).clamp(min=1).unsqueeze(1)


def _n_features(net: Net, weights: Params, spec: TaskSpec) -> int:
    """Return how many features a net gives."""
    with torch.no_grad():
        return net.apply(weights, Inputs(torch.zeros(2, *spec.input_shape), torch.ones(2)))[0].shape[1]


def _embedding(params: Params) -> Params:
    return {key: tensor for key, tensor in params.items() if not key.startswith(RELATION)}


def _without(params: Params, *names: str) -> Params:
    return {key: tensor for key, tensor in params.items() if key not in names}
