"""One registry for every kind of named thing: learners, task sources, nets.

An outsider adds a name in either of two ways: the decorator, in a file given as ``--plugin``, or an entry
point in the group ``tasklore.<kind>s`` of an installed package. Names are looked up late, so that listing
them stays cheap.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from .errors import InvalidSetting, UnknownName

__all__ = ["Registry", "learners", "nets", "sources"]

T = TypeVar("T")
Entry = TypeVar("Entry")  # what is decorated keeps its own type


class Registry(Generic[T]):
    """Names for one kind of thing.

    Parameters
    ----------
    kind : str
        What is registered, in the singular; used in error messages and as the entry point group.
    home : sequence of str
        Modules of this package whose import registers the built-in names, imported at the first look-up.

    Examples
    --------
    >>> shapes = Registry("shape")
    >>> @shapes.register("circle")
    ... class Circle: ...
    >>> shapes.names()
    ['circle']
    >>> shapes.get("cirle")
    Traceback (most recent call last):
        ...
    tasklore.errors.UnknownName: no shape is called 'cirle': did you mean 'circle'? known are circle
    """

    def __init__(self, kind: str, home: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._home = home
        self._entries: dict[str, T] = {}
        self._loaded = not home

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that files a class or function under ``name``.

        Raises
        ------
        InvalidSetting
            The name is taken by something else.
        """

        def decorate(entry: Entry) -> Entry:
            taken = self._entries.get(name)
            if taken is not None and _origin(taken) != _origin(entry):
                raise InvalidSetting(
                    f"the {self.kind} name {name!r} is taken by {_origin(taken)}; "
                    f"choose another name for {_origin(entry)}"
                )
            self._entries[name] = cast("T", entry)
            return entry

        return decorate

    def get(self, name: str) -> T:
        """Return what is filed under ``name``.

        Raises
        ------
        UnknownName
            Nothing is; the message names the nearest known name.
        """
        self._load()
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> list[str]:
        """Return all names in alphabetical order."""
        self._load()
        return sorted(self._entries)

    def name_of(self, entry: T) -> str:
        """Return the name that ``entry`` is filed under.

        Raises
        ------
        UnknownName
            It is not registered.
        """
        self._load()
        for name, known in self._entries.items():
            if known is entry:
                return name
        raise UnknownName(self.kind, str(entry), self._entries)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in self._home:
            importlib.import_module(module)
        for point in importlib.metadata.entry_points(group=f"tasklore.{self.kind}s"):
            self.register(point.name)(point.load())


def _origin(entry: object) -> str:
    return f"{getattr(entry, '__module__', '?')}.{getattr(entry, '__qualname__', entry)}"


learners: Registry[type] = Registry("learner", home=("tasklore.learners",))
sources: Registry[Callable[..., object]] = Registry("source", home=("tasklore.tasks",))
nets: Registry[type] = Registry("net", home=("tasklore.nets", "tasklore.modules"))
