"""Tensors and settings in one file that can be trusted, or is refused.

A plain ``.safetensors`` file, readable by every program that reads those; nothing in it can run. Its header
carries, under the one key ``"tasklore"``, a JSON text: the schema version, the kind of artifact, the caller's
metadata, and a SHA-256 over all of these and the tensors, so that a flipped bit is found. Equal contents give
equal bytes.
"""

import hashlib
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from .canonical import Json, digest, dumps, loads, plain
from .errors import DamagedArtifact, InvalidData, StoreError
from .files import replacing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["file_checksum", "load_arrays", "load_artifact", "save_artifact"]

SCHEMA = 1

_KEY = "tasklore"
_MAX_HEADER = 64 * 2**20
_LENGTH = struct.Struct("<Q")
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save writes them; pickles can run code and are never opened",
    b"\x80\x02": "a pickle; pickles can run code and are never opened",
    b"\x80\x03": "a pickle; pickles can run code and are never opened",
    b"\x80\x04": "a pickle; pickles can run code and are never opened",
    b"\x80\x05": "a pickle; pickles can run code and are never opened",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUM": "a NumPy array file",
    b"SQLite format 3\x00": "an SQLite database",
    b"\x1f\x8b": "a gzip archive",
}


def save_artifact(
    path: str | Path, tensors: "Mapping[str, Tensor | np.ndarray]", metadata: Mapping[str, Any], kind: str
) -> str:
    """Write tensors and metadata to one file, whole or not at all.

    Parameters
    ----------
    path : str or path
        Conventionally ends in ``.safetensors``. A file that is there is replaced in one step, so that a crash
        leaves the old one or the new one.
    tensors : mapping of str to Tensor or ndarray
        Any shapes, dense, of the number types that safetensors knows; copied to the CPU.
    metadata : mapping
        JSON values.
    kind : str
        What this is, for example ``"prior"`` or ``"checkpoint"``; asked for again when loading.

    Returns
    -------
    str
        SHA-256 of the file, 64 hexadecimal digits, as ``sha256sum`` prints it.

    Raises
    ------
    InvalidData
        A name, a tensor or the metadata cannot be stored exactly.
    StoreError
        The file cannot be written.
    """
    content = _encode(tensors, metadata, kind)
    path = Path(path)
    try:
        with replacing(path) as file:
            file.write(content)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StoreError(f"the artifact cannot be written to {str(path)!r}: {error}") from error
    return digest(content)


def load_artifact(
    path: str | Path, kind: str, expected_checksum: str | None = None
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read what :func:`save_artifact` wrote, checking all of it before any of it is used.

    Parameters
    ----------
    path : str or path
    kind : str
        What the caller can use; anything else is refused.
    expected_checksum : str, optional
        What :func:`save_artifact` returned, from the experience store.

    Returns
    -------
    tensors : dict of str to Tensor
        On the CPU.
    metadata : dict

    Raises
    ------
    DamagedArtifact
        There is no such file, or it is not exactly what was written. The message says what is wrong with it.
    """
    import safetensors.torch

    return _load(path, kind, expected_checksum, safetensors.torch.load)


def load_arrays(
    path: str | Path, kind: str, expected_checksum: str | None = None
) -> "tuple[dict[str, np.ndarray], dict[str, Any]]":
    """Do what :func:`load_artifact` does, with NumPy arrays, and without importing torch."""
    import safetensors.numpy

    return _load(path, kind, expected_checksum, safetensors.numpy.load)


T = TypeVar("T")


def _load(
    path: str | Path, kind: str, expected_checksum: str | None, read: Callable[[bytes], dict[str, T]]
) -> tuple[dict[str, T], dict[str, Any]]:
    from safetensors import SafetensorError

    path = Path(path)
    content = _read_regular_file(path)
    if expected_checksum is not None and digest(content) != expected_checksum:
        raise DamagedArtifact(
            f"{path} has the SHA-256 {digest(content)}, and {expected_checksum} was remembered: "
            "it was altered or replaced; restore it from a copy, or train again"
        )
    header = _parse(content, path)
    _check_document(header, kind, path)
    try:
        tensors = read(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedArtifact(
            f"{path} does not hold the tensors that its header promises: {error}"
        ) from error
    return tensors, cast("dict[str, Any]", header.document["metadata"])


def file_checksum(path: str | Path) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    DamagedArtifact
        It is missing, unreadable, or no regular file.
    """
    return digest(_read_regular_file(Path(path)))


class _Header(NamedTuple):
    tensors: dict[str, Json]  # name -> dtype, shape and place
    document: dict[str, Json]  # schema, kind, metadata, sha256
    data: memoryview


def _encode(tensors: "Mapping[str, Tensor | np.ndarray]", metadata: Mapping[str, Any], kind: str) -> bytes:
    document = plain({"schema": SCHEMA, "kind": kind, "metadata": metadata}, "the artifact")
    body = _body({_name(name): tensor for name, tensor in tensors.items()})
    (length,) = _LENGTH.unpack_from(body)
    places = cast(
        "dict[str, Json]", loads(body[_LENGTH.size : _LENGTH.size + length], "the header", _MAX_HEADER)
    )
    data = memoryview(body)[_LENGTH.size + length :]
    document = {
        **cast("dict[str, Json]", document),
        "sha256": _seal(places, cast("dict[str, Json]", document), data),
    }
    header = dumps({**places, "__metadata__": {_KEY: dumps(document)}}).encode("ascii")
    header += b" " * (-len(header) % 8)  # the format wants its data aligned
    if len(header) > _MAX_HEADER:
        raise InvalidData(f"names and metadata take {len(header):,} bytes; the limit is {_MAX_HEADER:,}")
    return b"".join((_LENGTH.pack(len(header)), header, data))


def _body(tensors: "Mapping[str, Tensor | np.ndarray]") -> bytes:
    import numpy as np

    arrays = {name: value for name, value in tensors.items() if isinstance(value, np.ndarray)}
    if len(arrays) == len(tensors) and all(value.dtype.kind in "iufb" for value in arrays.values()):
        import safetensors.numpy  # which needs no torch

        whole = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in arrays.items()}
        return safetensors.numpy.save(whole)
    import safetensors.torch

    return safetensors.torch.save({name: _dense(name, value) for name, value in tensors.items()})


def _name(name: object) -> str:
    if not isinstance(name, str) or name == "__metadata__":
        raise InvalidData(f"{name!r} cannot name a tensor; use any other text")
    plain(name, f"the tensor name {name!r}")
    return name


def _dense(name: str, value: object) -> "Tensor":
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        try:
            value = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
        except TypeError as error:
            raise InvalidData(
                f"{name!r} is an array of {value.dtype}; only numbers and truth values can be stored"
            ) from error
    if not isinstance(value, torch.Tensor):
        raise InvalidData(f"{name!r} is a {type(value).__name__}; it must be a tensor or an array")
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise InvalidData(f"{name!r} is not a dense tensor with values; convert it first")
    return (
        value.detach().cpu().contiguous().clone()
    )  # cloned, as the format refuses tensors that share memory


def _read_regular_file(path: Path) -> bytes:
    try:
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else None
    except FileNotFoundError:
        raise DamagedArtifact(f"{path} does not exist; check the path, or train again") from None
    except NotADirectoryError:
        raise DamagedArtifact(f"{path} does not exist: a part of its path is a file, not a folder") from None
    except PermissionError:
        raise DamagedArtifact(f"{path} may not be read by this user; change its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DamagedArtifact(f"{str(path)!r} cannot be read: {error}") from error
    if content is None:
        raise DamagedArtifact(f"{path} is {_what(mode)}, not a regular file; give the file itself")
    return content


def _what(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a pipe, socket or device"


def _parse(content: bytes, path: Path) -> _Header:
    for beginning, what in _FOREIGN.items():
        # The length of an honest header may begin with the same two bytes as a pickle, but then JSON follows.
        if content.startswith(beginning) and content[_LENGTH.size : _LENGTH.size + 1] != b"{":
            raise DamagedArtifact(f"{path} is {what}; give a .safetensors file that Tasklore wrote")
    if len(content) < _LENGTH.size:
        raise DamagedArtifact(
            f"{path} is {len(content)} bytes long, too short for any artifact: it is empty or cut short"
        )
    (length,) = _LENGTH.unpack_from(content)
    if length > _MAX_HEADER and content[_LENGTH.size : _LENGTH.size + 1] != b"{":
        raise DamagedArtifact(f"{path} is no .safetensors file; give one that Tasklore wrote")
    if length > _MAX_HEADER:
        raise DamagedArtifact(
            f"{path} announces a header of {length:,} bytes; the limit is {_MAX_HEADER:,}: no artifact"
        )
    if length > len(content) - _LENGTH.size:
        raise DamagedArtifact(
            f"{path} announces a header of {length:,} bytes and ends before it does: it was cut short"
        )
    try:
        header = loads(content[_LENGTH.size : _LENGTH.size + length], "its header", _MAX_HEADER)
    except InvalidData as error:
        raise DamagedArtifact(f"{path} is not an artifact: {error}") from error
    extra = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(header, dict) or not isinstance(extra, dict) or not isinstance(extra.get(_KEY), str):
        raise DamagedArtifact(f"{path} was not written by Tasklore: its header has no {_KEY!r} entry")
    try:
        document = loads(cast("str", extra[_KEY]), "its metadata")
    except InvalidData as error:
        raise DamagedArtifact(f"{path} has unreadable metadata: {error}") from error
    if not isinstance(document, dict):
        raise DamagedArtifact(f"{path} has metadata that is a {type(document).__name__}, not an object")
    return _Header(header, document, memoryview(content)[_LENGTH.size + length :])


def _check_document(header: _Header, kind: str, path: Path) -> None:
    document = header.document
    schema = document.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise DamagedArtifact(f"{path} gives {schema!r} as its schema version, which never existed")
    if schema > SCHEMA:
        raise DamagedArtifact(
            f"{path} has schema {schema}, this version of Tasklore reads up to {SCHEMA}; upgrade Tasklore"
        )
    lacking = {"kind", "metadata", "sha256"} - document.keys()
    if lacking:
        raise DamagedArtifact(f"{path} lacks {', '.join(sorted(lacking))} in its metadata")
    if not isinstance(document["metadata"], dict):
        raise DamagedArtifact(f"{path} has metadata that is not an object")
    unsealed = {key: value for key, value in document.items() if key != "sha256"}
    if _seal(header.tensors, unsealed, header.data) != document["sha256"]:
        raise DamagedArtifact(
            f"{path} does not match its own checksum: bits of it changed, or it was cut short"
        )
    if document["kind"] != kind:
        raise DamagedArtifact(
            f"{path} is a {document['kind']!r}, and a {kind!r} is needed; give another file"
        )


def _seal(places: dict[str, Json], document: dict[str, Json], data: memoryview) -> str:
    sha = hashlib.sha256(dumps({"document": document, "tensors": places}).encode("ascii"))
    sha.update(b"\n")
    sha.update(data)
    return sha.hexdigest()
