"""Choices of the whole process that several threads want for a while."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

__all__ = ["WhileWanted"]


class WhileWanted:
    """A context that is entered once, however many threads are inside, and left when the last one leaves.

    Threads that change a choice of the process each for itself bring back, when they are done, what another
    one had found, and it stays so for ever.

    Parameters
    ----------
    choose : callable -> context manager
        Makes what changes the choice, and changes it back.

    Examples
    --------
    >>> from contextlib import nullcontext
    >>> choice = WhileWanted(nullcontext)
    >>> with choice, choice:
    ...     choice.n
    2
    """

    def __init__(self, choose: Callable[[], AbstractContextManager[object]]) -> None:
        self.choose, self.lock, self.n, self.choice = choose, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if self.n == 0:
                self.choice.enter_context(self.choose())
            self.n += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.n -= 1
            if self.n == 0:
                self.choice.close()
