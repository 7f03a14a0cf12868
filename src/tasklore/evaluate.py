"""How well a learner does on unseen tasks: one value for each task, the same episodes for every method."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from .errors import InvalidSetting
from .execution import HEAVY, held_bytes
from .learners.base import Learner
from .metagrad import AdaptedTasks, adapt_tasks, predict_tasks
from .placement import device_of, placed
from .scores import Score
from .tasks.source import TaskSource, check_is_source
from .types import Batch, Context, Episode, Params, TaskSpec

__all__ = ["TASKS_PER_DRAW", "Evaluation", "evaluate", "is_small", "metric_of", "task_scores"]

TASKS_PER_DRAW = 25
"""Tasks drawn and held in memory at a time; part of what a seed means, so it never changes."""

STACKED = 8 * HEAVY
"""Bytes that tasks which are evaluated at once may hold together."""

DIVERGED = float(torch.finfo(torch.float32).max)  # the squared error of what is not finite


@dataclass(frozen=True)
class Evaluation:
    """The result of one method on one source.

    Parameters
    ----------
    method : str
    metric : str
    scores : tuple of float
        One for each task.
    seconds : float
        Wall time of adapting and predicting, without drawing the episodes.
    transductive : bool
        Whether the queries of a task influenced each other's predictions, which is an easier setting.
    """

    method: str
    metric: str
    scores: tuple[float, ...]
    seconds: float
    transductive: bool = False

    @property
    def score(self) -> Score:
        """The mean over tasks and its interval."""
        return Score.of(self.metric, self.scores)

    @property
    def title(self) -> str:
        """The method, marked where its queries help each other."""
        return f"{self.method}, transductive" if self.transductive else self.method


def metric_of(spec: TaskSpec) -> str:
    """Return the metric that tasks of this kind are judged by."""
    return "accuracy" if spec.kind == "classification" else "mse"


def task_scores(predictions: Tensor, query: Batch) -> list[float]:
    """Return accuracy, or mean squared error, of each task of a stack.

    Parameters
    ----------
    predictions : Tensor, shape (t, n, c)
    query : Batch
        Stacked, with ``n`` examples each.

    Notes
    -----
    A value that is not finite counts as an error of 3.4e38, so that who diverges comes last and the mean
    over tasks exists; a class that was chosen from NaN is wrong.
    """
    if query.y.is_floating_point():
        each = ((predictions - query.y) ** 2).flatten(2).mean(2).to(torch.float64)  # (t, n)
        each = torch.nan_to_num(each, nan=DIVERGED, posinf=DIVERGED)
    else:
        right = (predictions.argmax(-1) == query.y) & ~predictions.isnan().any(-1)
        each = right.to(torch.float64)  # (t, n)
    return ((each * query.mask).sum(1) / query.mask.sum(1)).tolist()


def evaluate(
    learner: Learner,
    params: Params,
    source: TaskSource,
    *,
    method: str,
    trained: TaskSpec | None = None,
    n_tasks: int = 600,
    seed: int = 0,
    stream: str = "test",
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Adapt to ``n_tasks`` fresh tasks and score the predictions on their queries.

    Parameters
    ----------
    learner : Learner
    params : Params
        Meta-learned, or as :meth:`Learner.init` gave them; where they lie is where tasks are learned.
    source : TaskSource
    method : str
        The name for tables.
    trained : TaskSpec, optional
        The spec that ``params`` were made for, where it is not the source's own.
    n_tasks : int
        Episodes.
    seed, stream
        Name the episodes: two methods given the same ones face the same episodes.
    on_progress : callable, optional
        Told the number of tasks done.

    Raises
    ------
    InvalidSetting
        ``params`` lack what the learner needs.
    InvalidData
        The tasks do not fit the learner or what it was trained for.
    """
    if n_tasks < 1:
        raise InvalidSetting(f"n_tasks must be at least 1, got {n_tasks}")
    check_is_source(source)
    spec = learner.spec_for(trained or source.spec, source.spec)
    if lacking := learner.init(spec, Generator().manual_seed(0)).keys() - params.keys():
        raise InvalidSetting(
            f"params lack {', '.join(sorted(lacking)[:3])}, which {type(learner).__name__} learns from; give "
            "those of a state or a prior of this very learner, or what its init returns"
        )
    scores: list[float] = []
    seconds, at_once = 0.0, None
    while len(scores) < n_tasks:
        n_drawn = min(TASKS_PER_DRAW, n_tasks - len(scores))
        episodes, keys = source.episodes(seed, stream, len(scores) // TASKS_PER_DRAW, n_drawn)
        episodes, keys = placed((episodes, keys), device_of(params))
        context = Context(spec, keys)
        if at_once is None:
            at_once = _at_once(learner, params, episodes, context) if is_small(params) else 1
        started = time.perf_counter()
        tasks: AdaptedTasks = adapt_tasks(learner, params, episodes.support, context, at_once)
        predictions = predict_tasks(learner, tasks, episodes.query.inputs, at_once)
        seconds += time.perf_counter() - started
        scores += task_scores(predictions, episodes.query)
        if on_progress is not None:
            on_progress(len(scores))
    return Evaluation(method, metric_of(source.spec), tuple(scores), seconds, learner.transductive)


def _at_once(learner: Learner, params: Params, episodes: Episode, context: Context) -> int:
    """Return how many tasks to evaluate at once, so that they hold no more than ``STACKED`` together."""
    (support, query), keys = tree_map(lambda tensor: tensor[:1], (episodes, context.key))

    def first() -> None:
        tasks = adapt_tasks(learner, params, support, dataclasses.replace(context, key=keys), 1)
        predict_tasks(learner, tasks, query.inputs, 1)

    return min(len(episodes.support.y), max(1, STACKED // max(1, held_bytes(first))))


def is_small(params: Params) -> bool:
    """Whether many copies of the weights fit into cache, so that vectorising over tasks pays on a CPU."""
    return sum(tensor.numel() for tensor in params.values()) <= 60_000
