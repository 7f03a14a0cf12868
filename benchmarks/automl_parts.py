"""What each part of AutoML's experience is worth: searches played back on past tables, leave-family-out.

    tasklore collect MANIFEST.csv --store EXPERIENCE/lore.db …   # once, hours
    python benchmarks/automl_parts.py EXPERIENCE --seconds 10

For each family of tables the portfolio, the expected improvements and the expected times are learned from
all other families. A search with two processes for so many seconds is then played back on its tables. Regret:
0 is the best of all candidates (which knows the answer), 1 is predicting always the same; the blend may be
below 0.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.portfolio import Measured, build_portfolio, read_experience
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.replay import Choose, Played, play
from tasklore.experience.store import open_store

HERE = Path(__file__).parent
N_WORKERS = 2
N_FOLDS = 3

Strategy = Callable[[TablePrior, Measured], Choose]


def ordered(names: list[str]) -> Choose:
    """Return a fixed order."""
    return lambda tried: next((name for name in names if name not in tried), None)


def portfolio(prior: TablePrior, measured: Measured) -> Choose:
    """Try the portfolio in its order, then the others at random."""
    return ordered([*prior.portfolio, *at_random(prior, measured)])


def untimed(prior: TablePrior, measured: Measured) -> Choose:
    """Try a portfolio that was built without regard to time."""
    return ordered([*UNTIMED[prior.tasks], *at_random(prior, measured)])


UNTIMED: dict[tuple[str, ...], list[str]] = {}


def at_random(prior: TablePrior, measured: Measured) -> list[str]:
    """Return all candidates in a random order of this table."""
    rng = np.random.default_rng(len(measured.y))
    return list(rng.permutation(np.array(prior.candidates, dtype=object)))


def by_promise(n_first: int = 0, *, period: int = 1, timed: bool = True, alike: bool = True) -> Strategy:
    """Take the most promising candidate every so many turns, else the portfolio's next."""

    def strategy(prior: TablePrior, measured: Measured) -> Choose:
        expected = dict(zip(prior.candidates, prior.seconds_for(measured.descriptors), strict=True))
        known = [name for name in expected if name in measured.losses and name != "constant"]

        def choose(tried: Mapping[str, float]) -> str | None:
            cost = {
                name: float(expected[name]) * N_FOLDS + 0.02 if timed else 1.0
                for name in known
                if name not in tried
            }
            if not cost:
                return None
            if len(tried) < n_first or len(tried) % period != period - 1:
                chosen = next((name for name in prior.portfolio if name in cost), None)
                if chosen is not None:
                    return chosen
            weights = prior.likeness(tried, measured.descriptors) if alike else np.ones(len(prior.tasks))
            return prior.most_promising(tried, weights, cost)

        return choose

    return strategy


STRATEGIES: dict[str, Strategy] = {
    "random": lambda prior, measured: ordered(at_random(prior, measured)),
    "portfolio, time disregarded": untimed,
    "portfolio": portfolio,
    "portfolio and promise in turn (used)": by_promise(period=2),
    "portfolio and promise in turn, all tables alike": by_promise(period=2, alike=False),
    "portfolio and promise in turn, time disregarded": by_promise(period=2, timed=False),
    "portfolio twice, promise once": by_promise(period=3),
    "portfolio 8, then promise": by_promise(8),
    "promise": by_promise(),
}


def judge(experience: list[Measured], seconds: list[float]) -> dict[str, dict[float, list[Played]]]:
    """Return what each strategy comes to on every table."""
    found = {name: {budget: [] for budget in seconds} for name in STRATEGIES}
    for family in sorted({measured.family for measured in experience}):
        others = [measured for measured in experience if measured.family != family]
        prior = TablePrior.learn(others)
        UNTIMED[prior.tasks] = build_portfolio(others, 30, timed=False)
        for measured in (m for m in experience if m.family == family):
            for name, strategy in STRATEGIES.items():
                for budget in seconds:
                    choose = strategy(prior, measured)
                    found[name][budget].append(play(measured, choose, budget * N_WORKERS, n_folds=N_FOLDS))
    return found


def table(kind: Kind, found: dict[str, dict[float, list[Played]]]) -> Table:
    """Return mean regrets with 95 % intervals."""
    n = len(next(iter(next(iter(found.values())).values())))
    grid = Table(title=f"{kind}, {n} tables", title_justify="left")
    grid.add_column("order of candidates")
    budgets = list(next(iter(found.values())))
    for budget in budgets:
        for what in ("best single", "blend"):
            grid.add_column(f"{budget:g} s: {what}", justify="right")
    for name, by_budget in found.items():
        cells: list[str] = []
        for budget in budgets:
            singles = [played.single[-1] if played.single else 1.0 for played in by_budget[budget]]
            blends = [played.blend for played in by_budget[budget]]
            for values in (singles, blends):
                half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
                cells.append(f"{np.mean(values):.3f} ± {half:.3f}")
        grid.add_row(name, *cells)
    return grid


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experience", type=Path, help="folder with lore.db and artifacts/")
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 10.0])
    arguments = parser.parse_args()
    console = Console(width=140)
    with open_store(arguments.experience / "lore.db") as store:
        for kind in ("classification", "regression"):
            experience = read_experience(store, arguments.experience / "artifacts", kind)
            found = judge(experience, arguments.seconds)
            console.print(table(kind, found))


if __name__ == "__main__":
    main()
