"""Several collections in one: brought to one shape, drawn in their shares, judged apart."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tasklore.cli.show import by_source
from tasklore.contest import Contest, Standing, hold, on_sources
from tasklore.errors import InvalidData, InvalidSetting, UnknownName
from tasklore.experience import open_store
from tasklore.experience.records import TaskRecord
from tasklore.experiment import Experiment, conduct
from tasklore.nets import MLP
from tasklore.registry import sources
from tasklore.report import write_report
from tasklore.report.contest import write_contest
from tasklore.tasks.few_shot import Examples, FewShotSource
from tasklore.tasks.mix import Mix, reshaped
from tasklore.tasks.source import Collection, MixedSource, Splits
from tasklore.testing.source import check_source
from tasklore.train import TrainSettings


@dataclass(frozen=True)
class ColourDigits(Collection):
    """Digits as large images in colour, red where they are dark."""

    n_ways: int = 3
    n_queries: int = 4

    def splits(self) -> Splits:
        digits = cast("Any", load_digits())
        large = digits.images[:, None].repeat(2, 2).repeat(2, 3).astype(np.float32)
        colour = np.concatenate([large, 16 - large, 0 * large], 1)
        names = np.array([f"colour {n}" for n in range(10)])[digits.target]
        examples = Examples.from_arrays("colour digits", colour, names, mean=5.0, std=6.0)
        source = FewShotSource.of(examples, n_ways=self.n_ways, n_queries=self.n_queries)
        return Splits(source.only([0, 1, 2, 3]), source.only([4, 5, 6]), source.only([7, 8, 9]))


@dataclass(frozen=True)
class HalvedDigits(ColourDigits):
    """The same, whose past tasks are of one half of the classes or of the other."""

    n_ways: int = 2

    def splits(self) -> Splits:
        found = super().splits()
        train = cast("FewShotSource", found.train)
        return found._replace(train=MixedSource((train.only([0, 1]), train.only([2, 3]))))


@pytest.fixture(autouse=True)
def colour_digits() -> Iterator[None]:
    sources.names()  # the built-in ones come first
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in (("colour-digits", ColourDigits), ("halved-digits", HalvedDigits)):
            patch.setitem(sources._entries, name, kind)  # pyright: ignore[reportPrivateUsage]
        yield


def test_each_task_is_of_one_collection_in_the_shape_of_the_first() -> None:
    splits = Mix(("digits", "colour-digits"), weights=(3.0, 1.0), n_ways=3, n_queries=4).splits()
    assert isinstance(splits.train, MixedSource)
    assert splits.train.spec.input_shape == (1, 8, 8)
    assert splits.test.names == ("digits", "colour-digits")  # pyright: ignore[reportAttributeAccessIssue]
    rng = np.random.default_rng(0)
    drawn = [splits.train.task(rng).name.split(":")[0] for _ in range(200)]
    assert 130 < sum("colour" not in name for name in drawn) < 170
    check_source(splits.train)
    for source in (splits.train, splits.validation, splits.test):
        episodes, _ = source.episodes(0, "t", 0, 3)
        assert episodes.support.x.shape[2:] == (1, 8, 8)
    examples = [cast("Any", part).examples for part in splits.train.parts]
    again = [cast("Any", part).examples for part in cast("MixedSource", splits.test).parts]
    assert again[1].x is examples[1].x, "converted once"


def test_what_nothing_is_learned_from_is_judged_too() -> None:
    splits = Mix(("digits",), unseen=("colour-digits",), n_ways=3, n_queries=4, size=10, channels=3).splits()
    assert len(cast("MixedSource", splits.train).parts) == 1
    assert cast("MixedSource", splits.test).names == ("digits", "colour-digits")
    assert splits.test.spec.input_shape == (3, 10, 10)


def test_grey_is_luminance_and_sizes_are_averaged() -> None:
    x = torch.zeros(2, 3, 4, 4)
    x[0, 0], x[0, 1], x[0, 2] = 100.0, 200.0, 50.0
    x[1, :, :2] = 80.0
    examples = Examples("two", x, torch.tensor([0, 1]), ("a", "b"), (10.0, 20.0, 30.0), (1.0, 2.0, 3.0))
    grey = reshaped(examples, (1, 2, 2))
    assert grey.x.shape == (2, 1, 2, 2)
    assert grey.x[0].flatten().tolist() == pytest.approx([0.299 * 100 + 0.587 * 200 + 0.114 * 50] * 4)
    assert grey.x[1].flatten().tolist() == pytest.approx([70.0, 70.0, 10.0, 10.0], abs=11)
    assert grey.x[1].mean() == pytest.approx(40.0, abs=0.01)
    assert (grey.mean, grey.std) == ((20.0,), (2.0,))
    bytes_ = Examples("one", torch.full((1, 1, 4, 4), 77, dtype=torch.uint8), torch.zeros(1).long(), ("a",))
    colour = reshaped(bytes_, (3, 7, 7))
    assert colour.x.dtype == torch.uint8
    assert colour.x.unique().tolist() == [77]


def test_what_cannot_be_mixed_is_refused() -> None:
    cases: list[dict[str, Any]] = [
        {"of": ()},
        {"of": ("digits", "digits")},
        {"of": ("digits",), "unseen": ("digits",)},
        {"of": ("mix",)},
        {"of": ("digits",), "weights": (1.0, 2.0)},
        {"of": ("digits",), "weights": (0.0,)},
        {"size": 0},
        {"channels": 2},
    ]
    for wrong in cases:
        with pytest.raises(InvalidSetting):
            Mix(**wrong)
    with pytest.raises(UnknownName, match="digits"):
        Mix(("digit",)).splits()
    with pytest.raises(InvalidSetting, match="image-folder needs folder, which a mix cannot give"):
        Mix(("image-folder", "digits")).splits()
    with pytest.raises(InvalidData, match="cannot be brought to"):
        Mix(("digits", "sinusoid")).splits()


def test_every_method_is_judged_on_each_source(tmp_path: Path) -> None:
    tasks = {"name": "mix", "of": ["digits"], "unseen": ["colour-digits"], "n_ways": 3, "n_queries": 4}
    experiment = Experiment.from_sections(
        {
            "tasks": tasks,
            "learner": {"name": "prototypes"},
            "net": {"name": "mlp", "hidden": [16]},
            "train": {"steps": 4, "n_tasks": 4, "n_validation": 6, "pretrain_steps": 5},
            "stop": {"rounds": 1},
            "test": {"n_tasks": 6, "shots": [1, 2]},
        }
    )
    with open_store(tmp_path / "lore.db") as store:
        findings = conduct(experiment, tmp_path / "run", store, tmp_path / "artifacts")
        recorded = [record.name for record in store.find(TaskRecord)]
        page = write_report(findings, tmp_path / "report.html").read_text(encoding="utf-8")
    methods = {row.evaluation.method for row in findings.rows}
    assert {(row.source, row.shots, row.evaluation.method) for row in findings.by_source} == {
        (source, shots, method)
        for source in ("digits", "colour-digits")
        for shots in (1, 2)
        for method in methods
    }
    assert "mix, colour-digits, test, 2 shots" in recorded
    assert "On each source by itself" in page
    assert "Nothing was learned from colour-digits" in page
    table = by_source(findings.by_source)
    assert [column.header for column in table.columns] == ["method", "digits", "colour-digits"]
    assert table.row_count == len(methods)


def test_a_contest_judges_every_method_on_each_source(tmp_path: Path) -> None:
    tasks = Mix(("digits",), unseen=("colour-digits",), n_ways=3, n_queries=4)
    settings = TrainSettings(steps=3, n_tasks=2, n_validation=4, pretrain_steps=5)
    contest = Contest(tasks, MLP((16,)), settings, minutes=0.01, shots=(1, 2), n_tasks=6)

    def held() -> tuple[Standing, ...]:
        with open_store(tmp_path / "lore.db") as store:
            return hold(contest, ("prototypes",), tmp_path / "contest", store, tmp_path / "artifacts")

    standings = held()
    assert all(
        len(standing.by_source[part][shots].scores) == 6
        for standing in standings
        for part in ("digits", "colour-digits")
        for shots in (1, 2)
    )
    assert held() == standings  # read back
    rows = on_sources(standings)
    assert len(rows) == len(standings) * 2 * 2
    assert by_source(rows).row_count == len(standings)
    page = write_contest(contest, standings, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "On each source by itself" in page
    before = dataclasses.replace(standings[0], by_source={})  # of a contest that did not ask for it
    assert on_sources((before, *standings[1:])) == ()


@pytest.mark.parametrize("other", ["colour-digits", "halved-digits"])
def test_images_of_all_parts_are_scaled_alike_and_a_prior_knows_how(other: str) -> None:
    splits = Mix(("digits", other), n_ways=2, n_queries=4).splits()
    scaling = splits.train.scaling
    assert scaling.to_dict() == splits.test.scaling.to_dict()
    assert float(scaling.x_std.item()) != 1.0
    drawn = torch.cat([splits.train.episodes(0, "t", i, 20)[0].support.x.flatten() for i in range(4)])
    assert abs(float(drawn.mean())) < 0.1
    assert 0.9 < float(drawn.std()) < 1.1
