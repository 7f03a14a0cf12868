"""Learning by gradient steps from a meta-learned start."""

import abc
import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar, Literal, Self, TypeAlias, get_args

import torch
from torch import Generator, Tensor

from ..derivatives import recomputed, slopes
from ..errors import InvalidSetting
from ..lowrank import thin
from ..nets import MLP, Net, check_net
from ..optimizers import SGD, Adam, Optimizer
from ..registry import learners
from ..stacks import Stack
from ..types import Adapted, Batch, Context, Episode, Inputs, Params, TaskSpec
from .base import (
    PRESENT,
    Learner,
    Rules,
    hide_absent,
    named_statistics,
    present_classes,
    require_positive,
    weights_and_statistics,
)

__all__ = [
    "ANIL",
    "BOIL",
    "MAML",
    "FirstOrderMAML",
    "GradientLearner",
    "ImplicitMAML",
    "MetaSGD",
    "RatedLearner",
    "Reptile",
    "StepSizes",
]

FACTOR = "factor/"
"""What the names of learned factors on the step size begin with."""

StepSizes: TypeAlias = Literal["none", "one", "per-layer", "per-layer-and-step", "per-parameter"]
"""Which step sizes are meta-learned, see :class:`RatedLearner`."""


@dataclass(frozen=True)
class GradientLearner(Learner):
    """Take gradient steps on the support loss, starting from params.

    The adapted tensors are the weights, the classes seen in the support, and, unless ``transductive``, the
    statistics that the support was normalised with.

    Parameters
    ----------
    net : Net
    inner_steps : int
        Gradient steps on the support while meta-learning.
    step_size : float
        The inner rate α.
    test_steps : int, optional
        Gradient steps on a new task; by default as many as ``inner_steps``.
    transductive : bool
        Normalise the queries with their own batch's statistics, as the papers' code does (a query then helps
        its neighbours), instead of with the support's.
    """

    differentiates_steps: ClassVar[bool] = True
    """Whether the inner gradients are themselves differentiated (second order)."""

    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = (
        {"inner_steps": 1, "step_size": 0.01},
        {"inner_steps": 5, "step_size": 0.1},
        {"inner_steps": 1, "step_size": 0.4},
    )

    net: Net = dataclasses.field(default_factory=MLP)
    inner_steps: int = 1
    step_size: float = 0.01
    test_steps: int | None = None
    transductive: bool = False

    def __post_init__(self) -> None:
        check_net(self.net)
        for name in ("inner_steps", "test_steps"):
            n_steps: object = getattr(self, name)
            if n_steps is None and name == "test_steps":
                continue
            if not isinstance(n_steps, Integral) or n_steps < 0:
                raise InvalidSetting(f"{name} must be a whole number, and not negative; got {n_steps!r}")
        require_positive(step_size=self.step_size)

    @property
    @abc.abstractmethod
    def inner(self) -> Optimizer:
        """The update rule of the inner steps."""

    @property
    def backbone(self) -> Net:
        return self.net

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        return self.net.init(spec.input_shape, spec.n_outputs, generator)

    def moving(self, weights: Params) -> Params:
        """Return the weights that the inner steps change; the others stay as they were meta-learned."""
        return weights

    @property
    def pull(self) -> float:
        """The weight λ of a term ``λ/2 ‖w − start‖²`` in what the inner steps lower."""
        return 0.0

    def weights_at(self, params: Params, step: int) -> Params:
        """Return the tensors to compute with at an inner step, without what only guides the steps."""
        return {name: tensor for name, tensor in params.items() if not name.startswith(FACTOR)}

    def net_weights(self, weights: Params) -> Params:
        """Return what the net is applied with, given the shared tensors and those that moved."""
        return weights

    def scaled(self, gradient: Params, params: Params, step: int) -> Params:
        """Return the gradient times the learned factors, where there are any."""
        return gradient

    def differentiates(self, context: Context) -> bool:
        """Whether the inner gradients are themselves differentiated at this meta-step."""
        return self.differentiates_steps

    def n_steps(self, context: Context) -> int:
        """Return how many inner steps to take."""
        return self.inner_steps if context.training or self.test_steps is None else self.test_steps

    def support_loss(self, weights: Params, support: Batch, context: Context) -> Tensor:
        """Return what the inner steps lower, without the pull towards the start."""
        outputs, _ = self.net.apply(self.net_weights(weights), support.inputs)
        if context.spec.kind == "classification":
            outputs = hide_absent(outputs, present_classes(support, context.spec.n_outputs))
        return self.loss(outputs, support)

    def objective(self, params: Params, episode: Episode, context: Context) -> Tensor:
        return super().objective(self.prepared(params, episode.support, context), episode, context)

    def prepared(self, params: Params, support: Batch, context: Context) -> Params:
        """Return the same params, wide weights in the form in which steps from them cost least.

        Only where the result is differentiated.
        """
        n_steps = self.n_steps(context)
        plain = type(self.inner) is SGD and not self.pull and not context.recompute and n_steps
        if not (plain and self._steps_as_here and torch.is_grad_enabled() and Stack.here()):
            return params
        moving = self.moving(self.weights_at(params, 0))
        linear = {name: moving[name] for name in self.net.linear_layers(moving)}
        shared = {name: w for name, w in linear.items() if w is params.get(name) and w.requires_grad}
        return params | thin(shared, len(support.mask) * n_steps)

    @property
    def _steps_as_here(self) -> bool:
        """Whether no subclass elsewhere has changed what is done with examples, weights and slopes."""
        known = RatedLearner if isinstance(self, RatedLearner) else GradientLearner
        hooks = "adapt", "net_weights", "support_loss", "scaled", "loss", "finished", "predict"
        return all(getattr(type(self), hook) is getattr(known, hook) for hook in hooks)

    def path(self, params: Params, support: Batch, context: Context) -> Iterator[Params]:
        """Yield the weights before the first inner step, and after each."""
        start = self.moving(self.weights_at(params, 0))
        here = start, self.inner.init(start)
        yield self.weights_at(params, 0) | start
        reader, seen = self._on_what_stays(params, start, support, context)
        for step in range(self.n_steps(context)):
            here = reader._stepped(params, start, here, seen, context, range(step, step + 1))
            yield self.weights_at(params, step) | here[0]

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        n_steps = self.n_steps(context)
        start = self.moving(self.weights_at(params, 0))
        here = start, self.inner.init(start)
        # Of what is computed again only the parts' beginnings are kept, and one part at a time: the square
        # root of the number of steps, twice.
        size = math.ceil(math.sqrt(n_steps)) if context.recompute else n_steps
        reader, seen = self._on_what_stays(params, start, support, context)
        for first in range(0, n_steps, max(1, size)):
            steps = range(first, min(first + size, n_steps))
            here = reader._stepped(params, start, here, seen, context, steps)
        return self.finished(self.weights_at(params, max(0, n_steps - 1)) | here[0], support, context)

    def _on_what_stays(
        self, params: Params, start: Params, support: Batch, context: Context
    ) -> tuple[Self, Batch]:
        """Return who takes the inner steps, and on what: on features, where only the output layer moves."""
        steps, read_out = range(self.n_steps(context)), self.net.read_out
        if not steps or not start or read_out is None or not self._steps_as_here:
            return self, support
        weights = self.weights_at(params, 0)
        head = self.net.output_layer(weights)
        if not head.issuperset(start):
            return self, support
        body = {name: tensor for name, tensor in weights.items() if name not in head}
        each = (self.weights_at(params, step) for step in steps)
        if any(at_step.get(name) is not params.get(name) for at_step in each for name in body):
            return self, support  # the body of a step is not that of all
        features, _ = self.net.apply(body, support.inputs)
        reader = copy.copy(self)
        object.__setattr__(reader, "net", read_out)
        return reader, support._replace(x=features)

    def _stepped(
        self,
        params: Params,
        start: Params,
        here: tuple[Params, Params],
        support: Batch,
        context: Context,
        steps: range,
    ) -> tuple[Params, Params]:
        """Return what moves, and the optimiser's state, after some inner steps more."""
        if not context.recompute:
            return self._descended(params, start, here, support, context, steps)
        return recomputed(
            lambda params, start, here, support, key: self._descended(
                params, start, here, support, dataclasses.replace(context, key=key), steps
            ),
            *(params, start, here, support, context.key),
        )

    def _descended(
        self,
        params: Params,
        start: Params,
        here: tuple[Params, Params],
        support: Batch,
        context: Context,
        steps: range,
    ) -> tuple[Params, Params]:
        moving, state = here

        def loss(moving: Params, shared: Params, support: Batch) -> Tensor:
            return self.support_loss(shared | moving, support, context)

        again = self.differentiates(context)
        for step in steps:
            gradient = slopes(loss, moving, self.weights_at(params, step), support, again=again)
            if self.pull:
                gradient = {
                    name: g + self.pull * (moving[name] - start[name]) for name, g in gradient.items()
                }
            moving, state = self.inner.update(moving, self.scaled(gradient, params, step), state)
        return moving, state

    def finished(self, weights: Params, support: Batch, context: Context) -> Adapted:
        """Return what is known of a task whose weights have been found."""
        adapted = dict(weights)
        if context.spec.kind == "classification":
            adapted[PRESENT] = present_classes(support, context.spec.n_outputs)
        if not self.transductive:
            _, statistics = self.net.apply(self.net_weights(weights), support.inputs)
            adapted |= named_statistics(statistics)
        return adapted

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        weights, statistics = weights_and_statistics(adapted)
        outputs, _ = self.net.apply(self.net_weights(weights), inputs, statistics)
        return hide_absent(outputs, adapted[PRESENT]) if PRESENT in adapted else outputs


@dataclass(frozen=True)
class RatedLearner(GradientLearner):
    """Gradient steps whose sizes may be meta-learned along with the start.

    An inner step is ``w − α f ∘ ∇L_support(w)``. The factors ``f`` on the step size are 1, or parameters like
    any other, which start at 1, their signs included: one number, one for each layer, one for each layer and
    inner step, or one for each weight. An outer step thus changes a small step size little: learned as it is,
    one of 0.01 would change by half of itself in a step of an outer Adam at 0.005, and soon be noise.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive
        See :class:`GradientLearner`.
    learned_step_sizes : {"none", "one", "per-layer", "per-layer-and-step", "per-parameter"}
        Further steps on a new task than were learned take the last step's sizes.

    References
    ----------
    For each weight: Li, Zhou, Chen, Li: Meta-SGD, 2017, equation 3. For each layer and step: Antoniou,
    Edwards, Storkey: How to Train Your MAML, ICLR 2019, section 4, "LSLR".
    """

    learned_step_sizes: StepSizes = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learned_step_sizes not in get_args(StepSizes):
            raise InvalidSetting(
                f"learned_step_sizes is {self.learned_step_sizes!r}; "
                f"use one of {', '.join(map(repr, get_args(StepSizes)))}"
            )

    @property
    def relative_to(self) -> dict[str, float]:
        return {} if self.learned_step_sizes == "none" else {"step_size": self.step_size}

    @property
    def inner(self) -> Optimizer:
        return SGD(self.step_size)

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        weights = super().init(spec, generator)
        return weights | self.first_factors(self.moving(weights))

    def first_factors(self, moving: Params) -> Params:
        """Return the factors on the step size to start from, none where they are not learned."""
        factors: Params = {}
        for name, w in moving.items() if self.learned_step_sizes != "none" else ():
            size: tuple[int, ...] = ()
            if self.learned_step_sizes == "per-parameter":
                size = tuple(w.shape)
            elif self.learned_step_sizes == "per-layer-and-step":
                size = (max(1, self.inner_steps),)
            factors[self._factor_of(name)] = torch.ones(size)
        return factors

    def scaled(self, gradient: Params, params: Params, step: int) -> Params:
        if self.learned_step_sizes == "none":
            return gradient
        factors = {name: params[self._factor_of(name)] for name in gradient}
        if self.learned_step_sizes == "per-layer-and-step":
            factors = {name: each[min(step, len(each) - 1)] for name, each in factors.items()}
        return {name: factors[name] * g for name, g in gradient.items()}

    def _factor_of(self, name: str) -> str:
        """Return the name of the factor of a tensor."""
        if self.learned_step_sizes == "one":
            return FACTOR + "*"
        if self.learned_step_sizes == "per-parameter":
            return FACTOR + name
        return f"{FACTOR}{name.rpartition('.')[0] or name}.*"


@learners.register("maml")
@dataclass(frozen=True)
class MAML(RatedLearner):
    """Model-agnostic meta-learning: find a start from which a few gradient steps suffice.

    The meta-gradient is that of ``L_query(w − α ∇L_support(w))``: it sees how the inner step itself depends
    on the start, so it holds second derivatives.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive, learned_step_sizes
        See :class:`RatedLearner`.

    References
    ----------
    Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
    equation 1.
    """


@learners.register("anil")
@dataclass(frozen=True)
class ANIL(MAML):
    """Almost no inner loop: MAML whose inner steps change the output layer only.

    The body is meta-learned as features that serve every task; its meta-gradient still runs through the steps
    of the output layer.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive, learned_step_sizes
        See :class:`RatedLearner`.

    References
    ----------
    Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of
    MAML, ICLR 2020, section 4.1.
    """

    def moving(self, weights: Params) -> Params:
        head = self.net.output_layer(weights)
        return {name: tensor for name, tensor in weights.items() if name in head}


@learners.register("boil")
@dataclass(frozen=True)
class BOIL(MAML):
    """Body only in the inner loop: MAML whose output layer stays as it was meta-learned.

    The features of a task must move towards fixed class directions, instead of a read-out towards fixed
    features.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive, learned_step_sizes
        See :class:`RatedLearner`.

    References
    ----------
    Oh, Yoo, Kim, Yun: BOIL: Towards Representation Change for Few-shot Learning, ICLR 2021, section 3.
    """

    moves_output: ClassVar[bool] = False

    def moving(self, weights: Params) -> Params:
        head = self.net.output_layer(weights)
        return {name: tensor for name, tensor in weights.items() if name not in head}


@learners.register("meta-sgd")
@dataclass(frozen=True)
class MetaSGD(MAML):
    """MAML that meta-learns a step size for every weight, its sign included.

    The inner step is ``w − α ∘ ∇L_support(w)`` with ``α`` as large as ``w``; both are meta-learned, ``α`` as
    factors on ``step_size``, see :class:`RatedLearner`.

    Parameters
    ----------
    net, inner_steps, test_steps, transductive, learned_step_sizes
        See :class:`RatedLearner`.
    step_size : float
        Where the step sizes start.

    References
    ----------
    Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, equation 3.
    """

    learned_step_sizes: StepSizes = "per-parameter"


@learners.register("imaml")
@dataclass(frozen=True)
class ImplicitMAML(GradientLearner):
    """MAML whose meta-gradient does not run through the inner steps (iMAML).

    The inner steps lower ``L_support(w) + λ/2 ‖w − start‖²``. At its minimum the meta-gradient follows from
    the implicit function theorem, whatever way led there: it is the solution ``g`` of
    ``(I + H/λ) g = ∇L_query(w)``, with ``H`` the Hessian of the support loss, found by conjugate gradients
    (:class:`tasklore.metagrad.Implicit`). Memory does not grow with the number of inner steps.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive
        See :class:`GradientLearner`.
    penalty : float
        λ: the larger, the nearer a task stays to the start.
    inner_optimizer : {"sgd", "adam"}
        The meta-gradient does not see whether the way to the minimum is too steep for the step size. Where
        the loss has no bound on its curvature, as in regression, Adam's steps, which have one on their
        length, keep it from diverging.

    References
    ----------
    Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients, NeurIPS 2019, equations 3 and 6
    and algorithm 2.
    """

    rule: ClassVar[Rules] = "implicit"
    differentiates_steps: ClassVar[bool] = False
    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = tuple(
        {"step_size": a} for a in (0.01, 0.05, 0.2)
    )

    inner_steps: int = 16
    step_size: float = 0.05
    penalty: float = 1.0
    inner_optimizer: str = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_optimizer(self.inner_optimizer)
        require_positive(penalty=self.penalty)

    @property
    def inner(self) -> Optimizer:
        return SGD(self.step_size) if self.inner_optimizer == "sgd" else Adam(self.step_size)

    @property
    def pull(self) -> float:
        return self.penalty


@learners.register("fomaml")
@dataclass(frozen=True)
class FirstOrderMAML(RatedLearner):
    """MAML that takes the inner gradients as constants.

    The meta-gradient is then the query gradient at the adapted weights.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive, learned_step_sizes
        See :class:`RatedLearner`.

    References
    ----------
    Finn, Abbeel, Levine, ICML 2017, section 5.2; Nichol, Achiam, Schulman: On First-Order Meta-Learning
    Algorithms, 2018.
    """

    differentiates_steps: ClassVar[bool] = False


@learners.register("reptile")
@dataclass(frozen=True)
class Reptile(GradientLearner):
    """Move the start towards where ordinary training on each task ends.

    While meta-learning, support and query are one training set, as in the paper's code.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive
        See :class:`GradientLearner`.
    inner_optimizer : {"adam", "sgd"}
        The paper uses Adam without momentum (β₁ = 0).

    References
    ----------
    Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018, algorithm 1.
    """

    rule: ClassVar[Rules] = "towards_adapted"
    differentiates_steps: ClassVar[bool] = False
    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = tuple(
        {"step_size": a} for a in (1e-3, 3e-3, 1e-2)
    )

    inner_steps: int = 5
    step_size: float = 1e-3
    test_steps: int | None = 50
    inner_optimizer: str = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_optimizer(self.inner_optimizer)

    @property
    def inner(self) -> Optimizer:
        return SGD(self.step_size) if self.inner_optimizer == "sgd" else Adam(self.step_size, beta1=0.0)


def _check_optimizer(name: str) -> None:
    if name not in ("adam", "sgd"):
        raise InvalidSetting(f"inner_optimizer is {name!r}; use 'adam' or 'sgd'")
