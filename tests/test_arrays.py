"""Past tasks from plain arrays."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.preprocessing import StandardScaler

from tasklore.errors import InvalidData, InvalidSetting
from tasklore.tasks.arrays import ArrayTask, ArrayTaskList, from_arrays
from tasklore.tasks.scaling import Scaling
from tasklore.tasks.source import TaskList, task_rng
from tasklore.types import TaskSpec


def classes_of(sizes: dict[str, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose first feature tells their class, and whose second is all different."""
    y = np.repeat(list(sizes), list(sizes.values()))
    code = {label: float(index) for index, label in enumerate(sorted(sizes))}
    x = np.stack([[code[label] for label in y], np.random.default_rng(seed).permutation(len(y))], 1)
    return x.astype(np.float64), y


def regression(n: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)), rng.normal(size=n)


def test_an_episode_is_made_of_the_given_rows_and_labels() -> None:
    tasks = from_arrays([classes_of({"ant": 30, "bee": 30, "cow": 30})], n_shots=4, n_queries=6)
    orders: set[tuple[str, ...]] = set()
    for step in range(10):
        rng = task_rng(0, "train", step, 0)
        task = tasks.task(rng)
        support, query = task.episode(rng)
        assert support.x.shape == (12, 2)
        assert query.x.shape == (18, 2)
        for x, y in ((support.x, support.y), (query.x, query.y)):
            assert [("ant", "bee", "cow")[int(code)] for code in x[:, 0]] == [task.labels[i] for i in y]
        rows = torch.cat([support.x, query.x])[:, 1]
        assert len(set(rows.tolist())) == 30, "support and query share no row"
        orders.add(task.labels)
    assert len(orders) > 1, "which class comes first is drawn anew"


def test_tasks_may_differ_in_ways_and_shots() -> None:
    tasks = from_arrays(
        [classes_of({"a": 3, "b": 2}), classes_of({"a": 40, "b": 40, "c": 2}, seed=1)], n_shots=5, n_queries=7
    )
    assert tasks.spec == TaskSpec("classification", (2,), 3)
    episodes, _ = tasks.episodes(0, "train", 0, 20)
    assert set(episodes.support.mask.sum(1).tolist()) == {2 + 1, 5 + 5 + 1}
    assert set(episodes.query.mask.sum(1).tolist()) == {2, 7 + 7 + 1}
    assert float(episodes.support.x[episodes.support.mask == 0].abs().sum()) == 0


def test_of_many_classes_some_are_drawn() -> None:
    tasks = from_arrays([classes_of(dict.fromkeys("abcdefgh", 6))], max_ways=3, n_shots=2)
    drawn = [tasks.task(task_rng(0, "train", step, 0)).labels for step in range(20)]
    assert {len(labels) for labels in drawn} == {3}
    assert {label for labels in drawn for label in labels} == set("abcdefgh")
    assert tasks.spec.n_outputs == 3


def test_regression_keeps_rows_together() -> None:
    x, y = regression()
    tasks = from_arrays([(x, y)], "regression", n_shots=4, n_queries=100)
    support, query = tasks.episodes(0, "train", 0, 1)[0]
    assert support.y.shape == (1, 4, 1)
    assert query.y.shape == (1, 8, 1)
    both = torch.cat([support.x, query.x], 1)[0].numpy()
    order = [int(np.flatnonzero((x.astype(np.float32) == row).all(1))[0]) for row in both]
    assert sorted(order) == list(range(12))
    np.testing.assert_array_equal(
        torch.cat([support.y, query.y], 1)[0, :, 0].numpy(), y[order].astype(np.float32)
    )


def test_tables_and_other_shots() -> None:
    table = pd.DataFrame(regression()[0], columns=["a", "b", "c"])
    tasks = from_arrays([(table, pd.Series(["x", "y"] * 6))], n_shots=2).with_shots(3)
    assert isinstance(tasks, ArrayTaskList)
    assert len(tasks.episodes(0, "train", 0, 1)[0].support.mask[0]) == 6
    assert tasks.fingerprint != tasks.with_shots(2).fingerprint


def test_a_fingerprint_is_about_the_data() -> None:
    x, y = classes_of({"a": 5, "b": 5})
    first = from_arrays([(x, y)]).fingerprint
    assert from_arrays([(x.copy(), y.tolist())]).fingerprint == first
    changed = x.copy()
    changed[3, 1] += 1e-9
    assert from_arrays([(changed, y)]).fingerprint != first
    assert from_arrays([(x, y[::-1])]).fingerprint != first
    assert from_arrays([(x, np.char.upper(y))]).fingerprint != first
    tasks = from_arrays([(x, y)])
    x += 1  # the caller's array is the caller's own
    assert tasks.fingerprint == first
    assert tasks.scaled(tasks.pooled_scaling).fingerprint != first


def test_families_and_copies_stay_on_one_side() -> None:
    pairs = [regression(seed=index) for index in range(12)]
    names = [f"{'abcdef'[index // 2]} {index}" for index in range(12)]
    tasks = from_arrays(pairs, "regression", names=names)

    def family(task: Any) -> str:
        return task.name.split()[0]

    sides = tasks.split(seed=0, family=family)
    families = [{family(task) for task in side.tasks} for side in sides if isinstance(side, TaskList)]
    assert all(isinstance(side, ArrayTaskList) for side in sides)
    assert sum(map(len, families)) == len(set().union(*families)) == 6

    twice = from_arrays(pairs + pairs, "regression", names=["copy"] * 24).split(seed=0)
    names_of = [{task.name for task in side.tasks} for side in twice if isinstance(side, TaskList)]
    assert sum(map(len, names_of)) == len(set().union(*names_of)) == 12


def test_scaling_is_that_of_scikit_learn_for_one_task() -> None:
    x, y = regression(50)
    x[:, 1] = 7.0
    scaling = from_arrays([(x * 1e6 + 3, y)], "regression").pooled_scaling
    np.testing.assert_allclose(
        scaling.inputs(x * 1e6 + 3), StandardScaler().fit_transform(x * 1e6 + 3), atol=1e-7
    )
    columns = y.reshape(-1, 1)
    np.testing.assert_allclose(scaling.targets(columns), StandardScaler().fit_transform(columns), atol=1e-12)
    np.testing.assert_allclose(scaling.values(scaling.targets(columns)), columns, atol=1e-12)


def test_scaling_weighs_tasks_equally_and_pixels_by_channel() -> None:
    small, large = np.full((2, 1), 4.0), np.full((100, 1), 8.0)
    scaling = Scaling.of([(small, np.zeros(2, np.int64)), (large, np.zeros(100, np.int64))])
    assert (scaling.x_mean.tolist(), scaling.x_std.tolist()) == ([6.0], [2.0])

    images = np.random.default_rng(0).normal(size=(20, 2 * 3 * 3)) * 5 + 1
    tasks = from_arrays([(images, np.repeat([0, 1], 10))], input_shape=(2, 3, 3))
    assert tasks.spec.input_shape == (2, 3, 3)
    scaling = tasks.pooled_scaling
    expected = images.reshape(20, 2, 9).transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_allclose(scaling.x_mean[:, 0, 0], expected.mean(1))
    np.testing.assert_allclose(scaling.x_std[:, 0, 0], expected.std(1))


def test_a_scaled_task_shows_scaled_numbers() -> None:
    x, y = regression(30)
    tasks = from_arrays([(100 * x + 5, 40 * y)], "regression", n_shots=10, n_queries=20)
    episode = tasks.scaled(tasks.pooled_scaling).episodes(0, "train", 0, 1)[0]
    seen = torch.cat([episode.support.x, episode.query.x], 1)[0]
    targets = torch.cat([episode.support.y, episode.query.y], 1)[0]
    for values in (seen, targets):
        assert torch.allclose(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5)
        assert torch.allclose(values.std(0, correction=0), torch.ones(values.shape[1]), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"x_std": [0.0]},
        {"x_std": [-1.0]},
        {"x_mean": [float("nan")]},
        {"x_mean": [1.0, 2.0]},
        {"x_mean": "many"},
        {"y_std": [[1.0], [2.0]]},
        {"z_mean": [0.0]},
    ],
)
def test_a_scaling_from_a_file_is_checked(change: dict[str, Any]) -> None:
    spec = TaskSpec("regression", (3,), 1)
    good = Scaling.none().to_dict()
    assert Scaling.from_dict(good, spec).to_dict() == good
    with pytest.raises(InvalidData, match="does not fit"):
        Scaling.from_dict(good | change, spec)


def test_the_pool_has_every_class_of_every_task() -> None:
    first, second = classes_of({"a": 5, "b": 5}), classes_of({"a": 5, "b": 5, "c": 5}, seed=1)
    second[0][:, 0] += 10
    tasks = from_arrays([first, second])
    assert tasks.pool_spec == TaskSpec("classification", (2,), 5)
    batch = tasks.pool(np.random.default_rng(0), 200)
    codes = {0: 0.0, 1: 1.0, 2: 10.0, 3: 11.0, 4: 12.0}
    assert batch.x[:, 0].tolist() == [codes[int(label)] for label in batch.y]
    assert set(batch.y.tolist()) == set(codes)
    assert len(from_arrays([regression()], "regression").pool(np.random.default_rng(0), 30).mask) >= 30


X, Y = classes_of({"a": 5, "b": 5})


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        ([], {}, "no past task"),
        ([X], {}, "pair"),
        ([(X, Y[:-1])], {}, "10 examples and 9 targets"),
        ([(X[:, 0], Y)], {}, "rows and columns"),
        ([(X[:1], [1.0])], {"kind": "regression"}, "at least two rows"),
        ([(X[:, :0], Y)], {}, "one column"),
        ([(np.where(X > 3, np.nan, X), Y)], {}, "NaN or infinite"),
        ([(np.where(X > 3, np.inf, X), Y)], {}, "NaN or infinite"),
        ([(csr_array(X), Y)], {}, "sparse"),
        ([(pd.DataFrame({"a": list("abcdefghij")}), Y)], {}, "encode text"),
        ([(X, ["a"] * 10)], {}, "two are needed"),
        ([(X, ["a"] * 9 + ["b"])], {}, "class b of task 0 has one example"),
        ([(X, np.linspace(0, 1, 10))], {}, "continuous"),
        ([(X, [None, "a"] * 5)], {}, "sort"),
        ([(X, np.zeros((10, 2)))], {}, "one label for each"),
        ([(X, np.zeros((10, 2, 2)))], {"kind": "regression"}, "one row for each"),
        ([(X, Y), (X[:, :1], Y)], {}, "same columns"),
        ([(X, Y)], {"input_shape": (1, 3, 3)}, "cannot be seen as"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(pairs: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        from_arrays(pairs, **settings)


@pytest.mark.parametrize(
    "settings", [{"n_shots": 0}, {"n_queries": 0}, {"max_ways": 1}, {"names": ["a", "b"]}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        from_arrays([(X, Y)], **settings)


def test_numbers_beyond_all_scales_are_refused() -> None:
    tasks = from_arrays([(X * 1e200, Y)])
    with pytest.raises(InvalidData, match="too large"):
        _ = tasks.pooled_scaling


def test_a_task_says_what_it_is() -> None:
    task = from_arrays([(X, Y)], names=["letters"]).tasks[0]
    assert isinstance(task, ArrayTask)
    assert task.labels == ("a", "b")
    assert task.name.startswith("letters #")
