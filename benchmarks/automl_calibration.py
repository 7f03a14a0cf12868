"""What calibrating a blend changes: the same fitted models with and without, on test rows.

    python benchmarks/automl_calibration.py DATA/MANIFEST.csv

On tables that ``automl.py`` does not compare on, each searched for 5 seconds with what the package ships
about tables of other families; splits are those of ``automl.py``.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from automl import N_TABLES, drawn, parts_of
from rich.console import Console
from rich.table import Table

from tasklore import AutoClassifier, AutoRegressor
from tasklore.apps.automl.calibrating import Calibration
from tasklore.apps.automl.collecting import Dataset, read_manifest
from tasklore.apps.automl.losses import LOSSES
from tasklore.apps.automl.prior import TablePrior


def losses(dataset: Dataset, budget: float) -> tuple[int, float, float, float]:
    """Return rows learned from, power or stretch, and the loss without and with it."""
    train, test = parts_of(dataset)
    face = AutoClassifier if dataset.kind == "classification" else AutoRegressor
    prior = TablePrior.shipped(dataset.kind).without({dataset.family})
    model = face(budget=budget, prior=prior, random_state=0)
    model.fit(train.drop(columns="target"), train["target"])
    blend = model._blend  # pyright: ignore[reportPrivateUsage]
    table: Any = model._schema.table(test.drop(columns="target"))  # pyright: ignore[reportPrivateUsage]
    y = test["target"].to_numpy()
    if isinstance(model, AutoClassifier):
        places = {label: place for place, label in enumerate(model.classes_)}
        known = np.array([label in places for label in y])  # a class of two rows may be in the test alone
        table, y = table[known], np.array([places[label] for label in y[known]])
    plain = dataclasses.replace(blend, calibration=Calibration())
    without, with_it = (LOSSES[dataset.kind](y, one.outputs(table)) for one in (plain, blend))
    moved = blend.calibration.power * blend.calibration.stretch
    return len(train), moved, without, with_it


def main() -> None:
    """Print both losses for each table, and how they compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="list of tables")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds")
    parser.add_argument("--tables", type=int, default=1000, help="at most so many of each kind")
    arguments = parser.parse_args()
    console = Console(width=110)
    manifest = read_manifest(arguments.manifest)
    compared = {dataset.name for dataset in drawn(manifest, N_TABLES, 0)}
    for kind in ("classification", "regression"):
        others = [dataset for dataset in manifest if dataset.kind == kind and dataset.name not in compared]
        others = [others[place] for place in np.random.default_rng(0).permutation(len(others))]
        grid = Table(title=f"{kind}, {arguments.budget:g} s", title_justify="left")
        for column in (
            "table",
            "rows",
            "power" if kind == "classification" else "stretch",
            "without",
            "with",
        ):
            grid.add_column(column, justify="left" if column == "table" else "right")
        ratios: list[float] = []
        for dataset in others[: arguments.tables]:
            n_rows, moved, without, with_it = losses(dataset, arguments.budget)
            ratios.append(float(np.log(max(with_it, 1e-6) / max(without, 1e-6))))
            grid.add_row(dataset.name, str(n_rows), f"{moved:.2f}", f"{without:.4f}", f"{with_it:.4f}")
        console.print(grid)
        change, half = np.mean(ratios), 1.96 * np.std(ratios, ddof=1) / np.sqrt(len(ratios))
        better, worse = (sum(sign * ratio < -0.005 for ratio in ratios) for sign in (1, -1))
        console.print(
            f"{len(ratios)} tables: loss {100 * (np.exp(change) - 1):+.1f} % on average (95 %: "
            f"{100 * (np.exp(change - half) - 1):+.1f} to {100 * (np.exp(change + half) - 1):+.1f} %); "
            f"at least 0.5 % less on {better}, more on {worse}"
        )


if __name__ == "__main__":
    main()
