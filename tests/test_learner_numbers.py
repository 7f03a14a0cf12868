"""Learners against references written by hand, or solved by scikit-learn."""

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Generator, Tensor

from tasklore.errors import InvalidSetting
from tasklore.learners.base import Learner
from tasklore.learners.baselines import LinearProbe
from tasklore.learners.cavia import CAVIA
from tasklore.learners.closed_form import LogisticHead, RidgeHead, SVMHead
from tasklore.learners.gradient import ANIL, MAML, FirstOrderMAML, MetaSGD, StepSizes
from tasklore.learners.maml_plus_plus import MAMLPlusPlus
from tasklore.learners.metric import Prototypes, RelationNetwork
from tasklore.metagrad import Backprop, adapt_tasks
from tasklore.nets import MLP, Conv4, Identity
from tasklore.types import Batch, Context, Episode, Inputs, Params, TaskSpec

SPEC = TaskSpec("classification", (4,), 3)
DOUBLE = torch.float64


def batch(seed: int = 3, n: int = 12, n_ways: int = 3, n_features: int = 4) -> Batch:
    generator = Generator().manual_seed(seed)
    y = torch.arange(n) % n_ways
    x = torch.randn(n, n_features, generator=generator, dtype=DOUBLE)
    return Batch(x + F.one_hot(y, n_features), y, torch.ones(n, dtype=DOUBLE))


def padded(real: Batch) -> Batch:
    """Return the batch with three examples more that are not real."""
    x = torch.cat([real.x, torch.full_like(real.x[:3], 50.0)])
    y = torch.cat([real.y, real.y[:3]])
    return Batch(x, y, torch.cat([real.mask, torch.zeros(3, dtype=DOUBLE)]))


def start(learner: Learner, spec: TaskSpec = SPEC) -> Params:
    params = learner.init(spec, Generator().manual_seed(0))
    return {name: tensor.to(DOUBLE) for name, tensor in params.items()}


def context(spec: TaskSpec = SPEC, step: int = 0, training: bool = True) -> Context:
    return Context(spec, torch.tensor(0), step, training=training)


# Heads


def read_out(learner: Learner, support: Batch, n_classes: int, **logarithms: Tensor) -> Tensor:
    """Return the weights of a head on the raw features, where one class more than there are is possible."""
    spec = TaskSpec("classification", tuple(support.x.shape[1:]), n_classes + 1)
    adapted = learner.adapt(start(learner, spec) | logarithms, padded(support), context(spec))
    weights = adapted["task/read_out"].T  # (c + 1, d + 1)
    assert not weights[-1].any(), "nothing is known of a class without examples"
    return weights[:-1]


def by_scikit_learn(model: LogisticRegression | LinearSVC, support: Batch) -> np.ndarray:
    z = np.concatenate([support.x.numpy(), np.ones((len(support.x), 1))], 1)
    rows = np.asarray(model.fit(z, support.y.numpy()).coef_)
    return np.concatenate([-rows, rows]) / 2 if len(rows) == 1 else rows  # two classes share one row


def logistic(weight: float) -> LogisticRegression:
    return LogisticRegression(C=weight, fit_intercept=False, tol=1e-12, max_iter=10_000)


def svm(weight: float) -> LinearSVC:
    return LinearSVC(
        C=weight, multi_class="crammer_singer", fit_intercept=False, tol=1e-10, max_iter=1_000_000
    )


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("n_ways", [2, 3])
def test_the_logistic_head_solves_logistic_regression(penalty: float, n_ways: int) -> None:
    support = batch(n_ways=n_ways)
    found = read_out(LogisticHead(Identity(), penalty=penalty, newton_steps=10), support, n_ways)
    # Of two classes the one row costs twice what the two rows ±w/2 cost.
    expected = by_scikit_learn(logistic(1 / penalty if n_ways > 2 else 2 / penalty), support)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("penalty", [each["penalty"] for each in LinearProbe.alternatives])
def test_a_linear_probe_solves_logistic_regression_on_features_of_unit_length(penalty: float) -> None:
    support = batch()
    length = (support.x.square().sum(1) + 1).sqrt().mean()  # with the constant
    found = read_out(LinearProbe(Identity(), penalty), support, 3)
    # A penalty on the read-out of shortened features is one on that of features as they are, times length².
    expected = by_scikit_learn(logistic(1 / (penalty * float(length) ** 2)), support)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_step_of_newton_that_leads_uphill_is_shortened() -> None:
    """On these examples the whole steps do not converge."""
    support = batch(seed=100, n=100, n_ways=20, n_features=20)
    found = read_out(LogisticHead(Identity(), penalty=0.1, newton_steps=15), support, 20)
    np.testing.assert_allclose(found, by_scikit_learn(logistic(10.0), support), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("n", "n_ways", "n_features"), [(12, 3, 4), (25, 5, 40), (60, 5, 8), (100, 20, 20), (7, 2, 3)]
)
@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0])
def test_the_svm_head_solves_the_machine_of_crammer_and_singer(
    n: int, n_ways: int, n_features: int, weight: float
) -> None:
    support = batch(n=n, n_ways=n_ways, n_features=n_features)
    found = read_out(SVMHead(Identity(), C=weight), support, n_ways)
    np.testing.assert_allclose(found, by_scikit_learn(svm(weight), support), rtol=1e-4, atol=1e-4)


def test_the_svm_head_is_differentiated_in_the_features() -> None:
    """Against solving again for features that are moved a little."""
    support, learner = batch(), SVMHead(Identity(), C=0.3)
    generator = Generator().manual_seed(8)
    along, across = (torch.randn(size, generator=generator, dtype=DOUBLE) for size in ((12, 4), (3, 5)))

    def seen(shift: Tensor) -> Tensor:
        return (across * read_out(learner, support._replace(x=support.x + shift * along), 3)).sum()

    step = torch.tensor(1e-3, dtype=DOUBLE)
    expected = (seen(step) - seen(-step)) / (2 * step)
    found: Tensor = torch.func.grad(seen)(torch.zeros((), dtype=DOUBLE))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_heads_are_differentiated_through_their_solution(kind: str) -> None:
    """Against refitting scikit-learn's model with a slightly larger and a slightly smaller setting."""
    support, step = batch(), 1e-3
    if kind == "logistic":
        learner, name = LogisticHead(Identity(), newton_steps=10), "log_penalty"
        near = [by_scikit_learn(logistic(float(np.exp(-sign * step))), support) for sign in (1, -1)]
    else:
        learner, name = SVMHead(Identity(), C=0.05), "log_C"
        near = [by_scikit_learn(svm(0.05 * float(np.exp(sign * step))), support) for sign in (1, -1)]
    expected = (near[0] - near[1]) / (2 * step)
    assert np.abs(expected).max() > 1e-2
    value = start(learner)[name]
    found: Tensor = torch.func.jacrev(lambda v: read_out(learner, support, 3, **{name: v}))(value)  # pyright: ignore[reportAssignmentType]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)


def test_outputs_of_heads_are_divided_by_the_temperature() -> None:
    support = batch()
    for kind in (LogisticHead, SVMHead):
        warm, cold = (kind(MLP((6,)), temperature=t) for t in (1.0, 0.5))
        one, two = (h.predict(h.adapt(start(h), support, context()), support.inputs) for h in (warm, cold))
        torch.testing.assert_close(2 * one, two)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LogisticHead, {"penalty": 0.0}),
        (LogisticHead, {"newton_steps": 0}),
        (SVMHead, {"C": -1.0}),
        (SVMHead, {"temperature": 0.0}),
        (Prototypes, {"temperature": 0.0}),
        (Prototypes, {"distance": "cosine"}),
        (Prototypes, {"refinement_steps": -1}),
        (Prototypes, {"refinement_steps": 1}),
        (RelationNetwork, {"hidden": 0}),
        (MAML, {"learned_step_sizes": "some"}),
        (CAVIA, {"n_context": 0}),
        (CAVIA, {"net": Identity()}),
        (MAMLPlusPlus, {"inner_steps": 0}),
        (MAMLPlusPlus, {"first_order_steps": -1}),
    ],
)
def test_settings_that_cannot_work_are_refused(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(settings)) if "net" not in settings else "Identity"):
        kind(**settings)


# Comparing


def test_relations_are_scored_by_a_network_on_pairs() -> None:
    learner = RelationNetwork(MLP((6,)), hidden=7)
    params, support, query = start(learner), batch(), batch(4, 5)
    net = {name: w for name, w in params.items() if name.startswith("layer")}
    known, asked = (learner.net.apply(net, part.inputs)[0] for part in (support, query))
    expected = torch.zeros(5, 3, dtype=DOUBLE)
    for j in range(5):
        for k in range(3):
            pair = torch.cat([known[support.y == k].mean(0), asked[j]])
            hidden = (params["relation/layer0.weight"] @ pair + params["relation/layer0.bias"]).relu()
            last = params["relation/layer1.weight"] @ hidden + params["relation/layer1.bias"]
            expected[j, k] = torch.sigmoid(last[0])
    found = learner.predict(learner.adapt(params, support, context()), query.inputs)
    torch.testing.assert_close(found.sigmoid(), expected)
    loss = sum(float((expected[j, k] - float(query.y[j] == k)) ** 2) for j in range(5) for k in range(3)) / 5
    assert float(learner.objective(params, Episode(support, query), context())) == pytest.approx(loss)
    # Neither padding nor a class that does not occur changes it.
    wide = dataclasses.replace(SPEC, n_outputs=5)
    more = learner.objective(params, Episode(padded(support), padded(query)), context(wide))
    assert float(more) == pytest.approx(loss)


@pytest.mark.parametrize("distance", ["euclidean", "scaled", "mahalanobis"])
def test_prototypes_measure_the_distance_that_was_asked_for(distance: Any) -> None:
    learner = Prototypes(MLP((6,)), distance=distance, temperature=2.0)
    params, support, query = start(learner), batch(), batch(4, 5)
    matrix = torch.eye(6, dtype=DOUBLE)
    if distance != "euclidean":
        shape = params["metric"].shape
        params["metric"] = torch.randn(shape, generator=Generator().manual_seed(5), dtype=DOUBLE)
        metric = params["metric"]
        matrix = metric.exp().diag() if distance == "scaled" else metric.T @ metric
    net = {name: w for name, w in params.items() if name.startswith("layer")}
    known, asked = (learner.net.apply(net, part.inputs)[0] for part in (support, query))
    apart = asked.unsqueeze(1) - torch.stack([known[support.y == k].mean(0) for k in range(3)])  # (n, c, d)
    expected = torch.softmax(-torch.einsum("nkd,de,nke->nk", apart, matrix, apart) / 2.0, 1)
    found = learner.predict(learner.adapt(params, support, context()), query.inputs)
    torch.testing.assert_close(found.softmax(1), expected)


def test_a_learned_distance_starts_as_the_euclidean_one() -> None:
    support, query = batch(), batch(4, 5)
    found = [
        learner.predict(learner.adapt(start(learner), support, context()), query.inputs)
        for learner in (
            Prototypes(MLP((6,)), distance=distance) for distance in ("euclidean", "scaled", "mahalanobis")
        )
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_refinement_is_soft_k_means_with_the_queries() -> None:
    learner = Prototypes(MLP((6,)), transductive=True, refinement_steps=3)
    params, support, query = start(learner), batch(), batch(4, 7)
    known, asked = (learner.net.apply(params, part.inputs)[0] for part in (support, query))
    centres = [known[support.y == k].mean(0) for k in range(3)]
    for _ in range(3):
        chances = [torch.softmax(-torch.stack([((f - c) ** 2).sum() for c in centres]), 0) for f in asked]
        centres = [
            (known[support.y == k].sum(0) + sum(p[k] * f for p, f in zip(chances, asked, strict=True)))
            / (4 + sum(float(p[k]) for p in chances))
            for k in range(3)
        ]
    expected = torch.softmax(-(torch.cdist(asked, torch.stack(centres)) ** 2), 1)
    adapted = learner.adapt(params, support, context(training=False))
    found = learner.predict(adapted, query.inputs).softmax(1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(learner.predict(adapted, padded(query).inputs)[:7].softmax(1), expected)
    alone = learner.predict(adapted, Inputs(query.x[:1], query.mask[:1])).softmax(1)
    assert not torch.allclose(alone, expected[:1], atol=1e-4), "the other queries matter"


def test_nothing_is_refined_while_meta_learning() -> None:
    learner = Prototypes(MLP((6,)), transductive=True, refinement_steps=3)
    plain = dataclasses.replace(learner, refinement_steps=0)
    params, support, query = start(learner), batch(), batch(4, 7)
    found, expected = (
        one.predict(one.adapt(params, support, context()), query.inputs) for one in (learner, plain)
    )
    torch.testing.assert_close(found, expected)


def test_refinement_is_off_unless_asked_for() -> None:
    assert Prototypes().refinement_steps == 0
    with pytest.raises(InvalidSetting, match="set transductive=True too"):
        Prototypes(refinement_steps=1)


# Gradient steps


def two_layers(weights: list[Tensor], x: Tensor) -> Tensor:
    return (x @ weights[0].T + weights[1]).clamp(min=0) @ weights[2].T + weights[3]


def step_down(
    weights: list[Tensor], rates: list[Tensor], support: Batch, second_order: bool = True
) -> list[Tensor]:
    """Return ``w − α ∘ ∇L``, with autograd instead of torch.func."""
    loss = F.cross_entropy(two_layers(weights, support.x), support.y)
    slopes = torch.autograd.grad(loss, weights, create_graph=second_order)
    return [w - r * s for w, r, s in zip(weights, rates, slopes, strict=True)]


@pytest.mark.parametrize("chosen", get_args(StepSizes))
def test_learned_step_sizes_start_as_the_given_one(chosen: StepSizes) -> None:
    plain = MAML(MLP((5,)), inner_steps=3, step_size=0.3)
    learned = dataclasses.replace(plain, learned_step_sizes=chosen)
    support = batch()
    params = start(learned)
    rates = {name: tuple(w.shape) for name, w in params.items() if name.startswith("factor/")}
    assert (
        rates
        == {
            "none": {},
            "one": {"factor/*": ()},
            "per-layer": {"factor/layer0.*": (), "factor/layer1.*": ()},
            "per-layer-and-step": {"factor/layer0.*": (3,), "factor/layer1.*": (3,)},
            "per-parameter": {"factor/" + name: tuple(w.shape) for name, w in start(plain).items()},
        }[chosen]
    )
    one, other = plain.adapt(start(plain), support, context()), learned.adapt(params, support, context())
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_meta_sgd_is_maml_with_a_learned_step_size_for_each_parameter() -> None:
    one, other = MetaSGD(MLP((5,))), MAML(MLP((5,)), learned_step_sizes="per-parameter")
    assert list(start(one)) == list(start(other))
    assert list(start(ANIL(MLP((5,)), learned_step_sizes="per-layer")))[-1] == "factor/layer1.*"


@pytest.mark.parametrize("kind", [MAML, FirstOrderMAML])
def test_the_meta_gradient_of_step_sizes_for_each_layer_and_step(kind: type[MAML]) -> None:
    learner = kind(MLP((5,)), inner_steps=2, step_size=0.3, learned_step_sizes="per-layer-and-step")
    support, query = batch(), batch(4)
    params = start(learner) | {
        "factor/layer0.*": torch.tensor([0.1, 0.2], dtype=DOUBLE),
        "factor/layer1.*": torch.tensor([0.3, -0.4], dtype=DOUBLE),
    }
    leaves = {name: w.clone().requires_grad_() for name, w in params.items()}
    weights = [w for name, w in leaves.items() if not name.startswith("factor/")]
    first, last = leaves["factor/layer0.*"], leaves["factor/layer1.*"]
    for step in range(2):
        rates = [0.3 * size for size in (first[step], first[step], last[step], last[step])]
        weights = step_down(weights, rates, support, second_order=kind is MAML)
    loss = F.cross_entropy(two_layers(weights, query.x), query.y)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    found = backprop(learner, params, support, query)
    for name, slope in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found[name], slope)


def backprop(learner: Learner, params: Params, support: Batch, query: Batch, step: int = 0) -> Params:
    stacked = Episode(*(Batch(*(part.unsqueeze(0) for part in side)) for side in (support, query)))
    here = Context(SPEC, torch.zeros(1, dtype=torch.int64), step, training=True)
    return Backprop(1)(learner, params, stacked, here).total


def test_more_steps_than_were_learned_take_the_last_sizes() -> None:
    learner = MAML(MLP((5,)), inner_steps=2, test_steps=3, learned_step_sizes="per-layer-and-step")
    params, support = start(learner), batch()
    rates = {"factor/layer0.*": torch.tensor([0.1, 0.2]), "factor/layer1.*": torch.tensor([0.3, 0.4])}
    longer = {name: torch.cat([rate, rate[1:]]) for name, rate in rates.items()}
    new = dataclasses.replace(context(), training=False)
    found = learner.adapt(params | rates, support, new)
    expected = dataclasses.replace(learner, inner_steps=3).adapt(params | longer, support, new)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_context_parameters_stand_beside_the_input() -> None:
    learner = CAVIA(MLP((5,)), inner_steps=2, step_size=0.7, n_context=3)
    params, support, query = start(learner), batch(), batch(4)
    wide = torch.cat([params["layer0.weight"], params["condition/layer0.bias"]], 1)  # of input and context
    rest = [params[name] for name in ("layer0.bias", "layer1.weight", "layer1.bias")]
    known = torch.zeros(3, dtype=DOUBLE)

    def outputs(x: Tensor, known: Tensor) -> Tensor:
        return two_layers([wide, *rest], torch.cat([x, known.expand(len(x), 3)], 1))

    for _ in range(2):
        known = known.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(outputs(support.x, known), support.y), known)
        known = known.detach() - 0.7 * slope
    adapted = learner.adapt(params, support, context())
    torch.testing.assert_close(adapted["context"], known)
    torch.testing.assert_close(learner.predict(adapted, query.inputs), outputs(query.x, known))


def test_context_parameters_scale_and_shift_the_channels() -> None:
    spec = TaskSpec("classification", (1, 6, 6), 3)
    net = Conv4(4, blocks=2)
    learner = CAVIA(net, step_size=0.5, n_context=2)
    x = torch.randn(6, 1, 6, 6, generator=Generator().manual_seed(1), dtype=DOUBLE)
    support = Batch(x, torch.arange(6) % 3, torch.ones(6, dtype=DOUBLE))
    params = start(learner, spec)
    adapted = learner.adapt(params, support, context(spec))
    plain = net.init(spec.input_shape, 3, Generator().manual_seed(0)).keys()

    def conditioned(known: Tensor) -> Params:
        return {
            name: params[name] + params["condition/" + name] @ known
            if name.endswith(("scale", "shift"))
            else params[name]
            for name in plain
        }

    known = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(
        F.cross_entropy(net.apply(conditioned(known), support.inputs)[0], support.y), known
    )
    torch.testing.assert_close(adapted["context"], -0.5 * slope)
    expected = net.apply(conditioned(-0.5 * slope), support.inputs)[0]
    torch.testing.assert_close(learner.predict(adapted, support.inputs), expected)


def test_only_context_parameters_belong_to_a_task() -> None:
    learner = CAVIA(MLP((5,)))
    stacked = Batch(*(torch.stack([part, part]) for part in batch()))
    tasks = adapt_tasks(
        learner, start(learner), stacked, dataclasses.replace(context(), key=torch.arange(2)), 2
    )
    assert set(tasks.own) == {"context", "task/present"}


@pytest.mark.parametrize(
    ("step", "shares"), [(0, [1 / 3] * 3), (50, [1 / 6, 1 / 6, 2 / 3]), (100, [0, 0, 1])]
)
@pytest.mark.parametrize("second_order", [False, True])
def test_maml_plus_plus_weighs_the_loss_after_each_step(
    step: int, shares: list[float], second_order: bool
) -> None:
    learner = MAMLPlusPlus(
        MLP((5,)),
        inner_steps=3,
        step_size=0.5,
        multi_step_loss_steps=100,
        first_order_steps=0 if second_order else 1000,
    )
    support, query = batch(), batch(4)
    params = start(learner) | {
        "factor/layer0.*": torch.tensor([0.1, 0.2, 0.5], dtype=DOUBLE),
        "factor/layer1.*": torch.tensor([0.3, 0.4, 0.6], dtype=DOUBLE),
    }
    leaves = {name: w.clone().requires_grad_() for name, w in params.items()}
    weights = [w for name, w in leaves.items() if not name.startswith("factor/")]
    total = torch.zeros((), dtype=DOUBLE)
    for i in range(3):
        first, last = 0.5 * leaves["factor/layer0.*"][i], 0.5 * leaves["factor/layer1.*"][i]
        weights = step_down(weights, [first, first, last, last], support, second_order)
        total = total + shares[i] * F.cross_entropy(two_layers(weights, query.x), query.y)
    expected = torch.autograd.grad(total, list(leaves.values()))
    assert learner.shares(context(step=step)) == pytest.approx(shares)
    here = context(step=step)
    assert float(learner.objective(params, Episode(support, query), here)) == pytest.approx(
        float(total.detach())
    )
    found = backprop(learner, params, support, query, step)
    for name, slope in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found[name], slope)


def test_each_inner_step_of_maml_plus_plus_scales_and_shifts_in_its_own_way() -> None:
    spec = TaskSpec("classification", (1, 6, 6), 3)
    net = Conv4(4, blocks=1)
    learner = MAMLPlusPlus(net, inner_steps=2, step_size=0.4, transductive=True)
    x = torch.randn(6, 1, 6, 6, generator=Generator().manual_seed(1), dtype=DOUBLE)
    support = Batch(x, torch.arange(6) % 3, torch.ones(6, dtype=DOUBLE))
    params = start(learner, spec)
    assert params["each-step/block0.scale"].shape == (2, 4)
    assert "block0.scale" not in params
    for name in ("scale", "shift"):
        own = params[f"each-step/block0.{name}"]
        params[f"each-step/block0.{name}"] = own + torch.arange(8, dtype=DOUBLE).view(2, 4) / 5
    names = ["block0.weight", "head.weight", "head.bias"]
    moving = [params[name].clone().requires_grad_() for name in names]
    everything: Params = {}
    for step in range(2):
        own = {f"block0.{name}": params[f"each-step/block0.{name}"][step] for name in ("scale", "shift")}
        everything = own | dict(zip(names, moving, strict=True))
        loss = F.cross_entropy(net.apply(everything, support.inputs)[0], support.y)
        slopes = torch.autograd.grad(loss, moving)
        moving = [(w - 0.4 * s).detach().requires_grad_() for w, s in zip(moving, slopes, strict=True)]
        everything = own | dict(zip(names, moving, strict=True))
    expected = net.apply(everything, support.inputs)[0]
    adapted = learner.adapt(params, support, context(spec))
    torch.testing.assert_close(learner.predict(adapted, support.inputs), expected)


def test_a_ridge_head_keeps_its_digits_on_long_features() -> None:
    """More examples than features, long ones, and a small penalty: against the same in double precision."""
    learner = RidgeHead(MLP((64, 64)), penalty=1e-4)
    spec = TaskSpec("classification", (8,), 5)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(5).repeat(20)
    x = 10 * torch.randn(200, 8, generator=generator)
    batch, query = (Batch(part, y, torch.ones(100)) for part in x.split(100))
    params = learner.init(spec, generator)
    losses: list[float] = []
    for digits in (torch.float32, torch.float64):
        given = {name: w.to(digits) for name, w in params.items()}
        episode = Episode(*(Batch(b.x.to(digits), b.y, b.mask.to(digits)) for b in (batch, query)))
        losses.append(learner.objective(given, episode, Context(spec, torch.zeros(()))).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
