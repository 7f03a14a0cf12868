"""What came of a run as one HTML file to show to others: it asks nothing of any network, and holds no script.

Findings are turned into words and numbers (:mod:`.summary`, :mod:`.provenance`), charts (:mod:`.charts`) and
pictures of example episodes (:mod:`.examples`), and a template arranges them. Equal findings give
equal files.
"""

import importlib.resources
from pathlib import Path
from typing import Any

from ..experiment import Findings
from ..pages import check_installed, environment, write_page

__all__ = ["write_report"]


def write_report(findings: Findings, path: Path) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    findings : Findings
        From :func:`tasklore.experiment.conduct`. Its store must still be open: the report says what it
        remembers.
    path : Path
        Where to; a file there is replaced. Folders are made as needed.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    MissingDependency
        matplotlib or Jinja2 is not installed.
    StoreError
        The file cannot be written.
    """
    check_installed()
    return write_page(_render(findings), path)


def _render(findings: Findings) -> str:
    from markupsafe import Markup

    from . import charts, examples, provenance, summary

    folder = importlib.resources.files("tasklore.report")
    pages = environment(duration=summary.duration, written=summary.written)
    comparison = summary.compare(findings)
    overview = summary.overview(findings)
    rounds = provenance.rounds_of(findings)
    content: dict[str, Any] = {
        "style": Markup((folder / "style.css").read_text(encoding="utf-8")),
        "comparison": comparison,
        "by_source": summary.by_source(findings),
        "unlearned": getattr(findings.experiment.tasks, "unseen", ()),
        "overview": overview,
        "rounds": rounds,
        "over_steps": findings.over_steps,
        "stopped": findings.outcome.reason,
        "charts": charts.draw_all(findings, comparison, rounds),
        "examples": examples.draw(findings, comparison.style_of(overview.learner)),
        "remembered": provenance.remembered(findings),
        "facts": provenance.facts(findings),
        "sides": provenance.sides(findings),
        "recipe": provenance.recipe(findings),
    }
    return pages.from_string((folder / "report.html.j2").read_text(encoding="utf-8")).render(content)
