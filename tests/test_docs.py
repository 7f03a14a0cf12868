"""What the documentation shows runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_python_that_is_shown_runs(page: str) -> None:
    shown = blocks(page, "python")
    assert shown
    for block in shown:
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
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


def test_every_collection_is_documented() -> None:
    from tasklore.registry import sources

    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert [name for name in sources.names() if f"| `{name}` |" not in page] == []


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
