"""The report: what it says, that it is whole in itself, and how a browser sees it."""

import dataclasses
import io
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sklearn.datasets import load_digits

pytest.importorskip("matplotlib", reason="a report needs matplotlib: pip install 'tasklore[report]'")
pytest.importorskip("jinja2", reason="a report needs Jinja2: pip install 'tasklore[report]'")

from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from tasklore.canonical import plain
from tasklore.cli.show import comparison
from tasklore.contest import Contest, Standing, Trial, ranked
from tasklore.errors import MissingDependency, StoreError
from tasklore.evaluate import Evaluation
from tasklore.experience import open_store
from tasklore.experience.records import ModelRecord
from tasklore.experiment import Experiment, Findings, Row, conduct
from tasklore.registry import sources
from tasklore.report import summary, write_report
from tasklore.report.contest import write_contest
from tasklore.report.examples import png
from tasklore.report.provenance import recipe
from tasklore.scores import Score
from tasklore.tasks.few_shot import Examples, FewShotSource
from tasklore.tasks.images import Omniglot
from tasklore.tasks.source import Collection, Splits

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=alert(1)> $\\frac & \"'"


@dataclass(frozen=True)
class HostileDigits(Collection):
    """Small real images, whose classes have names made to break a page."""

    def splits(self) -> Splits:
        digits = cast("Any", load_digits())
        names = np.array([f"<script>alert({n})</script>" for n in range(10)])[digits.target]
        examples = Examples.from_arrays(
            "<b>digits</b>", digits.images[:, None].astype(np.float32), names, mean=5.0, std=6.0
        )
        source = FewShotSource.of(examples, n_ways=3, n_queries=4)
        return Splits(source.only([0, 1, 2, 3]), source.only([4, 5, 6]), source.only([7, 8, 9]))


def settings(tasks: str, shots: list[int]) -> Experiment:
    return Experiment.from_sections(
        {
            "tasks": {"name": tasks},
            "learner": {"name": "maml", "inner_steps": 2, "step_size": 0.05},
            "net": {"name": "mlp", "hidden": [16]},
            "train": {
                "steps": 4,
                "n_tasks": 4,
                "n_validation": 6,
                "pretrain_steps": 5,
                "execution": "vectorised",
            },
            "stop": {"rounds": 3},
            "test": {"n_tasks": 6, "n_curve": 4, "shots": shots, "inner_steps": [0, 1, 3]},
        }
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Findings]:
    folder = tmp_path_factory.mktemp("images")
    entries = sources._entries  # pyright: ignore[reportPrivateUsage]
    with pytest.MonkeyPatch.context() as patch, open_store(folder / "lore.db") as store:
        sources.names()  # the built-in ones come first, so that nothing but this one goes again
        patch.setitem(entries, "hostile-digits", HostileDigits)
        yield conduct(settings("hostile-digits", [1, 3]), folder / "run", store, folder / "artifacts")


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Findings]:
    folder = tmp_path_factory.mktemp("curves")
    with open_store(folder / "lore.db") as store:
        yield conduct(settings("sinusoid", [5]), folder / "run", store, folder / "artifacts")


@pytest.fixture(scope="module")
def image_report(images: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(images, tmp_path_factory.mktemp("report") / "new folder" / "images.html")


@pytest.fixture(scope="module")
def curve_report(curves: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(curves, tmp_path_factory.mktemp("report") / "curves.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        reason = f"a browser is needed to look at the report, and there is no {CHROMIUM}"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (never skipped where CI is set)")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """A page, and whatever it asks for or complains about."""
    page = browser.new_page(viewport={"width": 400, "height": 800})
    noticed: list[str] = []
    page.on("request", lambda request: noticed.append(f"request {request.url[:100]}"))
    page.on("console", lambda message: noticed.append(f"console {message.text}"))
    page.on("pageerror", lambda error: noticed.append(f"error {error}"))
    page.on("dialog", lambda dialog: noticed.append(f"dialog {dialog.message}"))
    yield page, noticed
    page.close()


def view(opened: tuple[Page, list[str]], path: Path) -> Page:
    page, noticed = opened
    page.goto(path.as_uri(), wait_until="networkidle")
    assert [what for what in noticed if not what.startswith(("request file:", "request data:"))] == []
    assert sum(what.startswith("request file:") for what in noticed) == 1, "the file itself, and nothing else"
    return page


def score_of(findings: Findings, method: str, shots: int) -> str:
    found = (row.evaluation for row in findings.rows if row.shots == shots)
    return summary.written(next(evaluation.score for evaluation in found if evaluation.method == method))


def test_a_browser_shows_images_and_asks_nobody(
    images: Findings, image_report: Path, opened: tuple[Page, list[str]]
) -> None:
    page = view(opened, image_report)
    assert page.locator("h1").count() == 1
    assert page.locator("h2").all_inner_texts() == [
        "What was learned",
        "Against the baselines",
        "Example tasks",
        "What is remembered",
        "Where it comes from",
    ]
    # Methods × shots, each cell from the findings.
    table = page.locator("table.comparison")
    methods = ["maml", "scratch", "finetune", "linear-probe", "nearest-centroid", "logistic-regression"]
    assert [text.split()[0] for text in table.locator("tbody th").all_inner_texts()] == methods
    for method, row in zip(methods, table.locator("tbody tr").all(), strict=True):
        assert row.locator("td").count() == 4
        for shots in (1, 3):
            assert score_of(images, method, shots) in row.inner_text()
        assert ("baseline" in row.inner_text()) == (method != "maml")
    assert table.locator("tbody strong").count() == 2, "the best with 1 and with 3 shots"
    # Pictures are really there, and described.
    sizes = page.eval_on_selector_all(
        "img", "all => all.map(one => [one.naturalWidth, one.naturalHeight, one.alt.length])"
    )
    assert len(sizes) == 2 * 3 * (1 + 4) + 3 * (3 + 4)
    assert all(width == height == 8 and alt > 0 for width, height, alt in sizes)
    assert page.locator(".answer").count() == 3 * 3 * 4
    right = page.locator(".answer.right")
    assert set(right.all_inner_texts()) <= {"✓"}
    assert all(text.startswith("✗ ") for text in page.locator(".answer.wrong").all_inner_texts())
    # The number said to be right is what the pictures show, since all queries are shown.
    said = re.findall(r"(\d+) of 12 queries right", page.locator("main").inner_text())
    assert sum(map(int, said)) == right.count()
    # Charts are described, and large enough to be seen.
    charts = page.locator("figure > svg[role=img]")
    assert charts.count() == 4
    assert all(len(chart.get_attribute("aria-label") or "") > 20 for chart in charts.all())
    assert all(
        (box := chart.bounding_box()) and box["width"] > 300 and box["height"] > 150 for chart in charts.all()
    )
    # A phone is wide enough.
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.locator("th:not([scope])").count() == 0
    assert (
        page.evaluate(
            "() => { const ids = [...document.querySelectorAll('[id]')].map(one => one.id);"
            " return ids.length - new Set(ids).size; }"
        )
        == 0
    ), "an id names one thing"


def test_a_browser_shows_a_contest(tmp_path: Path, opened: tuple[Page, list[str]]) -> None:
    rng = np.random.default_rng(0)
    curve = tuple((60.0 * n, Score("accuracy", 0.5 + 0.05 * n, 0.02, 20)) for n in range(1, 5))
    trials = tuple(Trial({"step_size": size}, curve[0][1], 30.0) for size in (0.01, 0.1, 0.4))
    names = {"maml": False, "prototypes": False, "scratch": True, HOSTILE: True}
    found = [
        Standing(
            name,
            is_baseline,
            {n: Evaluation(name, "accuracy", tuple(rng.uniform(0.6, 0.9, 20)), 0.3) for n in (1, 5)},
            {} if is_baseline else {"step_size": 0.1},
            () if is_baseline else trials,
            () if is_baseline else curve,
            0 if is_baseline else 1234,
        )
        for name, is_baseline in names.items()
    ]
    order = ranked(found, 1)
    contest = Contest(cast("Any", sources.get("digits"))(), shots=(1, 5), n_tasks=20)
    page = view(opened, write_contest(contest, order, tmp_path / "contest.html"))
    rows = page.locator("table.comparison tbody tr")
    assert rows.count() == 4
    for standing, row in zip(order, rows.all(), strict=True):
        assert standing.method in row.inner_text()
        assert all(summary.written(standing.evaluations[n].score) in row.inner_text() for n in (1, 5))
        assert ("baseline" in row.inner_text()) == standing.is_baseline
    charts = page.locator("figure > svg[role=img]")
    assert charts.count() == 2
    assert page.locator("table").nth(1).locator("tbody tr").count() == 6, "three trials of each learner"
    assert page.get_by_text("step_size 0.1 (chosen)").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))


def test_hostile_names_are_text(images: Findings, tmp_path: Path, opened: tuple[Page, list[str]]) -> None:
    rows = [
        dataclasses.replace(row, evaluation=dataclasses.replace(row.evaluation, method=HOSTILE))
        if row.evaluation.method == "scratch"
        else row
        for row in images.rows
    ]
    outcome = dataclasses.replace(images.outcome, reason=HOSTILE)
    hostile = dataclasses.replace(images, rows=tuple(rows), outcome=outcome, name=HOSTILE)
    path = write_report(hostile, tmp_path / "report.html")
    html = path.read_text()
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "<b>digits" not in html
    page = view(opened, path)
    assert HOSTILE in page.locator("table.comparison").inner_text()
    assert HOSTILE in page.locator(".legend").inner_text()
    assert HOSTILE in page.title()
    assert "<script>alert(7)</script>" in page.locator("table.episode").first.inner_text()


def test_a_browser_shows_curves(curves: Findings, curve_report: Path, opened: tuple[Page, list[str]]) -> None:
    page = view(opened, curve_report)
    assert page.locator("figure > svg[role=img]").count() == 4 + 2
    assert page.locator("img").count() == 0
    text = page.locator("main").text_content() or ""
    for said in ("after 0 steps", "after 1 step", "after 3 steps", "Squared error (lower is better)"):
        assert said in text
    assert score_of(curves, "maml", 5) in text


def test_the_file_is_whole_in_itself_and_the_same_again(
    images: Findings, image_report: Path, tmp_path: Path
) -> None:
    first, second = image_report.read_bytes(), write_report(images, tmp_path / "again.html").read_bytes()
    assert first == second
    html = first.decode()
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:;" in html
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []
    assert re.findall(r"https?://|@import|url\((?!#)", html) == []
    assert str(tmp_path.parent) not in html, "where it lay on one machine is nobody's business"
    assert str(images.workspace.artifacts) not in html
    assert not any(path.suffix == ".partial" for path in tmp_path.iterdir())


def test_it_says_where_it_comes_from_and_how_to_get_it_again(
    curves: Findings, curve_report: Path, tmp_path: Path, opened: tuple[Page, list[str]]
) -> None:
    page = view(opened, curve_report)
    text = page.locator("main").text_content() or ""
    workspace = curves.workspace
    kept = workspace.store.find(ModelRecord, {"run_id": workspace.id})
    assert curves.outcome.reason in text
    assert workspace.id in text
    assert kept[-1].path in text
    assert kept[-1].checksum in text
    assert curves.splits.train.fingerprint[:12] in text
    file = tmp_path / "experiment.toml"
    file.write_text(page.locator("pre").text_content() or "")
    again = Experiment.from_toml(file)
    assert again == curves.experiment
    assert plain(again.settings(), "settings") == workspace.config


def test_the_settings_keep_private_where_data_lay(curves: Findings, tmp_path: Path) -> None:
    tasks = Omniglot(folder=str(tmp_path / "private" / "omniglot"))
    elsewhere = dataclasses.replace(curves, experiment=dataclasses.replace(curves.experiment, tasks=tasks))
    text = recipe(elsewhere)
    assert "private" not in text
    assert tomllib.loads(text)["tasks"]["folder"] == "PATH/TO/omniglot"


def changed(findings: Findings, by: float) -> Findings:
    """Return findings where the learner's scores are higher by so much, on every other task a little more."""

    def scores(row: Row) -> tuple[float, ...]:
        return tuple(0.5 + 0.01 * n + (0.0 if row.is_baseline else by + 0.02 * (n % 2)) for n in range(6))

    rows = (
        dataclasses.replace(row, evaluation=dataclasses.replace(row.evaluation, scores=scores(row)))
        for row in findings.rows
    )
    return dataclasses.replace(findings, rows=tuple(rows))


def test_the_headline_tells_who_wins(images: Findings) -> None:
    ahead = summary.compare(changed(images, 0.2))
    assert [verdict.outcome for verdict in ahead.verdicts] == ["ahead", "ahead"]
    assert ahead.headline == (
        "From 1 example per class, maml reaches 73.5 % on unseen tasks, 21.0 points above the best baseline"
    )
    # Gains are 20, 22, 20, … points: sd 1.0954, t(5, 0.975) = 2.5706, half width 1.1496.
    assert "21.0 points better (95 % interval 19.9 to 22.1, paired by task)" in ahead.verdicts[0].sentence

    behind = summary.compare(changed(images, -0.2))
    assert [verdict.outcome for verdict in behind.verdicts] == ["behind", "behind"]
    assert "a baseline wins" in behind.headline
    assert "19.0 points worse (95 % interval 17.9 to 20.1, paired by task)" in behind.verdicts[0].sentence

    level = summary.compare(changed(images, -0.01))
    assert "no clear difference to a baseline" in level.headline
    assert "95 % interval −1.1 to +1.1" in level.verdicts[0].sentence

    few, many = changed(images, 0.2), changed(images, -0.2)
    mixed = [row for row in few.rows if row.shots == 1] + [row for row in many.rows if row.shots == 3]
    assert summary.compare(dataclasses.replace(images, rows=tuple(mixed))).headline.endswith(
        "; from 3, a baseline wins"
    )
    alone = tuple(row for row in images.rows if not row.is_baseline)
    assert (
        "no baseline was run" in summary.compare(dataclasses.replace(images, rows=alone)).verdicts[0].sentence
    )


def test_who_sees_all_queries_at_once_is_marked(images: Findings, tmp_path: Path) -> None:
    mark = '<span class="tag">transductive</span>'
    assert mark not in write_report(images, tmp_path / "plain.html").read_text()
    rows = tuple(
        dataclasses.replace(row, evaluation=dataclasses.replace(row.evaluation, transductive=True))
        for row in images.rows
        if not row.is_baseline
    )
    others = tuple(row for row in images.rows if row.is_baseline)
    found = dataclasses.replace(images, rows=rows + others)
    page = write_report(found, tmp_path / "marked.html").read_text()
    assert page.count(mark) == 1
    assert "see all queries of a task before they answer" in page
    capturing = Console(width=120, file=io.StringIO(), record=True)
    capturing.print(comparison(found.rows, "title"))
    text = capturing.export_text()
    assert "maml, transductive" in text
    assert "logistic-regression (baseline)" in text


def test_lower_error_is_better(curves: Findings) -> None:
    comparison = summary.compare(changed(curves, -0.4))
    assert comparison.verdicts[0].outcome == "ahead"
    assert "times lower than the best baseline" in comparison.headline
    assert [cell.is_best for cell in comparison.cells.values()] == [True, False, False, False]


def test_a_png_holds_the_pixels_it_was_given() -> None:
    import base64
    import io

    import torch
    from matplotlib.image import imread

    for channels in (1, 3):
        image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
        data = base64.b64decode(png(image).removeprefix("data:image/png;base64,"))
        read = (imread(io.BytesIO(data), format="png") * 255).round().astype(np.uint8)
        assert np.array_equal(read.reshape(5, 7, -1), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named(
    package: str, curves: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=r"pip install 'tasklore\[report\]'"):
        write_report(curves, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_place_that_cannot_be_written_is_named(curves: Findings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose a place that can be written"):
        write_report(curves, tmp_path / "file" / "report.html")
