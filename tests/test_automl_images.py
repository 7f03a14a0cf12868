"""AutoML on tables of images: they are recognised, and a convolutional network is tried and can be saved."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from automl_cases import classifier, quick_prior
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from tasklore import AutoClassifier
from tasklore.apps.automl.convolution import ConvolutionClassifier, schedule
from tasklore.apps.automl.descriptors import NAMES
from tasklore.apps.automl.images import (
    ImageCandidate,
    ImagePrior,
    Pixels,
    image_candidates,
    pixels_of,
    restored,
)
from tasklore.apps.automl.measuring import Problem, folds_of, measure
from tasklore.apps.automl.space import candidates
from tasklore.errors import InvalidData, InvalidSetting

datasets: Any = sklearn.datasets  # which is typed in parts only


def digits(n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_digits(return_X_y=True)
    return x[:n], y[:n]


def problem_of(x: np.ndarray) -> Problem:
    return Problem.of(x, np.arange(len(x)) % 2, "classification")


def coloured(n: int = 200, side: int = 12) -> np.ndarray:
    """Soft spots of different colours, shape (n, 3, side, side), from 0 to 255."""
    rng = np.random.default_rng(0)
    places = np.arange(side)
    across, down = rng.uniform(0, side, (2, n, 1, 1, 1))
    spots = np.exp(-((places - across) ** 2 + (places[:, None] - down) ** 2) / 8.0)
    return np.clip(
        255 * spots * rng.uniform(0.3, 1.0, (n, 3, 1, 1)) + rng.uniform(0, 20, (n, 3, side, side)), 0, 255
    )


def test_images_are_recognised() -> None:
    x, _ = digits()
    assert pixels_of(problem_of(x)) == Pixels(8)
    assert pixels_of(problem_of(x / 16)) == Pixels(8)
    spots = coloured()
    assert pixels_of(problem_of(spots.reshape(len(spots), -1))) == Pixels(12, 3)
    together = spots.transpose(0, 2, 3, 1).reshape(len(spots), -1)
    assert pixels_of(problem_of(together)) == Pixels(12, 3, interleaved=True)
    assert pixels_of(problem_of(spots[:, 0].reshape(len(spots), -1))) == Pixels(12)


def test_other_tables_are_not_taken_for_images() -> None:
    rng = np.random.default_rng(0)
    x, _ = digits()
    walks = rng.normal(size=(400, 100)).cumsum(1)
    others = {
        "noise": rng.random((400, 100)),
        "pixels in another order": x[:, rng.permutation(64)],
        "curves": 100 * (walks - walks.min()) / np.ptp(walks),
        "one cause for all": np.clip(rng.random((400, 1)) * 100 + rng.random((400, 64)), 0, 255),
        "negative": x - 1,
        "too large": x * 100,
        "too small": x[:, :49],
        "no square": x[:, :63],
        "gaps": np.where(rng.random(x.shape) < 0.01, np.nan, x),
        "always the same": np.zeros((50, 64)),
        "few rows": x[:5],
    }
    assert [name for name, table in others.items() if pixels_of(problem_of(table)) is not None] == []


def test_only_images_get_such_candidates() -> None:
    x, y = digits()
    known = Problem.of(x, y, "classification")
    added = image_candidates(known)
    assert set(added) == {"convolution", "convolution-wide", "convolution-shifted"}
    assert not set(added) & set(candidates("classification"))
    assert all(known.suits(candidate) for candidate in added.values())
    assert image_candidates(Problem.of(x, y.astype(float), "regression")) == {}
    table, labels = datasets.load_breast_cancer(return_X_y=True)
    assert image_candidates(Problem.of(table, labels, "classification")) == {}
    for candidate in added.values():
        assert restored(candidate.to_dict()) == candidate
        assert isinstance(restored(candidate.to_dict()), ImageCandidate)
        assert candidate.needs_tasklore(known.schema)
    forest = candidates("classification")["forest"]
    assert restored(forest.to_dict()) == forest
    with pytest.raises(InvalidSetting, match="this is no candidate"):
        restored({"model": "convolution"})
    with pytest.raises(InvalidSetting, match="learns classes"):
        added["convolution"].build(known.schema, "regression")


def test_a_prior_that_knows_no_images_expects_much_of_them() -> None:
    x, y = digits()
    known = Problem.of(x, y, "classification")
    added = image_candidates(known)
    plain = quick_prior("classification")
    prior = ImagePrior.of(plain, added, known)
    assert prior.portfolio[:4] == ("convolution", "logistic-1", "convolution-wide", "lightgbm-quick")
    assert sorted(prior.portfolio) == sorted([*plain.portfolio, *added])
    weights = np.ones(2)
    gains = dict(zip(prior.candidates, prior.improvement(["tree-6"], weights), strict=True))
    assert gains["convolution"] == max(gains.values()) > 0
    gains = dict(zip(prior.candidates, prior.improvement(["convolution"], weights), strict=True))
    assert gains["convolution"] == 0.0
    described = {"rows": np.log1p(len(y)), "columns": np.log1p(64), "classes": np.log1p(10)}
    everything = dict.fromkeys(NAMES["classification"], 0.0) | described
    seconds = dict(zip(prior.candidates, prior.seconds_for(everything), strict=True))
    assert seconds["convolution"] < seconds["convolution-wide"] < seconds["convolution-shifted"]
    again = ImagePrior.of(prior, added, known)
    assert again.candidates == prior.candidates
    assert again.losses.shape == prior.losses.shape


def test_it_learns_images_and_is_the_same_again() -> None:
    x, y = digits(1000)
    parts: list[Any] = train_test_split(x, y, random_state=0, stratify=y)
    learned, asked, labels, truth = parts
    model = ConvolutionClassifier(side=8, epochs=4).fit(learned, labels)
    assert model.score(asked, truth) > 0.93
    chances = model.predict_proba(asked)
    assert chances.shape == (250, 10)
    np.testing.assert_allclose(chances.sum(1), 1.0)
    fresh: Any = clone(model)
    again = fresh.fit(learned, labels)
    np.testing.assert_array_equal(again.predict_proba(asked), chances)
    fresh = clone(model)
    other = fresh.set_params(random_state=1).fit(learned, labels)
    assert not np.array_equal(other.predict_proba(asked), chances)
    assert all(isinstance(value, np.ndarray) for value in model.weights_.values())


def test_it_leaves_torch_as_it_was() -> None:
    import torch

    x, y = digits(60)
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    ConvolutionClassifier(side=8, epochs=1, n_threads=before + 1).fit(x, y).predict(x)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_colours_in_either_order_are_the_same_image() -> None:
    x = coloured(80)
    y = (x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2))).astype(int)
    planes = ConvolutionClassifier(side=12, channels=3, epochs=2, shift=1).fit(x.reshape(80, -1), y)
    mixed = x.transpose(0, 2, 3, 1).reshape(80, -1)
    together = ConvolutionClassifier(side=12, channels=3, epochs=2, shift=1, interleaved=True).fit(mixed, y)
    np.testing.assert_allclose(
        together.predict_proba(mixed), planes.predict_proba(x.reshape(80, -1)), atol=1e-5
    )


def test_weights_count_for_images_too() -> None:
    x, y = digits(400)
    weights = np.where(y == 3, 1e-6, 1.0)
    model = ConvolutionClassifier(side=8, epochs=3).fit(x, y, sample_weight=weights)
    assert (model.predict(x[y == 3]) == 3).mean() < 0.2
    assert model.score(x[y != 3], y[y != 3]) > 0.9


def test_what_it_cannot_take() -> None:
    x, y = digits(50)
    with pytest.raises(InvalidData, match=r"X has shape \(50, 64\); 1 × 9 × 9 columns are needed"):
        ConvolutionClassifier(side=9).fit(x, y)
    with pytest.raises(InvalidSetting, match="side is 2"):
        ConvolutionClassifier(side=2).fit(x, y)
    holes = np.where(np.random.default_rng(0).random(x.shape) < 0.1, np.nan, x)
    assert np.isfinite(ConvolutionClassifier(side=8, epochs=1).fit(holes, y).predict_proba(holes)).all()
    alone = ConvolutionClassifier(side=8, epochs=1).fit(np.zeros((17, 64)), np.arange(17) % 2)
    assert np.isfinite(alone.predict_proba(np.zeros((1, 64)))).all()


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 129, 1000, 50_000])
def test_no_batch_has_a_single_image(n: int) -> None:
    n_batches, n_epochs = schedule(n, 3)
    assert 1 <= n_epochs <= 60
    smallest = n // n_batches
    assert smallest >= min(n, 2), "of which no spread is known"


def test_a_candidate_beats_the_small_network() -> None:
    x, y = digits(1000)
    problem = Problem.of(x, y, "classification")
    folds = folds_of(problem, 1)
    network = measure(candidates("classification")["network"], problem, folds)
    convolution = measure(image_candidates(problem)["convolution-wide"], problem, folds, keep_models=True)
    assert not convolution.error
    assert convolution.loss < network.loss
    (pipeline,) = convolution.models
    assert pipeline[0].transform(problem.table).shape == (1000, 64), "pixels that never change included"


def test_the_search_tries_it_and_a_file_keeps_it(tmp_path: Path) -> None:
    x, y = digits(1797)
    model = classifier(max_evaluations=2).fit(x[:510], y[:510])
    board: Any = model.leaderboard_.set_index("candidate")
    assert set(board.index) == {"convolution", "convolution-shifted"}, "the first in the alphabet of equals"
    assert model.score(x[510:], y[510:]) > 0.9
    with pytest.raises(InvalidData, match=r"convolution.* use steps that scikit-learn lacks"):
        model.to_pipeline()
    path = tmp_path / "model.skops"
    model.save(path)
    again = AutoClassifier.load(path)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))


def test_other_tables_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from sklearn.datasets import load_iris\n"
        "from tasklore import AutoClassifier\n"
        "AutoClassifier(max_evaluations=1, n_jobs=1).fit(*load_iris(return_X_y=True))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
