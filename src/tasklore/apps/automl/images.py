"""Tables whose rows are square images, and the candidates that only they get.

Pixels are recognised by what tells them from other numbers: neighbours are alike, to the side and above.
:func:`.space.candidates` stays as it is; :func:`image_candidates` adds to it for such a table.
"""

import dataclasses
import importlib.util
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from ...errors import InvalidSetting
from .convolution import ConvolutionClassifier, multiplications, schedule
from .measuring import Problem
from .pipelines import Candidate, Features, Kind
from .prior import AtRandom, TablePrior
from .tables import Schema

__all__ = ["ImageCandidate", "ImagePrior", "Pixels", "image_candidates", "pixels_of", "restored"]

CONVOLUTION = "convolution"  # the model's name
LEAST_SIDE = 8
MOST_CELLS = 400_000_000  # pixels of a table, 1.6 GB
SEEN = 500  # images that are looked at
PAIRS = 2000  # of pixels far apart that neighbours are compared with
LARGEST_PIXEL = 255
ALIKE = 0.2  # mean correlation of neighbours from which on columns may be pixels …
CLOSER = 0.8  # … if it leaves at most this share of what that of any two leaves to 1
FITTED = 0.8  # share of the rows that a fold learns from
SECONDS_PER_STEP = 1.2e-3
SECONDS_PER_IMAGE = 3e-5  # seen once, whatever its size
SECONDS_PER_MULTIPLICATION = 2.5e-10  # forwards and backwards


@dataclass(frozen=True)
class Pixels:
    """How the columns of a table are an image.

    Parameters
    ----------
    side : int
    channels : int
        1 or 3.
    interleaved : bool
        Whether the channels of a pixel stand together.
    """

    side: int
    channels: int = 1
    interleaved: bool = False


@dataclass(frozen=True)
class ImageCandidate(Candidate):
    """A network that sees all columns of a table as an image."""

    def needs_tasklore(self, schema: Schema) -> bool:
        return True

    def takes_weights(self, kind: Kind) -> bool:
        return True

    def suits(self, schema: Schema, n_rows: int, n_classes: int, rarest: int) -> bool:
        return n_classes > 0 and n_rows * len(schema.columns) <= MOST_CELLS

    def build(self, schema: Schema, kind: Kind, random_state: int = 0, *, raw: bool = False) -> Pipeline:
        if kind != "classification" or raw:
            raise InvalidSetting(f"{self.name} learns classes, from tables in canonical form")
        names = [column.name for column in schema.columns]  # those that never change as well
        columns = ColumnTransformer([("pixels", "passthrough", names)], sparse_threshold=0.0)
        model = ConvolutionClassifier(**self.settings, random_state=random_state)
        return Pipeline([("columns", columns), ("model", model)])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageCandidate":
        try:
            given: dict[str, Any] = {**values, "features": Features(**values["features"])}
            return cls(**given)
        except (TypeError, KeyError) as error:
            raise InvalidSetting(f"this is no candidate: {error}") from error


def restored(values: Mapping[str, Any]) -> Candidate:
    """Read what ``to_dict`` of a candidate of either class gave."""
    kind = ImageCandidate if values.get("model") == CONVOLUTION else Candidate
    return kind.from_dict(values)


def pixels_of(problem: Problem) -> Pixels | None:
    """Return how the columns of a table are an image, or None if they do not look like one.

    There must be ``side²`` or ``3 · side²`` columns of numbers without gaps from 0 to 255, whose neighbours
    are correlated far more than any two, and those above one another more than those half a row apart, which
    tells images from curves.
    """
    n_columns = len(problem.schema.columns)
    possible = [
        Pixels(math.isqrt(n_columns // channels), channels, interleaved)
        for channels, interleaved in ((1, False), (3, False), (3, True))
        if n_columns % channels == 0 and math.isqrt(n_columns // channels) ** 2 == n_columns // channels
    ]
    possible = [pixels for pixels in possible if pixels.side >= LEAST_SIDE]
    if not possible or any(column.kind != "number" or column.missing for column in problem.schema.columns):
        return None
    seen = problem.sample(SEEN).table.to_numpy(np.float64)
    if len(seen) < 10 or seen.min() < 0 or seen.max() > LARGEST_PIXEL:
        return None
    spread = seen.std(0)
    varying = spread > 1e-9 * LARGEST_PIXEL
    standard = (seen - seen.mean(0)) / np.where(varying, spread, 1.0)

    def correlated(one: np.ndarray, other: np.ndarray) -> float:
        """Return the mean correlation of pairs of columns that both vary."""
        known = varying[one] & varying[other]
        if known.sum() < LEAST_SIDE:
            return 0.0
        return float((standard[:, one[known]] * standard[:, other[known]]).mean())

    rng = np.random.default_rng(0)
    chance = abs(correlated(*rng.integers(0, n_columns, (2, PAIRS))))
    best, likest = 0.0, None
    for pixels in possible:
        places = _places(pixels)
        beside = correlated(places[:, :, :-1].ravel(), places[:, :, 1:].ravel())
        above = correlated(places[:, :-1].ravel(), places[:, 1:].ravel())
        far = pixels.side // 2
        apart = correlated(places[:, :, :-far].ravel(), places[:, :, far:].ravel())
        alike = min(beside, above)
        if alike >= ALIKE and 1 - alike <= CLOSER * (1 - chance) and above > apart and alike > best:
            best, likest = alike, pixels
    return likest


def _places(pixels: Pixels) -> np.ndarray:
    """Return which column is which pixel, shape (channels, side, side)."""
    side, channels = pixels.side, pixels.channels
    places = np.arange(channels * side**2)
    if pixels.interleaved:
        return places.reshape(side, side, channels).transpose(2, 0, 1)
    return places.reshape(channels, side, side)


def image_candidates(problem: Problem) -> dict[str, Candidate]:
    """Return what only a table of images gets, by name; nothing for other tables, or without torch."""
    if problem.kind != "classification" or importlib.util.find_spec("torch") is None:
        return {}
    if (pixels := pixels_of(problem)) is None:
        return {}
    return {
        name: ImageCandidate(name, CONVOLUTION, {**dataclasses.asdict(pixels), **settings}, Features())
        for name, settings in {
            "convolution": {"widths": [8, 16], "hidden": 64, "epochs": 3},
            "convolution-wide": {"widths": [16, 32], "hidden": 128, "epochs": 6},
            "convolution-shifted": {
                "widths": [16, 32],
                "hidden": 128,
                "epochs": 10,
                "shift": max(1, pixels.side // 14),
            },
        }.items()
    }


@dataclass(frozen=True, eq=False, repr=False)
class ImagePrior(TablePrior):
    """A prior with candidates that most past tables say nothing about.

    They are taken to promise as much as the best of the others, as long as no past table says otherwise, and
    their times are worked out, not learned.

    Parameters
    ----------
    added : mapping of str to Candidate
    n_rows, n_classes : int
        Of the table.
    """

    added: Mapping[str, Candidate] = field(default_factory=dict[str, Candidate])
    n_rows: int = 0
    n_classes: int = 2

    @classmethod
    def of(cls, prior: TablePrior, added: Mapping[str, Candidate], problem: Problem) -> Self:
        """Return a prior with more candidates, which take turns with the first ones of its portfolio."""
        new = [name for name in added if name not in prior.candidates]
        wider = ((0, 0), (0, len(new)))
        rest = [name for name in prior.portfolio if name not in added]
        turns = [name for pair in zip(added, rest, strict=False) for name in pair]
        given: dict[str, Any] = {f.name: getattr(prior, f.name) for f in dataclasses.fields(TablePrior)}
        given |= {
            "portfolio": (*turns, *(name for name in (*added, *rest) if name not in turns)),
            "candidates": (*prior.candidates, *new),
            "losses": np.pad(prior.losses, wider, constant_values=np.nan),
            "seconds": np.pad(prior.seconds, wider, constant_values=np.nan),
            "doubts": None if prior.doubts is None else np.pad(prior.doubts, wider),
        }
        maker: Any = ImagesAtRandom if isinstance(prior, AtRandom) else cls
        return maker(**given, added=added, n_rows=len(problem.y), n_classes=problem.n_classes)

    def improvement(self, tried: Collection[str], weights: np.ndarray) -> np.ndarray:
        gains = super().improvement(tried, weights)
        for name in self.added:
            place = self.candidates.index(name)
            if name not in tried and not np.isfinite(self.losses[:, place]).any():
                gains[place] = gains.max()
        return gains

    def seconds_for(self, described: Mapping[str, float]) -> np.ndarray:
        found = super().seconds_for(described)
        n_described = math.expm1(described["rows"])
        for name, candidate in self.added.items():
            settings = dict(candidate.settings)
            # Of few rows more epochs are seen, so times do not grow in proportion from few rows to all.
            n_batches, n_epochs = schedule(max(1, round(FITTED * self.n_rows)), settings["epochs"])
            each = SECONDS_PER_IMAGE + SECONDS_PER_MULTIPLICATION * multiplications(settings, self.n_classes)
            seconds = n_epochs * (n_batches * SECONDS_PER_STEP + FITTED * self.n_rows * each)
            found[self.candidates.index(name)] = seconds * min(1.0, n_described / self.n_rows)
        return found


class ImagesAtRandom(AtRandom, ImagePrior):
    """The same for a search without experience."""
