"""What a fit leaves in the experience store, and how the next one reads it: never a row of anyone's data."""

import hashlib
import math
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from pandas.util import hash_pandas_object as typed_as_object

from ...canonical import digest, dumps, plain
from ...experience.records import EvaluationRecord, RunRecord, TaskRecord
from ...experience.store import ExperienceStore
from .descriptors import NAMES
from .measuring import Problem
from .pipelines import VARIED, Kind

hash_rows: Any = typed_as_object

__all__ = ["METHOD_OF_TRIVIAL", "METRIC_NAMES", "fingerprint", "names_of", "recall", "remember"]

METHOD_OF_TRIVIAL = "constant"
HASHED_ROWS = 4000
MOST_RECALLED = 15_000  # trials, of some hundred fits: a second
METRIC_NAMES: Mapping[Kind, str] = {"classification": "log_loss", "regression": "one_minus_r2"}


def fingerprint(problem: Problem) -> str:
    """Name a table by what is in it, so that it is recognised when it comes again.

    All targets count, and evenly chosen rows: all cells of a large table would take seconds to read.
    """
    places = np.unique(np.linspace(0, len(problem.y) - 1, HASHED_ROWS).astype(np.int64))
    rows = hash_rows(problem.table.iloc[places], index=False).to_numpy()
    sha = hashlib.sha256(rows.tobytes())
    sha.update(np.ascontiguousarray(problem.y).tobytes())
    columns = [column.name for column in problem.schema.columns]
    return digest(dumps(plain({"rows": sha.hexdigest(), "columns": columns, "kind": problem.kind})))


def remember(
    store: ExperienceStore,
    problem: Problem,
    described: Mapping[str, float],
    trivial: float,
    tried: Mapping[str, tuple[list[float], float]],
    settings: Mapping[str, Any],
    name: str | None = None,
) -> None:
    """Add a table and what was tried on it.

    Parameters
    ----------
    store : ExperienceStore
    problem : Problem
    described : mapping
        Its descriptors.
    trivial : float
        The loss of predicting always the same.
    tried : mapping of candidate to (losses of the folds, seconds to fit one)
    settings : mapping
        Of the fit.
    name : str, optional
        What people call the table; without one, :func:`names_of` says when it was met and how large it is.
    """
    task, run_id = fingerprint(problem), str(uuid.uuid4())
    evaluations = {METHOD_OF_TRIVIAL: ([trivial], 0.0), **tried}
    store.add_all(
        [
            TaskRecord(
                fingerprint=task, kind=problem.kind, name=name or _unnamed(task), descriptor={**described}
            ),
            RunRecord(run_id=run_id, config=dict(settings), seed=int(settings.get("seed", 0))),
            *(
                EvaluationRecord(
                    run_id=run_id,
                    split="validation",
                    method=method,
                    metric=METRIC_NAMES[problem.kind],
                    task=task,
                    scores=losses,
                    mean=float(np.mean(losses)),
                    settings={"rows": len(problem.y)},
                    seconds=seconds,
                )
                for method, (losses, seconds) in evaluations.items()
            ),
        ]
    )


def recall(
    store: ExperienceStore, kind: Kind
) -> dict[str, tuple[Mapping[str, Any], dict[str, tuple[float, float]]]]:
    """Return the tables that a store knows: by name, descriptors, and (loss share, seconds) by candidate.

    Tables without descriptors of this version, or without a trivial loss, are left out. Of several fits of
    one table the last one that tried a candidate counts. Of very many fits only the last ones are read, as
    reading is part of the next fit's time.
    """
    names, by_task = NAMES[kind], dict[str, list[EvaluationRecord]]()
    latest = store.find(
        EvaluationRecord, {"metric": METRIC_NAMES[kind]}, newest_first=True, limit=MOST_RECALLED
    )
    for evaluation in reversed(latest):
        by_task.setdefault(evaluation.task, []).append(evaluation)
    found: dict[str, tuple[Mapping[str, Any], dict[str, tuple[float, float]]]] = {}
    for task in store.find(TaskRecord, {"kind": kind}):
        if not all(isinstance(task.descriptor.get(name), int | float) for name in names):
            continue
        evaluations = by_task.get(task.fingerprint, [])
        losses: dict[str, tuple[float, float]] = {}
        trivial = {e.run_id: e.mean for e in evaluations if e.method == METHOD_OF_TRIVIAL}
        for evaluation in evaluations:
            if VARIED in evaluation.method:
                continue  # nobody named it, so no other table can try the same
            if (worst := trivial.get(evaluation.run_id)) is not None and worst > 0:
                share = evaluation.mean / worst
                losses[evaluation.method] = (share, evaluation.seconds or float("nan"))
        if len(losses) > 1:
            found[task.fingerprint] = (task.descriptor, losses)
    return found


def names_of(store: ExperienceStore, kind: Kind) -> dict[str, str]:
    """Return what the tables that a store knows are called, by fingerprint.

    One that was remembered without a name is called by its day and its size: ``your table of 2026-03-01, 569
    rows × 30 columns``.
    """
    about = {"metric": METRIC_NAMES[kind], "method": METHOD_OF_TRIVIAL}
    rows = {
        evaluation.task: int(evaluation.settings["rows"])
        for evaluation in store.find(EvaluationRecord, about)
        if isinstance(evaluation.settings.get("rows"), int)
    }
    found: dict[str, str] = {}
    for task in store.find(TaskRecord, {"kind": kind}):
        if task.name != _unnamed(task.fingerprint):
            found[task.fingerprint] = task.name
        elif task.fingerprint not in found:
            size = f", {rows[task.fingerprint]:,} rows" if task.fingerprint in rows else ""
            columns = task.descriptor.get("columns")
            if size and isinstance(columns, int | float):
                size += f" × {round(math.expm1(columns)):,} columns"
            found[task.fingerprint] = f"your table of {task.created_at[:10]}{size}"
    return found


def _unnamed(task: str) -> str:
    """Return the name that a record gets where the user gave none."""
    return f"table {task[:8]}"
