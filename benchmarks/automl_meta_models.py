"""Meta-models that foresee a candidate's loss on a table: Gaussian, trees, a network.

Each learns, from past tables, the mean of what candidates lose, as shares of what separates the best one from
the trivial one, and how the errors of this mean go together; what was tried then tells of what was not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import lightgbm
import numpy as np
from scipy.stats import norm
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

from tasklore.apps.automl.descriptors import NAMES
from tasklore.apps.automl.pipelines import Candidate
from tasklore.apps.automl.portfolio import Measured
from tasklore.apps.automl.prior import LEAST_GAP, TablePrior
from tasklore.apps.automl.replay import Choose
from tasklore.apps.automl.space import candidates

NOISE = 0.02


def encoded(chosen: Sequence[Candidate]) -> np.ndarray:
    """Return candidates as numbers: which model, which features, which settings; NaN where it has none.

    Returns
    -------
    ndarray, shape (n_candidates, n_numbers)
    """
    words = sorted({word for candidate in chosen for word in _words(candidate)})
    keys = sorted({key for candidate in chosen for key in _numbers(candidate)})
    rows = [
        [float(word in _words(candidate)) for word in words]
        + [_numbers(candidate).get(key, np.nan) for key in keys]
        for candidate in chosen
    ]
    return np.array(rows)


def _words(candidate: Candidate) -> set[str]:
    features = candidate.features
    texts = {f"{key}={value}" for key, value in candidate.settings.items() if isinstance(value, str)}
    return texts | {
        f"model={candidate.model}",
        f"categories={features.categories}",
        f"numbers={features.numbers}",
        f"extra={features.extra}",
        f"target={candidate.target}",
    }


def _numbers(candidate: Candidate) -> dict[str, float]:
    return {
        key: float(np.log(abs(value) + 1e-4))
        for key, value in candidate.settings.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


class Mean(Protocol):
    """What is expected before anything was tried."""

    def fit(self, descriptors: np.ndarray, codes: np.ndarray, regrets: np.ndarray) -> "Mean":
        """Learn from past tables: (tables, d), (candidates, c), (tables, candidates)."""
        ...

    def predict(self, descriptors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return what is expected, (tables, candidates)."""
        ...


class Average:
    """The same for every table: the mean over past ones."""

    def fit(self, descriptors: np.ndarray, codes: np.ndarray, regrets: np.ndarray) -> "Average":
        """Average."""
        self.mean = regrets.mean(0)
        return self

    def predict(self, descriptors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the mean."""
        return np.tile(self.mean, (len(descriptors), 1))


class Learned:
    """A regressor on descriptors, settings and the candidate's mean."""

    def __init__(self, make: Callable[[], Any], *, filled: bool) -> None:
        self.make, self.filled = make, filled

    def fit(self, descriptors: np.ndarray, codes: np.ndarray, regrets: np.ndarray) -> "Learned":
        """Fit it to the differences from the mean."""
        self.mean = regrets.mean(0)
        self.model = self.make()
        x = self._pairs(descriptors, codes)
        self.scale = StandardScaler().fit(x) if self.filled else None
        self.model.fit(self.scale.transform(x) if self.scale else x, (regrets - self.mean).ravel())
        return self

    def predict(self, descriptors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return mean and predicted difference."""
        x = self._pairs(descriptors, codes)
        found = self.model.predict(self.scale.transform(x) if self.scale else x)
        return self.mean + found.reshape(len(descriptors), -1)

    def _pairs(self, descriptors: np.ndarray, codes: np.ndarray) -> np.ndarray:
        codes = np.nan_to_num(codes) if self.filled else codes
        n, m = len(descriptors), len(codes)
        left, right = np.repeat(descriptors, m, 0), np.tile(codes, (n, 1))
        return np.column_stack([left, right, np.tile(self.mean, n)])


def trees() -> Learned:
    """Return boosted trees."""
    return Learned(
        lambda: lightgbm.LGBMRegressor(
            n_estimators=150,
            learning_rate=0.05,
            num_leaves=15,
            min_child_samples=40,
            subsample=0.7,
            subsample_freq=1,
            colsample_bytree=0.5,
            verbose=-1,
            n_jobs=1,
            random_state=0,
        ),
        filled=False,
    )


def network() -> Learned:
    """Return a small network."""
    return Learned(
        lambda: MLPRegressor(
            hidden_layer_sizes=(64, 32), alpha=0.1, early_stopping=True, max_iter=60, random_state=0
        ),
        filled=True,
    )


class Foreseen:
    """A Gaussian over what all candidates lose on a table.

    Parameters
    ----------
    prior : TablePrior
        Whose tables it learns from.
    mean : Mean
    """

    def __init__(self, prior: TablePrior, mean: Mean) -> None:
        self.prior = prior
        space = candidates(prior.kind)
        self.codes = encoded([space[name] for name in prior.candidates])
        losses = np.nan_to_num(prior.losses.astype(float), nan=1.0).clip(0.0, 1.0)
        best = losses.min(1, keepdims=True)
        self.regrets = ((losses - best) / np.maximum(1.0 - best, LEAST_GAP)).clip(0.0, 1.0) ** 0.5
        self.mean = mean.fit(self._scaled(prior.descriptors), self.codes, self.regrets)
        residual = self.regrets - self.mean.predict(self._scaled(prior.descriptors), self.codes)
        if not isinstance(mean, Average):  # what it has not seen it foresees less well
            residual = 0.5 * residual + 0.5 * (self.regrets - self.regrets.mean(0))
        covariance = residual.T @ residual / len(residual)
        shrunk = 0.8 * covariance + 0.2 * np.diag(np.diag(covariance))
        self.covariance = shrunk + 1e-4 * np.eye(len(shrunk))

    def _scaled(self, descriptors: np.ndarray) -> np.ndarray:
        centre, spread = self.prior.descriptors.mean(0), self.prior.descriptors.std(0) + 1e-6
        return ((descriptors - centre) / spread).clip(-3, 3)

    def improvement(self, tried: Mapping[str, float], before: np.ndarray) -> np.ndarray:
        """Return by how much each candidate is expected to be better than the best so far."""
        known = [name for name in tried if name in self.prior.candidates]
        if not known:
            return 1.0 - before
        places = [self.prior.candidates.index(name) for name in known]
        losses = np.array([tried[name] for name in known]).clip(0.0, 1.0)
        # Where the best of all lies is unknown: as far below the best so far as is usual for those tried.
        gap = max(1.0 - losses.min(), LEAST_GAP)
        lead = float((self.regrets[:, places] ** 2).min(1).mean())
        seen = ((losses - losses.min()) / gap * (1 - lead) + lead).clip(0.0, 1.0) ** 0.5
        inner = self.covariance[np.ix_(places, places)] + NOISE**2 * np.eye(len(places))
        cross = self.covariance[:, places]
        mean = before + cross @ np.linalg.solve(inner, seen - before[places])
        variance = np.diag(self.covariance) - np.einsum("ij,ji->i", cross, np.linalg.solve(inner, cross.T))
        spread = np.sqrt(np.maximum(variance, 1e-8))
        best = seen.min()
        z = (best - mean) / spread
        return spread * (z * norm.cdf(z) + norm.pdf(z))

    def choose(self, measured: Measured, *, period: int = 1, timed: bool = True, n_folds: int = 3) -> Choose:
        """Return how a search would choose with it."""
        prior = self.prior
        described = np.array([[measured.descriptors[name] for name in NAMES[prior.kind]]])
        before = self.mean.predict(self._scaled(described), self.codes)[0].clip(0.0, 1.0)
        expected = dict(zip(prior.candidates, prior.seconds_for(measured.descriptors).tolist(), strict=True))
        known = [name for name in expected if name in measured.losses and name != "constant"]

        def choose(tried: Mapping[str, float]) -> str | None:
            cost = {n: expected[n] * n_folds + 0.02 if timed else 1.0 for n in known if n not in tried}
            if not cost:
                return None
            if len(tried) % period != period - 1:
                chosen = next((name for name in prior.portfolio if name in cost), None)
                if chosen is not None:
                    return chosen
            gains = dict(zip(prior.candidates, self.improvement(tried, before).tolist(), strict=True))
            return max(sorted(cost), key=lambda name: gains[name] / cost[name])

        return choose
