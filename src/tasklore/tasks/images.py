"""Few-shot tasks from images: embedded, or from the folder that ``TASKLORE_DATA`` names."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from sklearn.datasets import load_digits

from ..errors import DownloadError
from ..registry import sources
from .few_shot import Examples, FewShotSource
from .source import Collection, Splits

__all__ = ["Digits", "Omniglot"]


@sources.register("digits")
@dataclass(frozen=True)
class Digits(Collection):
    """scikit-learn's 1,797 embedded images of handwritten digits, 8×8.

    Past tasks are made of the digits 0–4 and of their turns by 90° and 270° as classes of their own;
    validation tasks of 1–4 turned by 180° (a turned 0 is a 0), so they have four classes at most; test tasks
    of the unseen digits 5–9.

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    """

    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15

    def splits(self) -> Splits:
        data = cast("Any", load_digits())
        examples = Examples.from_arrays(
            "digits", data.images[:, None].astype(np.uint8), data.target, std=16.0
        )
        every = FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries, turns=(0, 1, 2, 3))
        turned = dataclasses.replace(every, n_ways=min(4, self.n_ways)).only((1, 2, 3, 4), turns=(2,))
        return Splits(every.only(range(5), turns=(0, 1, 3)), turned, every.only(range(5, 10), turns=(0,)))


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
    folder : str, optional
        Where ``omniglot.npz`` lies; by default ``images`` under ``TASKLORE_DATA``.

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
    folder: str | None = None

    def splits(self) -> Splits:
        with np.load(_file(self.folder, "images", "omniglot.npz")) as data:
            images, alphabets, background = data["images"], data["alphabet"], data["split"] == "background"
        labels = np.repeat(np.arange(len(images)), images.shape[1])
        examples = Examples.from_arrays("omniglot", images.reshape(-1, 1, 28, 28), labels, std=255.0)
        every = FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries, turns=(0, 1, 2, 3))
        rng = np.random.default_rng(self.seed)
        if self.split == "random":
            order = rng.permutation(len(images))
            train, validation, test = order[:1100], order[1100:1200], order[1200:]
        else:
            held_out = rng.permutation(np.unique(alphabets[background]))[:5]
            validating = background & np.isin(alphabets, held_out)
            train, validation, test = (
                np.flatnonzero(s) for s in (background & ~validating, validating, ~background)
            )
        past = dataclasses.replace(
            every.only(train.tolist(), None if self.rotations else (0,)),
            n_ways=self.train_ways or self.n_ways,
            n_queries=self.train_queries or self.n_queries,
        )
        return Splits(past, *(every.only(part.tolist(), (0,)) for part in (validation, test)))


def _file(folder: str | None, kind: str, name: str) -> Path:
    home = os.environ.get("TASKLORE_DATA")
    looked = [Path(folder) / name] if folder else [Path(home) / kind / name] if home else []
    for path in looked:
        if path.is_file():
            return path
    where = looked[0] if looked else "no folder was given and TASKLORE_DATA is not set"
    raise DownloadError(
        f"{name} was not found ({where}); "
        f"set TASKLORE_DATA to a folder that has {kind}/{name}, or give folder"
    )
