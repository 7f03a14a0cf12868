"""Convolution, normalisation and pooling for few-shot networks: quick, and right to the second order.

Images are (n, channels, height, width). Padding images take no part in statistics: ``share`` is what each
image weighs in a mean.
"""

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .stacks import transformed

__all__ = ["all_digits", "as_autocast", "convolved", "moments", "pooled", "scaled"]

SMALL_PATCH = 32  # values under a window up to which their covariance is cheap
CACHED = 2**20  # bytes of images that are gone through more than once, so that they stay in the caches

Size: TypeAlias = Sequence[int]
"""Height and width."""


def convolved(
    x: Tensor,
    weight: Tensor,
    share: Tensor,
    known: tuple[Tensor, Tensor] | None,
    stride: int = 1,
    *,
    pool: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Convolve, without a bias, as normalisation removes it; and take the largest of each 2×2, if wanted.

    Windows of few values, as a first layer has, become a product of two matrices; a pixel's channels then lie
    side by side in memory, and do so in the layers above: pooling is ten times as fast so. Its moments need
    no product, so that this, the largest tensor of a network, is made and pooled a few images at a time.

    Parameters
    ----------
    x : Tensor, shape (n, channels, height, width)
    weight : Tensor, shape (c, channels, side, side)
    share : Tensor, shape (n,)
        What each image weighs in a mean.
    known : tuple of Tensor, optional
        Mean and variance to normalise with, instead of the batch's own.
    stride : int
    pool : bool

    Returns
    -------
    Tensor, shape (n, c, …, …)
    mean, variance : Tensor, shape (c,)
        Of what was convolved, before it is pooled.
    """
    side = weight.shape[-1]
    if weight[0].numel() > SMALL_PATCH:
        x = F.conv2d(as_autocast(x), as_autocast(weight), stride=stride, padding=side // 2)
        known = known or moments(x, share)
        if not pool:
            return x, known
        # What is pooled is kept for its moments in any case, so that torch's own pooling keeps little more.
        return pooled(x) if transformed() else F.max_pool2d(x, 2), known
    size = [(n - 1) // stride + 1 for n in x.shape[-2:]]
    patches = F.unfold(x, side, padding=side // 2, stride=stride).transpose(1, 2)  # (n, positions, d)
    rows = weight.flatten(1).T.contiguous()  # (d, c); a transposed view is slow to differentiate
    known = known or _moments_of_patches(patches, share, weight)
    if pool and not torch.compiler.is_compiling():
        largest: Any = _PooledProduct.apply
        return largest(as_autocast(patches), as_autocast(rows), size)[0], known
    x = _as_images(patches @ rows, size)
    return pooled(x) if pool else x, known


def as_autocast(x: Tensor) -> Tensor:
    """Return what a convolution is given in the precision of autocast, where that is on.

    Autocast does so itself, but not within ``vmap``, which takes convolutions apart before it sees them, and
    attention as well.
    """
    device = x.device.type
    if device == "meta" or x.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def scaled(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Return each channel times a factor plus an offset, in the precision of ``x``."""
    factor, offset = (t.to(x.dtype).view(-1, 1, 1) for t in (factor, offset))
    return torch.addcmul(offset, x, factor)


def moments(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel of (n, c, h, w), images weighted by ``share``."""
    if torch.compiler.is_compiling():  # it makes few passes of operations, but knows no functions in vmap
        mean = torch.mv(x.mean((2, 3), dtype=share.dtype).T, share)
        return mean, torch.mv(((x - mean.view(-1, 1, 1)) ** 2).mean((2, 3)).T, share)
    found: Any = _Moments.apply
    return found(x, share)


class _Formula(torch.autograd.Function):
    """A function whose derivative is written by hand, and which can be vectorised."""

    generate_vmap_rule = True

    @classmethod
    def apply(cls, *given: Any) -> Any:
        if transformed() or torch.compiler.is_compiling():
            return super().apply(*given)
        # That goes through the signature of ``forward`` at each call, which only transforms need.
        plain: Any = super(torch.autograd.Function, cls)
        return plain.apply(*given)


class _Moments(_Formula):
    """Mean and variance, with a derivative in one pass over the images.

    Written as operations, the variance costs six passes to differentiate, as much as a convolution. Its slope
    is ``2 a_n (x - mean)``, ``a_n`` being what a pixel of image ``n`` weighs: how the mean itself moves does
    not show in it, as deviations from a mean sum to zero; in the slope's own derivative it does.
    """

    @staticmethod
    def forward(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.mv(x.mean((2, 3), dtype=share.dtype).T, share)  # (c,)
        middle, squares = mean.view(-1, 1, 1), list[Tensor]()
        for part in x.split(_at_once(x[0])):
            centred = part - middle
            squares.append((centred * centred).mean((2, 3), dtype=share.dtype))  # (n, c)
        return mean, torch.mv(torch.cat(squares).T, share)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        x, share, mean = ctx.saved_tensors
        of_mean, of_variance = slopes  # (c,)
        weight = (share / x[0, 0].numel()).unsqueeze(1)  # (n, 1)
        factor, offset = weight * (2 * of_variance), weight * (of_mean - 2 * of_variance * mean)  # (n, c)
        factor, offset = (t.to(x.dtype)[..., None, None] for t in (factor, offset))
        return torch.addcmul(offset, x, factor), None


def pooled(x: Tensor) -> Tensor:
    """Return the largest of each 2×2 window of (n, c, h, w)."""
    if torch.compiler.is_compiling():
        return F.max_pool2d(x, 2)
    largest: Any = _Pooled.apply
    return largest(x)[0]


class _Pooled(_Formula):
    """torch's own pooling, which keeps less and can be differentiated twice wherever it is used.

    Of its input, which is the largest tensor of a network, torch's keeps all and needs only size and layout;
    places have eight bytes there. Its second derivative fails in ``vmap`` where channels lie side by side.
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        largest, places = F.max_pool2d_with_indices(x, (2, 2))
        fit = x.shape[-2] * x.shape[-1] <= torch.iinfo(torch.int16).max
        return largest, places.to(torch.int16 if fit else torch.int32)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.size, ctx.channels_last = inputs[0].shape[2:], inputs[0].stride(1) == 1

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        spread: Any = _Spread.apply
        return spread(slopes[0], *ctx.saved_tensors, ctx.size, ctx.channels_last)


class _Spread(_Formula):
    """Slopes, each at the place whose value was the largest."""

    @staticmethod
    def forward(slope: Tensor, places: Tensor, size: Size, channels_last: bool) -> Tensor:
        return _spread(slope, places, size, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        return slopes[0].flatten(2).gather(2, places.flatten(2).long()).view(places.shape), None, None, None


def _spread(slope: Tensor, places: Tensor, size: Size, channels_last: bool) -> Tensor:
    n, c = slope.shape[:2]
    x = slope.new_empty(n, *size, c).permute(0, 3, 1, 2) if channels_last else slope.new_empty(n, c, *size)
    given = slope, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places.long()
    back: Any = torch.ops.aten.max_pool2d_with_indices_backward
    if transformed():
        return back(*given)
    return back.grad_input(*given, grad_input=x)  # as only size and layout of x are asked for


class _PooledProduct(_Formula):
    """``pooled(patches @ rows)``, and the places of the largest: a few images at a time, there and back."""

    @staticmethod
    def forward(patches: Tensor, rows: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        at_once = _at_once(rows[0], size)
        each = [_Pooled.forward(_as_images(part @ rows, size)) for part in patches.split(at_once)]
        largest, places = zip(*each, strict=True)
        return torch.cat(largest), torch.cat(places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:2], output[1])
        ctx.size = inputs[2]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, None]:
        patches, rows, places = ctx.saved_tensors
        return *_back(ctx, patches, rows, places, slopes[0]), None


class _AtPlaces(_Formula):
    """A function of patches, of something else, of places and of a size."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 - torch's
        ctx.save_for_backward(*inputs[:3])
        ctx.size = inputs[3]


class _Picked(_AtPlaces):
    """``patches @ rows`` at the places of another product's largest."""

    @staticmethod
    def forward(patches: Tensor, rows: Tensor, places: Tensor, size: Size) -> Tensor:
        each = [
            (part @ rows).gather(1, there.flatten(2).transpose(1, 2).long()).transpose(1, 2).view(there.shape)
            for part, there in _together(_at_once(rows[0], size), patches, places)
        ]
        return torch.cat(each)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        patches, rows, places = ctx.saved_tensors
        return *_back(ctx, patches, rows, places, slopes[0]), None, None


class _Put(_AtPlaces):
    """``patches.T @ spread(slope)``, summed over images."""

    @staticmethod
    def forward(patches: Tensor, slope: Tensor, places: Tensor, size: Size) -> Tensor:
        digits = torch.promote_types(patches.dtype, torch.float32)
        total = patches.new_zeros(patches.shape[-1], slope.shape[1], dtype=digits)
        for part, each, there in _together(_at_once(slope[0, :, 0, 0], size), patches, slope, places):
            spread = _spread(each, there, size, True).permute(0, 2, 3, 1)
            total = total + part.flatten(0, 1).T @ spread.flatten(0, 2)
        return total.to(patches.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        patches, slope, places = ctx.saved_tensors
        picked: Any = _Picked.apply
        of_patches = _of_patches(slope, places, ctx.size, slopes[0]) if ctx.needs_input_grad[0] else None
        return of_patches, picked(patches, slopes[0], places, ctx.size), None, None


def _at_once(values: Tensor, size: Size = ()) -> int:
    """Return of how many images such values, at each place, stay in a processor's caches; elsewhere, all."""
    if values.device.type != "cpu":
        return sys.maxsize
    return max(1, CACHED // max(1, values.numel() * values.element_size() * math.prod(size)))


def _together(at_once: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Go through tensors of as many images, so many at once."""
    return zip(*(tensor.split(at_once) for tensor in tensors), strict=True)


def _back(
    ctx: Any, patches: Tensor, rows: Tensor, places: Tensor, slope: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Return the slopes with respect to patches, where they are needed, and to rows."""
    put: Any = _Put.apply
    of_patches = _of_patches(slope, places, ctx.size, rows) if ctx.needs_input_grad[0] else None
    return of_patches, put(patches, slope, places, ctx.size)


def _of_patches(slope: Tensor, places: Tensor, size: Size, rows: Tensor) -> Tensor:
    spread: Any = _Spread.apply
    return spread(slope, places, size, True).flatten(2).transpose(1, 2) @ rows.T


def _as_images(x: Tensor, size: Size) -> Tensor:
    """Return (n, positions, c) as (n, c, height, width)."""
    return x.unflatten(1, size).permute(0, 3, 1, 2)


def _moments_of_patches(patches: Tensor, share: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the moments that the products of patches with ``weight`` will have.

    A convolution is linear in its patches, so its mean is ``w·m`` and its variance ``wᵀ C w``, with ``m`` and
    ``C`` the mean and the covariance of the patches. On a first layer of few channels these are tiny, and the
    same for all weights.
    """
    with all_digits(weight.device.type):  # few numbers, on which all others depend
        patches = patches.to(share.dtype)
        mean = torch.mv(patches.mean(1).T, share)  # (d,)
        centred = patches - mean  # (n, positions, d)
        each = torch.bmm(centred.transpose(1, 2), centred) / patches.shape[1]  # (n, d, d)
        covariance = torch.tensordot(share, each, 1)  # (d, d)
        rows = weight.flatten(1)  # (c, d)
        return rows @ mean, ((rows @ covariance) * rows).sum(1)


def all_digits(device: str) -> contextlib.AbstractContextManager[object]:
    """Keep mixed precision out of what is computed inside."""
    mixed = device != "meta" and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if mixed else contextlib.nullcontext()
