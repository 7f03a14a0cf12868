"""The notebooks run from top to bottom, and find what their text says."""

import ast
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NAMES = ("maml", "reptile")


def read(name: str) -> Any:
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


@pytest.fixture
def executed(request: pytest.FixtureRequest, record_property: Callable[..., None]) -> Iterator[Any]:
    """The notebook named by the parameter after a run in a kernel of its own, of this interpreter."""
    notebook = read(request.param)
    # A short path, because a kernel that listens on files instead of ports puts its sockets there.
    with TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=240,
            resources={"metadata": {"path": folder}},
            config=Config(KernelManager={"transport": "ipc", "connection_file": f"{folder}/kernel.json"}),
        )
        started = time.perf_counter()
        client.execute(
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                "JUPYTER_PREFER_ENV_PATH": "1",
            }
        )
        record_property("measured", f"{request.param}.ipynb: {time.perf_counter() - started:.0f} s")
        yield notebook


def result(notebook: Any, tag: str) -> Any:
    """Return the Python literal that the cell with this tag shows."""
    (cell,) = (cell for cell in notebook.cells if tag in cell.metadata.get("tags", ()))
    return ast.literal_eval(cell.outputs[-1].data["text/plain"])


def complaints(notebook: Any) -> list[str]:
    return [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr"
    ]


def n_figures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", ()) for output in outputs)


@pytest.mark.parametrize("executed", ["maml"], indirect=True)
def test_maml_finds_what_it_says(executed: Any) -> None:
    assert complaints(executed) == []
    assert n_figures(executed) == 2
    by_hand = result(executed, "first-principles")
    assert by_hand["MAML"][1] < 1.0 < 2.0 < by_hand["one pool"][1]
    assert by_hand["MAML"][10] < 0.5
    assert result(executed, "meta-gradient") < 1e-10
    waves = result(executed, "tasklore")
    assert waves["maml"] < 1.0
    assert all(waves["maml"] < error / 2 for method, error in waves.items() if method != "maml")
    lead = result(executed, "digits")
    for shots, better in (
        (1, "nearest-centroid"),
        (1, "logistic-regression"),
        (5, "logistic-regression"),
    ):
        assert upper(lead[shots][better]) < 0
    assert lower(lead[1]["finetune"]) > 0


@pytest.mark.parametrize("executed", ["reptile"], indirect=True)
def test_reptile_finds_what_it_says(executed: Any) -> None:
    assert complaints(executed) == []
    assert n_figures(executed) == 2
    by_hand = result(executed, "first-principles")
    assert by_hand["Reptile, k = 10"][32] < 0.9
    assert by_hand["Reptile, k = 10"][32] < 0.7 * by_hand["joint training, k = 1"][32]
    assert max(result(executed, "meta-gradient").values()) < 1e-10
    race = result(executed, "race")
    assert race["MAML"][5] < min(race["Reptile"][5], race["first-order MAML"][5])
    assert all(race["Reptile"][n_steps] < 0.75 * race["first-order MAML"][n_steps] for n_steps in (10, 32))
    lead = result(executed, "digits")
    for shots in (1, 5):
        assert upper(lead[shots]["logistic-regression"]) < 0
        assert upper(lead[shots]["scratch"]) < 0


def lower(score: tuple[float, float]) -> float:
    mean, half_width = score
    return mean - half_width


def upper(score: tuple[float, float]) -> float:
    mean, half_width = score
    return mean + half_width


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_committed_without_outputs_and_places(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
        assert not re.search(r"(?<![\w.:/)}])/(?:home|root|tmp|work|usr|Users)/|[A-Z]:\\\\", cell.source)


def test_every_notebook_is_tested_and_described() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.ipynb")) == sorted(NAMES)
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"examples/{name}.ipynb" in page


def test_notebooks_are_short() -> None:
    for name in NAMES:
        lines = [
            line for cell in read(name).cells if cell.cell_type == "code" for line in cell.source.split("\n")
        ]
        assert len(lines) < 350, f"{name}: {len(lines)} lines of code"
        assert json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))["nbformat"] == 4
