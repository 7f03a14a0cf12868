"""What a search tried and why, as tables for people."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .prior import TablePrior
from .trials import Found, Trial

__all__ = ["leaderboard", "unfinished", "why"]

N_WHY = 5
LEADERBOARD = [
    *("candidate", "model", "score", "loss", "weight", "rows"),
    *("fit_seconds", "predict_seconds", "at", "reason"),
]


def leaderboard(found: Found) -> pd.DataFrame:
    """Return what was tried, best first; see ``AutoClassifier.leaderboard_``."""
    members = {candidate.name: weight for weight, candidate, _ in found.blend.members}
    n_folds = _n_folds(found)
    rows = [
        {
            "candidate": trial.candidate.name,
            "model": trial.candidate.family,
            "score": trial.score,
            "loss": trial.measured.loss if math.isfinite(trial.measured.loss) else math.nan,
            "weight": members.get(trial.candidate.name, 0.0) if trial.level == found.level else 0.0,
            "rows": trial.n_rows,
            "fit_seconds": trial.measured.fit_seconds,
            "predict_seconds": trial.measured.predict_seconds,
            "at": trial.at,
            "reason": reason(trial, n_folds[trial.level]),
        }
        for trial in found.trials
    ]
    table = pd.DataFrame(rows, columns=LEADERBOARD)
    ascending = [False, not found.metric.larger_is_better]
    return table.sort_values(["rows", "score"], ascending=ascending, ignore_index=True)


def unfinished(found: Found) -> str:
    """Return what to tell where no candidate was finished, so that the first simple model is all there is."""
    if any(trial.whole for trial in found.trials):
        return ""
    n_folds = _n_folds(found)
    reasons = Counter(reason(trial, n_folds[trial.level]) for trial in found.trials)
    known = [found.reason, *(f"{number} × {text}" for text, number in reasons.most_common(3))]
    return (
        f"no candidate was finished ({len(found.trials)} were tried; {'; '.join(known)}), so this model is "
        "only the first simple one: give a larger budget or memory_limit, fewer rows or columns, or correct "
        "what is named here"
    )


def _n_folds(found: Found) -> dict[int, int]:
    """Return by level on how many folds candidates were tried."""
    n_folds: dict[int, int] = {}
    for trial in found.trials:
        n_folds[trial.level] = max(n_folds.get(trial.level, 0), len(trial.measured.losses))
    return n_folds


def reason(trial: Trial, n_folds: int) -> str:
    """Return why a candidate has no score; empty if it has one.

    Parameters
    ----------
    trial : Trial
    n_folds : int
        That others were tried on.
    """
    if trial.whole:
        return ""
    error, done = trial.measured.error, len(trial.measured.losses)
    if error.startswith("took longer"):
        return f"ended: {error}"
    if error.startswith("MemoryError"):
        return "failed: not enough memory"
    if error:
        return f"failed: {error}"
    if done < n_folds:
        return f"given up after {done} of {n_folds} folds: too far behind the best"
    return "the metric is not defined on these rows"


def why(found: Found, prior: TablePrior, names: Mapping[str, str], n: int = N_WHY) -> pd.DataFrame:
    """Return the past tables most like a new one, and what worked there; see ``AutoClassifier.why_``.

    Parameters
    ----------
    found : Found
    prior : TablePrior
    names : mapping
        What the user's own tables are called, by fingerprint.
    n : int
    """
    trivial = found.trivial
    tried = {
        trial.candidate.name: min(trial.measured.loss / trivial, 1.0)
        for trial in found.trials
        if trial.level == 0 and trial.measured.losses
    }
    likeness = prior.likeness(tried, found.described)
    chosen = max(found.blend.members, key=lambda member: member[0])[1].name
    rows: list[dict[str, Any]] = []
    for place in np.argsort(-likeness, kind="stable")[:n]:
        losses = prior.losses[place]
        best = int(np.nanargmin(losses))
        there = losses[prior.candidates.index(chosen)] if chosen in prior.candidates else math.nan
        rows.append(
            {
                "past_table": names.get(prior.tasks[place], prior.tasks[place]),
                "own": prior.tasks[place] in names,
                "likeness": float(likeness[place]),
                "best_candidate": prior.candidates[best],
                "loss": float(losses[best]),
                "chosen_here": chosen,
                "loss_of_chosen": float(there),
            }
        )
    return pd.DataFrame(rows)
