"""Does a fit end on time? Wall time over budget, seconds to a first model, and memory, on made-up tables.

    python benchmarks/automl_budget.py --budgets 5 10

Each fit runs in a process of its own, so that starting the processes that try candidates is part of it;
imports are not. Memory is the largest sum over the process and those that it started, seen every 50 ms.
"""

import argparse
import json
import subprocess
import sys
import time

import psutil
from rich.console import Console
from rich.table import Table

SIZES = (
    *((rows, columns, "numbers") for rows, columns in ((200, 10), (10_000, 20), (10_000, 500))),
    *((100_000, columns, "numbers") for columns in (100, 1000)),
    *((rows, columns, "categories") for rows, columns in ((10_000, 100), (100_000, 60))),
    *((rows, 10, "dates") for rows in (10_000, 100_000)),
    *((rows, 3, "texts") for rows in (3_000, 10_000)),
)
KINDS = ("classification", "regression")
FIT = """
import json, sys, time
import numpy as np
import pandas as pd
from tasklore import AutoClassifier, AutoRegressor
rows, columns, what, kind, budget = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
x = rng.normal(size=(rows, columns))
signal = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + 0.5 * rng.normal(size=rows)
y = np.digitize(signal, [-0.5, 0.5]) if kind == "classification" else signal
face = AutoClassifier if kind == "classification" else AutoRegressor
if what != "numbers":  # but for three columns of them
    levels = np.array([f"level {n}" for n in range(20)], dtype=object)
    words = np.array([f"word{n}" for n in range(5000)], dtype=object)
    minutes = pd.Timestamp("1990-01-01") + pd.to_timedelta(np.arange(rows) * 37, "min")
    more = {
        "categories": lambda: rng.choice(levels, rows),
        "dates": lambda: minutes[rng.permutation(rows)].strftime("%d/%m/%Y %H:%M").astype(object),
        "texts": lambda: [" ".join(row) for row in rng.choice(words, (rows, 60))],
    }[what]
    x = pd.DataFrame(x[:, :3], columns=["a", "b", "c"])
    x = pd.concat([x, pd.DataFrame({f"{what} {n}": more() for n in range(max(1, columns - 3))})], axis=1)
tried = []
model = face(budget=budget, watch=tried.append)
started = time.perf_counter()
model.fit(x, y)
seconds = time.perf_counter() - started
print(json.dumps([seconds, model._found.first_model, len(tried)]))
"""


def main() -> None:
    """Print a row for each size, kind and budget."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budgets", type=float, nargs="+", default=[5.0, 10.0])
    arguments = parser.parse_args()
    grid = Table(title="Made-up tables", title_justify="left")
    for column in (
        "rows",
        "columns",
        "of",
        "kind",
        "budget",
        "time ÷ budget",
        "first model",
        "tried",
        "memory",
    ):
        grid.add_column(column, justify="left" if column in ("of", "kind") else "right")
    for rows, columns, what in SIZES:
        for kind in KINDS:
            for budget in arguments.budgets:
                given = json.dumps([rows, columns, what, kind, budget])
                process = subprocess.Popen(
                    [sys.executable, "-c", FIT, given], stdout=subprocess.PIPE, text=True
                )
                most = watched(process)
                seconds, first, tried = json.loads(process.communicate()[0])
                shown = f"{seconds / budget:.3f}", f"{first:.2f} s", str(tried), f"{most:.1f} GB"
                grid.add_row(f"{rows:,}", f"{columns:,}", what, kind, f"{budget:g} s", *shown)
    Console(width=110).print(grid)


def watched(process: subprocess.Popen[str]) -> float:
    """Return the largest memory of a process and its children, in GB, once it has ended."""
    most = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in (root, *root.children(recursive=True)):
            try:
                total += one.memory_full_info().uss
            except psutil.Error:  # it has just ended
                continue
        most = max(most, total)
        time.sleep(0.05)
    return most / 1e9


if __name__ == "__main__":
    main()
