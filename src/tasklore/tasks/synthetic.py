"""Tasks made from a formula, of which there are as many as one likes."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InvalidSetting
from ..registry import sources
from ..types import Batch, Episode, TaskSpec
from .source import Collection, Splits, Task, TaskSource

__all__ = ["Sinusoid", "SinusoidSource", "SinusoidTask"]

INPUTS = (-5.0, 5.0)
AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, math.pi)


@dataclass(frozen=True)
class SinusoidTask(Task):
    """Regress ``y = amplitude · sin(x − phase)`` from a few noiseless points."""

    amplitude: float
    phase: float
    n_shots: int
    n_queries: int

    @property
    def name(self) -> str:
        return f"{self.amplitude:.2f} sin(x − {self.phase:.2f})"

    def episode(self, rng: np.random.Generator) -> Episode:
        x = rng.uniform(*INPUTS, size=(self.n_shots + self.n_queries, 1))
        y = self.amplitude * np.sin(x - self.phase)
        pair = torch.from_numpy(np.stack([x, y]).astype(np.float32))  # (2, n, 1)
        ones = torch.ones(len(x))
        support, query = slice(None, self.n_shots), slice(self.n_shots, None)
        return Episode(*(Batch(pair[0, part], pair[1, part], ones[part]) for part in (support, query)))


@dataclass(frozen=True)
class SinusoidSource(TaskSource):
    """Sine waves, each seen at a few points.

    The amplitude is uniform in [0.1, 5], the phase in [0, π], and x in [−5, 5].

    Parameters
    ----------
    n_shots : int
        Support points.
    n_queries : int
        Query points.

    References
    ----------
    Finn, Abbeel, Levine: Model-Agnostic Meta-Learning, ICML 2017, section 5.1.
    """

    n_shots: int = 5
    n_queries: int = 10

    def __post_init__(self) -> None:
        if self.n_shots < 1 or self.n_queries < 1:
            raise InvalidSetting(
                f"n_shots and n_queries must be at least 1, got {self.n_shots} and {self.n_queries}"
            )

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec("regression", (1,), 1)

    def task(self, rng: np.random.Generator) -> SinusoidTask:
        return SinusoidTask(rng.uniform(*AMPLITUDES), rng.uniform(*PHASES), self.n_shots, self.n_queries)

    def describe(self) -> dict[str, object]:
        return {"source": "sinusoid", **dataclasses.asdict(self), **self.spec.to_dict()}

    def with_shots(self, n_shots: int) -> "SinusoidSource":
        return dataclasses.replace(self, n_shots=n_shots)


@sources.register("sinusoid")
@dataclass(frozen=True)
class Sinusoid(Collection):
    """Sinusoid regression. The three sides differ in their random streams only: the family has endless tasks.

    Parameters
    ----------
    n_shots, n_queries : int
        Support and query points of a training task.
    n_test_queries : int
        Query points of a validation or test task; more of them make the error of each task more exact.
    """

    n_shots: int = 5
    n_queries: int = 10
    n_test_queries: int = 100

    def splits(self) -> Splits:
        judged = SinusoidSource(self.n_shots, self.n_test_queries)
        return Splits(SinusoidSource(self.n_shots, self.n_queries), judged, judged)
