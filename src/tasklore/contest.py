"""Several learners under the same budget on the same tasks: which is best, and how sure that is.

Every learner gets the same wall-clock time of meta-training, a part of which goes into choosing its settings:
three alternatives each, judged on the validation tasks, of which the best goes on; the settings of baselines
are chosen in the same way. The test tasks are looked at once, when it is done. :func:`hold` writes each
result as soon as it is there, so that a contest can be stopped at any moment and goes on where it was;
learners may be added to one that is over.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .canonical import loads
from .config import to_settings
from .errors import DamagedArtifact, InvalidData, InvalidSetting, NumericalFailure
from .evaluate import Evaluation, evaluate
from .experience.records import RoundRecord
from .experience.store import ExperienceStore
from .experiment import Experiment, Row, Trained, baselines, meta_train, tuned
from .files import alone
from .learners.base import Learner
from .loop import Stop, Watch
from .nets import Net, check_net, default_net
from .placement import device_for, placed
from .registry import learners, nets, sources
from .scores import Score
from .tasks.source import Collection, Splits, TaskSource
from .train import GradientTrainer, TrainSettings
from .types import Kind, Params, TaskSpec
from .workspace import check_same_tasks, difference, hardware, versions, write_json

__all__ = [
    "Contest",
    "Spectator",
    "Standing",
    "Trial",
    "hold",
    "in_words",
    "on_sources",
    "ranked",
]

FORMAT = 1
DEFAULT_LEARNERS = ("prototypes", "ridge-head", "maml", "anil", "reptile")
RATES = (0.3, 1.0, 3.0)  # times the learning rate: tried where a learner names no settings of its own


@dataclass(frozen=True)
class Contest:
    """What is compared, and how.

    Parameters
    ----------
    tasks : Collection
    net : Net, optional
        The backbone of every learner; by default one that suits the examples, see
        :func:`tasklore.nets.default_net`.
    train : TrainSettings
        Common to all; learning rates may be tried around its own.
    minutes : float
        Of meta-training for each learner, the choice of its settings and its validation included.
    tuning : float
        Share of ``minutes`` in which the alternatives are tried; 0 keeps each learner's own settings.
    shots : tuple of int
        Support examples of the test tasks; the first decides the ranking.
    n_tasks : int
        Test episodes of each learner and number of shots.
    seed : int
        Names the test episodes.
    """

    tasks: Collection
    net: Net | None = None
    train: TrainSettings = dataclasses.field(
        default_factory=lambda: TrainSettings(steps=100, n_validation=100)
    )
    minutes: float = 10.0
    tuning: float = 0.25
    shots: tuple[int, ...] = (1,)
    n_tasks: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.tasks), Collection):
            raise InvalidSetting(
                f"tasks is {self.tasks!r}; give a collection, such as tasklore.tasks.images.digits.Digits()"
            )
        if self.net is not None:
            check_net(self.net)
        if self.train.initial == "prior":
            raise InvalidSetting(
                "a contest starts from nothing or plain training: with initial = 'prior' each trial would "
                "go on from the one before; use 'random' or 'pretrained'"
            )
        if not self.minutes > 0:
            raise InvalidSetting(f"minutes must be positive, got {self.minutes}")
        if not 0 <= self.tuning < 1:
            raise InvalidSetting(f"tuning is a share of the minutes in [0, 1), got {self.tuning}")
        if self.n_tasks < 2:
            raise InvalidSetting(f"n_tasks must be at least 2 for an interval, got {self.n_tasks}")
        if not self.shots or min(self.shots) < 1:
            raise InvalidSetting(f"shots must be positive, got {self.shots}")

    @property
    def name(self) -> str:
        """Of the tasks."""
        return sources.name_of(type(self.tasks))

    def settings(self) -> dict[str, Any]:
        """Return everything that all learners have in common, as JSON values."""
        return {
            "tasks": to_settings(self.tasks, sources),
            "net": None if self.net is None else to_settings(self.net, nets),
            "train": to_settings(self.train),
            "minutes": self.minutes,
            "tuning": self.tuning,
            "shots": list(self.shots),
            "n_tasks": self.n_tasks,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Trial:
    """Settings that were tried for a learner.

    Parameters
    ----------
    settings : mapping
        Name → value, of those that differ between its trials.
    score : Score or None
        The best on the validation tasks within the trial; None if training became NaN or infinite.
    seconds : float
    """

    settings: Mapping[str, float]
    score: Score | None
    seconds: float

    def beats(self, other: "Trial") -> bool:
        """Whether this one's score is better; a trial that was lost never is."""
        return self.score is not None and self.score.beats(other.score)


@dataclass(frozen=True)
class Standing:
    """How one method did.

    Parameters
    ----------
    method : str
    is_baseline : bool
        Whether it was not meta-trained, and so had no budget to spend.
    evaluations : mapping of int to Evaluation
        By number of shots.
    chosen : mapping
        The settings that won its trials.
    trials : tuple of Trial
    curve : tuple of (seconds, Score)
        On the validation tasks after each round, trials of other settings counted in the seconds.
    steps : int
        Meta-updates of what was tested.
    seconds : float
        Of meta-training in all.
    prior : str
        File name of what was learned, in the contest's folder; empty for a baseline.
    by_source : mapping of str to mapping of int to Evaluation
        On each part of a mix by itself, by its name and by number of shots.
    """

    method: str
    is_baseline: bool
    evaluations: Mapping[int, Evaluation]
    chosen: Mapping[str, float] = dataclasses.field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    curve: tuple[tuple[float, Score], ...] = ()
    steps: int = 0
    seconds: float = 0.0
    prior: str = ""
    by_source: Mapping[str, Mapping[int, Evaluation]] = dataclasses.field(default_factory=dict)

    def gain_over(self, other: "Standing", shots: int) -> Score:
        """Return how much better this one is on the same tasks: the mean of the differences, task by task."""
        mine, theirs = self.evaluations[shots], other.evaluations[shots]
        sign = 1.0 if mine.score.higher_is_better else -1.0
        return Score.of(
            mine.metric, [sign * (a - b) for a, b in zip(mine.scores, theirs.scores, strict=True)]
        )


class Spectator(Watch):
    """Is told what happens in a contest, and ignores it."""

    def enters(self, method: str, what: str, minutes: float) -> None:
        """Hear that a method begins to learn, with which settings, and until which minute of its time."""

    def tried(self, method: str, trial: Trial) -> None:
        """Hear what a trial came to."""

    def lost(self, method: str, why: str) -> None:
        """Hear that no settings of a method worked; the others go on, and it has no place in the result."""

    def tested(self, method: str, done: int, total: int) -> None:
        """Hear how many test tasks are done."""

    def stands(self, standing: Standing) -> None:
        """Hear the result of a method."""


def hold(
    contest: Contest,
    names: tuple[str, ...],
    folder: Path,
    store: ExperienceStore,
    artifacts: Path,
    spectator: Spectator | None = None,
) -> tuple[Standing, ...]:
    """Let learners compete, and return all methods, the baselines included, best first.

    A learner of which no settings work is left out, and ``spectator`` told of it.

    Parameters
    ----------
    contest : Contest
    names : tuple of str
        Of the learners; by default prototypes, a ridge head, MAML, ANIL and Reptile, as far as they suit.
    folder : Path
        Where results and runs lie; what is done there already, under the same settings, is not done again.
    store : ExperienceStore
        Remembers the runs.
    artifacts : Path
        Where priors are kept.
    spectator : Spectator, optional

    Raises
    ------
    InvalidSetting
        The folder holds a contest with other settings (the message names the first difference), or one
        whose data has changed since, or another process is at it.
    InvalidData
        A learner cannot learn such tasks.
    """
    spectator = spectator or Spectator()
    if isinstance(names, str):
        raise InvalidSetting(f"names is the text {names!r}; give a tuple of names: ({names!r},)")
    splits = contest.tasks.splits()
    net = contest.net or default_net(splits.train.spec, contest.tasks.suggested_net)
    chosen = _entrants(names, net, splits.train.spec)
    for learner in chosen.values():
        GradientTrainer(learner, contest.train, splits.train.spec).check(splits.train)
    for shots in contest.shots:
        splits.test.with_shots(shots)  # fails before any time is spent
    folder.mkdir(parents=True, exist_ok=True)
    with alone(
        folder, f"another process is at the contest in {folder}; wait for it, or choose another folder"
    ):
        _claim(contest, splits, folder)
        standings: list[Standing] = []
        for method, learner in chosen.items():
            path = folder / f"{method}.json"
            if not path.exists():
                try:
                    found = _compete(contest, method, learner, splits, folder, store, artifacts, spectator)
                except NumericalFailure as error:  # its trials are kept, so that it is found again at once
                    spectator.lost(method, str(error))
                    continue
                write_json(path, _to_dict(found))
            standings.append(_standing(_read(path), path))
            spectator.stands(standings[-1])
        baselines = _baselines(contest, net, splits, folder, spectator)
    return ranked([*standings, *baselines], contest.shots[0])


def _entrants(names: tuple[str, ...], net: Net, spec: TaskSpec) -> dict[str, Learner]:
    """Return learners with a common backbone by name; by default those of :data:`DEFAULT_LEARNERS` that suit.

    Raises
    ------
    InvalidData
        A learner that was asked for cannot learn such tasks.
    InvalidSetting
        It is a baseline, which takes part anyway, or has no such backbone.
    """
    found: dict[str, Learner] = {}
    for name in names or _suited(spec.kind):
        kind: Any = learners.get(name)
        if kind.tags.starts_from != "tasks":
            raise InvalidSetting(
                f"{name} is a baseline: it takes part anyway, so leave it out of the learners"
            )
        takes_net = any(field.name == "net" for field in dataclasses.fields(kind))
        learner: Learner = kind(net=net) if takes_net else kind()
        learner.check_spec(spec)
        found[name] = learner
    return found


def _suited(kind: Kind) -> list[str]:
    return [name for name in DEFAULT_LEARNERS if kind in cast("Any", learners.get(name)).tags.kinds]


def ranked(standings: list[Standing], shots: int) -> tuple[Standing, ...]:
    """Return methods by their mean score, best first."""

    def badness(standing: Standing) -> float:
        score = standing.evaluations[shots].score
        return -score.mean if score.higher_is_better else score.mean

    return tuple(sorted(standings, key=badness))


def on_sources(standings: Sequence[Standing]) -> tuple[Row, ...]:
    """Return what each method came to on each part of a mix that all were judged on by itself."""
    return tuple(
        Row(shots, evaluation, standing.is_baseline, part)
        for standing in standings
        for part, there in standing.by_source.items()
        if all(part in other.by_source for other in standings)
        for shots, evaluation in there.items()
    )


def _compete(
    contest: Contest,
    method: str,
    learner: Learner,
    splits: Splits,
    folder: Path,
    store: ExperienceStore,
    artifacts: Path,
    spectator: Spectator,
) -> Standing:
    """Choose the settings of a learner, meta-train it for the rest of its time, and test it."""
    options = _options(contest, learner)
    each = contest.minutes if len(options) == 1 else contest.minutes * contest.tuning / len(options)

    def train(index: int, minutes: float) -> Trained:
        changes, experiment = options[index]
        spectator.enters(method, in_words(changes), minutes)

        def until(stop: Stop) -> Trained:
            place = folder / "runs" / f"{method}-{index}"
            limited = dataclasses.replace(experiment, stop=stop)
            return meta_train(limited, splits, place, store, artifacts, watch=spectator)

        try:
            return until(Stop(minutes=minutes))
        except NumericalFailure:
            kept = until(Stop(rounds=1))  # what was best until then; fails again if no round was whole
            spectator.tried(method, Trial(changes, None, 60 * minutes))
            return kept

    trials: list[Trial] = []
    reason = "their losses or meta-gradients are not finite"
    for index, (changes, _) in enumerate(options):
        path = folder / "runs" / f"{method}-{index}.json"
        if not path.exists():
            began = time.monotonic()
            try:
                tried = train(index, each)
                trial = Trial(changes, tried.outcome.state.best_score, tried.outcome.seconds)
            except NumericalFailure as error:
                trial = Trial(changes, None, time.monotonic() - began)
                reason = str(error)
            write_json(path, dataclasses.asdict(trial))
        trials.append(_trial(_read(path)))
        spectator.tried(method, trials[-1])
    if all(trial.score is None for trial in trials):
        raise NumericalFailure(f"no settings of {method} worked; {reason}")
    best = 0
    for index, trial in enumerate(trials):
        best = index if trial.beats(trials[best]) else best
    spent = sum(trial.seconds for trial in trials)
    others = spent - trials[best].seconds
    until = max(contest.minutes - others / 60, trials[best].seconds / 60)
    final = train(best, until)
    prior = f"{method}.safetensors"
    final.prior.save(folder / prior)
    rounds = sorted(store.find(RoundRecord, {"run_id": final.workspace.id}), key=lambda turn: turn.index)

    def judge(source: TaskSource, where: str) -> dict[int, Evaluation]:
        learned, found = final.prior, dict[int, Evaluation]()
        for shots, some in _by_shots(contest, source):
            found[shots] = _test(
                contest, method, learned.learner, learned.params, learned.spec, some, spectator
            )
            final.workspace.record(found[shots], some, {"shots": shots}, where)
        return found

    evaluations = judge(splits.test, f"{contest.name}, test")
    by_source = {
        part: judge(source, f"{contest.name}, {part}, test") for part, source in splits.test.named.items()
    }
    final.workspace.finish(final.outcome.reason)
    history = final.outcome.state.history
    return Standing(
        method,
        False,
        evaluations,
        options[best][0],
        tuple(trials),
        tuple((others + (turn.seconds or 0.0), history[turn.index]) for turn in rounds),
        final.outcome.state.step,
        others + final.outcome.seconds,
        prior,
        by_source,
    )


def _by_shots(contest: Contest, source: TaskSource) -> list[tuple[int, TaskSource]]:
    return [(shots, source.with_shots(shots)) for shots in contest.shots]


def _test(
    contest: Contest,
    method: str,
    learner: Learner,
    params: Params,
    trained: TaskSpec,
    source: TaskSource,
    spectator: Spectator,
) -> Evaluation:
    return evaluate(
        learner,
        placed(params, device_for(contest.train.device)),
        source,
        method=method,
        trained=trained,
        n_tasks=contest.n_tasks,
        seed=contest.seed,
        on_progress=lambda done: spectator.tested(method, done, contest.n_tasks),
    )


def _options(contest: Contest, learner: Learner) -> list[tuple[dict[str, float], Experiment]]:
    """Return what is tried for a learner: settings of its own, else learning rates."""
    common = Experiment(contest.tasks, learner, contest.train)
    if contest.tuning == 0:
        return [({}, common)]
    if learner.alternatives:
        return [
            (
                dict(changes),
                dataclasses.replace(common, learner=dataclasses.replace(cast("Any", learner), **changes)),
            )
            for changes in learner.alternatives
        ]
    rates = (float(f"{factor * contest.train.learning_rate:.6g}") for factor in RATES)
    return [
        (
            {"learning_rate": rate},
            dataclasses.replace(common, train=dataclasses.replace(contest.train, learning_rate=rate)),
        )
        for rate in rates
    ]


def in_words(changes: Mapping[str, float]) -> str:
    """Return settings as a text."""
    return ", ".join(f"{name} {value:g}" for name, value in changes.items()) or "as it is"


def _baselines(
    contest: Contest, net: Net, splits: Splits, folder: Path, spectator: Spectator
) -> list[Standing]:
    """Test what every contest compares with, or read back what came of it."""
    carrier = next(iter(_entrants((), net, splits.train.spec).values()))
    spec = splits.test.spec
    offered = baselines(carrier, splits.train, contest.train, spec)
    standings: list[Standing] = []
    for method in offered:
        path = folder / f"{method}.json"
        if not path.exists():
            learner, params = offered[method]
            chosen, best, trials = {}, learner, list[Trial]()
            if contest.tuning:
                chosen, best, tried = tuned(learner, params, spec, splits.validation, contest.train)
                trials = [Trial(changes, each.score, each.seconds) for changes, each in tried]
            evaluations, *apart = (
                {
                    shots: _test(contest, method, best, params, spec, some, spectator)
                    for shots, some in _by_shots(contest, source)
                }
                for source in (splits.test, *splits.test.named.values())
            )
            by_source = dict(zip(splits.test.named, apart, strict=True))
            found = Standing(method, True, evaluations, chosen, tuple(trials), by_source=by_source)
            write_json(path, _to_dict(found))
        standings.append(_standing(_read(path), path))
        spectator.stands(standings[-1])
    return standings


def _claim(contest: Contest, splits: Splits, folder: Path) -> None:
    """Make the folder that of this contest."""
    marker, settings = folder / "contest.json", contest.settings()
    tasks = {side: source.fingerprint for side, source in splits._asdict().items()}
    if marker.exists():
        known = _read(marker)
        before = known.get("settings")
        if before != settings:
            raise InvalidSetting(
                f"{folder} holds a contest with other settings: {difference(before, settings)}; "
                "choose another folder, or delete this one to start anew"
            )
        check_same_tasks(folder, known.get("tasks", tasks), tasks)
    else:
        machine = hardware(contest.train.device)
        about = {"format": FORMAT, "settings": settings, "versions": versions(), "hardware": machine}
        write_json(marker, about | {"tasks": tasks})


def _read(path: Path) -> dict[str, Any]:
    try:
        values = loads(path.read_bytes(), str(path))
    except (InvalidData, OSError) as error:
        raise DamagedArtifact(f"{error}; delete {path} to have it made again") from error
    if not isinstance(values, dict):
        raise DamagedArtifact(f"{path} does not hold what a contest writes; delete it to have it made again")
    return cast("dict[str, Any]", values)


def _to_dict(standing: Standing) -> dict[str, Any]:
    values = dataclasses.asdict(standing)

    def plain(evaluations: Mapping[int, Any]) -> dict[str, Any]:
        return {str(shots): evaluation for shots, evaluation in evaluations.items()}

    return values | {
        "evaluations": plain(values["evaluations"]),
        "by_source": {part: plain(there) for part, there in values["by_source"].items()},
    }


def _standing(values: Mapping[str, Any], path: Path) -> Standing:
    try:
        read: dict[str, Any] = {
            **values,
            "evaluations": _evaluations(values["evaluations"]),
            "by_source": {part: _evaluations(v) for part, v in values.get("by_source", {}).items()},
            "trials": tuple(_trial(trial) for trial in values["trials"]),
            "curve": tuple((seconds, Score(**score)) for seconds, score in values["curve"]),
        }
        return Standing(**read)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedArtifact(
            f"{path} does not hold what a contest writes: {error}; delete it to have it made again"
        ) from error


def _evaluations(values: Mapping[str, Any]) -> dict[int, Evaluation]:
    return {int(n): Evaluation(**(found | {"scores": tuple(found["scores"])})) for n, found in values.items()}


def _trial(values: Mapping[str, Any]) -> Trial:
    score = values["score"]
    return Trial(values["settings"], None if score is None else Score(**score), values["seconds"])
