"""CIFAR-FS: few-shot tasks from the 100 classes of CIFAR-100."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...downloads import Place, read_members
from ...errors import DamagedArtifact
from ...registry import sources
from ..distortion import Distortion
from ..few_shot import Examples, FewShotSource
from ..source import Collection, Splits
from .files import Bytes, find, obtain, read_npz

__all__ = ["TEST", "TRAIN", "VALIDATION", "CifarFS", "read_binary", "read_packed"]

UNDER = "images"
PACKED = ("cifar100_train_a.npz", "cifar100_train_b.npz")
PLACES = (
    Place(
        "cifar-100-binary.tar.gz",
        ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
        "md5:03b5dce01913d631647c71ecec9e9cb8",  # as published beside it
        170_000_000,
    ),
)
DISTORTION = Distortion(degrees=5.0, scale=0.12, shift=0.125, flip=True, outside="reflection")
IMAGE = 3 * 32 * 32  # bytes
# Mean and standard deviation of each channel over the 50,000 training images.
MEAN = tuple(255 * value for value in (0.5071, 0.4865, 0.4409))
STD = tuple(255 * value for value in (0.2673, 0.2564, 0.2762))

# The classes of CIFAR-FS, as torchmeta lists them (torchmeta/datasets/assets/cifar100/cifar-fs).
TRAIN = tuple(
    """
    apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach
    couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard
    lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum
    rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger
    train trout tulip turtle willow_tree wolf
    """.split()  # noqa: SIM905
)
VALIDATION = tuple(
    """
    beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark
    television tractor
    """.split()  # noqa: SIM905
)
TEST = tuple(
    """
    baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table
    telephone wardrobe whale woman worm
    """.split()  # noqa: SIM905
)


@sources.register("cifar-fs")
@dataclass(frozen=True)
class CifarFS(Collection):
    """Photographs of 100 classes, 32×32 in colour, of which 64 train, 16 validate and 20 test.

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    train_ways, train_shots, train_queries : int, optional
        Of a training task, where it shall differ.
    distortion : float
        How much training images are changed each time they are drawn: 1 is mirroring, up to an eighth of a
        side of shift, 12 % of scale and 5 degrees of turning; 0 leaves them as they are.
    folder : str, optional
        Where ``cifar-100-binary.tar.gz`` lies, or the training images packed in ``cifar100_train_a.npz`` and
        ``…_b.npz``; by default ``images`` under ``TASKLORE_DATA``, then the user's cache.
    download : bool
        Whether the published file may be fetched if it is nowhere.

    Notes
    -----
    The published file has 600 images of each class, as CIFAR-FS does; the packed files have the 500 that
    CIFAR-100 calls its training images. Fingerprints tell the two apart.

    References
    ----------
    Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers, ICLR 2019,
    section 4.2; Krizhevsky: Learning multiple layers of features from tiny images, 2009.
    """

    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15
    train_ways: int | None = None
    train_shots: int | None = None
    train_queries: int | None = None
    distortion: float = 0.0
    folder: str | None = None
    download: bool = True

    def splits(self) -> Splits:
        packed = find(PACKED, self.folder, UNDER) if not find([PLACES[0].name], self.folder, UNDER) else None
        examples = (
            read_packed(packed)
            if packed
            else read_binary(obtain(PLACES, self.folder, UNDER, download=self.download)[0])
        )
        every = FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries)
        place = {name: index for index, name in enumerate(examples.labels)}
        if missing := sorted({*TRAIN, *VALIDATION, *TEST} - set(place)):
            raise DamagedArtifact(f"CIFAR-100 lacks the classes {', '.join(missing)}; get the file anew")
        past, *unseen = (every.only([place[name] for name in side]) for side in (TRAIN, VALIDATION, TEST))
        past = dataclasses.replace(
            past,
            n_ways=self.train_ways or self.n_ways,
            n_shots=self.train_shots or self.n_shots,
            n_queries=self.train_queries or self.n_queries,
            distortion=DISTORTION.times(self.distortion) if self.distortion else None,
        )
        return Splits(past, *unseen)


def read_binary(archive: Path) -> Examples:
    """Read the published binary version: for each image two bytes of labels, then 3×32×32 of pixels.

    The version for Python holds pickles, which can run code when read, so it is left alone.

    Raises
    ------
    DamagedArtifact
        A file is missing or has another length than whole images have.
    """
    names = {f"cifar-100-binary/{name}" for name in ("train.bin", "test.bin", "fine_label_names.txt")}
    found = dict(read_members(archive, names.__contains__, largest=160_000_000, n_bytes=200_000_000))
    if missing := sorted(names - set(found)):
        raise DamagedArtifact(f"{archive} lacks {', '.join(missing)}; get it anew")
    labels = tuple(found.pop("cifar-100-binary/fine_label_names.txt").decode("ascii", "replace").split())
    parts: list[Bytes] = []
    for name in sorted(found, reverse=True):  # the training images first
        if not found[name] or len(found[name]) % (2 + IMAGE):
            raise DamagedArtifact(f"{archive}: {name} ends within an image; get it anew")
        parts.append(np.frombuffer(found[name], dtype=np.uint8).reshape(-1, 2 + IMAGE))
    rows = np.concatenate(parts)
    return _examples(rows[:, 2:].reshape(-1, 3, 32, 32), rows[:, 1], labels)


def read_packed(files: list[Path]) -> Examples:
    """Read the training images from packed files.

    Packing stores differences, which compress better: green from red and blue, then each pixel from its upper
    and left neighbours, modulo 256.

    Raises
    ------
    DamagedArtifact
        A file is broken, or the files disagree about the classes.
    """
    arrays = [read_npz(file, ("d", "y", "names")) for file in files]
    if any(not np.array_equal(part["names"], arrays[0]["names"]) for part in arrays):
        raise DamagedArtifact(f"{', '.join(map(str, files))} name different classes; get them anew")
    for part in arrays:
        if part["d"].dtype != np.uint8 or part["d"].shape != (len(part["y"]), 3, 32, 32):
            raise DamagedArtifact(
                f"packed CIFAR-100 must be bytes of shape (n, 3, 32, 32), got {part['d'].dtype} of "
                f"{part['d'].shape}; get the files anew"
            )
    x = np.concatenate([part["d"] for part in arrays])
    for i in range(1, 32):  # sums over columns, then over rows; many times faster than cumsum on bytes
        x[..., i] += x[..., i - 1]
    for i in range(1, 32):
        x[..., i, :] += x[..., i - 1, :]
    x[:, 0] += x[:, 1]
    x[:, 2] += x[:, 1]
    names = tuple(str(name) for name in arrays[0]["names"])
    return _examples(x, np.concatenate([part["y"] for part in arrays]), names)


def _examples(x: Bytes, y: np.ndarray, labels: tuple[str, ...]) -> Examples:
    targets = torch.from_numpy(y.astype(np.int64))
    return Examples("cifar-100", torch.from_numpy(np.ascontiguousarray(x)), targets, labels, MEAN, STD)
