# ruff: noqa: N803 - scikit-learn calls the rows X
"""AutoML's face: ``AutoClassifier(budget="60s").fit(X, y)``.

A fit searches features, model and hyperparameters in the order that experience with past tables suggests,
ends on time, and can be remembered, so that the next table is learned with this one's experience.
"""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from ...errors import DamagedArtifact, InvalidData, StoreError
from ...experience.store import ExperienceStore, open_store
from .boards import leaderboard, unfinished, why
from .calibrating import Calibration
from .gaps import warn_of_lost_texts
from .images import ImagePrior, image_candidates, restored
from .leaks import warn_of_leaks
from .losses import metric_for
from .measuring import Problem, bounds_of
from .memory import names_of, remember
from .parts import pipeline_of, unsuited
from .pipelines import Kind
from .prior import TablePrior
from .saving import open_saved, write
from .search import search
from .settings import budget_of, check_settings, seconds_of
from .tables import Schema, plain_table
from .targets import classes_of, groups_of, indices_of, numbers_of, weights_of
from .trials import Blend, Trial

__all__ = ["AutoClassifier", "AutoRegressor", "load_model", "seconds_of"]

FORMAT = 1
SECONDS_FOR_IMAGES = 30.0  # that networks for images need at least: importing torch alone takes some


class _Auto(BaseEstimator):
    """What classification and regression have in common."""

    kind: ClassVar[Kind]
    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(  # noqa: PLR0913 - scikit-learn's way to name settings
        self,
        budget: float | str = "60s",
        *,
        max_evaluations: int | None = None,
        metric: str | None = None,
        memory_limit: int | None = None,
        n_jobs: int | None = -1,
        random_state: Any = 0,
        store: ExperienceStore | str | Path | None = None,
        remember: bool = True,
        name: str | None = None,
        prior: TablePrior | None = None,
        watch: Callable[[Trial], None] | None = None,
    ) -> None:
        self.budget = budget
        self.max_evaluations = max_evaluations
        self.metric = metric
        self.memory_limit = memory_limit
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.store = store
        self.remember = remember
        self.name = name
        self.prior = prior
        self.watch = watch

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Search within the budget.

        Parameters
        ----------
        X : DataFrame, array-like or sparse matrix, shape (n_rows, n_columns)
            Numbers, categories, dates, texts and truth values; gaps are fine.
        y : array-like, shape (n_rows,)
            Labels of any kind, two different ones at least; or finite numbers.
        sample_weight : array-like, shape (n_rows,), optional
        groups : array-like, shape (n_rows,), optional
            Rows of one group stay together when candidates are judged. Rows without one (None, NaN) count as
            a group of their own.
        """
        started = time.monotonic()
        asked = self.get_params(deep=False)
        check_settings(asked, self.kind)
        rows = plain_table(X)
        schema, table = Schema.read(rows)
        not_plain = unsuited(rows, schema)
        if len(table) < 2:
            raise InvalidData("Found array with 1 sample(s) while a minimum of 2 is required.")
        if y is None:
            raise InvalidData(f"{type(self).__name__} requires y to be passed, but the target y is None")
        check_consistent_length(table, y)
        warn_of_lost_texts(rows, schema, table)
        classes = self._classes_of(y)
        y = self._targets(y, classes)
        weights, groups = weights_of(sample_weight, table), groups_of(groups, table)
        n_classes = int(y.max()) + 1 if self.kind == "classification" else 0
        problem = self._counted(Problem(table, y, self.kind, schema, n_classes, weights, groups))
        if problem.groups is not None and len(np.unique(problem.groups)) == 1:
            raise InvalidData("groups holds one group only; two are needed to judge on other groups")
        warn_of_leaks(problem)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        prior = self.prior or TablePrior.shipped(self.kind)
        names: dict[str, str] = {}
        with self._opened() as store:
            if store is not None:
                prior, names = prior.with_store(store), names_of(store, self.kind)
        budget, metric = budget_of(asked, seed), metric_for(self.kind, self.metric)
        enough = budget.seconds is None or budget.seconds >= SECONDS_FOR_IMAGES
        if enough and (added := image_candidates(problem)):
            prior = ImagePrior.of(prior, added, problem)
        with _plain():
            found = search(problem, prior, budget, metric=metric, started=started, watch=self.watch)
        self._schema, self._blend, self._found, self._prior = schema, found.blend, found, prior
        self._names, self._unsuited = names, not_plain
        if classes is not None:
            self.classes_ = classes
        self.n_features_in_ = len(schema.columns)
        if schema.named and all(isinstance(name, str) for name in rows.columns):
            self.feature_names_in_ = np.asarray(rows.columns, dtype=object)
        elif "feature_names_in_" in vars(self):
            del self.feature_names_in_
        if told := unfinished(found):
            warnings.warn(told, UserWarning, stacklevel=2)
        if self.store is not None and self.remember:
            tried = {
                trial.candidate.name: (list(trial.measured.losses), found.seconds_of(trial))
                for trial in found.trials
                if trial.level == 0 and trial.measured.losses and not trial.measured.error
            }
            settings = self._settings() | {"seed": seed}
            try:
                with self._opened() as store:
                    if store is not None:
                        remember(store, problem, found.described, found.trivial, tried, settings, self.name)
            except (StoreError, InvalidData) as error:  # the model is there all the same
                warnings.warn(f"this fit could not be remembered: {error}", UserWarning, stacklevel=2)
        return self

    def _opened(self) -> AbstractContextManager[ExperienceStore | None]:
        """Open the store for a moment, if it is not open already."""
        if isinstance(self.store, str | Path):
            return closing(open_store(self.store))
        return nullcontext(self.store)

    def _counted(self, problem: Problem) -> Problem:
        """Return the rows that have a weight, with what is believed of their targets."""
        weights, n_classes = problem.weights, problem.n_classes
        if weights is not None and not (weights > 0).all():
            problem = problem.rows(np.flatnonzero(weights > 0))
            if n_classes and len(np.unique(problem.y)) < n_classes:
                raise InvalidData("a class has no row with a weight above 0; leave its rows out")
            if len(problem.y) < 2:
                raise InvalidData("only one row has a weight above 0; two are needed, to learn and to judge")
        return problem if n_classes else dataclasses.replace(problem, bounds=bounds_of(problem.y))

    def _settings(self) -> dict[str, Any]:
        return {
            "face": type(self).__name__,
            "budget": str(self.budget),
            "max_evaluations": self.max_evaluations,
            "metric": self.metric,
        }

    def _outputs(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        rows = plain_table(X)
        table = self._schema.table(rows)
        warn_of_lost_texts(rows, self._schema, table)
        with _plain():
            return self._blend.outputs(table)

    @property
    def text_columns_(self) -> list[str]:
        """The columns in which what is written counts, also where it looks like a number: ``007``, ``TRUE``.

        To read a file for ``predict`` as the one for ``fit`` was read:
        ``pd.read_csv(path, dtype=dict.fromkeys(model.text_columns_, str))``.
        """
        check_is_fitted(self)
        return [column.name for column in self._schema.columns if column.kind in ("category", "date", "text")]

    @property
    def leaderboard_(self) -> pd.DataFrame:
        """What was tried, best first.

        Columns: ``candidate``, ``model``, ``score`` (cross-validated, by ``metric``), ``loss``, ``weight`` in
        the blend, ``rows``, ``fit_seconds`` and ``predict_seconds`` of a fold, ``at`` (seconds after the
        start), ``reason``. What was not finished (hopeless after a fold, out of time or memory, failed)
        has no score but NaN, and the reason why.
        """
        check_is_fitted(self)
        if self._found is None:
            raise InvalidData("a model that was loaded from a file does not keep its leaderboard")
        return leaderboard(self._found)

    @property
    def why_(self) -> pd.DataFrame:
        """The past tables most like this one, and what worked there.

        Columns: ``past_table``, ``own`` (whether it comes from ``store``), ``likeness`` (0 to 1),
        ``best_candidate``, ``loss`` (as a share of that of predicting always the same), and ``chosen_here``
        with its ``loss_of_chosen`` there.
        """
        check_is_fitted(self)
        if self._found is None:
            raise InvalidData("a model that was loaded from a file does not keep the reasons for it")
        return why(self._found, self._prior, self._names)

    def refit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the chosen models again, each once, to all rows given; quicker to predict with.

        The search keeps the models of its folds, each of which saw a part of the rows. Weights in the blend,
        and its calibration, stay as the search found them. Rows of weight 0 are left out.
        """
        check_is_fitted(self)
        rows = plain_table(X)
        table = self._schema.table(rows)
        warn_of_lost_texts(rows, self._schema, table)
        weights = weights_of(sample_weight, table)
        unweighted = [c.name for _, c, _ in self._blend.members if not c.takes_weights(self.kind)]
        if weights is not None and unweighted:
            raise InvalidData(
                f"{', '.join(unweighted)} cannot weigh rows and was chosen without weights; fit again"
            )
        targets = self._targets(y, None)
        problem = Problem(table, targets, self.kind, self._schema, self._blend.problem.n_classes, weights)
        problem = self._counted(problem)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with _plain():
            self._blend = self._blend.refitted(problem, seed)
        return self

    def _classes_of(self, y: Any) -> np.ndarray | None:
        """Return the different labels, if there are any."""
        return None

    def _targets(self, y: Any, classes: np.ndarray | None) -> np.ndarray:
        """Return class indices, among these classes or else those of the model, or numbers."""
        raise NotImplementedError

    def to_pipeline(self) -> Any:
        """Return what was chosen as scikit-learn's own parts, not fitted, to use without Tasklore.

        Its input are rows as they were given to :meth:`fit`, dense; with tables, columns are found by their
        names. Several models become a
        :class:`~sklearn.ensemble.VotingClassifier` or a :class:`~sklearn.ensemble.VotingRegressor`. It
        predicts the same classes, but does neither sharpen chances nor stretch values, nor keep values within
        a tenth of the targets' range around it, as Tasklore's own prediction does.

        Raises
        ------
        InvalidData
            A step has no such part: dates in parts, text columns joined, categories by frequency, or
            convolutions. Or a column was not plain: infinite numbers, other texts among numbers, values of
            several types, lengths of time, ``pandas.NA``, or a name that another one has. The message names
            it.
        """
        check_is_fitted(self)
        schema = self._schema
        if "feature_names_in_" not in vars(self):  # columns that are not called by texts have places only
            schema = dataclasses.replace(schema, named=False)
        return pipeline_of(self._blend, schema, self.kind, self._unsuited)

    def save(self, path: str | Path) -> None:
        """Write the fitted model to a file, which holds no code.

        Raises
        ------
        StoreError
            The file cannot be written.
        MissingDependency
            skops is not installed.
        """
        check_is_fitted(self)
        about = {
            "tasklore": FORMAT,
            "face": type(self).__name__,
            "parameters": {
                name: value
                for name, value in self.get_params().items()
                if name not in ("store", "prior", "watch")
                and isinstance(value, str | int | float | bool | None)
            },
            "schema": self._schema.to_dict(),
            "unsuited": self._unsuited,
            "n_classes": self._blend.problem.n_classes,
            "bounds": self._blend.problem.bounds,
            "calibration": dataclasses.asdict(self._blend.calibration),
            "members": [
                {"weight": weight, "candidate": candidate.to_dict(), "n_models": len(pipelines)}
                for weight, candidate, pipelines in self._blend.members
            ],
        }
        content = {
            "about": json.dumps(about),
            "classes": getattr(self, "classes_", np.empty(0)),
            "names": getattr(self, "feature_names_in_", np.empty(0, object)).tolist(),
            "models": [pipeline for _, _, pipelines in self._blend.members for pipeline in pipelines],
        }
        write(path, content)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DamagedArtifact
            There is no such file, it is damaged, of another version, or holds types that no model of Tasklore
            has; nothing of it is used then.
        """
        model = load_model(path)
        if not isinstance(model, cls):
            raise DamagedArtifact(f"{path} holds an {type(model).__name__}; load it with that class")
        return model

    def _restored(self, schema: Schema, blend: Blend, held: Any, not_plain: dict[str, str]) -> Self:
        self._schema, self._blend, self._found, self._unsuited = schema, blend, None, not_plain
        self.n_features_in_ = len(schema.columns)
        if held["names"]:
            self.feature_names_in_ = np.asarray(held["names"], dtype=object)
        if self.kind == "classification":
            self.classes_ = held["classes"]
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "_blend" in vars(self)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags


class AutoClassifier(ClassifierMixin, _Auto):
    """Choose features, model and hyperparameters for a classification table, in seconds, from experience.

    Parameters
    ----------
    budget : float or str
        Wall-clock time of a fit: seconds, or a text such as ``"60s"``, ``"10min"``, ``"1h"``.
    max_evaluations : int, optional
        Try so many candidates instead, however long it takes; then equal data and ``random_state`` give equal
        results.
    metric : {"log_loss", "accuracy", "balanced_accuracy", "roc_auc"}, optional
        What the blend is chosen by; ``"log_loss"`` by default.
    memory_limit : int, optional
        Megabytes for the processes that try candidates, together; 80 % of what is free by default.
    n_jobs : int, optional
        How many such processes; -1 for one for each core.
    random_state : int, RandomState or None
    store : ExperienceStore, str or Path, optional
        Where experience is read from, and written to if ``remember``; none by default.
    remember : bool
        Whether to add this table's descriptors, and the candidates' losses and times, to the store. Rows are
        never stored.
    name : str, optional
        What you call this table, to recognise it in ``why_`` of later fits; remembered with it. Without one
        it is called by its day and its size.
    prior : TablePrior, optional
        What was learned from past tables; by default what the package comes with.
    watch : callable, optional
        Is told of each :class:`~.search.Trial` when it is done.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        If ``X`` had such names.
    leaderboard_, why_ : DataFrame
        What was tried, and which past tables suggested it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from tasklore import AutoClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = AutoClassifier(max_evaluations=2, n_jobs=1).fit(X[::2], y[::2])
    >>> bool(model.score(X[1::2], y[1::2]) > 0.9)
    True
    """

    kind = "classification"
    classes_: np.ndarray

    def _classes_of(self, y: Any) -> np.ndarray:
        return classes_of(y)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities, shape (n_rows, n_classes), columns in the order of ``classes_``."""
        outputs = self._outputs(X)
        return outputs / outputs.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return labels, shape (n_rows,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _targets(self, y: Any, classes: np.ndarray | None) -> np.ndarray:
        return indices_of(y, self.classes_ if classes is None else classes)


class AutoRegressor(RegressorMixin, _Auto):
    """Choose features, model and hyperparameters for a regression table, in seconds, from experience.

    Parameters
    ----------
    budget, max_evaluations, memory_limit, n_jobs, random_state, store, remember, name, prior, watch
        As for :class:`AutoClassifier`.
    metric : {"r2", "mean_absolute_error", "root_mean_squared_error"}, optional
        What the blend is chosen by; ``"r2"`` by default.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from tasklore import AutoRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = AutoRegressor(max_evaluations=2, n_jobs=1).fit(X[::2], y[::2])
    >>> bool(model.score(X[1::2], y[1::2]) > 0.3)
    True
    """

    kind = "regression"

    def predict(self, X: Any) -> np.ndarray:
        """Return values, float64, shape (n_rows,).

        They lie within the range of the targets that were learned from and a tenth of it on either side, so
        that no row, however unlike the others, gets an absurd value.
        """
        return self._outputs(X)[:, 0]

    def _targets(self, y: Any, classes: np.ndarray | None) -> np.ndarray:
        return numbers_of(y)


def load_model(path: str | Path) -> "AutoClassifier | AutoRegressor":
    """Read a model that ``save`` wrote, of either kind.

    Raises
    ------
    DamagedArtifact
        See :meth:`AutoClassifier.load`.
    """
    held = open_saved(path)
    try:
        about: Any = json.loads(held["about"])
        if about["tasklore"] != FORMAT:
            raise DamagedArtifact(
                f"{path} has format {about['tasklore']!r}, this version reads {FORMAT}; save the model again"
            )
        face = {"AutoClassifier": AutoClassifier, "AutoRegressor": AutoRegressor}[about["face"]]
        model = face(**about["parameters"])
        schema = Schema.from_dict(about["schema"])
        bounds: Any = about.get("bounds")  # which files of older versions lack
        bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        n_classes = int(about["n_classes"])
        learned: Any = about.get("calibration", {})  # older files lack it too
        not_plain = {str(name): str(why) for name, why in about.get("unsuited", {}).items()}
        calibration = Calibration(**{name: float(value) for name, value in learned.items()})
        empty = Problem(pd.DataFrame(), np.empty(0), face.kind, schema, n_classes, bounds=bounds)
        models = iter(held["models"])
        members = tuple(
            (
                float(member["weight"]),
                restored(member["candidate"]),
                tuple(next(models) for _ in range(int(member["n_models"]))),
            )
            for member in about["members"]
        )
    except DamagedArtifact:
        raise
    except Exception as error:  # whatever a damaged archive may cause
        raise DamagedArtifact(f"{path} is no model that Tasklore saved, or is damaged: {error}") from error
    blend = Blend(empty, members, calibration)
    return model._restored(schema, blend, held, not_plain)  # pyright: ignore[reportPrivateUsage]


def _plain() -> AbstractContextManager[None]:
    """Let parts of models work as in the processes that try them, whatever is set for scikit-learn here."""
    context: Any = config_context(enable_metadata_routing=False, transform_output="default")
    return context
