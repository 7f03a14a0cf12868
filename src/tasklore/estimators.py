# ruff: noqa: N803 - scikit-learn calls the rows X
"""The scikit-learn face: ``MetaClassifier(learner).meta_fit(past_tasks).fit(X, y).predict(X)``.

``meta_fit`` learns across tasks and returns a new estimator with what it learned as its constructor argument
``prior``, so that ``clone``, ``cross_val_score`` and ``GridSearchCV`` keep it. ``fit`` adapts to one task.
"""

import dataclasses
import math
import numbers
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Generator

from .canonical import plain
from .config import to_settings
from .errors import InvalidData, InvalidSetting, TaskloreError
from .experience.store import ExperienceStore
from .learners.base import Learner
from .learners.baselines import FromScratch
from .learners.gradient import GradientLearner
from .learners.metric import Prototypes
from .loop import Outcome, Stop, Tasks, Watch, run
from .nets import Conv4, Identity, default_net
from .predictor import Predictor
from .registry import learners, sources
from .state import MetaState, Prior
from .tasks.arrays import ArrayTaskList, from_arrays
from .tasks.scaling import Floats, Scaling
from .tasks.source import Collection, Splits, TaskList, TaskSource
from .train import GradientTrainer, TrainSettings
from .types import Kind, TaskSpec
from .workspace import Workspace

__all__ = ["MetaClassifier", "MetaRegressor"]

HELD_OUT = 0.2
"""Share of a list of past tasks that judges the params instead of being learned from."""


class _MetaEstimator(BaseEstimator):
    """What classification and regression have in common."""

    kind: ClassVar[Kind]
    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(
        self,
        learner: str | Learner,
        prior: Prior | str | Path | None,
        train: TrainSettings | None,
        stop: Stop | None,
        random_state: int | np.random.RandomState | None,
    ) -> None:
        self.learner = learner
        self.prior = prior
        self.train = train
        self.stop = stop
        self.random_state = random_state

    def meta_fit(
        self,
        tasks: TaskSource | Splits | Collection | Sequence[tuple[Any, Any]],
        *,
        n_shots: int = 5,
        n_queries: int = 15,
        watch: Watch | None = None,
        store: ExperienceStore | None = None,
        artifacts: str | Path | None = None,
    ) -> Self:
        """Learn from past tasks, and return a new estimator that has what was learned as its ``prior``.

        Meta-learning goes on from this estimator's own prior if it has one, and starts anew otherwise.

        Parameters
        ----------
        tasks : list of (X, y), TaskSource, Splits, or Collection
            The past tasks. Of a list, or a :class:`~tasklore.tasks.source.TaskList`, a fifth is held out to
            decide which params are the best; any other source is judged on fresh draws of its own. ``Splits``
            are used as they are, the test side not at all; a collection by its splits.
        n_shots, n_queries : int
            Support and query examples in an episode of tasks given as arrays, of each class where there are
            classes; see :func:`~tasklore.tasks.arrays.from_arrays`. Best as in the tasks to come.
        watch : Watch, optional
            Is told of the progress.
        store : ExperienceStore, optional
            Where to record the run; by default nothing is written.
        artifacts : path, optional
            Folder for the priors that the store's records name; needed with ``store``.

        Returns
        -------
        MetaClassifier or MetaRegressor
            A clone, not fitted; this estimator stays as it is.

        Raises
        ------
        InvalidData
            The tasks cannot be learned from, or do not fit the prior.
        InvalidSetting
            The settings cannot work.
        """
        self._check_settings(store)
        if (store is None) != (artifacts is None):
            raise InvalidSetting("store and artifacts go together: give both, or neither to write nothing")
        prior = self._loaded_prior()
        suggested_net, collection = "", None
        if isinstance(tasks, Collection):
            suggested_net, collection, tasks = tasks.suggested_net, _named(tasks), tasks.splits()
        if not isinstance(tasks, TaskSource | Splits):
            tasks = from_arrays(
                tasks,
                self.kind,
                input_shape=None if prior is None else prior.spec.input_shape,
                max_ways=None if prior is None or self.kind == "regression" else prior.spec.n_outputs,
                n_shots=n_shots,
                n_queries=n_queries,
            )
        past, new = _sides(tasks, self._seed())
        if isinstance(past, ArrayTaskList) and isinstance(new, ArrayTaskList):
            scaling = past.pooled_scaling if prior is None else prior.scaling
            past, new = past.scaled(scaling), new.scaled(scaling)
        if prior is not None and prior.spec != past.spec:
            raise InvalidData(
                f"this estimator's prior is for {prior.spec}, these tasks are {past.spec}; "
                "to start anew, set prior=None"
            )
        learner = self._chosen_learner(past.spec, suggested_net) if prior is None else prior.learner
        # Not "auto": that measures, and the last digits then differ from run to run in spite of the seed.
        execution = "loop" if isinstance(learner.backbone, Conv4) else "vectorised"
        settings = self.train or TrainSettings(seed=self._seed(), execution=execution)
        if learner.tags.starts_from != "tasks":
            raise InvalidSetting(
                f"{type(learner).__name__} does not meta-learn; fit it without meta_fit, or choose another "
                "learner, with TrainSettings(initial='pretrained') for a start from plain training"
            )
        trainer = _Trainer(learner, settings, past.spec, past.scaling, prior)
        learned = self._run(trainer, Tasks(past, new), collection, watch, store, artifacts)
        return cast("Self", clone(self)).set_params(prior=learned)

    def _check_settings(self, store: object) -> None:
        """Raise ``InvalidSetting`` for what scikit-learn's conventions let users set unchecked."""
        for name, kind in (("train", TrainSettings), ("stop", Stop)):
            given: object = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                raise InvalidSetting(
                    f"{name} is {given!r}; give {kind.__name__}(...) with what is not as by default, or None"
                )
        if store is not None and not isinstance(store, ExperienceStore):
            raise InvalidSetting(
                f"store is {store!r}; open it and give what that returns: tasklore.experience.open_store(...)"
            )

    def _run(
        self,
        trainer: "_Trainer",
        tasks: Tasks[TaskSource, TaskSource],
        collection: dict[str, Any] | None,
        watch: Watch | None,
        store: ExperienceStore | None,
        artifacts: str | Path | None,
    ) -> Prior:
        """Run the loop, recorded or not, and return the best prior."""
        stop = self.stop or Stop(rounds=10, plateau=3)
        if store is None or artifacts is None:
            if trainer.settings.initial == "prior" and trainer.start is None:
                raise InvalidSetting(
                    "initial = 'prior' starts from what a store remembers; give store and artifacts, or "
                    "start from 'random' or 'pretrained'"
                )
            outcome = run(trainer, tasks, stop, _Forgetful(), watch)
            return trainer.prior(
                outcome.state, _provenance(tasks.past, collection, trainer.settings, outcome)
            )
        config = {
            "learner": to_settings(trainer.learner, learners),
            "train": to_settings(trainer.settings),
            "stop": to_settings(stop),
            **({"tasks": collection} if collection else {}),
        }
        name = f"{type(self).__name__} tasks"
        with tempfile.TemporaryDirectory() as folder:
            workspace = Workspace(
                Path(folder), store, Path(artifacts), trainer, tasks.past, tasks.new, name, config
            )
            outcome = run(trainer, tasks, stop, workspace, watch)
        workspace.finish(outcome.reason)
        return workspace.best_prior(outcome.state)

    def _adapt(self, x: Floats, y: np.ndarray, n_outputs: int) -> None:
        """Learn one task.

        Parameters
        ----------
        x : ndarray, shape (n, n_features)
        y : ndarray of labels, shape (n,), or of float64 targets, shape (n, n_outputs)
        n_outputs : int
        """
        prior = self._loaded_prior() or self._blank_prior(x, y, n_outputs)
        if prior.learner.transductive:
            raise InvalidSetting(
                "a transductive learner lets the rows of predict influence each other; "
                "use dataclasses.replace(learner, transductive=False)"
            )
        self.predictor_ = Predictor.adapt(prior, x, y, seed=self._seed(), dtype=torch.float64)

    def _rows(self, X: Any) -> Floats:
        """Return the rows of X, checked."""
        check_is_fitted(self)
        return cast("Floats", validate_data(self, X, reset=False, dtype=np.float64))

    def _loaded_prior(self) -> Prior | None:
        prior = cast("object", self.prior)  # users may have set anything
        if isinstance(prior, str | Path):
            prior = Prior.load(prior)
        if prior is not None and not isinstance(prior, Prior):
            raise InvalidSetting(
                f"prior is a {type(prior).__name__}; give a Prior, the path of a saved one, or None"
            )
        if prior is not None and prior.spec.kind != self.kind:
            raise InvalidData(f"this prior is for {prior.spec.kind}; {type(self).__name__} does {self.kind}")
        return prior

    def _blank_prior(self, x: Floats, y: np.ndarray, n_outputs: int) -> Prior:
        """Return what stands in for a prior where nothing was meta-learned: see the class's Notes."""
        spec = TaskSpec(self.kind, (x.shape[1],), n_outputs)
        learner = self._chosen_learner(spec)
        if isinstance(learner, GradientLearner) and learner.tags.starts_from != "nothing":
            learner = FromScratch(net=learner.net, inner_steps=100, step_size=0.01)
        elif isinstance(learner, Prototypes):
            learner = Prototypes(net=Identity())
        params = learner.init(spec, Generator().manual_seed(self._seed()))
        scaling = Scaling.of([(x, np.zeros(len(x), np.int64) if self.kind == "classification" else y)])
        return Prior(learner, params, spec, scaling)

    def _chosen_learner(self, spec: TaskSpec, suggested_net: str = "") -> Learner:
        """Return the learner; one given by name gets a net for such examples."""
        given = cast("object", self.learner)
        if isinstance(given, Learner):
            learner = given
        elif isinstance(given, str):
            learner: Learner = learners.get(given)()
            settings: Any = learner
            if any(field.name == "net" for field in dataclasses.fields(settings)):
                learner = dataclasses.replace(settings, net=default_net(spec, suggested_net))
        else:
            raise InvalidSetting(
                f"learner is a {type(given).__name__}; give one of {', '.join(learners.names())}, "
                "or a Learner"
            )
        learner.check_spec(spec)
        return learner

    def _seed(self) -> int:
        """Return the seed that ``random_state`` means."""
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


class MetaClassifier(ClassifierMixin, _MetaEstimator):
    """Classify from few examples, with what was learned from past tasks.

    Parameters
    ----------
    learner : str or Learner
        The way of learning, by its registered name or with settings of its own. By name it gets a
        convolutional net for images and an MLP of two layers of 64 units for anything else, or the net that a
        collection suggests. Where there is a prior, its learner is used instead.
    prior : Prior, str or Path, optional
        What was meta-learned, or the file that it was saved in. :meth:`meta_fit` sets it.
    train : TrainSettings, optional
        How :meth:`meta_fit` trains; by default with the seed that ``random_state`` gives.
    stop : Stop, optional
        When it ends; by default after 10 rounds, or 3 without a new best.
    random_state : int, RandomState or None
        Seeds meta-learning and fresh params. None draws a seed from NumPy's global generator, as in
        scikit-learn.

    Attributes
    ----------
    classes_ : ndarray
        The labels of this task, sorted.
    predictor_ : Predictor
        What has adapted to the task, in double precision; it can be saved, and used without this estimator.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        If X was a table with names.

    Notes
    -----
    **Scaling.** Past tasks given as arrays are standardised with the mean and standard deviation that they
    have together (each feature, or each channel of an image). A prior remembers how its past tasks were
    scaled, and new rows are given in the same raw units: images of any collection in grey levels 0…255.

    **Without a prior** there is nothing meta-learned to adapt from, and the estimator does the best that it
    can with the task alone: features are standardised by the rows of ``fit``; gradient learners become plain
    training of the same net from fresh params (100 steps of Adam), prototypes become class means of the
    features themselves, and any other learner adapts from fresh params. ``predictor_.learner`` shows it.

    Rows of ``predict`` do not influence each other; a transductive learner is refused.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> MetaClassifier().fit(X[::5], y[::5]).score(X, y) > 0.8
    True
    """

    kind: ClassVar[Kind] = "classification"

    def __init__(
        self,
        learner: str | Learner = "prototypes",
        prior: Prior | str | Path | None = None,
        *,
        train: TrainSettings | None = None,
        stop: Stop | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        super().__init__(learner, prior, train, stop, random_state)

    def fit(self, X: Any, y: Any) -> Self:
        """Adapt to one task.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            With a prior for images, each row is one image, flattened.
        y : array-like of shape (n_samples,)

        Raises
        ------
        InvalidData
            There is one class only, or the task does not fit the prior.
        """
        x, labels = cast("tuple[Floats, np.ndarray]", validate_data(self, X, y, dtype=np.float64))
        check_classification_targets(labels)
        classes = np.unique(labels)
        if len(classes) < 2:
            raise InvalidData(
                f"y has one class ({classes[0]!s}) in {len(x)} rows; give examples of two or more"
            )
        self._adapt(x, labels, len(classes))
        self.classes_ = classes  # not before: if adapting fails, what was learned earlier stays whole
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Return the probability of each class, shape (n_samples, n_classes), ordered as ``classes_``."""
        rows = self._rows(X)  # says so if not fitted
        return self.predictor_.predict_proba(rows)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each row, shape (n_samples,)."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]


class MetaRegressor(RegressorMixin, _MetaEstimator):
    """Regress from few examples, with what was learned from past tasks.

    Parameters
    ----------
    learner, prior, train, stop, random_state
        As for :class:`MetaClassifier`.

    Attributes
    ----------
    predictor_, n_features_in_, feature_names_in_
        As for :class:`MetaClassifier`.

    Notes
    -----
    As for :class:`MetaClassifier`. Targets are standardised as the features are, and predictions are in the
    units of ``y``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 20).reshape(-1, 1)
    >>> MetaRegressor().fit(X, 3 * X[:, 0] + 100).score(X, 3 * X[:, 0] + 100) > 0.9
    True
    """

    kind: ClassVar[Kind] = "regression"

    def __init__(
        self,
        learner: str | Learner = "maml",
        prior: Prior | str | Path | None = None,
        *,
        train: TrainSettings | None = None,
        stop: Stop | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        super().__init__(learner, prior, train, stop, random_state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Adapt to one task.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)

        Raises
        ------
        InvalidData
            The task does not fit the prior.
        """
        x, targets = cast(
            "tuple[Floats, np.ndarray]",
            validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True),
        )
        self._is_flat = targets.ndim == 1
        columns = targets.astype(np.float64).reshape(len(targets), -1)
        self._adapt(x, columns, columns.shape[1])
        return self

    def predict(self, X: Any) -> Floats:
        """Return the regressed values, in the shape that ``y`` had."""
        rows = self._rows(X)
        values = self.predictor_.predict(rows)
        return values if self._is_flat else values.reshape(len(values), -1)


@dataclass(frozen=True)
class _Trainer(GradientTrainer):
    """Starts from the estimator's own prior."""

    start: Prior | None = None

    def initialise(self, past: TaskSource, prior: Prior | None) -> MetaState:
        return super().initialise(past, self.start or prior)

    def prior(self, state: MetaState, provenance: dict[str, Any]) -> Prior:
        # What the start had learned from is learned from.
        known = () if self.start is None else self.start.provenance.get("origins", ())
        return super().prior(state, provenance | {"origins": sorted({*provenance["origins"], *known})})


class _Forgetful:
    """The memory of a run that writes nothing."""

    def collect(self, past: TaskSource) -> TaskSource:
        return past

    def prior(self) -> Prior | None:
        return None

    def resume(self) -> tuple[MetaState, float] | None:
        return None

    def checkpoint(self, state: MetaState, seconds: float, due: bool) -> None:
        pass

    def remember(self, state: MetaState, scores: list[float], decision: str, seconds: float) -> None:
        pass


def _sides(tasks: TaskSource | Splits, seed: int) -> tuple[TaskSource, TaskSource]:
    """Return what to learn from, and what to judge by."""
    if isinstance(tasks, Splits):
        return tasks.train, tasks.validation
    if not isinstance(tasks, TaskList):
        return tasks, tasks  # draws for training and for validation are independent
    families = sorted({task.family for task in tasks.tasks})
    if len(families) == 1:
        return tasks, tasks
    order = np.random.default_rng(seed).permutation(len(families))
    held_out = {families[index] for index in order[: math.ceil(HELD_OUT * len(families))]}
    return (
        tasks.filter(lambda task: task.family not in held_out),
        tasks.filter(lambda task: task.family in held_out),
    )


def _named(collection: Collection) -> dict[str, Any] | None:
    """Return the settings of a collection, so that its test tasks can be told from those learned from."""
    try:
        settings: Any = plain(to_settings(collection, sources))
    except (TaskloreError, TypeError):  # a class of the user's own, not registered or no dataclass
        return None
    return settings


def _provenance(
    past: TaskSource, collection: dict[str, Any] | None, settings: TrainSettings, outcome: Outcome[MetaState]
) -> dict[str, Any]:
    score = outcome.state.best_score
    return {
        "tasks_fingerprint": past.fingerprint,
        "origins": sorted(past.origins),
        "collection": collection,
        "seed": settings.seed,
        "ended": outcome.reason,
        "validation": None if score is None else dataclasses.asdict(score),
    }
