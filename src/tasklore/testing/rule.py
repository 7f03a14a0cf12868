"""What every rule must do, as checks that anyone can run on a rule of their own.

``check_rule(MyRule())`` raises at the first broken promise and says which and how to mend it. A rule around a
rule (several processes, clipping, noise) is checked as any other.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator

from ..errors import CheckFailed
from ..learners.base import Learner
from ..learners.gradient import MAML
from ..metagrad import MetaGradient, Rule
from ..nets import MLP
from ..tasks.source import TaskSource
from ..tasks.synthetic import SinusoidSource
from ..types import Batch, Context, Episode, Params

__all__ = ["check_rule"]

N_TASKS = 5
TOLERANCE = 1e-4


def check_rule(
    rule: Rule, learner: Learner | None = None, source: TaskSource | None = None, *, exact: bool = True
) -> list[str]:
    """Check that a rule keeps the promises of :class:`~tasklore.metagrad.Rule`.

    Parameters
    ----------
    rule : Rule
    learner : Learner, optional
        What to move the params of; a small MAML by default.
    source : TaskSource, optional
        Tasks that it can learn; sine waves by default.
    exact : bool
        False for a rule that changes the sum on purpose (noise, clipping): what it gives is then not compared
        with the sum of its parts.

    Returns
    -------
    list of str
        The names of the checks that passed.

    Raises
    ------
    CheckFailed
        One did not; the message says which, and how to mend it.
    """
    bench = _Bench(
        rule,
        learner or MAML(MLP((16,)), inner_steps=2, step_size=0.01),
        source or SinusoidSource(n_shots=5, n_queries=10),
    )
    checks: list[Callable[[_Bench], None]] = [
        covers_every_param,
        weighs_and_names_every_task,
        changes_nothing,
        same_call_same_answer,
        chance_comes_from_the_keys_only,
        *([is_the_sum_over_tasks, order_of_tasks] if exact else []),
        descends,
    ]
    for check in checks:
        check(bench)
    return [check.__name__.replace("_", " ") for check in checks]


class _Bench:
    """A rule with a learner, its params, and a stack of tasks to try it on."""

    def __init__(self, rule: Rule, learner: Learner, source: TaskSource) -> None:
        self.rule, self.learner = rule, learner
        self.spec = learner.spec_for(source.spec, source.spec)
        self.params = learner.init(self.spec, Generator().manual_seed(7))
        self.episodes, self.keys = source.episodes(0, "check", 0, N_TASKS)

    def found(self, tasks: list[int] | None = None, params: Params | None = None) -> MetaGradient:
        """Return what the rule says of some tasks."""
        which = torch.tensor(list(range(N_TASKS)) if tasks is None else tasks)
        support, query = (Batch(*(part[which] for part in side)) for side in self.episodes)
        context = Context(self.spec, self.keys[which], training=True)
        return self.rule(self.learner, params or self.params, Episode(support, query), context)

    def fail(self, what: str, cure: str) -> CheckFailed:
        return CheckFailed(f"{type(self.rule).__name__}: {what}; {cure}")


def covers_every_param(bench: _Bench) -> None:
    """Give a finite direction, of the right shape, for every param and nothing else."""
    total = bench.found().total
    if total.keys() != bench.params.keys():
        different = sorted(total.keys() ^ bench.params.keys())
        raise bench.fail(f"total and params differ in {different[:3]}", "return an entry for each param")
    for name, tensor in total.items():
        if tensor.shape != bench.params[name].shape or not bool(torch.isfinite(tensor).all()):
            raise bench.fail(
                f"total[{name!r}] has shape {tuple(tensor.shape)} or is not finite",
                f"make it finite, of shape {tuple(bench.params[name].shape)}",
            )
        if tensor.requires_grad:
            raise bench.fail(f"total[{name!r}] still requires a gradient", "detach what is returned")


def weighs_and_names_every_task(bench: _Bench) -> None:
    """Weigh as much as there are tasks, and give the loss of each."""
    found = bench.found()
    if not math.isclose(found.weight, N_TASKS) or tuple(found.losses.shape) != (N_TASKS,):
        raise bench.fail(
            f"{N_TASKS} tasks gave the weight {found.weight} and losses of shape {tuple(found.losses.shape)}",
            "return the number of tasks, and one loss for each, in their order",
        )


def changes_nothing(bench: _Bench) -> None:
    """Neither params nor episodes are written to."""
    given = [*bench.params.values(), *bench.episodes.support, *bench.episodes.query]
    before = [tensor.clone() for tensor in given]
    bench.found()
    if any(not torch.equal(old, new) for old, new in zip(before, given, strict=True)):
        raise bench.fail("params or episodes were changed", "work on copies")


def same_call_same_answer(bench: _Bench) -> None:
    """Remember nothing between calls."""
    first = bench.found().total
    bench.found([1, 0])
    again = bench.found().total
    if any(not torch.equal(first[name], again[name]) for name in first):
        raise bench.fail("the same call gave another answer", "keep no state; draw from the context's keys")


def chance_comes_from_the_keys_only(bench: _Bench) -> None:
    """Leave the global generator alone."""
    before = torch.random.get_rng_state()
    bench.found()
    if not torch.equal(before, torch.random.get_rng_state()):
        raise bench.fail("the global generator was used", "derive all randomness from the context's keys")


def is_the_sum_over_tasks(bench: _Bench) -> None:
    """Add up over tasks, so that parts found elsewhere can be added too."""
    whole = bench.found()
    parts = [bench.found([task]) for task in range(N_TASKS)]
    losses = torch.cat([part.losses for part in parts])
    together = {name: sum(part.total[name] for part in parts) for name in whole.total}
    if not torch.allclose(whole.losses, losses, rtol=TOLERANCE, atol=TOLERANCE) or any(
        not torch.allclose(whole.total[name], torch.as_tensor(total), rtol=TOLERANCE, atol=TOLERANCE)
        for name, total in together.items()
    ):
        raise bench.fail(
            "tasks together give something else than one by one", "return sums over tasks, not means"
        )


def order_of_tasks(bench: _Bench) -> None:
    """Give the same sum in any order of tasks, and the losses in that order."""
    forth, back = bench.found(), bench.found(list(reversed(range(N_TASKS))))
    if not torch.allclose(forth.losses, back.losses.flip(0), rtol=TOLERANCE, atol=TOLERANCE) or any(
        not torch.allclose(forth.total[name], back.total[name], rtol=TOLERANCE, atol=TOLERANCE)
        for name in forth.total
    ):
        raise bench.fail("the order of tasks changes the result", "treat every task alike")


def descends(bench: _Bench) -> None:
    """Lower the loss of these tasks by following the direction downwards."""
    params, first = bench.params, bench.found()
    found = first
    for _ in range(40):
        scale = torch.stack([total.norm() for total in found.total.values()]).norm().clamp(min=1e-12)
        params = {name: w - 0.05 * found.total[name] / scale for name, w in params.items()}
        found = bench.found(params=params)
    if not float(found.losses.mean()) < float(first.losses.mean()):
        raise bench.fail(
            f"40 small steps along it brought the loss from {float(first.losses.mean()):.4g} to "
            f"{float(found.losses.mean()):.4g}",
            "return the direction of ascent (params − step · total goes down)",
        )
