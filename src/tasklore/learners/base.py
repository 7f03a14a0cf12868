"""What a way of learning is.

A learner turns the support of one task into named tensors (**adapt**), and these into predictions
(**predict**). Meta-learning improves the tensors it starts from, its *params*. A learner is a frozen
dataclass of settings: it holds no weights, no module and no memory of earlier tasks, so that thousands of
tasks can be learned at once, in any order, on any machine.
"""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..errors import InvalidData, InvalidSetting
from ..nets import Net
from ..types import Adapted, Batch, Context, Episode, Inputs, Params, TaskSpec

__all__ = [
    "PRESENT",
    "Learner",
    "Rules",
    "Tags",
    "hide_absent",
    "named_statistics",
    "one_hot",
    "present_classes",
    "require_positive",
    "weights_and_statistics",
]


Rules: TypeAlias = Literal["backprop", "towards_adapted", "implicit"]
"""The ways in which params move, see :mod:`tasklore.metagrad`."""


@dataclass(frozen=True)
class Tags:
    """What a learner needs and promises; the public checks and the estimators read it.

    Parameters
    ----------
    kinds : tuple of str
        The kinds of task that it can learn.
    order_matters : bool
        The order of the support changes the result.
    any_ways : bool
        A new task may have more classes than the past ones had.
    starts_from : {"tasks", "pool", "nothing"}
        Whether params are meta-learned, trained on the past tasks as one pool, or stay as initialised; all
        but the first are baselines.
    vectorises : bool
        ``torch.func.vmap`` can run many tasks at once.
    scheduled : bool
        The objective depends on the meta-update under way, not on params and tasks alone.
    """

    kinds: tuple[str, ...] = ("classification", "regression")
    order_matters: bool = False
    any_ways: bool = False
    starts_from: Literal["tasks", "pool", "nothing"] = "tasks"
    vectorises: bool = True
    scheduled: bool = False


class Learner(abc.ABC):
    """A way of learning one task from its support, given what was learned from past tasks."""

    rule: ClassVar[Rules] = "backprop"
    """How params move, see :mod:`tasklore.metagrad`."""

    tags: ClassVar[Tags] = Tags()

    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = ()
    """Settings of its own that are worth trying on validation tasks, if there are any; three at most."""

    moves_output: ClassVar[bool] = True
    """Whether a task changes the output layer, where there is one, so that it may start at zero."""

    transductive: bool = False
    """Whether queries influence each other's predictions; a field where there is a choice."""

    @property
    def relative_to(self) -> dict[str, float]:
        """Settings that params mean something only together with; a prior must agree in them."""
        return {}

    @property
    def backbone(self) -> Net | None:
        """The network that plain pre-training can give a start to, if there is one."""
        return None

    @abc.abstractmethod
    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        """Return params to start meta-learning from.

        Parameters
        ----------
        spec : TaskSpec
        generator : torch.Generator
            The only source of chance.
        """

    @abc.abstractmethod
    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        """Learn one task.

        Parameters
        ----------
        params : Params
            Not changed.
        support : Batch
            ``n`` examples; those with mask 0 have no influence.
        context : Context

        Returns
        -------
        Adapted
            Differentiable in ``params``.
        """

    @abc.abstractmethod
    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        """Return logits (n, n_outputs), or the regressed values in the shape of the target.

        Parameters
        ----------
        adapted : Adapted
        inputs : Inputs
            ``n`` examples.
        """

    def begun(self, params: Params, weights: Params) -> Params:
        """Return params from :meth:`init` with weights of the net put in, as plain training found them.

        Parameters
        ----------
        params : Params
        weights : Params
            Of the net; those of an output layer that the params lack, or have in another size, are not used.
        """
        fits = {name for name in params.keys() & weights.keys() if params[name].shape == weights[name].shape}
        return {name: weights[name] if name in fits else tensor for name, tensor in params.items()}

    def loss(self, prediction: Tensor, target: Batch) -> Tensor:
        """Return cross-entropy (nats), or squared error, averaged over the real examples; a scalar.

        Parameters
        ----------
        prediction : Tensor
            From :meth:`predict`.
        target : Batch
            Class indices are integers; anything else is regressed.

        Raises
        ------
        InvalidData
            Values were predicted in another shape than that of the target.
        """
        if target.y.is_floating_point():
            if prediction.shape != target.y.shape:
                raise InvalidData(
                    f"{type(self).__name__} predicted values of shape {tuple(prediction.shape)} for targets "
                    f"of shape {tuple(target.y.shape)}; predict() must give them in the shape of the target"
                )
            each = ((prediction - target.y) ** 2).flatten(1).mean(1)  # (n,)
        else:
            # As torch's cross_entropy, for which vmap takes the way of the compiler.
            each = -F.log_softmax(prediction, 1).gather(1, target.y[:, None]).squeeze(1)  # (n,)
        return (each * target.mask).sum() / target.mask.sum()

    def objective(self, params: Params, episode: Episode, context: Context) -> Tensor:
        """Return what meta-learning lowers: here, the loss on the queries after adapting to the support."""
        adapted = self.adapt(params, episode.support, context)
        return self.loss(self.predict(adapted, episode.query.inputs), episode.query)

    def check_spec(self, spec: TaskSpec) -> None:
        """Raise ``InvalidData`` if this learner cannot learn such tasks."""
        if spec.kind not in self.tags.kinds:
            known = " and ".join(self.tags.kinds)
            raise InvalidData(f"{type(self).__name__} learns {known} tasks; these are {spec.kind} tasks")

    def spec_for(self, trained: TaskSpec, new: TaskSpec) -> TaskSpec:
        """Return the spec under which a new task is learned with params that were made for ``trained``.

        Raises
        ------
        InvalidData
            The new task has examples of another shape, more classes than the params provide for, or another
            number of target values.
        """
        self.check_spec(new)
        if (new.kind, new.input_shape) != (trained.kind, trained.input_shape):
            raise InvalidData(
                f"this prior is for {trained.kind} on examples of shape {trained.input_shape}; "
                f"the new task is {new.kind} on {new.input_shape}: reshape it, or meta-learn on tasks like it"
            )
        if self.tags.any_ways:
            return new
        if new.kind == "regression" and new.n_outputs != trained.n_outputs:
            raise InvalidData(
                f"this prior was meta-learned for {trained.n_outputs} target values of an example, the new "
                f"task has {new.n_outputs}; give it as many, or meta-learn on tasks like it"
            )
        if new.n_outputs > trained.n_outputs:
            raise InvalidData(
                f"this prior was meta-learned for at most {trained.n_outputs} outputs, "
                f"the new task has {new.n_outputs}; leave classes out, meta-learn with more ways, "
                "or use a learner without an output layer (prototypes)"
            )
        return trained


def require_positive(**settings: float) -> None:
    """Raise ``InvalidSetting`` for a setting that is not above zero, or not finite."""
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise InvalidSetting(f"{name} must be positive and finite, got {value}")


# Adapted tensors that belong to the task rather than to the network are named ``task/…``.
PRESENT = "task/present"
STATISTICS = "task/statistics/"


def weights_and_statistics(adapted: Adapted) -> tuple[Params, Params | None]:
    """Take adapted tensors apart: the net's weights, and what to normalise queries with, if anything."""
    weights = {name: tensor for name, tensor in adapted.items() if not name.startswith("task/")}
    statistics = {
        name.removeprefix(STATISTICS): t for name, t in adapted.items() if name.startswith(STATISTICS)
    }
    return weights, statistics or None


def named_statistics(statistics: Params) -> Params:
    """Name the support's statistics so that :func:`weights_and_statistics` finds them again."""
    return {STATISTICS + name: tensor for name, tensor in statistics.items()}


def present_classes(support: Batch, n_outputs: int) -> Tensor:
    """Return which classes have a real example, as 0 or 1, shape (n_outputs,)."""
    return one_hot(support, n_outputs).amax(0)


def one_hot(support: Batch, n_outputs: int) -> Tensor:
    """Return which class each example is of, as 0 or 1, shape (n, n_outputs); nothing but 0 for padding."""
    # Not F.one_hot, which looks at values and so fails inside nested transforms.
    members = support.y.unsqueeze(1) == torch.arange(n_outputs, device=support.y.device)  # (n, n_outputs)
    return members.to(support.mask.dtype) * support.mask.unsqueeze(1)


def hide_absent(logits: Tensor, present: Tensor) -> Tensor:
    """Make classes without a support example impossible."""
    return logits.masked_fill(present == 0, torch.finfo(logits.dtype).min / 4)
