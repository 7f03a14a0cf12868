"""Fixtures and settings that every test may use."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

POSTGRES_SCRIPT = Path(__file__).parents[1] / ".ci" / "postgres"

# Tests run side by side, one per core: set before anything imports torch, and inherited by child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's own experience store."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("TASKLORE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server: the one in ``TASKLORE_TEST_POSTGRES``, else a throw-away one.

    Where neither can be had the tests that need it are skipped with the reason; under ``CI`` they fail.
    """
    if given := os.environ.get("TASKLORE_TEST_POSTGRES"):
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="tasklore-postgres-"))
    try:
        started = _postgres("start", folder)
        if started.returncode:
            _lacking(f"PostgreSQL could not be started: {started.stderr.strip()}")
        yield started.stdout.strip()
        _postgres("stop", folder).check_returncode()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty PostgreSQL database of this test's own."""
    for module in ("sqlalchemy", "psycopg"):
        if importlib.util.find_spec(module) is None:
            _lacking(f"{module} is not installed: pip install 'tasklore[postgres]'")
    import sqlalchemy

    database = f"test_{uuid.uuid4().hex}"
    server = sqlalchemy.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    try:
        with server.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {database} TEMPLATE template0"))
        yield server.url.set(database=database).render_as_string(hide_password=False)
        with server.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {database} WITH (FORCE)"))
    finally:
        server.dispose()


def _postgres(action: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", POSTGRES_SCRIPT, action, folder], capture_output=True, text=True)


def _lacking(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (never skipped where CI is set)")
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests measured: ``record_property("measured", "import tasklore: 0.04 s")``."""
    measured = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in report.user_properties
        if name == "measured" and report.when == "call"
    ]
    if measured:
        terminalreporter.section("measured")
        for line in sorted(map(str, measured)):
            terminalreporter.line(line)
