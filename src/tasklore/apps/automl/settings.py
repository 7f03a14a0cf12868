"""The settings of a fit, checked before any work."""

import math
import numbers
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import InvalidSetting
from ...experience.store import ExperienceStore
from .losses import metric_for
from .pipelines import Kind
from .prior import TablePrior
from .trials import Budget

__all__ = ["LONGEST_NAME", "budget_of", "check_settings", "seconds_of"]

UNITS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}
LONGEST_NAME = 200  # characters, of a table


def check_settings(given: Mapping[str, Any], kind: Kind) -> None:
    """Raise if a setting cannot work.

    Parameters
    ----------
    given : mapping
        See :class:`~.estimators.AutoClassifier`; by their names.
    kind : {"classification", "regression"}

    Raises
    ------
    InvalidSetting
        A value is of another type or size than is needed; the message names it.
    """
    evaluations, memory, n_jobs = (given[name] for name in ("max_evaluations", "memory_limit", "n_jobs"))
    if evaluations is None:
        seconds_of(given["budget"])
    elif not (_is_whole(evaluations) and evaluations >= 1):
        raise _wrong(
            "max_evaluations", evaluations, "at least 1 evaluation is needed: a whole number, or None"
        )
    if memory is not None and not (_is_whole(memory) and memory >= 1):
        raise _wrong("memory_limit", memory, "give megabytes as a whole number, 1 at least, or None")
    if n_jobs is not None and not (_is_whole(n_jobs) and n_jobs != 0):
        raise _wrong("n_jobs", n_jobs, "give a whole number of processes, -1 for all cores, or None for one")
    metric, name, store, prior = (given[each] for each in ("metric", "name", "store", "prior"))
    if metric is not None and not isinstance(metric, str):
        raise _wrong("metric", metric, "give its name, or None")
    metric_for(kind, metric)
    if name is not None and not (isinstance(name, str) and 0 < len(name.strip()) <= LONGEST_NAME):
        raise _wrong("name", name, f"give a text of 1 to {LONGEST_NAME} characters, or None")
    if name is not None and ("\0" in name or name != name.encode(errors="ignore").decode()):
        raise _wrong("name", name, "it has characters that cannot be written down; give another, or None")
    if not isinstance(store, ExperienceStore | str | Path | None):
        raise _wrong("store", store, "give an open store, a path or an address, or None")
    if not isinstance(prior, TablePrior | None):
        raise _wrong("prior", prior, "give a TablePrior, from TablePrior.load(path) perhaps, or None")
    if prior is not None and prior.kind != kind:
        raise InvalidSetting(f"the prior is for {prior.kind}; one for {kind} is needed")
    if given["watch"] is not None and not callable(given["watch"]):
        raise _wrong("watch", given["watch"], "give a function of one trial, or None")


def budget_of(given: Mapping[str, Any], seed: int) -> Budget:
    """Return what a fit may spend, by settings that were checked."""
    n_jobs = 1 if given["n_jobs"] is None else int(given["n_jobs"])
    if n_jobs < 0:
        n_jobs = max(1, _cores(Path("/sys/fs/cgroup")) + 1 + n_jobs)
    memory = None if given["memory_limit"] is None else int(given["memory_limit"])
    if given["max_evaluations"] is not None:
        return Budget(None, int(given["max_evaluations"]), n_jobs, memory, seed)
    return Budget(seconds_of(given["budget"]), None, n_jobs, memory, seed)


def seconds_of(budget: float | str) -> float:
    """Return a length of time in seconds.

    Examples
    --------
    >>> seconds_of("10min"), seconds_of("1.5 h"), seconds_of(20)
    (600.0, 5400.0, 20.0)
    """
    seconds = math.nan
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-z]*)\s*", budget.lower())
        seconds = float(found[1]) * UNITS.get(found[2], math.nan) if found else math.nan
    elif not isinstance(budget, bool) and isinstance(budget, numbers.Real):
        seconds = float(budget)
    if not 0 < seconds < math.inf:
        raise _wrong("budget", budget, 'give seconds, or a text such as "60s", "10min" or "1h"')
    return seconds


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral)


def _wrong(name: str, value: Any, needed: str) -> InvalidSetting:
    return InvalidSetting(f"{name} is {repr(value)[:50]}; {needed}")


def _cores(root: Path) -> int:
    """Return how many cores this process may use; of a container, as many as it may spend time of.

    Parameters
    ----------
    root : Path
        Where control groups lie.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        cores = os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # ValueError: "max", where there is no limit
            quota, period = map(int, " ".join((root / name).read_text() for name in names).split())
            return max(1, min(cores, math.ceil(quota / period))) if quota > 0 else cores
    return cores
