"""Every rule passes the public checks, and the checks see what is wrong."""

from dataclasses import dataclass

import pytest
import torch

from tasklore.errors import CheckFailed, InvalidSetting
from tasklore.learners.base import Learner
from tasklore.learners.gradient import MAML, FirstOrderMAML, ImplicitMAML, Reptile
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.learners.metric import Prototypes
from tasklore.metagrad import (
    Backprop,
    Compiled,
    Implicit,
    MetaGradient,
    Rule,
    Threads,
    TowardsAdapted,
    rule_for,
)
from tasklore.nets import MLP
from tasklore.tasks.source import TaskSource
from tasklore.tasks.synthetic import SinusoidSource
from tasklore.testing.learner import toy_source
from tasklore.testing.rule import check_rule
from tasklore.types import Context, Episode, Params


@pytest.mark.parametrize("tasks_at_once", [1, 2, 5])
@pytest.mark.parametrize(
    ("rule", "learner"),
    [
        (Backprop, MAML(MLP((16,)), inner_steps=2)),
        (Backprop, FirstOrderMAML(MLP((16,)), inner_steps=2)),
        (Backprop, Prototypes(MLP((16,)))),
        (TowardsAdapted, Reptile(MLP((16,)), step_size=0.01)),
        (Implicit, ImplicitMAML(MLP((16,)))),
    ],
)
def test_rules_keep_their_promises(
    rule: type[Backprop] | type[TowardsAdapted] | type[Implicit], learner: Learner, tasks_at_once: int
) -> None:
    source: TaskSource | None = toy_source(learner) if isinstance(learner, Prototypes) else None
    passed = check_rule(rule(tasks_at_once), learner, source)
    assert passed[-1] == "descends"
    assert len(passed) == 8


@pytest.mark.parametrize("n", [2, 3, 9])
@pytest.mark.parametrize(
    "learner",
    [MAML(MLP((16,)), inner_steps=2), Reptile(MLP((16,)), step_size=0.01), ImplicitMAML(MLP((16,)))],
)
def test_threads_give_what_their_rule_gives(learner: Learner, n: int) -> None:
    rule = rule_for(learner, 1, threads=n)
    assert isinstance(rule, Threads)
    assert len(check_rule(rule, learner)) == 8
    before = torch.get_num_threads()
    plain, parted = one_step(rule.rule, learner), one_step(rule, learner)
    assert torch.get_num_threads() == before
    assert parted.weight == plain.weight
    torch.testing.assert_close(parted.losses, plain.losses, rtol=1e-5, atol=1e-6)
    for name, total in plain.total.items():
        torch.testing.assert_close(parted.total[name], total, rtol=1e-4, atol=1e-6)
    again = one_step(rule, learner)
    assert all(torch.equal(total, parted.total[name]) for name, total in again.total.items())


def test_what_fails_in_a_thread_fails_here() -> None:
    learner = ImplicitMAML(MLP((4,)))
    before = torch.get_num_threads()
    with pytest.raises(InvalidSetting, match="needs a learner that is pulled"):
        one_step(Threads(Implicit(1), 2), MAML(learner.net))
    assert torch.get_num_threads() == before


def test_a_transform_gives_what_the_tape_gives() -> None:
    learner = MAML(MLP((8,)), inner_steps=2)
    assert check_rule(Backprop(2, functional=True), learner)[-1] == "descends"
    by_tape, by_transform = (
        one_step(Backprop(2, functional=functional), learner) for functional in (False, True)
    )
    for name, total in by_tape.total.items():
        torch.testing.assert_close(by_transform.total[name], total, rtol=1e-5, atol=1e-6)


def one_step(rule: Rule, learner: Learner, n_shots: int = 5) -> MetaGradient:
    source = SinusoidSource(n_shots=n_shots, n_queries=5)
    params = learner.init(source.spec, torch.Generator().manual_seed(0))
    episodes, keys = source.episodes(0, "train", 0, 4)
    return rule(learner, params, episodes, Context(source.spec, keys, training=True))


def test_a_compiled_step_gives_what_a_plain_one_gives() -> None:
    learner = MAML(MLP((4,)), inner_steps=1)
    plain, compiled = (one_step(rule_for(learner, 4, compiled=way), learner) for way in (False, True))
    assert compiled.weight == plain.weight == 4.0
    torch.testing.assert_close(compiled.losses, plain.losses, rtol=1e-5, atol=1e-6)
    for name, total in plain.total.items():
        torch.testing.assert_close(compiled.total[name], total, rtol=1e-4, atol=1e-5)
    again = one_step(rule_for(learner, 4, compiled=True), learner)
    assert all(torch.equal(total, compiled.total[name]) for name, total in again.total.items())


def test_what_cannot_be_compiled_is_refused_with_the_cure() -> None:
    with pytest.raises(
        InvalidSetting, match=r"MAMLPlusPlus changes its objective .* use execution = 'vectorised'"
    ):
        one_step(rule_for(MAMLPlusPlus(MLP((4,))), 4, compiled=True), MAMLPlusPlus(MLP((4,))))

    @dataclass(frozen=True)
    class Opaque(MAML):
        """Looks at a value, which no graph can hold."""

        def objective(self, params: Params, episode: Episode, context: Context) -> torch.Tensor:
            loss = super().objective(params, episode, context)
            return loss * float(loss.detach() > 0)

    with pytest.raises(InvalidSetting, match="Opaque cannot be compiled here: "):
        one_step(Compiled(Backprop(1, functional=True)), Opaque(MLP((4,))))


@dataclass(frozen=True)
class Faulty(Rule):
    """Backprop that breaks one promise."""

    fault: str

    def __call__(self, learner: Learner, params: Params, episodes: Episode, context: Context) -> MetaGradient:
        total, weight, losses = Backprop(1)(learner, params, episodes, context)
        name = next(iter(total))
        match self.fault:
            case "missing":
                del total[name]
            case "shape":
                total[name] = total[name].flatten()[:1]
            case "graph":
                total[name] = total[name] * torch.ones((), requires_grad=True)
            case "weight":
                weight = 1.0
            case "mean":
                total = {key: tensor / len(losses) for key, tensor in total.items()}
            case "writes":
                params[name].add_(1.0)
            case "noise":
                total[name] = total[name] + torch.randn(total[name].shape, generator=torch.Generator())
                total[name] = total[name] + self.count()
            case "global":
                torch.rand(1)
            case "first counts":
                total[name] = total[name] + 100 * losses[0]
            case "ascends":
                total = {key: -tensor for key, tensor in total.items()}
            case _:
                raise AssertionError
        return MetaGradient(total, weight, losses)

    def count(self) -> int:
        """Return another number each time."""
        CALLS.append(0)
        return len(CALLS)


CALLS: list[int] = []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "differ in"),
        ("shape", "has shape"),
        ("graph", "still requires a gradient"),
        ("weight", "gave the weight 1.0"),
        ("mean", "something else than one by one"),
        ("writes", "were changed"),
        ("noise", "the same call gave another answer"),
        ("global", "the global generator was used"),
        ("first counts", "something else than one by one"),
        ("ascends", "direction of ascent"),
    ],
)
def test_the_checks_see_what_is_wrong(fault: str, message: str) -> None:
    with pytest.raises(CheckFailed, match=message):
        check_rule(Faulty(fault))
