"""JSON with one spelling for each value, written and read strictly.

Content hashes need it: two equal values must give equal bytes on every machine. Files from elsewhere need it
too: what Python's reader lets pass (``NaN``, a key given twice, unbounded nesting) is refused here.
"""

import hashlib
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from .errors import InvalidData

__all__ = ["MAX_CHARACTERS", "MAX_DEPTH", "Json", "digest", "dumps", "loads", "plain"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_DEPTH = 64
"""How deeply lists and objects may be nested."""

MAX_CHARACTERS = 16 * 2**20
"""How long a JSON text may be."""


def plain(value: object, name: str = "value") -> Json:
    """Return a deep copy of ``value`` in JSON's own types.

    Parameters
    ----------
    value : object
        Any nesting of mappings with text keys, sequences, text, numbers (NumPy's too), truth values and
        ``None``.
    name : str
        How to call it in messages.

    Raises
    ------
    InvalidData
        Something in it has no exact JSON spelling: NaN, infinity, another type, a NUL or half a surrogate
        pair in a text, nesting deeper than :data:`MAX_DEPTH`. The message says where.
    """
    return _plain(value, name, 0)


def _plain(value: object, where: str, depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise InvalidData(f"{where[:80]}… is nested more than {MAX_DEPTH} levels deep; flatten it")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if not math.isfinite(number):
            raise InvalidData(
                f"{where} is {number}; only finite numbers can be stored, leave it out or use None"
            )
        return number
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {_key(key, where): _plain(item, f"{where}.{key}", depth + 1) for key, item in items.items()}
    kind = type(value).__name__
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        entries = cast("Sequence[object]", value)
        return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(entries)]
    raise InvalidData(
        f"{where} is a {kind}; only mappings, sequences, text, numbers, truth values "
        "and None can be stored (arrays and tensors as their .tolist())"
    )


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise InvalidData(f"{where} has the key {key!r}, a {type(key).__name__}; keys must be text")
    return _text(key, f"a key of {where}")


def _text(value: str, where: str) -> str:
    if "\x00" in value:
        raise InvalidData(f"{where} contains a NUL character, which databases cannot hold; remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidData(
            f"{where} contains half a surrogate pair, which is not valid text; remove it"
        ) from None
    return str(value)


def dumps(value: Json) -> str:
    """Return the one spelling of a :func:`plain` value: sorted keys, no spaces, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def loads(text: str | bytes, name: str = "the text", max_characters: int = MAX_CHARACTERS) -> Json:
    """Read JSON that may come from anywhere.

    Parameters
    ----------
    text : str or bytes
        Bytes must be UTF-8.
    name : str
        How to call it in messages.
    max_characters : int
        Longer texts are refused unread.

    Raises
    ------
    InvalidData
        It is not JSON, too long, too deep, or contains a repeated key, NaN, infinity or a number beyond all
        bounds.
    """
    if len(text) > max_characters:
        raise InvalidData(f"{name} is {len(text):,} characters long; the limit is {max_characters:,}")
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise InvalidData(f"{name} is nested more than {MAX_DEPTH} levels deep") from None
    except InvalidData as error:
        raise InvalidData(f"{name} {error}") from None
    except ValueError as error:  # broken JSON, broken UTF-8, or an integer of thousands of digits
        raise InvalidData(f"{name} is not valid JSON: {error}") from None
    return plain(value, name)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise InvalidData(f"gives the key {repeated!r} twice")
    return result


def _no_constant(constant: str) -> float:
    raise InvalidData(f"contains {constant}, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidData(f"contains the number {digits[:40]}, which no float can hold")
    return number


def digest(content: str | bytes) -> str:
    """Return the SHA-256 of ``content`` (text as UTF-8) as 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
