"""Few-shot tasks from a folder of images, one subfolder for each class."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InvalidData, InvalidSetting
from ...registry import sources
from ..few_shot import Examples, FewShotSource
from ..source import Collection, Splits
from .files import Bytes, read_picture

__all__ = ["SUFFIXES", "ImageFolder", "read_folder"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@sources.register("image-folder")
@dataclass(frozen=True)
class ImageFolder(Collection):
    """Images of one's own: a folder with one subfolder for each class.

    Parameters
    ----------
    folder : str
    size : int
        Height and width that every image is brought to.
    grey : bool
        Whether to drop the colours.
    n_ways, n_shots, n_queries : int
        Of a task.
    train, validation : float
        Shares of the classes to train and to validate on; the rest is for testing. Every share must have
        ``n_ways`` classes.
    seed : int
        Of the split into shares.
    """

    folder: str
    size: int = 28
    grey: bool = False
    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 5
    train: float = 0.6
    validation: float = 0.2
    seed: int = 0

    def splits(self) -> Splits:
        if not (self.train > 0 and self.validation > 0 and self.train + self.validation < 1):
            raise InvalidSetting(
                f"train is {self.train} and validation is {self.validation}; both must be positive, and "
                "together below 1, so that classes are left to test on"
            )
        examples = read_folder(self.folder, size=self.size, grey=self.grey)
        every = FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries)
        return every.split(self.seed, (self.train, self.validation))


def read_folder(folder: str | Path, *, size: int = 28, grey: bool = False) -> Examples:
    """Read a folder with one subfolder of images for each class.

    Files whose names do not end like those of images, and hidden ones, are left alone. Images that are not
    square are stretched. Pixels enter an episode as numbers between -1 and 1.

    Parameters
    ----------
    folder : path
    size : int
        Height and width that every image is brought to.
    grey : bool
        Whether to drop the colours.

    Returns
    -------
    tasklore.tasks.few_shot.Examples
        ``x`` has shape (n, 1 or 3, size, size); labels are the names of the subfolders.

    Raises
    ------
    InvalidData
        There is no such folder, fewer than two classes, an empty class, or a broken image.
    InvalidSetting
        The size is not positive.
    MissingDependency
        Pillow is not installed.
    """
    folder = Path(folder).expanduser()
    if size < 1:
        raise InvalidSetting(f"size is {size}; images need at least 1 pixel")
    if not folder.is_dir():
        raise InvalidData(f"{folder} is not a folder; give one with a subfolder of images for each class")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise InvalidData(
            f"{folder} has {len(classes)} subfolders; put the images of each class, of which at least two "
            "are needed, into a subfolder of its own"
        )
    pictures: list[Bytes] = []
    labels: list[str] = []
    for entry in classes:
        files = sorted(file for file in entry.iterdir() if _is_image(file))
        if not files:
            raise InvalidData(
                f"{entry} holds no images; add some ({', '.join(sorted(SUFFIXES))}) or remove it"
            )
        mode = "L" if grey else "RGB"
        pictures += [read_picture(file, str(file), mode, size, ink=False) for file in files]
        labels += [entry.name] * len(files)
    return Examples.from_arrays(folder.resolve().name, np.stack(pictures), labels, mean=127.5, std=127.5)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
