"""From settings to findings: run the loop, then compare with the baselines on the test tasks.

This is what ``tasklore run`` does, as one call. An :class:`Experiment` is plain settings, :func:`conduct`
carries it out, and :class:`Findings` is everything that a report shows.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Generator

from .config import build, from_settings, read_toml, to_settings
from .errors import InvalidSetting
from .evaluate import Evaluation, evaluate
from .experience.store import ExperienceStore
from .files import alone
from .learners.base import Learner
from .learners.gradient import GradientLearner
from .loop import Outcome, Stop, Tasks, Watch, run
from .placement import device_for, placed
from .registry import learners, sources
from .state import MetaState, Prior
from .tasks.source import Collection, Splits, TaskSource
from .train import Around, GradientTrainer, TrainSettings, pretrain
from .types import Params, TaskSpec
from .workspace import Workspace

__all__ = ["Experiment", "Findings", "Row", "TestSettings", "Trained", "baselines", "conduct", "meta_train"]

SECTIONS = ("tasks", "learner", "net", "train", "stop", "test")


@dataclass(frozen=True)
class TestSettings:
    """How the result is judged, once, at the end.

    Parameters
    ----------
    n_tasks : int
        Test episodes of each row of the table.
    shots : tuple of int
        Numbers of support examples in the table; also the points of the curve over shots.
    inner_steps : tuple of int
        Numbers of gradient steps on the curve over steps, for learners that take any.
    n_curve : int
        Test episodes of each point of the curves.
    baselines : bool
        Whether to compare with the baselines.
    seed : int
        Names the test episodes.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    n_tasks: int = 600
    shots: tuple[int, ...] = (1, 5)
    inner_steps: tuple[int, ...] = (0, 1, 2, 3, 5, 10)
    n_curve: int = 200
    baselines: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_tasks < 2 or self.n_curve < 2:
            raise InvalidSetting(
                f"n_tasks and n_curve must be at least 2, got {self.n_tasks} and {self.n_curve}"
            )
        if not self.shots or min(self.shots) < 1 or min(self.inner_steps, default=0) < 0:
            raise InvalidSetting(
                f"shots must be positive and steps not negative, got {self.shots} and {self.inner_steps}"
            )


@dataclass(frozen=True)
class Experiment:
    """The settings of a run.

    Parameters
    ----------
    tasks : Collection
    learner : Learner
    train : TrainSettings
    stop : Stop
    test : TestSettings
    """

    tasks: Collection
    learner: Learner
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    stop: Stop = dataclasses.field(default_factory=Stop)
    test: TestSettings = dataclasses.field(default_factory=TestSettings)

    @classmethod
    def from_toml(cls, path: str | Path) -> "Experiment":
        """Read a configuration file with the sections tasks, learner, net, train, stop, test.

        Raises
        ------
        InvalidSetting
            Something in the file cannot work; the message says where and what is needed.
        """
        return cls.from_sections(read_toml(path, SECTIONS))

    @classmethod
    def from_sections(cls, sections: Mapping[str, Mapping[str, Any]]) -> "Experiment":
        """Build an experiment from plain values; the inverse of :meth:`settings`."""
        learner = dict(sections.get("learner", {}))
        if sections.get("net"):
            learner["net"] = dict(sections["net"])
        return cls(
            from_settings(sources, sections.get("tasks", {}), "[tasks]"),
            from_settings(learners, learner, "[learner]"),
            build(TrainSettings, sections.get("train", {}), "[train]"),
            build(Stop, sections.get("stop", {}), "[stop]"),
            build(TestSettings, sections.get("test", {}), "[test]"),
        )

    def settings(self) -> dict[str, Any]:
        """Return the resolved settings, every default included, as JSON values."""
        return {
            "tasks": to_settings(self.tasks, sources),
            "learner": to_settings(self.learner, learners),
            "train": to_settings(self.train),
            "stop": to_settings(self.stop),
            "test": to_settings(self.test),
        }


@dataclass(frozen=True)
class Trained:
    """What meta-training came to.

    Parameters
    ----------
    workspace : Workspace
    outcome : Outcome
    prior : Prior
        The best that was learned.
    """

    workspace: Workspace
    outcome: Outcome[MetaState]
    prior: Prior


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a method with a number of shots."""

    shots: int
    evaluation: Evaluation
    is_baseline: bool
    source: str = ""
    """The part of a mix that it was judged on; empty for all test tasks."""


@dataclass(frozen=True)
class Findings:
    """What came of an experiment.

    Parameters
    ----------
    experiment : Experiment
    name : str
        Of the tasks.
    workspace : Workspace
    outcome : Outcome
    splits : Splits
    prior : Prior
        The best that was learned.
    rows : tuple of Row
        The comparison on the test tasks.
    by_source : tuple of Row
        The same on each part of a mix by itself; empty where test tasks are of one source.
    over_steps : mapping of int to Evaluation
        The learner after so many gradient steps; empty where it takes none.
    seconds : float
        Wall time of the whole, the comparison included.
    """

    experiment: Experiment
    name: str
    workspace: Workspace
    outcome: Outcome[MetaState]
    splits: Splits
    prior: Prior
    rows: tuple[Row, ...]
    by_source: tuple[Row, ...]
    over_steps: Mapping[int, Evaluation]
    seconds: float


def baselines(
    learner: Learner, past: TaskSource, settings: TrainSettings, spec: TaskSpec
) -> Mapping[str, tuple[Learner, Params]]:
    """Return what every report compares with; each is made, and pre-trained, when it is first asked for.

    Parameters
    ----------
    learner : Learner
        Its backbone is what the trained baselines use too, transductive as it is or not.
    past : TaskSource
        What may be learned from.
    settings : TrainSettings
        For pre-training.
    spec : TaskSpec
        Of the tasks that they are judged on.

    Returns
    -------
    mapping
        Name → (learner, params), ready to be evaluated. From scratch where there is a backbone with an output
        layer; pre-training, continued or with a linear read-out, where the tasks can be pooled too; and
        shallow models on the raw inputs.
    """

    def started(plain: Learner) -> Params:
        return plain.init(spec, Generator().manual_seed(settings.seed))

    makers: dict[str, Callable[[], tuple[Learner, Params]]] = {}
    if (net := learner.backbone) is not None and net.has_output_layer:
        alike = {"net": net, "transductive": learner.transductive}
        scratch, finetune, probe = (
            learners.get(name)(**alike) for name in ("scratch", "finetune", "linear-probe")
        )
        pretrained = functools.cache(lambda: pretrain(finetune, past, settings, spec))
        makers["scratch"] = lambda: (scratch, started(scratch))
        if past.can_be_pooled:
            makers["finetune"] = lambda: (finetune, pretrained())
            if spec.kind == "classification":
                makers["linear-probe"] = lambda: (
                    probe,
                    {name: pretrained()[name] for name in started(probe)},
                )
    shallow = (
        ("nearest-centroid", "logistic-regression")
        if spec.kind == "classification"
        else ("ridge-regression",)
    )
    for name in shallow:
        kind: Any = learners.get(name)
        simple: Learner = kind(see=past.plain) if past.plain and spec.kind == "classification" else kind()
        makers[name] = functools.partial(lambda simple: (simple, started(simple)), simple)
    return _Made(makers)


class _Made(Mapping[str, tuple[Learner, Params]]):
    """Values that are made when they are first asked for, and kept."""

    def __init__(self, makers: Mapping[str, Callable[[], tuple[Learner, Params]]]) -> None:
        self._makers = {name: functools.cache(make) for name, make in makers.items()}

    def __getitem__(self, name: str) -> tuple[Learner, Params]:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def tuned(
    learner: Learner, params: Params, spec: TaskSpec, validation: TaskSource, settings: TrainSettings
) -> tuple[Mapping[str, float], Learner, list[tuple[Mapping[str, float], Evaluation]]]:
    """Choose the settings of a baseline on validation tasks, as those of a meta-learner are.

    Parameters
    ----------
    learner : Learner
        Its ``alternatives`` are tried, if there are any.
    params : Params
        The same for all of them.
    spec : TaskSpec
        That they were made for.
    validation : TaskSource
    settings : TrainSettings
        Of the meta-learners that it is compared with: they are judged on the same validation episodes.

    Returns
    -------
    chosen : mapping
        What was best; empty where there is nothing to choose.
    learner : Learner
        With that.
    tried : list of (mapping, Evaluation)
        In the order in which they were tried.
    """
    found = [
        evaluate(
            _with(learner, changes),
            params,
            validation,
            method=str(dict(changes)),
            trained=spec,
            n_tasks=settings.n_validation,
            seed=settings.seed,
            stream="validation",
        )
        for changes in learner.alternatives
    ]
    if not found:
        return {}, learner, []
    best = 0
    for place, evaluation in enumerate(found):
        best = place if evaluation.score.beats(found[best].score) else best
    chosen = learner.alternatives[best]
    return chosen, _with(learner, chosen), list(zip(learner.alternatives, found, strict=True))


def _with(learner: Learner, changes: Mapping[str, float]) -> Learner:
    changed: Any = learner
    return dataclasses.replace(changed, **changes)


def meta_train(
    experiment: Experiment,
    splits: Splits,
    folder: Path,
    store: ExperienceStore,
    artifacts: Path,
    *,
    run_id: str | None = None,
    watch: Watch | None = None,
    around: Around | None = None,
) -> Trained:
    """Run the loop of an experiment; the test tasks are not looked at.

    Parameters
    ----------
    experiment : Experiment
    splits : Splits
        Its tasks.
    folder, store, artifacts, run_id, watch, around
        See :func:`conduct`.

    Raises
    ------
    InvalidSetting, InvalidData
        The settings cannot work, alone or with these tasks; nothing was written.
    """
    name = sources.name_of(type(experiment.tasks))
    spec, scaling = splits.train.spec, splits.train.scaling
    trainer = GradientTrainer(experiment.learner, experiment.train, spec, scaling, around=around)
    if experiment.learner.tags.starts_from != "tasks":
        raise InvalidSetting(
            f"{learners.name_of(type(experiment.learner))} is a baseline: it does not meta-learn, and every "
            "run compares with it; choose a learner that meta-learns, such as 'prototypes' or 'maml', with "
            "initial = 'pretrained' for a start from plain training"
        )
    trainer.check(splits.train)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, f"another process is at the run in {folder}; wait for it, or choose another folder"):
        workspace = Workspace(
            folder,
            store,
            artifacts,
            trainer,
            splits.train,
            splits.validation,
            name,
            experiment.settings(),
            run_id,
            judging=(splits.test,),
        )
        outcome = run(trainer, Tasks(splits.train, splits.validation), experiment.stop, workspace, watch)
    return Trained(workspace, outcome, workspace.best_prior(outcome.state))


def conduct(
    experiment: Experiment,
    folder: Path,
    store: ExperienceStore,
    artifacts: Path,
    *,
    run_id: str | None = None,
    watch: Watch | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    around: Around | None = None,
) -> Findings:
    """Carry out an experiment: the loop, then the comparison on the test tasks.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
        Of this run; if it holds an unfinished one with the same settings, that is continued. What was
        learned is left in it, as ``prior.safetensors``.
    store : ExperienceStore
    artifacts : Path
        Where priors are kept.
    run_id : str, optional
        A fresh UUID by default.
    watch : Watch, optional
        Shows the progress of the loop.
    on_progress : callable (method, tasks done, tasks in all), optional
        Shows the progress of the comparison.
    around : callable, optional
        Lets meta-steps run elsewhere, see :mod:`tasklore.runners.rules`.
    """
    started = time.monotonic()
    splits = experiment.tasks.splits()
    for shots in experiment.test.shots:
        splits.test.with_shots(shots)  # fails before any time is spent
    name = sources.name_of(type(experiment.tasks))
    trained = meta_train(
        experiment, splits, folder, store, artifacts, run_id=run_id, watch=watch, around=around
    )
    workspace, outcome, prior = trained.workspace, trained.outcome, trained.prior
    prior.save(workspace.prior_path)
    methods = {learners.name_of(type(prior.learner)): (prior.learner, prior.params)}
    if experiment.test.baselines:
        methods |= baselines(prior.learner, splits.train, experiment.train, splits.test.spec)
    tell = on_progress or (lambda method, done, total: None)

    def judge(
        method: str,
        learner: Learner,
        params: Params,
        source: TaskSource,
        n_tasks: int,
        trained: TaskSpec = prior.spec,
    ) -> Evaluation:
        return evaluate(
            learner,
            placed(params, device_for(experiment.train.device)),
            source,
            method=method,
            trained=trained,
            n_tasks=n_tasks,
            seed=experiment.test.seed,
            on_progress=lambda done: tell(method, done, n_tasks),
        )

    def compared(source: TaskSource, part: str = "") -> Iterator[Row]:
        for shots in experiment.test.shots:
            shot = source.with_shots(shots)
            for index, (method, (learner, params)) in enumerate(methods.items()):
                trained = splits.test.spec if index else prior.spec
                found = judge(method, learner, params, shot, experiment.test.n_tasks, trained)
                where = f"{name}, {part}, test" if part else f"{name}, test"
                workspace.record(found, shot, {"shots": shots}, f"{where}, {shots} shots")
                yield Row(shots, found, is_baseline=index > 0, source=part)

    rows = list(compared(splits.test))
    by_source = [row for part, source in splits.test.named.items() for row in compared(source, part)]

    over_steps: dict[int, Evaluation] = {}
    if isinstance(prior.learner, GradientLearner):
        for n_steps in experiment.test.inner_steps:
            stepped = dataclasses.replace(prior.learner, test_steps=n_steps)
            found = judge(f"{n_steps} steps", stepped, prior.params, splits.test, experiment.test.n_curve)
            workspace.record(found, splits.test, {"inner_steps": n_steps}, f"{name}, test")
            over_steps[n_steps] = found

    workspace.finish(outcome.reason)
    seconds = time.monotonic() - started
    return Findings(
        experiment,
        name,
        workspace,
        outcome,
        splits,
        prior,
        tuple(rows),
        tuple(by_source),
        over_steps,
        seconds,
    )
