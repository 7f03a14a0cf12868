"""What :meth:`~tasklore.experience.store.ExperienceStore.verify` looks for beyond the storage itself."""

from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from ..artifacts import file_checksum
from ..errors import DamagedArtifact
from .records import (
    PURGED,
    EvaluationRecord,
    EventRecord,
    ModelRecord,
    Record,
    RoundRecord,
    RunRecord,
    TaskRecord,
    is_tombstone,
)

__all__ = ["dangling_references", "faulty_artifacts"]


def dangling_references(records: Iterable[Record]) -> list[str]:
    """Return a line for each reference that leads nowhere, and for each run that two records claim."""
    records = list(records)
    runs = Counter(record.run_id for record in records if isinstance(record, RunRecord))
    tasks = {record.fingerprint for record in records if isinstance(record, TaskRecord)}
    ids = {record.id for record in records}
    topics = ids | runs.keys() | tasks
    tombstones = [record for record in records if is_tombstone(record)]
    erased = {record.subject for record in tombstones}
    erased |= {str(name) for record in tombstones for name in record.detail.get(PURGED, ())}
    faults = [
        f"run {run_id} has {count} records that contradict one another"
        for run_id, count in runs.items()
        if count > 1
    ]
    for record in records:
        for what, name, known in _references(record, ids, runs.keys(), tasks, topics):
            if name not in known and name not in erased:
                faults.append(
                    f"{record.kind_name} {record.id[:12]} refers to {what} {name}, which is not here"
                )
    return faults


def _references(
    record: Record,
    ids: AbstractSet[str],
    runs: AbstractSet[str],
    tasks: AbstractSet[str],
    topics: AbstractSet[str],
) -> Iterator[tuple[str, str, AbstractSet[str]]]:
    match record:
        case RoundRecord():
            yield "run", record.run_id, runs
        case EvaluationRecord():
            yield "run", record.run_id, runs
            yield "task", record.task, tasks
        case ModelRecord():
            yield "run", record.run_id, runs
            if record.task is not None:
                yield "task", record.task, tasks
        case RunRecord():
            if record.prior is not None:
                yield "model", record.prior, ids
        case EventRecord():
            yield "subject", record.subject, topics
        case _:
            return


def faulty_artifacts(records: Iterable[Record], root: Path) -> list[str]:
    """Return a line for each model whose file is missing, lies outside ``root``, or was altered."""
    faults: list[str] = []
    for record in records:
        if isinstance(record, ModelRecord):
            fault = _artifact_fault(record, root)
            if fault:
                faults.append(f"model {record.id[:12]}: {fault}")
    return faults


def _artifact_fault(record: ModelRecord, root: Path) -> str | None:
    path = root / record.path
    if not path.resolve().is_relative_to(root.resolve()):
        return f"{record.path} leads out of {root}, through a link"
    try:
        actual = file_checksum(path)
    except DamagedArtifact as error:
        return str(error)
    if actual != record.checksum:
        return f"{path} was altered: its SHA-256 is {actual}, and {record.checksum} was remembered"
    return None
