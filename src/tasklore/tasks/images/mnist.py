"""MNIST: as ten classes to learn, and as few-shot tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ...downloads import Place
from ...errors import DamagedArtifact, InvalidSetting
from ...registry import sources
from ...types import Batch
from ..few_shot import Examples, FewShotSource
from ..source import Collection, Splits
from .digits import digit_roles
from .files import find, obtain, read_idx

__all__ = ["Mnist", "MnistParts", "load_mnist"]

UNDER = "images/mnist"
ADDRESSES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
PLACES = tuple(
    Place(name, tuple(f"{address}/{name}" for address in ADDRESSES), f"sha256:{digest}", 12_000_000)
    for name, digest in SHA256.items()
)
MEAN, STD = 0.1307 * 255, 0.3081 * 255  # of the pixels of the 60,000 training images


class MnistParts(NamedTuple):
    """MNIST for ordinary supervised learning: x (n, 1, 28, 28), normalised; y digits."""

    train: Batch
    validation: Batch
    test: Batch


@sources.register("mnist")
@dataclass(frozen=True)
class Mnist(Collection):
    """70,000 images of handwritten digits, 28×28, as few-shot tasks.

    Past tasks are made of the digits 0–4 and of their turns by 90° and 270° as classes of their own,
    validation tasks of 1–4 turned by 180°, four classes at most, both from the training images; test tasks of
    the unseen digits 5–9, from the test images. For ordinary supervised learning see :func:`load_mnist`.

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    folder : str, optional
        Where the four published files lie, as they are or unpacked; by default ``images/mnist`` under
        ``TASKLORE_DATA``, then the user's cache.
    download : bool
        Whether the published files may be fetched if they are nowhere.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proceedings of
    the IEEE 1998.
    """

    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15
    folder: str | None = None
    download: bool = True

    def splits(self) -> Splits:
        past, future = (
            FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries)
            for examples in _read(self.folder, download=self.download)
        )
        return digit_roles(past, future)


def load_mnist(
    folder: str | None = None, *, n_validation: int = 5000, seed: int = 0, download: bool = True
) -> MnistParts:
    """Read MNIST with its official test part, and a validation part taken from the training images.

    Parameters
    ----------
    folder : str, optional
    n_validation : int
        Training images to validate on instead, drawn with ``seed``.
    seed : int
    download : bool
        As for :class:`Mnist`.

    Returns
    -------
    MnistParts
        Normalised with the mean and standard deviation of the pixels of the official training images.

    Raises
    ------
    DownloadError
        The files are nowhere and may not or cannot be fetched.
    DamagedArtifact
        A file is not what it should be.
    InvalidSetting
        Nothing would be left to train or to validate on.
    """
    past, future = _read(folder, download=download)
    n = len(past.y)
    if not 1 <= n_validation < n:
        raise InvalidSetting(f"n_validation is {n_validation}; 1 to {n - 1} training images can be held out")
    order = np.random.default_rng(seed).permutation(n)
    return MnistParts(
        _batch(past, np.sort(order[n_validation:])),
        _batch(past, np.sort(order[:n_validation])),
        _batch(future, np.arange(len(future.y))),
    )


def _batch(examples: Examples, indices: np.ndarray) -> Batch:
    x = examples.read(indices, np.zeros(len(indices), dtype=np.int64))
    return Batch(x, examples.y[torch.from_numpy(indices)], torch.ones(len(indices)))


def _read(folder: str | None, *, download: bool) -> tuple[Examples, Examples]:
    """Return the official training and test images."""
    unpacked = find([place.name.removesuffix(".gz") for place in PLACES], folder, UNDER)
    files = unpacked or obtain(PLACES, folder, UNDER, download=download)
    arrays = [read_idx(file) for file in files]
    return _examples(arrays[:2]), _examples(arrays[2:])


def _examples(arrays: Sequence[np.ndarray]) -> Examples:
    images, digits = arrays
    if images.shape[1:] != (28, 28) or digits.shape != images.shape[:1] or digits.max(initial=0) > 9:
        raise DamagedArtifact(
            f"MNIST needs images of 28×28 and as many digits, got shapes {images.shape} and {digits.shape}; "
            "get the files anew"
        )
    x, y = torch.from_numpy(images[:, None].copy()), torch.from_numpy(digits.astype(np.int64))
    return Examples("mnist", x, y, tuple("0123456789"), (MEAN,), (STD,))
