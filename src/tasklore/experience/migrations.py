"""The numbered steps by which a database reaches its present form.

A step, once released, is never edited: to change the form, append another. Steps are plain SQL, the same for
every back end, and are not derived from the record classes, which may have moved on since.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, inspect, text

from ..errors import StoreError

__all__ = ["LATEST", "MIGRATIONS", "TABLE_PREFIX", "installed_version", "upgrade"]

TABLE_PREFIX = "lore_"

_LEDGER = f"{TABLE_PREFIX}migration"
_UPGRADE_LOCK = (
    7_290_655_000_000_001  # any number that no other program is likely to use as its advisory lock
)


def create_tables(connection: Connection) -> None:
    """One table for each kind of record: place in the order of adding, id, seal, and the kind's fields."""
    sequence = {
        "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    }[connection.dialect.name]
    shared = f"""
        "sequence" {sequence}, "id" TEXT NOT NULL UNIQUE, "seal" TEXT NOT NULL, "created_at" TEXT NOT NULL"""
    for kind, fields in {
        "task": """
            "fingerprint" TEXT NOT NULL, "kind" TEXT NOT NULL, "name" TEXT NOT NULL,
            "descriptor" TEXT NOT NULL""",
        "run": """
            "run_id" TEXT NOT NULL, "config" TEXT NOT NULL, "seed" BIGINT NOT NULL, "prior" TEXT,
            "versions" TEXT NOT NULL, "hardware" TEXT NOT NULL""",
        "round": """
            "run_id" TEXT NOT NULL, "index" BIGINT NOT NULL, "metrics" TEXT NOT NULL,
            "decision" TEXT NOT NULL, "seconds" DOUBLE PRECISION""",
        "evaluation": """
            "run_id" TEXT NOT NULL, "split" TEXT NOT NULL, "method" TEXT NOT NULL, "metric" TEXT NOT NULL,
            "task" TEXT NOT NULL, "scores" TEXT NOT NULL, "mean" DOUBLE PRECISION NOT NULL, "interval" TEXT,
            "settings" TEXT NOT NULL, "round" BIGINT, "seconds" DOUBLE PRECISION""",
        "model": """
            "path" TEXT NOT NULL, "checksum" TEXT NOT NULL, "kind" TEXT NOT NULL, "learner" TEXT NOT NULL,
            "run_id" TEXT NOT NULL, "task" TEXT, "metrics" TEXT NOT NULL""",
        "event": """
            "subject" TEXT NOT NULL, "what" TEXT NOT NULL, "detail" TEXT NOT NULL""",
    }.items():
        connection.execute(text(f"CREATE TABLE {TABLE_PREFIX}{kind} ({shared}, {fields})"))


def index_look_ups(connection: Connection) -> None:
    """Indexes on what records are most often found by."""
    for kind, field in (
        ("task", "fingerprint"),
        ("run", "run_id"),
        ("round", "run_id"),
        ("evaluation", "run_id"),
        ("evaluation", "task"),
        ("model", "run_id"),
        ("model", "task"),
        ("event", "subject"),
    ):
        name = f"{TABLE_PREFIX}{kind}_by_{field}"
        connection.execute(text(f'CREATE INDEX {name} ON {TABLE_PREFIX}{kind} ("{field}")'))


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (create_tables, index_look_ups)
"""In order; the first one is number 1."""

LATEST = len(MIGRATIONS)


def installed_version(connection: Connection) -> int:
    """Return the number of the last migration that this database went through; 0 for an empty one.

    Raises
    ------
    StoreError
        It belongs to another program, is incomplete, or comes from a newer version of Tasklore.
    """
    names = set(inspect(connection).get_table_names())
    if _LEDGER in names:
        numbers = list(
            connection.execute(text(f'SELECT "number" FROM {_LEDGER} ORDER BY "number"')).scalars()
        )
        if numbers != list(range(1, len(numbers) + 1)):
            raise StoreError(
                f"the list of migrations is {numbers}, with gaps: restore this database from a copy"
            )
        if len(numbers) > LATEST:
            raise StoreError(
                f"it is at migration {len(numbers)}, and this Tasklore knows {LATEST}: upgrade Tasklore"
            )
        return len(numbers)
    ours = sorted(name for name in names if name.startswith(TABLE_PREFIX))
    if ours:
        raise StoreError(
            f"it has {', '.join(ours)} but no {_LEDGER}: it is damaged, or belongs to another program"
        )
    if names and connection.dialect.name == "sqlite":  # a server's database may be shared; a file is not
        foreign = ", ".join(sorted(names)[:5])
        raise StoreError(f"it belongs to another program (its tables are {foreign}): give another path")
    return 0


def upgrade(connection: Connection, target: int = LATEST) -> None:
    """Bring the database to ``target``, inside the caller's transaction.

    Several processes may try at once: the others wait for the first, and then find nothing left to do.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    version = installed_version(connection)
    if version == 0:
        columns = '"number" INTEGER PRIMARY KEY, "applied_at" TEXT NOT NULL'
        connection.execute(text(f"CREATE TABLE {_LEDGER} ({columns})"))
    for number in range(version + 1, target + 1):
        MIGRATIONS[number - 1](connection)
        connection.execute(
            text(f'INSERT INTO {_LEDGER} ("number", "applied_at") VALUES (:number, :now)'),
            {"number": number, "now": datetime.now(UTC).isoformat()},
        )
