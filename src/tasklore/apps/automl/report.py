"""What came of a fit as one HTML file to show to others: it asks nothing of any network, and holds no script.

It needs no torch, as AutoML does not; with the reports of runs it shares the style sheet.
"""

import importlib.metadata
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...errors import InvalidData
from ...pages import check_installed, environment, write_page
from .estimators import AutoClassifier
from .judging import Bin, Importance, Judged, Model, calibration, importance
from .losses import metric_for
from .tables import Schema
from .trials import Found

__all__ = ["METRIC_WORDS", "Fitted", "duration", "write_report", "written"]

STYLE = Path(__file__).parents[2] / "report" / "style.css"
TEMPLATE = Path(__file__).with_name("report.html.j2")
METRIC_WORDS: Mapping[str, str] = {
    "log_loss": "log loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "area under the ROC curve",
    "r2": "R²",
    "mean_absolute_error": "mean absolute error",
    "root_mean_squared_error": "root mean squared error",
}
PERCENT = ("accuracy", "balanced_accuracy")
MOST_COLUMNS = 60
MOST_SHOWN = 12  # candidates, before the others are folded away
MOST_CLASSES = 12  # of a table of confusions
PACKAGES = ("tasklore", "scikit-learn", "lightgbm", "numpy", "pandas")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model, and what is to be told of it.

    Parameters
    ----------
    model : AutoClassifier or AutoRegressor
        As its search left it, not loaded from a file.
    data, target : str
        Names of the table and of the column that is predicted.
    X : DataFrame
        The rows that were searched on, without the target.
    y : ndarray
    kept : DataFrame
        The rows that were kept aside; may be empty.
    kept_y : ndarray
    judged : Judged, optional
        What came of predicting ``kept``.
    n_left_out : int
        Rows that had no target.
    settings : mapping
        Of the fit, name → value.
    command : str
        That makes it again, without folders.
    """

    model: Model
    data: str
    target: str
    X: pd.DataFrame
    y: np.ndarray
    kept: pd.DataFrame
    kept_y: np.ndarray
    judged: Judged | None
    n_left_out: int
    settings: Mapping[str, Any]
    command: str

    @property
    def metric(self) -> str:
        """What the search went by."""
        return metric_for(self.model.kind, self.model.metric).name

    @property
    def board(self) -> pd.DataFrame:
        """The leaderboard, best first by what the search went by; failures last."""
        board = self.model.leaderboard_
        if board.empty:
            return board
        less = not metric_for(self.model.kind, self.metric).larger_is_better
        by: Any = board.sort_values(["rows", "score"], ascending=[False, less], na_position="last")
        return by.sort_values("score", key=pd.isna, kind="stable", ignore_index=True)

    @property
    def found(self) -> Found:
        """What the search ended with."""
        found = self.model._found  # pyright: ignore[reportPrivateUsage]
        if found is None:
            raise InvalidData("a model that was loaded from a file does not keep its search; fit it again")
        return found


def write_report(fitted: Fitted, path: Path, seconds: float = 10.0) -> Path:
    """Write the report of a fit.

    Parameters
    ----------
    fitted : Fitted
    path : Path
        Where to; a file there is replaced. Folders are made as needed.
    seconds : float
        That finding the importance of columns may take, about.

    Raises
    ------
    MissingDependency
        matplotlib or Jinja2 is not installed.
    StoreError
        The file cannot be written.
    """
    check_installed()
    return write_page(_render(fitted, seconds), path)


def written(metric: str, value: float) -> str:
    """Write a score for people.

    Examples
    --------
    >>> written("accuracy", 0.9667), written("log_loss", 0.104213), written("r2", float("nan"))
    ('96.7 %', '0.1042', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:.1f} %" if metric in PERCENT else f"{value:.4g}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """Write a time so that it can be read aloud.

    Examples
    --------
    >>> [duration(s) for s in (0.0314, 0.276, 2.54, 75, 3700)]
    ['31 ms', '276 ms', '2.5 s', '1 min 15 s', '1 h 1 min']
    """
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def _render(fitted: Fitted, seconds: float) -> str:
    from markupsafe import Markup

    pages = environment(
        duration=duration,
        thousands="{:,}".format,
        written=lambda name, value: written(name, value).replace(" ", "\u00a0"),
        sentence=lambda text: text[:1].upper() + text[1:],
    )
    important = None
    if fitted.judged is not None:
        important = importance(fitted.model, fitted.kept, fitted.kept_y, seconds)
    content: dict[str, Any] = {
        "style": Markup(STYLE.read_text(encoding="utf-8")),
        "fitted": fitted,
        "found": fitted.found,
        "judged": fitted.judged,
        "metric": fitted.metric,
        "words": METRIC_WORDS,
        "important": important,
        "bins": _bins(fitted),
        "confusions": _confusions(fitted),
        "board": _board(fitted),
        "most_shown": MOST_SHOWN,
        "members": sorted(
            ((weight, candidate) for weight, candidate, _ in fitted.found.blend.members),
            key=lambda member: -member[0],
        ),
        "past": _past(fitted),
        "data": _described(fitted),
        "facts": _facts(),
        "charts": _charts(fitted, important),
    }
    return pages.from_string(TEMPLATE.read_text(encoding="utf-8")).render(content)


def _charts(fitted: Fitted, important: Importance | None) -> dict[str, Any]:
    """Draw what there is to draw; empty where there is nothing."""
    from . import charts

    judged, words, scale = fitted.judged, METRIC_WORDS[fitted.metric], 1.0
    if fitted.metric in PERCENT:
        words, scale = f"{words} (%)", 100.0
    curve, is_cut = charts.draw_curve(
        fitted.board,
        fitted.found.seconds,
        words,
        scale,
        larger_is_better=metric_for(fitted.model.kind, fitted.metric).larger_is_better,
    )
    drawn: dict[str, Any] = {"curve": curve, "is_cut": is_cut, "predictions": "", "residuals": ""}
    drawn["importance"] = "" if important is None else charts.draw_importance(important, words, scale)
    drawn["calibration"] = charts.draw_calibration(_bins(fitted), _whose_chance(fitted))
    if judged is not None and judged.kind == "regression":
        pair = charts.draw_predictions(judged.y, judged.outputs[:, 0], fitted.target)
        drawn["predictions"], drawn["residuals"] = pair
    return drawn


def _bins(fitted: Fitted) -> tuple[Bin, ...]:
    judged = fitted.judged
    return calibration(judged) if judged is not None and judged.kind == "classification" else ()


def _whose_chance(fitted: Fitted) -> str:
    classes = _classes(fitted)
    return classes[1] if len(classes) == 2 else "the predicted class"


def _classes(fitted: Fitted) -> list[str]:
    model = fitted.model
    return [str(name) for name in model.classes_] if isinstance(model, AutoClassifier) else []


def _confusions(fitted: Fitted) -> list[tuple[str, list[int]]]:
    """Return for each true class how many of its rows were taken for which; none for very many classes."""
    judged, classes = fitted.judged, _classes(fitted)
    if judged is None or not 2 <= len(classes) <= MOST_CLASSES:
        return []
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (judged.y, judged.outputs.argmax(1)), 1)
    return [(name, row.tolist()) for name, row in zip(classes, counts, strict=True)]


def _board(fitted: Fitted) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in _records(fitted.board)]


def _past(fitted: Fitted) -> list[dict[str, Any]]:
    """Return the past tables most like this one."""
    return _records(fitted.model.why_)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]


def _described(fitted: Fitted) -> dict[str, Any]:
    """Return what the columns are, as the search saw them."""
    schema = Schema.of(fitted.X)
    kinds = Counter(column.kind for column in schema.columns)
    classes = Counter(str(label) for label in fitted.y) if fitted.model.kind == "classification" else {}
    return {
        "columns": schema.columns[:MOST_COLUMNS],
        "n_more": max(0, len(schema.columns) - MOST_COLUMNS),
        "kinds": kinds.most_common(),
        "classes": [(name, n, n / len(fitted.y)) for name, n in Counter(classes).most_common(MOST_COLUMNS)],
        "n_classes": len(classes),
        "spread": [] if classes else np.percentile(fitted.y, [0, 5, 50, 95, 100]).tolist(),
    }


def _facts() -> dict[str, str]:
    """Return what the numbers depend on, beside data and settings."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # lightgbm is optional
            versions[name] = "not installed"
    return {
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Hardware": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
    }
