"""Where tasks come from: the same draw everywhere, disjoint sets, classes that never meet."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from tasklore.errors import CheckFailed, DownloadError, InvalidData
from tasklore.registry import sources
from tasklore.tasks.few_shot import Examples, FewShotSource
from tasklore.tasks.source import Collection, MixedSource, Splits, Task, TaskSource, pad, stack
from tasklore.tasks.synthetic import SinusoidSource
from tasklore.testing.source import check_source, check_splits
from tasklore.types import Batch, Episode, TaskSpec

DATA = Path(os.environ.get("TASKLORE_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(params=sources.names())
def collection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Collection:
    files = {
        "omniglot": "images/omniglot.npz",
        "mnist": "images/mnist/train-images-idx3-ubyte.gz",
        "mix": "images/omniglot.npz",
        "cifar-fs": "images/cifar100_train_b.npz",
        "clinc150": "text/clinc150.zip",
        "banking77": "text/banking77.zip",
        "spoken-digits": "audio/fsdd_logmel.npz",
    }
    if (file := files.get(request.param)) is not None:
        if not (DATA / file).is_file():
            pytest.skip(f"{file} is not in {DATA}; set TASKLORE_DATA")
        monkeypatch.setenv("TASKLORE_DATA", str(DATA))
    settings: dict[str, Any] = {}
    if request.param == "image-folder":
        rng = np.random.default_rng(0)
        for label in range(25):
            (tmp_path / str(label)).mkdir()
            for index in range(8):
                picture = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
                picture.save(tmp_path / str(label) / f"{index}.png")
        settings["folder"] = str(tmp_path)
    return cast("Any", sources.get(request.param))(**settings)


def numbered(n_classes: int = 8, each: int = 10) -> FewShotSource:
    """Return a source whose examples carry their own number, so that a repetition shows."""
    x = torch.arange(n_classes * each, dtype=torch.float32).view(-1, 1)
    y = torch.arange(n_classes).repeat_interleave(each)
    return FewShotSource.of(Examples("numbered", x, y, tuple(map(str, range(n_classes)))), 3, 2, 4)


def test_collections_draw_the_same_tasks_twice_and_different_ones_elsewhere(collection: Collection) -> None:
    splits = collection.splits()
    passed = check_splits(splits)
    assert len(passed) == 31
    for source in splits:
        first, keys = source.episodes(3, "a", 7, 4)
        again, again_keys = source.episodes(3, "a", 7, 4)
        other, other_keys = source.episodes(3, "b", 7, 4)
        assert torch.equal(first.query.x, again.query.x)
        assert torch.equal(keys, again_keys)
        assert not torch.equal(first.query.x, other.query.x)
        assert not set(keys.tolist()) & set(other_keys.tolist())
        assert first.support.x.shape[2:] == source.spec.input_shape
        assert bool(torch.isfinite(first.support.x).all())
        assert source.with_shots(2).episodes(0, "a", 0, 1)[0].support.mask.sum() >= 2
        assert source.with_shots(2).fingerprint != source.with_shots(3).fingerprint


def test_classes_of_train_validation_and_test_never_meet(collection: Collection) -> None:
    splits = collection.splits()
    if not isinstance(splits.train, FewShotSource):
        return  # endless tasks of a formula
    parts = [set(cast("FewShotSource", side).variants) for side in splits]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    labels = [{label for label, _ in part} for part in parts]
    assert not labels[2] & (labels[0] | labels[1])  # a test class is not even met in another orientation


def test_omniglot_has_the_papers_numbers_of_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DATA / "images" / "omniglot.npz").is_file():
        pytest.skip(f"Omniglot is not in {DATA}; set TASKLORE_DATA")
    monkeypatch.setenv("TASKLORE_DATA", str(DATA))
    for split, expected in (("random", (1100, 100, 423)), ("alphabets", None)):
        splits = cast("Any", sources.get("omniglot"))(split=split).splits()
        counts = tuple(len({label for label, _ in side.variants}) for side in splits)
        assert counts == (expected or counts)
        assert sum(counts) == 1623
        assert counts[2] == (423 if split == "random" else 659)
        assert len(splits.train.variants) == 4 * counts[0]


def test_missing_data_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKLORE_DATA", raising=False)
    with pytest.raises(DownloadError, match="TASKLORE_DATA"):
        cast("Any", sources.get("omniglot"))(download=False).splits()


def test_no_example_appears_twice_in_an_episode() -> None:
    episodes, _ = numbered().episodes(0, "t", 0, 50)
    for task in range(50):
        numbers = torch.cat([episodes.support.x[task], episodes.query.x[task]]).flatten().tolist()
        assert len(set(numbers)) == len(numbers) == 3 * 6
        classes = [
            {int(v) // 10 for v in episodes.support.x[task, episodes.support.y[task] == k]} for k in range(3)
        ]
        queries = [
            {int(v) // 10 for v in episodes.query.x[task, episodes.query.y[task] == k]} for k in range(3)
        ]
        assert classes == queries
        assert len(set.union(*classes)) == 3


def test_a_draw_never_changes_between_versions() -> None:
    episodes, keys = numbered().episodes(11, "train", 5, 3)
    digest = hashlib.sha256(episodes.support.x.numpy().tobytes() + keys.numpy().tobytes()).hexdigest()
    assert digest[:16] == "ca950a889b1dc85a"


def test_turned_classes_are_turned_images() -> None:
    x = torch.arange(2 * 6 * 9, dtype=torch.uint8).view(12, 1, 3, 3)
    examples = Examples("tiles", x, torch.arange(2).repeat_interleave(6), ("a", "b"), std=(2.0,))
    for turns in range(4):
        read = examples.read(np.array([4]), np.array([turns]))[0, 0].numpy()
        assert np.array_equal(read, np.rot90(x[4, 0].numpy() / 2.0, turns))


def test_ways_and_shots_may_vary_and_padding_is_masked() -> None:
    base = numbered()
    source = FewShotSource(base.examples, base.variants, n_ways=(2, 4), n_shots=(1, 3), n_queries=2)
    episodes, _ = source.episodes(0, "t", 0, 40)
    counts = episodes.support.mask.sum(1)
    assert counts.min() >= 2
    assert counts.max() <= 12
    assert len(counts.unique()) > 3
    assert bool((episodes.support.x[episodes.support.mask == 0] == 0).all())


def test_mixed_sources_keep_their_shares_and_refuse_other_shapes() -> None:
    near, far = numbered(), numbered(4)
    mixed = MixedSource((near, far), weights=(3.0, 1.0))
    rng = np.random.default_rng(0)
    tasks = [cast("Any", mixed.task(rng)).source for _ in range(400)]
    assert 250 < sum(source is near for source in tasks) < 350
    with pytest.raises(InvalidData, match="agree"):
        MixedSource((near, SinusoidSource()))


def test_pool_labels_are_global() -> None:
    batch = numbered().pool(np.random.default_rng(0), 64)
    assert torch.equal(batch.x.flatten().long() // 10, batch.y)


def test_sinusoid_points_lie_on_the_wave() -> None:
    task = SinusoidSource(5, 10).task(np.random.default_rng(0))
    episode = task.episode(np.random.default_rng(1))
    x, y, _ = episode.joined
    wave: Any = task
    assert np.allclose(y.numpy(), wave.amplitude * np.sin(x.numpy() - wave.phase), atol=1e-5)


def test_padding_and_stacking() -> None:
    batch = Batch(torch.ones(2, 3), torch.ones(2, dtype=torch.int64), torch.ones(2))
    assert pad(batch, 2) is batch
    assert pad(batch, 5).mask.tolist() == [1, 1, 0, 0, 0]
    with pytest.raises(InvalidData, match="no episodes"):
        stack([])


def test_fingerprints_are_the_same_in_another_process() -> None:
    import subprocess
    import sys

    source: TaskSource = SinusoidSource(5, 10)
    program = "from tasklore.tasks.synthetic import SinusoidSource; print(SinusoidSource(5, 10).fingerprint)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == source.fingerprint


# The public checks see what is wrong


@dataclass(frozen=True)
class Faulty(SinusoidSource):
    """A source that breaks one promise."""

    fault: str = ""

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec("regression", (2,), 1) if self.fault == "shape" else super().spec

    def describe(self) -> dict[str, object]:
        described = super().describe()
        if self.fault == "description":
            return described | {"object": self}
        if self.fault == "shots":
            return {name: value for name, value in described.items() if name != "n_shots"}
        return described | ({"now": time.perf_counter()} if self.fault == "clock" else {})

    def episodes(self, seed: int, stream: str, step: int, n_tasks: int) -> tuple[Episode, torch.Tensor]:
        if self.fault == "seed":
            seed = 0
        if self.fault == "global":
            torch.rand(1)
        episodes, keys = super().episodes(seed, stream, step, n_tasks)
        if self.fault == "chance":
            noise = torch.rand(
                episodes.query.x.shape, generator=torch.Generator().manual_seed(time.time_ns())
            )
            episodes = Episode(episodes.support, episodes.query._replace(x=noise))
        return episodes, keys

    def task(self, rng: np.random.Generator) -> Task:  # pyright: ignore[reportIncompatibleMethodOverride]
        return FaultyTask(super().task(rng), self.fault)


@dataclass(frozen=True)
class FaultyTask(Task):
    whole: Task
    fault: str

    @property
    def name(self) -> str:
        return self.whole.name

    def episode(self, rng: np.random.Generator) -> Episode:
        support, query = self.whole.episode(rng)
        if self.fault == "mask":
            query = query._replace(mask=torch.zeros_like(query.mask))
        elif self.fault == "NaN":
            query = query._replace(y=query.y * float("nan"))
        elif self.fault == "twice":
            query = query._replace(x=support.x[:1].expand_as(query.x))
        return Episode(support, query)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", None),
        ("shape", "have the shapes"),
        ("description", "not JSON"),
        ("shots", "with_shots does not change the fingerprint"),
        ("clock", "the fingerprint changed"),
        ("seed", "another seed gave the same"),
        ("global", "a global generator was used"),
        ("chance", "the same draw gave other episodes"),
        ("mask", "a mask is neither"),
        ("NaN", "NaN or infinite"),
        ("twice", "appears twice"),
    ],
)
def test_check_source_sees_what_is_wrong(fault: str, message: str | None) -> None:
    source = Faulty(fault=fault)
    if message is None:
        assert "no example appears twice" in check_source(source)
        return
    with pytest.raises(CheckFailed, match=message):
        check_source(source)


def test_check_splits_sees_classes_that_meet() -> None:
    source = numbered()
    with pytest.raises(CheckFailed, match="train and validation share 8 classes or tasks, such as '0'"):
        check_splits(Splits(source, source, source))


def test_a_source_is_shown_in_a_line() -> None:
    examples = Examples(
        "x", torch.zeros(4000, 1, 2, 2), torch.arange(400).repeat(10), tuple(map(str, range(400)))
    )
    shown = repr(FewShotSource.of(examples, n_ways=2, n_shots=1, n_queries=2))
    assert len(shown) < 200
    assert "'x', 4000 of 1×2×2, 400 classes" in shown
