"""Modules as backbones: fresh or with weights, frozen or as a start, and with layers that are awkward."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from tasklore.config import from_settings, to_settings
from tasklore.errors import DownloadError, InvalidData, InvalidSetting, MissingDependency
from tasklore.functional import called
from tasklore.learners.base import Learner
from tasklore.learners.closed_form import RidgeHead
from tasklore.learners.gradient import BOIL, MAML
from tasklore.learners.metric import Prototypes
from tasklore.metagrad import rule_for
from tasklore.modules import HuggingFace, ModuleNet, PretrainedModule, Timm
from tasklore.registry import nets
from tasklore.state import Prior
from tasklore.testing.learner import toy_source
from tasklore.types import Batch, Context, Episode, Inputs, TaskSpec

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'tasklore[pretrained]'",
)


def module() -> nn.Module:
    """Make a small network with all that is awkward: running statistics unlike a batch, and dropout."""
    torch.manual_seed(0)
    built = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9))
    built(torch.randn(50, 1, 3, 4) + 3)
    return built


def images(n: int) -> Tensor:
    return torch.randn(n, 1, 3, 4, generator=Generator().manual_seed(1))


def test_a_frozen_module_gives_its_own_features_and_has_no_params() -> None:
    net, x = PretrainedModule(build=module), images(5)
    assert net.init((1, 3, 4), None, Generator()) == {}
    found, statistics = net.apply({}, Inputs(x, torch.ones(5)))
    torch.testing.assert_close(found, module().eval()(x).flatten(1))
    assert statistics == {}
    one, _ = net.apply({}, Inputs(x[:1], torch.ones(1)))
    torch.testing.assert_close(one, found[:1])  # no example has a part in what another one gives
    assert not found.requires_grad


@pytest.mark.parametrize("build", [lambda: Recurrent(nn.GRU(4, 5, batch_first=True)), lambda: Tied()])
def test_what_is_frozen_can_be_vectorised_in_any_precision(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = build()
    learner = RidgeHead(PretrainedModule(build=lambda: module))
    spec = TaskSpec("classification", (6, 4), 3)
    params = learner.init(spec, Generator().manual_seed(0))
    found = [
        rule_for(learner, at_once)(
            learner,
            {name: w.to(dtype) for name, w in params.items()},
            sequences(3, dtype),
            Context(spec, torch.arange(3), training=True),
        ).losses.double()
        for at_once in (1, 3)
        for dtype in (torch.float32, torch.float64)
    ]
    for losses in found[1:]:
        torch.testing.assert_close(losses, found[0], rtol=1e-3, atol=1e-4)


def test_a_module_that_is_not_frozen_is_a_start() -> None:
    net, x = PretrainedModule(frozen=False, build=module), images(5)
    params = net.init((1, 3, 4), 3, Generator().manual_seed(0))
    assert set(net.output_layer(params)) == {"head.weight", "head.bias"}
    torch.testing.assert_close(params["body.0.weight"], dict(module().named_parameters())["0.weight"])
    leaves = {name: weight.clone().requires_grad_() for name, weight in params.items()}
    net.apply(leaves, Inputs(x, torch.ones(5)))[0].square().sum().backward()
    assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves.values())
    body = {name.removeprefix("body."): w for name, w in params.items() if name.startswith("body.")}
    features, _ = net.apply(
        {n: w for n, w in params.items() if n.startswith("body.")}, Inputs(x, torch.ones(5))
    )
    torch.testing.assert_close(features, torch.func.functional_call(module().eval(), body, (x,)).flatten(1))


@pytest.mark.parametrize("tasks_at_once", [1, 4])
@pytest.mark.parametrize(
    "learner",
    [
        Prototypes(PretrainedModule(frozen=False, build=module)),
        RidgeHead(PretrainedModule(build=module)),
        MAML(PretrainedModule(frozen=False, build=module), inner_steps=2),
        MAML(PretrainedModule(build=module), inner_steps=2),  # adapts its output layer
        BOIL(PretrainedModule(build=module), inner_steps=2),  # adapts nothing
    ],
    ids=["prototypes", "ridge-head, frozen", "maml", "maml, frozen", "boil, frozen"],
)
def test_learners_take_them(learner: Learner, tasks_at_once: int) -> None:
    source = toy_source(learner) if not isinstance(learner, MAML) else toy_source(Prototypes())
    params = learner.init(source.spec, Generator().manual_seed(0))
    episodes, keys = source.episodes(0, "train", 0, 4)
    context = Context(source.spec, keys, training=True)
    found = rule_for(learner, tasks_at_once)(learner, params, episodes, context)
    assert set(found.total) == set(params)
    assert all(torch.isfinite(total).all() for total in found.total.values())
    plain = rule_for(learner, 1)(learner, params, episodes, context)
    for name, total in plain.total.items():
        torch.testing.assert_close(found.total[name], total, rtol=1e-3, atol=1e-4)


def test_a_module_must_be_given() -> None:
    with pytest.raises(InvalidSetting, match="give build="):
        PretrainedModule().init((1, 3, 4), None, Generator())


def saved(folder: Path, kind: str) -> str:
    """Write a tiny model of Hugging Face with random weights, as ``save_pretrained`` does."""
    from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

    torch.manual_seed(0)
    if kind == "vit":
        model = ViTModel(
            ViTConfig(
                hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8,
                patch_size=4,
            )
        )  # fmt: skip
    else:
        model = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1]))
    model.save_pretrained(folder)
    return str(folder)


@needs_transformers
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_model_of_hugging_face_from_its_files(kind: str, tmp_path: Path) -> None:
    net = HuggingFace(model=saved(tmp_path / kind, kind), size=8)
    learner = RidgeHead(net)
    source = toy_source(Prototypes())
    params = learner.init(source.spec, Generator().manual_seed(0))
    assert not any(name.startswith("body.") for name in params)
    episodes, keys = source.episodes(0, "train", 0, 2)
    found = rule_for(learner, 1)(learner, params, episodes, Context(source.spec, keys, training=True))
    assert torch.isfinite(found.losses).all()
    features, _ = net.apply({}, Inputs(episodes.support.x[0], episodes.support.mask[0]))
    assert features.shape == (len(episodes.support.mask[0]), 8)
    # A prior names the model, and finds it again.
    again = from_settings(nets, to_settings(net, nets), "[net]")
    assert again == net
    Prior(learner, params, source.spec).save(tmp_path / "prior.safetensors")
    loaded = Prior.load(tmp_path / "prior.safetensors")
    assert loaded.learner == learner
    assert set(loaded.params) == set(params)


@needs_transformers
def test_what_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DownloadError, match=r"empty' cannot be loaded: .*safetensors"):
        HuggingFace(model=str(tmp_path / "empty")).init((1, 8, 8), None, Generator())
    with pytest.raises(InvalidData, match="needs images of shape"):
        HuggingFace(model=saved(tmp_path / "resnet", "resnet")).init((5,), None, Generator())


@pytest.mark.parametrize("kind", [HuggingFace, Timm])
def test_a_name_is_needed(kind: type[HuggingFace] | type[Timm]) -> None:
    with pytest.raises(InvalidSetting, match="which model"):
        kind()
    with pytest.raises(InvalidSetting, match="size must be positive"):
        kind(model="x", size=0)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed here")
def test_without_timm_its_installation_is_told() -> None:
    with pytest.raises(MissingDependency, match="pip install timm torchvision"):
        Timm(model="resnet18").init((3, 8, 8), None, Generator())


def test_a_module_with_running_statistics_is_refused_and_the_cure_named() -> None:
    net = ModuleNet(lambda shape: nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(InvalidSetting, match="track_running_stats=False"):
        net.init((1, 8, 8), 3, torch.Generator())


def test_a_module_becomes_a_net() -> None:
    net = ModuleNet(lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 4), nn.Tanh()))
    before = torch.random.get_rng_state()
    params = net.init((3,), 2, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.random.get_rng_state())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    out, _ = net.apply(params, Inputs(x, torch.ones(5)))
    hidden = torch.tanh(F.linear(x, params["body.1.weight"], params["body.1.bias"]))
    assert torch.allclose(out, F.linear(hidden, params["head.weight"], params["head.bias"]))


class Recurrent(nn.Module):
    """The last output of a recurrent network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0][:, -1]


class Unrolled(nn.Module):
    """A cell, step by step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for time in range(x.shape[1]):
            state = self.cell(x[:, time], state)
        return state if isinstance(state, Tensor) else state[0]


class Tied(nn.Module):
    """One matrix in two places, a frozen layer, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.fixed = nn.Linear(4, 4).requires_grad_(False)
        nn.init.eye_(self.fixed.weight)
        nn.init.zeros_(self.fixed.bias)
        self.places: Tensor
        self.register_buffer("places", torch.linspace(0, 1, 6)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.fixed(self.second(self.first(x + self.places).tanh())).mean(1)


class Attending(nn.Module):
    """Attention to what came before, and its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
        x, weights = self.inner(x, x, x, attn_mask=mask)
        x, none = self.inner(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)
        if none is not None:
            raise ValueError("weights that were not asked for")
        return weights @ F.scaled_dot_product_attention(x, x, x, mask, scale=0.3)


class Products(nn.Module):
    """Products of two views of the same examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pairs = nn.Linear(4, 3), nn.Bilinear(4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pairs(x, self.first(x))


class Mixed(nn.Module):
    """Computes in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return self.layer(x.flatten(1)).relu()


class Half(nn.Module):
    """Every second row."""

    def forward(self, x: Tensor) -> Tensor:
        return x[::2]


class Looked(nn.Module):
    """Takes the whole parts of numbers for ids."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(1).abs().clamp(max=3).long()).tanh()


AWKWARD: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Recurrent(nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)),
    "gru": lambda: Recurrent(nn.GRU(4, 5, batch_first=True)),
    "rnn": lambda: Recurrent(nn.RNN(4, 5, nonlinearity="relu", bias=False, batch_first=True)),
    "lstm cell": lambda: Unrolled(nn.LSTMCell(4, 5)),
    "gru cell": lambda: Unrolled(nn.GRUCell(4, 5)),
    "rnn cell": lambda: Unrolled(nn.RNNCell(4, 5)),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
    "attention, masked": Attending,
    "batch norm": lambda: nn.Sequential(nn.Conv1d(6, 5, 3), nn.BatchNorm1d(5, track_running_stats=False)),
    "instance norm": lambda: nn.Sequential(nn.Conv1d(6, 4, 2), nn.InstanceNorm1d(4, affine=True)),
    "layer norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.SiLU()),
    "hard sigmoid": lambda: nn.Sequential(nn.Linear(4, 4), nn.Hardsigmoid(), nn.Tanh()),
    "products": Products,
    "slopes": lambda: nn.Sequential(nn.Conv1d(6, 4, 3), nn.PReLU(4), nn.Flatten(), nn.PReLU()),
    "bags": lambda: Looked(nn.EmbeddingBag(4, 5, padding_idx=0)),
    "bags, summed": lambda: Looked(nn.EmbeddingBag(4, 5, mode="sum")),
    "bags, largest": lambda: Looked(nn.EmbeddingBag(4, 5, mode="max", padding_idx=0)),
    "group norm": lambda: nn.Sequential(nn.Conv1d(6, 4, 3), nn.GroupNorm(2, 4), nn.GELU()),
    "tied, frozen": Tied,
    "mixed precision": Mixed,
}


def sequences(n_tasks: int, dtype: torch.dtype) -> Episode:
    generator = Generator().manual_seed(1)
    x = torch.randn(n_tasks, 12, 6, 4, generator=generator).to(dtype)
    y, mask = torch.arange(3).repeat(4).expand(n_tasks, 12), torch.ones(n_tasks, 12, dtype=dtype)
    sides = (slice(0, 6), slice(6, 12))
    return Episode(*(Batch(x[:, side], y[:, side], mask[:, side]) for side in sides))


@pytest.mark.parametrize("kind", AWKWARD)
def test_second_order_without_surprises(kind: str) -> None:
    """Together, in threads and one by one the same; and as differences of the objective say."""
    build = AWKWARD[kind]
    learner = MAML(ModuleNet(lambda _: build()), inner_steps=2, step_size=0.1)
    spec = TaskSpec("classification", (6, 4), 3)
    dtype = torch.float32 if kind == "mixed precision" else torch.float64
    coarse = 1e-6 if dtype == torch.float64 else 1e-2
    before = torch.random.get_rng_state()
    params = {name: w.to(dtype) for name, w in learner.init(spec, Generator().manual_seed(0)).items()}
    if kind == "tied, frozen":
        assert sorted(params) == [
            *("body.first.bias", "body.first.weight", "body.second.bias"),
            *("head.bias", "head.weight"),
        ]
    episodes, context = sequences(3, dtype), Context(spec, torch.arange(3), training=True)
    plain = rule_for(learner, 1)(learner, params, episodes, context)
    for rule in (rule_for(learner, 3), rule_for(learner, 1, threads=3)):
        found = rule(learner, params, episodes, context)
        for name, total in plain.total.items():
            torch.testing.assert_close(found.total[name], total, rtol=coarse, atol=coarse)
    assert torch.equal(before, torch.random.get_rng_state())
    if dtype == torch.float32:
        return  # too coarse for differences
    way = {
        name: torch.randn(w.shape, generator=Generator().manual_seed(i), dtype=dtype)
        for i, (name, w) in enumerate(params.items())
    }

    def objective(distance: float) -> float:
        moved = {name: w + distance * way[name] for name, w in params.items()}
        return float(rule_for(learner, 1)(learner, moved, episodes, context).losses.sum())

    slope = sum(float((total * way[name]).sum()) for name, total in plain.total.items())
    assert slope == pytest.approx((objective(1e-6) - objective(-1e-6)) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("tasks_at_once", [1, 3])
def test_the_vector_of_padding_does_not_move(tasks_at_once: int) -> None:
    learner = MAML(ModuleNet(lambda _: Looked(nn.Embedding(4, 5, padding_idx=0))), inner_steps=2)
    spec = TaskSpec("classification", (6, 4), 3)
    params = learner.init(spec, Generator().manual_seed(0))
    context = Context(spec, torch.arange(3), training=True)
    found = rule_for(learner, tasks_at_once)(learner, params, sequences(3, torch.float32), context)
    moved = found.total["body.inner.weight"].abs().sum(1)
    assert moved[0] == 0
    assert (moved[1:] > 0).all()


def test_bags_are_what_torch_makes_of_them() -> None:
    ids, weight = torch.tensor([[0, 2, 1], [0, 0, 0]]), torch.randn(4, 5)
    summed = {"mode": "sum", "per_sample_weights": torch.randn(2, 3)}
    ways: list[dict[str, Any]] = [{"mode": "max"}, {"mode": "mean"}, summed]
    for way in ways:
        module = Randomly(lambda x, way=way: F.embedding_bag(x.long(), weight, padding_idx=-4, **way))
        found, _ = called(module, {}, Inputs(ids, torch.ones(2)))
        torch.testing.assert_close(found, module(ids))


@pytest.mark.parametrize("kind", [kind for kind in AWKWARD if kind != "mixed precision"])
def test_formulas_give_what_fused_kernels_give(kind: str) -> None:
    torch.manual_seed(0)
    module, x = AWKWARD[kind](), torch.randn(5, 6, 4)
    found, _ = called(module, {}, Inputs(x, torch.ones(5)))
    torch.testing.assert_close(found, module(x), rtol=1e-5, atol=1e-6)


def test_queries_take_the_batch_statistics_of_the_support() -> None:
    learner = MAML(ModuleNet(lambda _: AWKWARD["batch norm"]()), inner_steps=2, step_size=0.1)
    spec = TaskSpec("classification", (6, 4), 3)
    params = learner.init(spec, Generator().manual_seed(0))
    episode = Episode(*(Batch(*(part[0] for part in side)) for side in sequences(1, torch.float32)))
    context = Context(spec, torch.tensor(0))
    adapted = learner.adapt(params, episode.support, context)
    together = learner.predict(adapted, episode.query.inputs)
    alone = torch.cat([learner.predict(adapted, Inputs(x[None], torch.ones(1))) for x in episode.query.x])
    torch.testing.assert_close(together, alone)
    padding = Batch(torch.full((2, 6, 4), 9.0), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    padded = Batch(*(torch.cat(parts) for parts in zip(episode.support, padding, strict=True)))
    again = learner.predict(learner.adapt(params, padded, context), episode.query.inputs)
    torch.testing.assert_close(again, together)


def test_rows_that_belong_to_no_example_cannot_be_normalised() -> None:
    net = ModuleNet(lambda _: nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(4, track_running_stats=False)))
    x = torch.randn(5, 6, 4)
    found, used = called(net.build((6, 4)), {}, Inputs(x, torch.ones(5)))
    torch.testing.assert_close(found, net.build((6, 4))(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(used["norm0.mean"], x.mean((0, 1)))
    first = nn.Sequential(nn.Flatten(0, 1), Half(), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(InvalidSetting, match="over 14 rows where 9 examples"):
        called(first, {}, Inputs(torch.randn(9, 3, 4), torch.ones(9)))


class Randomly(nn.Module):
    """A module that calls a function."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


class Computed(nn.Module):
    """Holds on to what it computed of a weight, as torch's old ``weight_norm`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.twice = 2 * self.weight

    def forward(self, x: Tensor) -> Tensor:
        return x * self.twice


class Gated(nn.Module):
    """Refers to itself in a function that does not go with it when it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.gate = lambda x: x * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x)


class Hooked(nn.Linear):
    """The same in a hook."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_forward_hook(lambda module, given, found: self.scale * cast("Tensor", found))


class Method(Hooked):
    """A method as a hook, which does go with it."""

    def __init__(self) -> None:
        nn.Linear.__init__(self, 4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_forward_hook(self.times)

    def times(self, module: nn.Module, given: Any, found: Tensor) -> Tensor:
        return found * self.scale


class TimeMajor(nn.Module):
    """Normalises rows that are not an example's together."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(0, 1)  # (time, n, 4)
        return self.norm(rows.flatten(0, 1)).view(rows.shape).transpose(0, 1)


@pytest.mark.parametrize(
    ("module", "cure"),
    [
        (Gated(), "weights that it does not look up where it is called.*use methods"),
        (Hooked(), "weights that it does not look up"),
        (Randomly(lambda x: x - x.mean(0)), "mixes examples"),
        (
            Randomly(lambda x: torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False)),
            "mixes examples",
        ),
        (TimeMajor(), "mixes examples: .*an example's rows together"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)), "drops 10 % at random"),
        (nn.TransformerEncoderLayer(4, 2, 8), "make it with dropout 0"),
        (nn.GRU(4, 5, 2, dropout=0.2), "drops 20 %"),
        (nn.LSTM(4, 5, proj_size=2), r"put an nn\.Linear behind it"),
        (nn.Sequential(nn.BatchNorm1d(6)), "track_running_stats=False"),
        (Randomly(lambda x: F.dropout(x, 0.5)), "calls dropout, which draws at random"),
        (nn.Sequential(nn.RReLU()), "calls rrelu, which draws"),
        (Randomly(lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.1)), "give it dropout_p=0"),
        (Randomly(lambda x: x + torch.rand_like(x)), "draws at random when it is called"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 400)), "changes its .*eval\\(\\)"),
        (nn.LSTM(4, 5), "made no tensor of 3 examples"),
        (nn.Flatten(0, 1), r"made a tensor of shape \(18, 4\) of 3 examples"),
        (nn.LazyLinear(4), "weight has no size before the module is called"),
        (Computed(), "cannot be copied for a thread of its own: .*nn.utils.parametrizations"),
        (Looked(nn.Embedding(4, 5, max_norm=1.0)), "max_norm, which writes into weights"),
        (Looked(nn.Sequential(nn.Flatten(0), nn.EmbeddingBag(4, 5))), r"give ids of shape \(n, length\)"),
    ],
    ids=[
        *("closure", "hook", "mean over examples", "function of a batch", "time first"),
        *("dropout", "attention", "gru", "projection", "running statistics", "function", "slopes"),
        *("dropped attention", "noise", "power iteration", "state", "rows", "no size", "computed weight"),
        *("largest norm", "bags of any length"),
    ],
)
def test_what_cannot_work_is_refused_with_the_cure(module: nn.Module, cure: str) -> None:
    with pytest.raises(InvalidSetting, match=cure):
        ModuleNet(lambda _: module).init((6, 4), 3, Generator())


def test_a_method_as_a_hook_goes_with_the_module() -> None:
    net = ModuleNet(lambda _: Method())
    params = net.init((4,), None, Generator().manual_seed(0))
    found, _ = net.apply(params | {"body.scale": torch.zeros(4)}, Inputs(torch.ones(1, 4), torch.ones(1)))
    assert torch.equal(found, torch.zeros(1, 4))


def half_frozen() -> nn.Module:
    torch.manual_seed(0)
    built = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    built[0].requires_grad_(False)
    return built


def test_weights_that_their_owner_froze_are_no_params() -> None:
    names = [*PretrainedModule(frozen=False, build=half_frozen).init((4,), None, Generator())]
    assert names == ["body.2.weight", "body.2.bias"]
    assert names == [*ModuleNet(lambda _: half_frozen()).init((4,), None, Generator())]


def test_a_function_that_is_told_not_to_draw_is_fine() -> None:
    calm = Randomly(lambda x: F.dropout(F.rrelu(x), 0.5, training=False) + F.dropout(x, 0.0))
    assert ModuleNet(lambda _: calm).init((6, 4), None, Generator()) == {}


def test_packed_sequences_are_refused() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 4), torch.ones(2, 4)])
    with pytest.raises(InvalidSetting, match="pad them instead"):
        called(nn.GRU(4, 5), {}, Inputs(cast("Any", packed), torch.ones(2)))
