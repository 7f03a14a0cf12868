"""The experience store under many processes, forks, locks and sudden death."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasklore.errors import StoreError
from tasklore.experience import EventRecord, ExperienceStore, RoundRecord, RunRecord, open_store
from tasklore.testing.store import everything

N_PROCESSES = 8
N_RECORDS = 1000

WRITER = """
import sys
from tasklore.experience import RoundRecord, open_store

address, run_id, n_records = sys.argv[1:]
with open_store(address) as store:
    rounds = [RoundRecord(run_id=run_id, index=index, metrics={}) for index in range(int(n_records))]
    half = len(rounds) // 2
    for record in rounds[:half]:  # one by one, and then by tens
        store.add(record)
    for start in range(half, len(rounds), 10):
        store.add_all(rounds[start : start + 10])
"""

# Each batch is a run, its rounds and an event; a batch is acknowledged after it was stored.
BATCH_WRITER = """
import sys
from tasklore.experience import EventRecord, RoundRecord, RunRecord, open_store

address, name = sys.argv[1:]
with open_store(address) as store:
    for number in range(10**6):
        run_id = f"{name}-{number}"
        rounds = [RoundRecord(run_id=run_id, index=index, metrics={}) for index in range(20)]
        run = RunRecord(run_id=run_id, config={}, seed=number)
        store.add_all([run, *rounds, EventRecord(subject=run_id, what="finished")])
        print(run_id, flush=True)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a store, on either back end."""
    return str(tmp_path / "lore.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python process of our own."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_eight_processes_lose_nothing_and_see_no_error(address: str) -> None:
    """All start at once on a store that does not exist yet, so they also race to create it."""
    writers = [start(WRITER, address, f"run-{number}", str(N_RECORDS)) for number in range(N_PROCESSES)]
    reports = [writer.communicate() for writer in writers]
    assert [(writer.returncode, *report) for writer, report in zip(writers, reports, strict=True)] == [
        (0, "", "")
    ] * N_PROCESSES
    with open_store(address) as store:
        rounds = store.find(RoundRecord)
        assert len(rounds) == N_PROCESSES * N_RECORDS
        assert {(record.run_id, record.index) for record in rounds} == {
            (f"run-{number}", index) for number in range(N_PROCESSES) for index in range(N_RECORDS)
        }
        store.add_all(RunRecord(run_id=f"run-{number}", config={}, seed=0) for number in range(N_PROCESSES))
        assert store.verify() == []


def test_killed_writers_leave_whole_batches(address: str, tmp_path: Path) -> None:
    """Two writers at a time are killed: what was acknowledged is there, and no batch is there in part."""
    rng = random.Random(7)
    acknowledged: set[str] = set()
    for attempt in range(4):
        writers = [start(BATCH_WRITER, address, f"{attempt}{twin}") for twin in "ab"]
        for writer in writers:
            assert writer.stdout is not None
            first = writer.stdout.readline()  # it is well under way
            assert first.endswith("\n"), writer.communicate()[1]
            acknowledged.add(first.strip())
        time.sleep(rng.uniform(0, 0.3))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stderr is not None
            with writer.stdout, writer.stderr:  # communicate() would miss what readline() has read ahead
                output, errors = writer.stdout.read(), writer.stderr.read()
            assert errors == ""
            assert writer.wait() == -signal.SIGKILL
            acknowledged.update(output.split("\n")[:-1])
    with open_store(address, patience=20) as store:
        assert store.verify() == []
        runs = {record.run_id for record in store.find(RunRecord)}
        assert acknowledged <= runs
        assert len(acknowledged) >= 8
        rounds = [record.run_id for record in store.find(RoundRecord)]
        assert all(rounds.count(run_id) == 20 for run_id in runs)
        assert set(rounds) == runs
        assert {record.subject for record in store.find(EventRecord)} == runs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_store_survives_a_fork(address: str) -> None:
    """Parent and children go on with the same open store, while another thread is using it."""
    with open_store(address) as store:
        store.add_all(everything())
        done = threading.Event()
        thread = threading.Thread(target=_keep_reading, args=(store, done))
        thread.start()
        children: list[int] = []
        for number in range(4):
            child = os.fork()
            if child == 0:
                _write_and_leave(store, f"child-{number}")
            children.append(child)
            store.add(RoundRecord(run_id="parent", index=number, metrics={}))
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
        done.set()
        thread.join()
        assert len(store.find(RoundRecord)) == 1 + 4 + 4 * 25


def _keep_reading(store: ExperienceStore, done: threading.Event) -> None:
    while not done.is_set():
        store.find(RunRecord)


def _write_and_leave(store: ExperienceStore, run_id: str) -> None:
    """Run in a forked child, which must never return into pytest."""
    status = 1
    try:
        for index in range(25):
            store.add(RoundRecord(run_id=run_id, index=index, metrics={}))
        store.close()
        status = 0
    finally:
        os._exit(status)


def test_waiting_for_a_lock_is_no_error(tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db") as store:
        other = sqlite3.connect(tmp_path / "lore.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(1.0, other.execute, ["ROLLBACK"])
        release.start()
        begun = time.monotonic()
        store.add(everything()[0])
        assert time.monotonic() - begun > 0.5
        release.join()
        other.close()


def test_patience_ends(tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db", patience=0.2) as store:
        other = sqlite3.connect(tmp_path / "lore.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process keeps it locked"):
            store.add(everything()[0])
        other.execute("ROLLBACK")
        other.close()
        store.add(everything()[0])  # nothing was broken by the failure


def test_a_lost_connection_is_taken_up_again(postgres_url: str) -> None:
    """A server that hangs up between two operations is no error for the caller."""
    engine = sa.create_engine(postgres_url)
    address = engine.url.update_query_dict({"application_name": "ours"}).render_as_string(hide_password=False)
    with open_store(address) as store:
        store.add_all(everything("run-1"))
        with engine.begin() as connection:
            hang_up = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"
            assert connection.execute(sa.text(hang_up), {"name": "ours"}).scalars().all() == [True]
        store.add_all(everything("run-2"))
        assert len(store.find(RunRecord)) == 2
    engine.dispose()
