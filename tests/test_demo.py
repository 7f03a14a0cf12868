"""The demo compares AutoML with others, says why, and remembers."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tasklore.cli import app, demo


def test_the_demo_compares_and_remembers(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["demo", "--only", "automl", "--budget", "2", "--store", str(tmp_path / "lore.db")]
    both = {name: demo.TABLES[name] for name in ("wine", "diabetes")}
    monkeypatch.setattr(demo, "TABLES", {"wine": both["wine"]})
    done = CliRunner().invoke(app, [*command, "--quiet"])
    assert (done.exit_code, done.output) == (0, "")

    monkeypatch.setattr(demo, "TABLES", both)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    words = "wine|diabetes|Tasklore|random search|random forest|boosting|log loss ↓|R² ↑|most like|tried"
    for word in words.split("|"):
        assert word in done.output
    told = " ".join(done.output.split())
    known = re.search(r"Remembered from your last run: (.*)\. Tasklore starts from there", told)
    assert known
    assert re.fullmatch(r"wine \(\d+ candidates?\)", known[1])  # diabetes is still new

    reports = sorted((home / "runs").glob("demo-automl-*/*.html"))
    assert sorted(report.name for report in reports) == ["diabetes.html", "wine.html", "wine.html"]
    assert "tasklore demo --only automl --budget 2" in reports[0].read_text()
