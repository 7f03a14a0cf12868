"""What every HTML page of ours shares: it is one file, asks nothing of any network, and holds no script.

Charts for such a page are drawn with :mod:`.drawing`, which needs matplotlib.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import MissingDependency, StoreError
from ..files import replacing

__all__ = ["check_installed", "environment", "write_page"]


def check_installed() -> None:
    """Raise unless a report could be written; worth asking before hours of training.

    Raises
    ------
    MissingDependency
        matplotlib or Jinja2 is not there.
    """
    try:
        import jinja2
        import matplotlib

        _ = jinja2, matplotlib
    except ImportError as error:
        raise MissingDependency(
            f"a report needs {error.name or 'matplotlib and jinja2'}, which is not installed: "
            "pip install 'tasklore[report]'"
        ) from error


def environment(**filters: Callable[..., Any]) -> Any:
    """Return what renders templates: everything is escaped, and a name that is missing raises."""
    from jinja2 import Environment, StrictUndefined

    made: Any = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= filters
    return made


def write_page(html: str, path: Path) -> Path:
    """Write a page and return its path; a file there is replaced, and folders are made as needed.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(html.encode())
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}; choose a place that can be written"
        ) from error
    return path
