"""How meta-parameters move: from a stack of tasks to the direction in which the shared params should go.

A rule returns a *sum* over tasks and its weight, so that a rule around it (several processes, several
machines, clipping or noise per task) can combine sums before dividing.
"""

import abc
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .errors import InvalidSetting
from .learners.base import Learner
from .learners.gradient import GradientLearner
from .types import Adapted, Batch, Context, Episode, Inputs, Params, TaskSpec

__all__ = [
    "AdaptedTasks",
    "Backprop",
    "Compiled",
    "Implicit",
    "MetaGradient",
    "Rule",
    "Threads",
    "TowardsAdapted",
    "adapt_tasks",
    "conjugate_gradients",
    "parts_of",
    "predict_tasks",
    "rule_for",
]

TRANSFORMS = ("vmap", "torch.func", "functorch")
"""What names itself in the message of torch when stacked tasks are refused."""

Tree = TypeVar("Tree")
OtherTree = TypeVar("OtherTree")
Result = TypeVar("Result")


class MetaGradient(NamedTuple):
    """A direction summed over tasks.

    Attributes
    ----------
    total : Params
        Sum over tasks; descend along ``total / weight``.
    weight : float
        Number of tasks.
    losses : Tensor, shape (t,)
        Each task's loss, for progress and to name the tasks at fault.
    """

    total: Params
    weight: float
    losses: Tensor

    @classmethod
    def joined(cls, parts: Sequence["MetaGradient"]) -> "MetaGradient":
        """Add up what rules gave for parts of a stack, in this order; losses stand side by side."""
        total: Params | None = None
        for part in parts:
            total = _add(total, part.total)
        losses = torch.cat([part.losses for part in parts])
        return cls(total or {}, math.fsum(part.weight for part in parts), losses)


class Rule(abc.ABC):
    """A way to get a :class:`MetaGradient`; subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        """Return the direction for a stack of tasks.

        Parameters
        ----------
        learner : Learner
        params : Params
        episodes : Episode
            Stacked along a leading task axis.
        context : Context
            Its ``key`` has one entry for each task, shape (t,).
        """


@dataclass(frozen=True)
class Backprop(Rule):
    """Differentiate the learner's objective with respect to params, through the adaptation.

    Parameters
    ----------
    tasks_at_once : int
        Tasks that are vectorised together: 1 is a plain loop, more trades memory for fewer, larger
        operations.
    functional : bool
        Differentiate by a transform, as compiling needs it, instead of by the tape, which is quicker
        otherwise.
    """

    tasks_at_once: int = 1
    functional: bool = False

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        total: Params | None = None
        losses: list[Tensor] = []
        for chunk, keys in _chunks(episodes, context.key, self.tasks_at_once):

            def summed(params: Params, chunk: Episode = chunk, keys: Tensor = keys) -> tuple[Tensor, Tensor]:
                def objective(episode: Episode, key: Tensor) -> Tensor:
                    return learner.objective(params, episode, _with_key(context, key))

                each = _map_tasks(objective, chunk, keys)  # (chunk,)
                return each.sum(), each

            if self.functional:
                slopes, each = torch.func.grad(summed, has_aux=True)(params)
            else:
                leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
                with torch.enable_grad():
                    loss, each = summed(leaves)
                found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
                slopes = dict(zip(leaves, found, strict=True))
            total = _add(total, slopes)
            losses.append(each.detach())
        return MetaGradient(total or {}, float(len(context.key)), torch.cat(losses))


@dataclass(frozen=True)
class TowardsAdapted(Rule):
    """Point from the shared params to where each task's training ends (Reptile); nothing is differentiated.

    Parameters
    ----------
    tasks_at_once : int
        As for :class:`Backprop`.
    """

    tasks_at_once: int = 1

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        total: Params | None = None
        losses: list[Tensor] = []

        def displacement(episode: Episode, key: Tensor) -> tuple[Params, Tensor]:
            adapted = learner.adapt(params, episode.joined, _with_key(context, key))
            loss = learner.loss(learner.predict(adapted, episode.joined.inputs), episode.joined)
            return {name: tensor - adapted[name] for name, tensor in params.items()}, loss

        with torch.no_grad():
            for chunk, keys in _chunks(episodes, context.key, self.tasks_at_once):
                moves, each = _map_tasks(displacement, chunk, keys)
                total = _add(total, {name: move.sum(0) for name, move in moves.items()})
                losses.append(each)
        return MetaGradient(total or {}, float(len(context.key)), torch.cat(losses))


@dataclass(frozen=True)
class Implicit(Rule):
    """Differentiate the minimum that adaptation finds, not the way to it (iMAML).

    With ``w`` the adapted weights, ``g = (I + H/λ)⁻¹ ∇L_query(w)`` is found by conjugate gradients; each of
    their steps needs one product of the support loss's Hessian ``H`` with a vector. Where only some weights
    move, ``H`` is theirs, and the others' part is ``∇L_query − H_other,moving g / λ``.

    Parameters
    ----------
    tasks_at_once : int
        As for :class:`Backprop`.
    steps : int
        Of conjugate gradients. Five are what the paper uses; the solution is exact after as many as there are
        weights.

    References
    ----------
    Rajeswaran, Finn, Kakade, Levine, NeurIPS 2019, equation 6 and section 3.1.
    """

    tasks_at_once: int = 1
    steps: int = 5

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        if not isinstance(learner, GradientLearner) or not learner.pull:
            raise InvalidSetting(
                f"the implicit rule needs a learner that is pulled towards its start, such as ImplicitMAML; "
                f"{type(learner).__name__} is not"
            )
        total: Params | None = None
        losses: list[Tensor] = []

        def gradient(episode: Episode, key: Tensor) -> tuple[Params, Tensor]:
            support, query = episode
            here = _with_key(context, key)
            adapted = learner.adapt(params, support, here)
            weights = {name: adapted[name] for name in params}

            def query_loss(weights: Params) -> Tensor:
                return learner.loss(
                    learner.predict(learner.finished(weights, support, here), query.inputs), query
                )

            # The Hessian is symmetric: multiplying from the left, in reverse mode, gives the same.
            slopes = torch.func.grad(lambda w: learner.support_loss(w, support, here))
            times_hessian: Callable[[Params], tuple[Params]] = torch.func.vjp(slopes, weights)[1]

            def bent(vector: Params) -> Params:
                whole = {name: vector.get(name, torch.zeros_like(w)) for name, w in weights.items()}
                return {name: each / learner.pull for name, each in times_hessian(whole)[0].items()}

            def product(vector: Params) -> Params:
                curved = bent(vector)
                return {name: each + curved[name] for name, each in vector.items()}

            wanted, loss = torch.func.grad_and_value(query_loss)(weights)
            moving = learner.moving(weights).keys()
            solved = conjugate_gradients(product, {name: wanted[name] for name in moving}, self.steps)
            if len(solved) < len(wanted):  # what stays has a part in where the minimum lies
                curved = bent(solved)
                solved |= {name: g - curved[name] for name, g in wanted.items() if name not in solved}
            return solved, loss

        with torch.no_grad():
            for chunk, keys in _chunks(episodes, context.key, self.tasks_at_once):
                solved, each = _map_tasks(gradient, chunk, keys)
                total = _add(total, {name: tensor.sum(0) for name, tensor in solved.items()})
                losses.append(each)
        return MetaGradient(total or {}, float(len(context.key)), torch.cat(losses))


@dataclass(frozen=True)
class Threads(Rule):
    """Another rule on several parts of the stack at the same time, a thread of one core each.

    Large convolutions on few images leave the second core waiting at every operation; a task on each core
    does not. Sums are added in the order of the tasks, whichever thread is done first.

    Parameters
    ----------
    rule : Rule
    n : int
        Threads; memory grows with them.
    """

    rule: Rule
    n: int

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        def work(part: tuple[Episode, Tensor]) -> MetaGradient:
            torch.set_num_threads(1)
            return self.rule(learner, params, part[0], dataclasses.replace(context, key=part[1]))

        before = torch.get_num_threads()
        try:
            parts = parts_of(episodes, context.key, self.n)
            return MetaGradient.joined(list(_threads(self.n).map(work, parts)))
        finally:
            torch.set_num_threads(before)


@functools.lru_cache(maxsize=4)
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="tasklore-rule")


@dataclass(frozen=True)
class Compiled(Rule):
    """Another rule, the whole of it as one compiled graph: adaptation, prediction and all derivatives.

    The first step takes some ten seconds, in which the code is made; it is kept on disk by the compiler, and
    later runs begin sooner. Episodes of another size cost another compilation.

    Parameters
    ----------
    rule : Rule
        One that uses transforms only; see ``functional`` of :class:`Backprop`.

    Notes
    -----
    Compiled graphs cannot be differentiated twice, so it is not the learner that is compiled.
    """

    rule: Rule

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        if learner.tags.scheduled:
            raise InvalidSetting(
                f"{type(learner).__name__} changes its objective with the meta-updates, and a compiled step "
                "stays as it is; use execution = 'vectorised'"
            )
        # On a CUDA device the graph is recorded once, and played back as a whole in every later step.
        mode = "reduce-overhead" if context.key.device.type == "cuda" else None
        graph = _graph(learner, self.rule, context.spec, context.training, mode)
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException  # heavy

        try:
            with torch.no_grad():
                total, losses = graph(params, episodes, context.key)
                if mode:  # the next step writes to the same places
                    total, losses = tree_map(torch.clone, (total, losses))
        except (FailOnRecompileLimitHit, TorchDynamoException) as error:
            raise InvalidSetting(
                f"{type(learner).__name__} cannot be compiled here: {_in_short(error)}. A C++ compiler and "
                "episodes of few different sizes are needed; else use execution = 'vectorised'"
            ) from error
        return MetaGradient(total, float(len(context.key)), losses)


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


@functools.lru_cache(maxsize=32)
def _graph(
    learner: Learner, rule: Rule, spec: TaskSpec, training: bool, mode: str | None
) -> Callable[[Params, Episode, Tensor], tuple[Params, Tensor]]:
    def whole(params: Params, episodes: Episode, keys: Tensor) -> tuple[Params, Tensor]:
        found = rule(learner, params, episodes, Context(spec, keys, training=training))
        return found.total, found.losses

    compiled: Any = torch.compile(whole, fullgraph=True, dynamic=False, mode=mode)
    return compiled


def conjugate_gradients(product: Callable[[Params], Params], wanted: Params, n_steps: int) -> Params:
    """Return an approximate solution ``x`` of ``A x = wanted``, starting at zero.

    Steps end where ``A`` turns out not to be positive definite; if that is at the first one, ``wanted``
    itself is returned, as if ``A`` were the identity.

    Parameters
    ----------
    product : callable Params -> Params
        Multiplies with the symmetric positive definite matrix ``A``.
    wanted : Params
    n_steps : int

    References
    ----------
    Shewchuk: An Introduction to the Conjugate Gradient Method Without the Agonizing Pain, 1994, B2.
    """
    found = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    residual = direction = wanted
    size = _dot(residual, residual)
    going, begun = size > 0, size <= 0
    for _ in range(n_steps):
        image = product(direction)
        curvature = _dot(direction, image)
        # Where the Hessian is so negative that the matrix is not positive definite, or all is solved, stay.
        going = going & (curvature > 0) & (size > 0)
        begun = begun | going
        length = torch.where(going, size / curvature, 0.0)
        found = {name: tensor + length * direction[name] for name, tensor in found.items()}
        residual = {name: tensor - length * image[name] for name, tensor in residual.items()}
        before, size = size, _dot(residual, residual)
        share = torch.where(before > 0, size / before, 0.0)
        direction = {name: tensor + share * direction[name] for name, tensor in residual.items()}
    return {name: torch.where(begun, tensor, wanted[name]) for name, tensor in found.items()}


def _dot(one: Params, other: Params) -> Tensor:
    return torch.stack([(tensor * other[name]).sum() for name, tensor in one.items()]).sum()


def rule_for(learner: Learner, tasks_at_once: int, *, threads: int = 1, compiled: bool = False) -> Rule:
    """Return the rule that ``learner`` asks for.

    Parameters
    ----------
    learner : Learner
    tasks_at_once : int
        See :class:`Backprop`.
    threads : int
        More than one: that many parts of the stack at the same time, see :class:`Threads`.
    compiled : bool
        Whether as one graph, see :class:`Compiled`.
    """
    size = _at_once(learner, tasks_at_once)
    rules: dict[str, Rule] = {
        "backprop": Backprop(size, functional=compiled),
        "towards_adapted": TowardsAdapted(size),
        "implicit": Implicit(size),
    }
    rule = Compiled(rules[learner.rule]) if compiled else rules[learner.rule]
    return Threads(rule, threads) if threads > 1 else rule


class AdaptedTasks(NamedTuple):
    """What a learner knows about each task of a stack.

    Attributes
    ----------
    shared : Params
        Tensors that adaptation left as they were; one copy serves all tasks, and stays one large operation.
    own : Params
        Tensors of the tasks, each with a leading task axis.
    """

    shared: Params
    own: Params

    def of(self, task: int) -> Adapted:
        """Return the adapted tensors of one task."""
        return self.shared | {name: tensor[task] for name, tensor in self.own.items()}


def adapt_tasks(
    learner: Learner, params: Params, support: Batch, context: Context, tasks_at_once: int
) -> AdaptedTasks:
    """Adapt to every task of a stack; see :class:`Backprop` for ``tasks_at_once``."""
    shared: Params = {}

    def own(support: Batch, key: Tensor) -> Params:
        adapted = learner.adapt(params, support, _with_key(context, key))
        shared.update({name: tensor for name, tensor in adapted.items() if tensor is params.get(name)})
        return {name: tensor for name, tensor in adapted.items() if name not in shared}

    with torch.no_grad():
        parts = [
            _map_tasks(own, *chunk)
            for chunk in _chunks(support, context.key, _at_once(learner, tasks_at_once))
        ]
    return AdaptedTasks(shared, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def predict_tasks(learner: Learner, tasks: AdaptedTasks, inputs: Inputs, tasks_at_once: int) -> Tensor:
    """Predict the queries of every task of a stack, shape (t, n, n_outputs)."""

    def predict(own: Params, inputs: Inputs) -> Tensor:
        return learner.predict(tasks.shared | own, inputs)

    with torch.no_grad():
        chunks = _chunks(tasks.own, inputs, _at_once(learner, tasks_at_once))
        return torch.cat([_map_tasks(predict, own, part) for own, part in chunks])


def _at_once(learner: Learner, tasks_at_once: int) -> int:
    if tasks_at_once < 1:
        raise InvalidSetting(f"tasks_at_once must be at least 1, got {tasks_at_once}")
    return tasks_at_once if learner.tags.vectorises else 1


def _with_key(context: Context, key: Tensor) -> Context:
    return dataclasses.replace(context, key=key)


def _chunks(first: Tree, second: OtherTree, size: int) -> Iterator[tuple[Tree, OtherTree]]:
    """Cut two stacks into pieces of at most ``size`` tasks."""
    n_tasks = len(tree_leaves(second)[0])
    for start in range(0, n_tasks, size):
        yield tree_map(lambda tensor, start=start: tensor[start : start + size], (first, second))


def parts_of(episodes: Episode, keys: Tensor, n: int) -> Iterator[tuple[Episode, Tensor]]:
    """Cut a stack of tasks and their keys into at most ``n`` parts of about equal length, in order."""
    return _chunks(episodes, keys, -(-len(keys) // n))


def _map_tasks(function: Callable[[Tree, OtherTree], Result], first: Tree, second: OtherTree) -> Result:
    """Run ``function`` on every task of two stacks and stack the results; plainly where there is one.

    A network that looks at values (``if x.sum() > 0``) cannot be stacked; then its tasks run one by one.
    """
    n_tasks = len(tree_leaves(second)[0])
    if n_tasks > 1:
        try:
            return torch.func.vmap(function, randomness="different")(first, second)
        except RuntimeError as error:
            if torch.compiler.is_compiling() or not any(name in str(error) for name in TRANSFORMS):
                raise
            reason = str(error).strip().splitlines()[0]
        warnings.warn(f"tasks run one by one, as they cannot be stacked: {reason}", UserWarning, stacklevel=2)
    each = [function(*tree_map(lambda t, place=place: t[place], (first, second))) for place in range(n_tasks)]
    if n_tasks == 1:
        return tree_map(lambda t: t.unsqueeze(0), each[0])  # without a copy
    return tree_map(lambda *results: torch.stack(results), *each)


def _add(total: Params | None, more: Params) -> Params:
    return more if total is None else {name: total[name] + tensor for name, tensor in more.items()}
