"""Undo what averaging does to predictions: a mean of several models lies nearer to the middle than they do.

Chances are sharpened by a power, values are stretched from their mean. One number is learned for it, on
predictions out of fold, and little of it is believed where there are few rows.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from .losses import LOSSES, drawn_in
from .pipelines import Kind

__all__ = ["Calibration", "calibrated"]

SHARPEST = 4.0  # power of chances, and its inverse the least
TIMIDITY = 10.0  # loss of all rows together that a power of e costs
DOUBT = 2.0  # standard errors of a slope: blends were chosen on the same rows


@dataclass(frozen=True)
class Calibration:
    """How the predictions of a blend are changed.

    Parameters
    ----------
    power : float
        Of the chances of classes, which are scaled to sum 1 again.
    centre, stretch : float
        Values become ``centre + stretch · (value − centre)``.
    """

    power: float = 1.0
    centre: float = 0.0
    stretch: float = 1.0

    def __call__(self, outputs: np.ndarray) -> np.ndarray:
        """Return what becomes of chances, shape (n, classes), or of values, shape (n, 1).

        Examples
        --------
        >>> Calibration(power=2.0)(np.array([[0.8, 0.2]])).round(3).tolist()
        [[0.941, 0.059]]
        >>> Calibration(centre=1.0, stretch=1.5)(np.array([[3.0]])).tolist()
        [[4.0]]
        """
        if self.power != 1.0:
            raised = outputs**self.power
            outputs = raised / raised.sum(1, keepdims=True)
        return outputs if self.stretch == 1.0 else self.centre + self.stretch * (outputs - self.centre)


def calibrated(
    outputs: np.ndarray, y: np.ndarray, kind: Kind, row_weights: np.ndarray | None = None
) -> Calibration:
    """Learn how to change the predictions of a blend.

    The power is the one with which chances lose least, but for a penalty. The stretch is the slope of targets
    over predictions, of which so much is believed as twice its standard error leaves: ``1 − (2 error /
    (slope − 1))²``, and nothing if that is negative.

    Parameters
    ----------
    outputs : ndarray, shape (n_rows, n_outputs)
        Out of fold.
    y : ndarray, shape (n_rows,)
        Class indices or targets.
    kind : {"classification", "regression"}
    row_weights : ndarray, shape (n_rows,), optional

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2: the power
    is the inverse of their temperature. James, Stein: Estimation with Quadratic Loss, 1961, for what is
    believed.
    """
    if kind == "classification":
        return Calibration(power=_power(outputs, y, row_weights))
    return _stretch(outputs[:, 0], y, row_weights)


def _power(outputs: np.ndarray, y: np.ndarray, row_weights: np.ndarray | None) -> float:
    def loss(logarithm: float) -> float:
        found = LOSSES["classification"](y, Calibration(math.exp(logarithm))(outputs), row_weights)
        return found + TIMIDITY * logarithm**2 / len(y)

    most = math.log(SHARPEST)
    return math.exp(minimize_scalar(loss, bounds=(-most, most), method="bounded", options={"xatol": 0.01}).x)


def _stretch(values: np.ndarray, y: np.ndarray, row_weights: np.ndarray | None) -> Calibration:
    y, values = drawn_in(y, y, values)
    weights = np.ones(len(y)) if row_weights is None else row_weights
    centre, mean = np.average(values, weights=weights), np.average(y, weights=weights)
    apart, error = values - centre, y - mean
    spread = float(weights @ apart**2)
    if len(y) < 3 or spread <= 1e-12 * float(weights @ error**2):
        return Calibration()
    slope = float(weights @ (apart * error)) / spread
    doubt = float(weights @ (error - slope * apart) ** 2) / spread / (len(y) - 2)
    believed = max(0.0, 1.0 - DOUBT**2 * doubt / max((slope - 1.0) ** 2, 1e-12))
    return Calibration(centre=float(centre), stretch=1.0 + believed * (slope - 1.0))
