"""A store that lives and dies with the process."""

import threading
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from ..canonical import Json, dumps
from ..errors import InvalidSetting, StoreError
from .records import RECORD_TYPES, Record, checked, is_tombstone
from .store import ExperienceStore

__all__ = ["MemoryStore"]

R = TypeVar("R", bound=Record)


class MemoryStore(ExperienceStore):
    """The contract in its simplest form, for trials and tests; nothing reaches the disk."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}  # in the order of adding
        self._lock = threading.Lock()
        self._closed = False

    def __reduce__(self) -> NoReturn:
        raise StoreError(
            "a store in memory cannot be sent to another process or pickled; use one in a file, or n_jobs=1"
        )

    @property
    def location(self) -> str:
        """``memory:``."""
        return "memory:"

    def find(
        self,
        record_type: type[R],
        where: Mapping[str, Any] | None = None,
        *,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[R]:
        """See :meth:`ExperienceStore.find`."""
        if limit is not None and limit < 1:
            raise InvalidSetting(f"limit must be at least 1, got {limit}")
        wanted = {name: checked(record_type, name, value) for name, value in (where or {}).items()}
        found = [
            record
            for record in self._all()
            if isinstance(record, record_type)
            and all(_same(getattr(record, name), value) for name, value in wanted.items())
        ]
        if newest_first:
            found.reverse()
        found.sort(key=lambda record: record.created_at, reverse=newest_first)
        return found[:limit]

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._records.clear()

    def _all(self) -> list[Record]:
        with self._lock:
            self._stay_open()
            return list(self._records.values())

    def _stay_open(self) -> None:
        if self._closed:
            raise StoreError("this store was closed; open it again")

    def _write(self, records: list[Record]) -> int:
        with self._lock:
            self._stay_open()
            kept = dict(self._records)
            kept.update(
                (record.id, record) for record in records if is_tombstone(record) and record.id not in kept
            )
            erased = {record.subject for record in kept.values() if is_tombstone(record)}
            for record in records:
                kept.setdefault(record.id, record)
            kept = {
                key: record
                for key, record in kept.items()
                if is_tombstone(record) or erased.isdisjoint(record.topics)
            }
            n_new = len(kept.keys() - self._records.keys())
            self._records = kept
        return n_new

    def _with_prefix(self, prefix: str) -> list[Record]:
        return [record for record in self._all() if record.id.startswith(prefix)][:2]

    def _survey(self) -> tuple[list[Record], list[str]]:
        return sorted(self._all(), key=lambda record: RECORD_TYPES.index(type(record))), []


def _same(one: Json, other: Json) -> bool:
    if isinstance(one, dict | list) or isinstance(other, dict | list):
        return dumps(one) == dumps(other)  # tells 1 from 1.0 and from true, as a database's text column does
    return one == other
