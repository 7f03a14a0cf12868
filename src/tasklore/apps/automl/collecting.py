"""Experience with tables: every candidate tried on every past data set, remembered in the store.

For each data set one artifact holds what was measured (losses of the folds, times, memory and out-of-fold
predictions of every candidate), written before the records that name it. A data set that is in the store is
not tried again, so a collection that was stopped goes on where it was.
"""

import dataclasses
import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...artifacts import save_artifact
from ...canonical import digest, dumps, plain
from ...config import to_settings
from ...errors import InvalidData, InvalidSetting
from ...experience.records import EvaluationRecord, ModelRecord, RunRecord, TaskRecord
from ...experience.store import ExperienceStore
from .descriptors import describe
from .measuring import Measurement, Problem, folds_of
from .pipelines import Kind
from .space import candidates
from .worker import Worker

__all__ = ["Collecting", "Dataset", "collect", "read_manifest"]

METRICS: dict[Kind, str] = {"classification": "log_loss", "regression": "one_minus_r2"}
FIRST = ("constant", "lightgbm", "logistic-1", "ridge-1", "forest")
"""Candidates that say early how good a loss can be had, so that hopeless ones can be given up."""


@dataclass(frozen=True)
class Dataset:
    """A past data set.

    Parameters
    ----------
    name : str
    kind : {"classification", "regression"}
    path : Path
        A ``.csv``, perhaps compressed.
    family : str
        Data sets of one family are near relatives: never learn from one to be judged on another.
    target : str
        The column to predict.
    """

    name: str
    kind: Kind
    path: Path
    family: str
    target: str = "target"

    def read(self) -> Problem:
        """Return the whole table.

        Raises
        ------
        InvalidData
            The file cannot be read, or lacks the target.
        """
        try:
            frame = pd.read_csv(self.path, low_memory=False)
        except (OSError, ValueError) as error:
            raise InvalidData(f"{self.path} cannot be read as a table: {error}") from error
        if self.target not in frame:
            raise InvalidData(
                f"{self.path} has no column {self.target!r}; it has {', '.join(map(str, frame.columns[:10]))}"
            )
        known = frame[frame[self.target].notna()]
        return Problem.of(known.drop(columns=self.target), known[self.target], self.kind)


@dataclass(frozen=True)
class Collecting:
    """How candidates are tried.

    Parameters
    ----------
    rows : int
        Of a larger table so many are drawn.
    folds : int
    seconds : float
        That trying one candidate may take, all folds together.
    memory : int
        Megabytes that it may use.
    hopeless : float
        A candidate is given up after a fold whose loss lies above the best one by more than this share of
        what separates the best from predicting the same always.
    seed : int
    """

    rows: int = 3000
    folds: int = 3
    seconds: float = 30.0
    memory: int = 4000
    hopeless: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 20 or self.folds < 2 or not self.seconds > 0 or not self.hopeless > 0:
            raise InvalidSetting(f"rows ≥ 20, folds ≥ 2, seconds > 0 and hopeless > 0 are needed, got {self}")


def read_manifest(path: Path) -> list[Dataset]:
    """Read a list of data sets: a ``.csv`` with the columns name, file, task and family.

    Files are found beside it, the target is their last column, called ``target``.

    Raises
    ------
    InvalidData
        It lacks one of these columns.
    """
    table: Any = pd.read_csv(path)
    needed = {"name", "file", "task", "family"}
    if missing := sorted(needed - set(table.columns)):
        raise InvalidData(f"{path} lacks the columns {', '.join(missing)}")
    kinds: dict[str, Kind] = {"classification": "classification", "regression": "regression"}
    return [
        Dataset(name, kinds[task], path.parent / file, family)
        for name, file, task, family in table[["name", "file", "task", "family"]].itertuples(index=False)
    ]


def collect(
    datasets: Iterable[Dataset],
    store: ExperienceStore,
    artifacts: Path,
    settings: Collecting | None = None,
    *,
    n_workers: int = 1,
    watch: Callable[[str, int, int], None] = lambda dataset, done, total: None,
) -> int:
    """Try every candidate on every data set that the store does not know yet.

    Parameters
    ----------
    datasets : iterable of Dataset
    store : ExperienceStore
    artifacts : Path
        Where measurements are kept; the store's records are relative to it.
    settings : Collecting, optional
    n_workers : int
        Data sets tried at the same time, each in a process of its own.
    watch : callable (data set, candidates done, candidates in all)
        Is told of the progress, in any thread.

    Returns
    -------
    int
        Data sets that were added.
    """
    settings = settings or Collecting()
    known = {record.metrics.get("key") for record in store.find(ModelRecord, {"kind": "measurements"})}
    waiting: queue.SimpleQueue[Dataset] = queue.SimpleQueue()
    for dataset in datasets:
        if _key(dataset, settings) not in known:
            waiting.put(dataset)
    n_waiting = waiting.qsize()
    done: queue.SimpleQueue[tuple[Dataset, Problem, list[Measurement]] | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        with Worker(settings.memory) as worker:
            while not stop.is_set():
                try:
                    dataset = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    problem = dataset.read().sample(settings.rows, settings.seed)
                    done.put(
                        (dataset, problem, list(_tried(dataset, problem, worker, settings, watch, stop)))
                    )
                except BaseException as fault:  # noqa: BLE001 - raised again where results are awaited
                    done.put(fault)
                    return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, n_workers))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(n_waiting):
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            _remember(*found, store, artifacts, settings)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return n_waiting


def _tried(
    dataset: Dataset,
    problem: Problem,
    worker: Worker,
    settings: Collecting,
    watch: Callable[[str, int, int], None],
    stop: threading.Event,
) -> Iterator[Measurement]:
    """Yield the measurement of every candidate that suits the table."""
    space = candidates(dataset.kind)
    suited = [candidate for candidate in space.values() if problem.suits(candidate)]
    suited.sort(key=lambda candidate: candidate.name not in FIRST)  # a stable sort: else in their order
    folds = folds_of(problem, settings.folds, settings.seed)
    worker.load(problem, folds)
    trivial = best = float("inf")
    alike: dict[str, Measurement] = {}
    for index, candidate in enumerate(suited):
        if stop.is_set():
            return
        pipeline = dumps(candidate.on(problem.schema).to_dict())
        if pipeline not in alike:
            bar = best + settings.hopeless * (trivial - best) if np.isfinite(trivial) else float("inf")
            alike[pipeline] = worker.measure(
                candidate, settings.seconds, random_state=settings.seed, give_up_above=max(bar, best)
            )
        found = dataclasses.replace(alike[pipeline], candidate=candidate.name)
        if candidate.name == "constant":
            trivial = found.loss
        if len(found.losses) == len(folds):
            best = min(best, found.loss)
        watch(dataset.name, index + 1, len(suited))
        yield found


def _remember(
    dataset: Dataset,
    problem: Problem,
    measured: list[Measurement],
    store: ExperienceStore,
    artifacts: Path,
    settings: Collecting,
) -> None:
    run_id = f"collect-{digest(dumps(plain(to_settings(settings))))[:16]}"
    fingerprint = _fingerprint(dataset)
    key = _key(dataset, settings)
    path = f"{run_id}/{key}.safetensors"
    descriptors = describe(problem.table, problem.y, dataset.kind, problem.schema, settings.seed)
    metadata: dict[str, Any] = {
        "dataset": {"name": dataset.name, "family": dataset.family, "kind": dataset.kind},
        "schema": problem.schema.to_dict(),
        "descriptors": descriptors,
        "settings": to_settings(settings),
        "candidates": [
            {
                "name": found.candidate,
                "losses": list(found.losses),
                "fit_seconds": found.fit_seconds,
                "predict_seconds": found.predict_seconds,
                "megabytes": found.megabytes,
                "error": found.error,
            }
            for found in measured
        ],
    }
    # Half precision is enough for chances; values may be larger than it can hold (65,504).
    precision = np.float16 if dataset.kind == "classification" else np.float32
    tensors = {
        f"predictions/{found.candidate}": found.predictions.astype(precision)
        for found in measured
        if len(found.losses) == settings.folds
    }
    tensors["y"] = problem.y
    checksum = save_artifact(artifacts / path, tensors, metadata, kind="measurements")
    shape = {"rows": len(problem.y), "columns": problem.table.shape[1], "classes": problem.n_classes}
    store.add_all(
        [
            TaskRecord(
                fingerprint=fingerprint,
                kind=dataset.kind,
                name=dataset.name,
                descriptor={**descriptors, "family": dataset.family},
            ),
            RunRecord(run_id=run_id, config=to_settings(settings), seed=settings.seed),
            *(
                EvaluationRecord(
                    run_id=run_id,
                    split="validation",
                    method=found.candidate,
                    metric=METRICS[dataset.kind],
                    task=fingerprint,
                    scores=list(found.losses),
                    mean=found.loss,
                    settings={"folds": settings.folds, "rows": len(problem.y)},
                    seconds=found.fit_seconds,
                )
                for found in measured
                if found.losses and not found.error
            ),
            ModelRecord(
                path=path,
                checksum=checksum,
                kind="measurements",
                learner="automl",
                run_id=run_id,
                task=fingerprint,
                metrics={"key": key, **shape},
            ),
        ]
    )


def _fingerprint(dataset: Dataset) -> str:
    """Name a data set by what is in its file."""
    with dataset.path.open("rb") as file:
        contents = hashlib.file_digest(file, "sha256").hexdigest()
    return digest(dumps({"table": contents, "target": dataset.target, "kind": dataset.kind}))


def _key(dataset: Dataset, settings: Collecting) -> str:
    """Name what is measured: this data set, in this way, with this search space."""
    space = [candidate.to_dict() for candidate in candidates(dataset.kind).values()]
    described = {"settings": to_settings(settings), "space": space, "data": _fingerprint(dataset)}
    return digest(dumps(plain(described)))[:32]
