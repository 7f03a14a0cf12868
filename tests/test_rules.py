"""Every rule passes the public checks, and the checks see what is wrong."""

from dataclasses import dataclass

import pytest
import torch

from tasklore.errors import CheckFailed
from tasklore.learners.base import Learner
from tasklore.learners.gradient import MAML, FirstOrderMAML, ImplicitMAML, Reptile
from tasklore.learners.metric import Prototypes
from tasklore.metagrad import Backprop, Implicit, MetaGradient, Rule, TowardsAdapted
from tasklore.nets import MLP
from tasklore.tasks.source import TaskSource
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
