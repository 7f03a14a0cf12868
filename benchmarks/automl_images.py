"""AutoML and the usual baselines on MNIST: accuracy and log loss on the official test images, and time.

    TASKLORE_DATA=DATA python benchmarks/automl_images.py --budget 60s 300s

Of the 60,000 official training images 10,000 are drawn for validation; every system learns from the other
50,000, pixels divided by 255. Nothing is tuned on the validation images: they show whether scores hold. The
10,000 official test images are asked once. The files are looked for in ``$TASKLORE_DATA/images/mnist``, then
in the cache, and are fetched if they are nowhere.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from tasklore import AutoClassifier
from tasklore.tasks.images.files import obtain, read_idx
from tasklore.tasks.images.mnist import PLACES, UNDER
from tasklore.workspace import hardware, versions

Z = 1.959963984540054  # of a 95 % interval
N_VALIDATION = 10_000
BASELINES: dict[str, Callable[[], Any]] = {
    "random forest": lambda: RandomForestClassifier(random_state=0, n_jobs=-1),
    "histogram gradient boosting": lambda: HistGradientBoostingClassifier(random_state=0),
    "logistic regression": lambda: LogisticRegression(max_iter=200),
    "nearest neighbours": lambda: KNeighborsClassifier(n_jobs=-1),
    "small full network": lambda: MLPClassifier((64, 32), early_stopping=True, random_state=0),
}


class Images(NamedTuple):
    """Pixels from 0 to 1, shape (n, 784), and digits."""

    x: np.ndarray
    y: np.ndarray


def read(folder: str | None, n_rows: int | None) -> tuple[Images, Images, Images]:
    """Return images to learn from, to validate on and to test on."""
    arrays = [read_idx(path) for path in obtain(PLACES, folder, UNDER, download=True)]
    past, future = (
        Images(x.reshape(len(x), -1) / 255.0, y.astype(np.int64))
        for x, y in ((arrays[0], arrays[1]), (arrays[2], arrays[3]))
    )
    order = np.random.default_rng(0).permutation(len(past.y))
    kept, learned = order[:N_VALIDATION], order[N_VALIDATION:][:n_rows]
    return Images(past.x[learned], past.y[learned]), Images(past.x[kept], past.y[kept]), future


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    middle = (accuracy + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(accuracy * (1 - accuracy) / n + Z**2 / (4 * n**2))
    return middle - half, middle + half


def measured(name: str, model: Any, parts: tuple[Images, Images, Images]) -> dict[str, Any]:
    """Fit a model, and return what came of it."""
    train, validation, test = parts
    started = time.perf_counter()
    model.fit(train.x, train.y)
    between = time.perf_counter()
    chances = [model.predict_proba(part.x) for part in (validation, test)]
    ended = time.perf_counter()
    known, asked = (
        float((model.classes_[found.argmax(1)] == part.y).mean())
        for found, part in zip(chances, (validation, test), strict=True)
    )
    result: dict[str, Any] = {
        "system": name,
        "validation": known,
        "test": asked,
        "interval": interval(asked, len(test.y)),
        "log_loss": float(log_loss(test.y, chances[1])),
        "fit_seconds": between - started,
        "predict_seconds": ended - between,
    }
    if isinstance(model, AutoClassifier):
        board = model.leaderboard_
        chosen: Any = board[board["weight"] > 0]
        result["blend"] = dict(zip(chosen["candidate"], chosen["weight"].round(2), strict=True))
        result["tried"] = json.loads(board.to_json(orient="records") or "[]")
    return result


def shown(results: list[dict[str, Any]], n_rows: int) -> Table:
    """Return the scores as a table."""
    title = f"MNIST: accuracy after {n_rows:,} images, on 10,000 for validation and 10,000 for the test"
    table = Table(title=title, title_justify="left")
    for name in ("system", "validation", "test [95 %]", "log loss", "fit", "predict"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for result in results:
        low, high = (f"{100 * end:.2f}" for end in result["interval"])
        table.add_row(
            result["system"],
            f"{100 * result['validation']:.2f} %",
            f"{100 * result['test']:.2f} % [{low} {high}]",
            f"{result['log_loss']:.4f}",
            f"{result['fit_seconds']:.1f} s",
            f"{result['predict_seconds']:.1f} s",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--budget", nargs="*", default=["60s"], help="of AutoClassifier; several are tried")
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), choices=[*BASELINES, []])
    parser.add_argument("--folder", help="where the four published files lie")
    parser.add_argument("--rows", type=int, help="learn from fewer images, for a quick look")
    parser.add_argument("--output", type=Path, help="a .json for the results")
    given = parser.parse_args()
    parts = read(given.folder, given.rows)
    makers: dict[str, Callable[[], Any]] = {
        f"AutoClassifier, {budget}": lambda budget=budget: AutoClassifier(budget=budget)
        for budget in given.budget
    }
    makers |= {name: BASELINES[name] for name in given.baselines}
    console, results = Console(), list[dict[str, Any]]()
    for name, make in makers.items():
        with console.status(name):
            results.append(measured(name, make(), parts))
        if "blend" in results[-1]:
            blend = ", ".join(f"{part} {weight:.2f}" for part, weight in results[-1]["blend"].items())
            console.print(f"{name}: {len(results[-1]['tried'])} candidates tried, {blend}")
    console.print(shown(results, len(parts[0].y)))
    machine, known = hardware(), versions()
    console.print(f"Hardware: {machine['machine']}, {machine['cores']} cores, no accelerator")
    console.print(f"Versions: {', '.join(f'{name} {version}' for name, version in known.items())}")
    if given.output:
        content = {"hardware": machine, "versions": known, "rows": len(parts[0].y), "results": results}
        given.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
