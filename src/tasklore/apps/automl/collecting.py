"""Experience with tables: every candidate tried on every past data set, remembered in the store.

For each data set one artifact holds what was measured (losses of the folds, times, memory and out-of-fold
predictions of every candidate, and the target that these are compared with; no other column, and no names
of columns or classes), written before the records that name it. A data set that is in the store is
not tried again, so a collection that was stopped goes on where it was.
"""

import contextlib
import dataclasses
import hashlib
import queue
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...artifacts import save_artifact
from ...canonical import digest, dumps, plain
from ...config import to_settings
from ...errors import InvalidData, InvalidSetting
from ...experience.records import (
    ERASED,
    EvaluationRecord,
    EventRecord,
    ModelRecord,
    RunRecord,
    TaskRecord,
)
from ...experience.store import ExperienceStore
from ...files import table_from_csv
from ...runners.ray import Cluster
from .descriptors import describe
from .measuring import Measurement, Problem, folds_of
from .pipelines import Candidate, Kind
from .space import candidates
from .tables import Schema
from .worker import Worker

__all__ = ["Collecting", "Dataset", "Found", "Job", "collect", "measured", "read_manifest"]

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
        frame = table_from_csv(self.path, low_memory=False)
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
        It cannot be read, or lacks one of these columns.
    """
    table = table_from_csv(path, "a list of data sets")
    needed = {"name", "file", "task", "family"}
    if missing := sorted(needed - set(table.columns)):
        raise InvalidData(f"{path} lacks the columns {', '.join(missing)}")
    kinds: dict[str, Kind] = {"classification": "classification", "regression": "regression"}
    if strange := sorted(set(map(str, table["task"])) - set(kinds)):
        raise InvalidData(f"{path} has the task {strange[0]!r}; tasks are classification or regression")
    return [
        Dataset(name, kinds[task], path.parent / file, family)
        for name, file, task, family in table[["name", "file", "task", "family"]].itertuples(index=False)
    ]


@dataclass(frozen=True, eq=False)
class Job:
    """One data set to be tried: all that the work needs to know, wherever it is done.

    Parameters
    ----------
    dataset : Dataset
    settings : Collecting
    space : tuple of Candidate
    fingerprint : str
        Of the file, so that another one under the same path is noticed.
    key : str
        What the measurements are remembered under.
    """

    dataset: Dataset
    settings: Collecting
    space: tuple[Candidate, ...]
    fingerprint: str
    key: str

    @classmethod
    def of(cls, dataset: Dataset, settings: Collecting) -> "Job":
        """Return what there is to do on a data set."""
        dataset = dataclasses.replace(dataset, path=dataset.path.absolute())  # work may begin in any folder
        space = tuple(candidates(dataset.kind).values())
        return cls(dataset, settings, space, _fingerprint(dataset), _key(dataset, settings))


@dataclass(frozen=True, eq=False)
class Found:
    """What came of a job.

    Parameters
    ----------
    y : ndarray, shape (n,)
    n_columns, n_classes : int
    schema : dict
        See :meth:`.tables.Schema.to_dict`; columns are called by their places, not by their names.
    descriptors : dict of str to float
        See :func:`.descriptors.describe`.
    measurements : list of Measurement
        One for each candidate that suits the table.
    """

    y: np.ndarray
    n_columns: int
    n_classes: int
    schema: dict[str, Any]
    descriptors: dict[str, float]
    measurements: list[Measurement]


Watch: TypeAlias = Callable[[str, int, int], None]
"""Is told: data set, candidates done, candidates in all."""


def collect(
    datasets: Iterable[Dataset],
    store: ExperienceStore,
    artifacts: Path,
    settings: Collecting | None = None,
    *,
    n_workers: int = 1,
    cluster: Cluster | None = None,
    watch: Watch = lambda dataset, done, total: None,
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
    cluster : Cluster, optional
        Where these processes run; on this machine by default. Files are read where they run, so they must
        lie at the same path everywhere; only this process writes to store and artifacts.
    watch : callable (data set, candidates done, candidates in all)
        Is told of the progress, in any thread; for work on a cluster only when a data set is begun and done.

    Returns
    -------
    int
        Data sets that were added.

    Raises
    ------
    InvalidData
        A data set cannot be read, or its file is another one where it is tried.
    Interrupted
        A worker of the cluster ended twice on the same data set; the others have been remembered.
    """
    settings = settings or Collecting()
    known = {record.metrics.get("key") for record in store.find(ModelRecord, {"kind": "measurements"})}
    erased = {event.subject for event in store.find(EventRecord, {"what": ERASED})}
    jobs = [Job.of(dataset, settings) for dataset in datasets]
    jobs = [job for job in jobs if job.key not in known and job.fingerprint not in erased]
    run_id = f"collect-{uuid.uuid4()}"  # of this call: a run that was erased must not hide later ones
    n_workers = max(1, n_workers)
    results = _here(jobs, n_workers, watch) if cluster is None else _on(cluster, jobs, n_workers, watch)
    with contextlib.closing(results):
        for job, found in results:
            _remember(job, found, store, artifacts, run_id)
    return len(jobs)


def measured(job: Job) -> Found:
    """Try every candidate on a data set; what a machine of a cluster does."""
    with Worker(job.settings.memory) as worker:
        return _measured(job, worker)


def _on(cluster: Cluster, jobs: list[Job], n_workers: int, watch: Watch) -> Generator[tuple[Job, Found]]:
    """Yield what is found on a cluster."""
    results = cluster.map(
        measured,
        jobs,
        at_a_time=n_workers,
        name=lambda job: job.dataset.name,
        begun=lambda job: watch(job.dataset.name, 0, len(job.space)),
    )
    with contextlib.closing(results):
        for job, found in results:
            watch(job.dataset.name, len(found.measurements), len(found.measurements))
            yield job, found


def _here(jobs: list[Job], n_workers: int, watch: Watch) -> Generator[tuple[Job, Found]]:
    """Yield what is found on this machine, by threads that each drive a process."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: queue.SimpleQueue[tuple[Job, Found] | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def work(worker: Worker) -> None:
        with worker:
            while not stop.is_set():
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((job, _measured(job, worker, watch, stop)))
                except BaseException as fault:  # noqa: BLE001 - raised again where results are awaited
                    done.put(fault)
                    return

    workers = [Worker(job.settings.memory) for job in jobs[:n_workers]]
    threads = [threading.Thread(target=work, args=[worker], daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stop.set()
        while any(thread.is_alive() for thread in threads):
            for worker in workers:
                worker.kill()  # what is being tried now is of no use any more
            for thread in threads:
                thread.join(0.1)


def _measured(
    job: Job,
    worker: Worker,
    watch: Watch = lambda dataset, done, total: None,
    stop: threading.Event | None = None,
) -> Found:
    """Try every candidate on a data set, in the worker's process."""
    dataset, settings = job.dataset, job.settings
    problem = dataset.read().sample(settings.rows, settings.seed)
    if _fingerprint(dataset) != job.fingerprint:
        raise InvalidData(
            f"{dataset.path} has changed since the collection began, or is another file on the machine that "
            "tries it; put the same file everywhere and give the same command again"
        )
    measurements = list(_tried(job, problem, worker, watch, stop or threading.Event()))
    descriptors = describe(problem.table, problem.y, dataset.kind, problem.schema, settings.seed)
    return Found(
        problem.y,
        problem.table.shape[1],
        problem.n_classes,
        _without_names(problem.schema).to_dict(),
        descriptors,
        measurements,
    )


def _without_names(schema: Schema) -> Schema:
    columns = (dataclasses.replace(column, name=f"x{place}") for place, column in enumerate(schema.columns))
    return dataclasses.replace(schema, columns=tuple(columns))


def _tried(
    job: Job, problem: Problem, worker: Worker, watch: Watch, stop: threading.Event
) -> Iterator[Measurement]:
    """Yield the measurement of every candidate that suits the table."""
    settings = job.settings
    suited = [candidate for candidate in job.space if problem.suits(candidate)]
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
                candidate,
                settings.seconds,
                random_state=settings.seed,
                give_up_above=(max(bar, best),) * len(folds),
            )
        found = dataclasses.replace(alike[pipeline], candidate=candidate.name)
        if candidate.name == "constant":
            trivial = found.loss
        if len(found.losses) == len(folds):
            best = min(best, found.loss)
        watch(job.dataset.name, index + 1, len(suited))
        yield found


def _remember(job: Job, found: Found, store: ExperienceStore, artifacts: Path, run_id: str) -> None:
    dataset, settings = job.dataset, job.settings
    path = f"{run_id}/{job.key}.safetensors"
    metadata: dict[str, Any] = {
        "dataset": {"name": dataset.name, "family": dataset.family, "kind": dataset.kind},
        "schema": found.schema,
        "descriptors": found.descriptors,
        "settings": to_settings(settings),
        "candidates": [
            {
                "name": one.candidate,
                "losses": list(one.losses),
                "fit_seconds": one.fit_seconds,
                "predict_seconds": one.predict_seconds,
                "megabytes": one.megabytes,
                "error": one.error,
            }
            for one in found.measurements
        ],
    }
    # Half precision is enough for chances; values may be larger than it can hold (65,504).
    precision = np.float16 if dataset.kind == "classification" else np.float32
    tensors = {
        f"predictions/{one.candidate}": one.predictions.astype(precision)
        for one in found.measurements
        if len(one.losses) == settings.folds
    }
    tensors["y"] = found.y
    checksum = save_artifact(artifacts / path, tensors, metadata, kind="measurements")
    shape = {"rows": len(found.y), "columns": found.n_columns, "classes": found.n_classes}
    store.add_all(
        [
            TaskRecord(
                fingerprint=job.fingerprint,
                kind=dataset.kind,
                name=dataset.name,
                descriptor={**found.descriptors, "family": dataset.family},
            ),
            RunRecord(run_id=run_id, config=to_settings(settings), seed=settings.seed),
            *(
                EvaluationRecord(
                    run_id=run_id,
                    split="validation",
                    method=one.candidate,
                    metric=METRICS[dataset.kind],
                    task=job.fingerprint,
                    scores=list(one.losses),
                    mean=one.loss,
                    settings={"folds": settings.folds, "rows": len(found.y)},
                    seconds=one.fit_seconds,
                )
                for one in found.measurements
                if one.losses and not one.error
            ),
            ModelRecord(
                path=path,
                checksum=checksum,
                kind="measurements",
                learner="automl",
                run_id=run_id,
                task=job.fingerprint,
                metrics={"key": job.key, **shape},
            ),
        ]
    )


def _fingerprint(dataset: Dataset) -> str:
    """Name a data set by what is in its file."""
    try:
        with dataset.path.open("rb") as file:
            contents = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidData(f"{dataset.path} cannot be read: {error.strerror}; check the list") from error
    return digest(dumps({"table": contents, "target": dataset.target, "kind": dataset.kind}))


def _key(dataset: Dataset, settings: Collecting) -> str:
    """Name what is measured: this data set, in this way, with this search space."""
    space = [candidate.to_dict() for candidate in candidates(dataset.kind).values()]
    described = {"settings": to_settings(settings), "space": space, "data": _fingerprint(dataset)}
    return digest(dumps(plain(described)))[:32]
