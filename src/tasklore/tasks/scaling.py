"""How raw numbers become what a network sees.

Networks need numbers of about one. What turned the past tasks' raw numbers into such is remembered with the
prior, so that new examples are given in the same raw units: grey levels 0…255, dollars, degrees.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InvalidData
from ..types import TaskSpec

__all__ = ["Floats", "Scaling"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scaling:
    """How raw numbers become what a network sees, ``(x − mean) / std``, and back.

    Parameters
    ----------
    x_mean, x_std : ndarray
        They broadcast to one example: a value for each feature, or for each channel of an image, or one for
        all.
    y_mean, y_std : ndarray, shape (c,) or (1,)
        Of regression targets; 0 and 1 where there are classes.
    """

    x_mean: Floats
    x_std: Floats
    y_mean: Floats
    y_std: Floats

    @classmethod
    def none(cls) -> "Scaling":
        """Return the scaling that leaves numbers as they are."""
        zero, one = np.zeros(1), np.ones(1)
        return cls(zero, one, zero, one)

    @classmethod
    def of(cls, pairs: Sequence[tuple[Floats, np.ndarray]]) -> "Scaling":
        """Return the scaling that standardises some tasks together, each with equal weight.

        Parameters
        ----------
        pairs : sequence of (x, y)
            ``x`` of shape (n, *input_shape); a ``y`` of integers holds classes and is not scaled.

        Raises
        ------
        InvalidData
            The values are so large that their variance is infinite.
        """
        x_mean, x_std = _moments([x for x, _ in pairs])
        if pairs[0][1].dtype.kind == "i":
            return cls(x_mean, x_std, np.zeros(1), np.ones(1))
        return cls(x_mean, x_std, *_moments([y for _, y in pairs]))

    def inputs(self, x: Floats) -> Floats:
        """Return examples as a network sees them."""
        return (x - self.x_mean) / self.x_std

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Return targets as a network sees them; class indices stay what they are."""
        return y if y.dtype.kind == "i" else (y - self.y_mean) / self.y_std

    def values(self, prediction: Floats) -> Floats:
        """Return regressed values in the units of the targets; the inverse of :meth:`targets`."""
        return prediction * self.y_std + self.y_mean

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], spec: TaskSpec) -> "Scaling":
        """Read what :meth:`to_dict` gave, and check that it fits the tasks.

        Raises
        ------
        InvalidData
            It does not describe a scaling for such tasks.
        """
        try:
            scaling = cls(**{name: np.asarray(value, dtype=np.float64) for name, value in values.items()})
            for part, shape in (("x", spec.input_shape), ("y", (spec.n_outputs,))):
                mean, std = (np.broadcast_to(getattr(scaling, f"{part}_{m}"), shape) for m in ("mean", "std"))
                if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
                    raise ValueError(
                        f"{part} has a mean or std that is not finite, or a std that is not positive"
                    )
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidData(
                f"this scaling does not fit examples of shape {spec.input_shape} with {spec.n_outputs} "
                f"outputs: {error}; meta-learn anew"
            ) from error
        return scaling


def _moments(parts: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return mean and standard deviation for each feature or channel, every part weighing the same."""
    # A flat example has features, each with a scale of its own; the pixels of an image share one per channel.
    axes = (0,) if parts[0].ndim <= 2 else (0, *range(2, parts[0].ndim))
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.mean([part.mean(axes, keepdims=True)[0] for part in parts], axis=0)
        variance = np.mean([((part - mean) ** 2).mean(axes, keepdims=True)[0] for part in parts], axis=0)
    if not np.isfinite(variance).all():
        raise InvalidData("some values are too large for their variance to be a number; divide them first")
    std = np.sqrt(variance)
    constant = std <= 1e-10 * np.abs(mean)  # rounding, not spread; all zeros included
    return mean, np.where(constant, 1.0, std)
