"""Every error that Tasklore raises on purpose.

::

    TaskloreError
    ├── InvalidData            (ValueError)      the examples: shape, NaN, empty, one class, too many classes
    ├── InvalidSetting         (ValueError)      an argument or a config value that cannot work
    │   └── UnknownName        (also LookupError) no such learner, source, field …; names the nearest one
    ├── MissingDependency      (ImportError)     an optional package is needed; says what to install
    ├── DamagedArtifact        (ValueError)      a file is truncated, altered, foreign, or of another version
    ├── StoreError             (RuntimeError)    the experience store cannot be read or written
    ├── DownloadError          (OSError)         no network, wrong checksum, or a broken transfer
    ├── NumericalFailure       (ArithmeticError) a loss or gradient became NaN or infinite during training
    ├── CheckFailed            (AssertionError)  a public check found a learner, source or store at fault
    └── Interrupted            (RuntimeError)    stopped from outside after saving; says how to resume

A message says what was given, what is needed, and what to do. Each leaf is also the built-in class that a
caller would expect, so ``except ValueError`` keeps working.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckFailed",
    "DamagedArtifact",
    "DownloadError",
    "Interrupted",
    "InvalidData",
    "InvalidSetting",
    "MissingDependency",
    "NumericalFailure",
    "StoreError",
    "TaskloreError",
    "UnknownName",
]


class TaskloreError(Exception):
    """Root of all errors raised on purpose by Tasklore."""


class InvalidData(TaskloreError, ValueError):
    """The examples given cannot be learned from as they are."""


class InvalidSetting(TaskloreError, ValueError):
    """A setting cannot work, alone or together with another one."""


class UnknownName(InvalidSetting, LookupError):
    """A name that nothing is registered under.

    Parameters
    ----------
    kind : str
        What was looked for, for example ``"learner"``.
    name : str
        The name that was given.
    known : iterable of str
        All names that would have been found.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        super().__init__(f"no {kind} is called {name!r}: {hint}known are {', '.join(names) or 'none'}")
        self.kind, self.name = kind, name


class MissingDependency(TaskloreError, ImportError):
    """An optional package is needed for what was asked."""


class DamagedArtifact(TaskloreError, ValueError):
    """A file on disk is not what it claims to be; nothing of it was used."""


class StoreError(TaskloreError, RuntimeError):
    """The experience store cannot be opened, read or written."""


class DownloadError(TaskloreError, OSError):
    """A data set could not be fetched whole and unaltered."""


class NumericalFailure(TaskloreError, ArithmeticError):
    """A loss or a gradient became NaN or infinite; the state before that step is kept."""


class CheckFailed(TaskloreError, AssertionError):
    """A public check suite found a contract broken; the message says which and how."""


class Interrupted(TaskloreError, RuntimeError):
    """Work was stopped from outside after its state was saved; the message says how to go on."""
