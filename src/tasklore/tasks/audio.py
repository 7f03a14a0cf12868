"""Few-shot tasks from sound: a few spoken digits of one speaker."""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import DamagedArtifact, DownloadError
from ..registry import sources
from .few_shot import Examples, FewShotSource
from .images.files import find, places_looked, read_npz
from .source import Collection, MixedSource, Splits

__all__ = ["SpokenDigits"]

FILE, UNDER = "fsdd_logmel.npz", "audio"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = (("george", "jackson", "lucas"), ("nicolas",), ("theo", "yweweler"))
"""Those to learn from, to validate on and to test on."""


@sources.register("spoken-digits")
@dataclass(frozen=True)
class SpokenDigits(Collection):
    """Spoken digits as pictures of their spectrum; every task is one speaker, new ones in the test.

    Past tasks are of the speakers george, jackson and lucas, validation tasks of nicolas, test tasks of theo
    and yweweler. A task is to tell some of a speaker's ten digits apart; the words are the same for all, the
    voice is new.

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    folder : str, optional
        Where ``fsdd_logmel.npz`` lies, with the arrays ``logmel`` (n, 64, 64), ``digit``, ``speaker`` and
        ``speakers``; by default ``audio`` under ``TASKLORE_DATA``, then the user's cache.

    Notes
    -----
    The published recordings are waves; the logarithm of their mel spectrum must be computed first.
    Inputs are standardised with the mean and deviation of the past speakers.

    References
    ----------
    Jackson, Souza, Flaks, Pan, Nicolas, Thite: Free Spoken Digit Dataset, 2018.
    """

    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15
    folder: str | None = None

    def splits(self) -> Splits:
        files = find([FILE], self.folder, UNDER)
        if files is None:
            looked = " or ".join(map(str, places_looked(self.folder, UNDER)))
            raise DownloadError(
                f"{FILE}: not found in {looked}; it is not published: make the log-mel spectra (64 bands × "
                "64 frames) of the Free Spoken Digit Dataset; save logmel, digit, speaker and speakers"
            )
        arrays = read_npz(files[0], ("logmel", "digit", "speaker", "speakers"))
        x, digit, speaker = arrays["logmel"], arrays["digit"], arrays["speaker"]
        names = [str(name) for name in arrays["speakers"]]
        if x.ndim != 3 or not len(x) == len(digit) == len(speaker):
            raise DamagedArtifact(
                f"{files[0]} needs as many spectra (n, bands, frames) as digits and speakers, got {x.shape}, "
                f"{digit.shape} and {speaker.shape}; get it anew"
            )
        if missing := sorted({name for side in SPEAKERS for name in side} - set(names)):
            raise DamagedArtifact(f"{files[0]} lacks the speakers {', '.join(missing)}; get it anew")
        if digit.max() > 9 or speaker.max() >= len(names):
            raise DamagedArtifact(f"{files[0]} names digits or speakers that there are not; get it anew")
        past = np.isin(speaker, [names.index(name) for name in SPEAKERS[0]])
        mean, std = float(x[past].mean(dtype=np.float64)), float(x[past].std(dtype=np.float64))
        labels = tuple(f"{name}: {word}" for name in names for word in WORDS)
        examples = Examples(
            "spoken-digits",
            torch.from_numpy(np.ascontiguousarray(x[:, None])),
            torch.from_numpy(10 * speaker.astype(np.int64) + digit),
            labels,
            (mean,),
            (std,),
        )
        every = FewShotSource.of(examples, self.n_ways, self.n_shots, self.n_queries)

        def of(side: tuple[str, ...]) -> MixedSource:
            starts = [10 * names.index(name) for name in side]
            return MixedSource(tuple(every.only(range(start, start + 10)) for start in starts))

        return Splits(*map(of, SPEAKERS))
