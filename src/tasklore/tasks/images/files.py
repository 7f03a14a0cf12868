"""Find the file of a data set, and read the formats that image data sets are published in."""

import gzip
import io
import lzma
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ...downloads import Place, cache_folder, fetch
from ...errors import DamagedArtifact, DownloadError, InvalidData, MissingDependency

__all__ = ["Bytes", "find", "places_looked", "read_idx", "read_npz", "read_picture", "obtain"]

Bytes: TypeAlias = npt.NDArray[np.uint8]


def places_looked(folder: str | None, under: str) -> list[Path]:
    """Return the folders where a data set may lie, the first one first.

    Parameters
    ----------
    folder : str, optional
        Given by the user; then no other one is looked into.
    under : str
        Where the data set lies in a data folder, for example ``"images/mnist"``.
    """
    if folder is not None:
        return [Path(folder).expanduser()]
    shared = os.environ.get("TASKLORE_DATA")
    return [*([Path(shared).expanduser() / under] if shared else []), cache_folder() / under]


def find(names: Sequence[str], folder: str | None, under: str) -> list[Path] | None:
    """Return the named files from the first folder that has them all, or None."""
    for home in places_looked(folder, under):
        files = [home / name for name in names]
        if all(file.is_file() for file in files):
            return files
    return None


def obtain(places: Sequence[Place], folder: str | None, under: str, *, download: bool) -> list[Path]:
    """Find published files, or fetch them from where they were published.

    Raises
    ------
    DownloadError
        They are nowhere, and may not or cannot be fetched.
    """
    names = [place.name for place in places]
    if found := find(names, folder, under):
        return found
    looked = places_looked(folder, under)
    if not download or folder is not None:
        other = "give no folder and let them be fetched" if folder is not None else "set download = true"
        raise DownloadError(
            f"{', '.join(names)}: not found in {' or '.join(map(str, looked))}; "
            f"set TASKLORE_DATA to a folder that has them under {under}/, or {other}"
        )
    return [fetch(place, looked[-1]) for place in places]


def read_npz(path: Path, names: Iterable[str]) -> Mapping[str, np.ndarray]:
    """Read some arrays of a .npz file.

    Raises
    ------
    DamagedArtifact
        It is broken, lacks one of them, or holds Python objects.
    """
    try:
        with np.load(path) as data:
            return {name: data[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise DamagedArtifact(f"{path} cannot be read: {error}; get it anew") from error


def read_idx(path: Path) -> Bytes:
    """Read bytes in the format of MNIST: two zeros, the type, the number of axes, their lengths, the data.

    Parameters
    ----------
    path : Path
        As published, or compressed with gzip.

    Raises
    ------
    DamagedArtifact
        It is of another format, or its length is not what its head says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
                raise DamagedArtifact(f"{path} is not an idx file of bytes; get it anew")
            shape = tuple(np.frombuffer(file.read(4 * head[3]), dtype=">u4").tolist())
            n_bytes = math.prod(shape)
            if len(shape) != head[3] or n_bytes > 1 << 30:
                raise DamagedArtifact(f"{path} claims the shape {shape}; get it anew")
            data = file.read(n_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedArtifact(f"{path} cannot be read: {error}; get it anew") from error
    if len(data) != n_bytes:
        relation = "fewer" if len(data) < n_bytes else "more"
        raise DamagedArtifact(f"{path} has {relation} bytes than its shape {shape} needs; get it anew")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def read_picture(source: Path | bytes, name: str, mode: Literal["L", "RGB"], size: int, ink: bool) -> Bytes:
    """Read one image file as a square of pixels.

    Parameters
    ----------
    source : Path or bytes
    name : str
        For error messages.
    mode : {"L", "RGB"}
        Grey or coloured.
    size : int
        Height and width; other shapes are stretched.
    ink : bool
        Whether to turn black on white into 255 on 0.

    Returns
    -------
    ndarray of uint8, shape (channels, size, size)

    Raises
    ------
    InvalidData
        It is no image, is broken, or is too large.
    MissingDependency
        Pillow is not installed.
    """
    try:
        from PIL import Image, ImageChops, ImageOps
    except ImportError as error:
        raise MissingDependency("reading images needs Pillow: pip install 'tasklore[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                upright = _in_bytes(ImageOps.exif_transpose(image)).convert(mode)
        if ink:
            upright = ImageChops.invert(upright)
        pixels = np.asarray(upright.resize((size, size), Image.Resampling.BOX if ink else None))
    # SyntaxError is what Pillow raises for some broken PNG files.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        zlib.error,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise InvalidData(f"{name} is not an image that can be read: {error}; mend or remove it") from error
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _in_bytes(image: Any) -> Any:
    """Return a picture whose values have eight bits, and which is not transparent but on white paper.

    Pillow's own conversion cuts larger values off at 255, and takes what is transparent for black. Of values
    with more bits the whole range counts, 0 to 65,535 (of fractions 0 to 1), so that all pictures are alike.
    """
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values, most = np.asarray(image, dtype=np.float64), 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= most):  # nor where some are no numbers
            raise ValueError(
                f"its values run from {values.min():g} to {values.max():g}, not from 0 to {most:g}: save it "
                "with eight bits"
            )
        return Image.fromarray(np.round(255 * values / most).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image)
    return image
