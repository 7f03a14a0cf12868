"""The experience store: the contract on every back end, records, distances, addresses, migrations."""

import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasklore.errors import InvalidData, InvalidSetting, StoreError
from tasklore.experience import (
    EvaluationRecord,
    EventRecord,
    ExperienceStore,
    ModelRecord,
    RoundRecord,
    RunRecord,
    TaskRecord,
    migrations,
    open_store,
    user_folder,
)
from tasklore.experience.records import RECORD_TYPES, record_from_json
from tasklore.experience.similarity import rank
from tasklore.testing.store import StoreContract, everything, ids


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[ExperienceStore]:
        with open_store("memory:") as store:
            yield store


class TestSqlite(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ExperienceStore]:
        with open_store(tmp_path / "new folder" / "löre #1?.db") as store:
            yield store


class TestPostgres(StoreContract):
    @pytest.fixture
    def store(self, postgres_url: str) -> Iterator[ExperienceStore]:
        with open_store(postgres_url) as store:
            yield store


def test_there_is_no_verb_that_changes_a_record() -> None:
    verbs = {name for name in vars(ExperienceStore) if not name.startswith("_")}
    growing = {"add", "add_all", "merge"}
    reading = {"get", "find", "nearest", "export", "verify", "location"}
    assert verbs == growing | reading | {"erase", "close"}


# -- records


def test_ids_are_what_they_always_were() -> None:
    """Stores written years apart must agree on ids: these were computed once and may never change."""
    assert {record.kind_name: record.id[:16] for record in everything()} == {
        "task": "c67daf697b093fac",
        "run": "d3f76e86d1efa914",
        "round": "043d0a871eece908",
        "evaluation": "05bfbdadb70ab680",
        "model": "62d2224c714600d3",
        "event": "6960a5c5477d477d",
    }


OTHER_VALUES: dict[type, Any] = {
    str: "other",
    int: 7,
    float: 0.7,
    list: [0.1, 0.2],
    dict: {"x": 1},
    type(None): None,
}


def test_only_volatile_fields_stay_out_of_the_id() -> None:
    volatile = {"created_at", "seconds", "versions", "hardware"}
    changed = {
        "created_at": "2001-01-01T00:00:00Z",
        "seconds": 7.0,
        "versions": {"x": 1},
        "hardware": {"x": 1},
    }
    for record in everything():
        for name, value in record.to_json().items():
            other = "1" * 64 if name == "checksum" else changed.get(name, OTHER_VALUES[type(value)])
            altered = record_from_json(record.kind_name, cast("Any", {**record.to_json(), name: other}))
            if altered.to_json() != record.to_json():
                assert (altered.id == record.id) == (name in volatile), (record.kind_name, name)
                assert altered.seal != record.seal


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RunRecord(run_id="r", config={"lr": float("nan")}, seed=0), "RunRecord.config.lr is nan"),
        (
            lambda: RunRecord(run_id="r", config={"a": [{"b": float("inf")}]}, seed=0),
            r"config.a\[0\].b is inf",
        ),
        (lambda: RunRecord(run_id="r", config=cast("Any", {1: 2}), seed=0), "key 1"),
        (lambda: RunRecord(run_id="r", config={"f": open}, seed=0), "config.f is a"),
        (lambda: RunRecord(run_id="r", config=cast("Any", []), seed=0), "must be a mapping"),
        (lambda: RunRecord(run_id="r", config={}, seed=2**63), "63 bits"),
        (lambda: RunRecord(run_id="r", config={}, seed=True), "63 bits"),
        (lambda: RunRecord(run_id="r\0", config={}, seed=0), "NUL"),
        (lambda: RunRecord(run_id="\ud800", config={}, seed=0), "surrogate"),
        (lambda: RunRecord(run_id="r" * 201, config={}, seed=0), "limit is 200"),
        (lambda: RunRecord(run_id=cast("Any", None), config={}, seed=0), "must be text"),
        (lambda: RunRecord(run_id="r", config={"x": "y" * 2**25}, seed=0), "store less"),
        (lambda: RoundRecord(run_id="r", index=0, metrics={}, created_at="yesterday"), "ISO 8601"),
        (lambda: RoundRecord(run_id="r", index=0, metrics={}, created_at="2031-01-01"), "time zone"),
        (lambda: TaskRecord(fingerprint="f", kind="k", name="n", descriptor={"rows": [1, 2]}), "flat"),
        (
            lambda: TaskRecord(fingerprint="f", kind="k", name="n", descriptor={"row": "x" * 300}),
            "limit is 200",
        ),
    ],
)
def test_what_cannot_be_stored_exactly_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        build()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../up", "a/../../up", "a\\b", "C:evil", "", ".", "a/..", "x\0y"]
)
def test_artifact_paths_stay_inside_their_root(path: str) -> None:
    with pytest.raises(InvalidData):
        ModelRecord(path=path, checksum="0" * 64, kind="prior", learner="maml", run_id="r")


def test_a_record_does_not_change_with_its_origin() -> None:
    config = {"layers": [40]}
    run = RunRecord(run_id="r", config=config, seed=0)
    before = run.id
    config["layers"].append(41)
    assert run.id == before


# -- similarity


def test_distance_by_hand() -> None:
    """Gower's mean over fields: a number, an equal word, a truth value, one field missing."""
    tasks = [
        TaskRecord(fingerprint=str(n), kind="k", name="n", descriptor={"n": n, "word": "a", "flag": n > 3})
        for n in (1, 3, 7)
    ]
    query = {"n": 5, "word": "a", "flag": True, "extra": 1}
    # n over 1, 3, 7 and the query's 5: quartiles 2.5 and 5.5, so the scale is 3.
    distances = {found.task.fingerprint: found.distance for found in rank(query, tasks, 3)}
    assert distances == pytest.approx(
        {"1": (4 / 7 + 0 + 1 + 1) / 4, "3": (2 / 5 + 0 + 1 + 1) / 4, "7": (2 / 5 + 0 + 0 + 1) / 4}
    )


def test_distances_survive_extremes() -> None:
    tasks = [
        TaskRecord(fingerprint=str(place), kind="k", name="n", descriptor={"n": value})
        for place, value in enumerate((1.7e308, -1.7e308, 10**400, 0, None, "text", True))
    ]
    found = rank(tasks[0], tasks, 10)
    assert len(found) == 7
    assert all(0 <= neighbour.distance <= 1 for neighbour in found)
    assert found[0].task == tasks[0]
    assert found[0].distance == 0
    assert rank({}, [], 3) == []


def test_a_task_met_twice_is_one_neighbour() -> None:
    tasks = [TaskRecord(fingerprint="f", kind="k", name=name, descriptor={}) for name in ("old", "new")]
    assert [found.task.name for found in rank(tasks[0], tasks, 5)] == ["new"]


# -- the same behaviour, whatever is done


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("erase"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("exchange"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
def test_any_history_gives_the_same_store_everywhere(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Adding, erasing and two-way merging, on SQLite and in memory; and two merged stores always agree."""
    folder = tmp_path_factory.mktemp("history")
    with (
        open_store(folder / "a.db") as database,
        open_store("memory:") as memory,
        open_store("memory:") as peer,
    ):
        for verb, run, place in steps:
            record = everything(f"run-{run}", str(run % 2))[place]
            for store in (database, memory):
                if verb == "add":
                    store.add(record)
                elif verb == "erase" and _has(store, record.id):
                    store.erase(record.id, "history")
            if verb == "add" and run > 0:
                peer.add(record)
            if verb == "exchange":
                peer.export(folder / "peer")
                assert database.merge(folder / "peer") == memory.merge(folder / "peer")
                database.export(folder / "database")
                peer.merge(folder / "database")
                assert _ids(peer) == _ids(database)
            assert _ids(database) == _ids(memory)


def _has(store: ExperienceStore, record_id: str) -> bool:
    return record_id in _ids(store)


def _ids(store: ExperienceStore) -> set[str]:
    return {record_id for record_type in RECORD_TYPES for record_id in ids(store.find(record_type))}


# -- addresses


def test_the_users_own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKLORE_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert user_folder() == tmp_path / "data" / "tasklore"
    monkeypatch.setenv("TASKLORE_HOME", str(tmp_path / "home"))
    with open_store() as store:
        assert store.location == str(tmp_path / "home" / "lore.db")
    with open_store(f"sqlite:///{tmp_path}/home/lore.db") as same:
        assert same.location == store.location


@pytest.mark.parametrize(
    "address",
    [
        "mysql://root:secret@host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://u:secret@h:port/d",
        "://",
    ],
)
def test_addresses_of_no_known_form(address: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        open_store(address)
    assert "secret" not in str(caught.value)


def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with pytest.raises(StoreError, match="the server runs") as caught:
        open_store("postgresql://somebody:s3cr3t@127.0.0.1:9/nowhere?connect_timeout=2", patience=0.1)
    assert "127.0.0.1:9/nowhere" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cr3t" not in f"{error!s}{error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "s3cr3t" not in caplog.text


def test_needs_no_torch() -> None:
    script = "import sys, tasklore.experience.sql, tasklore.artifacts; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- the database


def test_an_older_database_is_upgraded_with_its_records(tmp_path: Path) -> None:
    """A database at migration 1, records included, opens at the latest; nothing is lost."""
    _build_older(f"sqlite:///{tmp_path}/lore.db")
    with open_store(tmp_path / "lore.db") as store:
        _check_upgraded(store)
    with sqlite3.connect(tmp_path / "lore.db") as connection:
        names = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
        }
        assert "lore_round_by_run_id" in names
        assert connection.execute("SELECT number FROM lore_migration").fetchall() == [(1,), (2,)]
    connection.close()


def test_an_older_server_database_is_upgraded_with_its_records(postgres_url: str) -> None:
    _build_older(postgres_url)
    with open_store(postgres_url) as store:
        _check_upgraded(store)


def _build_older(url: str) -> None:
    engine = sa.create_engine(url)
    record = RoundRecord(run_id="run-1", index=0, metrics={}, created_at="2031-01-01T00:00:00Z")
    with engine.begin() as connection:
        migrations.upgrade(connection, target=1)
        connection.execute(
            sa.text(
                'INSERT INTO lore_round (id, seal, created_at, run_id, "index", metrics, decision) '
                "VALUES (:id, :seal, :created_at, 'run-1', 0, '{}', '')"
            ),
            {"id": record.id, "seal": record.seal, "created_at": record.created_at},
        )
    engine.dispose()


def _check_upgraded(store: ExperienceStore) -> None:
    assert [record.index for record in store.find(RoundRecord)] == [0]
    store.add_all(everything())
    assert len(store.find(RoundRecord)) == 2


def test_tables_hold_every_field_of_every_record(tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db"):
        pass
    with sqlite3.connect(tmp_path / "lore.db") as connection:
        for record_type in RECORD_TYPES:
            columns = {
                row[1] for row in connection.execute(f"PRAGMA table_info(lore_{record_type.kind_name})")
            }
            fields = set(next(r for r in everything() if type(r) is record_type).to_json())
            assert columns == fields | {"sequence", "id", "seal"}
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_what_was_erased_is_not_in_the_file_any_more(tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db") as store:
        task = TaskRecord(fingerprint="f", kind="k", name="a very private name", descriptor={})
        store.add_all([task, *everything()])
        store.erase(task.id, "asked for")
        for file in tmp_path.iterdir():
            assert b"a very private name" not in file.read_bytes()


def test_altered_rows_are_found(tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db") as store:
        store.add_all(everything())
        with sqlite3.connect(tmp_path / "lore.db") as connection:
            connection.execute("UPDATE lore_evaluation SET mean = 0.99")
        connection.close()
        assert len(store.verify()) == 1
        assert "row 1 of table lore_evaluation" in store.verify()[0]
        with pytest.raises(StoreError, match="lore_evaluation"):
            store.find(EvaluationRecord)
        with pytest.raises(StoreError, match="was not exported"):
            store.export(tmp_path / "export")
        assert not (tmp_path / "export").exists()
        assert store.find(EventRecord)  # the others are still there


def test_a_read_only_store_can_be_read(tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db") as store:
        store.add_all(everything())
    with open_store(f"sqlite:///file:{tmp_path}/lore.db?mode=ro&uri=true") as store:
        assert store.find(RunRecord)
        assert store.verify() == []
        with pytest.raises(StoreError, match="read-only"):
            store.add(RoundRecord(run_id="run-1", index=5, metrics={}))


def pickled(store: ExperienceStore) -> ExperienceStore:
    return pickle.loads(pickle.dumps(store))  # noqa: S301 - what was written a moment ago


def test_a_pickled_store_is_opened_again_by_its_address(tmp_path: Path) -> None:
    with open_store(tmp_path / "löre #1?.db", patience=7.0) as store:
        store.add_all(everything())
        with pickled(store) as again:
            assert again.location == store.location
            assert ids(again.find(RunRecord)) == ids(store.find(RunRecord))
    open_store(tmp_path / "lore.db").close()
    only_to_read = open_store(f"sqlite:///file:{tmp_path}/lore.db?mode=ro&uri=true")
    with only_to_read, pickled(only_to_read) as again, pytest.raises(StoreError, match="read-only"):
        again.add(RoundRecord(run_id="run-1", index=5, metrics={}))
    with open_store("memory:") as store, pytest.raises(StoreError, match="use one in a file, or n_jobs=1"):
        pickle.dumps(store)


def test_a_password_is_not_pickled(postgres_url: str) -> None:
    with open_store(postgres_url) as store:
        url: Any = store._url  # pyright: ignore
        if url.password is None:
            with pickled(store) as again:
                assert again.location == store.location
            vars(store)["_url"] = url.set(password="secret")
        with pytest.raises(StoreError, match="holds a password; keep that in") as told:
            pickle.dumps(store)
        assert "secret" not in str(told.value)


def test_a_forgotten_store_lets_go_of_its_file(tmp_path: Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files are counted through /proc")
    for _ in range(3):
        open_store(tmp_path / "lore.db").find(RunRecord)
    held = [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [path for path in held if path.parent == tmp_path.resolve()]
