"""Every registered learner passes the public check suite, and the suite itself can fail."""

import dataclasses
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from tasklore.errors import CheckFailed
from tasklore.learners.base import Learner, hide_absent
from tasklore.learners.cavia import CAVIA
from tasklore.learners.closed_form import LogisticHead, RidgeHead, SVMHead
from tasklore.learners.gradient import ANIL, BOIL, MAML, FirstOrderMAML, MetaSGD, Reptile
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.learners.metric import MatchingNetwork, Prototypes, RelationNetwork
from tasklore.nets import MLP, Conv4
from tasklore.registry import learners
from tasklore.tasks.few_shot import Examples, FewShotSource
from tasklore.testing.learner import check_learner
from tasklore.types import Adapted, Batch, Context, Inputs, Params, TaskSpec

QUICK = {
    "scratch": {"inner_steps": 8},
    "finetune": {"inner_steps": 8},
    "reptile": {"test_steps": 10},
    "boil": {"step_size": 0.5},  # a body hardly moves by steps of 0.01, and a head that stays cannot help
}


@pytest.mark.parametrize("name", learners.names())
def test_registered_learner_keeps_its_promises(name: str) -> None:
    assert len(check_learner(learners.get(name)(**QUICK.get(name, {})))) == 13


@pytest.mark.parametrize(
    "learner",
    [
        MAML(Conv4(8, blocks=2), inner_steps=1, step_size=0.1),
        MAML(Conv4(8, blocks=2, halving="stride"), inner_steps=2, step_size=0.1, transductive=True),
        FirstOrderMAML(MLP((16,)), inner_steps=3, step_size=0.1),
        Reptile(MLP((16,)), test_steps=5, inner_optimizer="sgd", step_size=0.05),
        Prototypes(MLP((16, 8))),
        Prototypes(Conv4(8, blocks=2), transductive=True),
        Prototypes(MLP((16, 8)), distance="scaled", temperature=2.0),
        Prototypes(Conv4(8, blocks=2), distance="mahalanobis", transductive=True, refinement_steps=2),
        RelationNetwork(MLP((16, 8)), hidden=16),
        LogisticHead(Conv4(8, blocks=2), newton_steps=3),
        SVMHead(Conv4(8, blocks=2), solver_steps=12, transductive=True),
        CAVIA(Conv4(8, blocks=2), inner_steps=2, step_size=0.5, learned_step_sizes="one"),
        MAMLPlusPlus(Conv4(8, blocks=2), inner_steps=2, step_size=0.1, first_order_steps=0),
        FirstOrderMAML(MLP((16,)), inner_steps=3, step_size=0.1, learned_step_sizes="per-layer"),
    ],
    ids=lambda learner: f"{type(learner).__name__}-{type(learner.net).__name__}",
)
def test_other_nets_too(learner: Learner) -> None:
    check_learner(learner)


def test_prototype_logits_are_distances() -> None:
    learner = Prototypes(MLP((8,)))
    source = blobs(4)
    params = learner.init(source.spec, torch.Generator().manual_seed(0))
    episodes, keys = source.episodes(0, "t", 0, 1)
    support, query = (Batch(*(part[0] for part in side)) for side in episodes)
    adapted = learner.adapt(params, support, Context(source.spec, keys[0]))
    features, _ = learner.net.apply(params, support.inputs)
    centres = torch.stack([features[support.y == k].mean(0) for k in range(4)])
    expected = torch.softmax(-(torch.cdist(learner.net.apply(params, query.inputs)[0], centres) ** 2), 1)
    assert torch.allclose(torch.softmax(learner.predict(adapted, query.inputs), 1), expected, atol=1e-5)


def test_logistic_baseline_agrees_with_scikit_learn_on_two_and_more_classes() -> None:
    from sklearn.linear_model import LogisticRegression

    learner = learners.get("logistic-regression")()
    for n_ways in (2, 4):
        source = blobs(n_ways)
        episodes, keys = source.episodes(0, "t", 0, 1)
        support, query = (Batch(*(part[0] for part in side)) for side in episodes)
        adapted = learner.adapt({}, support, Context(source.spec, keys[0]))
        ours = torch.softmax(learner.predict(adapted, query.inputs), 1)
        model = LogisticRegression(max_iter=1000).fit(support.x.flatten(1).numpy(), support.y.numpy())
        theirs = torch.from_numpy(model.predict_proba(query.x.flatten(1).numpy())).float()
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_one_example_of_each_class_is_nothing_to_warn_of() -> None:
    spec = TaskSpec("classification", (25,), 25)
    support = Batch(torch.eye(25), torch.arange(25), torch.ones(25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted = learners.get("logistic-regression")().adapt({}, support, Context(spec, torch.zeros(())))
    assert adapted["task/weight"].shape == (25, 25)


def blobs(n_ways: int) -> FewShotSource:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(6).repeat_interleave(10)
    x = torch.randn(60, 1, 2, 3, generator=generator) + y.view(-1, 1, 1, 1)
    return FewShotSource.of(Examples("blobs", x, y, tuple("abcdef")), n_ways=n_ways, n_shots=3, n_queries=4)


@dataclass(frozen=True)
class Faulty(Learner):
    """Nearest mean, with one fault built in."""

    fault: str = ""

    def init(self, spec: TaskSpec, generator: torch.Generator) -> Params:
        free = None if self.fault == "seed" else generator
        params = {"weight": torch.randn(6, 4, generator=free)}
        return params | ({"idle": torch.ones(1)} if self.fault == "idle" else {})

    def adapt(self, params: Params, support: Batch, context: Context) -> Adapted:
        if self.fault == "writes":
            support.x.mul_(1.5)
        features = support.x.flatten(1) @ params["weight"]
        mask = torch.ones_like(support.mask) if self.fault == "padding" else support.mask
        if self.fault == "order":
            mask = mask * torch.linspace(0.1, 3.0, len(mask))
        members = torch.nn.functional.one_hot(support.y, context.spec.n_outputs) * mask.unsqueeze(1)
        centres = (members.T @ features) / members.sum(0).clamp(min=1e-3).unsqueeze(1)
        present = torch.ones(3) if self.fault == "absent" else (members.sum(0) > 0).float()
        return {"weight": params["weight"], "task/centres": centres, "task/present": present}

    def predict(self, adapted: Adapted, inputs: Inputs) -> torch.Tensor:
        features = inputs.x.flatten(1) @ adapted["weight"]
        if self.fault == "company":
            features = features - features.mean(0)
        if self.fault == "nan":
            features = features + (adapted["weight"].sum() * 0).sqrt()
        logits = 2 * features @ adapted["task/centres"].T - (adapted["task/centres"] ** 2).sum(1)
        return hide_absent(logits, adapted["task/present"])


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("seed", "other params for the same generator"),
        ("writes", "changed its params or its support"),
        ("padding", "padding moved the answers"),
        ("absent", "of which the support has no example"),
        ("order", "order of the support"),
        ("company", "depends on the other queries"),
        ("idle", "no meta-gradient reaches idle"),
        ("nan", "is not finite"),
    ],
)
def test_a_broken_promise_is_named(fault: str, complaint: str) -> None:
    with pytest.raises(CheckFailed, match=complaint):
        check_learner(Faulty(fault), blobs(3))


def test_learner_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MAML().inner_steps = 3  # pyright: ignore[reportAttributeAccessIssue]


# What sets learners of one family apart, against plain references


def one_task(kind: str = "classification", n: int = 12) -> tuple[TaskSpec, Batch, Context]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, generator=generator)
    spec, y = TaskSpec("classification", (4,), 3), torch.arange(n) % 3
    if kind == "regression":
        spec, y = TaskSpec("regression", (4,), 2), torch.randn(n, 2, generator=generator)
    return spec, Batch(x, y, torch.ones(n)), Context(spec, torch.tensor(0), training=True)


@pytest.mark.parametrize(
    ("learner", "moves"), [(ANIL, {"layer1"}), (BOIL, {"layer0"}), (MAML, {"layer0", "layer1"})]
)
def test_only_the_named_layers_move(learner: type[MAML], moves: set[str]) -> None:
    spec, support, context = one_task()
    chosen = learner(MLP((5,)), inner_steps=3, step_size=0.5)
    params = chosen.init(spec, torch.Generator().manual_seed(0))
    adapted = chosen.adapt(params, support, context)
    moved = {name.split(".")[0] for name, w in params.items() if not torch.equal(adapted[name], w)}
    assert moved == moves


def test_meta_sgd_starts_as_maml_and_learns_its_rates() -> None:
    spec, support, context = one_task()
    plain, learned = (kind(MLP((5,)), inner_steps=3, step_size=0.3) for kind in (MAML, MetaSGD))
    params = learned.init(spec, torch.Generator().manual_seed(0))
    weights = plain.init(spec, torch.Generator().manual_seed(0))
    one, other = plain.adapt(weights, support, context), learned.adapt(params, support, context)
    assert one.keys() == other.keys(), "step sizes are not part of what was adapted"
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    halted = params | {"factor/layer0.weight": torch.zeros_like(params["factor/layer0.weight"])}
    assert torch.equal(learned.adapt(halted, support, context)["layer0.weight"], params["layer0.weight"])


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_ridge_head_solves_ridge_regression(kind: str) -> None:
    """The dual solution that it uses, against the primal one of scikit-learn."""
    spec, support, context = one_task(kind)
    head = RidgeHead(MLP((6,)), penalty=0.7)
    params = head.init(spec, torch.Generator().manual_seed(0))
    features = head.net.apply({name: w for name, w in params.items() if "layer" in name}, support.inputs)[0]
    z = torch.cat([features, torch.ones(len(features), 1)], 1).numpy()
    y = torch.eye(3)[support.y].numpy() if kind == "classification" else support.y.numpy()
    expected = Ridge(alpha=0.7, fit_intercept=False).fit(z, y).predict(z)
    scale = 10.0 if kind == "classification" else 1.0
    found = head.predict(head.adapt(params, support, context), support.inputs)
    np.testing.assert_allclose(found.numpy(), scale * expected, rtol=1e-3, atol=1e-4)


def test_matching_is_attention_over_the_support() -> None:
    spec, support, context = one_task()
    learner = MatchingNetwork(MLP((6,)), temperature=0.2)
    params = learner.init(spec, torch.Generator().manual_seed(0))
    queries = Inputs(torch.randn(5, 4, generator=torch.Generator().manual_seed(9)), torch.ones(5))
    found = learner.predict(learner.adapt(params, support, context), queries).softmax(1)
    weights = {name: w for name, w in params.items() if "layer" in name}
    embedded, known = (learner.net.apply(weights, part)[0] for part in (queries, support.inputs))
    cosines = torch.nn.functional.cosine_similarity(embedded[:, None], known[None], dim=2)
    expected = (cosines / 0.2).softmax(1) @ torch.eye(3)[support.y]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
