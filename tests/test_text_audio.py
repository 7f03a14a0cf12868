"""Sentences and sounds as tasks: what they are read into, who is new in the test, and networks for them."""

import csv
import io
import json
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from tasklore.errors import DamagedArtifact, DownloadError, InvalidSetting
from tasklore.evaluate import evaluate
from tasklore.experiment import baselines
from tasklore.learners.gradient import MAML
from tasklore.learners.metric import Prototypes
from tasklore.metagrad import rule_for
from tasklore.nets import Conv4, TextEncoder
from tasklore.tasks.audio import SPEAKERS, SpokenDigits
from tasklore.tasks.few_shot import Examples, FewShotSource
from tasklore.tasks.source import MixedSource, Splits
from tasklore.tasks.text import CLINC_DOMAINS, N_IDS, Banking77, Clinc150, TfIdf, sentences, tokens
from tasklore.testing.source import check_source, check_splits
from tasklore.train import TrainSettings, fit
from tasklore.types import Context, Inputs

needs_data = pytest.mark.skipif(
    not os.environ.get("TASKLORE_DATA"), reason="TASKLORE_DATA does not name a folder with the data"
)


def identity(token: str) -> int:
    return 1 + zlib.crc32(token.encode()) % (N_IDS - 1)


def test_tokens_are_words_and_then_groups_of_letters() -> None:
    expected = ["what's", "up", "^wh", "wha", "hat", "at'", "t's", "'s$", "^up", "up$"]
    found = tokens(["What's up?!", ""], 12)
    assert found.dtype == np.int32
    assert found[0].tolist() == [*map(identity, expected), 0, 0]
    assert not found[1].any()
    assert tokens(["what's UP"], 3)[0].tolist() == list(map(identity, expected[:3]))
    assert tokens(["naïve ½ 日本 snake_case"], 6)[0, 1] > 0  # any script
    assert identity("up") == 15560  # the same on every machine


def test_tf_idf_is_that_of_scikit_learn() -> None:
    texts = ["pay my bill", "my my card is lost", "lost again", "pay pay pay the card"]
    ids = tokens(texts)
    analyzer: Any = lambda text: [str(one) for one in tokens([text])[0] if one]  # noqa: E731
    vectorizer = TfidfVectorizer(analyzer=analyzer, sublinear_tf=True)
    theirs = vectorizer.fit_transform(texts).toarray()
    ours = TfIdf(ids)(torch.from_numpy(ids).float()).numpy()
    places = [int(name) for name in vectorizer.get_feature_names_out()]
    np.testing.assert_allclose(ours[:, places], theirs, atol=1e-6)
    assert np.count_nonzero(ours) == np.count_nonzero(theirs)
    stacked = torch.from_numpy(np.stack([ids, ids[::-1].copy()])).float()
    both = torch.func.vmap(TfIdf(ids))(stacked)
    np.testing.assert_allclose(both[1].numpy(), ours[::-1], atol=1e-6)


def test_the_text_encoder_by_hand() -> None:
    net = TextEncoder(n_buckets=10, places=4, width=2)
    params = net.init((3,), None, torch.Generator().manual_seed(0))
    params["tokens.score"][3], params["gain"] = math.log(2.0), torch.tensor(5.0)
    out, _ = net.apply(params, Inputs(torch.tensor([[3.0, 6.0, 0.0]]), torch.ones(1)))
    # Weights (2, 1)/√5. Token 3 is in place 3, sign +; token 6 in place 6 mod 4 = 2, and 6 // 4 is odd: −.
    norm = 5**0.5
    learned = (2 * params["tokens.vector"][3] + params["tokens.vector"][6]) / norm
    expected = 5 * torch.cat([torch.tensor([0.0, 0.0, -1 / norm, 2 / norm]), learned])
    assert torch.allclose(out[0], expected, atol=1e-6)
    far, near = (
        net.apply(params, Inputs(torch.tensor([[float(i), 0.0]]), torch.ones(1)))[0][0, 4:] for i in (15, 6)
    )
    assert torch.equal(far, near), "1…9 and 10…18 share scores and learned vectors"


def test_padding_has_no_part_in_a_sentence() -> None:
    net = TextEncoder(n_buckets=50, places=16, width=6, hidden=(5,))
    params = net.init((4,), 3, torch.Generator().manual_seed(0))
    params["tokens.score"] = torch.randn(50, 1, generator=torch.Generator().manual_seed(1))
    x = torch.tensor([[3.0, 7.0, 0.0, 0.0], [9.0, 3.0, 7.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found, _ = net.apply(params, Inputs(x, torch.ones(3)))
    assert torch.isfinite(found).all()  # of a sentence without a token too
    longer = torch.nn.functional.pad(x, (0, 3))
    torch.testing.assert_close(net.apply(params, Inputs(longer, torch.ones(3)))[0], found)
    with pytest.raises(InvalidSetting, match="n_buckets must be at least 2"):
        TextEncoder(n_buckets=1)
    with pytest.raises(InvalidSetting, match="give them a width"):
        TextEncoder(width=0, hidden=(8,))


SUBJECTS = ("card", "loan", "transfer", "refund", "cheque", "mortgage", "pension", "deposit")
VERBS = ("lost", "open", "cancel", "explain")


def small_talk() -> FewShotSource:
    """Made-up sentences of 32 intents: a verb and a subject among words that mean nothing."""
    rng = np.random.default_rng(0)
    fill = [f"filler{n}" for n in range(60)]
    labelled = [
        (" ".join(rng.permutation([verb, subject, *rng.choice(fill, 6, replace=False)])), f"{verb} {subject}")
        for verb in VERBS
        for subject in SUBJECTS
        for _ in range(20)
    ]
    examples, _ = sentences("small talk", labelled)
    return FewShotSource.of(examples, n_ways=5, n_shots=1, n_queries=5)


def test_learning_from_past_intents_beats_tf_idf() -> None:
    splits = small_talk().split(0)
    assert check_source(splits.train)
    learner = Prototypes(TextEncoder(width=16, hidden=(16,)), transductive=True)
    settings = TrainSettings(steps=150, n_tasks=4, learning_rate=1e-2, execution="vectorised")
    *_, last = fit(learner, splits.train, settings)
    ours = evaluate(learner, last.params, splits.test, method="ours", n_tasks=100).score
    plain = baselines(learner, splits.train, TrainSettings(pretrain_steps=1), splits.test.spec)
    centroid, params = plain["nearest-centroid"]
    theirs = evaluate(centroid, params, splits.test, method="tf-idf", n_tasks=100).score
    raw = evaluate(type(centroid)(), {}, splits.test, method="ids", n_tasks=100).score
    assert theirs.interval[0] > raw.interval[1]  # ids themselves say nothing
    assert ours.interval[0] > theirs.interval[1]


def test_every_rule_takes_sentences() -> None:
    source = small_talk()
    learner = MAML(TextEncoder(width=8, hidden=()), inner_steps=1)
    params = learner.init(source.spec, torch.Generator().manual_seed(0))
    episodes, keys = source.episodes(0, "train", 0, 3)
    context = Context(source.spec, keys, training=True)
    one, all_at_once = (rule_for(learner, size)(learner, params, episodes, context) for size in (1, 3))
    for name, total in one.total.items():
        torch.testing.assert_close(all_at_once.total[name], total, rtol=1e-4, atol=1e-5)


def test_equal_sentences_are_kept_once() -> None:
    labelled = [("Pay it", "pay"), ("lose it", "lose"), ("pay  IT!", "other"), ("Pay me", "pay")]
    examples, place = sentences("x", labelled)
    assert examples.labels == ("lose", "pay")
    assert examples.y.tolist() == [place["pay"], place["lose"], place["pay"]]


def clinc_files(folder: Path, n: int = 6) -> dict[str, Any]:
    """Write a small CLINC150 as it is published."""
    domains = {d: [f"{d} {i}" for i in range(6)] for side in CLINC_DOMAINS for d in side}
    intents = [intent for names in domains.values() for intent in names]
    data: dict[str, Any] = {
        part: [[f"{part} {intent} sentence {k}", intent] for intent in intents for k in range(n)]
        for part in ("train", "val", "test")
    }
    data["oos_train"] = [["out of scope", "oos"]]
    folder.mkdir(exist_ok=True)
    (folder / "data_full.json").write_text(json.dumps(data))
    (folder / "domains.json").write_text(json.dumps(domains))
    return data


def banking_files(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for part, n in (("train", 15), ("test", 5)):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["text", "category"])
        writer.writerows((f"{part} says {i}, number {k}", f"intent {i}") for i in range(77) for k in range(n))
        (folder / f"{part}.csv").write_text(text.getvalue())


def zipped(folder: Path, name: str) -> Path:
    """Move what is in a folder into an archive."""
    files = list(folder.iterdir())
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file in files:
            archive.write(file, file.name)
            file.unlink()
    return folder / name


def intents_of(splits: Splits) -> list[set[str]]:
    return [set(side.classes) for side in splits]


def test_whole_domains_are_new(tmp_path: Path) -> None:
    clinc_files(tmp_path)
    splits = Clinc150(folder=str(tmp_path), n_queries=5, train_ways=8).splits()
    check_splits(splits)
    assert splits.train.spec.n_outputs == 8
    assert splits.test.spec.n_outputs == 5
    for side, domains in zip(intents_of(splits), CLINC_DOMAINS, strict=True):
        assert {intent.rsplit(" ", 1)[0] for intent in side} == set(domains)
    zipped(tmp_path, "clinc150.zip")
    again = Clinc150(folder=str(tmp_path), n_queries=5, train_ways=8).splits()
    assert again.test.fingerprint == splits.test.fingerprint


def test_intents_of_banking77_are_split_by_seed(tmp_path: Path) -> None:
    banking_files(tmp_path)
    splits = Banking77(folder=str(tmp_path)).splits()
    check_splits(splits)
    assert [len(side) for side in intents_of(splits)] == [25, 25, 27]
    other = Banking77(folder=str(tmp_path), seed=1).splits()
    assert intents_of(other) != intents_of(splits)


@pytest.mark.parametrize("kind", [Clinc150, Banking77])
def test_text_that_is_not_there_or_damaged_is_named(
    kind: type[Clinc150] | type[Banking77], tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=r"not found in .*; set TASKLORE_DATA"):
        kind(folder=str(tmp_path)).splits()
    clinc_files(tmp_path)
    banking_files(tmp_path)
    name = "domains.json" if kind is Clinc150 else "train.csv"
    (tmp_path / name).write_bytes(b'{"banking": 3}')
    with pytest.raises(DamagedArtifact, match="anew"):
        kind(folder=str(tmp_path)).splits()
    (tmp_path / f"{'clinc150' if kind is Clinc150 else 'banking77'}.zip").write_bytes(b"PK no archive")
    with pytest.raises(DamagedArtifact, match=r"zip cannot be read"):
        kind(folder=str(tmp_path)).splits()


def test_an_intent_without_a_sentence_is_named(tmp_path: Path) -> None:
    data = clinc_files(tmp_path)
    left = {part: [row for row in rows if row[1] != "home 3"] for part, rows in data.items()}
    (tmp_path / "data_full.json").write_text(json.dumps(left))
    with pytest.raises(DamagedArtifact, match="no sentence of home 3"):
        Clinc150(folder=str(tmp_path)).splits()


def spectra(folder: Path, **changes: Any) -> str:
    """Write a few made-up spectra: a bump for the digit, and a level for the speaker."""
    names = [name for side in SPEAKERS for name in side]
    rng = np.random.default_rng(0)
    speaker, digit = (part.ravel().repeat(8) for part in np.mgrid[:6, :10].astype(np.uint8))
    x = rng.normal(size=(len(digit), 16, 16)) + 2.0 * speaker[:, None, None]
    x[np.arange(len(digit)), digit] += 4
    arrays: dict[str, Any] = {
        "logmel": x.astype(np.float16),
        "digit": digit,
        "speaker": speaker,
        "speakers": np.array(names),
    }
    np.savez(folder / "fsdd_logmel.npz", **{**arrays, **changes})
    return str(folder)


def test_every_task_is_one_speaker_and_the_test_has_new_ones(tmp_path: Path) -> None:
    splits = SpokenDigits(folder=spectra(tmp_path), n_queries=4).splits()
    check_splits(splits)
    for side, speakers in zip(splits, SPEAKERS, strict=True):
        assert {name.split(":")[0] for name in side.classes} == set(speakers)
        for index in range(5):
            task = side.task(np.random.default_rng(index))
            assert len({label.split(":")[0] for label in task.labels}) == 1
    drawn = splits.train.episodes(0, "train", 0, 20)[0].support.x
    assert drawn.shape[2:] == (1, 16, 16)
    assert abs(float(drawn.mean())) < 0.2
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speakers": np.array(["somebody"] * 6)}, "lacks the speakers"),
        ({"digit": np.zeros(3, np.uint8)}, "as many spectra"),
        ({"digit": np.full(480, 11, np.uint8)}, "digits or speakers that there are not"),
    ],
)
def test_damaged_spectra_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedArtifact, match=message):
        SpokenDigits(folder=spectra(tmp_path, **changes)).splits()


def test_spectra_that_are_not_there_are_told_how_to_make(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="make the log-mel spectra"):
        SpokenDigits(folder=str(tmp_path)).splits()


def test_a_mix_is_pooled_part_by_part() -> None:
    parts = [
        FewShotSource.of(
            Examples(f"part {n}", torch.full((40, 2), float(n)), torch.arange(4).repeat(10), tuple("abcd")),
            n_ways=2,
            n_queries=2,
        )
        for n in range(3)
    ]
    mixed = MixedSource(tuple(parts), (1.0, 2.0, 0.0))
    assert mixed.pool_spec.n_outputs == 12
    x, y, mask = mixed.pool(np.random.default_rng(0), 300)
    assert len(x) == len(y) == 300
    assert mask.all()
    assert (y // 4 == x[:, 0]).all()  # the first part's classes come first, then the second's
    assert set((y // 4).tolist()) == {0, 1}
    assert int((y // 4 == 1).sum()) == pytest.approx(200, abs=30)


@needs_data
def test_the_real_sentences_and_sounds() -> None:
    clinc, banking, spoken = Clinc150().splits(), Banking77().splits(), SpokenDigits().splits()
    assert [len(side) for side in intents_of(clinc)] == [75, 30, 45]
    assert [len(side) for side in intents_of(banking)] == [25, 25, 27]
    assert [len(side) for side in intents_of(spoken)] == [30, 10, 20]
    for splits in (clinc, banking, spoken):
        check_splits(splits)
    net = Conv4(8)
    params = net.init(spoken.train.spec.input_shape, None, torch.Generator().manual_seed(0))
    support = spoken.train.episodes(0, "train", 0, 1)[0].support
    assert torch.isfinite(net.apply(params, Inputs(support.x[0], support.mask[0]))[0]).all()
