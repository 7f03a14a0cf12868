"""A process that tries candidates: it can be killed at any moment, and costs one candidate then.

The parent sends a problem once and then names candidates. What a fit does with memory or time stays in this
process, which has a memory limit of its own.
"""

import atexit
import dataclasses
import math
import os
import resource
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from . import nursery, parcels
from .measuring import Folds, Measurement, Problem, measure
from .pipelines import Candidate

__all__ = ["Worker", "free_megabytes", "lent", "serve"]

STARTING = 120.0  # seconds that importing may take on a busy machine


@dataclass(frozen=True, eq=False)
class _Load:
    problem: Problem
    folds: Folds


@dataclass(frozen=True)
class _Forget:
    pass


@dataclass(frozen=True)
class _Try:
    candidate: Candidate
    random_state: int
    give_up_above: tuple[float, ...]
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
        self._pipe: Connection | None = None
        self._pid = 0  # of the process, once it is ready
        self._loaded: _Load | None = None
        self._informed = False

    def load(self, problem: Problem, folds: Folds) -> None:
        """Say what the candidates to come are tried on."""
        self._loaded, self._informed = _Load(problem, folds), False

    def forget(self) -> None:
        """Let go of what was loaded, here and in the process."""
        self._loaded, self._informed = None, False
        if self._pipe is not None and self._pid:
            with suppress(OSError):
                self._pipe.send(_Forget())

    def measure(
        self,
        candidate: Candidate,
        seconds: float,
        *,
        random_state: int = 0,
        give_up_above: tuple[float, ...] = (),
        keep_models: bool = False,
        until: float = float("inf"),
    ) -> Measurement:
        """Try a candidate for at most so many seconds, once the process is ready.

        If ``time.monotonic()`` reaches ``until`` first it ends as well, whatever it is doing.

        Returns
        -------
        Measurement
            With an ``error`` if the candidate failed, took too long or brought the process down.
        """
        pipe = self.start()
        try:
            if not self._pid and pipe.poll(max(0.0, min(STARTING, until - time.monotonic()))):
                self._pid = pipe.recv()
            if self._pid:
                if not self._informed:  # not before: a send waits until the other side has started
                    with self._killed_at(until):  # a large table takes a while
                        pipe.send(self._loaded)
                    self._informed = True
                pipe.send(_Try(candidate, random_state, give_up_above, keep_models))
                if pipe.poll(max(0.0, min(seconds, until - time.monotonic()))):
                    with self._killed_at(until):  # a forest of a gigabyte takes a second to arrive
                        return _received(pipe)
            fault = f"took longer than {seconds:.3g} s"
        except (EOFError, OSError):
            in_time = time.monotonic() < until
            fault = "its process ended, perhaps for lack of memory" if in_time else "came too late"
        self.close()
        return Measurement(candidate.name, (), 0.0, 0.0, 0.0, np.empty((0, 0), np.float32), fault)

    @contextmanager
    def _killed_at(self, until: float) -> Generator[None]:
        """End the process if the block has not ended at ``time.monotonic() == until``."""
        timer = threading.Timer(min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX), self.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def kill(self) -> None:
        """End the process from another thread than the one that waits for it, which then hears of it."""
        if (pipe := self._pipe) is not None:
            with suppress(OSError), socket.socket(fileno=os.dup(pipe.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)  # if it has not started yet, it ends when it does
        if self._pid:
            nursery.end(self._pid)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.kill()
        if self._pipe is not None:
            self._pipe.close()
        self._pipe, self._pid, self._informed = None, 0, False

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def ready(self) -> bool:
        """Whether the process has started and would begin at once; does not wait."""
        return not self.starting and bool(self._pid)

    @property
    def starting(self) -> bool:
        """Whether the process is to be waited for: it has neither started nor failed to. Does not wait."""
        if not self._pid and self._pipe is not None:
            try:
                self._pid = self._pipe.recv() if self._pipe.poll(0) else 0
            except (EOFError, OSError):
                self.close()  # it is tried once more when it is needed
        return not self._pid and self._pipe is not None

    def start(self) -> Connection:
        """Start the process if it does not run, without waiting for it."""
        if self._pid and self._pipe is not None and self._pipe.poll(0):
            self.close()  # nothing is awaited, so this is its end
        if self._pipe is None:
            self._pipe, theirs = _pair()
            with theirs:
                nursery.spawn(theirs.fileno(), self.memory_limit or 0)
        return self._pipe


def serve(descriptor: int, memory_limit: int) -> None:
    """Answer the parent until it hangs up; what the process does."""
    if memory_limit:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit << 20, memory_limit << 20))
    with Connection(descriptor) as pipe, suppress(EOFError, OSError, MemoryError):  # the parent hung up
        _answer(pipe)


def _answer(pipe: "Connection[Any, Any]") -> None:
    loaded: _Load | None = None
    pipe.send(os.getpid())
    while True:
        asked: Any = pipe.recv()
        match asked:
            case _Load():
                loaded = asked
            case _Forget():
                loaded = None
            case _Try() if loaded is not None:
                how = (asked.random_state, asked.give_up_above, asked.keep_models)
                parcels.send(pipe, measure(asked.candidate, loaded.problem, loaded.folds, *how))
            case _:
                return


def _received(pipe: "Connection[Any, Any]") -> Measurement:
    """Return what is arriving, the seconds that it takes to arrive added."""
    began = time.monotonic()
    found, size = parcels.receive(pipe)
    # Its predictions are kept when its models are not, so they must not share memory with them.
    predictions = found.predictions.copy()
    seconds = found.seconds + time.monotonic() - began
    return dataclasses.replace(found, predictions=predictions, seconds=seconds, size=size)


def _pair() -> tuple[Connection, Connection]:
    one, other = socket.socketpair()
    return Connection(one.detach()), Connection(other.detach())


_idle: dict[int, list[Worker]] = {}
_lock = threading.Lock()


@contextmanager
def lent(n: int, megabytes: int | None) -> Generator[list[Worker]]:
    """Lend processes; they stay for the next search, as starting one takes a second or two.

    Those that wait with another limit end, so that they do not add up.

    Parameters
    ----------
    n : int
    megabytes : int, optional
        For all of them together; by default 60 to 80 % of what is free, 500 for each at least.
    """
    limit = max(1, megabytes // n) if megabytes else max(500, _roughly(int(0.8 * free_megabytes()) // n))
    with _lock:
        waiting = _idle.setdefault(limit, [])
        borrowed = [waiting.pop() if waiting else Worker(limit) for _ in range(n)]
        others = [worker for workers in _idle.values() if workers is not waiting for worker in workers]
        _idle.clear()
        _idle[limit] = waiting
    for worker in others:
        worker.close()
    try:
        yield borrowed
    finally:
        for worker in borrowed:
            worker.forget()
        with _lock:
            _idle.setdefault(limit, []).extend(borrowed)


def _roughly(megabytes: int) -> int:
    """Round down by less than a quarter: what is free now need not be exactly what was free before.

    Examples
    --------
    >>> _roughly(960), _roughly(15_000)
    (896, 14336)
    """
    step = 2 ** max(0, megabytes.bit_length() - 3)
    return megabytes // step * step


@atexit.register
def _close() -> None:
    for workers in _idle.values():
        for worker in workers:
            worker.close()


os.register_at_fork(after_in_child=_idle.clear)


def free_megabytes() -> float:
    """Return what this machine could give to processes now; where it does not tell, all that it has.

    No more than is left of what a container may use.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            known = dict(line.split(":") for line in file)
        free = int(known["MemAvailable"].split()[0]) / 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    return min(free, _left_to_container(Path("/sys/fs/cgroup")))


def _left_to_container(root: Path) -> float:
    """Return the megabytes below a control group's limit, cached files counted as free; else infinity."""
    for folder, most, used, cached in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, KeyError):  # ValueError: "max", where there is no limit
            limit, current = (int((folder / name).read_text()) for name in (most, used))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(0, limit - current + int(stat[cached])) / 2**20
    return math.inf
