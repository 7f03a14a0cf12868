"""What the documentation shows runs."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tasklore.experiment import TestSettings
from tasklore.loop import Stop
from tasklore.metagrad import rule_for
from tasklore.nets import Conv4
from tasklore.registry import learners, nets, sources
from tasklore.train import TrainSettings
from tasklore.types import Batch, Context, Episode, TaskSpec

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/own-network.md"])
def test_python_that_is_shown_runs(page: str) -> None:
    shown = blocks(page, "python")
    assert shown
    for block in shown:
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("page", "numbers", "shorter"),
    [
        ("docs/estimators.md", (0, 1), ("Stop(rounds=2)", "Stop(rounds=1)")),
        ("docs/automl.md", (1,), ('budget="60s"', 'budget="2s"')),
        ("docs/automl.md", (5,), ('budget="20s"', 'budget="2s"')),
    ],
)
def test_longer_python_that_is_shown_runs(
    page: str, numbers: tuple[int, ...], shorter: tuple[str, str], tmp_path: Path
) -> None:
    shown = "\n".join(blocks(page, "python")[number] for number in numbers)
    assert shorter[0] in shown
    command = [sys.executable, "-c", shown.replace(*shorter)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_configuration_that_is_shown_is_valid(tmp_path: Path) -> None:
    from tasklore.experiment import Experiment

    (block,) = blocks("docs/index.md", "toml")
    path = tmp_path / "shown.toml"
    path.write_text(block)
    experiment = Experiment.from_toml(path)
    assert experiment.stop.rounds == 20
    assert Experiment.from_sections({**experiment.settings(), "net": {}}) == experiment


def test_the_learner_that_is_shown_passes_the_checks(tmp_path: Path) -> None:
    (block,) = blocks("docs/own-learner.md", "python")
    path = tmp_path / "shown.py"
    path.write_text(block)
    command = [sys.executable, "-c", "from tasklore.cli import main; main()", "check", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"}
    )
    assert done.returncode == 0, done.stderr
    assert "improves on toy tasks" in done.stdout


def test_what_the_page_on_tasks_shows(tmp_path: Path) -> None:
    *_, arrays, own = blocks("docs/tasks.md", "python")
    done = subprocess.run([sys.executable, "-c", arrays], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (printed,) = blocks("docs/tasks.md", "text")
    assert done.stdout == printed
    path = tmp_path / "lines.py"
    path.write_text(own)
    command = [sys.executable, "-c", "from tasklore.cli import main; main()", "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def settings_of(owner: Any) -> list[tuple[str, str]]:
    """Return name and default of each setting, as the pages write them."""
    found: list[tuple[str, str]] = []
    for field in dataclasses.fields(owner):
        if field.default is not dataclasses.MISSING:
            default = f"`{field.default!r}`"
        elif field.default_factory is not dataclasses.MISSING:
            default = f"`{field.default_factory()!r}`"
        else:
            default = "needed"
        found.append((field.name, default))
    return found


def section(page: str, title: str) -> list[tuple[str, str]]:
    """Return name and default of each row of the first table of settings under a title."""
    _, _, rest = (ROOT / page).read_text(encoding="utf-8").partition(f"# {title}\n")
    assert rest, f"{page} has no section {title}"
    table = re.search(r"\| setting \|.*\n\|[-|]+\n((?:\|.*\n)*)", re.split(r"\n#+ ", rest)[0])
    if table is None:
        return []
    rows = [row.split(" | ") for row in table[1].splitlines()]
    return [(row[0].strip("|` "), row[1].strip()) for row in rows]


def test_every_setting_is_documented_with_its_default() -> None:
    pages = {("docs/tasks.md", name): sources.get(name) for name in sources.names()}
    pages |= {(f"docs/learners/{name}.md", "Settings"): learners.get(name) for name in learners.names()}
    pages |= {("docs/settings.md", name): nets.get(name) for name in nets.names()}
    pages |= {
        ("docs/settings.md", "[train]"): TrainSettings,
        ("docs/settings.md", "[stop]"): Stop,
        ("docs/settings.md", "[test]"): TestSettings,
    }
    wrong = {
        place: settings_of(owner) for place, owner in pages.items() if section(*place) != settings_of(owner)
    }
    assert wrong == {}


def test_costs_of_learners_are_as_counted() -> None:
    page = (ROOT / "docs" / "learners" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.–]+) \| ([\d.]+) \| ([\d.–]+) \|$", page, re.MULTILINE
    )
    counted = {name: cost_of(name) for name, *_ in rows}
    assert {name: tuple(shown) for name, *shown in rows} == counted
    assert [name for name in learners.names() if f"[{name}]({name}.md)" not in page] == []


def cost_of(name: str) -> tuple[str, ...]:
    """Count a meta-step and a new task, 1 inner step; then what a second adds. A pass forward is 1."""
    learner = learners.get(name)
    net, spec = Conv4(channels=32), TaskSpec("classification", (1, 28, 28), 5)
    generator = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(20, 1, 28, 28, generator=generator), torch.arange(20) % 5, torch.ones(20))
    weights = net.init(spec.input_shape, 5, generator)
    with FlopCounterMode(display=False) as forward:
        net.apply(weights, batch.inputs)
    steps = any(field.name == "inner_steps" for field in dataclasses.fields(learner))
    counts: list[tuple[float, float]] = []
    for n in (1, 2) if steps else (1,):
        made = learner(net=net, inner_steps=n, test_steps=None) if steps else learner(net=net)
        params = made.init(spec, torch.Generator().manual_seed(0))
        context = Context(spec=spec, key=torch.zeros(1, dtype=torch.int64), training=True)
        alone = Episode(*[Batch(*[values[None] for values in batch])] * 2)
        with FlopCounterMode(display=False) as meta:
            rule_for(made, 1)(made, params, alone, context)
        with FlopCounterMode(display=False) as new:
            made.predict(
                made.adapt(params, batch, dataclasses.replace(context, training=False)), batch.inputs
            )
        counts.append((meta.get_total_flops(), new.get_total_flops()))
    unit = forward.get_total_flops()
    shown: list[str] = []
    for column in zip(*counts, strict=True):
        shown.append(f"{column[0] / unit:.1f}")
        shown.append(f"{(column[1] - column[0]) / unit:.1f}" if steps else "–")
    return tuple(shown)


def test_links_between_pages_lead_somewhere() -> None:
    faults: list[str] = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                faults.append(f"{page.relative_to(ROOT)}: {target}")
    assert faults == []


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in listed] == []


def test_accuracies_in_the_docs_are_in_the_results() -> None:
    """Every accuracy with its interval of the page of results was written by a benchmark."""
    written: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if {"metric", "mean", "half_width"} <= value.keys():
                written.add(f"{100 * value['mean']:.2f} ± {100 * value['half_width']:.2f} %")
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    for path in (ROOT / "benchmarks" / "results").rglob("*.json"):
        walk(json.loads(path.read_text()))
    said = re.findall(r"\d+\.\d\d ± \d+\.\d\d %", (ROOT / "docs" / "results.md").read_text())
    assert len(said) > 100
    assert not [figure for figure in said if figure not in written]
