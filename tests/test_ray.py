"""Work on a Ray cluster: the same results, whatever happens to the workers, and nobody else may listen."""

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from sklearn.datasets import load_diabetes, load_iris
from typer.testing import CliRunner

import tasklore.apps.automl.collecting as collecting
import tasklore.runners.ray as on_ray
from tasklore.apps.automl.collecting import Collecting, Dataset, collect, read_manifest
from tasklore.apps.automl.pipelines import Candidate, Kind
from tasklore.apps.automl.portfolio import Measured, read_experience
from tasklore.apps.automl.space import candidates
from tasklore.cli import app
from tasklore.errors import Interrupted, InvalidData, InvalidSetting, MissingDependency
from tasklore.experience.store import open_store
from tasklore.runners.ray import Cluster, join

# Not importorskip: a cluster is set up before Ray is imported.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'tasklore[ray]'"
)

FEW = ("constant", "lightgbm-quick", "logistic-1", "ridge-1", "tree-3", "neighbours-5")
SETTINGS = Collecting(rows=120, seconds=60.0)
KINDS: dict[str, Kind] = {"iris": "classification", "mirrored": "classification", "diabetes": "regression"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Start a cluster of two cores on this machine."""
    with join(n_cpus=2) as joined:
        yield joined


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a list of three small tables."""
    for name in KINDS:
        frame: Any = (load_diabetes if name == "diabetes" else load_iris)(as_frame=True)
        frame = frame.frame.iloc[::-1] if name == "mirrored" else frame.frame
        frame.to_csv(tmp_path / f"{name}.csv.gz", index=False)
    path = tmp_path / "list.csv"
    rows = [(name, f"{name}.csv.gz", kind, name) for name, kind in KINDS.items()]
    pd.DataFrame(rows, columns=["name", "file", "task", "family"]).to_csv(path, index=False)
    return path


@pytest.fixture
def small_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(kind: Kind) -> dict[str, Candidate]:
        return {name: candidate for name, candidate in candidates(kind).items() if name in FEW}

    monkeypatch.setattr(collecting, "candidates", few)


def workers() -> list[psutil.Process]:
    """Return the processes of this cluster that measure a data set right now."""
    found: list[psutil.Process] = []
    for process in alive(psutil.Process()):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "ray::_call" and process.children():
                found.append(process)
    return found


def test_ctrl_c_ends_all_of_it(manifest: Path, home: Path) -> None:
    command = [sys.executable, "-c", "from tasklore.cli import main; main()", "collect", str(manifest)]
    folders = set(Path(tempfile.gettempdir()).glob("ray-*"))
    kept_there = (Path.home() / ".ray").exists()
    with subprocess.Popen(
        [*command, "--ray"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        family = psutil.Process(process.pid)
        while process.poll() is None and not any(
            "tasklore.apps.automl" in " ".join(child.cmdline()) for child in alive(family)
        ):
            time.sleep(0.1)
        descendants = alive(family)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        seconds = time.monotonic() - started
    assert process.returncode == 130, errors
    assert "stopped, and whole data sets are remembered; to go on" in errors
    assert seconds < 15
    gone, left = psutil.wait_procs(descendants, timeout=10)
    assert len(gone) > 4
    assert left == []
    assert set(Path(tempfile.gettempdir()).glob("ray-*")) <= folders
    assert (Path.home() / ".ray").exists() == kept_there


def alive(family: psutil.Process) -> list[psutil.Process]:
    """Return all descendants of which something can be asked."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in family.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                process.cmdline()
                found.append(process)
    return found


def test_nobody_else_can_reach_it(cluster: Cluster) -> None:
    list(cluster.map(abs, range(4), at_a_time=2))  # so that there are workers
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    heard: dict[str, str] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                    heard[f"{process.name()} {connection.laddr}"] = connection.laddr.ip
    assert len(heard) >= 4, "the cluster's processes were looked at"
    assert set(heard.values()) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, heard
    assert cluster.address.startswith("127.0.0.1:")


def test_results_come_as_they_are_done(cluster: Cluster) -> None:
    begun: list[float] = []
    results: list[tuple[float, None]] = []
    ahead = 0
    for done in cluster.map(time.sleep, [1.0, 0.0, 0.1, 0.2], at_a_time=2, begun=begun.append):
        ahead = max(ahead, len(begun) - len(results) - 1)
        results.append(done)
    assert begun == [1.0, 0.0, 0.1, 0.2]
    assert sorted(results) == [(0.0, None), (0.1, None), (0.2, None), (1.0, None)]
    assert results[-1] == (1.0, None)
    assert ahead <= 2


def test_a_dead_worker_costs_time_only(cluster: Cluster, tmp_path: Path) -> None:
    def dies_once(item: int) -> int:
        seen = tmp_path / str(item)
        if item == 1 and not seen.exists():
            seen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return -item

    assert sorted(cluster.map(dies_once, range(4), at_a_time=2)) == [(0, 0), (1, -1), (2, -2), (3, -3)]

    def dies(item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return -item

    found: list[tuple[int, int]] = []  # extended one by one, until it raises
    with pytest.raises(Interrupted, match=r"table 1 \(\w+\): the worker ended 2 times.*everything else"):
        found.extend(cluster.map(dies, range(4), at_a_time=1, name=lambda item: f"table {item}"))
    assert found == [(0, 0), (2, -2), (3, -3)]


def test_what_a_function_raises_is_raised_here(cluster: Cluster) -> None:
    def refuses(item: int) -> int:
        raise InvalidData(f"{item} is odd")

    with pytest.raises(InvalidData, match=r"^1 is odd$"):
        list(cluster.map(refuses, [1], at_a_time=1))


def test_the_same_is_measured(
    cluster: Cluster, manifest: Path, small_space: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative to this process; a worker is killed while it measures."""
    monkeypatch.chdir(manifest.parent)
    datasets = read_manifest(Path(manifest.name))
    killed: list[int] = []

    def kill() -> None:
        ended = time.monotonic() + 60
        while not killed and time.monotonic() < ended:
            for process in workers()[:1]:
                process.kill()
                killed.append(process.pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    told: list[tuple[str, int, int]] = []

    def watch(dataset: str, done: int, total: int) -> None:
        told.append((dataset, done, total))
        if len(told) == 1:
            killer.start()

    with open_store("memory:") as here, open_store("memory:") as there:
        there_too = (there, tmp_path / "there", SETTINGS)
        assert collect(datasets, *there_too, n_workers=2, cluster=cluster, watch=watch) == 3
        killer.join()
        assert len(killed) == 1
        assert collect(datasets, *there_too, n_workers=2, cluster=cluster) == 0
        assert collect(datasets, here, tmp_path / "here", SETTINGS, n_workers=2) == 3
        for kind in set(KINDS.values()):
            pairs = zip(
                read_experience(here, tmp_path / "here", kind),
                read_experience(there, tmp_path / "there", kind),
                strict=True,
            )
            for local, remote in pairs:
                compare(local, remote)
    assert sorted(told)[:2] == [("diabetes", 0, len(FEW) - 1), ("diabetes", len(FEW) - 1, len(FEW) - 1)]


def compare(local: Measured, remote: Measured) -> None:
    assert remote.losses == local.losses
    assert remote.predictions.keys() == local.predictions.keys()
    for name, predictions in local.predictions.items():
        assert (remote.predictions[name] == predictions).all()
    assert remote.descriptors == pytest.approx(dict(local.descriptors), abs=1e-6)
    assert (remote.y == local.y).all()


def test_another_file_under_the_same_path(cluster: Cluster, manifest: Path, tmp_path: Path) -> None:
    (dataset, *_) = read_manifest(manifest)

    def swap(name: str, done: int, total: int) -> None:
        (tmp_path / "mirrored.csv.gz").replace(dataset.path)

    with open_store("memory:") as store, pytest.raises(InvalidData, match="has changed since"):
        collect([dataset], store, tmp_path, SETTINGS, cluster=cluster, watch=swap)
    gone = Dataset("gone", "regression", tmp_path / "gone.csv", "gone")
    with open_store("memory:") as store, pytest.raises(InvalidData, match=r"gone\.csv cannot be read"):
        collect([gone], store, tmp_path, SETTINGS, cluster=cluster)


def test_a_cluster_that_runs_already(cluster: Cluster) -> None:
    """From another process, which leaves it running."""
    program = (
        "import sys; from tasklore.runners.ray import join\n"
        "with join(sys.argv[1]) as cluster: print(sorted(cluster.map(abs, [-3, -4], at_a_time=2)))"
    )
    command = [sys.executable, "-c", program, cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[(-4, 4), (-3, 3)]\n", done.stderr
    assert list(cluster.map(abs, [-5], at_a_time=1)) == [(-5, 5)]
    with pytest.raises(InvalidSetting, match="belongs to a Ray cluster already"), join():
        pass


def test_the_options(
    cluster: Cluster, manifest: Path, small_space: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, int]] = []

    @contextlib.contextmanager
    def joined(address: str | None = None, *, n_cpus: int = 1) -> Generator[Cluster]:
        asked.append((address, n_cpus))
        yield cluster

    monkeypatch.setattr(on_ray, "join", joined)
    command = ["collect", str(manifest), "--rows", "60", "--seconds", "60"]
    done = CliRunner().invoke(app, [*command, "--ray", "--workers", "2"])
    assert "3 of 3 data sets were added" in done.output, done.output
    done = CliRunner().invoke(app, [*command, "--ray-address", "host:1"])
    assert "0 of 3 data sets were added" in done.output, done.output
    CliRunner().invoke(app, command)
    assert asked == [(None, 2), ("host:1", 1)]


def test_nothing_is_joined_where_nothing_answers() -> None:
    program = "from tasklore.runners.ray import join\nwith join('127.0.0.1:1'): pass"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert re.search(r"InvalidSetting: no Ray cluster can be joined at '127\.0\.0\.1:1'", done.stderr)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"pip install 'tasklore\[ray\]'"), join():
        pass
    assert "RAY_AUTH_TOKEN" not in os.environ or on_ray.OWN["RAY_AUTH_TOKEN"] == os.environ["RAY_AUTH_TOKEN"]
