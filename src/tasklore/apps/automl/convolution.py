# ruff: noqa: N803 - scikit-learn calls the rows X
"""A small convolutional network for images that come as the columns of a table.

torch is imported when one is fitted or asked, not before; what was learned is kept as arrays of numpy.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import (
    _check_sample_weight,  # pyright: ignore[reportPrivateUsage] - named in scikit-learn's guide for developers
    check_is_fitted,
)

from ...errors import InvalidData, InvalidSetting

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ConvolutionClassifier", "multiplications", "schedule"]

CHUNK = 500  # images that are predicted together
MOST_EPOCHS = 60
LEAST_STEPS = 70  # that count as an epoch, however few images there are
LEAST_BATCHES = 32  # of an epoch; batches become smaller for that …
LEAST_BATCH = 16  # … but not than this
WARM_UP = 0.1  # of the steps, in which the learning rate rises
DROPOUT = 0.2


class ConvolutionClassifier(ClassifierMixin, BaseEstimator):
    """Two convolutions, each halved by its maxima and normalised by the batch, and two full layers.

    Learned by Adam; the learning rate rises in the first tenth of the steps and then falls as a cosine. Equal
    data and ``random_state`` give equal networks on one thread.

    Parameters
    ----------
    side : int
        Height and width of an image in pixels, at least 4.
    channels : int
    interleaved : bool
        Whether the channels of a pixel stand together, or else each channel is a picture of its own.
    widths : sequence of two int
        Channels after each convolution.
    hidden : int
        Width of the layer before the last.
    epochs : int
        How often each image is seen; more often where images are few, see :func:`schedule`.
    shift : int
        Pixels by which images are moved at random, all of a batch alike.
    batch_size : int
        Images of a step; fewer where images are few.
    learning_rate : float
    n_threads : int
    random_state : int

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    n_features_in_ : int
    centre_, scale_ : float
        Mean and standard deviation of the pixels.
    weights_ : dict of str to ndarray
        Of the layers, by name.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's way to name settings
        self,
        side: int = 8,
        channels: int = 1,
        interleaved: bool = False,
        widths: Sequence[int] = (8, 16),
        hidden: int = 64,
        epochs: int = 3,
        shift: int = 0,
        batch_size: int = 128,
        learning_rate: float = 4e-3,
        n_threads: int = 1,
        random_state: int = 0,
    ) -> None:
        self.side = side
        self.channels = channels
        self.interleaved = interleaved
        self.widths = widths
        self.hidden = hidden
        self.epochs = epochs
        self.shift = shift
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_threads = n_threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn.

        Parameters
        ----------
        X : array-like, shape (n_images, channels · side²)
            Gaps count as 0.
        y : array-like, shape (n_images,)
        sample_weight : array-like, shape (n_images,), optional
        """
        import torch

        if self.side < 4 or self.channels < 1 or len(self.widths) != 2:
            raise InvalidSetting(
                f"side is {self.side}, channels {self.channels}, widths {self.widths}; at least 4, at least "
                "1 and two numbers are needed"
            )
        pixels = np.nan_to_num(np.asarray(X, dtype=np.float32))
        self.n_features_in_ = pixels.shape[1]
        self.classes_, indices = np.unique(np.asarray(y), return_inverse=True)
        self.centre_, self.scale_ = float(pixels.mean()), float(pixels.std()) or 1.0
        images = self._images(pixels)
        targets = torch.from_numpy(indices.astype(np.int64))
        weights = np.ones(len(indices))
        if sample_weight is not None:
            weights = np.asarray(_check_sample_weight(sample_weight, pixels), dtype=np.float64)
        counts = torch.from_numpy((weights / weights.mean()).astype(np.float32))
        with _alone(self.n_threads):
            torch.manual_seed(self.random_state)
            network = self._network()
            self._learn(network, images, targets, counts)
        self.weights_ = {name: value.numpy() for name, value in network.state_dict().items()}
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities, float64, shape (n_images, n_classes)."""
        import torch

        check_is_fitted(self)
        images = self._images(np.nan_to_num(np.asarray(X, dtype=np.float32)))
        with _alone(self.n_threads), torch.inference_mode():
            network = self._network()
            network.load_state_dict({name: torch.as_tensor(value) for name, value in self.weights_.items()})
            network.eval()
            found = [network(chunk).double().softmax(1) for chunk in images.split(CHUNK)]
        return torch.cat(found).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return labels, shape (n_images,)."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _images(self, pixels: np.ndarray) -> "Tensor":
        import torch

        if pixels.ndim != 2 or pixels.shape[1] != self.channels * self.side**2:
            raise InvalidData(
                f"X has shape {pixels.shape}; {self.channels} × {self.side} × {self.side} columns are needed"
            )
        pixels = (pixels - self.centre_) / self.scale_
        if self.interleaved:
            pixels = pixels.reshape(-1, self.side**2, self.channels).transpose(0, 2, 1)
        shape = (-1, self.channels, self.side, self.side)
        return torch.from_numpy(np.ascontiguousarray(pixels).reshape(shape))

    def _network(self) -> "nn.Sequential":
        from torch import nn

        first, second = self.widths

        def block(before: int, after: int) -> list[nn.Module]:
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            # The largest of four first: the same as after the ReLU, for less work.
            return [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU()]

        return nn.Sequential(
            *block(self.channels, first),
            *block(first, second),
            nn.Flatten(),
            nn.Dropout(DROPOUT),
            nn.Linear(second * (self.side // 2 // 2) ** 2, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, len(self.classes_)),
        )

    def _learn(self, network: "nn.Sequential", images: "Tensor", targets: "Tensor", counts: "Tensor") -> None:
        import torch
        from torch.nn import functional as F

        rng = np.random.default_rng(self.random_state)
        n_batches, n_epochs = schedule(len(images), self.epochs, self.batch_size)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        network.train()
        step, n_steps = 0, n_epochs * n_batches
        for _ in range(n_epochs):
            order = torch.from_numpy(rng.permutation(len(images)))
            for batch in order.tensor_split(n_batches):  # of nearly equal size, so that none has one image
                done = (step + 0.5) / n_steps
                for group in optimizer.param_groups:
                    cosine = 0.5 * (1 + math.cos(math.pi * done))
                    group["lr"] = self.learning_rate * min(1.0, done / WARM_UP) * cosine
                x = images[batch]
                if self.shift:
                    across, down = rng.integers(-self.shift, self.shift + 1, 2).tolist()
                    x = _moved(x, across, down)
                losses = F.cross_entropy(network(x), targets[batch], reduction="none")
                loss = (losses * counts[batch]).mean()
                optimizer.zero_grad()
                loss.backward()  # pyright: ignore[reportUnknownMemberType] - torch
                optimizer.step()
                step += 1


def schedule(n_images: int, epochs: int, batch_size: int = 128) -> tuple[int, int]:
    """Return how many batches an epoch has, and how many epochs there are.

    Examples
    --------
    >>> schedule(40_000, epochs=3), schedule(1000, epochs=3), schedule(5, epochs=3)
    ((313, 3), (33, 7), (1, 60))
    """
    batch_size = min(batch_size, max(LEAST_BATCH, n_images // LEAST_BATCHES))
    n_batches = math.ceil(n_images / batch_size)
    return n_batches, min(math.ceil(epochs * max(1.0, LEAST_STEPS / n_batches)), MOST_EPOCHS)


def multiplications(settings: dict[str, Any], n_classes: int) -> float:
    """Return how many multiplications predicting one image takes, about."""
    first, second = settings["widths"]
    pixels, hidden = settings["side"] ** 2, settings["hidden"]
    convolutions = pixels * 9 * settings["channels"] * first + pixels / 4 * 9 * first * second
    return convolutions + second * pixels / 16 * hidden + hidden * n_classes


def _moved(images: "Tensor", across: int, down: int) -> "Tensor":
    """Move images; what comes in repeats the edge."""
    from torch.nn import functional as F

    reach = max(abs(across), abs(down))
    if reach == 0:
        return images
    side = images.shape[-1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    return padded[:, :, reach + down : reach + down + side, reach + across : reach + across + side]


@contextmanager
def _alone(n_threads: int) -> Generator[None]:
    """Let torch use so many threads for a while, and leave its random numbers as they were."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)
