"""Meta-steps on several processes or machines: rules around a rule.

Each gives every worker a part of the stack of tasks, runs the inner rule there on one core, and adds up what
comes back in the order of the tasks. So the result is that of the inner rule but for rounding, whoever is
done first, and whatever the learner::

    with join(n_cpus=2) as cluster:  # see tasklore.runners.ray
        for state in fit(learner, source, settings, around=lambda rule: OnCluster(rule, cluster, 2)):
            ...

    # in a program that is started with torchrun
    with group() as processes:
        if processes is None:  # this one has worked for the first one, which is done
            sys.exit()
        for state in fit(learner, source, settings, around=processes.around):
            ...

Only the first process draws tasks, updates params and writes files; the others compute and know nothing.
"""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ..errors import Interrupted, InvalidSetting
from ..learners.base import Learner
from ..metagrad import MetaGradient, Rule, parts_of
from ..types import Context, Episode, Params
from .ray import Cluster

__all__ = ["Distributed", "Group", "OnCluster", "group"]


@dataclass(frozen=True)
class _Job:
    """A part of a meta-step: what to compute, and its place in the order."""

    place: int
    rule: Rule
    learner: Learner
    params: Params
    episodes: Episode
    context: Context

    def done(self) -> MetaGradient:
        """Compute it, on one core."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self.rule(self.learner, self.params, self.episodes, self.context)
        finally:
            torch.set_num_threads(before)


def _jobs(
    rule: Rule, n: int, learner: Learner, params: Params, episodes: Episode, context: Context
) -> list[_Job]:
    """Cut a meta-step into at most ``n`` parts."""
    return [
        _Job(place, rule, learner, params, part, dataclasses.replace(context, key=keys))
        for place, (part, keys) in enumerate(parts_of(episodes, context.key, n))
    ]


@dataclass(frozen=True)
class OnCluster(Rule):
    """Another rule, a part of the stack on each of several workers of a Ray cluster.

    Parameters
    ----------
    rule : Rule
    cluster : Cluster
        See :func:`tasklore.runners.ray.join`. A part whose worker dies is computed once more.
    n : int
        Workers.
    """

    rule: Rule
    cluster: Cluster
    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InvalidSetting(f"at least 1 worker is needed, got {self.n}")

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        jobs = _jobs(self.rule, self.n, learner, params, episodes, context)
        done = self.cluster.map(_Job.done, jobs, at_a_time=self.n, name=lambda job: f"part {job.place}")
        found = {job.place: result for job, result in done}
        return MetaGradient.joined([found[place] for place in range(len(jobs))])


class Group:
    """The processes that torchrun has started, as the first of them sees them."""

    @property
    def size(self) -> int:
        """How many there are."""
        return dist.get_world_size()

    def around(self, rule: Rule) -> Rule:
        """Return a rule that gives each process its part."""
        return Distributed(rule, self)


@dataclass(frozen=True)
class Distributed(Rule):
    """Another rule, a part of the stack in each process of a group.

    Parameters
    ----------
    rule : Rule
    group : Group
        See :func:`group`.
    """

    rule: Rule
    group: Group

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        jobs = _jobs(self.rule, self.group.size, learner, params, episodes, context)
        return MetaGradient.joined(_together([*jobs, *[None] * (self.group.size - len(jobs))]))


@contextlib.contextmanager
def group() -> Generator[Group | None]:
    """Join the processes that torchrun has started; gives None in all but the first, when the work is done.

    Where all processes run on this machine, they speak over the loopback interface.

    Raises
    ------
    InvalidSetting
        This process was not started with torchrun.
    Interrupted
        Another process has ended before its time.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise InvalidSetting(
            "this program is one process only; start it with torchrun --standalone --nproc-per-node 2 …"
        )
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # The others wait while the first one fetches data, pre-trains or validates, which may take hours.
    dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
    try:
        if dist.get_rank() == 0:
            try:
                yield Group()
            finally:
                with contextlib.suppress(Interrupted):  # the others have gone already
                    _tell(_END)
        else:
            with contextlib.suppress(Interrupted):  # without the first process there is nothing to do
                _serve()
            yield None
    finally:
        dist.destroy_process_group()


_WORK, _END = 1, 0
_WORD = torch.zeros(1, dtype=torch.int64)
"""What is said, always in the same tensor: a thread of gloo may let go of it last, which would need the
interpreter, and end the process with an abort if that is being closed down already."""


def _together(jobs: list[_Job | None]) -> list[MetaGradient]:
    """Give each process its job, and return their results; in the first process."""
    _tell(_WORK)
    found: list[Any] = [None] * len(jobs)
    mine: list[Any] = [None]
    with _broken_off():
        dist.scatter_object_list(mine, jobs)
    result = _outcome(mine[0])
    with _broken_off():
        dist.gather_object(result, found)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
    return [outcome for outcome in found if outcome is not None]


def _serve() -> None:
    """Do jobs until the first process has no more; in the others."""
    while True:
        with _broken_off():
            dist.broadcast(_WORD, 0)
            if int(_WORD) == _END:
                return
            mine: list[Any] = [None]
            dist.scatter_object_list(mine)
        result = _outcome(mine[0])
        with _broken_off():
            dist.gather_object(result)


def _outcome(job: _Job | None) -> MetaGradient | Exception | None:
    """Return what came of a job; an error too, as all processes must speak in turn whatever happens."""
    try:
        return None if job is None else job.done()
    except Exception as error:  # noqa: BLE001 - raised in the first process
        return error


def _tell(word: int) -> None:
    with _broken_off():
        dist.broadcast(_WORD.fill_(word), 0)


@contextlib.contextmanager
def _broken_off() -> Generator[None]:
    """Turn a broken connection into an error that says what to do."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise Interrupted(
            f"a process of the group has ended ({lines[0][:200]}); give the same command again to go on"
        ) from error
