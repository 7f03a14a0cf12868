"""The store in a database: SQLite for one machine, PostgreSQL for a team."""

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..canonical import MAX_CHARACTERS, dumps, loads
from ..errors import InvalidData, InvalidSetting, MissingDependency, StoreError
from . import migrations
from .records import ERASED, RECORD_TYPES, EventRecord, Record, checked, is_tombstone
from .store import ExperienceStore

__all__ = ["SqlStore"]

R = TypeVar("R", bound=Record)
T = TypeVar("T")

_ERASURE_LOCK = 7_290_655_000_000_002
_CHUNK = 500  # values in one IN (…): well below every back end's limit
_SQLITE_BUSY = {5, 6, 15}  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL: somebody else is at it, try again
_POSTGRES_PASSING = {
    "40001",  # serialization failure
    "40P01",  # deadlock
    "53300",  # too many connections
    "55P03",  # lock not available
    "57P01",  # server is shutting down
    "57P03",  # server is starting
}
_READ, _WRITE, _BARE = (
    "BEGIN",
    "BEGIN IMMEDIATE",
    "",
)  # how SQLite begins; a read that turned into a write could fail
_SQLITE_ADVICE = {
    3: "check its permissions",
    5: "another process keeps it locked: end that one, or try again",
    6: "another process keeps it locked: end that one, or try again",
    8: "it is read-only: check its permissions and those of its folder",
    11: "the file is damaged: restore a copy",
    13: "the disk is full: make room",
    14: "the file cannot be opened: check the path and its permissions",
    26: "it is no SQLite database: give another path",
}
_COLUMN_TYPES: dict[Any, type[sa.types.TypeEngine[Any]]] = {  # all other fields are stored as JSON text
    str: sa.Text,
    str | None: sa.Text,
    int: sa.BigInteger,
    int | None: sa.BigInteger,
    float: sa.Double,
    float | None: sa.Double,
}


def _table(record_type: type[Record], metadata: sa.MetaData) -> sa.Table:
    columns = [sa.Column(field.name, _COLUMN_TYPES.get(field.type, sa.Text)) for field in fields(record_type)]
    return sa.Table(
        f"{migrations.TABLE_PREFIX}{record_type.kind_name}",
        metadata,
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("id", sa.Text),
        sa.Column("seal", sa.Text),
        *columns,
    )


_METADATA = sa.MetaData()
_TABLES = {record_type: _table(record_type, _METADATA) for record_type in RECORD_TYPES}
_JSON_FIELDS = {
    record_type: {field.name for field in fields(record_type) if field.type not in _COLUMN_TYPES}
    for record_type in RECORD_TYPES
}


_open_stores: "weakref.WeakSet[SqlStore]" = weakref.WeakSet()
_put_down: "list[SqlStore]" = []  # during a fork


class SqlStore(ExperienceStore):
    """The contract on SQLAlchemy Core; addresses and errors: :func:`~tasklore.experience.store.open_store`.

    One connection, guarded by a lock, serves all threads of a process. It is put down before a fork, because
    neither SQLite nor PostgreSQL survives one, and taken up again on either side when needed.
    """

    def __init__(self, where: str | Path, *, patience: float = 60.0) -> None:
        if not patience >= 0:
            raise InvalidSetting(f"patience is a number of seconds, got {patience}")
        self._patience = patience
        self._url = _address(where)
        self._lock = threading.RLock()
        self._ready = False
        self._closed = False
        self._engine = self._make_engine()
        weakref.finalize(self, self._engine.dispose)
        _open_stores.add(self)
        self._open()

    def __reduce__(self) -> tuple[Callable[[str | Path, float], "SqlStore"], tuple[str | Path, float]]:
        """Pickle the address, not the connection: the store is opened again where it is needed."""
        if self._url.password or "password" in self._url.query:
            raise StoreError(
                f"the store at {self.location} cannot be sent to another process or pickled, as its address "
                "holds a password; keep that in ~/.pgpass instead, or use n_jobs=1"
            )
        in_a_file = self._url.get_backend_name() == "sqlite" and not self._url.query
        where = Path(str(self._url.database)) if in_a_file else self._url.render_as_string()
        return _opened, (where, self._patience)

    @staticmethod
    def put_all_down() -> None:
        """Before a fork: wait for operations under way, and leave no connection to be inherited."""
        _put_down[:] = _open_stores
        for store in _put_down:
            store._lock.acquire()
            store._engine.dispose()

    @staticmethod
    def take_all_up() -> None:
        """After a fork, on either side: let operations go on."""
        for store in _put_down:
            store._lock.release()
        _put_down.clear()

    def _open(self) -> None:
        version = self._run(
            migrations.installed_version
        )  # first, as nothing may touch another program's file
        if self._url.get_backend_name() == "sqlite":
            self._run(self._switch_to_write_ahead_log, _BARE)
        if version < migrations.LATEST:
            self._run(migrations.upgrade, _WRITE)
        self._run(self._check_tables)
        self._ready = True

    @property
    def location(self) -> str:
        """The path of the file, or the server's address without user and password."""
        if self._url.get_backend_name() == "sqlite":
            return str(self._url.database)
        port = f":{self._url.port}" if self._url.port else ""
        return f"postgresql://{self._url.host or 'localhost'}{port}/{self._url.database or ''}"

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
        table = _TABLES[record_type]
        query = sa.select(table)
        for name, value in (where or {}).items():
            wanted = checked(record_type, name, value)
            if name in _JSON_FIELDS[record_type] and wanted is not None:
                wanted = dumps(wanted)
            query = query.where(table.c[name].is_(None) if wanted is None else table.c[name] == wanted)
        order = [table.c.created_at, table.c.sequence]
        query = query.order_by(*(column.desc() if newest_first else column for column in order)).limit(limit)
        rows = self._run(lambda connection: connection.execute(query).mappings().all())
        return [self._decode(record_type, row) for row in rows]

    def close(self) -> None:
        """Close the connection; committed records stay."""
        with self._lock:
            self._closed = True
            self._engine.dispose()

    # -- what the contract asks of an implementation

    def _write(self, records: list[Record]) -> int:
        tombstones = [record for record in records if is_tombstone(record)]

        def work(connection: sa.Connection) -> int:
            self._guard_erasures(connection, exclusive=bool(tombstones))
            erased = self._erased_among(connection, {topic for record in records for topic in record.topics})
            erased |= {record.subject for record in tombstones}
            n_new = self._insert(connection, tombstones)
            if n_new:
                self._purge(connection, {record.subject for record in tombstones})
            lasting = [
                record for record in records if not is_tombstone(record) and erased.isdisjoint(record.topics)
            ]
            return n_new + self._insert(connection, lasting)

        n_new = self._run(work, _WRITE)
        if tombstones and self._url.get_backend_name() == "sqlite":
            # Whoever closes last folds in the write-ahead log, where purged rows still lie.
            self._engine.dispose()
        return n_new

    def _with_prefix(self, prefix: str) -> list[Record]:
        def work(connection: sa.Connection) -> list[tuple[type[Record], sa.RowMapping]]:
            found: list[tuple[type[Record], sa.RowMapping]] = []
            for record_type, table in _TABLES.items():
                rows = connection.execute(
                    sa.select(table).where(table.c.id.startswith(prefix)).limit(2)
                ).mappings()
                found += [(record_type, row) for row in rows]
            return found[:2]

        return [self._decode(record_type, row) for record_type, row in self._run(work)]

    def _survey(self) -> tuple[list[Record], list[str]]:
        return self._run(self._read_everything)

    def _read_everything(self, connection: sa.Connection) -> tuple[list[Record], list[str]]:
        faults: list[str] = []
        if connection.dialect.name == "sqlite":
            reports = connection.exec_driver_sql("PRAGMA quick_check").scalars().all()
            faults += [f"SQLite reports: {report}" for report in reports if report != "ok"]
        records: list[Record] = []
        for record_type, table in _TABLES.items():
            for row in connection.execute(sa.select(table).order_by(table.c.sequence)).mappings():
                try:
                    records.append(self._decode(record_type, row))
                except StoreError as error:
                    faults.append(str(error))
        return records, faults

    def _guard_erasures(self, connection: sa.Connection, exclusive: bool) -> None:
        """Let an erasure and additions wait for one another, so that nothing slips in beside it."""
        if connection.dialect.name == "postgresql":  # in SQLite, writers exclude one another anyway
            shared = "" if exclusive else "_shared"
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock{shared}(:key)"), {"key": _ERASURE_LOCK})

    def _erased_among(self, connection: sa.Connection, topics: set[str]) -> set[str]:
        events = _TABLES[EventRecord].c
        erased: set[str] = set()
        for chunk in _chunks(topics):
            query = sa.select(events.subject).where(events.what == ERASED, events.subject.in_(chunk))
            erased.update(connection.execute(query).scalars())
        return erased

    def _purge(self, connection: sa.Connection, topics: set[str]) -> None:
        for record_type, table in _TABLES.items():
            for chunk in _chunks(topics):
                named = [table.c[name].in_(chunk) for name in ("id", *record_type.belongs_by)]
                condition = sa.or_(*named)
                if record_type is EventRecord:
                    condition &= table.c.what != ERASED
                connection.execute(sa.delete(table).where(condition))

    def _insert(self, connection: sa.Connection, records: Iterable[Record]) -> int:
        rows: dict[type[Record], list[dict[str, Any]]] = {}
        for record in records:
            rows.setdefault(type(record), []).append(_encode(record))
        n_new = 0
        for record_type, values in rows.items():
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            table = _TABLES[record_type]
            statement = insert(table).on_conflict_do_nothing(index_elements=["id"]).returning(table.c.id)
            n_new += len(connection.execute(statement, values).all())
        return n_new

    def _decode(self, record_type: type[R], row: sa.RowMapping) -> R:
        where = f"row {row['sequence']} of table {_TABLES[record_type].name} in {self.location}"
        try:
            record = record_type(
                **{name: _read_column(record_type, name, row[name]) for name in _names(record_type)}
            )
        except InvalidData as error:
            raise StoreError(f"{where} was altered from outside: {error}; restore a copy") from error
        if (record.id, record.seal) != (row["id"], row["seal"]):
            raise StoreError(
                f"{where} was altered from outside: it does not match its checksum; restore a copy"
            )
        return record

    # -- connections

    def _make_engine(self) -> sa.Engine:
        if self._url.get_backend_name() == "postgresql":
            defaults = {"connect_timeout": 10, "application_name": "tasklore"}
            arguments: dict[str, Any] = {
                name: value for name, value in defaults.items() if name not in self._url.query
            }
            try:
                return sa.create_engine(self._url, connect_args=arguments, pool_size=1, max_overflow=0)
            except ImportError as error:
                raise MissingDependency(
                    "a PostgreSQL store needs its driver: install tasklore[postgres]"
                ) from error
        _make_folder(self._url)
        arguments = {"timeout": min(self._patience, 5.0), "check_same_thread": False}
        engine = sa.create_engine(
            self._url, connect_args=arguments, pool_size=1, max_overflow=0, poolclass=sa.QueuePool
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _run(self, work: Callable[[sa.Connection], T], mode: str = _READ) -> T:
        """Do ``work`` in one transaction, again and again while others are in the way, until patience ends.

        Repeating is harmless even where it is unknown whether a commit got through, as adding is idempotent.
        """
        deadline = time.monotonic() + self._patience
        pause = 0.01
        while True:
            with self._lock:
                if self._closed:
                    raise StoreError(f"the store at {self.location} was closed; open it again")
                try:
                    return self._attempt(work, mode)
                except DBAPIError as error:
                    if not self._is_passing(error) or time.monotonic() > deadline:
                        raise self._explained(error) from None  # the cause could carry a password
                except SQLAlchemyError as error:
                    raise self._explained(error) from None
                except StoreError as error:
                    raise StoreError(f"the store at {self.location} cannot be used: {error}") from error
            time.sleep(
                pause * random.uniform(0.5, 1.5)
            )  # outside the lock; uneven, so that rivals do not march in step
            pause = min(2 * pause, 0.5)

    def _attempt(self, work: Callable[[sa.Connection], T], mode: str) -> T:
        options: dict[str, Any] = {"begin": mode}
        if self._url.get_backend_name() == "postgresql":
            options["isolation_level"] = "READ COMMITTED" if mode == _WRITE else "REPEATABLE READ"
        with self._engine.connect().execution_options(**options) as connection, connection.begin():
            return work(connection)

    def _is_passing(self, error: DBAPIError) -> bool:
        """Tell whether the same attempt may succeed later."""
        if self._url.get_backend_name() == "sqlite":
            return _sqlite_code(error) in _SQLITE_BUSY
        state = getattr(error.orig, "sqlstate", None)
        if state is not None:
            return state in _POSTGRES_PASSING or state.startswith("08")  # 08…: connection lost
        # Without a state, the connection failed: at first a wrong address, later a passing interruption.
        return self._ready or "starting up" in str(error.orig)

    def _explained(self, error: SQLAlchemyError) -> StoreError:
        detail = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
        for secret in (self._url.password, *self._url.normalized_query.get("password", ())):
            detail = detail.replace(str(secret), "***") if secret else detail
        advice = "check the address, and that the server runs and lets this user in"
        if self._url.get_backend_name() == "sqlite":
            code = _sqlite_code(error) if isinstance(error, DBAPIError) else None
            advice = _SQLITE_ADVICE.get(code or 0, "check the disk and the path")
        return StoreError(f"the store at {self.location} cannot be used: {detail}; {advice}")

    def _switch_to_write_ahead_log(self, connection: sa.Connection) -> None:
        """Let readers and a writer work side by side; where a file system cannot, they take turns."""
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL").all()

    def _check_tables(self, connection: sa.Connection) -> None:
        present = sa.inspect(connection)
        names = set(present.get_table_names())
        for table in _TABLES.values():
            if table.name not in names:
                raise StoreError(f"its table {table.name} is missing: restore a copy")
            lacking = set(table.c.keys()) - {column["name"] for column in present.get_columns(table.name)}
            if lacking:
                raise StoreError(f"its table {table.name} lacks {', '.join(sorted(lacking))}: restore a copy")


def _opened(where: str | Path, patience: float) -> SqlStore:
    return SqlStore(where, patience=patience)


def _address(where: str | Path) -> sa.URL:
    if isinstance(where, Path) or "://" not in where:
        path = os.path.abspath(os.path.expanduser(where))
        return sa.URL.create("sqlite", database=path)
    scheme = where.partition("://")[0]
    known = "use a path, sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE or memory:"
    if scheme not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise InvalidSetting(f"no store is known for {scheme[:40]!r} addresses; {known}")
    try:
        url = sa.make_url(where)
    except (SQLAlchemyError, ValueError):
        raise InvalidSetting(
            f"this {scheme} address cannot be read (it is not shown, as it may hold a password); {known}"
        ) from None
    if scheme != "sqlite":
        return url.set(drivername="postgresql+psycopg")
    if url.database in (None, "", ":memory:"):
        raise InvalidSetting("sqlite without a file forgets everything; use memory: if that is meant")
    return url


def _make_folder(url: sa.URL) -> None:
    database = str(url.database)
    if database.startswith("file:"):  # an SQLite URI, whose writer knows what lies there
        return
    path = Path(database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {path.parent} cannot be made: {error.strerror}; give another path"
        ) from error
    if path.exists() and not path.is_file():
        raise StoreError(
            f"{path} is not a file; give the path of a database file, for example {path / 'lore.db'}"
        )


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: _begin_sqlite does
    connection.execute("PRAGMA synchronous=FULL")  # durable on return, also when the power fails
    connection.execute("PRAGMA secure_delete=ON")  # what is erased is overwritten


def _begin_sqlite(connection: sa.Connection) -> None:
    statement = connection.get_execution_options().get("begin")
    if statement:
        connection.exec_driver_sql(statement)


def _sqlite_code(error: DBAPIError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None)  # absent on errors of the driver itself
    return None if code is None else code & 0xFF


def _names(record_type: type[Record]) -> list[str]:
    return [field.name for field in fields(record_type)]


def _encode(record: Record) -> dict[str, Any]:
    json_fields = _JSON_FIELDS[type(record)]
    values = {
        name: dumps(value) if name in json_fields and value is not None else value
        for name, value in record.to_json().items()
    }
    return {"id": record.id, "seal": record.seal, **values}


def _read_column(record_type: type[Record], name: str, value: Any) -> Any:
    if value is None or name not in _JSON_FIELDS[record_type]:
        return value
    if not isinstance(value, str):
        raise InvalidData(f"column {name} holds a {type(value).__name__}, not JSON text")
    return loads(value, f"column {name}", max_characters=2 * MAX_CHARACTERS)


def _chunks(topics: Iterable[str]) -> Iterable[list[str]]:
    ordered = sorted(topics)
    return (ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK))


if os.name != "nt":  # Windows does not fork
    os.register_at_fork(
        before=SqlStore.put_all_down,
        after_in_parent=SqlStore.take_all_up,
        after_in_child=SqlStore.take_all_up,
    )
