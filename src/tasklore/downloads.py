"""Files from the network: whole and unaltered, or not at all.

:func:`fetch` goes on where an earlier transfer broke off and verifies the published checksum before a file
gets its name. :func:`read_members` reads an archive without unpacking it, so that no name inside can point
outside a folder, and within limits, so that a small file cannot fill the memory.
"""

import hashlib
import http.client
import lzma
import os
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias
from urllib.parse import urlsplit

from .errors import DamagedArtifact, DownloadError
from .files import alone

__all__ = ["Place", "Progress", "Transfer", "cache_folder", "fetch", "read_members"]

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes on disk so far and, where the server told, the bytes in all."""

PIECE = 1 << 18  # bytes moved at a time
WORTH_REPEATING = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers that may differ the next time


@dataclass(frozen=True)
class Place:
    """Where a published file lies and how to know it.

    Parameters
    ----------
    name : str
        Of the file on disk.
    urls : tuple of str
        http or https; tried in this order.
    checksum : str
        As published: ``"sha256:…"`` or ``"md5:…"``, in hexadecimal digits.
    n_bytes : int
        More than this is never accepted.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str
    n_bytes: int


@dataclass(frozen=True)
class Transfer:
    """How hard to try.

    Parameters
    ----------
    attempts : int
        At each address.
    timeout : float
        Seconds without a byte after which a connection counts as broken.
    pause : float
        Seconds before the second attempt; twice as long before each further one.
    """

    attempts: int = 4
    timeout: float = 30.0
    pause: float = 1.0


class _Broken(Exception):
    """An attempt failed in a way that may not happen again."""


class _Refused(Exception):
    """An address will not give the file, however often one asks."""


def fetch(
    place: Place, folder: Path, *, transfer: Transfer | None = None, progress: Progress | None = None
) -> Path:
    """Bring a published file into a folder.

    A file that is there and matches its checksum is not fetched again. A broken transfer leaves a hidden
    ``.partial`` file, from whose end the next attempt, or the next call, goes on.

    Parameters
    ----------
    place : Place
    folder : Path
        Made if needed.
    transfer : Transfer, optional
    progress : callable, optional

    Returns
    -------
    Path
        The verified file, ``folder / place.name``.

    Raises
    ------
    DownloadError
        No address gave the file whole and unaltered, or the disk refused it. The message tells what each
        address answered.
    """
    transfer = transfer or Transfer()
    target = folder / place.name
    with _disk(target):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        return _fetched(place, folder, transfer, progress)


def _fetched(place: Place, folder: Path, transfer: Transfer, progress: Progress | None) -> Path:
    target = folder / place.name
    kind, digest = _checksum(place)
    partial = folder / f".{place.name}.{digest[:12]}.partial"
    answers: list[str] = []
    with _disk(target):
        if target.is_file() and _hash(target, kind) == digest:
            return target
    for url in place.urls:
        for attempt in range(transfer.attempts):
            if attempt:
                time.sleep(transfer.pause * 2 ** (attempt - 1))
            try:
                _receive(url, partial, place.n_bytes, transfer.timeout, progress)
                _verify(partial, kind, digest)
            except _Broken as broken:
                answers.append(f"{url}: {broken}")
            except _Refused as refused:
                answers.append(f"{url}: {refused}")
                break
            else:
                with _disk(target):
                    os.replace(partial, target)
                return target
    told = "; ".join(dict.fromkeys(answers))
    raise DownloadError(
        f"{place.name} could not be fetched: {told}. Without a network, get the file elsewhere and put it at "
        f"{target} (its checksum is {place.checksum})"
    )


def cache_folder() -> Path:
    """Return where fetched files are kept: ``$TASKLORE_HOME/data``, or else the system's place for caches."""
    if home := os.environ.get("TASKLORE_HOME"):
        return Path(home).expanduser() / "data"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "tasklore" / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tasklore"


def _receive(url: str, partial: Path, limit: int, timeout: float, progress: Progress | None) -> None:
    """Append what is missing of ``url`` to ``partial``."""
    with _disk(partial):
        have = partial.stat().st_size if partial.is_file() else 0
    with _open(url, have, timeout) as response:
        start, total = _extent(response, have)
        if (total or 0) > limit:
            raise _Refused(f"offers {total} bytes where at most {limit} are expected")
        with _disk(partial):
            if start == 0:
                partial.unlink(missing_ok=True)  # a new file, since others may still write to the old one
            with partial.open("r+b" if start else "wb") as file:
                file.seek(start)
                end = _copy(response, file, start, limit, lambda n: progress and progress(n, total))
    if total is not None and end < total:
        raise _Broken(f"the transfer ended after {end} of {total} bytes")


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], at: int, limit: int, told: Callable[[int], object]
) -> int:
    told(at)
    while True:
        with _network():
            piece = response.read1(PIECE)
        if not piece:
            break
        at += len(piece)
        if at > limit:
            raise _Refused(f"gave more than the {limit} bytes that are expected")
        file.write(piece)
        told(at)
    file.flush()
    os.fsync(file.fileno())
    return at


def _open(url: str, have: int, timeout: float) -> http.client.HTTPResponse:
    """Ask for a file, from byte ``have`` on."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise _Refused("only http and https addresses are read")
    headers = {"User-Agent": "tasklore", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with _network():
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # nothing lies beyond what we have
                return _open(url, 0, timeout)
            fault = _Broken if error.code in WORTH_REPEATING else _Refused
            raise fault(f"answered {error.code} {error.reason}") from error
    if urlsplit(response.url).scheme not in ("http", "https"):  # a redirection may lead to ftp
        response.close()
        raise _Refused(f"redirected to {response.url}; only http and https addresses are read")
    return response


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Return the byte that an answer starts at, and the bytes of the whole file if they are told."""
    length = response.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() else None
    if response.status != 206:
        return 0, announced  # the whole file, whatever was asked for
    given = response.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {have}-"):
        raise _Refused(f"was asked for bytes from {have} on and gave {given or 'others'!r}")
    whole = given.rpartition("/")[2]
    return have, int(whole) if whole.isdecimal() else None


def _verify(partial: Path, kind: str, digest: str) -> None:
    with _disk(partial):
        found = _hash(partial, kind)
        if found != digest:
            partial.unlink()  # going on from it could only fail again
            raise _Broken(f"the file has {kind} {found}, published is {digest}")


def _checksum(place: Place) -> tuple[str, str]:
    kind, _, digest = place.checksum.partition(":")
    if kind not in ("md5", "sha256") or not digest:
        raise DownloadError(f"{place.name}: the checksum {place.checksum!r} is neither md5:… nor sha256:…")
    return kind, digest.lower()


def _hash(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


@contextmanager
def _network() -> Generator[None]:
    """Tell faults of the connection from faults of the disk, which are OSErrors alike."""
    try:
        yield
    except urllib.error.HTTPError:
        raise  # an answer, not a fault
    except urllib.error.URLError as error:
        raise _Broken(f"no connection ({error.reason})") from error
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(f"the connection broke ({type(error).__name__}: {error})") from error


@contextmanager
def _disk(path: Path) -> Generator[None]:
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written or read: {error.strerror}; make room or choose another folder with "
            "TASKLORE_HOME"
        ) from error


def read_members(
    archive: Path,
    wanted: Callable[[str], bool],
    *,
    largest: int,
    n_bytes: int,
    n_members: int = 100_000,
) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of files inside a .zip or .tar archive, which is not unpacked.

    Parameters
    ----------
    archive : Path
    wanted : callable str -> bool
        Told the name of each file, whether to read it.
    largest : int
        Bytes that one file may have.
    n_bytes : int
        Bytes that all wanted files may have together.
    n_members : int
        Entries that the archive may have, wanted or not.

    Raises
    ------
    DamagedArtifact
        The archive is broken, larger than a limit, or has a name that points outside it.
    """
    try:
        members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
        total = 0
        for count, (name, size, read) in enumerate(members(archive), 1):
            if count > n_members:
                raise DamagedArtifact(f"{archive} has more than {n_members} entries; get it anew")
            if "\\" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise DamagedArtifact(f"{archive} names {name!r}, outside itself; do not use that archive")
            if not wanted(name):
                continue
            total += size
            if size > largest or total > n_bytes:
                raise DamagedArtifact(
                    f"{archive}: {name} makes it larger than expected ({size} bytes of at most {largest}, "
                    f"{total} of {n_bytes} in all); get it anew"
                )
            contents = read(largest + 1)
            if len(contents) != size:
                raise DamagedArtifact(f"{archive}: {name} has another size than the {size} bytes it claims")
            yield name, contents
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DamagedArtifact(f"{archive} is not a whole archive: {error}; get it anew") from error
    except (
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:  # the latter two: encrypted, or unknown packing
        raise DamagedArtifact(f"{archive} cannot be read: {error}; get it anew") from error


_Member: TypeAlias = tuple[str, int, Callable[[int], bytes]]


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
                continue

            def read(limit: int, info: zipfile.ZipInfo = info) -> bytes:
                with opened.open(info) as file:
                    return file.read(limit)

            yield info.filename, info.file_size, read


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, "r:*") as opened:
        for info in opened:
            file = opened.extractfile(info) if info.isreg() else None
            if file is not None:
                yield info.name, info.size, file.read
