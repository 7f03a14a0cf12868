"""A score is a mean over tasks with its 95 % confidence interval, never a bare number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from .errors import InvalidData

__all__ = ["Score"]


@dataclass(frozen=True)
class Score:
    """A mean over tasks.

    Parameters
    ----------
    metric : str
        ``"accuracy"`` (share of queries, 0 to 1) or ``"mse"`` (squared units of the target).
    mean : float
    half_width : float
        Half of the 95 % confidence interval of the mean, by Student's t; infinite for a single task.
    n_tasks : int

    Examples
    --------
    >>> Score.of("accuracy", [0.9, 1.0, 0.8, 0.9])
    Score(metric='accuracy', mean=0.9, half_width=0.12992..., n_tasks=4)
    >>> print(Score.of("accuracy", [0.9, 1.0, 0.8, 0.9]))
    90.00 ± 12.99 %
    """

    metric: str
    mean: float
    half_width: float
    n_tasks: int

    @classmethod
    def of(cls, metric: str, values: Sequence[float]) -> "Score":
        """Summarise one value for each task."""
        n = len(values)
        if n == 0:
            raise InvalidData("no task was scored; at least one is needed for a mean")
        mean = math.fsum(values) / n
        if n == 1:
            return cls(metric, mean, math.inf, 1)
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        return cls(metric, mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n), n)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger mean is an improvement."""
        return self.metric != "mse"

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.mean - self.half_width, self.mean + self.half_width

    def beats(self, other: "Score | None") -> bool:
        """Whether this mean is better than the other's (or there is no other, or it is no number)."""
        if other is None or math.isnan(other.mean):
            return True
        return self.mean > other.mean if self.higher_is_better else self.mean < other.mean

    def reaches(self, target: float) -> bool:
        """Whether the whole interval is at least as good as ``target``."""
        low, high = self.interval
        return low >= target if self.higher_is_better else high <= target

    def __str__(self) -> str:
        if self.metric == "accuracy":
            return f"{100 * self.mean:.2f} ± {100 * self.half_width:.2f} %"
        return f"{self.mean:.4g} ± {self.half_width:.2g}"
