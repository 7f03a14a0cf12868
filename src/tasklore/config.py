"""Settings in text form: a TOML file one level deep, whose sections are the fields of frozen dataclasses.

No includes, no inheritance, no expressions. An unknown key is an error that names the nearest known one; a
value of the wrong type says what is needed. :func:`to_settings` and :func:`from_settings` are each other's
inverse, so a saved artifact or a stored run can rebuild the very learner it used.
"""

import dataclasses
import numbers
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .canonical import Json
from .errors import InvalidSetting, UnknownName
from .registry import Registry

__all__ = ["build", "from_settings", "read_toml", "to_settings", "typed"]

T = TypeVar("T")


def read_toml(path: str | Path, sections: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Read a configuration file.

    Parameters
    ----------
    path : path
    sections : tuple of str
        The sections that may appear.

    Returns
    -------
    dict
        Every one of ``sections``; empty where the file does not mention it.

    Raises
    ------
    InvalidSetting
        The file is missing, is not TOML, or nests deeper than one level.
    UnknownName
        A section has another name.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        parsed = tomllib.loads(text)
    except OSError as error:
        raise InvalidSetting(f"cannot read {path}: {error.strerror}; give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path} is not valid TOML: {error}") from error
    for name, section in parsed.items():
        if name not in sections:
            raise UnknownName("section", name, sections)
        if not isinstance(section, dict):
            raise InvalidSetting(
                f"{path}: {name} is a single value; write a section [{name}] with keys below it"
            )
        for key, value in section.items():
            if isinstance(value, dict):
                raise InvalidSetting(f"{path}: [{name}] {key} is a table; a configuration is one level deep")
    return {name: parsed.get(name, {}) for name in sections}


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make an instance of a dataclass from plain values.

    Parameters
    ----------
    cls : type
        A dataclass.
    values : mapping
        Field names and TOML or JSON values; fields left out take their defaults.
    where : str
        How to call this in an error, for example ``"[train]"``.

    Raises
    ------
    UnknownName
        There is no such field; the nearest one is named.
    InvalidSetting
        A value has the wrong type, a field without a default is missing, or the class refuses a value.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # pyright: ignore[reportArgumentType]
    for key in values:
        if key not in fields:
            raise UnknownName(f"key in {where}", key, fields)
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and name not in values
    ]
    if missing:
        raise InvalidSetting(f"{where} lacks {', '.join(missing)}")
    return cls(**{key: _coerce(value, hints[key], f"{where} {key}") for key, value in values.items()})


def typed(instance: Any) -> None:
    """Bring the fields of a new frozen dataclass to the types that they are declared with.

    Raises
    ------
    InvalidSetting
        A value has the wrong type.
    """
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = _coerce(getattr(instance, field.name), hints[field.name], field.name)
        object.__setattr__(instance, field.name, value)


def from_settings(registry: Registry[Any], values: Mapping[str, Any], where: str) -> Any:
    """Build a registered dataclass from settings with its ``"name"``; the inverse of :func:`to_settings`."""
    rest = dict(values)
    name = rest.pop("name", None)
    if not isinstance(name, str):
        raise InvalidSetting(f"{where} needs a name; known are {', '.join(registry.names())}")
    return build(registry.get(name), rest, where)


def to_settings(instance: Any, registry: Registry[Any] | None = None) -> dict[str, Json]:
    """Return the fields of a dataclass as JSON values, with its registered name."""
    from .registry import nets

    settings: dict[str, Json] = {} if registry is None else {"name": registry.name_of(type(instance))}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            settings[field.name] = to_settings(value, nets)
        else:
            settings[field.name] = list(value) if isinstance(value, tuple) else value
    return settings


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(value, options, hint, where)
    if origin is typing.Literal:
        if value in options:
            return value
        raise InvalidSetting(f"{where} is {value!r}; use one of {', '.join(map(repr, options))}")
    if origin is tuple and isinstance(value, list | tuple):
        inner = options[:1] * len(value) if options[-1:] == (Ellipsis,) else options
        if len(inner) == len(value):
            return tuple(_coerce(item, kind, where) for item, kind in zip(value, inner, strict=True))
    elif hint is float and not isinstance(value, bool) and isinstance(value, numbers.Real):
        return float(value)
    elif hint is int and not isinstance(value, bool) and isinstance(value, numbers.Integral):
        return int(value)
    elif hint is type(None) and value is None:
        return None
    elif isinstance(hint, type) and isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    elif isinstance(hint, type) and isinstance(value, Mapping):  # a nested net, named like any other
        from .registry import nets

        built = from_settings(nets, typing.cast("Mapping[str, Any]", value), where)
        if isinstance(built, hint):
            return built
    raise InvalidSetting(f"{where} is {value!r}; it must be {_in_words(hint)}")


def _first_that_fits(value: Any, options: tuple[Any, ...], hint: Any, where: str) -> Any:
    for option in options:
        try:
            return _coerce(value, option, where)
        except InvalidSetting:
            continue
    raise InvalidSetting(f"{where} is {value!r}; it must be {_in_words(hint)}")


def _in_words(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(option) for option in options)
    if origin is tuple:
        return (
            f"a list of {_in_words(options[0])}s"
            if Ellipsis in options
            else f"a list of {len(options)} values"
        )
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "left out"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
