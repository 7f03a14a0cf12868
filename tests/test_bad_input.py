"""Bad input gets a clear error before any long work starts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tasklore.config import build, read_toml
from tasklore.errors import DamagedArtifact, InvalidData, InvalidSetting, NumericalFailure, UnknownName
from tasklore.estimators import MetaRegressor
from tasklore.evaluate import evaluate
from tasklore.experiment import SECTIONS, Experiment
from tasklore.learners.baselines import LogisticBaseline, RidgeBaseline
from tasklore.learners.closed_form import RidgeHead
from tasklore.learners.gradient import BOIL, MAML
from tasklore.learners.metric import Prototypes
from tasklore.nets import MLP
from tasklore.predictor import Predictor
from tasklore.state import Prior
from tasklore.tasks.few_shot import Examples, FewShotSource
from tasklore.tasks.synthetic import Sinusoid, SinusoidSource, SinusoidTask
from tasklore.train import GradientTrainer, TrainSettings, fit, init, step
from tasklore.types import Episode, Params, TaskSpec

SPEC = TaskSpec("classification", (4,), 3)


def prior(learner: Any = None) -> Prior:
    learner = learner or MAML(MLP((8,)), inner_steps=2)
    return Prior(learner, learner.init(SPEC, torch.Generator().manual_seed(0)), SPEC)


def support(n: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 4))


def with_value(value: float) -> np.ndarray:
    x = support()
    x[2, 1] = value
    return x


def examples(x: Any = None, y: Any = None) -> Examples:
    x = torch.zeros(6, 4) if x is None else x
    return Examples("mine", x, torch.tensor([0, 0, 0, 1, 1, 1]) if y is None else y, ("a", "b"))


def given(value: Any) -> Any:
    """What a type checker would have refused."""
    return value


def learner_of(**settings: Any) -> Callable[[], object]:
    return lambda: Experiment.from_sections(
        {"tasks": {"name": "sinusoid"}, "learner": {"name": "maml", **settings}, "net": {"name": "mlp"}}
    )


class Frozen(MLP):
    """A body without weights to train, below an output layer."""

    def init(self, input_shape: tuple[int, ...], n_outputs: int | None, generator: torch.Generator) -> Params:
        params = super().init(input_shape, n_outputs, generator)
        return {name: w for name, w in params.items() if name in self.output_layer(params)}


CASES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "NaN in the support": (
        lambda: Predictor.adapt(prior(), with_value(np.nan), list("aabbcc")),
        InvalidData,
        "NaN",
    ),
    "infinity in the support": (
        lambda: Predictor.adapt(prior(), with_value(np.inf), list("aabbcc")),
        InvalidData,
        "infinite",
    ),
    "too large for float32": (
        lambda: Predictor.adapt(prior(), with_value(1e300), list("aabbcc")),
        InvalidData,
        "too large",
    ),
    "empty support": (lambda: Predictor.adapt(prior(), support(0), []), InvalidData, "no examples"),
    "one class": (lambda: Predictor.adapt(prior(), support(), ["a"] * 6), InvalidData, "two classes"),
    "more classes than outputs": (
        lambda: Predictor.adapt(prior(), support(), list("abcdef")),
        InvalidData,
        "at most 3",
    ),
    "wrong width": (
        lambda: Predictor.adapt(prior(), support()[:, :3], list("aabbcc")),
        InvalidData,
        "are needed",
    ),
    "labels missing": (
        lambda: Predictor.adapt(prior(), support(), list("aabb")),
        InvalidData,
        "one for each",
    ),
    "texts as examples": (
        lambda: Predictor.adapt(prior(), np.array([["x"] * 4] * 6), list("aabbcc")),
        InvalidData,
        "numbers",
    ),
    "wrong width to predict": (
        lambda: Predictor.adapt(prior(), support(), list("aabbcc")).predict(support()[:, :2]),
        InvalidData,
        "are needed",
    ),
    "NaN in the past": (lambda: examples(torch.full((6, 4), torch.nan)), InvalidData, "NaN"),
    "no past": (lambda: examples(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), InvalidData, "some"),
    "label out of range": (lambda: examples(y=torch.tensor([0, 0, 0, 1, 1, 5])), InvalidData, "0…1"),
    "more ways than classes": (
        lambda: FewShotSource.of(examples(), n_ways=3, n_queries=1),
        InvalidSetting,
        "2 classes",
    ),
    "one way": (lambda: FewShotSource.of(examples(), n_ways=1, n_queries=1), InvalidSetting, "at least 2"),
    "too few examples": (
        lambda: FewShotSource.of(examples(), n_ways=2, n_shots=2, n_queries=2),
        InvalidSetting,
        "need 4",
    ),
    "turned rows": (
        lambda: FewShotSource.of(examples(), 2, 1, 1, turns=(0, 1)),
        InvalidSetting,
        "square images",
    ),
    "learner for another kind": (
        lambda: GradientTrainer(Prototypes(), TrainSettings(), SinusoidSource().spec).initialise(
            SinusoidSource(), None
        ),
        InvalidData,
        "regression",
    ),
    "prior for another shape": (
        lambda: evaluate(MAML(), {}, SinusoidSource(), method="x", trained=SPEC),
        InvalidData,
        "this prior is for",
    ),
    "unknown learner": (
        lambda: Experiment.from_sections({"tasks": {"name": "sinusoid"}, "learner": {"name": "mamll"}}),
        UnknownName,
        "did you mean 'maml'",
    ),
    "unknown key": (learner_of(inner_stepps=1), UnknownName, "did you mean 'inner_steps'"),
    "text for a number": (learner_of(inner_steps="five"), InvalidSetting, "an integer"),
    "boolean for a number": (learner_of(inner_steps=True), InvalidSetting, "an integer"),
    "fraction for an integer": (learner_of(inner_steps=1.5), InvalidSetting, "an integer"),
    "negative steps": (learner_of(inner_steps=-1), InvalidSetting, "negative"),
    "zero step size": (learner_of(step_size=0.0), InvalidSetting, "positive"),
    "steps that are no whole number": (
        lambda: MAML(inner_steps=given(2.0)),
        InvalidSetting,
        "must be a whole number",
    ),
    "an endless step": (lambda: MAML(step_size=math.inf), InvalidSetting, "positive and finite"),
    "no penalty": (lambda: RidgeBaseline(penalty=0.0), InvalidSetting, "penalty must be positive"),
    "a negative inverse penalty": (lambda: LogisticBaseline(C=-1.0), InvalidSetting, "C must be positive"),
    "fewer target values than the prior's": (
        lambda: MAML().spec_for(TaskSpec("regression", (1,), 2), SinusoidSource().spec),
        InvalidData,
        "for 2 target values of an example, the new task has 1",
    ),
    "a body that cannot move": (
        lambda: GradientTrainer(BOIL(Frozen()), TrainSettings(), SPEC).check(given(None)),
        InvalidSetting,
        "nothing that its inner steps could move",
    ),
    "a remembered start without a memory": (
        lambda: MetaRegressor(train=TrainSettings(initial="prior")).meta_fit(SinusoidSource()),
        InvalidSetting,
        "give store and artifacts",
    ),
    "no tasks": (
        lambda: Experiment.from_sections({"learner": {"name": "maml"}}),
        InvalidSetting,
        "needs a name",
    ),
    "negative seed": (lambda: build(TrainSettings, {"seed": -1}, "[train]"), InvalidSetting, "negative"),
    "no tasks in a step": (lambda: TrainSettings(n_tasks=0), InvalidSetting, "at least 1"),
    "wrong choice": (
        lambda: build(TrainSettings, {"optimizer": "lion"}, "[train]"),
        InvalidSetting,
        "'adam'",
    ),
    "a torch module as net": (lambda: MAML(net=given(nn.Linear(4, 8))), InvalidSetting, "ModuleNet"),
    "a name as net": (lambda: MAML(net=given("mlp")), InvalidSetting, r"net is 'mlp'; .*MLP\("),
    "a name as the net of a head": (lambda: RidgeHead(net=given("mlp")), InvalidSetting, "net is 'mlp'"),
    "a name as the net of prototypes": (lambda: Prototypes(net=given(None)), InvalidSetting, "net is None"),
    "a collection to train on": (
        lambda: next(fit(MAML(), given(Sinusoid()), TrainSettings())),
        InvalidData,
        r"\.train to learn",
    ),
    "splits to be judged on": (
        lambda: evaluate(MAML(), {}, given(Sinusoid().splits()), method="x"),
        InvalidData,
        r"splits\.test to be judged on",
    ),
    "params of nothing": (
        lambda: evaluate(MAML(), {}, SinusoidSource(), method="x"),
        InvalidSetting,
        "params lack layer0.bias",
    ),
    "negative rate": (lambda: TrainSettings(learning_rate=-1), InvalidSetting, "must be positive"),
    "rate in words": (lambda: TrainSettings(learning_rate=given("fast")), InvalidSetting, "must be a number"),
    "steps in words": (lambda: TrainSettings(steps=given("5")), InvalidSetting, "must be an integer"),
    "unknown device": (
        lambda: TrainSettings(device=given("tpu")),
        InvalidSetting,
        "use one of 'auto', 'cpu'",
    ),
    "missing file": (lambda: read_toml("/nowhere.toml", SECTIONS), InvalidSetting, "cannot read"),
    "missing prior": (lambda: Prior.load("/nowhere.safetensors"), DamagedArtifact, "nowhere"),
}


def test_numbers_of_numpy_are_settings() -> None:
    settings = TrainSettings(steps=given(np.int64(5)), learning_rate=given(np.float32(0.5)), clip=given(1))
    assert (settings.steps, settings.learning_rate, settings.clip) == (5, 0.5, 1.0)
    assert {type(value) for value in (settings.steps, settings.learning_rate, settings.clip)} == {int, float}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_error_of_the_right_class(case: str) -> None:
    provoke, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        provoke()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train\n", "not valid TOML"),
        ("steps = 3\n", "should|section|unknown|no section"),
        ("[train.deep]\nx = 1\n", "one level deep"),
        ("[trian]\nsteps = 1\n", "did you mean 'train'"),
    ],
)
def test_broken_configuration_files(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InvalidSetting, match=words):
        read_toml(path, SECTIONS)


class Exploding(SinusoidSource):
    """Sine waves, the second of each stack of which is far too large."""

    def task(self, rng: np.random.Generator) -> SinusoidTask:
        amplitude = 1e30 if rng.random() < 0.3 else 1.0
        return SinusoidTask(amplitude, 0.0, self.n_shots, self.n_queries)


def test_divergence_names_the_tasks_and_leaves_the_state() -> None:
    learner, settings = (
        MAML(MLP((8,)), inner_steps=5, step_size=1.0),
        TrainSettings(n_tasks=8, execution="loop"),
    )
    source = Exploding()
    start = init(learner.init(source.spec, torch.Generator().manual_seed(0)), settings)
    before = {name: w.clone() for name, w in start.params.items()}
    episodes, keys = source.episodes(0, "train", 0, 8)
    assert isinstance(episodes, Episode)
    with pytest.raises(NumericalFailure, match=r"the loss of task \d.* of 8 is not finite"):
        step(learner, start, source.spec, episodes, keys, settings)
    assert all(torch.equal(before[name], w) for name, w in start.params.items())


def test_a_run_that_diverges_stops_with_that_error() -> None:
    learner = MAML(MLP((8,)), inner_steps=5, step_size=1.0)
    with pytest.raises(NumericalFailure, match="Lower the step_size"):
        list(fit(learner, Exploding(), TrainSettings(steps=3, n_tasks=8, execution="vectorised")))


def test_a_prior_of_scaled_arrays_scales_the_new_task_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    past = [(rng.normal(50, 10, (20, 1)), rng.normal(1000, 100, 20)) for _ in range(6)]
    from tasklore import MetaRegressor

    model = MetaRegressor(train=TrainSettings(steps=2, n_tasks=2)).meta_fit(past)
    x, y = past[0]
    assert isinstance(model.prior, Prior)
    predictor = Predictor.adapt(model.prior, x[:8], y[:8])
    predictor.save(tmp_path / "p.safetensors")
    again = Predictor.load(tmp_path / "p.safetensors").predict(x)
    assert np.allclose(again, predictor.predict(x))
    assert np.allclose(again, model.fit(x[:8], y[:8]).predict(x), rtol=1e-3)
