"""Downloads against a real server on this machine that misbehaves on request."""

import hashlib
import io
import signal
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasklore.downloads import Place, Transfer, fetch, read_members
from tasklore.errors import DamagedArtifact, DownloadError

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
QUICK = Transfer(attempts=3, timeout=2.0, pause=0.0)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; ``faults`` are used up one by one, one for each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: list[str] = []
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file.bin"

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet: broken connections are the point here."""


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdecimal():
            self.send_error(int(fault))
            return
        if fault == "ftp":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/file.bin")
            self.end_headers()
            return
        if fault == "silent":
            self.connection.recv(1)  # until the client gives up
            return
        content = bytes(len(CONTENT)) if fault == "altered" else CONTENT
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and fault != "no ranges" else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if fault == "other range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if fault != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if fault in ("truncated", "no length", "dropped"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if fault == "endless":
            self.wfile.write(body)
        if fault == "dropped":
            # A reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has there
        """Stay quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def place(*urls: str, kind: str = "sha256", n_bytes: int = 2_000_000) -> Place:
    return Place("file.bin", urls, f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}", n_bytes)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_file_arrives_whole_and_is_not_fetched_twice(server: Server, tmp_path: Path, kind: str) -> None:
    told: list[tuple[int, int | None]] = []
    path = fetch(place(server.url, kind=kind), tmp_path / "a" / "b", progress=lambda *n: told.append(n))
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(place(server.url, kind=kind), path.parent) == path
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["truncated", "dropped", "no length"])
def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path, fault: str) -> None:
    server.faults = [fault]
    assert fetch(place(server.url), tmp_path, transfer=QUICK).read_bytes() == CONTENT
    # Without a length a short answer looks complete; the checksum tells, and the file is fetched anew.
    # After a reset some bytes may be lost on the way, but what has come is kept.
    resumed = server.asked[1]
    if fault == "truncated":
        assert resumed == f"bytes={len(CONTENT) // 2}-"
    elif fault == "no length":
        assert resumed is None
    assert len(server.asked) == 2


def test_a_later_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.faults = ["truncated", "500"]
    with pytest.raises(DownloadError, match=r"ended after 512000 of 1024000 bytes; .* answered 500"):
        fetch(place(server.url), tmp_path, transfer=Transfer(attempts=2, pause=0.0))
    assert not (tmp_path / "file.bin").exists()
    assert fetch(place(server.url), tmp_path, transfer=QUICK).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=512000-"


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.faults = ["truncated", "no ranges"]
    assert fetch(place(server.url), tmp_path, transfer=QUICK).read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_dropped(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / f".file.bin.{digest[:12]}.partial").write_bytes(CONTENT + b"more")
    assert fetch(place(server.url), tmp_path, transfer=QUICK).read_bytes() == CONTENT


def test_errors_that_may_pass_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.faults = ["503", "silent"]
    quick = Transfer(attempts=3, timeout=0.2, pause=0.0)
    assert fetch(place(server.url), tmp_path, transfer=quick).read_bytes() == CONTENT


def test_an_altered_file_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.faults = ["altered"] * 3
    with pytest.raises(DownloadError, match=r"the file has sha256 .* published is"):
        fetch(place(server.url), tmp_path, transfer=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["404"], "answered 404"),
        (["ftp"], "redirected to ftp|unknown url type|no connection"),
        (["truncated", "other range"], "asked for bytes from 512000 on"),
    ],
)
def test_what_cannot_work_is_not_tried_again(
    server: Server, tmp_path: Path, faults: list[str], message: str
) -> None:
    server.faults = list(faults)
    with pytest.raises(DownloadError, match=message):
        fetch(place(server.url), tmp_path, transfer=Transfer(attempts=len(faults), timeout=2.0, pause=0.0))
    assert len(server.asked) == len(faults)


def test_the_next_address_is_tried(server: Server, tmp_path: Path) -> None:
    server.faults = ["404"]
    assert fetch(place(server.url, server.url + "?mirror"), tmp_path, transfer=QUICK).is_file()
    assert len(server.asked) == 2


def test_a_file_larger_than_expected_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="offers 1024000 bytes where at most 1000"):
        fetch(place(server.url, n_bytes=1000), tmp_path, transfer=QUICK)


def test_no_server_and_no_web_address_are_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file.bin"  # nobody listens
        with pytest.raises(DownloadError, match=r"no connection .* Without a network"):
            fetch(place(url), tmp_path, transfer=QUICK)
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    with pytest.raises(DownloadError, match="only http and https"):
        fetch(place(secret.as_uri()), tmp_path / "out", transfer=QUICK)


def test_a_disk_that_refuses_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match="cannot be written or read"):
        fetch(place(server.url), tmp_path / "file" / "below", transfer=QUICK)


def test_a_full_disk_is_told(server: Server, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # a limit on file sizes stands for a full disk
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(DownloadError, match=r"cannot be written or read: .* make room"):
            fetch(place(server.url), tmp_path, transfer=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert fetch(place(server.url), tmp_path, transfer=QUICK).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def as_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return path


def as_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.fixture(params=[as_zip, as_tar])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    return lambda members: request.param(tmp_path / "archive", members)


def test_archives_are_read_in_memory(pack: Callable[[dict[str, bytes]], Path], tmp_path: Path) -> None:
    archive = pack({"a/one": b"1", "b": b"22"})
    assert dict(read_members(archive, lambda name: True, largest=9, n_bytes=9)) == {"a/one": b"1", "b": b"22"}
    assert [name for name, _ in read_members(archive, {"b"}.__contains__, largest=9, n_bytes=9)] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a\\..\\out"])
def test_names_that_point_outside_are_refused(pack: Callable[[dict[str, bytes]], Path], name: str) -> None:
    with pytest.raises(DamagedArtifact, match="outside itself"):
        list(read_members(pack({name: b""}), lambda name: True, largest=9, n_bytes=9))


def test_bombs_are_refused(pack: Callable[[dict[str, bytes]], Path]) -> None:
    bomb = pack({"zeros": bytes(10_000_000), "more": bytes(10)})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(DamagedArtifact, match="larger than expected"):
        list(read_members(bomb, lambda name: True, largest=1_000_000, n_bytes=10**9))
    with pytest.raises(DamagedArtifact, match="larger than expected"):
        list(read_members(bomb, lambda name: True, largest=10**9, n_bytes=10_000_005))
    with pytest.raises(DamagedArtifact, match="more than 1 entries"):
        list(read_members(bomb, lambda name: False, largest=9, n_bytes=9, n_members=1))


def test_broken_archives_are_refused(pack: Callable[[dict[str, bytes]], Path], tmp_path: Path) -> None:
    whole = pack({"a": bytes(range(256)) * 100})
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "noise").write_bytes(b"neither of them")
    for name in ("cut", "noise", "absent"):
        with pytest.raises(DamagedArtifact, match="get it anew"):
            list(read_members(tmp_path / name, lambda name: True, largest=10**6, n_bytes=10**6))


def test_two_who_want_the_same_file_fetch_it_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as together:
        paths = list(together.map(lambda _: fetch(place(server.url), tmp_path, transfer=QUICK), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(server.asked) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]
