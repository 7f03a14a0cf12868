"""The experience store's contract, and how one is opened.

A store only ever grows: ``add``, ``get``, ``find``, ``nearest``. There is no verb that changes a record; a
new status is a new :class:`~tasklore.experience.records.EventRecord`. The one exception is ``erase``, which
leaves a tombstone so that what was erased stays erased, here and in every store this one is merged into.
"""

import abc
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from ..errors import InvalidData, InvalidSetting, StoreError
from . import exchange, similarity, verification
from .records import (
    ERASED,
    PURGED,
    RECORD_TYPES,
    EventRecord,
    ModelRecord,
    Record,
    TaskRecord,
    is_tombstone,
)
from .similarity import Neighbour

__all__ = ["ExperienceStore", "Merged", "open_store", "user_folder"]

R = TypeVar("R", bound=Record)

_SHORTEST_PREFIX = 8


class Merged(NamedTuple):
    """What :meth:`ExperienceStore.merge` did with the records of a file.

    Attributes
    ----------
    added : int
        Records that were new here.
    kept_out : int
        Records already here, or erased here.
    """

    added: int
    kept_out: int


class ExperienceStore(abc.ABC):
    """Memory of tasks, runs, rounds, evaluations, models and events.

    Promises, kept by every implementation and tested by :class:`tasklore.testing.store.StoreContract`:

    * *Durable*: when ``add`` or ``add_all`` returns, the records survive a crash.
    * *Atomic*: ``add_all`` stores all of its records or none.
    * *Idempotent*: adding a record that is there changes nothing; of its volatile fields, the first ones
      stay.
    * *Shared*: threads and processes, also forked ones, may use the same store at once; waiting for one
      another is the store's business and never an error for the caller within its patience.
    * *Erased stays erased*: adding a record that was erased returns its id and stores nothing.
    * *One*: a copy of a store is the store itself, so that estimators that hold one can be cloned.
    """

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """Where the store lies, to show to people; without any password."""

    @abc.abstractmethod
    def find(
        self,
        record_type: type[R],
        where: Mapping[str, Any] | None = None,
        *,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[R]:
        """Return the records of one kind whose fields have the given values.

        Parameters
        ----------
        record_type : type
            For example :class:`~tasklore.experience.records.ModelRecord`.
        where : mapping, optional
            Field names and the values they must equal; ``None`` matches ``None``.
        newest_first : bool
            Order by ``created_at``, then by the order of adding; oldest first by default.
        limit : int, optional
            The most that is wanted.

        Raises
        ------
        UnknownName
            There is no such field.
        StoreError
            The store cannot be read, or a record in it was altered from outside.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of files and connections. Closing twice does no harm; using a closed store is an error."""

    @abc.abstractmethod
    def _write(self, records: list[Record]) -> int:
        """Store in one transaction what is neither there nor erased; return how many were new.

        Tombstones among them take effect first: what they name is purged.
        """

    @abc.abstractmethod
    def _with_prefix(self, prefix: str) -> list[Record]:
        """Return up to two records whose id starts with ``prefix``, hexadecimal digits all of them."""

    @abc.abstractmethod
    def _survey(self) -> tuple[list[Record], list[str]]:
        """Return all readable records, in the order of ``RECORD_TYPES``, and a line for each fault found."""

    def add(self, record: Record) -> str:
        """Store one record and return its id.

        Raises
        ------
        StoreError
            The store cannot be written.
        """
        return self.add_all([record])[0]

    def add_all(self, records: Iterable[Record]) -> list[str]:
        """Store all records, or none if that fails, and return their ids in the same order."""
        batch = list(records)
        for record in batch:
            if type(record) not in RECORD_TYPES:
                known = ", ".join(record_type.__name__ for record_type in RECORD_TYPES)
                raise InvalidData(f"a store holds {known}; it was given a {type(record).__name__}")
        self._write(batch)
        return [record.id for record in batch]

    def get(self, record_id: str) -> Record:
        """Return one record.

        Parameters
        ----------
        record_id : str
            Its id, or the first eight or more digits of it if no other record starts with them.

        Raises
        ------
        InvalidSetting
            That is not the id of any record.
        StoreError
            There is none, it was erased, or several start with these digits.
        """
        prefix = record_id.strip().lower()
        if len(prefix) < _SHORTEST_PREFIX or not set(prefix) <= set("0123456789abcdef"):
            raise InvalidSetting(
                f"{record_id[:80]!r} is not the id of a record; give at least {_SHORTEST_PREFIX} of its "
                "hexadecimal digits"
            )
        found = self._with_prefix(prefix)
        if len(found) > 1:
            raise StoreError(f"several records start with {prefix}; give more digits")
        if found:
            return found[0]
        tombstones = self.find(EventRecord, {"subject": prefix, "what": ERASED})
        if tombstones:
            raise StoreError(
                f"record {prefix} was erased: {tombstones[0].detail.get('reason') or 'no reason given'}"
            )
        raise StoreError(f"no record here has the id {prefix}")

    def nearest(self, query: TaskRecord | Mapping[str, Any], k: int = 5) -> list[Neighbour]:
        """Return the remembered tasks most like a given one, nearest first.

        Parameters
        ----------
        query : TaskRecord or mapping
            A task (which need not be in the store; if it is, it is its own nearest), or a descriptor alone.
        k : int
            At most so many.

        See Also
        --------
        tasklore.experience.similarity : The distance.
        """
        if k < 1:
            raise InvalidSetting(f"k must be at least 1, got {k}")
        return similarity.rank(query, self.find(TaskRecord), k)

    def erase(self, record_id: str, reason: str) -> list[Record]:
        """Purge a record and all that belongs to it, and leave a tombstone.

        With a run go its rounds, evaluations, models and events; with a task, its evaluations and models.

        Parameters
        ----------
        record_id : str
            As for :meth:`get`.
        reason : str
            Kept in the tombstone.

        Returns
        -------
        list of Record
            What was purged: the artifacts of the models among them are the caller's to delete.

        Raises
        ------
        StoreError
            There is no such record, or it is a tombstone itself.
        """
        record = self.get(record_id)
        if is_tombstone(record):
            raise StoreError(
                f"record {record.id} is a tombstone; erasing it would bring back what was erased"
            )
        doomed = [other for other in self._survey()[0] if record.topic in other.topics]
        models = [other.id for other in doomed if isinstance(other, ModelRecord)]
        detail = {"kind": record.kind_name, "reason": reason, PURGED: models}
        self._write([EventRecord(subject=record.topic, what=ERASED, detail=detail)])
        return doomed

    def export(self, path: str | Path) -> int:
        """Write every record to a file that :meth:`merge` reads; return their number.

        The file is written under a temporary name and renamed, so that it is whole or absent.
        """
        records, faults = self._survey()
        if faults:
            raise StoreError(f"{self.location} is damaged and was not exported: {'; '.join(faults[:3])}")
        exchange.write(Path(path), records)
        return len(records)

    def merge(self, path: str | Path) -> Merged:
        """Add every record of an exported file: the union of both, by id.

        Nothing is lost and nothing doubled, in whichever order stores are merged; what was erased on either
        side is erased in the union.

        Raises
        ------
        StoreError
            The file is damaged; the message names the line, and nothing was merged.
        """
        records = exchange.read(Path(path))
        added = self._write(list(records))
        return Merged(added, len(records) - added)

    def verify(self, artifacts_root: str | Path | None = None) -> list[str]:
        """Look for faults: altered rows, references to nothing, artifacts that are missing or altered.

        Parameters
        ----------
        artifacts_root : path, optional
            The folder that the paths of model records start from; without it, files are not looked at.

        Returns
        -------
        list of str
            One line for each fault; empty if all is well.
        """
        records, faults = self._survey()
        faults += verification.dangling_references(records)
        if artifacts_root is not None:
            faults += verification.faulty_artifacts(records, Path(artifacts_root))
        return faults

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def user_folder() -> Path:
    """Return where a user's own experience lies: ``$TASKLORE_HOME``, or else the system's place for data."""
    if home := os.environ.get("TASKLORE_HOME"):
        return Path(home).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "tasklore"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tasklore"


def open_store(where: str | Path | None = None, *, patience: float = 60.0) -> ExperienceStore:
    """Open a store, creating or upgrading it as needed.

    Parameters
    ----------
    where : str or path, optional
        ``None``: the user's own (``lore.db`` in :func:`user_folder`). ``"memory:"``: forgotten on closing. A
        path or ``"sqlite:///PATH"``: an SQLite file. ``"postgresql://USER:PASSWORD@HOST/DATABASE"``: one that
        a team shares.
    patience : float
        Seconds to wait for other writers, or for a server that is starting, before giving up.

    Raises
    ------
    InvalidSetting
        The address is of no known form.
    StoreError
        What lies there cannot be opened, is damaged, belongs to another program, or was written by a newer
        version.
    MissingDependency
        PostgreSQL is asked for and its driver is not installed.
    """
    if where is None:
        where = user_folder() / "lore.db"
    # Imported here, because both modules build on this one and because SQLAlchemy takes a while to import.
    if where == "memory:":
        from .memory import MemoryStore

        return MemoryStore()
    from .sql import SqlStore

    return SqlStore(where, patience=patience)
