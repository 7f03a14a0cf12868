"""Gradient meta-training: a state, a pure step to the next one, and the loop's verbs.

The checkpoint *is* the state. Episodes are named by ``(seed, step)``, so the state needs no sampler position
beyond its step counter, and a run that was stopped continues as if it had not been.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .config import typed
from .errors import InvalidSetting, NumericalFailure
from .evaluate import TASKS_PER_DRAW, is_small, metric_of, task_scores
from .execution import Execution, Plan, choose, compiled_if_faster, memory_kept
from .learners.base import Learner
from .learners.gradient import GradientLearner
from .metagrad import AdaptedTasks, MetaGradient, Rule, adapt_tasks, predict_tasks, rule_for
from .nets import Net
from .optimizers import SGD, Adam, Optimizer
from .placement import Device, Precision, computes_bfloat16, device_for, in_precision, placed
from .scores import Score
from .state import MetaState, Prior
from .tasks.scaling import Scaling
from .tasks.source import TaskSource, check_is_source, task_rng
from .types import Batch, Context, Episode, Params, TaskSpec

__all__ = [
    "Around",
    "GradientTrainer",
    "TrainSettings",
    "fit",
    "init",
    "pretrain",
    "step",
]


Around: TypeAlias = Callable[[Rule], Rule]
"""Puts a rule around another one."""

Initial: TypeAlias = Literal["random", "pretrained", "prior"]
"""Where params come from."""

OuterOptimizer: TypeAlias = Literal["adam", "sgd"]
"""What moves them."""

LOWEST = 0.01
"""Share of the learning rate that is left at the end of a cosine schedule."""


@dataclass(frozen=True)
class TrainSettings:
    """How to meta-train.

    Parameters
    ----------
    steps : int
        Meta-updates in a round; after each round the validation tasks decide how to go on.
    n_tasks : int
        Tasks in a meta-update.
    learning_rate : float
        The outer rate.
    optimizer : {"adam", "sgd"}
        The outer optimiser.
    clip : float, optional
        Largest norm of the meta-gradient.
    averaging : float
        Between 0 and 1: what is judged and kept is a running mean of the params over about
        ``1 / (1 - averaging)`` steps, which evens out the noise of single steps; 0 keeps the params
        themselves.
    cosine_steps : int, optional
        Meta-updates over which the learning rate falls to a hundredth along half a cosine wave, where it
        stays; then ``decay`` has no part.
    decay : float
        Factor on the learning rate when validation has not improved for ``patience`` rounds.
    patience : int
        Rounds without improvement before a decay.
    n_validation : int
        Validation tasks scored after each round.
    initial : {"random", "pretrained", "prior"}
        Where params come from: fresh, plain training on the pooled past tasks, or the best remembered prior
        (fresh, if nothing fits).
    pretrain_steps : int
        Updates of plain training, if that is the start.
    execution : {"auto", "vectorised", "loop", "compiled"}
        Tasks of a meta-update run all at once, one by one, or as many at once, in one thread or in one for
        each core, as a measurement at the first step says pays. Compiled, all at once as one graph, small
        networks are several times faster still, after some ten seconds of preparation; "auto" tries that on
        a CPU when meta-updates of several tasks at once have taken a minute. See
        :class:`~tasklore.metagrad.Compiled`.
    memory_limit : int, optional
        MiB of tensors that a meta-update may hold: fewer tasks run at once then, and where even one does not
        fit, its inner steps are computed again instead of being kept.
    device : {"auto", "cpu", "cuda"}
        Where meta-updates are computed: on a CUDA device where there is one, if left to "auto".
    precision : {"float32", "bfloat16"}
        What the net computes in while meta-learning; see :class:`~tasklore.placement.Lowered`. Tasks are
        judged in single precision.
    seed : int
        Names all random draws.
    """

    steps: int = 200
    n_tasks: int = 16
    learning_rate: float = 1e-3
    optimizer: OuterOptimizer = "adam"
    clip: float | None = None
    averaging: float = 0.0
    cosine_steps: int | None = None
    decay: float = 0.5
    patience: int = 3
    n_validation: int = 200
    initial: Initial = "random"
    pretrain_steps: int = 500
    execution: Execution = "auto"
    memory_limit: int | None = None
    device: Device = "auto"
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        typed(self)
        for name in ("steps", "n_tasks", "patience", "pretrain_steps"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_validation < 2:
            raise InvalidSetting(f"n_validation must be at least 2 for an interval, got {self.n_validation}")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidSetting(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.decay <= 1:
            raise InvalidSetting(f"decay must lie in (0, 1], got {self.decay}")
        if not 0 <= self.averaging < 1:
            raise InvalidSetting(f"averaging must lie in [0, 1), got {self.averaging}")
        if self.cosine_steps is not None and self.cosine_steps < 1:
            raise InvalidSetting(f"cosine_steps must be at least 1 or left out, got {self.cosine_steps}")
        if self.clip is not None and not self.clip > 0:
            raise InvalidSetting(f"clip must be positive or left out, got {self.clip}")
        if self.memory_limit is not None and (self.memory_limit < 1 or self.execution == "compiled"):
            raise InvalidSetting(
                f"memory_limit must be at least 1 MiB, got {self.memory_limit}; with 'compiled', leave it out"
            )
        if self.seed < 0:
            raise InvalidSetting(f"seed cannot be negative, got {self.seed}")

    @property
    def outer(self) -> Optimizer:
        """The outer optimiser."""
        return Adam(self.learning_rate) if self.optimizer == "adam" else SGD(self.learning_rate)

    def factor(self, state: MetaState) -> float:
        """Return what the learning rate is multiplied with in the next step."""
        if self.cosine_steps is None:
            return state.rate
        done = min(1.0, state.step / self.cosine_steps)
        return LOWEST + (1 - LOWEST) * (1 + math.cos(math.pi * done)) / 2


def init(params: Params, settings: TrainSettings, started_from: str = "random") -> MetaState:
    """Return the state before the first step."""
    # In the order of names, as a loaded state lists them: sums over tensors depend on it.
    params = placed(dict(sorted(params.items())), device_for(settings.device))
    return MetaState(params, settings.outer.init(params), params, params, started_from=started_from)


def step(
    learner: Learner,
    state: MetaState,
    spec: TaskSpec,
    episodes: Episode,
    keys: Tensor,
    settings: TrainSettings,
    around: Around | None = None,
) -> MetaState:
    """Return the state after one meta-update.

    Parameters
    ----------
    learner : Learner
    state : MetaState
        Not changed.
    spec : TaskSpec
    episodes : Episode
        Stacked.
    keys : Tensor, shape (t,)
    settings : TrainSettings
    around : callable, optional
        Puts a rule around the learner's, see :mod:`tasklore.runners.rules`.

    Raises
    ------
    NumericalFailure
        A loss or the meta-gradient is not finite; the message names the tasks.
    """
    found = _direction(learner, state, spec, episodes, keys, settings, around)
    gradient = {name: total / found.weight for name, total in found.total.items()}
    # In the order of names: a rule may list them otherwise, and sums depend on their order.
    norms = [gradient[name].norm() for name in sorted(gradient)]
    norm = torch.stack(norms).norm() if norms else torch.zeros(())
    if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(found.losses).all()):
        raise _failure(found, state.step, settings)
    if settings.clip is not None and float(norm) > settings.clip:
        gradient = {name: g * (settings.clip / norm) for name, g in gradient.items()}
    params, moments = settings.outer.update(state.params, gradient, state.moments, settings.factor(state))
    losses = (*state.losses, float(found.losses.mean()))
    average = params
    if settings.averaging:
        # At first over fewer steps, so that the start is forgotten.
        share = max(1 - settings.averaging, 9 / (10 + state.step))
        average = {name: torch.lerp(mean, params[name], share) for name, mean in state.average.items()}
    return dataclasses.replace(
        state, params=params, moments=moments, average=average, step=state.step + 1, losses=losses
    )


def _direction(
    learner: Learner,
    state: MetaState,
    spec: TaskSpec,
    episodes: Episode,
    keys: Tensor,
    settings: TrainSettings,
    around: Around | None = None,
) -> MetaGradient:
    """Return the direction of a step, summed over tasks."""
    plan = state.plan or Plan(compiled=settings.execution == "compiled")
    learner = in_precision(learner, settings.precision)
    episodes, keys = placed((episodes, keys), state.device)
    context = Context(spec, keys, state.step, training=True, recompute=plan.recompute)
    if plan.compiled:
        rule = rule_for(learner, len(keys), compiled=True)
    else:
        rule = rule_for(learner, plan.tasks_at_once, threads=plan.threads)
    return (around(rule) if around else rule)(learner, state.params, episodes, context)


def _failure(found: MetaGradient, step: int, settings: TrainSettings) -> NumericalFailure:
    bad = torch.nonzero(~torch.isfinite(found.losses)).flatten().tolist()
    tasks = (
        f"the loss of task {', '.join(map(str, bad))} of {len(found.losses)}" if bad else "the meta-gradient"
    )
    return NumericalFailure(
        f"at step {step} (seed {settings.seed}), {tasks} is not finite; the state before this step is kept. "
        "Lower the step_size or the learning_rate, or set clip, in a run folder of its own; or look for "
        "extreme values in those tasks"
    )


def fit(
    learner: Learner,
    source: TaskSource,
    settings: TrainSettings,
    state: MetaState | None = None,
    around: Around | None = None,
) -> Iterator[MetaState]:
    """Meta-train for the rest of a round, yielding the state after each step.

    Parameters
    ----------
    learner : Learner
    source : TaskSource
        The past tasks.
    settings : TrainSettings
    state : MetaState, optional
        Where to go on; by default a fresh start.
    around : callable, optional
        Puts a rule around the learner's, see :mod:`tasklore.runners.rules`.

    Yields
    ------
    MetaState

    Examples
    --------
    >>> from tasklore.learners.gradient import MAML
    >>> from tasklore.tasks.synthetic import SinusoidSource
    >>> for state in fit(MAML(), SinusoidSource(), TrainSettings(steps=3, n_tasks=4)):
    ...     pass
    >>> state.step, len(state.losses)
    (3, 3)
    """
    check_is_source(source)
    learner.check_spec(source.spec)
    if state is None:
        state = init(learner.init(source.spec, Generator().manual_seed(settings.seed)), settings)
    _needs_weights(learner, state.params)
    state = state.on(device_for(settings.device))
    if state.threads != torch.get_num_threads():
        torch.set_num_threads(state.threads)
    # A prior is judged as it is before anything more is learned: its first round has no steps.
    rounds = state.round + (0 if state.started_from == "prior" else 1)
    shapes: list[torch.Size] = []
    with memory_kept():
        while state.step < rounds * settings.steps:
            episodes, keys = source.episodes(settings.seed, "train", state.step, settings.n_tasks)
            given = (source.spec, episodes, keys, settings, around)
            before, shapes = shapes, [leaf.shape for leaf in tree_leaves(episodes)]
            state = _planned(learner, state, *given, varied=before not in ([], shapes))
            started = time.perf_counter()
            try:
                state = step(learner, state, *given)
            except InvalidSetting as error:
                if state.plan is None or not state.plan.compiled or settings.execution != "auto":
                    raise
                # Of a run that was begun on a machine with a compiler.
                state = dataclasses.replace(state, plan=state.plan.uncompiled(str(error)))
                state = step(learner, state, *given)
            if state.plan is not None:
                plan = state.plan.after(time.perf_counter() - started)
                state = dataclasses.replace(state, plan=plan)
            yield state


def _planned(
    learner: Learner,
    state: MetaState,
    spec: TaskSpec,
    episodes: Episode,
    keys: Tensor,
    settings: TrainSettings,
    around: Around | None,
    *,
    varied: bool,
) -> MetaState:
    """Return the state with a plan of how to run the steps; what is to be chosen is measured on this one."""
    plan = state.plan
    if plan is not None and varied and settings.execution == "auto" and (plan.compiled or not plan.settled):
        plan = plan.uncompiled("tasks of different sizes are not compiled")
    if plan is not None and not plan.due:
        return dataclasses.replace(state, plan=plan)

    def run(plan: Plan) -> None:
        step(learner, dataclasses.replace(state, plan=plan), spec, episodes, keys, settings, around)

    def alone(plan: Plan) -> None:
        step(learner, dataclasses.replace(state, plan=plan), spec, episodes, keys, settings)

    def task() -> None:
        one, key = tree_map(lambda tensor: tensor[:1], (episodes, keys))
        _direction(learner, dataclasses.replace(state, plan=Plan()), spec, one, key, settings)

    if plan is not None:
        plan = compiled_if_faster(plan, run, lambda: alone(Plan(settings.n_tasks)))
        return dataclasses.replace(state, plan=plan)
    on_cpu = state.device.type == "cpu"
    plan = choose(
        settings.n_tasks,
        settings.execution,
        run,
        alone,
        vectorises=learner.tags.vectorises,
        task=task if on_cpu else None,
        # Others have one core each, and a CUDA device needs no more than one.
        threads=min(torch.get_num_threads(), settings.n_tasks) if on_cpu and not around else 1,
        memory_limit=settings.memory_limit,
        compiles=on_cpu and not around and not learner.tags.scheduled and settings.memory_limit is None,
    )
    if settings.precision == "bfloat16" and not computes_bfloat16(state.device):
        note = "; this processor has no instructions for bfloat16: 'float32' is several times faster here"
        plan = dataclasses.replace(plan, why=plan.why + note)
    return dataclasses.replace(state, plan=plan)


def pretrain(
    learner: Learner,
    source: TaskSource,
    settings: TrainSettings,
    spec: TaskSpec | None = None,
    batch_size: int = 64,
) -> Params:
    """Train the learner's backbone plainly on the past tasks as one pool, and start params from there.

    Classes differ from task to task, so for classification the output layer is trained for all classes of the
    pool and then replaced by one of zeros; by a fresh one where no inner step would move it from there.

    Parameters
    ----------
    learner : Learner
        Must have a backbone.
    source : TaskSource
    settings : TrainSettings
        Of which ``pretrain_steps``, ``seed`` are used.
    spec : TaskSpec, optional
        Of the tasks to come, where it has another number of outputs than the source's.
    batch_size : int

    Raises
    ------
    InvalidSetting
        The learner has no backbone.
    InvalidData
        The tasks have no classes in common.
    """
    net, pooled = _poolable(learner, source)
    optimizer, device = Adam(1e-3), device_for(settings.device)
    net = in_precision(learner, settings.precision).backbone or net
    weights = net.init(pooled.input_shape, pooled.n_outputs, Generator().manual_seed(settings.seed))
    weights = placed(weights, device)
    moments = optimizer.init(weights)
    for index in range(settings.pretrain_steps):
        batch = placed(source.pool(task_rng(settings.seed, "pretrain", index, 0), batch_size), device)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        loss = learner.loss(net.apply(leaves, batch.inputs)[0], batch)
        if not bool(torch.isfinite(loss)):
            raise NumericalFailure(
                f"the loss became {float(loss)} at step {index} of pre-training; scale the inputs"
            )
        slopes = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        weights, moments = optimizer.update(weights, dict(zip(leaves, slopes, strict=True)), moments)
    weights = placed(weights, torch.device("cpu"))
    start = learner.init(spec or source.spec, Generator().manual_seed(settings.seed))
    head = net.output_layer(weights) if pooled.kind == "classification" else frozenset[str]()
    fresh = {
        name: torch.zeros_like(start[name]) if learner.moves_output else start[name]
        for name in head & set(start)
    }
    return {name: w.detach() for name, w in learner.begun(start, weights).items()} | fresh


def _poolable(learner: Learner, source: TaskSource) -> tuple[Net, TaskSpec]:
    """Return the net that plain training is for, and the one problem that the past tasks are together."""
    net = learner.backbone
    if net is None:
        raise InvalidSetting(f"{type(learner).__name__} has no network to pre-train; use initial = 'random'")
    return net, source.pool_spec


def _needs_weights(learner: Learner, params: Params) -> None:
    if isinstance(learner, GradientLearner) and learner.inner_steps and not learner.moving(params):
        raise InvalidSetting(
            f"{type(learner).__name__} has nothing that its inner steps could move: this net has no weights "
            "to train below its output layer; choose another learner, such as anil, or another net"
        )
    if not params:
        raise InvalidSetting(
            f"{type(learner).__name__} has nothing to meta-learn: this net has no weights to train; choose "
            "another one, or evaluate the learner as it is"
        )


def _judged_at_once(state: MetaState) -> int:
    """Return how many tasks to judge at once: as in training, or by size where nothing was trained yet."""
    return state.plan.tasks_at_once if state.plan else (TASKS_PER_DRAW if is_small(state.params) else 1)


@dataclass(frozen=True)
class GradientTrainer:
    """The loop's verbs for learners that are meta-trained by gradients.

    Parameters
    ----------
    learner : Learner
    settings : TrainSettings
    spec : TaskSpec
        Of the past tasks.
    scaling : Scaling
        Of the past tasks.
    around : callable, optional
        Puts a rule around the learner's, so that meta-steps run elsewhere, see
        :mod:`tasklore.runners.rules`.
    """

    learner: Learner
    settings: TrainSettings
    spec: TaskSpec
    scaling: Scaling = dataclasses.field(default_factory=Scaling.none)
    around: Around | None = dataclasses.field(default=None, kw_only=True)

    def check(self, past: TaskSource) -> None:
        """Raise now what would end the first round, before anything is written.

        Raises
        ------
        InvalidSetting
            The net has no weights to meta-learn, or the device, the precision or the start cannot be had.
        InvalidData
            The learner cannot learn such tasks, or they cannot be pooled for a pre-trained start.
        """
        learner, settings = self.learner, self.settings
        learner.check_spec(self.spec)
        device_for(settings.device)
        in_precision(learner, settings.precision)
        if settings.initial == "pretrained":
            _poolable(learner, past)
        _needs_weights(learner, learner.init(self.spec, Generator().manual_seed(settings.seed)))

    def initialise(self, past: TaskSource, prior: Prior | None) -> MetaState:
        """Return a state with params from a prior, from plain training on the pool, or fresh."""
        self.learner.check_spec(self.spec)
        if prior is not None:
            return init(prior.params, self.settings, started_from="prior")
        if self.settings.initial == "pretrained":
            return init(pretrain(self.learner, past, self.settings), self.settings, "pretrained")
        generator = Generator().manual_seed(self.settings.seed)
        return init(self.learner.init(self.spec, generator), self.settings)

    def learn(self, state: MetaState, past: TaskSource) -> Iterator[MetaState]:
        """Meta-train for the rest of a round, see :func:`fit`."""
        return fit(self.learner, past, self.settings, state, self.around)

    def unseen(self, new: TaskSource) -> Iterator[tuple[tuple[Batch, Tensor, TaskSpec], Batch]]:
        """Draw the validation tasks, the same after every round: what to adapt to, and what to judge on."""
        n_drawn = 0
        while n_drawn < self.settings.n_validation:
            n_tasks = min(TASKS_PER_DRAW, self.settings.n_validation - n_drawn)
            episodes, keys = new.episodes(
                self.settings.seed, "validation", n_drawn // TASKS_PER_DRAW, n_tasks
            )
            yield (episodes.support, keys, self.learner.spec_for(self.spec, new.spec)), episodes.query
            n_drawn += n_tasks

    def apply(self, state: MetaState, support: tuple[Batch, Tensor, TaskSpec]) -> AdaptedTasks:
        """Adapt to a stack of new tasks."""
        batch, keys, spec = support
        batch, keys = placed((batch, keys), state.device)
        return adapt_tasks(
            self.learner, state.average, batch, Context(spec, keys, state.step), _judged_at_once(state)
        )

    def score(self, state: MetaState, fitted: AdaptedTasks, query: Batch) -> list[float]:
        """Return the accuracy, or the squared error, of each task of the stack."""
        query = placed(query, state.device)
        return task_scores(predict_tasks(self.learner, fitted, query.inputs, _judged_at_once(state)), query)

    def adjust(self, state: MetaState, scores: list[float]) -> MetaState:
        """Keep the params if they are the best so far; lower the learning rate if they no longer improve."""
        score = Score.of(metric_of(self.spec), scores)
        improved = score.beats(state.best_score)
        stale = 0 if improved else state.stale + 1
        decays = stale >= self.settings.patience
        rate = state.rate * (self.settings.decay if decays else 1.0)
        return dataclasses.replace(
            state,
            best=state.average if improved else state.best,
            stale=0 if decays else stale,
            rate=rate if self.settings.cosine_steps is None else self.settings.factor(state),
            history=(*state.history, score),
            losses=(),
            loss=math.fsum(state.losses) / len(state.losses) if state.losses else state.loss,
        )

    def prior(self, state: MetaState, provenance: dict[str, Any]) -> Prior:
        """Return the best params so far, ready to be applied."""
        best = placed(state.best, torch.device("cpu"))
        return Prior(self.learner, best, self.spec, self.scaling, provenance)
