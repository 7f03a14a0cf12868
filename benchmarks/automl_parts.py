"""What each part of AutoML's experience is worth: searches played back on past tables, leave-family-out.

    tasklore collect MANIFEST.csv --store EXPERIENCE/lore.db …   # once, hours
    python benchmarks/automl_parts.py EXPERIENCE --seconds 10

Families of tables are dealt into tenths; for each tenth the portfolio, the meta-models and the expected times
are learned from the other nine. A search with two processes for so many seconds is then played back on its
tables, and one of so many evaluations, where time does not count. Regret: 0 is the best of all candidates
(which knows the answer), 1 is predicting always the same; the blend may be below 0. Intervals are of the mean
over tables.
"""

# ruff: noqa: ARG001 - every strategy is called alike
import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from automl_meta_models import Average, Foreseen, network, trees
from rich.console import Console
from rich.table import Table

from tasklore.apps.automl.pipelines import Kind
from tasklore.apps.automl.portfolio import Measured, build_portfolio, read_experience
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.replay import Choose, Played, play
from tasklore.experience.store import open_store

KINDS: tuple[Kind, ...] = ("classification", "regression")
N_WORKERS = 2
N_FOLDS = 3
N_PARTS = 10

Strategy = Callable[[TablePrior, Measured], Choose]


def ordered(names: list[str]) -> Choose:
    """Return a fixed order."""
    return lambda tried: next((name for name in names if name not in tried), None)


def at_random(prior: TablePrior, measured: Measured) -> Choose:
    """Try candidates in a random order of this table."""
    rng = np.random.default_rng(len(measured.y))
    return ordered(list(rng.permutation(np.array(prior.candidates, dtype=object))))


def by_mean(prior: TablePrior, measured: Measured) -> Choose:
    """Try what was best on the average past table first."""
    losses = np.nan_to_num(prior.losses, nan=1.0).clip(0, 1).mean(0)
    return ordered([prior.candidates[place] for place in np.argsort(losses)])


def portfolio(prior: TablePrior, measured: Measured) -> Choose:
    """Try the portfolio in its order, then the others at random."""
    rest = at_random(prior, measured)

    def choose(tried: Mapping[str, float]) -> str | None:
        return next((name for name in prior.portfolio if name not in tried), None) or rest(tried)

    return choose


def by_promise(*, period: int = 1, timed: bool = True, alike: bool = True) -> Strategy:
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
            if len(tried) % period != period - 1:
                chosen = next((name for name in prior.portfolio if name in cost), None)
                if chosen is not None:
                    return chosen
            weights = prior.likeness(tried, measured.descriptors) if alike else np.ones(len(prior.tasks))
            return prior.most_promising(tried, weights, cost)

        return choose

    return strategy


def strategies(prior: TablePrior, untimed: list[str]) -> dict[str, tuple[Strategy, Strategy]]:
    """Return ways to choose the next candidate: within seconds, and within a number of evaluations.

    Parameters
    ----------
    prior : TablePrior
    untimed : list of str
        A portfolio that was built without regard to time.
    """
    means = {"Gaussian": Average(), "trees": trees(), "network": network()}
    models = {name: Foreseen(prior, mean) for name, mean in means.items()}

    def foreseen(model: Foreseen, period: int) -> tuple[Strategy, Strategy]:
        return (
            lambda _, measured: model.choose(measured, period=period, n_folds=N_FOLDS),
            lambda _, measured: model.choose(measured, period=period, timed=False),
        )

    alone = by_promise(), by_promise(timed=False)
    in_turn = by_promise(period=2), by_promise(period=2, timed=False)
    return {
        "at random": (at_random, at_random),
        "best on average first": (by_mean, by_mean),
        "portfolio": (portfolio, lambda _, measured: ordered([*untimed, *prior.candidates])),
        "promise": alone,
        "promise, all past tables alike": (by_promise(alike=False), by_promise(timed=False, alike=False)),
        "portfolio and promise in turn": in_turn,
        **{f"{name} meta-model": foreseen(model, 1) for name, model in models.items()},
        **{f"portfolio and {name} in turn": foreseen(model, 2) for name, model in models.items()},
    }


Judged = dict[str, dict[str, list[Played]]]


def judge(experience: list[Measured], seconds: list[float], evaluations: list[int]) -> Judged:
    """Return what each strategy comes to on every table, by budget."""
    found: Judged = {}
    families = np.array(sorted({measured.family for measured in experience}), dtype=object)
    dealt = {
        family: place % N_PARTS for place, family in enumerate(np.random.default_rng(0).permutation(families))
    }
    for part in range(N_PARTS):
        others = [measured for measured in experience if dealt[measured.family] != part]
        prior = TablePrior.learn(others)
        ways = strategies(prior, build_portfolio(others, 30, timed=False))
        for measured in (m for m in experience if dealt[m.family] == part):
            for name, (timed, counted) in ways.items():
                results = found.setdefault(name, {})
                for budget in seconds:
                    played = play(measured, timed(prior, measured), budget * N_WORKERS, n_folds=N_FOLDS)
                    results.setdefault(f"{budget:g} s", []).append(played)
                for n in evaluations:
                    played = play(measured, counted(prior, measured), evaluations=n, n_folds=N_FOLDS)
                    results.setdefault(f"{n} evaluations", []).append(played)
    return found


def table(kind: Kind, found: Judged) -> Table:
    """Return mean regrets with 95 % intervals."""
    budgets = list(next(iter(found.values())))
    n = len(found["portfolio"][budgets[0]])
    grid = Table(
        title=f"{kind}, {n} tables: regret of the blend (of the best single candidate)", title_justify="left"
    )
    grid.add_column("order of candidates")
    for budget in budgets:
        grid.add_column(budget, justify="right")
    for name, by_budget in found.items():
        cells: list[str] = []
        for budget in budgets:
            singles = [played.single[-1] if played.single else 1.0 for played in by_budget[budget]]
            blends = np.array([played.blend for played in by_budget[budget]])
            half = 1.96 * blends.std(ddof=1) / np.sqrt(len(blends))
            cells.append(f"{blends.mean():.3f} ± {half:.3f} ({np.mean(singles):.3f})")
        grid.add_row(name, *cells)
    return grid


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experience", type=Path, help="folder with lore.db and artifacts/")
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 10.0])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 15])
    arguments = parser.parse_args()
    console = Console(width=150)
    with open_store(arguments.experience / "lore.db") as store:
        for kind in KINDS:
            experience = read_experience(store, arguments.experience / "artifacts", kind)
            console.print(table(kind, judge(experience, arguments.seconds, arguments.evaluations)))


if __name__ == "__main__":
    main()
