"""What every learner must do, as checks that anyone can run on a learner of their own.

``check_learner(MyLearner())`` raises at the first broken promise and says which and how to mend it.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor

from ..artifacts import load_artifact, save_artifact
from ..config import from_settings, to_settings
from ..errors import CheckFailed
from ..evaluate import evaluate
from ..learners.base import Learner
from ..learners.gradient import GradientLearner
from ..metagrad import adapt_tasks, predict_tasks, rule_for
from ..registry import learners
from ..scores import Score
from ..tasks.few_shot import Examples, FewShotSource
from ..tasks.source import TaskSource, pad
from ..tasks.synthetic import SinusoidSource
from ..train import TrainSettings, fit
from ..types import Adapted, Batch, Context, Episode, Inputs, Params

__all__ = ["check_learner", "toy_source"]

N_TASKS = 4
TOLERANCE = 1e-4
JUDGED_AFTER = (150, 300, 600)  # meta-steps: some need more than others until anything is to be seen
MOST_STEPS = JUDGED_AFTER[-1]
SLOPE_TOLERANCE = 1e-2  # of the largest: single precision, through several inner steps


def toy_source(learner: Learner) -> TaskSource:
    """Return a small family of tasks that ``learner`` can learn.

    Sine waves for a learner that only regresses, else blobs that hide in many dimensions. The classes of
    a blob task differ in two of twelve dimensions, the same for all tasks; what past tasks teach is to look
    there. An image learner sees the twelve numbers as a picture of 3×4.
    """
    if "classification" not in learner.tags.kinds:
        return SinusoidSource(n_shots=5, n_queries=10)
    generator = Generator().manual_seed(0)
    n_classes, each = 30, 20
    centres = torch.zeros(n_classes, 1, 12)
    centres[..., :2] = 2.0 * torch.randn(n_classes, 1, 2, generator=generator)
    spread = torch.cat([torch.full((2,), 0.4), torch.full((10,), 2.0)])
    x = centres + spread * torch.randn(n_classes, each, 12, generator=generator)
    images = x.reshape(-1, 1, 3, 4)
    labels = torch.arange(n_classes).repeat_interleave(each)
    examples = Examples("blobs", images, labels, tuple(map(str, range(n_classes))))
    return FewShotSource.of(examples, n_ways=3, n_shots=2, n_queries=5)


def check_learner(learner: Learner, source: TaskSource | None = None) -> list[str]:
    """Check that a learner keeps the promises of :class:`~tasklore.learners.base.Learner`.

    Parameters
    ----------
    learner : Learner
    source : TaskSource, optional
        Tasks to check it on; a toy family by default.

    Returns
    -------
    list of str
        The names of the checks that passed.

    Raises
    ------
    CheckFailed
        One did not; the message says which, and how to mend it.
    """
    source = source or toy_source(learner)
    bench = _Bench(learner, source)
    checks: list[Callable[[_Bench], None]] = [
        seeded_init,
        adapt_changes_nothing,
        remembers_nothing,
        vectorised_equals_one_by_one,
        steps_matter_only_as_told,
        order_of_support,
        rows_are_independent,
        padding_is_ignored,
        absent_classes_are_not_chosen,
        gradient_reaches_everything,
        state_round_trip,
        settings_round_trip,
        improves_on_toy_tasks,
    ]
    for check in checks:
        check(bench)
    return [check.__name__.replace("_", " ") for check in checks]


class _Bench:
    """A learner with params and a few episodes to try it on."""

    def __init__(self, learner: Learner, source: TaskSource) -> None:
        self.learner, self.source = learner, source
        self.spec = learner.spec_for(source.spec, source.spec)
        self.params = self.init()
        self.episodes, self.keys = source.episodes(0, "check", 0, N_TASKS)

    def init(self) -> Params:
        return self.learner.init(self.spec, Generator().manual_seed(7))

    def context(self, task: int, training: bool = False) -> Context:
        return Context(self.spec, self.keys[task], training=training)

    def episode(self, task: int) -> Episode:
        support, query = (Batch(*(part[task] for part in side)) for side in self.episodes)
        return Episode(support, query)

    def adapt(self, task: int, support: Batch | None = None) -> Adapted:
        return self.learner.adapt(self.params, support or self.episode(task).support, self.context(task))

    def answer(self, task: int, support: Batch | None = None, inputs: Inputs | None = None) -> Tensor:
        with torch.no_grad():
            return self.learner.predict(self.adapt(task, support), inputs or self.episode(task).query.inputs)

    def fail(self, what: str, cure: str) -> CheckFailed:
        return CheckFailed(f"{type(self.learner).__name__}: {what}; {cure}")


def seeded_init(bench: _Bench) -> None:
    """Equal generators give equal params."""
    again = bench.init()
    if list(again) != list(bench.params) or any(
        not torch.equal(again[n], w) for n, w in bench.params.items()
    ):
        raise bench.fail(
            "init gave other params for the same generator", "draw only from the generator given"
        )


def adapt_changes_nothing(bench: _Bench) -> None:
    """Neither params nor support are written to."""
    episode = bench.episode(0)
    before = [t.clone() for t in (*bench.params.values(), *episode.support)]
    bench.adapt(0, episode.support)
    if any(
        not torch.equal(a, b) for a, b in zip(before, (*bench.params.values(), *episode.support), strict=True)
    ):
        raise bench.fail(
            "adapt changed its params or its support", "compute new tensors instead of writing in place"
        )


def remembers_nothing(bench: _Bench) -> None:
    """Leave no trace of a task learned between two tries at another one."""
    first = bench.answer(0)
    bench.answer(1)
    if not torch.equal(first, bench.answer(0)):
        raise bench.fail(
            "the same task gave another answer after a second task", "keep no state on the learner"
        )


def vectorised_equals_one_by_one(bench: _Bench) -> None:
    """Many tasks at once give what each gives alone."""
    if not bench.learner.tags.vectorises:
        return
    context = Context(bench.spec, bench.keys)
    tasks = adapt_tasks(bench.learner, bench.params, bench.episodes.support, context, N_TASKS)
    together = predict_tasks(bench.learner, tasks, bench.episodes.query.inputs, N_TASKS)
    alone = torch.stack([bench.answer(task) for task in range(N_TASKS)])
    if not torch.allclose(together, alone, atol=TOLERANCE, rtol=TOLERANCE):
        raise bench.fail(
            f"vectorised answers differ by {float((together - alone).abs().max()):.1e} from those one by one",
            "use only operations that torch.func.vmap supports, or set the tag vectorises=False",
        )
    if bench.learner.tags.starts_from != "tasks":
        return
    context = Context(bench.spec, bench.keys, training=True)
    totals = [
        rule_for(bench.learner, size)(bench.learner, bench.params, bench.episodes, context).total
        for size in (N_TASKS, 1)
    ]
    for name, alone in totals[1].items():
        apart = float((totals[0][name] - alone).abs().max() / alone.abs().max().clamp_min(TOLERANCE))
        if apart > SLOPE_TOLERANCE:  # what is not finite is found below
            raise bench.fail(
                f"vectorised, the meta-gradient of {name} differs by {apart:.1e} of its largest value",
                "torch's derivatives of some functions are wrong under vmap: write it with others, or set "
                "the tag vectorises=False",
            )


def padding_is_ignored(bench: _Bench) -> None:
    """Examples with mask 0 change nothing, in the support as in the query."""
    episode = bench.episode(0)
    plain = bench.answer(0)
    support, query = (_padded(side) for side in episode)
    padded = bench.answer(0, support, query.inputs)[: len(plain)]
    if not torch.allclose(plain, padded, atol=TOLERANCE, rtol=TOLERANCE):
        raise bench.fail(
            f"padding moved the answers by {float((plain - padded).abs().max()):.1e}",
            "weight every sum over examples, batch statistics included, with the mask",
        )


def _padded(batch: Batch) -> Batch:
    n = len(batch.mask)
    more = pad(batch, n + 3)
    x = more.x.clone()
    x[n:] = 50.0  # what lies in the padding must not matter
    return Batch(x, more.y, more.mask)


def absent_classes_are_not_chosen(bench: _Bench) -> None:
    """Choose no class of which the support has no example: a task may have fewer than there are outputs."""
    if bench.spec.kind != "classification":
        return
    support = bench.episode(0).support
    absent = int(support.y[0])
    chosen = bench.answer(0, support._replace(mask=support.mask * (support.y != absent))).argmax(1)
    if bool((chosen == absent).any()):
        raise bench.fail(
            f"chose class {absent}, of which the support has no example",
            "lower such outputs in predict, as tasklore.learners.base.hide_absent does",
        )


def steps_matter_only_as_told(bench: _Bench) -> None:
    """Schedules are announced by a tag: a compiled step would never see them."""
    learner, params, episode = bench.learner, bench.init(), bench.episode(0)
    if learner.tags.scheduled:
        return

    def objective(step: int) -> Tensor:
        context = dataclasses.replace(bench.context(0, training=True), step=step)
        return learner.objective(params, episode, context)

    if not torch.equal(objective(0), objective(10**9)):
        raise bench.fail(
            "has an objective that changes with the meta-update under way",
            "say so with tags = Tags(scheduled=True)",
        )


def order_of_support(bench: _Bench) -> None:
    """Give the same answers for a shuffled support, unless the learner says otherwise."""
    if bench.learner.tags.order_matters:
        return
    support = bench.episode(0).support
    order = torch.randperm(len(support.mask), generator=Generator().manual_seed(1))
    shuffled = bench.answer(0, Batch(*(part[order] for part in support)))
    if not torch.allclose(bench.answer(0), shuffled, atol=1e-2, rtol=1e-2):
        raise bench.fail(
            "the order of the support changed the answers", "set the tag order_matters=True if it may"
        )


def rows_are_independent(bench: _Bench) -> None:
    """Answer a query alike in company and with half of it, unless transductive."""
    if bench.learner.transductive:
        return
    inputs = bench.episode(0).query.inputs
    half = Inputs(*(part[: len(inputs.mask) // 2] for part in inputs))
    together, apart = bench.answer(0)[: len(half.mask)], bench.answer(0, inputs=half)
    if not torch.allclose(together, apart, atol=TOLERANCE, rtol=TOLERANCE):
        raise bench.fail(
            "the answer to a query depends on the other queries",
            "normalise queries with the support's statistics",
        )


def gradient_reaches_everything(bench: _Bench) -> None:
    """Let a finite meta-gradient reach every parameter of a learner that is meta-learned."""
    if bench.learner.tags.starts_from != "tasks":
        return
    context = Context(bench.spec, bench.keys, training=True)
    found = rule_for(bench.learner, 1)(bench.learner, bench.params, bench.episodes, context)
    for name, gradient in found.total.items():
        if not bool(torch.isfinite(gradient).all()):
            raise bench.fail(
                f"the meta-gradient of {name} is not finite", "look for roots and divisions at zero"
            )
        if not bool((gradient != 0).any()):
            raise bench.fail(
                f"no meta-gradient reaches {name}", "use it in adapt or predict, or leave it out of init"
            )


def state_round_trip(bench: _Bench) -> None:
    """Predict the same after what was adapted is saved and loaded."""
    adapted = {name: tensor.detach() for name, tensor in bench.adapt(0).items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapted.safetensors"
        save_artifact(path, adapted, {}, kind="check")
        loaded, _ = load_artifact(path, kind="check")
    inputs = bench.episode(0).query.inputs
    if not torch.equal(bench.learner.predict(adapted, inputs), bench.learner.predict(loaded, inputs)):
        raise bench.fail(
            "saved and loaded, the adapted tensors predict otherwise", "return all that predict needs"
        )


def settings_round_trip(bench: _Bench) -> None:
    """Rebuild the learner from its settings as JSON."""
    rebuilt = from_settings(learners, to_settings(bench.learner, learners), "the learner")
    if rebuilt != bench.learner:
        raise bench.fail(
            "its settings do not rebuild it", "make it a frozen dataclass of plain values and nets"
        )


def improves_on_toy_tasks(bench: _Bench) -> None:
    """Become better, by a few meta-steps, on tasks it has not seen: by more than the interval."""
    learner = bench.learner
    if learner.tags.starts_from != "tasks":
        return
    outer = TrainSettings(steps=MOST_STEPS, n_tasks=8, learning_rate=3e-3, execution="vectorised")
    if isinstance(learner, GradientLearner) and learner.rule == "towards_adapted":
        outer = dataclasses.replace(outer, learning_rate=0.5, optimizer="sgd")

    def judged(params: Params) -> Score:
        found = evaluate(learner, params, bench.source, method="check", n_tasks=100, stream="validation")
        return found.score

    before = after = judged(bench.params)
    for state in fit(learner, bench.source, outer):
        if state.step in JUDGED_AFTER:
            after = judged(state.params)
            if after.reaches(before.mean):
                return
    raise bench.fail(
        f"{MOST_STEPS} meta-steps did not improve it ({before} → {after})", "check the sign of its objective"
    )
