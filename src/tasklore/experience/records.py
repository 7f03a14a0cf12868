"""What is remembered: one frozen dataclass for each kind of record.

A record is named by what it says: its id is the SHA-256 of its defining fields. Adding a record a second
time, after a crash or from another store, therefore changes nothing. Fields that differ between two honest
repetitions of the same work (when it was written, how long it took, on which machine) are *volatile*: kept,
but outside the hash.

Records hold descriptors, settings, scores and times. They never hold rows of anyone's data.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, ClassVar, TypeGuard, cast

from ..canonical import MAX_CHARACTERS, Json, digest, dumps, plain
from ..errors import InvalidData, UnknownName

__all__ = [
    "ERASED",
    "PURGED",
    "RECORD_TYPES",
    "EvaluationRecord",
    "EventRecord",
    "ModelRecord",
    "Record",
    "RoundRecord",
    "RunRecord",
    "TaskRecord",
    "checked",
    "is_tombstone",
    "record_from_json",
]

ERASED = "erased"
"""The event that marks a tombstone."""

PURGED = "models"
"""Where a tombstone's detail names the models that went with what was erased, by their ids."""

MAX_NAME = 200
"""How long an identifier may be, in characters."""

_MAX_INTEGER = 2**63 - 1  # what a database column holds
_CHECKSUM = re.compile(r"[0-9a-f]{64}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _volatile(default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING) -> Any:
    """Declare a field that does not take part in the id."""
    if default_factory is dataclasses.MISSING:
        return dataclasses.field(default=default, metadata={"volatile": True})
    return dataclasses.field(default_factory=default_factory, metadata={"volatile": True})


@dataclass(frozen=True, kw_only=True)
class Record:
    """What all records share.

    Values are checked and copied on construction, so that what can be built can also be stored, and comes
    back equal.

    Parameters
    ----------
    created_at : str
        When the work was done: ISO 8601 with a time zone; now, if not given. Volatile.

    Raises
    ------
    InvalidData
        A field has the wrong type, is not finite, or could not be stored exactly. The message names the
        field.
    """

    kind_name: ClassVar[str]
    """How this kind is called in files, tables and messages."""

    belongs_by: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a *topic*: what an event may be about, and what an erasure takes with it."""

    created_at: str = _volatile(default_factory=_now)

    def __post_init__(self) -> None:
        for field in _fields(type(self)):
            value = checked(type(self), field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if len(dumps(self.to_json())) > MAX_CHARACTERS:
            raise InvalidData(
                f"this {type(self).__name__} is longer than {MAX_CHARACTERS:,} characters; store less"
            )

    @property
    def id(self) -> str:
        """SHA-256 of the kind and the defining fields, 64 hexadecimal digits."""
        defining = {
            field.name: getattr(self, field.name)
            for field in _fields(type(self))
            if "volatile" not in field.metadata
        }
        return digest(dumps({"kind": self.kind_name, "fields": defining}))

    @property
    def seal(self) -> str:
        """SHA-256 of all fields, the volatile ones included: tells whether a stored copy was altered."""
        return digest(dumps(self.to_json()))

    @property
    def topic(self) -> str:
        """How events name this record: by the run's or task's own name where it has one, else by its id."""
        return self.id

    @property
    def topics(self) -> tuple[str, ...]:
        """All that this record is about: its id, and the run and the task that it belongs to."""
        named = (getattr(self, name) for name in self.belongs_by)
        return (self.id, *(topic for topic in named if topic is not None))

    def to_json(self) -> dict[str, Json]:
        """Return all fields as JSON values."""
        return {field.name: getattr(self, field.name) for field in _fields(type(self))}


@dataclass(frozen=True, kw_only=True)
class TaskRecord(Record):
    """A learning problem, or a source of them, that was met.

    Parameters
    ----------
    fingerprint : str
        A hash of what identifies the task; the same on every machine.
    kind : str
        For example ``"classification"``.
    name : str
        What people call it.
    descriptor : mapping of str to number, text, bool or None
        Flat: what makes it like or unlike other tasks (see :mod:`~tasklore.experience.similarity`). No
        examples.
    """

    kind_name = "task"
    belongs_by = ("fingerprint",)

    fingerprint: str
    kind: str
    name: str
    descriptor: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.descriptor.items():
            if not isinstance(value, str | int | float | None):  # bool is an int
                raise InvalidData(
                    f"TaskRecord.descriptor.{name} is a {type(value).__name__}; a descriptor is flat: "
                    "numbers, short texts, truth values or None"
                )
            if isinstance(value, str) and len(value) > MAX_NAME:
                raise InvalidData(
                    f"TaskRecord.descriptor.{name} has {len(value):,} characters; the limit is {MAX_NAME}"
                )

    @property
    def topic(self) -> str:
        """The task's fingerprint."""
        return self.fingerprint


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """One run of the loop, or of a command that evaluates or adapts.

    Parameters
    ----------
    run_id : str
        Given by the caller; a UUID, unless a test needs a fixed one.
    config : mapping
        The resolved configuration, whole.
    seed : int
    prior : str, optional
        Id of the :class:`ModelRecord` that the run started from.
    versions, hardware : mapping
        Volatile: a run resumed after an upgrade, or elsewhere, is still that run.
    """

    kind_name = "run"
    belongs_by = ("run_id",)

    run_id: str
    config: Mapping[str, Any]
    seed: int
    prior: str | None = None
    versions: Mapping[str, Any] = _volatile(default_factory=dict)
    hardware: Mapping[str, Any] = _volatile(default_factory=dict)

    @property
    def topic(self) -> str:
        """The run's ``run_id``."""
        return self.run_id


@dataclass(frozen=True, kw_only=True)
class RoundRecord(Record):
    """One turn of the loop and what was decided after it.

    Parameters
    ----------
    run_id : str
    index : int
        0 for the first round of the run.
    metrics : mapping
        Losses and validation scores; nothing that depends on the machine's speed.
    decision : str
        What came of it, for example ``"go on"`` or ``"stop: plateau"``.
    seconds : float, optional
        Wall time. Volatile.
    """

    kind_name = "round"
    belongs_by = ("run_id",)

    run_id: str
    index: int
    metrics: Mapping[str, Any]
    decision: str = ""
    seconds: float | None = _volatile(default=None)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Record):
    """How well one method did on the tasks of one source.

    Parameters
    ----------
    run_id : str
    split : str
        ``"validation"`` or ``"test"``.
    method : str
        A learner or a baseline.
    metric : str
        For example ``"accuracy"``.
    task : str
        Fingerprint of the :class:`TaskRecord`.
    scores : sequence of float
        One for each test task.
    mean : float
    interval : pair of float, or None
        Lower and upper end of the 95 % confidence interval of the mean.
    settings : mapping
        What tells this row from its neighbours, for example ``{"shots": 1, "inner_steps": 5}``.
    round : int, optional
        The round it belongs to; ``None`` for the end of the run.
    seconds : float, optional
        Wall time. Volatile.
    """

    kind_name = "evaluation"
    belongs_by = ("run_id", "task")

    run_id: str
    split: str
    method: str
    metric: str
    task: str
    scores: Sequence[float]
    mean: float
    interval: Sequence[float] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    round: int | None = None
    seconds: float | None = _volatile(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interval is not None and (len(self.interval) != 2 or self.interval[0] > self.interval[1]):
            raise InvalidData(f"EvaluationRecord.interval is {self.interval}; give (lower, upper) or None")


@dataclass(frozen=True, kw_only=True)
class ModelRecord(Record):
    """A saved artifact. The file is written first, then this record.

    Parameters
    ----------
    path : str
        Where it lies, relative to the artifacts' root, with forward slashes. Never absolute, never upwards.
    checksum : str
        SHA-256 of the file, as :func:`tasklore.artifacts.save_artifact` returns it.
    kind : str
        For example ``"prior"`` or ``"predictor"``.
    learner : str
    run_id : str
    task : str, optional
        Fingerprint of the :class:`TaskRecord` that it was learned from.
    metrics : mapping
    """

    kind_name = "model"
    belongs_by = ("run_id", "task")

    path: str
    checksum: str
    kind: str
    learner: str
    run_id: str
    task: str | None = None
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _CHECKSUM.fullmatch(self.checksum):
            raise InvalidData(
                f"ModelRecord.checksum is {self.checksum[:80]!r}; give 64 lower-case hexadecimal digits"
            )
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or set(self.path) & set("\\:") or str(path) in ("", "."):
            raise InvalidData(
                f"ModelRecord.path is {self.path!r}; give a path inside the artifacts' root: relative, "
                "with forward slashes, without .."
            )


@dataclass(frozen=True, kw_only=True)
class EventRecord(Record):
    """Something that happened to a run, a task or a record: the only way in which a status changes.

    The same event about the same subject is one record however often it is added; let ``detail`` tell
    repetitions apart.

    Parameters
    ----------
    subject : str
        A ``run_id``, a task's fingerprint, or the id of a record.
    what : str
        For example ``"finished"`` or ``"interrupted"``; :data:`ERASED` marks a tombstone.
    detail : mapping
    """

    kind_name = "event"
    belongs_by = ("subject",)

    subject: str
    what: str
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])


RECORD_TYPES: tuple[type[Record], ...] = (
    TaskRecord,
    RunRecord,
    RoundRecord,
    EvaluationRecord,
    ModelRecord,
    EventRecord,
)
"""All kinds, in an order in which what is referred to comes first."""


def checked(record_type: type[Record], name: str, value: object) -> Any:
    """Return ``value`` as the field ``name`` of ``record_type`` would hold it.

    Raises
    ------
    UnknownName
        There is no such field.
    InvalidData
        The value cannot be held.
    """
    fields = {field.name: field.type for field in _fields(record_type)}
    if name not in fields:
        raise UnknownName(f"field of {record_type.__name__}", name, fields)
    where = f"{record_type.__name__}.{name}"
    wanted = fields[name]
    if value is None and wanted in (str | None, int | None, float | None, Sequence[float] | None):
        return None
    result = plain(value, where)
    if wanted in (str, str | None):
        return _timestamp(result, where) if name == "created_at" else _text(result, where)
    if wanted in (int, int | None):
        return _integer(result, where)
    if wanted in (float, float | None):
        return _float(result, where)
    if wanted in (Sequence[float], Sequence[float] | None):
        if not isinstance(result, list):
            raise _wrong(result, where, "a sequence of numbers")
        return [_float(item, f"{where}[{index}]") for index, item in enumerate(result)]
    if not isinstance(result, dict):
        raise _wrong(result, where, "a mapping")
    return result


def is_tombstone(record: Record) -> TypeGuard[EventRecord]:
    """Tell whether this is the event that an erasure leaves."""
    return isinstance(record, EventRecord) and record.what == ERASED


def record_from_json(kind_name: str, fields: Json) -> Record:
    """Build a record from what :meth:`Record.to_json` gave.

    Raises
    ------
    UnknownName
        No kind, or no field, has such a name.
    InvalidData
        A field is missing or cannot be held.
    """
    by_name = {record_type.kind_name: record_type for record_type in RECORD_TYPES}
    if kind_name not in by_name:
        raise UnknownName("kind of record", str(kind_name), by_name)
    record_type = by_name[kind_name]
    if not isinstance(fields, dict):
        raise InvalidData(
            f"the fields of a {record_type.__name__} are a {type(fields).__name__}; they must be an object"
        )
    known = [field.name for field in _fields(record_type)]
    for name in fields:
        if name not in known:
            raise UnknownName(f"field of {record_type.__name__}", name, known)
    missing = [name for name in known if name not in fields]
    if missing:
        raise InvalidData(f"a {record_type.__name__} lacks {', '.join(missing)}")
    return record_type(**cast("dict[str, Any]", fields))


@functools.cache
def _fields(record_type: type[Record]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(record_type)


def _wrong(value: Json, where: str, wanted: str) -> InvalidData:
    return InvalidData(f"{where} is {type(value).__name__} {str(value)[:80]!r}; it must be {wanted}")


def _text(value: Json, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, where, "text")
    if len(value) > MAX_NAME:
        raise InvalidData(f"{where} has {len(value):,} characters; the limit is {MAX_NAME}")
    return value


def _timestamp(value: Json, where: str) -> str:
    text = _text(value, where)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidData(
            f"{where} is {text[:80]!r}; give ISO 8601, for example 2031-05-07T12:00:00+00:00"
        ) from None
    if moment.tzinfo is None:
        raise InvalidData(f"{where} is {text!r}, without a time zone; add one, for example +00:00")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _integer(value: Json, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_INTEGER:
        raise _wrong(value, where, "an integer of at most 63 bits")
    return value


def _float(value: Json, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(value, where, "a number")
    return float(value)
