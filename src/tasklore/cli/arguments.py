"""What arguments of several commands mean: a collection with its settings, a file that must be there."""

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["check_is_there", "collection", "settings_of"]

OPTIONS = {"n_ways": "--ways", "n_shots": "--shots", "name": "--tasks"}
"""Settings of a collection that have an option of their own."""


def settings_of(tasks: str) -> dict[str, bool]:
    """Return the names of a collection's settings, and whether each has a default."""
    from ..registry import sources

    kind: Any = sources.get(tasks)
    return {
        field.name: not (field.default is field.default_factory is dataclasses.MISSING)
        for field in dataclasses.fields(kind)
        if field.init
    }


def collection(
    tasks: str,
    ways: int | None = None,
    shots: int | None = None,
    changes: Sequence[str] = (),
    learned: Mapping[str, Any] | None = None,
) -> Any:
    """Return a collection as options describe it.

    Parameters
    ----------
    tasks : str
        Its name.
    ways, shots : int, optional
        What was given as ``--ways`` and ``--shots``.
    changes : sequence of str
        What was given as ``--set``: ``KEY=VALUE``, with a value as in TOML, or text as it is.
    learned : mapping, optional
        Settings to begin with, its name included.

    Raises
    ------
    InvalidSetting
        It has no such setting, or refuses the value.
    """
    from ..config import from_settings
    from ..errors import InvalidSetting
    from ..registry import sources

    known = settings_of(tasks)
    settings: dict[str, Any] = dict(learned or {"name": tasks})
    for name, value in (("n_ways", ways), ("n_shots", shots)):
        if value is None:
            continue
        if name not in known:
            raise InvalidSetting(
                f"{OPTIONS[name]} is of no use here: {tasks} has no {name}; leave it out. It has "
                f"{', '.join(known)}"
            )
        settings[name] = value
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InvalidSetting(f"--set {change} sets nothing; write --set KEY=VALUE")
        if name in OPTIONS:
            raise InvalidSetting(
                f"--set {change}: there is an option for that, {OPTIONS[name]}; give it instead"
            )
        settings[name] = _value(text.strip())
    if lacking := [name for name, has_default in known.items() if not has_default and name not in settings]:
        raise InvalidSetting(
            f"{tasks} needs {', '.join(lacking)}, which has no default; `tasklore compare` takes it as "
            f"--set {lacking[0]}=VALUE, and a settings file in [tasks]"
        )
    return from_settings(sources, settings, f"the settings of {tasks}")


def _value(text: str) -> Any:
    """Return a value as TOML has it; what is none is text."""
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if list(read) == ["value"] else text


def check_is_there(path: Path, what: str) -> None:
    """Raise ``InvalidSetting`` if no such file exists; what is wrong with one that does is another matter.

    Parameters
    ----------
    path : Path
    what : str
        What is needed, for example ``"a prior"``.
    """
    from ..errors import InvalidSetting

    if not os.path.lexists(path):
        raise InvalidSetting(f"{path} does not exist; give the path of {what}")
    if path.is_dir():
        raise InvalidSetting(f"{path} is a folder; give the path of {what}")
