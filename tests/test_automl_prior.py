"""What past tables say: whom to ask, what to try next, and how long it takes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tasklore.apps.automl.descriptors import NAMES
from tasklore.apps.automl.memory import recall
from tasklore.apps.automl.portfolio import Measured
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.replay import as_in_search, play
from tasklore.apps.automl.trainer import PortfolioTrainer, PriorState
from tasklore.errors import DamagedArtifact, InvalidData
from tasklore.experience.store import open_store
from tasklore.loop import Stop, Tasks, run

CANDIDATES = ("constant", "huber", "lightgbm", "ridge-1", "tree-3")


def described(rows: float = 5.0, linear: float = 0.0) -> dict[str, float]:
    """Return descriptors; a linear table differs from a bent one in a third of them."""
    names = NAMES["regression"]
    return dict.fromkeys(names, 0.0) | dict.fromkeys(names[::3], linear) | {"rows": rows}


def past(name: str, errors: dict[str, float], seed: int, rows: float = 5.0, linear: float = 0.0) -> Measured:
    """Return a table on which each candidate errs by so much."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=200)
    predictions = {c: (y + e * rng.normal(size=200)).astype(np.float32)[:, None] for c, e in errors.items()}
    predictions["constant"] = np.full((200, 1), y.mean(), dtype=np.float32)
    losses = {c: float(((p[:, 0] - y) ** 2).mean() / y.var()) for c, p in predictions.items()}
    seconds = {"constant": 0.001, "ridge-1": 0.01, "tree-3": 0.01, "huber": 0.1, "lightgbm": 0.5}
    scaled = {c: s * float(np.expm1(rows)) / 150 for c, s in seconds.items() if c in losses}
    return Measured(name, name, "regression", y, losses, scaled, predictions, described(rows, linear))


def tables(n: int = 8) -> list[Measured]:
    """Half of them linear, described as such, half of them not."""
    linear = {"ridge-1": 0.1, "huber": 0.2, "tree-3": 0.8, "lightgbm": 0.5}
    bent = {"ridge-1": 0.9, "huber": 0.9, "tree-3": 0.5, "lightgbm": 0.2}
    return [
        past(f"linear {i}", linear, i, 4 + i / 2, linear=0.9)
        if i % 2
        else past(f"bent {i}", bent, i, 4 + i / 2, linear=0.1)
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def prior() -> TablePrior:
    return TablePrior.learn(tables())


def test_tables_that_are_alike_count_more(prior: TablePrior) -> None:
    weights = prior.likeness({}, described(linear=0.9))
    of_linear = np.array([name.startswith("linear") for name in prior.tasks])
    assert weights[of_linear].min() > weights[~of_linear].max()
    assert weights.max() == 1.0


def test_behaviour_corrects_descriptors(prior: TablePrior) -> None:
    """Described as linear, but the tree beats the line."""
    tried = {"ridge-1": 0.8, "tree-3": 0.25, "huber": 0.8}
    weights = prior.likeness(tried, described(linear=0.9))
    of_linear = np.array([name.startswith("linear") for name in prior.tasks])
    assert weights[~of_linear].mean() > weights[of_linear].mean()
    cost = {"lightgbm": 1.0, "constant": 1.0}
    assert prior.choose(tried, described(linear=0.9), cost, 1) == "lightgbm"


def test_expected_improvement_by_hand() -> None:
    first, second = (
        past("a", {"ridge-1": 0.5, "tree-3": 0.2}, 0),
        past("b", {"ridge-1": 0.3, "tree-3": 0.9}, 1),
    )
    prior = TablePrior.learn([first, second])
    gains = prior.improvement(["ridge-1"], np.array([3.0, 1.0]))
    share = (first.losses["ridge-1"] - first.losses["tree-3"]) / (first.trivial - first.losses["tree-3"])
    assert gains[prior.candidates.index("tree-3")] == pytest.approx(3 * share / 4, rel=1e-4)
    assert gains[prior.candidates.index("ridge-1")] == 0.0


def test_portfolio_and_promise_take_turns(prior: TablePrior) -> None:
    cost: dict[str, float] = dict.fromkeys(CANDIDATES, 1.0)
    assert prior.choose({}, described(), cost, 0) == prior.portfolio[0]
    promising = prior.choose({}, described(linear=0.9), {"ridge-1": 1.0, "lightgbm": 1.0}, 1)
    assert promising == "ridge-1"
    assert prior.choose({}, described(linear=0.9), {"ridge-1": 1e6, "lightgbm": 1.0}, 1) == "lightgbm"
    assert prior.choose({}, described(), {}, 0) is None


def test_times_grow_with_rows_as_they_did(prior: TablePrior) -> None:
    found = prior.seconds_for(described(rows=6.0))
    seconds = dict(zip(prior.candidates, found, strict=True))
    assert seconds["lightgbm"] == pytest.approx(0.5 * np.expm1(6.0) / 150, rel=0.25)
    assert seconds["ridge-1"] < seconds["huber"] < seconds["lightgbm"]


def test_a_table_that_tells_no_times_spoils_none(prior: TablePrior) -> None:
    silent = dataclasses.replace(
        prior, seconds=np.where(np.arange(len(prior.tasks))[:, None], prior.seconds, np.nan)
    )
    found = silent.seconds_for(described())
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, prior.seconds_for(described()), rtol=0.5)


def test_a_file_gives_the_same_prior(prior: TablePrior, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    prior.save(path)
    again = TablePrior.load(path)
    for field in dataclasses.fields(TablePrior):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(prior, field.name))
    checksum = prior.save(tmp_path / "other.safetensors")
    assert checksum == again.save(path), "equal priors give equal files"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="checksum"):
        TablePrior.load(path)


def test_without_a_family(prior: TablePrior) -> None:
    fewer = prior.without({"linear 1"})
    assert len(fewer.tasks) == len(prior.tasks) - 1
    assert "linear 1" not in fewer.tasks
    assert fewer.losses.shape == (len(fewer.tasks), len(CANDIDATES))
    with pytest.raises(InvalidData, match="no past tables but those of"):
        prior.without(set(prior.families))


def test_the_portfolio_is_built_again_without_a_family() -> None:
    """By hand: b is best on average with c, and a, the best where it is left out, is nowhere else."""
    shipped = TablePrior.shipped("regression")
    names = ("a", "b", "c", "constant")
    losses = np.array([[0.0, 0.9, 0.9, 1.0], [0.9, 0.2, 0.8, 1.0], [0.9, 0.4, 0.1, 1.0]], np.float32)
    few = dataclasses.replace(
        shipped,
        portfolio=("a", "b", "c"),
        candidates=names,
        tasks=("one", "two", "three"),
        families=("one", "two", "three"),
        losses=losses,
        seconds=np.full((3, 4), 0.1, np.float32),
        descriptors=shipped.descriptors[:3],
    )
    assert few.without({"one"}).portfolio == ("b", "c", "a")
    assert few.without({"two", "three"}).portfolio[0] == "a"


def test_what_a_store_does_not_tell_is_not_bad() -> None:
    """By hand: on a table of one's own a was tried, and b, which was better; c was not, d nowhere."""
    shipped = TablePrior.shipped("regression")
    losses = np.array([[0.8, 0.6, 0.4, np.nan], [0.5, 0.3, np.nan, np.nan]], np.float32)
    few = dataclasses.replace(
        shipped,
        portfolio=(),
        candidates=("a", "b", "c", "d"),
        tasks=("past", "own"),
        families=("past", "own"),
        losses=losses,
        seconds=np.full((2, 4), 0.1, np.float32),
        descriptors=shipped.descriptors[:2],
    )
    alike = np.ones(2)
    failed = few.improvement(["a"], alike)
    assert failed == pytest.approx([0.0, (0.2 / 0.6 + 0.2 / 0.7) / 2, 0.4 / 0.6 / 2, 0.0])
    unknown = dataclasses.replace(few, sampled=np.array([False, True])).improvement(["a"], alike)
    assert unknown == pytest.approx([0.0, (0.2 / 0.6 + 0.2 / 0.7) / 2, 0.4 / 0.6, 0.0])
    of_others = dataclasses.replace(few, sampled=np.array([False, True])).improvement(["c"], alike)
    assert of_others == pytest.approx([0.0, 0.0, 0.0, 0.0]), "nothing tried is known of one's own"
    cost = {"a": 1.0, "b": 1.0, "d": 1.0}
    assert few.most_promising(["c"], np.array([1.0, 0.0]), cost) == "b", (
        "nothing is better: the best on average"
    )
    assert few.most_promising(["a"], alike, {"b": 1.0, "c": 0.1}) == "c"


def test_what_is_under_way_counts_as_tried_but_not_as_alike() -> None:
    prior = TablePrior.shipped("classification")
    described = {
        name: float(value) for name, value in zip(NAMES["classification"], prior.descriptors[0], strict=True)
    }
    known = {"tree-3": 0.5, "logistic-1": 0.3}
    pending = known | {"forest": float("nan")}
    np.testing.assert_array_equal(prior.likeness(known, described), prior.likeness(pending, described))
    weights = prior.likeness(known, described)
    gains = prior.improvement(pending, weights)
    assert gains[prior.candidates.index("forest")] == 0.0
    near = prior.candidates.index("forest-many")
    assert gains[near] < prior.improvement(known, weights)[near]


def test_no_experience_is_an_error() -> None:
    with pytest.raises(InvalidData, match="tasklore collect"):
        TablePrior.learn([])


def test_an_empty_store_changes_nothing(prior: TablePrior, tmp_path: Path) -> None:
    with open_store(tmp_path / "lore.db") as store:
        assert recall(store, "regression") == {}
        assert prior.with_store(store) is prior


def test_a_search_played_back(prior: TablePrior) -> None:
    table = past("new", {"ridge-1": 0.1, "huber": 0.2, "tree-3": 0.8, "lightgbm": 0.5}, 99, 5.0, linear=0.9)
    played = play(table, as_in_search(prior, table))
    assert set(played.tried) == set(CANDIDATES) - {"constant"}
    assert list(played.single) == sorted(played.single, reverse=True)
    assert played.single[-1] == 0.0
    assert played.blend <= 0.0
    short = play(table, as_in_search(prior, table), seconds=0.05)
    assert len(short.tried) < len(played.tried)
    nothing = play(table, as_in_search(prior, table), seconds=0.0)
    assert nothing.tried == ()
    assert nothing.blend == 1.0


def test_meta_learning_goes_through_the_loop() -> None:
    """The very loop that trains networks calls the verbs in its order."""
    calls: list[str] = []

    class Traced(PortfolioTrainer):
        def learn(self, state, past):  # type: ignore[no-untyped-def]  # pyright: ignore
            calls.append("learn")
            yield from super().learn(state, past)

        def apply(self, state, support):  # type: ignore[no-untyped-def]  # pyright: ignore
            calls.append("apply")
            return super().apply(state, support)

        def adjust(self, state, scores):  # type: ignore[no-untyped-def]  # pyright: ignore
            calls.append("adjust")
            return super().adjust(state, scores)

    class Nothing:
        def collect(self, past: Sequence[Measured]) -> Sequence[Measured]:
            calls.append("collect")
            return past

        def prior(self) -> TablePrior | None:
            return None

        def resume(self) -> tuple[PriorState, float] | None:
            return None

        def checkpoint(self, state: PriorState, seconds: float, due: bool) -> None:
            pass

        def remember(self, state: PriorState, scores: list[float], decision: str, seconds: float) -> None:
            calls.append(decision)

    experience = tables()
    outcome = run(Traced(growth=2), Tasks(experience[:6], experience[6:]), Stop(rounds=2), Nothing())
    one = ["collect", "learn", "apply", "apply", "adjust"]
    assert calls == [*one, "go on", *one, "stop: rounds: 2 are done"]
    assert outcome.state.step == 4
    assert outcome.state.history[-1].mean > 0.9
