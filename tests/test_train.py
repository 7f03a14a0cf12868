"""Meta-training: it learns, from every start, and says what it did."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from tasklore.artifacts import save_artifact
from tasklore.errors import DamagedArtifact, InvalidData, InvalidSetting
from tasklore.evaluate import evaluate, task_scores
from tasklore.execution import fastest
from tasklore.experience import open_store
from tasklore.experiment import Experiment, baselines, meta_train
from tasklore.learners.base import Learner
from tasklore.learners.baselines import FineTuning, FromScratch, RidgeBaseline
from tasklore.learners.cavia import CAVIA
from tasklore.learners.closed_form import RidgeHead
from tasklore.learners.gradient import BOIL, MAML, ImplicitMAML, Reptile
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.learners.metric import Prototypes
from tasklore.loop import Stop
from tasklore.nets import MLP, Conv4, Identity
from tasklore.registry import sources
from tasklore.scores import Score
from tasklore.state import MetaState, Prior
from tasklore.tasks.images.digits import Digits
from tasklore.tasks.source import Splits, Task, TaskSource
from tasklore.tasks.synthetic import SinusoidSource
from tasklore.train import GradientTrainer, TrainSettings, fit, init, pretrain, step
from tasklore.types import Batch, Context, TaskSpec
from tasklore.workspace import difference


@pytest.fixture(scope="module")
def digits() -> Splits:
    return sources.get("digits")(n_queries=5).splits()  # pyright: ignore[reportAttributeAccessIssue]


def test_maml_learns_to_learn_sine_waves() -> None:
    learner, source = MAML(MLP((40, 40)), inner_steps=1, step_size=0.01), SinusoidSource(10, 10)
    settings = TrainSettings(steps=300, n_tasks=20, learning_rate=4e-3, execution="vectorised")
    states = list(fit(learner, source, settings))
    before, after = (
        evaluate(learner, state.params, source, method="maml", n_tasks=100).score
        for state in (states[0], states[-1])
    )
    assert after.mean + after.half_width < 0.6 * before.mean
    assert states[-1].losses == tuple(state.losses[-1] for state in states)


def test_execution_does_not_change_the_result() -> None:
    learner, source = Reptile(MLP((8,))), SinusoidSource(5, 5)
    ends = [
        list(fit(learner, source, TrainSettings(steps=5, n_tasks=4, execution=how)))[-1].params
        for how in ("loop", "vectorised")
    ]
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-5) for name in ends[0])


def test_the_rate_falls_along_half_a_cosine_wave() -> None:
    settings = TrainSettings(steps=4, cosine_steps=8, n_tasks=2, n_validation=2, patience=1)
    trainer = GradientTrainer(MAML(MLP((4,))), settings, SinusoidSource().spec)
    state = trainer.initialise(SinusoidSource(), None)
    factors = [settings.factor(dataclasses.replace(state, step=n)) for n in (0, 2, 4, 6, 8, 100)]
    half = math.sqrt(2) / 2
    expected = [0.01 + 0.99 * share for share in (1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0, 0.0)]
    assert factors == pytest.approx(expected)
    still = dataclasses.replace(settings, cosine_steps=None)
    assert still.factor(dataclasses.replace(state, step=100, rate=0.25)) == 0.25
    # A step moves by the rate: with plain descent, half of it moves half as far.
    plain = dataclasses.replace(settings, optimizer="sgd")
    episodes, keys = SinusoidSource().episodes(0, "train", 0, 2)
    moved: list[torch.Tensor] = []
    for index in (0, 4):
        begun = dataclasses.replace(state, step=index)
        ended = step(trainer.learner, begun, trainer.spec, episodes, keys, plain)
        moved.append(ended.params["layer0.weight"] - begun.params["layer0.weight"])
    torch.testing.assert_close(moved[1], moved[0] * 0.505, rtol=1e-3, atol=1e-8)
    # What is reported is the factor, and a stall lowers nothing more.
    for score in ([1.0, 1.0], [2.0, 2.0], [3.0, 3.0]):
        state = trainer.adjust(dataclasses.replace(state, step=4), score)
    assert state.rate == pytest.approx(0.505)


def test_averaging_is_a_running_mean_of_the_params() -> None:
    settings = TrainSettings(steps=30, n_tasks=2, averaging=0.9, execution="loop")
    states = list(fit(MAML(MLP((4,))), SinusoidSource(), settings))
    mean = init(
        MAML(MLP((4,))).init(SinusoidSource().spec, torch.Generator().manual_seed(0)), settings
    ).average
    for state in states:
        share = max(0.1, 9 / (10 + state.step - 1))
        mean = {name: (1 - share) * mean[name] + share * w for name, w in state.params.items()}
    assert all(torch.allclose(mean[name], w, atol=1e-6) for name, w in states[-1].average.items())
    plain = list(fit(MAML(MLP((4,))), SinusoidSource(), dataclasses.replace(settings, averaging=0.0)))
    assert all(torch.equal(plain[-1].params[name], w) for name, w in states[-1].params.items())
    assert plain[-1].average is plain[-1].params
    with pytest.raises(InvalidSetting, match="averaging must lie in"):
        TrainSettings(averaging=1.0)


@pytest.mark.parametrize(
    ("seconds", "halved", "chosen", "alone"),
    [
        ([1.0, 0.95, 0.94, 0.93, 0.92], 0.95, (1, 1), 1),  # all about as fast: the least memory
        ([2.0, 2.1, 1.0, 0.97, 0.95], 1.0, (4, 1), 4),
        ([2.0, 2.1, 1.0, 0.7, 0.5], 1.0, (16, 1), 16),
        ([1.0, 1.5, 2.0, 2.5, 3.0], 0.7, (1, 2), 1),
        ([2.0, 2.1, 1.9, 1.3, 1.1], 0.6, (1, 2), 1),  # the first enlargement does not pay
        ([2.0, 2.1, 1.9, 0.7, 0.5], 0.6, (16, 1), 1),  # but sharing the cores on all tasks does
        ([2.0, 2.1, 1.0, 0.97, 0.95], 0.6, (4, 1), 4),  # more tasks at once pay, so threads are not tried
        ([2.0, 2.1, 1.0, 0.98, 0.7], 0.6, (16, 1), 16),
    ],
)
def test_the_least_memory_is_taken_of_what_is_about_as_fast(
    seconds: list[float], halved: float, chosen: tuple[int, int], alone: int
) -> None:
    """``seconds`` are of 1, 2, 4, 8 and 16 tasks at once; ``halved`` is a second thread's factor on them."""
    tried: list[tuple[int, int]] = []

    def taken(tasks_at_once: int, threads: int) -> float:
        tried.append((tasks_at_once, threads))
        return seconds[tasks_at_once.bit_length() - 1] * (halved if threads == 2 else 1.0)

    assert fastest(16, 2, taken) == chosen
    others = [size * threads for size, threads in tried if (size, threads) != (16, 1)]
    assert max(others) <= max(4, 2 * chosen[0]) * chosen[1]
    assert fastest(16, 1, taken) == (alone, 1)


def test_threads_are_tried_where_tasks_cannot_be_stacked() -> None:
    assert fastest(1, 2, lambda size, threads: {(1, 1): 1.0, (1, 2): 0.6}[size, threads]) == (1, 2)


def test_pretraining_on_the_pool_is_a_better_start_than_chance(digits: Splits) -> None:
    learner = Prototypes(Conv4(8, blocks=2))
    settings = TrainSettings(pretrain_steps=150)
    fresh = learner.init(digits.train.spec, torch.Generator().manual_seed(0))
    start = pretrain(learner, digits.train, settings)
    scores = [
        evaluate(learner, params, digits.train, method="x", n_tasks=100, stream="validation").score
        for params in (fresh, start)
    ]
    assert scores[1].interval[0] > scores[0].interval[1]


def test_the_output_layer_of_a_pretrained_start_is_zero(digits: Splits) -> None:
    learner = MAML(MLP((16,)))
    start = pretrain(learner, digits.train, TrainSettings(pretrain_steps=3))
    assert float(start["layer1.weight"].abs().sum()) == 0.0
    assert float(start["layer0.weight"].abs().sum()) > 0.0


def test_each_step_of_maml_plus_plus_begins_with_the_pretrained_normalisation(digits: Splits) -> None:
    settings = TrainSettings(pretrain_steps=20)
    plain, each = (
        pretrain(kind(Conv4(8, blocks=2), inner_steps=3), digits.train, settings)
        for kind in (MAML, MAMLPlusPlus)
    )
    for name in ("block0.scale", "block1.shift"):
        assert not torch.equal(plain[name], torch.full_like(plain[name], float("scale" in name)))
        torch.testing.assert_close(each[f"each-step/{name}"], plain[name].expand(3, -1))


@pytest.mark.parametrize("learner", [BOIL(MLP((16,))), CAVIA(MLP((16,)))], ids=["boil", "cavia"])
def test_an_output_layer_that_no_task_changes_does_not_start_at_zero(
    digits: Splits, learner: Learner
) -> None:
    """No gradient would pass it, so that no inner step would do anything."""
    start = pretrain(learner, digits.train, TrainSettings(pretrain_steps=3))
    episodes, keys = digits.train.episodes(0, "train", 0, 1)
    support, key = tree_map(lambda tensor: tensor[0], (episodes.support, keys))
    adapted = learner.adapt(start, support, Context(digits.train.spec, key))
    moved = [name for name, w in adapted.items() if name in start and not torch.equal(w, start[name])]
    assert moved or bool(adapted["context"].abs().sum() > 0)


@pytest.mark.parametrize("name", ["optimizer", "initial", "execution", "precision"])
def test_names_that_are_not_known_are_refused_with_those_that_are(name: str) -> None:
    wrong: Any = {name: "adamw"}
    with pytest.raises(InvalidSetting, match=f"{name} is 'adamw'; use one of '"):
        TrainSettings(**wrong)


def test_baselines_have_as_many_outputs_as_new_tasks(digits: Splits) -> None:
    """Training tasks may have more ways than those that are judged."""
    train: Any = digits.train
    past = dataclasses.replace(train, n_ways=8)
    found = baselines(Prototypes(MLP((16,))), past, TrainSettings(pretrain_steps=3), digits.test.spec)
    assert set(found) == {"scratch", "finetune", "linear-probe", "nearest-centroid", "logistic-regression"}
    for name, (learner, params) in found.items():
        judged = evaluate(learner, params, digits.test, method=name, trained=digits.test.spec, n_tasks=20)
        assert judged.score.mean > 0.3, name
    for name in ("scratch", "finetune"):
        assert found[name][1]["layer1.bias"].shape == (5,)


def test_trained_baselines_are_transductive_as_the_learner_is(digits: Splits) -> None:
    learner = Prototypes(Conv4(4), transductive=True)
    found = baselines(learner, digits.train, TrainSettings(pretrain_steps=1), digits.test.spec)
    marked = {
        name: evaluate(baseline, params, digits.test, method=name, n_tasks=2).title
        for name, (baseline, params) in found.items()
    }
    for name in ("scratch", "finetune", "linear-probe"):
        assert marked[name] == f"{name}, transductive"
    for name in ("nearest-centroid", "logistic-regression"):
        assert marked[name] == name


def test_adjust_keeps_the_best_and_lowers_the_rate_when_stuck() -> None:
    trainer = GradientTrainer(MAML(), TrainSettings(patience=2, decay=0.5), SinusoidSource().spec)
    params = [{"w": torch.tensor(float(i))} for i in range(5)]
    state = init(params[0], trainer.settings)
    rates: list[float] = []
    for i, error in enumerate([0.9, 0.5, 0.6, 0.7, 0.4]):
        state = trainer.adjust(
            dataclasses.replace(state, average=params[i], losses=(1.0, 3.0)), [error, error]
        )
        rates.append(state.rate)
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5]
    assert state.best is params[4]
    assert state.best_score == Score.of("mse", [0.4, 0.4])
    assert state.loss == 2.0


def test_a_prior_is_judged_before_anything_more_is_learned() -> None:
    source = SinusoidSource()
    trainer = GradientTrainer(MAML(), TrainSettings(steps=4, n_tasks=2), source.spec)
    prior = Prior(
        trainer.learner, trainer.learner.init(source.spec, torch.Generator().manual_seed(9)), source.spec
    )
    state = trainer.initialise(source, prior)
    assert list(trainer.learn(state, source)) == []
    judged = trainer.adjust(state, [1.0, 2.0])
    assert judged.best == prior.params  # the very tensors
    assert [s.step for s in trainer.learn(judged, source)] == [1, 2, 3, 4]


def test_state_and_prior_come_back_as_they_were(tmp_path: Path) -> None:
    source = SinusoidSource()
    learner = MAML(MLP((8,)), inner_steps=2)
    state = list(fit(learner, source, TrainSettings(steps=3, n_tasks=2)))[-1]
    state.save(tmp_path / "s.safetensors", {"seconds": 1.5})
    loaded, note = MetaState.load(tmp_path / "s.safetensors")
    assert note == {"seconds": 1.5}
    assert loaded.losses == state.losses
    assert all(torch.equal(loaded.moments[name], tensor) for name, tensor in state.moments.items())
    Prior(learner, state.params, source.spec, provenance={"a": 1}).save(tmp_path / "p.safetensors")
    prior = Prior.load(tmp_path / "p.safetensors")
    assert (prior.learner, prior.spec, prior.provenance) == (learner, source.spec, {"a": 1})
    with pytest.raises(DamagedArtifact, match="prior"):
        Prior.load(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    "learner", [CAVIA(Conv4(8, 3)), ImplicitMAML(MLP((8,)), inner_steps=3)], ids=["cavia", "imaml"]
)
def test_a_loaded_state_goes_on_to_the_last_bit(learner: Learner, tmp_path: Path, digits: Splits) -> None:
    settings = TrainSettings(steps=3, n_tasks=3, execution="loop")
    first, *_, last = fit(learner, digits.train, settings)
    first.save(tmp_path / "s.safetensors", {})
    loaded, _ = MetaState.load(tmp_path / "s.safetensors")
    assert list(loaded.params) == list(first.params)
    *_, again = fit(learner, digits.train, settings, loaded)
    for name, tensor in last.params.items():
        assert torch.equal(again.params[name], tensor)
    Prior(learner, last.params, digits.train.spec).save(tmp_path / "p.safetensors")
    assert list(Prior.load(tmp_path / "p.safetensors").params) == list(last.params)


def test_a_prior_whose_tensors_do_not_fit_is_refused(tmp_path: Path) -> None:
    learner, spec = MAML(MLP((8,))), SinusoidSource().spec
    params = learner.init(spec, torch.Generator())
    params["layer0.weight"] = torch.zeros(3, 3)
    Prior(learner, params, spec).save(tmp_path / "p.safetensors")
    with pytest.raises(DamagedArtifact, match=r"layer0\.weight do not fit"):
        Prior.load(tmp_path / "p.safetensors")
    save_artifact(tmp_path / "q.safetensors", {}, {"learner": {"name": "maml", "evil": 1}}, kind="prior")
    with pytest.raises(DamagedArtifact):
        Prior.load(tmp_path / "q.safetensors")


def test_evaluation_of_fewer_ways_than_trained_for(digits: Splits) -> None:
    learner = MAML(MLP((16,)), inner_steps=1)
    params = learner.init(digits.train.spec, torch.Generator().manual_seed(0))
    found = evaluate(learner, params, digits.validation, method="x", trained=digits.train.spec, n_tasks=20)
    assert digits.validation.spec.n_outputs == 4
    assert 0.0 < found.score.mean < 1.0
    with pytest.raises(InvalidData, match="at most 4 outputs"):
        evaluate(learner, params, digits.test, method="x", trained=digits.validation.spec, n_tasks=20)


def test_baselines_that_cannot_be_trained_are_left_out(digits: Splits) -> None:
    settings = TrainSettings(pretrain_steps=1)
    shallow = {"nearest-centroid", "logistic-regression"}
    assert set(baselines(RidgeHead(Identity()), digits.train, settings, digits.test.spec)) == shallow

    class Apart(TaskSource):
        """Tasks that have no classes in common."""

        @property
        def spec(self) -> TaskSpec:
            return digits.train.spec

        def with_shots(self, n_shots: int) -> "Apart":
            return self

        def task(self, rng: np.random.Generator) -> Task:
            return digits.train.task(rng)

        def describe(self) -> dict[str, object]:
            return {}

    found = baselines(Prototypes(MLP((4,))), Apart(), settings, digits.test.spec)
    assert set(found) == {"scratch", *shallow}


def test_a_learner_without_weights_is_not_trained(digits: Splits) -> None:
    with pytest.raises(InvalidSetting, match="Prototypes has nothing to meta-learn"):
        next(iter(fit(Prototypes(Identity()), digits.train, TrainSettings(steps=1))))


def test_what_diverges_comes_last_and_can_be_stored() -> None:
    query = Batch(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1), torch.tensor([[1.0, 1.0, 0.0]] * 2))
    predictions = torch.tensor([[[1.0], [1.0], [torch.nan]], [[torch.inf], [1.0], [1.0]]])
    good, lost = task_scores(predictions, query)
    assert good == 1.0
    assert 1e37 < lost < math.inf
    assert math.isfinite(Score.of("mse", [good, lost]).half_width)
    assert Score("mse", 1.0, 0.0, 2).beats(Score("mse", math.nan, 0.0, 2))


def test_a_class_that_was_chosen_from_nothing_is_wrong() -> None:
    """The largest of NaN is said to be the first class; a fifth of the answers would be right by that."""
    query = Batch(torch.zeros(1, 4, 1), torch.tensor([[0, 1, 0, 1]]), torch.ones(1, 4))
    predictions = torch.tensor([[[torch.nan, torch.nan], [-torch.inf, 0.0], [1.0, 0.0], [torch.nan, 0.0]]])
    assert task_scores(predictions, query) == [0.5]


def test_values_of_another_shape_than_the_target_are_refused() -> None:
    """They would be compared with each other, every value with every target."""
    target = Batch(torch.zeros(3, 1), torch.ones(3, 1), torch.ones(3))
    with pytest.raises(InvalidData, match=r"predicted values of shape \(3,\) for targets of shape \(3, 1\)"):
        MAML(MLP((4,))).loss(torch.ones(3), target)


def test_a_remembered_prior_of_another_shape_is_not_started_from(tmp_path: Path, digits: Splits) -> None:
    settings = TrainSettings(steps=1, n_tasks=2, n_validation=4)
    with open_store(tmp_path / "lore.db") as store:

        def started(learner: Learner, initial: Any, name: str) -> str:
            train = dataclasses.replace(settings, initial=initial)
            experiment = Experiment(Digits(), learner, train, stop=Stop(rounds=1))
            found = meta_train(experiment, digits, tmp_path / name, store, tmp_path / "artifacts")
            found.prior.save(tmp_path / f"{name}.safetensors")
            assert Prior.load(tmp_path / f"{name}.safetensors").provenance["collection"]["name"] == "digits"
            return found.outcome.state.started_from

        assert started(MAML(MLP((6,))), "random", "first") == "random"
        assert started(MAML(MLP((6,))), "prior", "again") == "prior"
        rated = MAML(MLP((6,)), learned_step_sizes="per-layer")
        assert started(rated, "prior", "other") == "random"
        assert started(rated, "prior", "rated") == "prior"
        larger = dataclasses.replace(rated, step_size=0.4)  # what was learned are factors on it
        assert started(larger, "prior", "larger") == "random"


@pytest.mark.parametrize(
    ("learner", "changes", "error", "message"),
    [
        (FromScratch(MLP((6,))), {}, InvalidSetting, "scratch is a baseline: it does not meta-learn"),
        (FineTuning(MLP((6,))), {}, InvalidSetting, "finetune is a baseline"),
        (RidgeBaseline(), {}, InvalidSetting, "ridge-regression is a baseline"),
        (CAVIA(MLP((6,))), {"precision": "bfloat16"}, InvalidSetting, "works inside its network"),
        (MAML(Identity()), {}, InvalidSetting, "has no output layer"),
        (Prototypes(Identity()), {}, InvalidSetting, "nothing to meta-learn"),
    ],
)
def test_what_cannot_work_leaves_the_folder_to_what_can(
    learner: Learner,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    digits: Splits,
) -> None:
    settings = TrainSettings(steps=1, n_tasks=2, n_validation=4)
    with open_store(tmp_path / "lore.db") as store:

        def trained(learner: Learner, train: TrainSettings) -> None:
            experiment = Experiment(Digits(), learner, train, stop=Stop(rounds=1))
            meta_train(experiment, digits, tmp_path / "run", store, tmp_path / "artifacts")

        with pytest.raises(error, match=message):
            trained(learner, dataclasses.replace(settings, **changes))
        assert not (tmp_path / "run").exists()
        trained(MAML(MLP((6,))), settings)


def test_the_first_difference_of_a_section_is_its_name() -> None:
    old = {"learner": {"inner_steps": 1, "name": "maml"}, "train": {"seed": 0}}
    new = {"learner": {"distance": "scaled", "name": "prototypes"}, "train": {"seed": 0}}
    assert difference(old, new) == "learner.name was 'maml', is 'prototypes'"
    assert difference(old, old | {"train": {"seed": 1}}) == "train.seed was 0, is 1"
