"""Update rules as pure functions: parameters, gradient and state in, new parameters and state out.

The same object serves as the outer optimiser of meta-training and as the inner one of a gradient learner,
where it is differentiated through and vectorised over tasks. ``torch.optim`` updates in place and can do
neither. The state is a flat dict of tensors, so a checkpoint holds it as it is.
"""

import abc
from dataclasses import dataclass

import torch

from .errors import InvalidSetting
from .types import Params

__all__ = ["SGD", "Adam", "Optimizer"]


class Optimizer(abc.ABC):
    """An update rule; subclasses are frozen dataclasses of settings."""

    @abc.abstractmethod
    def init(self, params: Params) -> Params:
        """Return the state before the first update."""

    @abc.abstractmethod
    def update(
        self, params: Params, gradient: Params, state: Params, scale: float = 1.0
    ) -> tuple[Params, Params]:
        """Return the parameters and the state after one update.

        Parameters
        ----------
        params, gradient : Params
            The same names and shapes.
        state : Params
            As returned by :meth:`init` or the previous call.
        scale : float
            Multiplies the learning rate; schedules use it.
        """


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, ``w − learning_rate · g``."""

    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        _require_positive(learning_rate=self.learning_rate)

    def init(self, params: Params) -> Params:
        return {}

    def update(
        self, params: Params, gradient: Params, state: Params, scale: float = 1.0
    ) -> tuple[Params, Params]:
        rate = self.learning_rate * scale
        # A sum with a negative factor: the slope of a difference takes one pass over the weights more.
        return {name: torch.add(w, gradient[name], alpha=-rate) for name, w in params.items()}, state


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam`` computes it.

    Parameters
    ----------
    learning_rate : float
    beta1, beta2 : float
        Decay of the first and second moment.
    eps : float
        Added to the root of the second moment.
    eps_root : float
        Added under the root. Needed (say 1e-12) where the update is differentiated through: the root of a
        second moment of zero has an infinite slope, and one dead unit then makes the whole meta-gradient NaN.

    References
    ----------
    Kingma, Ba: Adam, ICLR 2015, algorithm 1.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(learning_rate=self.learning_rate, eps=self.eps)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise InvalidSetting(f"beta1 and beta2 must lie in [0, 1), got {self.beta1} and {self.beta2}")

    def init(self, params: Params) -> Params:
        state = {"count": torch.zeros((), dtype=torch.float32)}
        for name, w in params.items():
            state[f"first/{name}"] = torch.zeros_like(w)
            state[f"second/{name}"] = torch.zeros_like(w)
        return state

    def update(
        self, params: Params, gradient: Params, state: Params, scale: float = 1.0
    ) -> tuple[Params, Params]:
        count = state["count"] + 1
        moments: Params = {"count": count}
        updated: Params = {}
        correction1, correction2 = 1 - self.beta1**count, 1 - self.beta2**count
        for name, w in params.items():
            g = gradient[name]
            first = state[f"first/{name}"] * self.beta1 + g * (1 - self.beta1)
            second = state[f"second/{name}"] * self.beta2 + g * g * (1 - self.beta2)
            spread = (second / correction2 + self.eps_root).sqrt() + self.eps
            updated[name] = w - (self.learning_rate * scale / correction1) * first / spread
            moments[f"first/{name}"], moments[f"second/{name}"] = first, second
        return updated, moments


def _require_positive(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise InvalidSetting(f"{name} must be positive, got {value}")
