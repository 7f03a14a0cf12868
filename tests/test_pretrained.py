"""Backbones that come with weights: frozen or as a start, from a module or from files of Hugging Face."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from tasklore.config import from_settings, to_settings
from tasklore.errors import DownloadError, InvalidData, InvalidSetting, MissingDependency
from tasklore.learners.base import Learner
from tasklore.learners.closed_form import RidgeHead
from tasklore.learners.gradient import MAML
from tasklore.learners.metric import Prototypes
from tasklore.metagrad import rule_for
from tasklore.pretrained import HuggingFace, PretrainedModule, Timm
from tasklore.registry import nets
from tasklore.testing.learner import toy_source
from tasklore.train import Prior
from tasklore.types import Context, Inputs

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
    ],
    ids=["prototypes", "ridge-head, frozen", "maml", "maml, frozen"],
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
