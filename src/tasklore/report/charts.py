"""Charts as SVG that is part of the page: its colours are the page's, and follow light, dark and print."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from ..contest import Standing
from ..experiment import Findings
from ..learners.gradient import GradientLearner
from ..pages.drawing import COLOURS, INK, MUTED, PAPER, SETTINGS, chart, svg, title
from ..registry import learners
from .provenance import Round
from .summary import Comparison, written

__all__ = [
    "MARKERS",
    "Charts",
    "Panel",
    "draw_all",
    "draw_curves",
    "draw_ranking",
    "draw_swatch",
    "draw_training",
]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


@dataclass(frozen=True)
class Panel:
    """One curve of an example: what was predicted where."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Charts:
    """The charts of a report; empty where there is nothing to draw."""

    validation: Markup
    loss: Markup
    shots: Markup
    steps: Markup
    swatches: dict[str, Markup]
    legend: dict[str, Markup]


def draw_all(findings: Findings, comparison: Comparison, rounds: Sequence[Round]) -> Charts:
    """Draw what the findings offer."""
    colour = COLOURS[comparison.style_of(learners.name_of(type(findings.prior.learner)))]
    return Charts(
        _validation(rounds, colour),
        _loss(rounds, colour),
        _over_shots(comparison),
        _over_steps(findings, colour),
        *(
            {method.name: draw_swatch(method.style, place) for method in comparison.methods}
            for place in ("table", "legend")
        ),
    )


def draw_swatch(style: int, place: str) -> Markup:
    """Draw the marker of a style as it appears in the charts; ``place`` tells equal ones apart."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(14 / 72, 14 / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.plot([0], [0], MARKERS[style], color=COLOURS[style], markersize=9, markeredgewidth=0)
        return svg(figure, f"{place}-{style}", "")


def draw_curves(
    name: str, alt: str, support: Panel, truth: Panel, predicted: Sequence[Panel], style: int
) -> Markup:
    """Draw a regression task: its points, the truth, and one line for each prediction.

    Parameters
    ----------
    name : str
        For ids; unique in the page.
    alt : str
        What the picture shows, in words.
    support, truth : Panel
        Points seen, and values at the queries, in order of x.
    predicted : sequence of Panel
        The last is the result; earlier ones lead there.
    style : int
        Of the method that predicts.
    """
    dashes: list[Any] = [(0, (1, 1.6)), (0, (5, 2)), (0, (5, 1.5, 1, 1.5))]
    with chart(name, alt) as (axes, drawn):
        many = len(truth.x) >= 40
        axes.plot(
            truth.x,
            truth.y,
            "-" if many else ".",
            color=MUTED,
            linewidth=5,
            alpha=0.35,
            label=truth.label,
            solid_capstyle="round",
        )
        for index, panel in enumerate(predicted):
            last = index == len(predicted) - 1
            axes.plot(
                panel.x,
                panel.y,
                color=COLOURS[style],
                alpha=1.0 if last else 0.8,
                linewidth=2.6 if last else 1.4,
                linestyle="-" if last else dashes[index % len(dashes)],
                label=panel.label,
            )
        axes.plot(
            support.x,
            support.y,
            "o",
            color=INK,
            markersize=8,
            markeredgecolor=PAPER,
            markeredgewidth=1.5,
            label=support.label,
            zorder=5,
        )
        axes.set_title("y", loc="left", color=MUTED, fontsize=13)
        axes.set_xlabel("x")
        axes.margins(y=0.12)
        axes.figure.legend(
            loc="outside lower left", ncols=3, frameon=False, handlelength=2.2, columnspacing=1.4
        )
    return drawn[0]


def draw_ranking(shots: Sequence[int], ranked: Sequence[tuple[Standing, int]]) -> Markup:
    """Draw the test scores of methods, best on top; those with more shots as hollow marks.

    Parameters
    ----------
    shots : sequence of int
        The first is what the ranking goes by.
    ranked : sequence of (Standing, style)
    """
    scale, unit = _scale(ranked[0][0].evaluations[shots[0]].metric)
    alt = f"{unit} on test tasks, best first: " + ", ".join(
        f"{standing.method} {written(standing.evaluations[shots[0]].score)}" for standing, _ in ranked
    )
    with chart("ranking", alt, height=60 + 30 * len(ranked), grid="x") as (axes, drawn):
        for place, (standing, style) in enumerate(ranked):
            for n in shots:
                score = standing.evaluations[n].score
                axes.errorbar(
                    [scale * score.mean],
                    [place],
                    xerr=[scale * score.half_width],
                    color=COLOURS[style],
                    marker=MARKERS[style],
                    markerfacecolor=COLOURS[style] if n == shots[0] else PAPER,
                    markeredgewidth=0 if n == shots[0] else 1.5,
                    elinewidth=1.5,
                )
        axes.set_yticks(range(len(ranked)), [standing.method for standing, _ in ranked])
        axes.set_ylim(len(ranked) - 0.5, -0.5)
        title(axes, f"{unit}, mean and 95 % interval")
    return drawn[0]


def draw_training(learned: Sequence[tuple[Standing, int]]) -> Markup:
    """Draw the validation scores of learners over the minutes of their meta-training.

    Parameters
    ----------
    learned : sequence of (Standing, style)
        Those with a curve; without any, there is no picture.
    """
    if not learned:
        return Markup("")
    scale, unit = _scale(learned[0][0].curve[0][1].metric)
    alt = f"Validation {unit} over minutes of meta-training; at the end: " + ", ".join(
        f"{standing.method} {written(standing.curve[-1][1])}" for standing, _ in learned
    )
    with chart("training", alt) as (axes, drawn):
        for standing, style in learned:
            axes.plot(
                [seconds / 60 for seconds, _ in standing.curve],
                [scale * score.mean for _, score in standing.curve],
                color=COLOURS[style],
                marker=MARKERS[style],
                markersize=4,
                markeredgewidth=0,
                linewidth=1.6,
            )
        _finish(axes, unit, "minutes of meta-training")
        axes.set_xlim(left=0)
    return drawn[0]


def _validation(rounds: Sequence[Round], colour: str) -> Markup:
    if not rounds:
        return Markup("")
    scores = [turn.score for turn in rounds]
    scale, unit = _scale(scores[0].metric)
    steps = [turn.step for turn in rounds]
    best = next((turn for turn in rounds if turn.is_best), rounds[-1])
    alt = (
        f"Validation {unit} against meta-updates: {written(scores[0])} after round 1, "
        f"best {written(best.score)} after round {best.number}."
    )
    with chart("validation", alt) as (axes, drawn):
        low, high = ([scale * score.interval[side] for score in scores] for side in (0, 1))
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, [scale * score.mean for score in scores], "o-", color=colour, markersize=4)
        axes.plot(
            [best.step],
            [scale * best.score.mean],
            "o",
            color=PAPER,
            markeredgecolor=colour,
            markeredgewidth=2.5,
        )
        for before, after in itertools.pairwise(rounds):
            if after.rate < before.rate:
                axes.axvline(after.step, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        _finish(axes, f"{unit}, mean and 95 % interval", "meta-updates")
        axes.set_xlim(left=0)
    return drawn[0]


def _loss(rounds: Sequence[Round], colour: str) -> Markup:
    points = [(turn.step, turn.loss) for turn in rounds if turn.loss is not None]
    if not points:
        return Markup("")
    steps, losses = zip(*points, strict=True)
    alt = f"Training loss against meta-updates: {losses[0]:.3g} in round 1, {losses[-1]:.3g} in the last."
    with chart("loss", alt) as (axes, drawn):
        axes.plot(steps, losses, "o-", color=colour, markersize=4)
        kind = "nats" if rounds[0].score.metric == "accuracy" else "squared error"
        _finish(axes, f"training loss ({kind}), mean of each round", "meta-updates")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    return drawn[0]


def _over_shots(comparison: Comparison) -> Markup:
    if not comparison.shots:
        return Markup("")
    scale, unit = _scale(comparison.metric)
    best = {
        n: next(name for (name, count), cell in comparison.cells.items() if count == n and cell.is_best)
        for n in comparison.shots
    }
    alt = f"{unit} of each method against support examples; best: " + ", ".join(
        f"{name} at {comparison.count(n)}" for n, name in best.items()
    )
    with chart("shots", alt) as (axes, drawn):
        spread = len(comparison.methods) - 1
        for index, method in reversed(list(enumerate(comparison.methods))):
            counts = [n for n in comparison.shots if (method.name, n) in comparison.cells]
            scores = [comparison.cells[method.name, n].score for n in counts]
            axes.errorbar(
                # A little apart from one another, so that intervals do not hide each other.
                [comparison.shots.index(n) + 0.05 * (index - spread / 2) for n in counts],
                [scale * score.mean for score in scores],
                [scale * score.half_width for score in scores],
                color=COLOURS[method.style],
                marker=MARKERS[method.style],
                markeredgewidth=0,
                linestyle=(0, (4, 2)) if method.is_baseline else "-",
                linewidth=1.3 if method.is_baseline else 2.4,
                elinewidth=1.5,
            )
        axes.xaxis.set_major_locator(FixedLocator(range(len(comparison.shots))))
        axes.set_xticklabels([str(n) for n in comparison.shots])
        axes.set_xlim(-0.35, len(comparison.shots) - 0.65)
        _finish(
            axes,
            f"{unit}, mean and 95 % interval",
            "support examples" + (" per class" if comparison.per_class else ""),
        )
    return drawn[0]


def _over_steps(findings: Findings, colour: str) -> Markup:
    if not findings.over_steps:
        return Markup("")
    steps = sorted(findings.over_steps)
    scores = [findings.over_steps[n].score for n in steps]
    scale, unit = _scale(scores[0].metric)
    alt = f"{unit} against inner gradient steps: " + ", ".join(
        f"{written(score)} after {n}" for n, score in zip(steps, scores, strict=True)
    )
    if not scores[0].higher_is_better:  # else one that diverged hides the others
        most = 100 * min(score.mean for score in scores)
        steps = [n for n, score in zip(steps, scores, strict=True) if score.mean <= most]
        scores = [findings.over_steps[n].score for n in steps]
    with chart("steps", alt) as (axes, drawn):
        low, high = ([scale * score.interval[side] for score in scores] for side in (0, 1))
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, [scale * score.mean for score in scores], "o-", color=colour, markersize=6)
        learner = findings.prior.learner
        if isinstance(learner, GradientLearner):
            axes.axvline(learner.inner_steps, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
            axes.annotate(
                "as trained",
                (learner.inner_steps, 0.03 if scores[0].higher_is_better else 0.92),
                (6, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=MUTED,
            )
        axes.xaxis.set_major_locator(FixedLocator(steps))
        _finish(axes, f"{unit}, mean and 95 % interval", "gradient steps on the support")
    return drawn[0]


def _finish(axes: Axes, y: str, x: str) -> None:
    title(axes, y)
    axes.set_xlabel(x)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    low, high = axes.get_ylim()
    axes.set_ylim(
        max(low, 0.0), min(high, 101.0) if y.startswith("accuracy") else high
    )  # no score lies beyond
    axes.xaxis.set_minor_locator(NullLocator())


def _scale(metric: str) -> tuple[float, str]:
    return (100.0, "accuracy (%)") if metric == "accuracy" else (1.0, "squared error")
