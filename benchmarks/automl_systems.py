# ruff: noqa: ARG001 - every system is called alike
"""One AutoML system on one table, in a process and an environment of its own; started by ``automl.py``.

    python automl_systems.py SYSTEM FOLDER BUDGET

The folder holds train.csv and test.csv (a column ``target``, absent from test.csv), about.json, and perhaps
prior.safetensors; predictions.npz and outcome.json are written to it.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def shallow(model: str) -> Callable[..., Any]:
    """Return a scikit-learn model with its defaults, behind the plainest preparation that works."""

    def fit(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
        from sklearn import ensemble
        from sklearn.compose import make_column_selector, make_column_transformer
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OrdinalEncoder

        encoder = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
        )
        rest: Any = SimpleImputer()
        columns = make_column_transformer(
            (encoder, make_column_selector(dtype_exclude=np.number)), remainder=rest
        )
        suffix = "Classifier" if kind == "classification" else "Regressor"
        maker: Any = getattr(ensemble, model + suffix)
        given = {"n_jobs": -1} if model == "RandomForest" else {}
        return make_pipeline(columns, maker(random_state=0, **given)).fit(x, y)

    return fit


def tasklore(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
    """Fit Tasklore with a prior that does not know the table's family."""
    from tasklore import AutoClassifier, AutoRegressor
    from tasklore.apps.automl.prior import TablePrior

    face = AutoClassifier if kind == "classification" else AutoRegressor
    return face(budget=budget, prior=TablePrior.load(folder / "prior.safetensors")).fit(x, y)


def at_random(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
    """Fit Tasklore with its candidates in a random order."""
    from tasklore import AutoClassifier, AutoRegressor
    from tasklore.apps.automl.prior import AtRandom, TablePrior

    face = AutoClassifier if kind == "classification" else AutoRegressor
    prior = AtRandom.like(TablePrior.load(folder / "prior.safetensors"))
    return face(budget=budget, prior=prior).fit(x, y)


def named(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
    """Fit Tasklore without variations."""
    from tasklore import AutoClassifier, AutoRegressor
    from tasklore.apps.automl.prior import TablePrior

    class Named(TablePrior):
        """Candidates are chosen as past tables say."""

        varies = False

    face = AutoClassifier if kind == "classification" else AutoRegressor
    return face(budget=budget, prior=Named.load(folder / "prior.safetensors")).fit(x, y)


def portfolio(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
    """Fit Tasklore with its portfolio as a fixed order, and the other candidates after it at random."""
    from tasklore import AutoClassifier, AutoRegressor
    from tasklore.apps.automl.prior import AtRandom, TablePrior

    class Static(AtRandom):
        """Try the portfolio whatever happens."""

        def choose(self, tried: Any, described: Any, cost: Any, turn: int) -> str | None:
            first = next((name for name in self.portfolio if name in cost), None)
            return first or super().choose(tried, described, cost, turn)

    face = AutoClassifier if kind == "classification" else AutoRegressor
    prior = Static.like(TablePrior.load(folder / "prior.safetensors"))
    return face(budget=budget, prior=prior).fit(x, y)


def flaml(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
    """Fit FLAML's search."""
    from flaml import AutoML  # pyright: ignore[reportMissingImports] - in its own environment

    model = AutoML()
    metric = "log_loss" if kind == "classification" else "r2"
    model.fit(x, y, task=kind, time_budget=budget, metric=metric, n_jobs=2, seed=0, verbose=0)
    return model


def flaml_zero_shot(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
    """Fit FLAML's LightGBM with hyperparameters chosen from meta-features."""
    from flaml import default  # pyright: ignore[reportMissingImports] - in its own environment

    face = default.LGBMClassifier if kind == "classification" else default.LGBMRegressor
    for name in x.columns:
        if x[name].dtype == object:
            x[name] = x[name].astype("category")
    return face(n_jobs=2, random_state=0).fit(x, y)


def autogluon(x: pd.DataFrame, y: np.ndarray, kind: str, budget: float, folder: Path) -> Any:
    """Fit AutoGluon, medium quality."""
    from autogluon.tabular import TabularPredictor  # pyright: ignore[reportMissingImports] - its own environment

    if kind == "classification":
        problem, metric = ("binary" if len(np.unique(y)) == 2 else "multiclass"), "log_loss"
    else:
        problem, metric = "regression", "r2"
    predictor = TabularPredictor(
        label="target", problem_type=problem, eval_metric=metric, path=str(folder / "ag"), verbosity=0
    )
    predictor.fit(x.assign(target=y), time_limit=budget, presets="medium_quality", num_cpus=2)
    if kind == "regression":
        return predictor

    class Classes:
        """AutoGluon's predictor with scikit-learn's names."""

        classes_ = np.array(predictor.class_labels)

        def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
            return predictor.predict_proba(rows)[list(self.classes_)].to_numpy()

    return Classes()


SYSTEMS: dict[str, Callable[..., Any]] = {
    "tasklore": tasklore,
    "portfolio": portfolio,
    "random search": at_random,
    "named candidates": named,
    "forest": shallow("RandomForest"),
    "boosting": shallow("HistGradientBoosting"),
    "flaml": flaml,
    "flaml zero-shot": flaml_zero_shot,
    "autogluon": autogluon,
}


def main() -> None:
    """Fit, predict and write both down."""
    system, folder, budget = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    about = json.loads((folder / "about.json").read_text())
    train, test = pd.read_csv(folder / "train.csv"), pd.read_csv(folder / "test.csv")
    x, y = train.drop(columns="target"), train["target"].to_numpy()
    warm_up(system)
    started = time.perf_counter()
    model = SYSTEMS[system](x, y, about["kind"], budget, folder)
    fitted = time.perf_counter()
    if about["kind"] == "classification":
        chances = np.asarray(model.predict_proba(test), dtype=np.float64)
        np.savez(folder / "predictions.npz", outputs=chances, classes=np.asarray(model.classes_))
    else:
        values = np.asarray(model.predict(test), dtype=np.float64)
        np.savez(folder / "predictions.npz", outputs=values, classes=np.empty(0))
    outcome = {"fit_seconds": fitted - started, "predict_seconds": time.perf_counter() - fitted}
    (folder / "outcome.json").write_text(json.dumps(outcome))


def warm_up(system: str) -> None:
    """Import what a system needs, which is no part of its budget."""
    homes = {
        **dict.fromkeys(("flaml", "flaml zero-shot"), "flaml.default"),
        "autogluon": "autogluon.tabular",
        **dict.fromkeys(("forest", "boosting"), "sklearn.ensemble"),
    }
    importlib.import_module(homes.get(system, "tasklore.apps.automl.estimators"))


if __name__ == "__main__":
    main()
