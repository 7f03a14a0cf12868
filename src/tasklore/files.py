"""Files that are written whole or not at all, and tables that are read without guessing."""

import contextlib
import os
import secrets
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from .errors import InvalidData, InvalidSetting

__all__ = ["alone", "reason_of", "replacing", "table_from_csv"]


@contextlib.contextmanager
def alone(folder: Path, busy: str = "") -> Generator[None]:
    """Be the only process that asks for a folder; where that cannot be told, go ahead.

    Parameters
    ----------
    folder : Path
    busy : str
        What to say if another process has it; without, wait until it has not.

    Raises
    ------
    InvalidSetting
        Another process has it.
    """
    try:
        import fcntl  # not on Windows

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise InvalidSetting(busy) from None
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """Open a file for writing that takes the place of ``path`` when the block ends without an error.

    Until then it has a temporary name in the same folder (made if needed). It is on the disk before it is
    renamed, and the new name is on the disk when the block has ended: a crash or a power cut leaves the old
    file or the new one. A link stays, and what it leads to is replaced; a device or a pipe is written to.

    Raises
    ------
    OSError
        From the operating system; the temporary file is gone.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as device:  # /dev/null, or a pipe: nothing takes its place
            yield device
        return
    path = path.resolve()  # where a link leads to
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.partial")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # there only if something failed
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def table_from_csv(path: Path, what: str = "a table", **how: Any) -> Any:
    """Read a DataFrame; pandas would take the first column for an index if every row ends in a separator.

    Parameters
    ----------
    path : Path
    what : str
        That it should be, for messages.
    **how
        For ``pandas.read_csv``.

    Raises
    ------
    InvalidData
        It cannot be read, or rows have more values than there are names, and not only empty ones.
    """
    import pandas as pd
    from pandas.errors import ParserWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)
            return pd.read_csv(path, index_col=False, **how)
    except ParserWarning as error:
        raise InvalidData(
            f"the rows of {path} have more values than its first line has names; give each column a name, "
            "and take away comments and surplus separators"
        ) from error
    except (OSError, ValueError) as error:  # pandas' own are among the latter
        raise InvalidData(f"{path} cannot be read as {what}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return why a table cannot be read, in one line, and what to do about it."""
    why = " ".join(str(error).split())
    if isinstance(error, UnicodeDecodeError):
        return f"{why}; save it in UTF-8"
    return f"{why}; give a .csv whose first line has the names, with as many values in every line"
