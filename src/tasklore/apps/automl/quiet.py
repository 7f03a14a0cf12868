"""Silence for attempts of which most are bound to be poor: their scores say what warnings would."""

import threading
import warnings
from contextlib import ExitStack

__all__ = ["QUIET"]


class _Quiet:
    """Shows no warnings while any thread wants it so.

    What is shown is the choice of the whole process. Threads that change it each for itself, as they would by
    ``warnings.catch_warnings``, bring back what another one had found, and it stays so for ever.
    """

    def __init__(self) -> None:
        self.lock, self.n, self.filters = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if self.n == 0:
                self.filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self.n += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.n -= 1
            if self.n == 0:
                self.filters.close()


QUIET = _Quiet()
