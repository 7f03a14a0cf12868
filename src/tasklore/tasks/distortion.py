"""Past images, a little different each time they are drawn, so that more is learned than these few."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidSetting

__all__ = ["Distortion"]

N_BENDS = 4  # points along a side that are moved, and all between them smoothly


@dataclass(frozen=True)
class Distortion:
    """How far images are turned, sheared, scaled, moved, bent and mirrored: each at random up to a limit.

    Parameters
    ----------
    degrees : float
        Of turning, to either side.
    shear : float
        By which a row is moved, as a share of its distance from the middle row.
    scale : float
        0.1: from 10 % smaller to 10 % larger, each side by itself.
    shift : float
        As a share of a side.
    bend : float
        Standard deviation of how far the points of a coarse grid move, as a share of a side.
    flip : bool
        Whether half of the images are mirrored, left to right.
    outside : {"zeros", "reflection"}
        What is beyond the edges: nothing, as around handwriting, or the image mirrored, as in photographs.
    """

    degrees: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    bend: float = 0.0
    flip: bool = False
    outside: str = "zeros"

    def __post_init__(self) -> None:
        if min(self.degrees, self.shear, self.scale, self.shift, self.bend) < 0 or self.scale >= 1:
            raise InvalidSetting(f"distortions cannot be negative, and scale must be below 1, got {self}")
        if self.outside not in ("zeros", "reflection"):
            raise InvalidSetting(f"outside is {self.outside!r}; use 'zeros' or 'reflection'")

    def times(self, strength: float) -> "Distortion":
        """Return it with all distances multiplied by a strength."""
        far = (strength * each for each in (self.degrees, self.shear, self.scale, self.shift, self.bend))
        return Distortion(*far, flip=self.flip, outside=self.outside)

    def apply(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Return images, each distorted in its own way.

        Parameters
        ----------
        x : Tensor, shape (n, channels, height, width)
        rng : numpy.random.Generator
        """
        n = len(x)
        angle, shear, tall, wide, down, right = rng.uniform(-1, 1, (6, n))
        angle = np.deg2rad(self.degrees) * angle
        cos, sin = np.cos(angle), np.sin(angle)
        tall, wide = 1 + self.scale * tall, 1 + self.scale * wide
        mirror = np.where(rng.random(n) < 0.5, -1.0, 1.0) if self.flip else np.ones(n)
        # Where each place of the result is taken from; the sides run from -1 to 1.
        rows = np.stack(
            [
                np.stack([mirror * wide * cos, self.shear * shear - sin, 2 * self.shift * right], 1),
                np.stack([mirror * sin, tall * cos, 2 * self.shift * down], 1),
            ],
            1,
        )
        grid = F.affine_grid(torch.from_numpy(rows.astype(np.float32)), list(x.shape), align_corners=False)
        if self.bend:
            coarse = 2 * self.bend * rng.standard_normal((n, 2, N_BENDS, N_BENDS)).astype(np.float32)
            smooth = F.interpolate(
                torch.from_numpy(coarse), list(x.shape[-2:]), mode="bicubic", align_corners=True
            )
            grid = grid + smooth.permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, padding_mode=self.outside, align_corners=False)
