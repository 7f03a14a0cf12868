"""What a report compares with: learners that ignore past tasks, or use them in the plainest way.

They face the same checks and the same episodes as every other learner.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Generator, Tensor

from ..nets import MLP, Net, check_net
from ..optimizers import Adam, Optimizer
from ..registry import learners
from ..types import Adapted, Batch, Context, Inputs, Params, TaskSpec
from .base import PRESENT, Learner, Tags, hide_absent, one_hot, require_positive
from .closed_form import LinearHead, logistic_read_out
from .gradient import GradientLearner

__all__ = [
    "FineTuning",
    "FromScratch",
    "LinearProbe",
    "LogisticBaseline",
    "NearestCentroid",
    "RidgeBaseline",
]

NEWTON_STEPS = 10  # for a read-out: enough for the smallest penalty


@dataclass(frozen=True)
class _AdamTraining(GradientLearner):
    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = tuple(
        {"step_size": a} for a in (0.003, 0.01, 0.03)
    )

    inner_steps: int = 50

    @property
    def inner(self) -> Optimizer:
        return Adam(self.step_size, eps_root=1e-12)


@learners.register("scratch")
@dataclass(frozen=True)
class FromScratch(_AdamTraining):
    """Train a fresh network on the support alone, with Adam.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive
        See :class:`~tasklore.learners.gradient.GradientLearner`.
    """

    tags: ClassVar[Tags] = Tags(starts_from="nothing")


@learners.register("finetune")
@dataclass(frozen=True)
class FineTuning(_AdamTraining):
    """Pre-train one network on all past tasks pooled, then continue on the support.

    The pre-training is :func:`tasklore.train.pretrain`. For classification the output layer starts at
    zero on each task, since the classes are new; for regression the whole network is continued.

    Parameters
    ----------
    net, inner_steps, step_size, test_steps, transductive
        See :class:`~tasklore.learners.gradient.GradientLearner`.
    """

    tags: ClassVar[Tags] = Tags(starts_from="pool")


@learners.register("linear-probe")
@dataclass(frozen=True)
class LinearProbe(LinearHead):
    """Pre-train one network on all past tasks pooled, keep it, and fit logistic regression to its features.

    The pre-training is :func:`tasklore.train.pretrain`. Features are divided by their mean length on the
    support, so that a penalty means the same whatever the network.

    Parameters
    ----------
    net : Net
    penalty : float
        Weight of half the squared norm of the read-out.
    transductive : bool
        Normalise the queries with their own batch's statistics instead of with the support's.

    References
    ----------
    Tian, Wang, Krishnan, Tenenbaum, Isola: Rethinking few-shot image classification: a good embedding is all
    you need?, ECCV 2020.
    """

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True, starts_from="pool")
    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = tuple({"penalty": p} for p in (1.0, 0.1, 0.01))

    net: Net = dataclasses.field(default_factory=MLP)
    penalty: float = 0.1
    transductive: bool = False

    def __post_init__(self) -> None:
        check_net(self.net)
        require_positive(penalty=self.penalty)

    def first_logarithms(self, spec: TaskSpec) -> dict[str, float]:
        return {}

    def read_out(self, z: Tensor, targets: Tensor, params: Params) -> Tensor:
        length = z.norm(dim=1).sum() / targets.sum()
        return logistic_read_out(z / length, targets, z.new_tensor(self.penalty), NEWTON_STEPS) / length


def _seen(x: Tensor, see: Callable[[Tensor], Tensor] | None) -> Tensor:
    return (see(x) if see else x).flatten(1)


@learners.register("nearest-centroid")
@dataclass(frozen=True)
class NearestCentroid(Learner):
    """The nearest class mean on the raw inputs.

    Parameters
    ----------
    see : callable (n, *input_shape) -> (n, f), optional
        What is seen of them instead; from Python only.
    """

    tags: ClassVar[Tags] = Tags(kinds=("classification",), any_ways=True, starts_from="nothing")

    see: Callable[[Tensor], Tensor] | None = None

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        return {}

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        x = _seen(support.x, self.see)
        members = one_hot(support, context.spec.n_outputs)  # (n, c)
        counts = members.sum(0)
        centroids = (members.T @ x) / counts.clamp(min=1).unsqueeze(1)  # (c, d)
        return {"task/centroids": centroids, PRESENT: (counts > 0).to(x.dtype)}

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        x, centroids = _seen(inputs.x, self.see), adapted["task/centroids"]
        return hide_absent(2 * x @ centroids.T - (centroids**2).sum(1), adapted[PRESENT])


@learners.register("logistic-regression")
@dataclass(frozen=True)
class LogisticBaseline(Learner):
    """scikit-learn's logistic regression on the raw inputs.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty.
    see : callable (n, *input_shape) -> (n, f), optional
        What is seen of the inputs instead; from Python only.
    """

    tags: ClassVar[Tags] = Tags(
        kinds=("classification",), any_ways=True, starts_from="nothing", vectorises=False
    )
    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = tuple({"C": c} for c in (1.0, 10.0, 100.0))

    C: float = 1.0
    see: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        require_positive(C=self.C)

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        return {}

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        real = support.mask > 0
        x, y = _seen(support.x[real], self.see).numpy(), support.y[real].numpy()
        used = np.asarray(x.any(0))  # of many words, few; the others get no weight
        if not used.any():
            used[:1] = True
        with warnings.catch_warnings():  # one example a class is what it is asked for
            warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
            model = LogisticRegression(C=self.C, max_iter=1000).fit(x[:, used], y)
        coef, intercept = model.coef_, model.intercept_
        if len(coef) == 1:  # two classes share one row: class 1 against class 0
            coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        weight = torch.zeros(context.spec.n_outputs, x.shape[1])
        bias, present = torch.zeros(len(weight)), torch.zeros(len(weight))
        classes = torch.from_numpy(model.classes_)
        weight[classes[:, None], torch.from_numpy(used)] = torch.from_numpy(coef).to(weight.dtype)
        bias[classes] = torch.from_numpy(intercept).to(weight.dtype)
        present[classes] = 1.0
        return {"task/weight": weight, "task/bias": bias, PRESENT: present}

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        x = _seen(inputs.x, self.see)
        return hide_absent(F.linear(x, adapted["task/weight"], adapted["task/bias"]), adapted[PRESENT])


@learners.register("ridge-regression")
@dataclass(frozen=True)
class RidgeBaseline(Learner):
    """Ridge regression on the raw inputs and a constant.

    Parameters
    ----------
    penalty : float
        Weight of the squared norm of the slopes.
    """

    tags: ClassVar[Tags] = Tags(kinds=("regression",), starts_from="nothing")
    alternatives: ClassVar[tuple[Mapping[str, float], ...]] = tuple({"penalty": p} for p in (0.1, 1.0, 10.0))

    penalty: float = 1.0

    def __post_init__(self) -> None:
        require_positive(penalty=self.penalty)

    def init(self, spec: TaskSpec, generator: Generator) -> Params:
        self.check_spec(spec)
        return {}

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        mask = support.mask.unsqueeze(1)
        x, y = support.x.flatten(1), support.y.flatten(1)
        count = mask.sum()
        x_mean, y_mean = (x * mask).sum(0) / count, (y * mask).sum(0) / count
        x, y = (x - x_mean) * mask, (y - y_mean) * mask
        penalty = self.penalty * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(x.T @ x + penalty, x.T @ y)  # (d, c)
        return {"task/weight": weight.T, "task/bias": y_mean - x_mean @ weight}

    def predict(self, adapted: Adapted, inputs: Inputs) -> Tensor:
        return F.linear(inputs.x.flatten(1), adapted["task/weight"], adapted["task/bias"])
