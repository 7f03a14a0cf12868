"""AutoML with a prior that knows quick candidates only, for tests."""

from typing import Any

import numpy as np

from tasklore import AutoClassifier, AutoRegressor
from tasklore.apps.automl.descriptors import NAMES
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.prior import TablePrior

QUICK: dict[Kind, tuple[str, ...]] = {
    "classification": ("logistic-1", "lightgbm-quick", "gaussian-bayes", "tree-6", "discriminant"),
    "regression": ("ridge-1", "lightgbm-quick", "tree-6", "bayesian-ridge", "neighbours-5"),
}


def quick_prior(kind: Kind) -> TablePrior:
    """Return a prior that knows quick candidates only, from two past tables."""
    names = QUICK[kind]
    losses = np.linspace(0.3, 0.6, 2 * len(names), dtype=np.float32).reshape(2, -1)
    return TablePrior(
        kind,
        names,
        names,
        ("one", "two"),
        ("one", "two"),
        losses,
        np.full_like(losses, 0.02),
        np.zeros((2, len(NAMES[kind])), dtype=np.float32),
    )


def classifier(**given: Any) -> AutoClassifier:
    settings: dict[str, Any] = {"max_evaluations": 2, "n_jobs": 1, "prior": quick_prior("classification")}
    return AutoClassifier(**{**settings, **given})


def regressor(**given: Any) -> AutoRegressor:
    settings: dict[str, Any] = {"max_evaluations": 2, "n_jobs": 1, "prior": quick_prior("regression")}
    return AutoRegressor(**{**settings, **given})
