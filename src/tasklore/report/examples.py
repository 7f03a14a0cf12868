"""The first test episodes as pictures: what was shown, what was asked, what was answered.

They are the very episodes that the table counts first, not chosen ones.
"""

import base64
import dataclasses
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from ..experiment import Findings
from ..learners.base import Learner
from ..learners.gradient import GradientLearner
from ..metagrad import adapt_tasks, predict_tasks
from ..tasks.source import TaskSource, stack, task_key, task_rng
from ..types import Context, Episode, Inputs
from .charts import Panel, draw_curves

__all__ = ["Answer", "CurveExample", "Examples", "ImageClass", "ImageExample", "draw", "png"]

N_TASKS = 2
N_SUPPORT = 5
N_QUERIES = 8
N_GRID = 201


@dataclass(frozen=True)
class Answer:
    """A query image and what it was taken for."""

    image: str
    predicted: str
    is_right: bool


@dataclass(frozen=True)
class ImageClass:
    """A class of an episode: its support images, as data URIs, and its queries."""

    label: str
    support: tuple[str, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class ImageExample:
    """An episode of images."""

    shots: int
    classes: tuple[ImageClass, ...]
    n_right: int
    n_queries: int

    @property
    def is_whole(self) -> bool:
        """Whether all queries are shown."""
        return sum(len(shown.answers) for shown in self.classes) == self.n_queries


@dataclass(frozen=True)
class CurveExample:
    """An episode of curve fitting."""

    name: str
    picture: Markup
    error: float
    n_steps: int | None


@dataclass(frozen=True)
class Examples:
    """The episodes shown; both empty where the inputs cannot be drawn."""

    images: tuple[ImageExample, ...] = ()
    curves: tuple[CurveExample, ...] = ()


def draw(findings: Findings, style: int) -> Examples:
    """Draw the first test episodes, as the learner answers them; curves in the colour of its style."""
    test, spec = findings.splits.test, findings.splits.test.spec
    shots = sorted(set(findings.experiment.test.shots))
    if spec.kind == "classification" and _is_image(spec.input_shape):
        chosen = [(shots[0], index) for index in range(N_TASKS)] + [(shots[-1], 0)] * (len(shots) > 1)
        return Examples(images=tuple(_image_example(findings, n, index) for n, index in chosen))
    if spec.kind == "regression" and spec.input_shape == (1,) and spec.n_outputs == 1:
        return Examples(
            curves=tuple(_curve_example(findings, test, index, style) for index in range(N_TASKS))
        )
    return Examples()


def png(image: Tensor) -> str:
    """Return an image as a data URI.

    Parameters
    ----------
    image : Tensor, uint8, shape (1 or 3, height, width)
    """
    channels, height, width = image.shape
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy()).reshape(height, width * channels)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter 0: each line as it is
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _image_example(findings: Findings, shots: int, index: int) -> ImageExample:
    source = findings.splits.test.with_shots(shots)
    labels, episode, key = _first(source, findings.experiment.test.seed, index)
    predicted = _predict(findings, findings.prior.learner, source, episode, key, episode.query.inputs).argmax(
        -1
    )
    right = predicted == episode.query.y
    support, queries = _pixels(episode)
    # Without names the classes are numbered.
    names = labels or tuple(f"class {number + 1}" for number in range(int(episode.support.y.max()) + 1))
    classes: list[ImageClass] = []
    for number, label in enumerate(names):
        shown = torch.nonzero(episode.support.y == number).flatten()[:N_SUPPORT].tolist()
        asked = torch.nonzero(episode.query.y == number).flatten()[:N_QUERIES].tolist()
        answers = tuple(Answer(png(queries[i]), names[int(predicted[i])], bool(right[i])) for i in asked)
        classes.append(ImageClass(label, tuple(png(support[i]) for i in shown), answers))
    return ImageExample(shots, tuple(classes), int(right.sum()), len(right))


def _curve_example(findings: Findings, source: TaskSource, index: int, style: int) -> CurveExample:
    seed, learner = findings.experiment.test.seed, findings.prior.learner
    task = source.task(task_rng(seed, "test", 0, index))
    _, episode, key = _first(source, seed, index)
    joined = episode.joined
    grid = torch.linspace(float(joined.x.min()), float(joined.x.max()), N_GRID).unsqueeze(1)
    inputs = Inputs(grid, torch.ones(N_GRID))
    stages: list[tuple[str, Learner]] = [("prediction", learner)]
    usual: int | None = None
    if isinstance(learner, GradientLearner):
        usual = learner.inner_steps if learner.test_steps is None else learner.test_steps
        counts = sorted({0, 1, usual, max(findings.over_steps, default=usual)})
        stages = [
            (f"after {n} step{'s' * (n != 1)}", dataclasses.replace(learner, test_steps=n)) for n in counts
        ]
    panels = [
        Panel(
            label,
            grid.flatten().tolist(),
            _predict(findings, stage, source, episode, key, inputs).flatten().tolist(),
        )
        for label, stage in stages
    ]
    order = episode.query.x.flatten().argsort()
    truth = Panel(
        "truth", episode.query.x.flatten()[order].tolist(), episode.query.y.flatten()[order].tolist()
    )
    support = Panel("support", episode.support.x.flatten().tolist(), episode.support.y.flatten().tolist())
    answer = _predict(findings, learner, source, episode, key, episode.query.inputs)
    error = float(((answer - episode.query.y) ** 2).mean())
    alt = (
        f"Task {task.name}: {len(support.x)} support points, the truth, and the prediction "
        f"{', '.join(panel.label for panel in panels)}."
    )
    return CurveExample(
        task.name, draw_curves(f"curve-{index}", alt, support, truth, panels, style), error, usual
    )


def _first(source: TaskSource, seed: int, index: int) -> tuple[tuple[str, ...], Episode, Tensor]:
    """Return labels, episode and key of a test task, drawn as :func:`tasklore.evaluate.evaluate` does."""
    rng = task_rng(seed, "test", 0, index)
    task = source.task(rng)
    return task.labels, task.episode(rng), torch.tensor([task_key(seed, "test", 0, index)], dtype=torch.int64)


def _predict(
    findings: Findings, learner: Learner, source: TaskSource, episode: Episode, key: Tensor, inputs: Inputs
) -> Tensor:
    """Adapt to one episode and predict, shape (n, n_outputs)."""
    prior = findings.prior
    context = Context(learner.spec_for(prior.spec, source.spec), key)
    adapted = adapt_tasks(learner, prior.params, stack([episode]).support, context, tasks_at_once=1)
    return predict_tasks(learner, adapted, Inputs(*(part.unsqueeze(0) for part in inputs)), tasks_at_once=1)[
        0
    ]


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def _pixels(episode: Episode) -> tuple[Tensor, Tensor]:
    """Scale an episode's images to 0…255 by what is darkest and brightest in it."""
    x = episode.joined.x
    low, high = float(x.min()), float(x.max())
    scaled = ((x - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8)
    return scaled[: len(episode.support.y)], scaled[len(episode.support.y) :]
