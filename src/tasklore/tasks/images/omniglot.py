"""Omniglot: few drawings of many characters."""

import dataclasses
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...downloads import Place, cache_folder, read_members
from ...errors import DamagedArtifact, InvalidSetting
from ...files import replacing
from ...registry import sources
from ..distortion import Distortion
from ..few_shot import Examples, FewShotSource
from ..source import Collection, Splits
from .files import Bytes, find, obtain, read_npz, read_picture

__all__ = ["Characters", "Omniglot", "read_zips"]

UNDER = "images"
PACKED = "omniglot.npz"
ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python"
# Checksums as torchvision publishes them.
PLACES = (
    Place(
        "images_background.zip",
        (f"{ADDRESS}/images_background.zip",),
        "md5:68d2efa1b9178cc56df9314c21c6e718",
        20_000_000,
    ),
    Place(
        "images_evaluation.zip",
        (f"{ADDRESS}/images_evaluation.zip",),
        "md5:6b91aef0f799c5bb55b94e3f2daec811",
        20_000_000,
    ),
)
DRAWING = re.compile(r"images_(background|evaluation)/([^/]+)/(character\d+)/(\d+)_(\d+)\.png")
SIZE = 28
DISTORTION = Distortion(degrees=12.0, shear=0.15, scale=0.12, shift=2 / SIZE, bend=0.012)


@dataclass(frozen=True, eq=False)
class Characters:
    """All drawings of all characters.

    Parameters
    ----------
    images : ndarray of uint8, shape (characters, drawers, 28, 28)
        Ink is 255.
    alphabet, character, split : ndarray of str, shape (characters,)
        The split is "background" or "evaluation".
    """

    images: Bytes
    alphabet: np.ndarray
    character: np.ndarray
    split: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != np.uint8 or self.images.shape[2:] != (SIZE, SIZE) or n == 0:
            raise DamagedArtifact(
                f"Omniglot needs bytes of shape (characters, drawers, {SIZE}, {SIZE}), got "
                f"{self.images.dtype} of {self.images.shape}; get the file anew"
            )
        if any(len(names) != n for names in (self.alphabet, self.character, self.split)):
            raise DamagedArtifact(f"Omniglot has {n} characters but not as many names; get the file anew")


@sources.register("omniglot")
@dataclass(frozen=True)
class Omniglot(Collection):
    """1,623 handwritten characters of 50 alphabets, 20 drawings of each, 28×28, ink = 1.

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    train_ways, train_queries : int, optional
        Of a training task, where it shall differ.
    split : {"random", "alphabets"}
        1,200 characters drawn with ``seed`` to train and validate on (1,100 and 100) and 423 to test on, as
        papers do; or whole alphabets: those of the background set, five of them for validation, and the
        evaluation set. The latter is harder.
    seed : int
        Of the split.
    rotations : bool
        Whether the characters turned by quarters are further training classes.
    test_rotations : bool
        Whether they are further classes of validation and test tasks too, as in the code of some papers.
    distortion : float
        How much training images are changed each time they are drawn: 1 is up to 12 degrees of turning, 12 %
        of scale, 0.15 of shear, 2 pixels of shift, and some bending; 0 leaves them as they are.
    folder : str, optional
        Where ``omniglot.npz`` or the two published .zip files lie; by default ``images`` under
        ``TASKLORE_DATA``, then the user's cache.
    download : bool
        Whether the published files may be fetched if they are nowhere.

    References
    ----------
    Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program induction,
    Science 2015.
    """

    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15
    train_ways: int | None = None
    train_queries: int | None = None
    split: Literal["random", "alphabets"] = "random"
    seed: int = 0
    rotations: bool = True
    test_rotations: bool = False
    distortion: float = 0.0
    folder: str | None = None
    download: bool = True

    def splits(self) -> Splits:
        characters = load_characters(self.folder, download=self.download)
        images = characters.images
        labels = np.repeat(np.arange(len(images)), images.shape[1])
        examples = Examples.from_arrays("omniglot", images.reshape(-1, 1, SIZE, SIZE), labels, std=255.0)
        every = FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries, turns=(0, 1, 2, 3))
        train, validation, test = self.sides(characters)
        past = dataclasses.replace(
            every.only(train, None if self.rotations else (0,)),
            n_ways=self.train_ways or self.n_ways,
            n_queries=self.train_queries or self.n_queries,
            distortion=DISTORTION.times(self.distortion) if self.distortion else None,
        )
        turns = None if self.test_rotations else (0,)
        return Splits(past, every.only(validation, turns), every.only(test, turns))

    def sides(self, characters: Characters) -> tuple[list[int], list[int], list[int]]:
        """Return the indices of the characters of train, validation and test."""
        rng = np.random.default_rng(self.seed)
        if self.split == "random":
            order = rng.permutation(len(characters.images)).tolist()
            return order[:1100], order[1100:1200], order[1200:]
        if self.split != "alphabets":
            raise InvalidSetting(f"split is {self.split!r}; use 'random' or 'alphabets'")
        background = characters.split == "background"
        held_out = rng.permutation(np.unique(characters.alphabet[background]))[:5]
        validating = background & np.isin(characters.alphabet, held_out)
        train, validation, test = (
            np.flatnonzero(side).tolist() for side in (background & ~validating, validating, ~background)
        )
        return train, validation, test


def load_characters(folder: str | None = None, *, download: bool = True) -> Characters:
    """Read Omniglot from the packed file, or else from the published ones, which are then packed.

    Raises
    ------
    DownloadError
        The files are nowhere and may not or cannot be fetched.
    DamagedArtifact
        A file is not what it should be.
    """
    names = [field.name for field in dataclasses.fields(Characters)]
    if packed := find([PACKED], folder, UNDER):
        return Characters(**read_npz(packed[0], names))
    characters = read_zips(obtain(PLACES, folder, UNDER, download=download))
    if folder is None:  # what a user names may be anything, and must not become everyone's Omniglot
        # Reading 32,460 pictures takes a while; the next time there is one file to read.
        with suppress(OSError), replacing(cache_folder() / UNDER / PACKED) as file:
            np.savez_compressed(file, **{name: getattr(characters, name) for name in names})
    return characters


def read_zips(archives: Sequence[Path]) -> Characters:
    """Read the published archives: 105×105 black on white, averaged down to 28×28 of ink.

    Characters come background first, then in the order of alphabets and characters; drawings in the order of
    the drawers.

    Raises
    ------
    DamagedArtifact
        An archive is broken, or a character lacks a drawing.
    """
    drawings: dict[tuple[str, str, str], dict[int, Bytes]] = {}
    for archive in archives:
        wanted = read_members(
            archive, lambda name: DRAWING.fullmatch(name) is not None, largest=100_000, n_bytes=100_000_000
        )
        for name, contents in wanted:
            split, alphabet, character, _, drawer = DRAWING.fullmatch(name).groups()  # pyright: ignore[reportOptionalMemberAccess]
            picture = read_picture(contents, f"{archive.name}: {name}", "L", SIZE, ink=True)
            drawings.setdefault((split, alphabet, character), {})[int(drawer)] = picture[0]
    drawers = {tuple(sorted(found)) for found in drawings.values()}
    if len(drawers) != 1:
        raise DamagedArtifact(
            f"{', '.join(archive.name for archive in archives)}: the characters have "
            f"{'different numbers of' if drawers else 'no'} drawings; get the files anew"
        )
    keys = sorted(drawings)
    images = np.stack([np.stack([drawings[key][d] for d in sorted(drawings[key])]) for key in keys])
    split, alphabet, character = (np.array(names) for names in zip(*keys, strict=True))
    return Characters(images, alphabet, character, split)
