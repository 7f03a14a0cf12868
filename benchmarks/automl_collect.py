"""Does a second worker halve the time? Collecting the same tables with one Ray worker, and with two.

    python benchmarks/automl_collect.py                                # minutes; on an idle machine
    python benchmarks/automl_collect.py --candidates 10 --tables 4     # to see that it runs

Tables are scikit-learn's own and parts of them, so nothing is downloaded. Each count of workers has a cluster
of its own on this machine; what starting it takes is not counted, as it is the same for a thousand tables.
Target: a ratio of 1.7 or more with two cores.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from tasklore.apps.automl.collecting import Collecting, Dataset, Job, measured
from tasklore.apps.automl.pipelines import Kind
from tasklore.runners.ray import join

TARGET = 1.7
SHARE = 0.5
"""Of the rows of a table that a part of it has."""


def write_tables(folder: Path, n: int) -> list[Dataset]:
    """Write so many tables: each of scikit-learn's in turn, then parts of them."""
    loaders: list[tuple[Any, Kind]] = [
        (load_digits, "classification"),
        (load_wine, "classification"),
        (load_breast_cancer, "classification"),
        (load_diabetes, "regression"),
    ]
    rng = np.random.default_rng(0)
    datasets: list[Dataset] = []
    for index in range(n):
        loader, kind = loaders[index % len(loaders)]
        frame = loader(as_frame=True).frame
        if index >= len(loaders):
            frame = frame.iloc[rng.permutation(len(frame))[: int(SHARE * len(frame))]]
        family = loader.__name__.removeprefix("load_")
        path = folder / f"{index}-{family}.csv"
        frame.to_csv(path, index=False)
        datasets.append(Dataset(path.stem, kind, path, family))
    return datasets


def seconds_with(n_workers: int, jobs: list[Job], console: Console) -> float:
    """Return the wall time of all jobs."""
    with join(n_cpus=n_workers) as cluster:
        small = dataclasses.replace(jobs[0], space=jobs[0].space[:1])
        list(cluster.map(measured, [small] * n_workers, at_a_time=n_workers))  # all have imported everything
        started = time.perf_counter()
        for job, found in cluster.map(measured, jobs, at_a_time=n_workers, name=lambda job: job.dataset.name):
            done = time.perf_counter() - started
            console.print(f"{done:7.1f} s  {job.dataset.name}: {len(found.measurements)} candidates")
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=1000, help="the first so many of each space")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        settings = Collecting(rows=given.rows)
        jobs = [Job.of(dataset, settings) for dataset in write_tables(Path(folder), given.tables)]
        jobs = [dataclasses.replace(job, space=job.space[: given.candidates]) for job in jobs]
        one, several = (seconds_with(n, jobs, console) for n in (1, given.workers))
    table = Table("workers", "seconds")
    table.add_row("1", f"{one:.1f}")
    table.add_row(str(given.workers), f"{several:.1f}")
    console.print(table)
    console.print(f"ratio: {one / several:.2f} (target with two workers: {TARGET} or more)")


if __name__ == "__main__":
    main()
