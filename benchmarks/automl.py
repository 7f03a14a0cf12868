"""AutoML systems on the same tables, splits and budgets: log loss or R², mean rank, time kept.

    python benchmarks/automl.py DATA/MANIFEST.csv --budget 10

Each system runs in a process of its own, the rivals in virtual environments of their own (made on first use
under ``benchmarks/.envs``). Tasklore knows for each table only what the package ships about tables of other
families. 40 tables of different families are drawn with a fixed seed; a fifth of the rows, at most 5,000, is
for testing. What is done is a line in ``benchmarks/results/automl-10s.jsonl`` and not done again, so the
benchmark can be stopped at any moment; ``--anew`` measures the named systems again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import train_test_split

from tasklore.apps.automl.collecting import Dataset, read_manifest
from tasklore.apps.automl.losses import LOSSES
from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.prior import TablePrior
from tasklore.files import replacing

HERE = Path(__file__).parent
RIVALS = {
    "flaml": ("flaml[automl]==2.7.0", "packaging"),  # which it imports and does not name
    "autogluon": ("autogluon.tabular[lightgbm,catboost,xgboost]==1.6.3",),
}
SYSTEMS = (
    *("tasklore", "portfolio", "random search", "forest", "boosting"),
    *("flaml", "flaml zero-shot", "autogluon"),
)
WITHOUT_PARTS = ("named candidates",)  # Tasklore without a part of it, measured only where it is named
N_TABLES = 40
MOST_TEST_ROWS = 5000
PATIENCE = 20.0  # times the budget, and a minute: after that a system has failed


def python_of(system: str, console: Console) -> str:
    """Return the interpreter that a system runs with, making its environment if there is none."""
    name = system.split()[0]
    if name not in RIVALS:
        return sys.executable
    environment = HERE / ".envs" / name
    python = environment / "bin" / "python"
    if not (environment / "ready").exists():
        console.print(f"making an environment for {name}: a few minutes")
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *RIVALS[name]], check=True)
        (environment / "ready").touch()
    return str(python)


def drawn(manifest: list[Dataset], n: int, seed: int) -> list[Dataset]:
    """Return tables of different families, drawn with a seed."""
    order = np.random.default_rng(seed).permutation(len(manifest))
    chosen: dict[str, Dataset] = {}
    for dataset in (manifest[index] for index in order):
        chosen.setdefault(dataset.family, dataset)
    return list(chosen.values())[:n]


def parts_of(dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows to learn from and to test on, with a column "target"; classes are numbers from 0 on."""
    frame: Any = pd.read_csv(dataset.path, low_memory=False)
    frame = frame[frame[dataset.target].notna()].rename(columns={dataset.target: "target"})
    classes = dataset.kind == "classification"
    if classes:  # every system sees the same
        frame["target"] = np.unique(frame["target"].astype(str), return_inverse=True)[1]
        frame = frame[frame.groupby("target")["target"].transform("size") >= 2]
    n_test = min(MOST_TEST_ROWS, len(frame) // 5)
    n_test = max(n_test, frame["target"].nunique()) if classes else n_test
    stratify = frame["target"] if classes else None
    parts: list[Any] = train_test_split(frame, test_size=n_test, random_state=0, stratify=stratify)
    return parts[0], parts[1]


def run(system: str, dataset: Dataset, budget: float, python: str) -> dict[str, Any]:
    """Return what a system came to on a table."""
    train, test = parts_of(dataset)
    classes, truth = dataset.kind == "classification", test["target"].to_numpy()
    n_classes = int(max(train["target"].max(), truth.max())) + 1 if classes else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train.to_csv(folder / "train.csv", index=False)
        test.drop(columns="target").to_csv(folder / "test.csv", index=False)
        (folder / "about.json").write_text(json.dumps({"kind": dataset.kind}))
        prior = TablePrior.shipped(dataset.kind).without({dataset.family})
        prior.save(folder / "prior.safetensors")
        command = [python, str(HERE / "automl_systems.py"), system, name, str(budget)]
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                timeout=PATIENCE * budget + 60,
            )
            error = done.stderr[-2000:] if done.returncode else ""
        except subprocess.TimeoutExpired:
            error = "it did not end"
        result: dict[str, Any] = {
            "table": dataset.name,
            "kind": dataset.kind,
            "system": system,
            "budget": budget,
            "seconds_in_all": time.perf_counter() - started,
            "trivial": loss_of_trivial(train["target"].to_numpy(), truth, dataset.kind, n_classes),
        }
        if error:
            return {**result, "error": error}
        with np.load(folder / "predictions.npz") as found:
            outputs = found["outputs"]
            if classes:
                whole = np.zeros((len(truth), n_classes))
                whole[:, found["classes"].astype(int)] = outputs
                outputs = whole
        outcome = json.loads((folder / "outcome.json").read_text())
        if not np.isfinite(outputs).all():
            return {**result, **outcome, "error": "some predictions are no numbers"}
    return {**result, **outcome, "error": "", "loss": LOSSES[dataset.kind](truth, outputs)}


def loss_of_trivial(y: np.ndarray, truth: np.ndarray, kind: Kind, n_classes: int) -> float:
    """Return the loss of predicting always the same."""
    if kind == "regression":
        return LOSSES[kind](truth, np.full(len(truth), y.mean()))
    shares = np.bincount(y, minlength=n_classes) / len(y)
    return LOSSES[kind](truth, np.tile(shares, (len(truth), 1)))


def summary(results: list[dict[str, Any]], budget: float) -> Table:
    """Return the comparison over tables that every system was tried on."""
    systems = [system for system in SYSTEMS + WITHOUT_PARTS if any(r["system"] == system for r in results)]
    by_table: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        by_table.setdefault(result["table"], {})[result["system"]] = result
    whole = [found for found in by_table.values() if len(found) == len(systems)]
    losses = np.array([[found[s].get("loss", np.inf) for s in systems] for found in whole])
    trivial = np.array([found[systems[0]]["trivial"] for found in whole])
    losses = np.minimum(losses, trivial[:, None])  # a failure is worth as much as predicting always the same
    ranks = 1 + (losses[:, None, :] < losses[:, :, None]).sum(2)
    ranks = ranks + ((losses[:, None, :] == losses[:, :, None]).sum(2) - 1) / 2
    best = losses.min(1, keepdims=True)
    scores = 1 - (losses - best) / np.maximum(trivial[:, None] - best, 1e-9)
    grid = Table(title=f"{budget:g} s, {len(whole)} tables", title_justify="left")
    for column in ("system", "mean rank", "normalised score", "wins", "failures", "seconds: median", "most"):
        grid.add_column(column, justify="left" if column == "system" else "right")
    for place, system in enumerate(systems):
        seconds = [f[system].get("fit_seconds", f[system]["seconds_in_all"]) for f in whole]
        half = 1.96 * ranks[:, place].std(ddof=1) / np.sqrt(len(whole))
        spread = 1.96 * scores[:, place].std(ddof=1) / np.sqrt(len(whole))
        grid.add_row(
            system,
            f"{ranks[:, place].mean():.2f} ± {half:.2f}",
            f"{scores[:, place].mean():.3f} ± {spread:.3f}",
            str(int((losses[:, place] <= best[:, 0]).sum())),
            str(sum(bool(f[system]["error"]) for f in whole)),
            f"{np.median(seconds):.1f}",
            f"{max(seconds):.1f}",
        )
    return grid


def per_table(results: list[dict[str, Any]]) -> str:
    """Return the losses of every system on every table, as Markdown; the least of each table in bold."""
    systems = [system for system in SYSTEMS + WITHOUT_PARTS if any(r["system"] == system for r in results)]
    rows = ["| table | trivial | " + " | ".join(systems) + " |", "|---|" + "---|" * (len(systems) + 1)]
    by_table: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        by_table.setdefault(result["table"], {})[result["system"]] = result
    for name, found in sorted(by_table.items()):
        losses = {system: found[system].get("loss", np.inf) for system in systems if system in found}
        best = min(losses.values())
        cells = [
            ""
            if system not in losses
            else f"**{loss:.4f}**"
            if (loss := losses[system]) == best
            else f"{loss:.4f}"
            for system in systems
        ]
        trivial = next(iter(found.values()))["trivial"]
        rows.append(f"| {name.replace('_', ' ')} | {trivial:.4f} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


class Results:
    """What is known, by table and system: a file with a line for each, written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.known: dict[tuple[str, str], dict[str, Any]] = {
            (result["table"], result["system"]): result for result in results
        }

    def add(self, result: dict[str, Any]) -> None:
        """Note a result."""
        self._keep({**self.known, (result["table"], result["system"]): result})

    def forget(self, keys: set[tuple[str, str]]) -> None:
        """Remove some."""
        self._keep({key: result for key, result in self.known.items() if key not in keys})

    def _keep(self, known: dict[tuple[str, str], dict[str, Any]]) -> None:
        self.known = known
        with replacing(self.path) as file:
            file.write("".join(json.dumps(result) + "\n" for result in known.values()).encode())


def main() -> None:
    """Run what is missing, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="list of tables")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds")
    parser.add_argument("--tables", type=int, default=N_TABLES, help="0 for every one, relatives too")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these, by name")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS + WITHOUT_PARTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=HERE / "results", help="where the results lie")
    parser.add_argument("--anew", action="store_true", help="forget what is known of these systems first")
    parser.add_argument("--each", action="store_true", help="print the losses on every table as well")
    arguments = parser.parse_args()
    console = Console(width=130)
    tables = read_manifest(arguments.manifest)
    if arguments.tables:
        tables = drawn(tables, arguments.tables, arguments.seed)
    if arguments.only:
        tables = [dataset for dataset in tables if dataset.name in arguments.only]
    wanted = {(dataset.name, system) for dataset in tables for system in arguments.systems}
    done = Results(arguments.folder / f"automl-{arguments.budget:g}s.jsonl")
    if arguments.anew:
        done.forget(wanted)
    for dataset in tables:
        for system in arguments.systems:
            if (dataset.name, system) in done.known:
                continue
            found = run(system, dataset, arguments.budget, python_of(system, console))
            done.add(found)
            shown = found["error"].strip().splitlines()[-1][:90] if found["error"] else ""
            console.print(
                f"{dataset.name:32} {system:16} loss {found.get('loss', float('nan')):9.4f} of "
                f"{found['trivial']:.4f}, {found.get('fit_seconds', float('nan')):6.1f} s {shown}"
            )
    results = [done.known[key] for key in sorted(wanted)]
    console.print(summary(results, arguments.budget))
    if arguments.each:
        print(per_table(results))


if __name__ == "__main__":
    main()
