"""A process that tries candidates: it can be killed at any moment, and costs one candidate then.

The parent sends a problem once and then names candidates. What a fit does with memory or time stays in this
process, which has a memory limit of its own.
"""

import atexit
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .measuring import Folds, Measurement, Problem, measure
from .pipelines import Candidate

__all__ = ["Worker", "lent", "serve"]

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tasklore.apps.automl.worker import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)
STARTING = 120.0  # seconds that importing may take on a busy machine
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, eq=False)
class _Load:
    problem: Problem
    folds: Folds


@dataclass(frozen=True)
class _Try:
    candidate: Candidate
    random_state: int
    give_up_above: float
    keep_models: bool


class Worker:
    """A handle on such a process; it is started when first needed, and again after it has been killed.

    Parameters
    ----------
    memory_limit : int, optional
        Megabytes that the process may use for data.
    """

    def __init__(self, memory_limit: int | None = None) -> None:
        self.memory_limit = memory_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._loaded: _Load | None = None
        self._ready = self._informed = False

    def load(self, problem: Problem, folds: Folds) -> None:
        """Say what the candidates to come are tried on."""
        self._loaded, self._informed = _Load(problem, folds), False

    def measure(
        self,
        candidate: Candidate,
        seconds: float,
        *,
        random_state: int = 0,
        give_up_above: float = float("inf"),
        keep_models: bool = False,
        starting: float = STARTING,
    ) -> Measurement:
        """Try a candidate for at most so many seconds, once the process is ready (``starting`` at most).

        Returns
        -------
        Measurement
            With an ``error`` if the candidate failed, took too long or brought the process down.
        """
        pipe = self.start()
        try:
            if not self._ready:
                self._ready = bool(pipe.poll(starting) and pipe.recv())
            if self._ready:
                if not self._informed:  # not before: a send waits until the other side has started
                    pipe.send(self._loaded)
                    self._informed = True
                pipe.send(_Try(candidate, random_state, give_up_above, keep_models))
                if pipe.poll(seconds):
                    return pipe.recv()
            fault = f"took longer than {seconds:.3g} s"
        except (EOFError, OSError):
            fault = "its process ended, perhaps for lack of memory"
        self.close()
        return Measurement(candidate.name, (), 0.0, 0.0, 0.0, np.empty((0, 0), np.float32), fault)

    def kill(self) -> None:
        """End the process from another thread than the one that waits for it, which then hears of it."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        self._ready = self._informed = False

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def ready(self) -> bool:
        """Whether the process has started and would begin at once; does not wait."""
        if not self._ready and self._pipe is not None:
            try:
                self._ready = self._pipe.poll(0) and bool(self._pipe.recv())
            except (EOFError, OSError):
                return False
        return bool(self._ready)

    def start(self) -> Connection:
        """Start the process if it does not run, without waiting for it."""
        if self._pipe is not None and self._process is not None and self._process.poll() is None:
            return self._pipe
        self.close()
        # Not multiprocessing.Process: that would run the user's own script again in the child.
        ours, theirs = _pair()
        command = [sys.executable, "-c", START, json.dumps(sys.path), str(theirs.fileno())]
        self._process = subprocess.Popen(
            [*command, str(self.memory_limit or 0)],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours
        return ours


def serve(descriptor: int, memory_limit: int) -> None:
    """Answer the parent until it hangs up; what the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    if memory_limit:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit << 20, memory_limit << 20))
    with Connection(descriptor) as pipe, suppress(EOFError, OSError, MemoryError):  # the parent hung up
        _answer(pipe)


def _answer(pipe: "Connection[Any, Any]") -> None:
    loaded: _Load | None = None
    pipe.send(True)
    while True:
        asked: Any = pipe.recv()
        match asked:
            case _Load():
                loaded = asked
            case _Try() if loaded is not None:
                how = (asked.random_state, asked.give_up_above, asked.keep_models)
                pipe.send(measure(asked.candidate, loaded.problem, loaded.folds, *how))
            case _:
                return


def _pair() -> tuple[Connection, Connection]:
    one, other = socket.socketpair()
    return Connection(one.detach()), Connection(other.detach())


_idle: dict[int, list[Worker]] = {}
_lock = threading.Lock()


@contextmanager
def lent(n: int, megabytes: int | None) -> Generator[list[Worker]]:
    """Lend processes; they stay for the next search, as starting one takes a second or two.

    Parameters
    ----------
    n : int
    megabytes : int, optional
        For all of them together; 80 % of what is free by default.
    """
    # Rounded, so that what is free now need not be exactly what was free before.
    limit = megabytes // n if megabytes else max(500, int(0.8 * _free_megabytes()) // n // 1000 * 1000)
    with _lock:
        waiting = _idle.setdefault(limit, [])
        borrowed = [waiting.pop() if waiting else Worker(limit) for _ in range(n)]
    try:
        yield borrowed
    finally:
        with _lock:
            _idle[limit] += borrowed


@atexit.register
def _close() -> None:
    for workers in _idle.values():
        for worker in workers:
            worker.close()


def _free_megabytes() -> float:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            known = dict(line.split(":") for line in file)
        return int(known["MemAvailable"].split()[0]) / 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
