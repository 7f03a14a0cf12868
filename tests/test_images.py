"""Image collections, read from small files in the formats that they are published in."""

import gzip
import io
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tasklore.tasks.images.cifar as cifar
import tasklore.tasks.images.mnist as mnist
import tasklore.tasks.images.omniglot as omniglot
from tasklore.downloads import Place
from tasklore.errors import DamagedArtifact, DownloadError, InvalidData, InvalidSetting
from tasklore.tasks.few_shot import FewShotSource
from tasklore.tasks.images import (
    CifarFS,
    ImageFolder,
    Mnist,
    Omniglot,
    load_mnist,
    read_folder,
    read_picture,
)
from tasklore.testing.source import check_splits

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


# Writing what was published


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = head + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, suffix: str = ".gz") -> dict[str, np.ndarray]:
    parts = {
        "train-images-idx3-ubyte": noise(300, 28, 28),
        "train-labels-idx1-ubyte": np.arange(300, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": noise(200, 28, 28),
        "t10k-labels-idx1-ubyte": np.arange(200, dtype=np.uint8) % 10,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in parts.items():
        write_idx(folder / f"{name}{suffix}", array)
    return parts


NAMES = tuple(sorted(cifar.TRAIN + cifar.VALIDATION + cifar.TEST))


def write_cifar(folder: Path, each: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Write the archive of the binary version; return its images and labels."""
    y = np.repeat(np.arange(100, dtype=np.uint8), each)
    x = noise(len(y), 3, 32, 32)
    rows = np.concatenate([np.zeros((len(y), 1), np.uint8), y[:, None], x.reshape(len(y), -1)], axis=1)
    train = np.arange(len(y)) % 6 > 0
    contents = {
        "train.bin": rows[train].tobytes(),
        "test.bin": rows[~train].tobytes(),
        "fine_label_names.txt": "\n".join(NAMES).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "cifar-100-binary.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    order = np.concatenate([np.flatnonzero(train), np.flatnonzero(~train)])
    return x[order], y[order]


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_omniglot(folder: Path) -> None:
    """Write both archives: 3 and 2 alphabets of 4 characters, drawn by 20, black on white."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, alphabets in (("background", "ABC"), ("evaluation", "DE")):
        with zipfile.ZipFile(folder / f"images_{split}.zip", "w") as archive:
            for a, alphabet in enumerate(alphabets):
                for character in range(1, 5):
                    for drawer in range(1, 21):
                        page = np.full((105, 105), 255, np.uint8)
                        page[5 * drawer - 2 : 5 * drawer + 3, 20 * character :] = 0  # unlike any other
                        name = f"{alphabet}/character{character:02}/{a}{character:03}_{drawer:02}.png"
                        archive.writestr(f"images_{split}/{name}", png(page))


def write_folder(folder: Path, n_classes: int = 10, each: int = 8, mode: str = "RGB") -> None:
    for label in range(n_classes):
        (folder / f"class {label}").mkdir(parents=True)
        for index in range(each):
            size = (12, 17, 3) if mode == "RGB" else (12, 17)
            (folder / f"class {label}" / f"{index}.png").write_bytes(png(noise(*size)))


# Reading it


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_mnist_has_three_parts_and_is_normalised(tmp_path: Path, suffix: str) -> None:
    parts = write_mnist(tmp_path, suffix)
    read = load_mnist(str(tmp_path), n_validation=50)
    assert [len(part.y) for part in read] == [250, 50, 200]
    assert read.train.x.shape == (250, 1, 28, 28)
    expected = (parts["t10k-images-idx3-ubyte"] / 255 - 0.1307) / 0.3081  # the usual numbers
    np.testing.assert_allclose(read.test.x[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(read.test.y, torch.arange(200) % 10)
    together = torch.cat([read.train.x, read.validation.x])
    assert len(torch.unique(together.flatten(1), dim=0)) == 300
    with pytest.raises(InvalidSetting, match="1 to 299 training images"):
        load_mnist(str(tmp_path), n_validation=300)


def test_mnist_as_tasks(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    splits = Mnist(n_queries=5, folder=str(tmp_path)).splits()
    check_splits(splits)
    assert isinstance(splits.test, FewShotSource)
    assert {label for label, _ in splits.test.variants} == set(range(5, 10))
    assert len(splits.test.examples.y) == 200, "test tasks come from the test images"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-3], "fewer bytes"),
        (lambda b: b + b"x", "more bytes"),
        (lambda b: b"\1" + b[1:], "not an idx file"),
        (lambda b: b[:2] + b"\x0d" + b[3:], "not an idx file"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "claims the shape"),
        (lambda b: b"", "not an idx file"),
    ],
)
def test_damaged_idx_files_are_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    write_mnist(tmp_path, "")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamagedArtifact, match=message):
        load_mnist(str(tmp_path))


def test_cifar_fs_has_the_published_classes_and_both_forms_agree(tmp_path: Path) -> None:
    x, y = write_cifar(tmp_path / "published")
    splits = CifarFS(n_queries=5, folder=str(tmp_path / "published")).splits()
    check_splits(splits)
    assert [len(side.classes) for side in splits] == [64, 16, 20]
    assert len(set(NAMES)) == 100
    assert isinstance(splits.test, FewShotSource)
    assert torch.equal(splits.test.examples.x, torch.from_numpy(x))
    assert splits.test.examples.y.tolist() == y.tolist()

    packed = x.copy()  # the reverse of the loader's sums, written independently with numpy's differences
    packed[:, 0] -= packed[:, 1]
    packed[:, 2] -= packed[:, 1]
    packed = np.diff(packed, axis=-2, prepend=np.uint8(0))
    packed = np.diff(packed, axis=-1, prepend=np.uint8(0))
    (tmp_path / "packed").mkdir()
    half = len(y) // 2
    for name, part in (("a", slice(None, half)), ("b", slice(half, None))):
        np.savez(
            tmp_path / "packed" / f"cifar100_train_{name}.npz",
            d=packed[part],
            y=y[part],
            names=np.array(NAMES),
        )
    again = CifarFS(n_queries=5, folder=str(tmp_path / "packed")).splits()
    assert again.test.fingerprint == splits.test.fingerprint
    np.savez(
        tmp_path / "packed" / "cifar100_train_b.npz", d=packed[half:, :1], y=y[half:], names=np.array(NAMES)
    )
    with pytest.raises(DamagedArtifact, match="must be bytes of shape"):
        CifarFS(folder=str(tmp_path / "packed")).splits()


def test_a_cifar_archive_that_ends_early_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, each=6)
    archive = tmp_path / "cifar-100-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(DamagedArtifact, match="get it anew"):
        CifarFS(folder=str(tmp_path)).splits()


def test_omniglot_is_read_from_the_published_archives(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TASKLORE_DATA", raising=False)
    write_omniglot(tmp_path)
    characters = omniglot.load_characters(str(tmp_path))
    assert characters.images.shape == (20, 20, 28, 28)
    assert list(characters.split[[0, -1]]) == ["background", "evaluation"]
    # 20 columns of 105 are blank before character 1, 80 before character 4: most of the ink is to the right.
    assert characters.images[0, 0, :, -1].max() == 255
    assert characters.images[0, 0, :, 0].max() == 0
    splits = Omniglot(n_ways=3, split="alphabets").sides(characters)
    assert sorted(index for side in splits for index in side) == list(range(20))
    assert splits[2] == list(range(12, 20))
    with pytest.raises(DownloadError):  # what a user names may be anything, and is not kept for everyone
        omniglot.load_characters(download=False)
    (tmp_path / "all" / omniglot.UNDER).parent.mkdir(parents=True)
    (tmp_path / "all" / omniglot.UNDER).symlink_to(tmp_path)
    monkeypatch.setenv("TASKLORE_DATA", str(tmp_path / "all"))
    omniglot.load_characters()
    monkeypatch.delenv("TASKLORE_DATA")
    packed = omniglot.load_characters()  # what was read once lies packed in the cache
    np.testing.assert_array_equal(packed.images, characters.images)


def test_a_folder_of_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine")
    (tmp_path / "mine" / "class 0" / "notes.txt").write_text("left alone")
    splits = ImageFolder(str(tmp_path / "mine"), size=10, n_ways=2, n_queries=3).splits()
    check_splits(splits)
    assert [len(side.classes) for side in splits] == [6, 2, 2]
    assert splits.train.spec.input_shape == (3, 10, 10)
    episodes, _ = splits.train.episodes(0, "a", 0, 2)
    assert float(episodes.support.x.abs().max()) <= 1.0
    grey = read_folder(tmp_path / "mine", size=12, grey=True)
    assert grey.x.shape == (80, 1, 12, 12)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "class 1" / "0.png").write_bytes(b"nothing"), "0.png is not an image"),
        (lambda f: (f / "empty").mkdir(), "empty holds no images"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(
    tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    write_folder(tmp_path, 2, 2)
    spoil(tmp_path)
    with pytest.raises(InvalidData, match=message):
        read_folder(tmp_path)


def test_folders_and_shares_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="is not a folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(InvalidData, match="has 0 subfolders"):
        read_folder(tmp_path)
    with pytest.raises(InvalidSetting, match="size is 0"):
        read_folder(tmp_path, size=0)
    write_folder(tmp_path, 4, 2)
    with pytest.raises(InvalidSetting, match="must be positive"):
        ImageFolder(str(tmp_path), train=0.9, validation=0.2).splits()
    with pytest.raises(InvalidSetting, match="lower n_ways"):
        ImageFolder(str(tmp_path), n_ways=5, n_queries=1).splits()


# Fetching it


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        """Stay quiet."""


def test_a_collection_is_fetched_once_verified_and_kept(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server on this machine in the place of the official one."""
    import hashlib

    monkeypatch.delenv("TASKLORE_DATA", raising=False)
    write_mnist(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}"
            places = tuple(
                Place(
                    place.name,
                    (f"{address}/{place.name}",),
                    "sha256:" + hashlib.sha256((tmp_path / place.name).read_bytes()).hexdigest(),
                    place.n_bytes,
                )
                for place in mnist.PLACES
            )
            monkeypatch.setattr(mnist, "PLACES", places)
            with pytest.raises(DownloadError, match=r"set TASKLORE_DATA .* or set download = true"):
                load_mnist(download=False)
            first = load_mnist(n_validation=50)
        finally:
            server.shutdown()
            thread.join()
    again = load_mnist(n_validation=50)  # the server is gone
    assert torch.equal(again.train.x, first.train.x)
    assert sorted(path.name for path in (home / "data" / "images" / "mnist").iterdir()) == sorted(
        mnist.SHA256
    )


def written(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def test_values_of_more_bits_keep_their_proportions() -> None:
    deep = Image.fromarray(np.array([[0, 1000], [30000, 65535]], dtype=np.uint16))
    assert read_picture(written(deep), "deep", "L", 2, False).tolist() == [[[0, 4], [117, 255]]]
    shares = Image.fromarray(np.array([[0.0, 0.5], [1.0, 0.25]], dtype=np.float32))
    assert read_picture(written(shares, "TIFF"), "shares", "L", 2, False).tolist() == [[[0, 128], [255, 64]]]
    wild = Image.fromarray(np.array([[0.0, 300.0]], dtype=np.float32))
    with pytest.raises(
        InvalidData, match=r"wild is not an image .* run from 0 to 300, not from 0 to 1: save it"
    ):
        read_picture(written(wild, "TIFF"), "wild", "L", 2, False)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_paper(mode: str) -> None:
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0, 3] = 255  # one dot of black ink
    picture = Image.fromarray(pixels).convert(mode)
    if mode == "P":
        picture = Image.fromarray(np.array([[0, 1], [1, 1]], dtype=np.uint8)).convert("P")
        picture.putpalette([0, 0, 0, 9, 9, 9])
        picture.info["transparency"] = 1
    assert read_picture(written(picture), "ink", "L", 2, False).tolist() == [[[0, 255], [255, 255]]]
