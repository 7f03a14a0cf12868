"""Hand objects full of arrays to another process of this machine.

A pipe takes them in small pieces, and both ends copy them several times: five forests, 200 MB, took longer to
arrive than to fit to some tables. Here the arrays lie in memory that has no name; only what describes them,
and the right to map that memory, go through the pipe, packed as the pipe itself packs objects. Both ends are
processes that this one has started; nothing is read from a disk or from a net.
"""

import io
import mmap
import os
import socket
import sys
import tempfile
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, BinaryIO

__all__ = ["receive", "send"]

ALIGNED = 64  # bytes: where an array begins


def send(pipe: "Connection[Any, Any]", parcel: object) -> None:
    """Send an object to the other end of a socket, where :func:`receive` waits for it.

    Raises
    ------
    OSError
        The other end hung up, or there is no memory left.
    """
    buffers: list[Any] = []
    content = io.BytesIO()
    ForkingPickler(content, 5, True, buffers.append).dump(parcel)
    arrays: list[memoryview] = [buffer.raw() for buffer in buffers]
    spans: list[tuple[int, int]] = []
    end = 0
    for array in arrays:
        spans.append((end, end + array.nbytes))
        end += -(-array.nbytes // ALIGNED) * ALIGNED
    pipe.send((content.getvalue(), spans))
    if end == 0:
        return
    with _unnamed() as memory:
        for (begin, _), array in zip(spans, arrays, strict=True):
            memory.seek(begin)
            memory.write(array)
        memory.truncate(end)
        memory.flush()
        with socket.socket(fileno=os.dup(pipe.fileno())) as line:
            socket.send_fds(line, [b"m"], [memory.fileno()])


def receive(pipe: "Connection[Any, Any]") -> tuple[Any, int]:
    """Return what was sent, and how many bytes it has.

    Its arrays may be written to, and share one piece of memory, freed with the last.

    Raises
    ------
    EOFError, OSError
        The other end hung up.
    """
    content, spans = pipe.recv()
    whole = _mapped(pipe) if any(end > begin for begin, end in spans) else memoryview(b"")
    arrays = [whole[begin:end] for begin, end in spans]
    packing: Any = ForkingPickler  # whose typing takes ``loads`` for a method
    return packing.loads(content, buffers=arrays), len(content) + len(whole)


def _mapped(pipe: "Connection[Any, Any]") -> memoryview:
    with socket.socket(fileno=os.dup(pipe.fileno())) as line:
        _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    if not descriptors:
        raise EOFError("the other end hung up while it was sending arrays")
    with open(descriptors[0], "rb", buffering=0) as memory:
        if sys.version_info >= (3, 13):
            return memoryview(mmap.mmap(memory.fileno(), 0, access=mmap.ACCESS_COPY, trackfd=False))
        # Mapped, it would keep a file open for as long as a model is kept, of which there may be hundreds.
        whole = memoryview(mmap.mmap(-1, os.fstat(memory.fileno()).st_size))
        memory.seek(0)
        place = 0
        while n_read := memory.readinto(whole[place:]):
            place += n_read
        if place < len(whole):
            raise EOFError("what was sent is shorter than it should be")
        return whole


def _unnamed() -> BinaryIO:
    """Return a file that is in memory where the system can do that, and is gone when nobody has it open."""
    if sys.platform == "linux":
        return open(os.memfd_create("tasklore"), "w+b")
    return tempfile.TemporaryFile()
