"""How should tried candidates be blended? Ways to choose weights, judged on rows that they did not see.

    python benchmarks/automl_blends.py DATA/MANIFEST.csv EXPERIENCE --rows 150 500

For every past table that is not among those of ``automl.py``, 40 of its measured candidates and so many of
its rows are drawn; weights are chosen on their out-of-fold predictions, and the blend is judged on the other
rows. Regret: 0 is the best candidate there, 1 is predicting always the same (or worse). Differences are to
what a search does, task by task, with the 95 % interval of their mean.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from automl import drawn
from rich.console import Console
from rich.table import Table

from tasklore.apps.automl.collecting import read_manifest
from tasklore.apps.automl.ensembles import select
from tasklore.apps.automl.losses import LOSSES
from tasklore.apps.automl.measuring import bounds_of
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.portfolio import Measured, read_experience
from tasklore.experience.store import open_store

KINDS: tuple[Kind, ...] = ("classification", "regression")
LEAST_WEIGHT = 0.03  # as in a search
LEAST_GAP = 0.02  # of the trivial loss: what separates it from the best is taken to be at least this
MOST_JUDGED = 3000

FINAL = "the same, a fifth by rank: a search's"
UNBOUNDED = "that, predictions not bounded"

Way = Callable[[np.ndarray, np.ndarray, Kind], np.ndarray]


def best_alone(predictions: np.ndarray, y: np.ndarray, kind: Kind) -> np.ndarray:
    """Take the best candidate."""
    losses = [LOSSES[kind](y, one) for one in predictions]
    return np.eye(len(predictions))[int(np.argmin(losses))]


def best_ten(predictions: np.ndarray, y: np.ndarray, kind: Kind) -> np.ndarray:
    """Take the mean of the ten best."""
    order = np.argsort([LOSSES[kind](y, one) for one in predictions])[:10]
    return np.isin(np.arange(len(predictions)), order) / len(order)


WAYS: dict[str, Way] = {
    "greedy, 5 halves × 30": lambda p, y, kind: select(p, y, kind, n_bags=5, n_steps=30, by_rank=0.0),
    "greedy, 20 halves × 15": lambda p, y, kind: select(p, y, kind, by_rank=0.0),
    FINAL: lambda p, y, kind: select(p, y, kind),
    "that, tails not drawn in": lambda p, y, kind: select(p, y, kind, reach=np.inf),
    UNBOUNDED: lambda p, y, kind: select(p, y, kind, reach=np.inf),
    "greedy on all rows": lambda p, y, kind: select(p, y, kind, n_bags=0, n_steps=30),
    "ten best": best_ten,
    "best alone": best_alone,
}


def regrets(measured: Measured, n_rows: int, n_candidates: int, seed: int) -> list[float] | None:
    """Return the regret of each way on one draw, or None if the table is too small."""
    n = len(measured.y)
    if n < n_rows + 150:
        return None
    rng = np.random.default_rng(seed)
    candidates = sorted(set(measured.predictions) - {"constant"})
    chosen = [candidates[place] for place in rng.permutation(len(candidates))[:n_candidates]]
    order = rng.permutation(n)
    here, there = order[:n_rows], order[n_rows : n_rows + MOST_JUDGED]
    predictions = np.stack([measured.predictions[name] for name in chosen]).astype(np.float64)
    truth = measured.y[there]
    losses = [LOSSES[measured.kind](truth, one) for one in predictions[:, there]]
    gap = max(measured.trivial - min(losses), LEAST_GAP * measured.trivial)
    bounded = predictions
    if measured.kind == "regression":
        bounded = np.clip(predictions, *bounds_of(measured.y[here]))
    found: list[float] = []
    for name, way in WAYS.items():
        given = predictions if name == UNBOUNDED else bounded
        weights = way(given[:, here], measured.y[here], measured.kind)
        weights = np.where(weights < min(LEAST_WEIGHT, weights.max()), 0.0, weights)
        blend = np.tensordot(weights / weights.sum(), given[:, there], 1)
        found.append((LOSSES[measured.kind](truth, blend) - min(losses)) / gap)
    return np.clip(found, -1, 1).tolist()


def main() -> None:
    """Print a table for each kind of task and number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="list of tables")
    parser.add_argument("experience", type=Path, help="folder with lore.db and artifacts/")
    parser.add_argument("--rows", type=int, nargs="+", default=[150, 500])
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    tested = {dataset.family for dataset in drawn(read_manifest(arguments.manifest), 40, 0)}
    console = Console(width=110)
    for kind in KINDS:
        with open_store(arguments.experience / "lore.db") as store:
            known = read_experience(store, arguments.experience / "artifacts", kind)
        past = [measured for measured in known if measured.family not in tested]
        for n_rows in arguments.rows:
            draws = [(one, seed) for one in past for seed in range(arguments.draws)]
            found = [regrets(one, n_rows, arguments.candidates, seed) for one, seed in draws]
            values = np.array([row for row in found if row is not None])
            grid = Table(title=f"{kind}, {n_rows} rows, {len(values)} draws", title_justify="left")
            for column in ("way", "regret", "difference", "better", "worse"):
                grid.add_column(column, justify="left" if column == "way" else "right")
            for place, name in enumerate(WAYS):
                difference = values[:, place] - values[:, list(WAYS).index(FINAL)]
                half = 1.96 * difference.std() / np.sqrt(len(values))
                grid.add_row(
                    name,
                    f"{values[:, place].mean():.4f}",
                    f"{difference.mean():+.4f} ± {half:.4f}",
                    f"{100 * (difference < 0).mean():.0f} %",
                    f"{100 * (difference > 0).mean():.0f} %",
                )
            console.print(grid)


if __name__ == "__main__":
    main()
