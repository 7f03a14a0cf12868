"""Images that are a little different each time."""

import dataclasses

import numpy as np
import pytest
import torch

from tasklore.errors import InvalidSetting
from tasklore.tasks.distortion import Distortion
from tasklore.tasks.few_shot import Examples, FewShotSource
from tasklore.tasks.images.digits import Digits


def dot(n: int = 1, size: int = 16, row: int = 8, column: int = 11) -> torch.Tensor:
    x = torch.zeros(n, 1, size, size)
    x[..., row - 1 : row + 1, column - 1 : column + 1] = 1.0
    return x


def centre(x: torch.Tensor) -> np.ndarray:
    """Return where the ink is, shape (n, 2): rows and columns from the middle of the image."""
    weight = x[:, 0] / x[:, 0].sum((1, 2), keepdim=True)
    places = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    return torch.stack([(weight.sum(2) * places).sum(1), (weight.sum(1) * places).sum(1)], 1).numpy()


def test_nothing_asked_changes_nothing() -> None:
    x = torch.randn(3, 2, 9, 9)
    torch.testing.assert_close(Distortion().apply(x, np.random.default_rng(0)), x, atol=1e-5, rtol=0)


def test_each_kind_moves_ink_as_far_as_it_says() -> None:
    rng, x = np.random.default_rng(0), dot(400)
    there = centre(x)[0]
    assert there == pytest.approx([0.0, 3.0])
    moved = centre(Distortion(shift=0.125).apply(x, rng)) - there
    assert np.abs(moved).max() == pytest.approx(2.0, abs=0.1)  # an eighth of 16
    assert np.abs(moved.mean(0)).max() < 0.2
    turned = centre(Distortion(degrees=30.0).apply(x, rng))
    angles = np.degrees(np.arctan2(turned[:, 0], turned[:, 1]) - np.arctan2(there[0], there[1]))
    assert np.abs(angles).max() == pytest.approx(30.0, abs=2.0)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(there), atol=0.15)
    scaled = centre(Distortion(scale=0.25).apply(x, rng))
    assert scaled[:, 1].min() == pytest.approx(3.0 / 1.25, abs=0.1)
    assert scaled[:, 1].max() == pytest.approx(3.0 / 0.75, abs=0.1)
    mirrored = centre(Distortion(degrees=30.0, flip=True).apply(x, rng))  # turned as well, not sheared
    np.testing.assert_allclose(np.linalg.norm(mirrored, axis=1), np.linalg.norm(there), atol=0.15)
    bent = centre(Distortion(bend=0.05).apply(x, rng)) - there
    assert 0.2 < bent.std() < 1.2
    flipped = centre(Distortion(flip=True).apply(x, rng))[:, 1]
    assert set(np.round(flipped, 2)) == {-3.0, 3.0}
    assert 0.4 < (flipped < 0).mean() < 0.6


def test_beyond_the_edges() -> None:
    x = torch.ones(50, 1, 8, 8)
    far = Distortion(shift=0.5)
    assert far.apply(x, np.random.default_rng(0)).min() == 0.0
    mirrored = dataclasses.replace(far, outside="reflection").apply(x, np.random.default_rng(0))
    torch.testing.assert_close(mirrored, x, atol=1e-5, rtol=0)


def test_past_tasks_are_distorted_and_new_ones_are_not() -> None:
    plain = Digits().splits().train
    assert isinstance(plain, FewShotSource)
    varied = dataclasses.replace(plain, distortion=Distortion(shift=0.2))
    (one, _), (again, _), (other, _) = (
        source.episodes(0, "train", 3, 2) for source in (varied, varied, plain)
    )
    assert torch.equal(one.support.x, again.support.x)
    assert not torch.equal(one.support.x, other.support.x)
    assert torch.equal(one.support.y, other.support.y)
    pooled = (source.pool(np.random.default_rng(0), 5).x for source in (varied, plain))
    assert not torch.equal(*pooled)
    assert varied.fingerprint != plain.fingerprint


def test_what_cannot_be_distorted_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="scale must be below 1"):
        Distortion(scale=1.0)
    with pytest.raises(InvalidSetting, match="outside is 'wrap'"):
        Distortion(outside="wrap")
    rows = Examples.from_arrays("rows", np.zeros((60, 4), np.float32), np.repeat(np.arange(6), 10))
    flat = FewShotSource.of(rows, n_queries=3)
    with pytest.raises(InvalidSetting, match=r"only images can be distorted; .* have shape \(4,\)"):
        dataclasses.replace(flat, distortion=Distortion())
