"""How a meta-step is run: how many tasks at once, in how many threads, within how much memory.

Nothing of this changes what is learned, but for rounding. It is measured on the first step, and once more
when a run has lasted so long that compiling it would have paid; what was chosen, and why, is said.
"""

import contextlib
import ctypes
import dataclasses
import math
import time
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .errors import InvalidSetting

__all__ = [
    "HEAVY",
    "Execution",
    "Plan",
    "choose",
    "compiled_if_faster",
    "fastest",
    "held_bytes",
    "memory_kept",
]

ABOUT_AS_FAST = 1.1
"""Up to this factor a step counts as about as fast as another."""

MIB = 2**20

HEAVY = 24 * MIB
"""Bytes. Of what holds more, one task at a time is as fast on a CPU: its operations are long, so that there
is little to gain from sharing what each of them costs anyway, and several tasks fall out of the caches."""

LARGE = 256 * MIB
"""Bytes. What holds more is not run in parts at the same time either: all threads share its operations well,
and each part would hold as much again. Nor are more tasks stacked than hold so much together."""

COMPILE_AFTER = 60.0
"""Seconds of meta-steps after which compiling is tried. It costs about ten: a run that ends right then has
lost a sixth, and a longer one gains what there is to gain."""

MOST_COMPILED = 4000
"""Operations of a meta-step: with more of them the compiler would take minutes."""

FIRST_STACK = 4  # tasks; of fewer, vectorising costs more than it saves

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGEST_KEPT = 32 * MIB  # the most that glibc takes from what it keeps; larger blocks are mapped anew

Execution: TypeAlias = Literal["auto", "vectorised", "loop", "compiled"]


@dataclass(frozen=True)
class Plan:
    """How the meta-steps of a run are run.

    Parameters
    ----------
    tasks_at_once : int
        See :class:`~tasklore.metagrad.Backprop`.
    threads : int
        Parts of a meta-step that run at the same time, see :class:`~tasklore.metagrad.Threads`.
    recompute : bool
        Whether inner steps are computed again instead of kept, see :class:`~tasklore.types.Context`.
    why : str
        What was measured, in a sentence for the reader.
    compiled : bool
        Whether all tasks run at once as one compiled graph instead.
    settled : bool
        Whether there is nothing more to try.
    spent : float
        Seconds that meta-steps have taken until then.
    """

    tasks_at_once: int = 1
    threads: int = 1
    recompute: bool = False
    why: str = ""
    compiled: bool = False
    settled: bool = True
    spent: float = 0.0

    @property
    def due(self) -> bool:
        """Whether compiling is to be tried now."""
        return not self.settled and self.spent >= COMPILE_AFTER

    def after(self, seconds: float) -> "Plan":
        """Return the plan when another step has been run."""
        return self if self.settled else dataclasses.replace(self, spent=self.spent + seconds)

    def uncompiled(self, because: str) -> "Plan":
        """Return the plan without compiling, which is not tried again."""
        return dataclasses.replace(self, compiled=False, settled=True, why=f"{self.why}; {because}")


def choose(
    n_tasks: int,
    execution: Execution,
    run: Callable[[Plan], object],
    alone: Callable[[Plan], object],
    *,
    vectorises: bool = True,
    task: Callable[[], object] | None = None,
    threads: int = 1,
    memory_limit: int | None = None,
    compiles: bool = False,
) -> Plan:
    """Measure, and return how to run meta-steps.

    Parameters
    ----------
    n_tasks : int
        In a meta-step.
    execution : {"auto", "vectorised", "loop", "compiled"}
    run : callable (plan)
        Runs a meta-step.
    alone : callable (plan)
        Runs it in this thread, whatever other places ``run`` uses.
    task : callable, optional
        Runs one task of it; where that holds more than ``HEAVY``, several at once are not tried, and where
        it holds more than ``LARGE``, several threads neither.
    vectorises : bool
        Whether several tasks can run at once in a thread.
    threads : int
        Most parts that may run at the same time, each on a core of its own.
    memory_limit : int, optional
        MiB that a meta-step may hold.
    compiles : bool
        Whether compiling may be tried later on, where several tasks at once are fastest.

    Raises
    ------
    InvalidSetting
        Even one task at a time, its inner steps computed again, needs more memory.
    """
    most, recompute, limits = n_tasks if vectorises else 1, False, ""
    room: _Room | None = None
    if memory_limit is not None:
        room, recompute, limits = _fitting(most, alone, memory_limit)
        most, threads = min(most, room.tasks(1)), min(threads, room.threads)
    if execution != "auto" or n_tasks == 1:
        at_once = 1 if execution == "loop" else most
        asked = f", as execution = '{execution}' asks" if execution != "auto" else ""
        why = f"{_tasks(at_once)} at once{asked}{limits}"
        return Plan(at_once, 1, recompute, why, compiled=execution == "compiled")
    tried: list[str] = []

    def within(at_once: int, parts: int) -> int:
        return at_once if room is None else min(at_once, room.tasks(parts))

    def seconds(at_once: int, parts: int) -> float:
        at_once = within(at_once, parts)
        plan = Plan(at_once, parts, recompute)
        _give_back()  # what another way to run needed
        try:
            run(plan)  # the first run pays for warming up
            started = time.perf_counter()
            run(plan)
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            tried.append(f"no memory for {at_once}")
            torch.cuda.empty_cache()
            return math.inf
        taken = time.perf_counter() - started
        tried.append(f"{taken:.3g} s with {at_once}" + (f" in each of {parts} threads" if parts > 1 else ""))
        return taken

    held = 0 if task is None or max(most, threads) == 1 else held_bytes(task)
    if held > HEAVY:
        most, threads = 1, 1 if held > LARGE else threads
        limits = f"; one task holds {_mib(held)}, too much for several at once to pay{limits}"
    most = min(most, max(1, LARGE // max(1, held)))
    at_once, parts = fastest(most, threads, seconds)
    at_once = within(at_once, parts)
    chosen = f"{_tasks(at_once)} at once" + (f" in each of {parts} threads" if parts > 1 else "")
    why = f"{chosen}: a step took {', '.join(tried)}{limits}"
    # A compiled step has all tasks at once.
    return Plan(at_once, parts, recompute, why, settled=at_once == 1 or most < n_tasks or not compiles)


def compiled_if_faster(plan: Plan, run: Callable[[Plan], object], alone: Callable[[], object]) -> Plan:
    """Compile a meta-step, compare, and return the faster plan.

    Parameters
    ----------
    plan : Plan
        That the steps are run by.
    run : callable (plan)
        Runs a meta-step.
    alone : callable
        Runs one in this thread, all tasks at once.
    """
    with _Counting() as counting:
        alone()
    if counting.n > MOST_COMPILED:
        return plan.uncompiled(f"not compiled, as its {counting.n} operations would take minutes")
    started = time.perf_counter()
    trial = dataclasses.replace(plan, compiled=True, settled=True)
    try:
        run(trial)
    except InvalidSetting as error:
        return plan.uncompiled(str(error))
    prepared = time.perf_counter() - started

    def seconds(plan: Plan) -> float:
        started = time.perf_counter()
        run(plan)
        run(plan)
        return (time.perf_counter() - started) / 2

    before, after = seconds(plan), seconds(trial)
    found = f"{after:.3g} s instead of {before:.3g} s once compiled, which took {prepared:.0f} s"
    if after * ABOUT_AS_FAST > before:
        return plan.uncompiled(f"{found}, and is not used")
    return dataclasses.replace(trial, why=f"{plan.why}; {found}")


@dataclass(frozen=True)
class _Room:
    """How many tasks fit into so many bytes.

    Parameters
    ----------
    limit, first, further : int
        Bytes: that there are, that a thread holds with one task, and that each further task at once adds.
    """

    limit: int
    first: int
    further: int

    @property
    def threads(self) -> int:
        """How many threads fit with one task each."""
        return self.limit // max(1, self.first)

    def tasks(self, threads: int) -> int:
        """Return how many tasks at once fit in each of so many threads."""
        return 1 + max(0, self.limit // threads - self.first) // max(1, self.further)


def _fitting(n_tasks: int, run: Callable[[Plan], object], memory_limit: int) -> tuple[_Room, bool, str]:
    """Return what fits into so many MiB, whether steps are recomputed for that, and why."""
    limit, recompute, note = memory_limit * MIB, False, ""
    first = held_bytes(lambda: run(Plan()))
    if first > limit:
        recompute, note = True, f" with inner steps computed again instead of kept, {_mib(first)} without"
        first = held_bytes(lambda: run(Plan(recompute=True)))
    if first > limit:
        raise InvalidSetting(
            f"a meta-step holds {_mib(first)} even with one task at a time, and memory_limit is "
            f"{memory_limit} MiB; set it higher, or take fewer examples, a smaller network, or a learner "
            "that differentiates no steps (fomaml, reptile, imaml)"
        )
    both = held_bytes(lambda: run(Plan(2, recompute=recompute))) if n_tasks > 1 else 2 * first
    room = _Room(limit, first, both - first)
    fit = min(n_tasks, room.tasks(1))
    return room, recompute, f"; one task holds {_mib(first)}{note}, {fit} fit into {memory_limit} MiB"


def fastest(n_tasks: int, threads: int, seconds: Callable[[int, int], float]) -> tuple[int, int]:
    """Return how many tasks to run at once in a thread, and in how many threads.

    More tasks at once are tried first, as long as each enlargement pays. Threads wait for one interpreter at
    every small operation and hold memory of their own, so they are tried only where the first enlargement
    does not pay. At last all tasks at once, whose operations may be large enough to share the cores.

    Parameters
    ----------
    n_tasks : int
        Most that may run at once.
    threads : int
        Most parts that may run at the same time, each on a core of its own.
    seconds : callable (tasks at once, threads)
        Measures how long a step takes so.
    """
    size, parts, shortest = 1, 1, seconds(1, 1)

    def pays(more: int, in_threads: int) -> bool:
        nonlocal size, parts, shortest
        taken = seconds(more, in_threads)
        if taken * ABOUT_AS_FAST > shortest:
            return False
        size, parts, shortest = more, in_threads, taken
        return True

    tried = 1
    while tried == size < n_tasks:
        tried = min(max(FIRST_STACK, 2 * size), n_tasks)
        pays(tried, 1)
    if size == 1 < threads:
        pays(1, threads)
    if tried < n_tasks and size * parts > 1:
        pays(n_tasks, 1)
    return size, parts


@contextlib.contextmanager
def memory_kept() -> Generator[None]:
    """Have the C library keep freed memory for the next allocation, and give it back at the end.

    Left to itself, glibc returns a large block to the system when it is freed and maps it anew, page by page,
    when the next meta-step needs one of the same size. Without glibc nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    set_option(MMAP_THRESHOLD, LARGEST_KEPT)
    set_option(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        set_option(TRIM_THRESHOLD, 2 * LARGEST_KEPT)  # where glibc's own adjustment would end
        _give_back()


def _give_back() -> None:
    """Have the C library return to the system what has been freed."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def held_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes of tensors, made while ``run`` runs, that are there at the same time.

    The same on every machine. What an operation needs inside for a moment is not seen, nor what other threads
    make.

    Examples
    --------
    >>> import torch
    >>> held_bytes(lambda: torch.zeros(1000) + torch.zeros(1000))
    12000
    """
    with _Holding() as holding:
        run()
    return holding.most


class _Light(TorchDispatchMode):
    """A mode that does not have torch import its compiler, which takes two seconds and 60 MiB."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch asks; no compiled graph runs in these modes
        return False


class _Counting(_Light):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


class _Holding(_Light):
    """Sees every tensor that is made, and when its memory is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, object] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return results

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name, size = id(storage), storage.nbytes()
        if name in self._known:
            return

        def gone() -> None:
            self.now -= size
            self._known.pop(name, None)

        self._known[name] = weakref.finalize(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / MIB:.3g} MiB"


def _tasks(n: int) -> str:
    return f"{n} task" if n == 1 else f"{n} tasks"
