"""Every way we know in which an artifact, a database or an exported file can be wrong."""

import json
import os
import pickle
import sqlite3
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest
import safetensors.torch
import torch

from tasklore import artifacts
from tasklore.artifacts import load_artifact, save_artifact
from tasklore.errors import DamagedArtifact, StoreError
from tasklore.experience import RunRecord, open_store
from tasklore.testing.store import everything

TENSORS = {"net.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4), "net.bias": torch.zeros(3)}
METADATA = {"learner": {"name": "maml", "step_size": 0.4}, "labels": ["a", "b"]}
RUNS_CODE = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"}


Use: TypeAlias = Callable[[], object]
Prepare: TypeAlias = Callable[[Path], Use]


class Cause(NamedTuple):
    """One way to be wrong: ``prepare`` makes the file and returns what a user would then do."""

    prepare: Prepare
    message: str


CAUSES: dict[str, Cause] = {}


def cause(message: str) -> Callable[[Prepare], Prepare]:
    """File a function of this module as one cause of failure, with what its message must contain."""

    def file_it(prepare: Prepare) -> Prepare:
        CAUSES[prepare.__name__] = Cause(prepare, message)
        return prepare

    return file_it


def artifact(folder: Path) -> Path:
    path = folder / "a.safetensors"
    save_artifact(path, TENSORS, METADATA, "prior")
    return path


def loading(path: Path | str, checksum: str | None = None) -> Use:
    return lambda: load_artifact(path, "prior", checksum)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Use:
    """An artifact whose JSON document was changed by somebody who knows the format but not the seal."""
    path = artifact(folder)
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    document = json.loads(header["__metadata__"]["tasklore"])
    change(document)
    header["__metadata__"]["tasklore"] = json.dumps(document)
    return with_header(path, json.dumps(header), content[8 + length :])


def with_header(path: Path, header: str | bytes, data: bytes = b"") -> Use:
    encoded = header if isinstance(header, bytes) else header.encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return loading(path)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@cause("does not exist; check the path")
def missing_file(folder: Path) -> Use:
    return loading(folder / "nothing.safetensors")


@cause("part of its path is a file")
def path_through_a_file(folder: Path) -> Use:
    return loading(artifact(folder) / "inside")


@cause("is a folder")
def folder_instead_of_file(folder: Path) -> Use:
    return loading(folder)


@cause("is a symbolic link")
def symbolic_link(folder: Path) -> Use:
    (folder / "link").symlink_to(artifact(folder))
    return loading(folder / "link")


@cause("is a pipe, socket or device")
def named_pipe(folder: Path) -> Use:
    os.mkfifo(folder / "pipe")
    return loading(folder / "pipe")


@cause("cannot be read")
def nul_in_the_path(folder: Path) -> Use:
    return loading(f"{folder}/a\0b")


@cause("is 0 bytes long")
def empty_file(folder: Path) -> Use:
    (folder / "a").touch()
    return loading(folder / "a")


@cause("ends before it does")
def cut_inside_the_header(folder: Path) -> Use:
    path = artifact(folder)
    os.truncate(path, 100)
    return loading(path)


@cause("does not match its own checksum")
def cut_inside_the_tensors(folder: Path) -> Use:
    path = artifact(folder)
    os.truncate(path, path.stat().st_size - 5)
    return loading(path)


@cause("does not match its own checksum")
def bytes_appended(folder: Path) -> Use:
    path = artifact(folder)
    path.write_bytes(path.read_bytes() + b"more")
    return loading(path)


@cause("does not match its own checksum")
def one_bit_flipped(folder: Path) -> Use:
    path = artifact(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return loading(path)


@cause("does not match its own checksum")
def metadata_edited(folder: Path) -> Use:
    return rewritten(folder, lambda document: document["metadata"].update(labels=["b", "a"]))


@cause("was remembered")
def another_file_in_its_place(folder: Path) -> Use:
    return loading(artifact(folder), "0" * 64)


@cause("is a 'checkpoint', and a 'prior' is needed")
def another_kind_of_artifact(folder: Path) -> Use:
    save_artifact(folder / "a", TENSORS, METADATA, "checkpoint")
    return loading(folder / "a")


@cause("upgrade Tasklore")
def artifact_from_the_future(folder: Path) -> Use:
    return rewritten(folder, lambda document: document.update(schema=99))


@cause("never existed")
def impossible_schema(folder: Path) -> Use:
    return rewritten(folder, lambda document: document.update(schema="1; DROP TABLE lore_model"))


@cause("lacks sha256")
def checksum_taken_out(folder: Path) -> Use:
    return rewritten(folder, lambda document: document.pop("sha256"))


@cause("metadata that is not an object")
def metadata_of_the_wrong_type(folder: Path) -> Use:
    return rewritten(folder, lambda document: document.update(metadata=[1]))


@cause("contains NaN")
def nan_in_the_metadata(folder: Path) -> Use:
    return rewritten(folder, lambda document: document["metadata"].update(rate=float("nan")))


@cause("key 'kind' twice")
def key_given_twice(folder: Path) -> Use:
    document = '{"kind":"prior","kind":"checkpoint","schema":1,"metadata":{},"sha256":""}'
    return with_header(folder / "a", json.dumps({"__metadata__": {"tasklore": document}}))


@cause("levels deep")
def bottomless_nesting(folder: Path) -> Use:
    return with_header(folder / "a", "[" * 1_000_000)


@cause("more than 64 levels deep")
def deep_nesting(folder: Path) -> Use:
    return with_header(folder / "a", '{"a":' * 100 + "1" + "}" * 100)


@cause("which no float can hold")
def number_beyond_floats(folder: Path) -> Use:
    return with_header(folder / "a", '{"a":1e999}')


@cause("is not valid JSON: Exceeds the limit")
def integer_of_a_million_digits(folder: Path) -> Use:
    return with_header(folder / "a", '{"a":' + "9" * 1_000_000 + "}")


@cause("is not valid JSON: Expecting")
def header_that_is_no_json(folder: Path) -> Use:
    return with_header(folder / "a", "__import__('os').system('true')")


@cause("is not valid JSON: 'utf-8'")
def header_that_is_no_text(folder: Path) -> Use:
    return with_header(folder / "a", b"\xff\xfe{}")


@cause("the limit is")
def enormous_header_announced(folder: Path) -> Use:
    (folder / "a").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    return loading(folder / "a")


@cause("is no .safetensors file; give one that Tasklore wrote")
def text_file(folder: Path) -> Use:
    (folder / "a").write_text("name,age\nann,5\n")
    return loading(folder / "a")


@cause("was not written by Tasklore")
def plain_safetensors_file(folder: Path) -> Use:
    safetensors.torch.save_file(TENSORS, folder / "a")
    return loading(folder / "a")


@cause("does not hold the tensors that its header promises")
def tensor_outside_the_file(folder: Path) -> Use:
    """Sealed correctly by somebody who knows how, and still impossible."""
    places: dict[str, Any] = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}
    document: dict[str, Any] = {"schema": 1, "kind": "prior", "metadata": {}}
    seal = artifacts._seal(places, document, memoryview(b""))  # pyright: ignore[reportPrivateUsage]
    document["sha256"] = seal
    header = {**places, "__metadata__": {"tasklore": json.dumps(document)}}
    return with_header(folder / "a", json.dumps(header))


@cause("is a zip archive, as torch.save writes them; pickles can run code and are never opened")
def torch_save_file(folder: Path) -> Use:
    torch.save({"w": torch.zeros(1)}, folder / "a.pt")
    return loading(folder / "a.pt")


@cause("is a pickle; pickles can run code and are never opened")
def hostile_pickle(folder: Path) -> Use:
    (folder / "a.pt").write_bytes(pickle.dumps(Hostile(folder / "executed")))
    return loading(folder / "a.pt")


@cause("is a zip archive")
def hostile_pickle_in_a_zip(folder: Path) -> Use:
    with zipfile.ZipFile(folder / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(folder / "executed")))
    return loading(folder / "a.pt")


@cause("is a NumPy array file")
def numpy_file(folder: Path) -> Use:
    np.save(folder / "a.npy", np.zeros(3))
    return loading(folder / "a.npy")


# databases


def database(folder: Path) -> Path:
    with open_store(folder / "lore.db") as store:
        store.add_all(everything())
    return folder / "lore.db"


def altered(folder: Path, statement: str) -> Use:
    """A database after somebody else's SQL."""
    path = database(folder)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    return opening(path)


def opening(path: Path | str) -> Use:
    """Open a store, read all of it, and write to it."""

    def use() -> None:
        with open_store(path, patience=0.2) as store:
            for record in everything():
                store.find(type(record))
            store.add(RunRecord(run_id="another", config={}, seed=0))

    return use


@cause("it is no SQLite database")
def text_file_as_database(folder: Path) -> Use:
    (folder / "lore.db").write_text("these are notes, not records\n" * 100)
    return opening(folder / "lore.db")


@cause("it is no SQLite database")
def hostile_pickle_as_database(folder: Path) -> Use:
    (folder / "lore.db").write_bytes(pickle.dumps(Hostile(folder / "executed")) * 50)
    return opening(folder / "lore.db")


@cause("the file is damaged")
def truncated_database(folder: Path) -> Use:
    path = database(folder)
    os.truncate(path, path.stat().st_size // 2)
    return opening(path)


@cause("the file is damaged")
def overwritten_pages(folder: Path) -> Use:
    path = database(folder)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    return opening(path)


@cause("is not a file; give the path of a database file")
def folder_as_database(folder: Path) -> Use:
    return opening(folder)


@cause("belongs to another program (its tables are customers)")
def database_of_another_program(folder: Path) -> Use:
    connection = sqlite3.connect(folder / "shop.db")
    connection.execute("CREATE TABLE customers (name)")
    connection.commit()
    connection.close()
    return opening(folder / "shop.db")


@cause("upgrade Tasklore")
def database_from_the_future(folder: Path) -> Use:
    return altered(folder, "INSERT INTO lore_migration VALUES (3, '2099-01-01')")


@cause("with gaps")
def migrations_with_gaps(folder: Path) -> Use:
    return altered(folder, "DELETE FROM lore_migration WHERE number = 1")


@cause("no lore_migration")
def ledger_dropped(folder: Path) -> Use:
    return altered(folder, "DROP TABLE lore_migration")


@cause("table lore_model is missing")
def table_dropped(folder: Path) -> Use:
    return altered(folder, "DROP TABLE lore_model")


@cause("lacks detail")
def column_dropped(folder: Path) -> Use:
    return altered(folder, "ALTER TABLE lore_event DROP COLUMN detail")


@cause("does not match its checksum")
def score_changed(folder: Path) -> Use:
    return altered(folder, "UPDATE lore_evaluation SET mean = 1.0")


@cause("column config is not valid JSON")
def column_that_is_no_json(folder: Path) -> Use:
    return altered(folder, "UPDATE lore_run SET config = '{'")


@cause("column metrics holds a bytes")
def blob_in_a_text_column(folder: Path) -> Use:
    return altered(folder, "UPDATE lore_round SET metrics = x'8004'")


@cause("63 bits")
def text_in_a_number_column(folder: Path) -> Use:
    return altered(folder, "UPDATE lore_run SET seed = 'many'")


@cause("inside the artifacts' root")
def row_that_points_at_the_password_file(folder: Path) -> Use:
    return altered(folder, "UPDATE lore_model SET path = '../../../../etc/passwd'")


@cause("it is read-only")
def read_only_database(folder: Path) -> Use:
    return opening(f"sqlite:///file:{database(folder)}?mode=ro&uri=true")


@cause("another process keeps it locked")
def locked_database(folder: Path) -> Use:
    path = database(folder)

    def use() -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            opening(path)()
        finally:
            other.close()

    return use


@cause("the folder")
def folder_that_cannot_be_made(folder: Path) -> Use:
    (folder / "file").touch()
    return opening(folder / "file" / "below" / "lore.db")


# exported files


def exported(folder: Path, change: Callable[[bytes], bytes]) -> Use:
    path = folder / "export.jsonl"
    with open_store("memory:") as store:
        store.add_all(everything())
        store.export(path)
    path.write_bytes(change(path.read_bytes()))

    def use() -> None:
        with open_store("memory:") as store:
            store.merge(path)

    return use


@cause("line 8: the file is cut short")
def export_cut_between_two_lines(folder: Path) -> Use:
    return exported(folder, lambda content: b"".join(content.splitlines(keepends=True)[:-1]))


@cause("should have 6 records and has 5")
def export_with_a_line_less(folder: Path) -> Use:
    def without_third(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        return b"".join(lines[:2] + lines[3:])

    return exported(folder, without_third)


@cause("line 3: the record does not match its checksum")
def export_with_an_edited_line(folder: Path) -> Use:
    return exported(folder, lambda content: content.replace(b'"name":"maml"', b'"name":"evil"'))


@cause("no kind of record is called 'tusk': did you mean 'task'?")
def export_with_an_unknown_kind(folder: Path) -> Use:
    return exported(folder, lambda content: content.replace(b'"kind":"task"', b'"kind":"tusk"'))


@cause("line 6: ModelRecord.path")
def export_with_path_traversal(folder: Path) -> Use:
    return exported(folder, lambda content: content.replace(b"runs/prior", b"../../etc/prior"))


@cause("there is more after the last line")
def export_with_a_tail(folder: Path) -> Use:
    return exported(folder, lambda content: content + content)


@cause("upgrade Tasklore")
def export_from_the_future(folder: Path) -> Use:
    return exported(folder, lambda content: content.replace(b'"schema":1', b'"schema":2', 1))


@cause("is not an export of an experience store")
def some_other_json_file(folder: Path) -> Use:
    return exported(folder, lambda content: b'{"name": "package"}\n')


@cause("line 1: the line is not valid JSON")
def hostile_pickle_as_export(folder: Path) -> Use:
    return exported(folder, lambda content: pickle.dumps(Hostile(folder / "executed")) + b"\n")


_watching = False
_executed: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in RUNS_CODE:
        _executed.append(f"{event} {arguments}")


@pytest.fixture(scope="module")
def watched() -> None:
    """Have Python report whatever would run code; such a hook cannot be taken away, so it is told when."""
    sys.addaudithook(_watch)


@pytest.mark.parametrize("name", CAUSES)
def test_each_cause_of_failure_has_a_clear_error(name: str, tmp_path: Path, watched: None) -> None:
    """An error of ours that says what is wrong, and no code of the file's was run."""
    global _watching
    use = CAUSES[name].prepare(tmp_path)
    _executed.clear()
    _watching = True
    try:
        with pytest.raises((DamagedArtifact, StoreError)) as caught:
            use()
    finally:
        _watching = False
    assert CAUSES[name].message in str(caught.value)
    assert _executed == []
    assert not (tmp_path / "executed").exists()


def test_at_least_thirty_distinct_causes_are_covered(record_property: Callable[[str, object], None]) -> None:
    distinct = {each.message for each in CAUSES.values()}
    record_property(
        "measured", f"causes of failure with a clear error: {len(CAUSES)}, messages: {len(distinct)}"
    )
    assert len(CAUSES) >= len(distinct) >= 30
