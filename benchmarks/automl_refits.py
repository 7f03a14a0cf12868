"""What should the members of a blend be fitted to? Five folds, ten, all rows, or both, on past tables.

    python benchmarks/automl_refits.py DATA/MANIFEST.csv EXPERIENCE

For past tables of families that ``automl.py`` does not compare on, at most 1,500 rows each, a fifth is for
testing. The twelve candidates that did best there in the past are cross-validated on the rest and blended as
a search does; the loss on the test rows is compared with that of the models of five folds.
"""

import argparse
from pathlib import Path

import numpy as np
from automl import drawn
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from tasklore.apps.automl.collecting import Dataset, read_manifest
from tasklore.apps.automl.ensembles import select
from tasklore.apps.automl.losses import LOSSES
from tasklore.apps.automl.measuring import Problem, folds_of, measure
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.portfolio import Measured, read_experience
from tasklore.apps.automl.space import candidates
from tasklore.apps.automl.trials import Blend
from tasklore.experience.store import open_store

KINDS: tuple[Kind, ...] = ("classification", "regression")
WAYS = ("5 folds", "10 folds", "all rows", "5 folds and all rows", "10 folds and all rows")
N_CANDIDATES = 12
MOST_ROWS = 1500
LONGEST_FIT = 1.0  # seconds
LEAST_WEIGHT = 0.03  # as in a search


def blended(problem: Problem, chosen: list[str], n_folds: int) -> Blend:
    """Return a blend as a search makes it, of the models of the folds."""
    space, folds = candidates(problem.kind), folds_of(problem, n_folds)
    tried = [measure(space[name], problem, folds, keep_models=True) for name in chosen]
    tried = [one for one in tried if not one.error]
    weights = select(np.stack([one.predictions for one in tried]), problem.y, problem.kind)
    weights[weights < LEAST_WEIGHT] = 0.0
    weights /= weights.sum()
    members = [
        (float(weight), space[one.candidate], one.models)
        for weight, one in zip(weights, tried, strict=True)
        if weight > 0
    ]
    return Blend(problem, tuple(members))


def losses(dataset: Dataset, known: Measured) -> list[float]:
    """Return the loss of each way on the test rows."""
    problem = dataset.read().sample(MOST_ROWS)
    fitted, judged = folds_of(problem, 5, random_state=7)[0]
    past, test = problem.rows(fitted), problem.rows(judged)
    space = candidates(dataset.kind)
    able = [
        name
        for name in sorted(known.losses, key=known.losses.__getitem__)
        if name in space and past.suits(space[name]) and known.seconds[name] < LONGEST_FIT
    ]
    found: dict[str, np.ndarray] = {}
    for n_folds in (5, 10):
        blend = blended(past, able[:N_CANDIDATES], n_folds)
        outputs, whole = blend.outputs(test.table), blend.refitted(past, 0).outputs(test.table)
        found[f"{n_folds} folds"], found[f"{n_folds} folds and all rows"] = outputs, (outputs + whole) / 2
        found.setdefault("all rows", whole)
    return [LOSSES[dataset.kind](test.y, found[way]) for way in WAYS]


def main() -> None:
    """Print, for each kind of task, how the ways compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="list of tables")
    parser.add_argument("experience", type=Path, help="folder with lore.db and artifacts/")
    parser.add_argument("--tables", type=int, default=1000, help="at most so many of each kind")
    arguments = parser.parse_args()
    console = Console(width=110)
    manifest = read_manifest(arguments.manifest)
    compared = {dataset.family for dataset in drawn(manifest, 40, 0)}
    for kind in KINDS:
        with open_store(arguments.experience / "lore.db") as store:
            known = read_experience(store, arguments.experience / "artifacts", kind)
        by_name = {one.name: one for one in known}
        past = [d for d in manifest if d.kind == kind and d.family not in compared and d.name in by_name]
        small = [dataset for dataset in past if 150 <= len(by_name[dataset.name].y) < 2500]
        with threadpool_limits(1):
            values = np.array(
                [losses(dataset, by_name[dataset.name]) for dataset in small[: arguments.tables]]
            )
        changes = 100 * (values[:, 1:] / np.maximum(values[:, :1], 1e-9) - 1)
        grid = Table(title=f"{kind}, {len(values)} tables: against five folds", title_justify="left")
        for column in ("models", "loss, median change", "mean, ±10 % at most", "1 % better", "1 % worse"):
            grid.add_column(column, justify="left" if column == "models" else "right")
        for way, change in zip(WAYS[1:], changes.T, strict=True):
            bounded = np.clip(change, -10, 10)
            half = 1.96 * bounded.std(ddof=1) / np.sqrt(len(bounded))
            grid.add_row(
                way,
                f"{np.median(change):+.2f} %",
                f"{bounded.mean():+.2f} ± {half:.2f} %",
                str(int((change < -1).sum())),
                str(int((change > 1).sum())),
            )
        console.print(grid)


if __name__ == "__main__":
    main()
