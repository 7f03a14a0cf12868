"""Does experience pay? Regret after five evaluations, while the memory grows table by table.

    tasklore collect DATA/MANIFEST.csv --store sqlite:///EXPERIENCE/lore.db      # once, hours
    python benchmarks/automl_experience.py EXPERIENCE --plot docs/assets/automl-experience.svg

Tables of one kind, of different families, come in a random order. On each a search is played back that knows
only those before it (the first one: nothing, so it tries candidates at random), and tries five. Regret is 0
for the best of all candidates and 1 for predicting always the same. Many orders; the band is the 95 %
interval of the mean over them.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from rich.console import Console
from rich.table import Table

from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.portfolio import Measured, read_experience
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.replay import Choose, as_in_search, play
from tasklore.experience.store import open_store

N_TRIED = 5
STARTS = (0, 1, 2, 4, 8, 16, 32)
"""How many past tables are known; from each on to the next makes a row of the table."""


def at_random(measured: Measured, seed: int) -> Choose:
    """Return what nothing known amounts to."""
    names = np.random.default_rng(seed).permutation(np.array(sorted(measured.losses), dtype=object))
    return lambda tried: next((name for name in names if name not in tried), None)


def curve(experience: list[Measured], length: int, seed: int) -> tuple[list[float], list[float]]:
    """Return regrets along one order: with the memory, and at random."""
    rng = np.random.default_rng(seed)
    by_family: dict[str, Measured] = {}
    for index in rng.permutation(len(experience)):
        by_family.setdefault(experience[index].family, experience[index])
    order = list(by_family.values())[:length]
    informed: list[float] = []
    blind: list[float] = []
    for n, measured in enumerate(order):
        chance = at_random(measured, seed)
        blind.append(play(measured, chance, evaluations=N_TRIED).single[-1])
        if n:
            prior = TablePrior.learn(order[:n], n_portfolio=0)
            choose = as_in_search(prior, measured, timed=False)
            informed.append(play(measured, choose, evaluations=N_TRIED).single[-1])
        else:
            informed.append(blind[-1])
    return informed, blind


def interval(values: np.ndarray) -> str:
    """Return a mean with its 95 % interval."""
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def table(kind: Kind, informed: np.ndarray, blind: np.ndarray) -> Table:
    """Return mean regrets by how many tables were known."""
    grid = Table(title=f"{kind}: regret after {N_TRIED} evaluations, {len(informed)} orders")
    for column in ("past tables", "with memory", "at random", "median with memory", "median at random"):
        grid.add_column(column, justify="right")
    for low, high in zip(STARTS, (*STARTS[1:], informed.shape[1]), strict=True):
        part = slice(low, min(high, informed.shape[1]))
        if informed[:, part].size:
            label = str(low) if high == low + 1 else f"{low}–{part.stop - 1}"
            both = informed[:, part], blind[:, part]
            medians = (f"{np.median(values):.3f}" for values in both)
            grid.add_row(label, *(interval(values.mean(1)) for values in both), *medians)
    return grid


def draw(path: Path, curves: dict[Kind, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the curves as a picture."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(9, 3.2), sharey=True, squeeze=False)
    for axis, (kind, both) in zip(axes[0], curves.items(), strict=True):
        for label, values in zip(("with memory", "at random"), both, strict=True):
            smooth = sliding_window_view(values, 5, axis=1).mean(2)
            mean, half = smooth.mean(0), 1.96 * smooth.std(0, ddof=1) / np.sqrt(len(smooth))
            x = np.arange(len(mean)) + 2
            axis.plot(x, mean, label=label)
            axis.fill_between(x, mean - half, mean + half, alpha=0.2)
        axis.set(title=kind, xlabel="past tables (running mean of 5)", ylim=(0, None))
    axes[0][0].set_ylabel(f"regret after {N_TRIED} evaluations")
    axes[0][-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Print the table and draw the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experience", type=Path, help="folder with lore.db and artifacts/")
    parser.add_argument("--length", type=int, default=40, help="tables in an order")
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    console = Console()
    kinds: tuple[Kind, ...] = ("classification", "regression")
    curves: dict[Kind, tuple[np.ndarray, np.ndarray]] = {}
    with open_store(arguments.experience / "lore.db") as store:
        for kind in kinds:
            experience = read_experience(store, arguments.experience / "artifacts", kind)
            found = [curve(experience, arguments.length, seed) for seed in range(arguments.orders)]
            informed, blind = (np.array(side) for side in zip(*found, strict=True))
            curves[kind] = (informed, blind)
            console.print(table(kind, informed, blind))
    if arguments.plot:
        draw(arguments.plot, curves)


if __name__ == "__main__":
    main()
