"""Adapt a prior to one task of one's own, and predict with the result."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .arguments import check_is_there

if TYPE_CHECKING:
    import numpy as np

__all__ = ["adapt", "predict"]

INVERT_HELP = "Turn dark on white into light on black, as Omniglot, MNIST and digits are."
INPUT_HELP = "A folder of images, a .csv table, or a .npz with x"


def adapt(
    prior: Annotated[Path, typer.Argument(help="A prior, as a run leaves it.")],
    support: Annotated[
        Path, typer.Argument(help=f"{INPUT_HELP} and y; a folder has one subfolder for each class.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the predictor goes.")] = Path(
        "predictor.safetensors"
    ),
    target: Annotated[
        str | None, typer.Option(help="The column to predict; the last one by default.")
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help=INVERT_HELP)] = False,
) -> None:
    """Learn one task from a handful of labelled examples, and save the predictor."""
    from ..predictor import Predictor
    from ..state import Prior

    check_is_there(prior, "a prior")
    loaded = Prior.load(prior)
    x, y, columns = _read(support, loaded.spec.input_shape, target, labelled=True, invert=invert)
    predictor = dataclasses.replace(Predictor.adapt(loaded, x, y), columns=columns)
    predictor.save(output)
    what = (
        f"{len(predictor.labels)} classes ({', '.join(predictor.labels[:8])}"
        f"{', …' if len(predictor.labels) > 8 else ''})"
        if predictor.labels
        else "a number"
    )
    typer.echo(f"adapted to {len(x)} examples: predicts {what}; saved to {output}")


def predict(
    predictor: Annotated[Path, typer.Argument(help="As `tasklore adapt` or `tasklore fit` leaves it.")],
    inputs: Annotated[Path, typer.Argument(help=f"{INPUT_HELP}; labels are not needed.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .csv; standard output by default.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="A column to leave out, if the table has it.")] = None,
    invert: Annotated[bool, typer.Option("--invert", help=INVERT_HELP)] = False,
) -> None:
    """Predict with an adapted predictor or a fitted model: one line for each example."""
    import csv
    import io

    from ..errors import StoreError
    from ..files import replacing

    check_is_there(predictor, "a predictor or a model")
    answer = _model_answers if _is_archive(predictor) else _predictor_answers
    labels, answers, chances = answer(predictor, inputs, target, invert=invert)
    pictures = _pictures(inputs, labelled=False) if inputs.is_dir() else None
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    named = [] if pictures is None else ["file"]
    writer.writerow([*named, "prediction", *(f"probability {label}" for label in labels)])
    for i, answered in enumerate(answers):
        name = [] if pictures is None else [pictures[i].name]
        chance = [] if chances is None else [f"{p:.6f}" for p in chances[i]]
        writer.writerow([*name, answered, *chance])
    if output is None:
        typer.echo(table.getvalue(), nl=False)
        return
    try:
        with replacing(output) as file:
            file.write(table.getvalue().encode())
    except OSError as error:
        raise StoreError(
            f"{output} cannot be written: {error.strerror}; choose a place that can be written"
        ) from error
    typer.echo(f"{len(answers)} predictions written to {output}")


Answers: TypeAlias = "tuple[list[str], np.ndarray, np.ndarray | None]"
"""Labels, what was predicted, and the probability of each label."""


def _is_archive(path: Path) -> bool:
    """Whether it begins as a .zip does: a model of `tasklore fit` is one, a predictor is not."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:  # told by whoever opens it next
        return False


def _predictor_answers(path: Path, inputs: Path, target: str | None, *, invert: bool) -> Answers:
    from ..predictor import Predictor

    loaded = Predictor.load(path)
    shape, columns = loaded.spec.input_shape, loaded.columns
    x, *_ = _read(inputs, shape, target, labelled=False, invert=invert, columns=columns)
    return list(loaded.labels), loaded.predict(x), loaded.predict_proba(x) if loaded.labels else None


def _model_answers(path: Path, inputs: Path, target: str | None, *, invert: bool) -> Answers:
    from rich.console import Console

    from ..apps.automl.estimators import AutoClassifier, load_model
    from ..errors import InvalidData, InvalidSetting
    from .tables import read_table, telling_warnings

    if invert:
        raise InvalidSetting(f"--invert is for images, and {path} is a model for tables; leave it out")
    model = load_model(path)
    table = read_table(inputs, texts=model.text_columns_)
    if target is not None:
        if target not in table:
            raise InvalidData(
                f"{inputs} has no column {target!r}; it has {', '.join(map(str, table.columns[:10]))}"
            )
        table = table.drop(columns=target)
    with telling_warnings(Console(stderr=True, highlight=False)):
        if not isinstance(model, AutoClassifier):
            return [], model.predict(table), None
        chances = model.predict_proba(table)
    return [str(label) for label in model.classes_], model.classes_[chances.argmax(1)], chances


def _read(
    path: Path,
    shape: tuple[int, ...],
    target: str | None,
    *,
    labelled: bool,
    invert: bool,
    columns: tuple[str, ...] = (),
) -> "tuple[np.ndarray, np.ndarray, tuple[str, ...]]":
    """Return examples, their labels (empty if not ``labelled``), and what the columns of a table are called.

    They come from a folder, an archive, or a table, of which only ``columns`` are read if any are given.
    """
    import zipfile
    import zlib

    import numpy as np
    import pandas as pd

    from ..errors import InvalidData
    from ..files import table_from_csv

    if not path.exists():
        raise InvalidData(f"{path} does not exist; give a folder of images, a .csv or a .npz")
    if path.is_dir():
        return *_read_images(path, shape, labelled=labelled, invert=invert), ()
    if path.suffix == ".npz":
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                if "x" not in archive or (labelled and "y" not in archive):
                    raise InvalidData(
                        f"{path} holds {sorted(archive)}; it needs x" + (" and y" if labelled else "")
                    )
                return archive["x"], archive["y"] if labelled else np.empty(0), ()
        except InvalidData:
            raise
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InvalidData(f"{path} cannot be read as .npz without running code: {error}") from error
    table = table_from_csv(path)
    column = target or (str(table.columns[-1]) if labelled else None)
    if column is not None and column not in table:
        raise InvalidData(
            f"{path} has no column {column!r}; it has {', '.join(map(str, table.columns[:10]))}"
        )
    features = table if column is None else table.drop(columns=column)
    features.columns = features.columns.map(str)
    if missing := [name for name in columns if name not in features]:
        raise InvalidData(
            f"{path} has no column {', '.join(map(repr, missing[:5]))}, which the predictor was adapted to; "
            f"it has {', '.join(features.columns[:10])}"
        )
    features = features[list(columns)] if columns else features
    texts = [str(name) for name in features if not pd.api.types.is_numeric_dtype(features[name])]
    if texts:
        raise InvalidData(f"{path}: the columns {', '.join(texts[:5])} are not numbers; encode them first")
    labels = table[column].to_numpy() if labelled else np.empty(0)
    return features.to_numpy(np.float64), labels, tuple(features.columns)


def _read_images(
    path: Path, shape: tuple[int, ...], *, labelled: bool, invert: bool
) -> "tuple[np.ndarray, np.ndarray]":
    import numpy as np

    from ..errors import InvalidData
    from ..tasks.images import read_picture

    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise InvalidData(
            f"this prior is for examples of shape {shape}, which are no square images; give a .csv or a .npz"
        )
    files = _pictures(path, labelled=labelled)
    mode = "L" if shape[0] == 1 else "RGB"
    pictures = [read_picture(file, str(file), mode, shape[1], ink=invert) for file in files]
    return np.stack(pictures), np.array([file.parent.name for file in files] if labelled else [])


def _pictures(path: Path, *, labelled: bool) -> list[Path]:
    """Return the images of a folder, or of its subfolders if ``labelled``, in order."""
    from ..errors import InvalidData
    from ..tasks.images import SUFFIXES

    def images(pattern: str) -> list[Path]:
        return sorted(
            file
            for file in path.glob(pattern)
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )

    here, below = "*", "*/*"
    if files := images(below if labelled else here):
        return files
    if labelled and images(here):
        raise InvalidData(f"{path} holds images, but no subfolders; put those of each class into one")
    if not labelled and images(below):
        raise InvalidData(f"{path} holds no images itself, but its subfolders do; give one of these")
    raise InvalidData(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}); give a folder that does")
