"""A contest as one HTML file: who is ahead, by how much, and how each got there over its time."""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contest import Contest, Standing, on_sources
from ..pages import check_installed, environment, write_page
from ..scores import Score
from ..workspace import hardware, versions
from .summary import N_STYLES, about, duration, short, written

__all__ = ["headline", "write_contest"]


@dataclass(frozen=True)
class _Line:
    """A row of the table."""

    place: int
    standing: Standing
    style: int
    behind: Score | None
    per_task: float
    about: str


def write_contest(
    contest: Contest, standings: Sequence[Standing], path: Path, lost: Mapping[str, str] | None = None
) -> Path:
    """Write the report of a contest.

    Parameters
    ----------
    contest : Contest
    standings : sequence of Standing
        Best first, see :func:`tasklore.contest.hold`.
    path : Path
        Where to; a file there is replaced. Folders are made as needed.
    lost : mapping of str to str, optional
        Learners without a result, and why: what :meth:`tasklore.contest.Spectator.lost` was told.

    Raises
    ------
    MissingDependency
        matplotlib or Jinja2 is not installed.
    StoreError
        The file cannot be written.
    """
    check_installed()
    return write_page(_render(contest, standings, lost or {}), path)


def headline(contest: Contest, standings: Sequence[Standing]) -> str:
    """Return the result in one sentence: the best method, and whether it is clearly ahead of the next."""
    first, main = standings[0], contest.shots[0]
    per_class = first.evaluations[main].metric == "accuracy"
    start = f"From {main} example{'' if main == 1 else 's'}{' per class' if per_class else ''}"
    kind = "a baseline, " if first.is_baseline else ""
    best = f"{start}, {kind}{first.method}, is best" if kind else f"{start}, {first.method} is best"
    best += f" on {contest.name}: {short(first.evaluations[main].score)}"
    level = [other.method for other in standings[1:] if not _clearly_behind(first, other, main)]
    if len(standings) == 1:
        return best
    if not level:
        return f"{best}, clearly ahead of all others"
    return f"{best}, no clear difference to {' and '.join(level[:3])}{' and more' if len(level) > 3 else ''}"


def _clearly_behind(first: Standing, other: Standing, shots: int) -> bool:
    return first.gain_over(other, shots).interval[0] > 0


def _render(contest: Contest, standings: Sequence[Standing], lost: Mapping[str, str]) -> str:
    from markupsafe import Markup

    from .charts import draw_ranking, draw_swatch, draw_training

    folder = importlib.resources.files("tasklore.report")
    pages = environment(duration=duration, written=written)
    main = contest.shots[0]
    lines = [
        _Line(
            place,
            standing,
            (place - 1) % N_STYLES,
            standings[0].gain_over(standing, main) if place > 1 else None,
            standing.evaluations[main].seconds / len(standing.evaluations[main].scores),
            about(standing.method),
        )
        for place, standing in enumerate(standings, 1)
    ]
    content: dict[str, Any] = {
        "style": Markup((folder / "style.css").read_text(encoding="utf-8")),
        "contest": contest,
        "headline": headline(contest, standings),
        "lines": lines,
        "lost": lost,
        "sources": list(dict.fromkeys(row.source for row in on_sources(standings))),
        "metric": standings[0].evaluations[main].metric,
        "swatches": {line.standing.method: draw_swatch(line.style, "table") for line in lines},
        "ranking": draw_ranking(contest.shots, [(line.standing, line.style) for line in lines]),
        "training": draw_training([(line.standing, line.style) for line in lines if line.standing.curve]),
        "n_learners": sum(not standing.is_baseline for standing in standings),
        "facts": _facts(contest),
    }
    return pages.from_string((folder / "contest.html.j2").read_text(encoding="utf-8")).render(content)


def _facts(contest: Contest) -> dict[str, str]:
    settings = contest.settings()

    def listed(values: dict[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)

    return {
        "Tasks": listed(settings["tasks"]),
        "Backbone": listed(settings["net"]) if settings["net"] else "the usual one for such examples",
        "Meta-training": listed(settings["train"]),
        "Test": f"{contest.n_tasks} tasks, seed {contest.seed}",
        "Versions": listed(versions()),
        "Hardware": listed(hardware(contest.train.device)),
    }
