"""The charts of AutoML's report: SVG in the colours of the page, which follow light, dark and print."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ...pages.drawing import COLOURS, INK, MUTED, chart, title
from .judging import Bin, Importance

__all__ = ["draw_calibration", "draw_curve", "draw_importance", "draw_predictions"]

ROW = 24  # px of a bar with its name
MOST_BARS = 15
MOST_POINTS = 600
LONGEST_NAME = 26
REACH = 3.0  # times as far as the median candidate is from the best, a candidate is still shown


def draw_curve(
    board: pd.DataFrame, seconds: float, metric: str, scale: float, *, larger_is_better: bool
) -> tuple[Markup, bool]:
    """Draw the best score so far against time, a line for each number of rows that was searched on.

    Parameters
    ----------
    board : DataFrame
        A leaderboard.
    seconds : float
        That the search took.
    metric : str
        For people, with its unit.
    scale : float
        Factor of that unit.
    larger_is_better : bool

    Returns
    -------
    chart : Markup
        Empty if no candidate was finished.
    is_cut : bool
        Whether poor candidates lie beyond the edge.
    """
    whole: Any = board[board["score"].notna()]
    whole = whole.sort_values("at").assign(score=scale * whole["score"])
    if whole.empty:
        return Markup(""), False
    levels = sorted(whole["rows"].unique())
    best = whole["score"].max() if larger_is_better else whole["score"].min()
    alt = f"Best {metric} so far against seconds: {best:.4g} after {len(whole)} candidates."
    with chart("curve", alt) as (axes, drawn):
        for index, rows in enumerate(levels):
            part = whole[whole["rows"] == rows]
            scores = part["score"].to_numpy()
            so_far = np.maximum.accumulate(scores) if larger_is_better else np.minimum.accumulate(scores)
            axes.plot(part["at"], scores, "o", color=MUTED, alpha=0.6, markersize=6, markeredgewidth=0)
            axes.step(
                [*part["at"], seconds if rows == levels[-1] else part["at"].max()],
                [*so_far, so_far[-1]],
                where="post",
                color=COLOURS[index % len(COLOURS)],
                label=f"{rows:,} rows",
            )
        # One hopeless candidate must not press the others into a line.
        least, most = whole["score"].min(), whole["score"].max()
        reach = REACH * abs(best - whole["score"].median())
        low, high = (max(least, best - reach), best) if larger_is_better else (best, min(most, best + reach))
        pad = 0.06 * (high - low) or 0.05 * max(abs(high), 1e-6)
        axes.set_ylim(low - pad, high + pad)
        _finish(axes, f"{metric}, cross-validated", "seconds")
        axes.set_xlim(0, seconds)
        if len(levels) > 1:
            axes.figure.legend(loc="outside lower left", ncols=4, frameon=False, handlelength=1.4)
    is_cut = bool(((whole["score"] < low - pad) | (whole["score"] > high + pad)).any())
    return drawn[0], is_cut


def draw_importance(found: Importance, metric: str, scale: float) -> Markup:
    """Draw a bar for each of the most important columns.

    Parameters
    ----------
    found : Importance
    metric : str
        For people, with its unit.
    scale : float
        Factor of that unit.
    """
    n = min(MOST_BARS, len(found.columns))
    names = [_short(name) for name in found.columns[:n]]
    alt = f"How much worse {metric} becomes when a column is shuffled; most for {', '.join(names[:3])}."
    with chart("importance", alt, ROW * n + 80, grid="x") as (axes, drawn):
        places, mean = np.arange(n), scale * np.array(found.mean[:n])
        axes.barh(places, mean, height=0.62, color=COLOURS[0])
        if found.n_repeats > 1:
            spread = scale * np.array(found.spread[:n])
            axes.errorbar(mean, places, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_yticks(places, names)
        axes.set_ylim(n - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
        title(axes, f"{metric}: worse by")
    return drawn[0]


def draw_calibration(bins: Sequence[Bin], what: str) -> Markup:
    """Draw observed shares against predicted chances, with 95 % intervals.

    Parameters
    ----------
    bins : sequence of Bin
    what : str
        Whose chance it is.
    """
    if not bins:
        return Markup("")
    pairs = ", ".join(f"{100 * b.predicted:.0f} % → {100 * b.observed:.0f} %" for b in bins)
    with chart("calibration", f"Predicted chance of {what} → observed share: {pairs}.") as (axes, drawn):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        x, y = ([100 * value for value in values] for values in _columns(bins))
        spread = [[100 * (b.observed - b.low) for b in bins], [100 * (b.high - b.observed) for b in bins]]
        axes.errorbar(x, y, yerr=np.maximum(spread, 0), fmt="o-", color=COLOURS[0], elinewidth=1.4)
        axes.set_xlim(-3, 103)
        axes.set_ylim(-3, 103)
        _finish(axes, "came true (%)", f"predicted chance of {_short(what)} (%)")
    return drawn[0]


def _columns(bins: Sequence[Bin]) -> tuple[list[float], list[float]]:
    return [b.predicted for b in bins], [b.observed for b in bins]


def draw_predictions(y: np.ndarray, predicted: np.ndarray, target: str) -> tuple[Markup, Markup]:
    """Draw true values against predicted ones, and the residuals' distribution.

    Parameters
    ----------
    y, predicted : ndarray, shape (n,)
    target : str
    """
    rows = np.random.default_rng(0).permutation(len(y))[:MOST_POINTS]
    ends = [float(min(y.min(), predicted.min())), float(max(y.max(), predicted.max()))]
    alt = f"True against predicted {target} of {len(rows)} rows; mean absolute error {_error(y, predicted)}."
    with chart("predictions", alt) as (axes, drawn):
        axes.plot(ends, ends, color=MUTED, linewidth=1.4, linestyle=(0, (2, 3)))
        axes.plot(
            predicted[rows], y[rows], "o", color=COLOURS[0], alpha=0.55, markersize=6.5, markeredgewidth=0
        )
        _finish(axes, f"true {_short(target)}", "predicted")
        axes.xaxis.set_major_locator(MaxNLocator(6))
    residuals = y - predicted
    low, middle, high = np.percentile(residuals, [5, 50, 95])
    alt = f"Residuals: 90 % lie between {low:.4g} and {high:.4g}, the median is {middle:.4g}."
    with chart("residuals", alt) as (axes, other):
        axes.hist(residuals, bins=min(30, max(5, len(y) // 8)), color=COLOURS[0], rwidth=0.92)
        axes.axvline(0, color=INK, linewidth=1.4, linestyle=(0, (2, 3)), zorder=3)
        _finish(axes, "rows", "true − predicted")
        axes.xaxis.set_major_locator(MaxNLocator(6))
    return drawn[0], other[0]


def _error(y: np.ndarray, predicted: np.ndarray) -> str:
    return f"{np.abs(y - predicted).mean():.4g}"


def _finish(axes: Axes, y: str, x: str) -> None:
    title(axes, y)
    axes.set_xlabel(x)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
