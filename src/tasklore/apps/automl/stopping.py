# ruff: noqa: N803 - scikit-learn calls the rows X
"""LightGBM that finds its number of trees itself, as scikit-learn's own boosting can.

It stands in a module of its own because LightGBM must be there to import it.
"""

import math
from inspect import signature
from typing import Any, Self

import lightgbm
import numpy as np
from sklearn.model_selection import train_test_split

__all__ = ["StoppedClassifier", "StoppedRegressor"]

JUDGED = 0.1  # of the rows, which say when more trees do not help
PATIENCE = 40  # trees without a gain


def _fit(model: Any, fit: Any, X: Any, y: Any, sample_weight: Any, n_classes: int) -> Any:
    """Fit with as many trees as some rows ask for that are kept aside; ``fit`` is LightGBM's own."""
    weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
    divided: list[Any] = train_test_split(
        *(X, y, weights),
        test_size=max(math.ceil(JUDGED * len(y)), n_classes),
        random_state=model.random_state,
        stratify=y if n_classes else None,
    )
    x, x_aside, y, y_aside, weights, weights_aside = divided
    newer = "eval_X" in signature(fit).parameters  # since 4.7; what was there before is deprecated
    aside = {"eval_X": x_aside, "eval_y": y_aside} if newer else {"eval_set": [(x_aside, y_aside)]}
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    return fit(x, y, sample_weight=weights, eval_sample_weight=[weights_aside], **aside, callbacks=[stop])


class StoppedClassifier(lightgbm.LGBMClassifier):
    """LightGBM's classifier, with at most ``n_estimators`` trees."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride] - as in scikit-learn
        """Fit to nine tenths of the rows; the others say when to stop.

        Raises
        ------
        ValueError
            A class has one row only.
        """
        return _fit(self, super().fit, X, y, sample_weight, len(np.unique(y)))


class StoppedRegressor(lightgbm.LGBMRegressor):
    """LightGBM's regressor, with at most ``n_estimators`` trees."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride] - as in scikit-learn
        """Fit to nine tenths of the rows; the others say when to stop."""
        return _fit(self, super().fit, X, y, sample_weight, 0)
