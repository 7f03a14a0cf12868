"""A process that has imported everything and forks: starting one more takes milliseconds, not seconds.

It runs no fit itself, so no thread or OpenMP region stands in the way of a fork; the calling process, which
may have used either, is never forked.
"""

import atexit
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from contextlib import suppress

__all__ = ["end", "host", "spawn"]

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tasklore.apps.automl.nursery import host; host(int(sys.argv[2]))"
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ORDER = struct.Struct("!cq")  # b"s" and a memory limit in megabytes, or b"e" and a process to end


class _Nursery:
    """The calling process's end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.line: socket.socket | None = None

    def order(self, what: bytes, number: int, descriptors: list[int]) -> None:
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                if what == b"e":
                    with suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)
                    return
                self._start()
            line = self.line
            with suppress(BrokenPipeError, ConnectionResetError):  # it dies just now; the caller will notice
                if line is not None:
                    socket.send_fds(line, [ORDER.pack(what, number)], descriptors)

    def _start(self) -> None:
        if self.line is not None:
            self.line.close()
        self.line, theirs = socket.socketpair()
        listed: list[object] = [*sys.path]
        folders = [folder for folder in listed if isinstance(folder, str)]  # as Python, which ignores others
        # Not multiprocessing's fork server: that would run the user's own script again in the child.
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps(folders), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()


_nursery = _Nursery()


def spawn(descriptor: int, memory_limit: int) -> None:
    """Have a process forked that serves a socket, see :func:`.worker.serve`; does not wait for it.

    Parameters
    ----------
    descriptor : int
        Of the child's end; it may be closed here afterwards.
    memory_limit : int
        Megabytes; 0 for none.
    """
    _nursery.order(b"s", memory_limit, [descriptor])


def end(pid: int) -> None:
    """End a process that was forked, whatever it is doing."""
    _nursery.order(b"e", pid, [])


def _forget() -> None:
    """In a fork of the calling process, leave its nursery alone."""
    global _nursery
    _nursery = _Nursery()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def _close() -> None:
    """Hang up, and see the nursery and its children end."""
    if _nursery.line is not None and _nursery.process is not None:
        _nursery.line.close()
        _nursery.process.wait()


def host(descriptor: int) -> None:
    """Fork and end children until the caller hangs up; what the process does."""
    from .worker import serve

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, which ends this process
    gc.freeze()  # what was imported is never freed; looking at it would copy its pages in every child
    children: set[int] = set()
    with socket.socket(fileno=descriptor) as line:
        while True:
            order, descriptors, _, _ = socket.recv_fds(line, ORDER.size, 1, socket.MSG_WAITALL)
            if len(order) < ORDER.size:
                break
            _reap(children)
            what, number = ORDER.unpack(order)
            if what == b"e":
                if number in children:
                    os.kill(number, signal.SIGKILL)
                    os.waitpid(number, 0)
                    children.remove(number)
                continue
            try:
                child = os.fork()
            except OSError:  # no more processes are allowed; whoever asked hears that the other end hung up
                os.close(descriptors[0])
                continue
            if child == 0:
                line.close()
                try:
                    serve(descriptors[0], number)
                except BaseException:  # noqa: BLE001 - shown, and the process ends
                    traceback.print_exc()
                finally:  # whatever happens, a child must not go on as a second host
                    os._exit(0)
            children.add(child)
            os.close(descriptors[0])
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _reap(children: set[int]) -> None:
    """Forget the children that ended by themselves; until then no other process gets their number."""
    for child in list(children):
        if os.waitpid(child, os.WNOHANG)[0]:
            children.remove(child)
