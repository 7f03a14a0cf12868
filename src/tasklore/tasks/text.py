"""Few-shot tasks from sentences: tell apart what people want who say such things.

A sentence becomes numbers without a vocabulary: its words, and the groups of three letters in them, are
hashed to ids. So new sentences need nothing that was learned, and a word that no past task had still shares
letters with others. See :class:`~tasklore.nets.TextEncoder` for the network that reads them.
"""

import csv
import functools
import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ..downloads import Place
from ..errors import DamagedArtifact
from ..registry import sources
from .few_shot import Examples, FewShotSource
from .images.files import find, obtain
from .source import Collection, Splits

__all__ = ["LENGTH", "N_IDS", "Banking77", "Clinc150", "TfIdf", "sentences", "tokens"]

N_IDS = 16_384
"""Ids of tokens lie below this; 0 is no token."""

LENGTH = 128
"""Tokens of a sentence that are kept, words first."""

UNDER = "text"
LARGEST = 20_000_000  # bytes of a file
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
Labelled = list[tuple[str, str]]  # (sentence, intent)


def tokens(texts: Sequence[str], length: int = LENGTH) -> np.ndarray:
    """Return the ids of the words of sentences, then of all groups of three letters in them.

    Parameters
    ----------
    texts : sequence of str, length n
    length : int
        Tokens beyond are left out.

    Returns
    -------
    ndarray of int32, shape (n, length)
        From 1 to ``N_IDS - 1``, in the order in which they stand, and 0 where there is no more. They are
        the same on every machine.

    Examples
    --------
    >>> (tokens(["Hi Bob"], 8) > 0).astype(int)  # hi, bob; ^hi, hi$; ^bo, bob, ob$
    array([[1, 1, 1, 1, 1, 1, 1, 0]])
    """
    found = np.zeros((len(texts), length), dtype=np.int32)
    for row, text in zip(found, texts, strict=True):
        words = WORD.findall(text.lower())
        ids = [*map(_id, words), *(group for word in words for group in _groups(word))][:length]
        row[: len(ids)] = ids
    return found


@functools.lru_cache(maxsize=100_000)
def _id(token: str) -> int:
    return 1 + zlib.crc32(token.encode()) % (N_IDS - 1)


@functools.lru_cache(maxsize=100_000)
def _groups(word: str) -> tuple[int, ...]:
    marked = f"^{word}$"
    return tuple(_id(marked[place : place + 3]) for place in range(len(marked) - 2))


class TfIdf:
    """How much each token tells: how often it stands in a sentence, and in how few of all sentences.

    Parameters
    ----------
    ids : ndarray of int, shape (n, length)
        Of the sentences that tokens are counted in.

    Notes
    -----
    ``(1 + log tf) · (1 + log((1 + n) / (1 + df)))``, rows of length 1, as scikit-learn's ``TfidfVectorizer``
    with ``sublinear_tf=True``.
    """

    def __init__(self, ids: np.ndarray) -> None:
        present = np.zeros(N_IDS)
        for row in ids:
            present[np.unique(row)] += 1
        self.weights = torch.from_numpy(1 + np.log((1 + len(ids)) / (1 + present))).to(torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Return rows of shape (n, N_IDS) for ids of shape (n, length)."""
        places = x.long()
        same = places.unsqueeze(-1) == places.unsqueeze(-2)  # (n, length, length)
        first = (places > 0) & ~same.tril(-1).any(-1)  # each token once
        values = torch.where(first, 1 + same.sum(-1).log(), 0.0) * self.weights[places]
        values = values / values.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return torch.zeros(*x.shape[:-1], N_IDS).scatter_add(-1, places, values)


def sentences(
    name: str, labelled: Labelled, past: Sequence[str] | None = None
) -> tuple[Examples, dict[str, int]]:
    """Return sentences as examples, each once, and the place of every intent among the labels.

    Parameters
    ----------
    name : str
    labelled : list of (sentence, intent)
        Of sentences with the same tokens, under whatever intent, only the first is kept.
    past : sequence of str, optional
        Intents whose sentences say how common a token is; all by default.
    """
    ids = tokens([text for text, _ in labelled])
    first = np.sort(np.unique(ids, axis=0, return_index=True)[1])
    ids, intents = ids[first], [labelled[index][1] for index in first]
    labels = tuple(sorted(set(intents)))
    place = {label: index for index, label in enumerate(labels)}
    counted = np.array([past is None or intent in past for intent in intents])
    targets = torch.tensor([place[intent] for intent in intents], dtype=torch.int64)
    return Examples(name, torch.from_numpy(ids), targets, labels, plain=TfIdf(ids[counted])), place


def _split(name: str, labelled: Labelled, sides: Sequence[Sequence[str]], source: "_Settings") -> Splits:
    examples, place = sentences(name, labelled, sides[0])
    every = FewShotSource.of(examples, source.n_ways, source.n_shots, source.n_queries)
    train, validation, test = (every.only([place[intent] for intent in side]) for side in sides)
    ways = source.train_ways
    if ways is not None:
        train = FewShotSource(examples, train.variants, ways, source.n_shots, source.n_queries)
    return Splits(train, validation, test)


@dataclass(frozen=True)
class _Settings(Collection):
    suggested_net: ClassVar[str] = "text"

    n_ways: int = 5
    n_shots: int = 1
    n_queries: int = 15
    train_ways: int | None = None
    folder: str | None = None
    download: bool = True


CLINC_PLACES = (
    Place(
        "data_full.json",
        ("https://raw.githubusercontent.com/clinc/oos-eval/master/data/data_full.json",),
        "sha256:36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
        LARGEST,
    ),
    Place(
        "domains.json",
        ("https://raw.githubusercontent.com/clinc/oos-eval/master/data/domains.json",),
        "sha256:b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
        LARGEST,
    ),
)
CLINC_DOMAINS = (
    ("banking", "travel", "home", "small_talk", "auto_and_commute"),
    ("utility", "kitchen_and_dining"),
    ("credit_cards", "work", "meta"),
)
"""Those to learn from, to validate on and to test on."""


@sources.register("clinc150")
@dataclass(frozen=True)
class Clinc150(_Settings):
    """Sentences to an assistant, of 150 intents in ten domains; whole domains are new in validation and test.

    Past tasks are of the domains banking, travel, home, small talk and auto & commute (75 intents),
    validation tasks of utility and kitchen & dining (30), test tasks of credit cards, work and meta (45).

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    train_ways : int, optional
        Of a training task, where it shall differ.
    folder : str, optional
        Where ``clinc150.zip`` lies, or ``data_full.json`` and ``domains.json`` as published; by default
        ``text`` under ``TASKLORE_DATA``, then the user's cache.
    download : bool
        Whether the published files may be fetched if they are nowhere.

    Notes
    -----
    Sentences out of scope are left out, and of equal ones all but the first.

    References
    ----------
    Larson et al.: An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP 2019.
    """

    def splits(self) -> Splits:
        raw = _contents(CLINC_PLACES, "clinc150.zip", self)
        data, domains = (_json(raw[place.name], place.name) for place in CLINC_PLACES)
        try:
            labelled = [
                (str(text), str(intent)) for part in ("train", "val", "test") for text, intent in data[part]
            ]
            sides = [[str(intent) for domain in side for intent in domains[domain]] for side in CLINC_DOMAINS]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedArtifact(
                f"CLINC150 lacks {error}; get data_full.json and domains.json anew"
            ) from error
        if missing := sorted(
            {intent for side in sides for intent in side} - {intent for _, intent in labelled}
        ):
            raise DamagedArtifact(f"CLINC150 has no sentence of {', '.join(missing[:5])}; get the files anew")
        return _split("clinc150", labelled, sides, self)


BANKING_FOLDER = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data"
BANKING_PLACES = (
    Place(
        "train.csv",
        (f"{BANKING_FOLDER}/train.csv",),
        "sha256:b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
        LARGEST,
    ),
    Place(
        "test.csv",
        (f"{BANKING_FOLDER}/test.csv",),
        "sha256:d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
        LARGEST,
    ),
)
BANKING_SIDES = (25, 25)  # intents to learn from and to validate on, as in Dopierre et al. (2021)


@sources.register("banking77")
@dataclass(frozen=True)
class Banking77(_Settings):
    """Questions to a bank, of 77 intents close to one another: 25 to learn from, 25 and 27 new ones.

    Parameters
    ----------
    n_ways, n_shots, n_queries : int
        Of a task.
    train_ways : int, optional
        Of a training task, where it shall differ.
    folder : str, optional
        Where ``banking77.zip`` lies, or ``train.csv`` and ``test.csv`` as published; by default ``text``
        under ``TASKLORE_DATA``, then the user's cache.
    download : bool
        Whether the published files may be fetched if they are nowhere.
    seed : int
        Of the split of the intents.

    References
    ----------
    Casanueva et al.: Efficient Intent Detection with Dual Sentence Encoders, 2020. The sizes of the split are
    those of Dopierre, Gravier, Logerais: ProtAugment, ACL 2021.
    """

    seed: int = 0

    def splits(self) -> Splits:
        raw = _contents(BANKING_PLACES, "banking77.zip", self)
        labelled: Labelled = []
        for place in BANKING_PLACES:
            try:
                rows = csv.DictReader(io.StringIO(raw[place.name].decode("utf-8")))
                if not {"text", "category"} <= set(rows.fieldnames or ()):
                    raise KeyError("no such columns")
                labelled += [(row["text"], row["category"]) for row in rows]
            except (KeyError, UnicodeDecodeError, csv.Error) as error:
                raise DamagedArtifact(
                    f"{place.name} of Banking77 is no table of text and category: {error}; get it anew"
                ) from error
        intents = sorted({intent for _, intent in labelled})
        if len(intents) <= sum(BANKING_SIDES):
            raise DamagedArtifact(f"Banking77 has {len(intents)} intents instead of 77; get the files anew")
        order = [intents[index] for index in np.random.default_rng(self.seed).permutation(len(intents))]
        first, second = BANKING_SIDES[0], sum(BANKING_SIDES)
        return _split("banking77", labelled, (order[:first], order[first:second], order[second:]), self)


def _contents(places: tuple[Place, ...], archive: str, settings: _Settings) -> dict[str, bytes]:
    """Return the files of a data set, from an archive of them if there is one."""
    packed = find([archive], settings.folder, UNDER)
    files = [] if packed else obtain(places, settings.folder, UNDER, download=settings.download)
    try:
        if not packed:
            return {path.name: path.read_bytes() for path in files}
        with zipfile.ZipFile(packed[0]) as opened:
            sizes = {place.name: opened.getinfo(place.name).file_size for place in places}
            if max(sizes.values()) > LARGEST:
                raise DamagedArtifact(f"{packed[0]} claims {sizes} bytes; get it anew")
            return {name: opened.read(name) for name in sizes}
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        where = ", ".join(map(str, packed or files))
        raise DamagedArtifact(f"{where} cannot be read: {error}; get it anew") from error


def _json(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise DamagedArtifact(f"{name} is no JSON: {error}; get it anew") from error
    if not isinstance(found, dict):
        raise DamagedArtifact(f"{name} holds no object; get it anew")
    return cast("dict[str, Any]", found)
