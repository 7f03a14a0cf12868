"""The file that stores exchange: JSON lines, each with its own checksum.

The first line says what the file is, the last one how many records there are, so that a file cut short is
noticed even where it was cut between two lines::

    {"format":"tasklore experience","schema":1}
    {"checksum":"…","kind":"task","record":{…}}
    …
    {"records":1}
"""

from collections.abc import Iterable
from pathlib import Path
from typing import IO

from ..canonical import MAX_CHARACTERS, Json, dumps, loads
from ..errors import InvalidData, InvalidSetting, StoreError
from ..files import replacing
from .records import Record, record_from_json

__all__ = ["read", "write"]

FORMAT = "tasklore experience"
SCHEMA = 1

_MAX_LINE = MAX_CHARACTERS + 1024


def write(path: Path, records: Iterable[Record]) -> None:
    """Write ``records`` to ``path``, whole or not at all.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    try:
        with replacing(path) as file:
            _write_lines(file, records)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StoreError(f"the export cannot be written to {str(path)!r}: {_reason(error)}") from error


def _write_lines(file: IO[bytes], records: Iterable[Record]) -> None:
    count = 0
    _write_line(file, {"format": FORMAT, "schema": SCHEMA})
    for record in records:
        _write_line(file, {"checksum": record.seal, "kind": record.kind_name, "record": record.to_json()})
        count += 1
    _write_line(file, {"records": count})


def _write_line(file: IO[bytes], value: Json) -> None:
    file.write(dumps(value).encode("ascii") + b"\n")


def read(path: Path) -> list[Record]:
    """Read an exported file, all of it, or fail.

    Raises
    ------
    StoreError
        It cannot be read, is no such file, comes from a newer version, or is damaged; the message names the
        line.
    """
    try:
        with path.open("rb") as file:
            return _read_lines(file, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StoreError(f"{str(path)!r} cannot be read: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    """Return what the system says, without the name of the file, which may be a temporary one."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _read_lines(file: IO[bytes], path: Path) -> list[Record]:
    header = _read_line(file, path, 1)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(
            f"{path} is not an export of an experience store; make one with `tasklore lore export`"
        )
    schema = header.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise StoreError(f"{path}, line 1: the schema is {schema!r}, which never existed")
    if schema > SCHEMA:
        raise StoreError(
            f"{path} has schema {schema}, this version of Tasklore reads up to {SCHEMA}; upgrade Tasklore"
        )
    records: list[Record] = []
    while True:
        number = len(records) + 2
        line = _read_line(file, path, number)
        if isinstance(line, dict) and line.keys() == {"records"}:
            break
        records.append(_record(line, f"{path}, line {number}"))
    if line["records"] != len(records):
        raise StoreError(
            f"{path} should have {line['records']} records and has {len(records)}; nothing was merged"
        )
    if file.read(1):
        raise StoreError(f"{path}, line {number + 1}: there is more after the last line; nothing was merged")
    return records


def _read_line(file: IO[bytes], path: Path, number: int) -> Json:
    line = file.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        what = "is too long" if len(line) == _MAX_LINE else "is cut short"
        raise StoreError(f"{path}, line {number}: the file {what}; nothing was merged")
    try:
        return loads(line, "the line", _MAX_LINE)
    except InvalidData as error:
        raise StoreError(f"{path}, line {number}: {error}; nothing was merged") from error


def _record(line: Json, where: str) -> Record:
    if not isinstance(line, dict) or line.keys() != {"checksum", "kind", "record"}:
        raise StoreError(f"{where}: this is not a record with a checksum; nothing was merged")
    try:
        record = record_from_json(str(line["kind"]), line["record"])
    except (InvalidData, InvalidSetting) as error:
        raise StoreError(f"{where}: {error}; nothing was merged") from error
    if record.seal != line["checksum"]:
        raise StoreError(
            f"{where}: the record does not match its checksum, so it was altered; nothing was merged"
        )
    return record
