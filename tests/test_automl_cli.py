"""`tasklore fit`, the report that it leaves, and `tasklore predict` on what it saved."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.inspection import permutation_importance
from sklearn.metrics import accuracy_score, log_loss

pytest.importorskip("skops", reason="saving a model needs skops: pip install 'tasklore[automl]'")
pytest.importorskip("matplotlib", reason="a report needs matplotlib: pip install 'tasklore[report]'")
pytest.importorskip("jinja2", reason="a report needs Jinja2: pip install 'tasklore[report]'")

from automl_cases import classifier, quick_prior
from playwright.sync_api import Browser, sync_playwright

from tasklore.apps.automl.estimators import load_model
from tasklore.apps.automl.judging import Judged, calibration, importance, judge
from tasklore.apps.automl.prior import TablePrior
from tasklore.apps.automl.report import Fitted, write_report
from tasklore.cli import main
from tasklore.cli.running import command_given
from tasklore.cli.tables import Target, keep_aside, read_table, read_target
from tasklore.errors import InvalidData, MissingDependency, StoreError
from tasklore.experience import open_store
from tasklore.experience.records import TaskRecord

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=alert(1)> $\\frac & \"'"
FEW = ("--max-evaluations", "2", "--jobs", "1")


class Here:
    """Give commands in this process, with a prior that knows quick candidates only."""

    def __init__(
        self, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.home, self.capsys, self.monkeypatch = home, capsys, monkeypatch
        monkeypatch.setenv("COLUMNS", "110")
        monkeypatch.setenv("TASKLORE_HOME", str(home))
        monkeypatch.setattr(TablePrior, "shipped", quick_prior)

    def __call__(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Give one command, and check its exit code."""
        self.monkeypatch.setattr(sys, "argv", ["tasklore", *map(str, arguments)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = self.capsys.readouterr()
        assert (ended.value.code or 0) == code, f"exit code {ended.value.code}\n{out}\n{err}"
        return subprocess.CompletedProcess(sys.argv, code, out, err)


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(tmp_path)
    return Here(tmp_path / "home", capsys, monkeypatch)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """iris.csv with names of species, and diabetes.csv.gz."""
    folder = tmp_path_factory.mktemp("tables")
    iris_frame().to_csv(folder / "iris.csv", index=False)
    cast("Any", load_diabetes(as_frame=True)).frame.to_csv(folder / "diabetes.csv.gz", index=False)
    return folder


def iris_frame() -> pd.DataFrame:
    iris = cast("Any", load_iris(as_frame=True))
    frame = iris.frame.drop(columns="target")
    frame["species"] = iris.target_names[iris.target]
    return frame


def table(path: Path, content: dict[str, Any]) -> Path:
    pd.DataFrame(content).to_csv(path, index=False)
    return path


def test_classes_from_a_file_to_predictions(here: Here, files: Path, tmp_path: Path) -> None:
    told = here("fit", files / "iris.csv", "--target", "species", "--no-report", *FEW).stdout
    assert "iris.csv: 150 rows, 4 columns" in told
    assert "species: classification, 3 classes: setosa, versicolor, virginica" in told
    assert "30 rows are kept aside for the test" in told
    assert re.search(r"logistic-1 +│ +[0-9.]+ │ .* │ +120 │", told)
    assert re.search(r"│ accuracy +│ +9\d\.\d % │ +33\.3 % │", told)
    assert "it never saw these 30 rows" in told
    assert "tasklore predict model.skops NEW.csv --output predictions.csv" in told
    # The store knows the table now, and nothing of its rows.
    with open_store(tmp_path / "home" / "lore.db") as store:
        (known,) = store.find(TaskRecord)
    assert known.kind == "classification"
    assert "setosa" not in json.dumps(known.to_json())
    listed, run = here("lore", "list").stdout, r"│ ([0-9a-f]{12}) │"
    assert re.search(r"│ [0-9a-f]{12} │ iris +│ 2 +│ logistic-1 +│ 0\.\d+ log loss +│", listed), listed
    assert "Runs" not in listed  # there are none but fits
    here("lore", "export", tmp_path / "lore.json")
    here("lore", "merge", tmp_path / "lore.json", "--store", tmp_path / "other.db")
    here("lore", "erase", known.id, "--reason", "test", "--store", tmp_path / "other.db")
    erased = here("lore", "list", "--store", tmp_path / "other.db").stdout
    assert re.search(rf"{run} erased +│", erased), erased
    # Predictions are those of the model; a column that it does not know is no matter.
    answers = here("predict", "model.skops", files / "iris.csv").stdout
    rows = list(csv.reader(io.StringIO(answers)))
    assert rows[0] == [
        "prediction",
        *(f"probability {name}" for name in ("setosa", "versicolor", "virginica")),
    ]
    model = cast("Any", load_model(tmp_path / "model.skops"))
    frame = iris_frame()
    assert [row[0] for row in rows[1:]] == model.predict(frame).tolist()
    chances = np.array([[float(cell) for cell in row[1:]] for row in rows[1:]])
    assert np.allclose(chances, model.predict_proba(frame), atol=1e-6)
    said = here("predict", "model.skops", files / "iris.csv", "--target", "species", "-o", "p.csv").stdout
    assert said == "150 predictions written to p.csv\n"
    assert (tmp_path / "p.csv").read_text() == answers


def test_what_looks_like_a_number_in_a_later_file_is_what_it_was(here: Here, tmp_path: Path) -> None:
    """A file of few rows may hold codes of digits only, and truth values where there were three answers."""
    rng = np.random.default_rng(0)
    code, smoker = rng.choice(["007", "A12", "012"], 90), rng.choice(["TRUE", "FALSE", "UNKNOWN"], 90)
    target = np.where(code == "007", "high", "low")
    table(tmp_path / "all.csv", {"code": code, "smoker": smoker, "target": target})
    here("fit", "all.csv", "--target", "target", "--no-report", *FEW)
    table(tmp_path / "one.csv", {"code": ["007"], "smoker": ["TRUE"]})
    table(tmp_path / "more.csv", {"code": ["007", "A12"], "smoker": ["TRUE", "UNKNOWN"]})
    one, more = (here("predict", "model.skops", name).stdout.splitlines() for name in ("one.csv", "more.csv"))
    assert one[1] == more[1]
    assert one[1].startswith("high")


def test_numbers_from_a_packed_file_to_predictions(here: Here, files: Path, tmp_path: Path) -> None:
    data = files / "diabetes.csv.gz"
    options = ("--output", "out/sugar.skops", "--no-remember", "--json")
    done = here("fit", data, "--target", "target", *options, *FEW)
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert {name: told[name] for name in ("task", "metric", "classes", "model", "report")} == {
        "task": "regression",
        "metric": "r2",
        "classes": None,
        "model": "out/sugar.skops",
        "report": "out/sugar.html",
    }
    assert told["rows"] == {"searched": 442 - 88, "test": 88, "left_out": 0}
    assert told["test"]["r2"]["score"] > 0.3 > 0.1 > told["test"]["r2"]["constant"]
    assert set(told["test"]) == {"r2", "mean_absolute_error", "root_mean_squared_error"}
    assert [row["candidate"] for row in told["leaderboard"]] == ["ridge-1", "lightgbm-quick"]
    assert (tmp_path / "out" / "sugar.html").is_file()
    with open_store(tmp_path / "home" / "lore.db") as store:
        assert list(store.find(TaskRecord)) == []
    rows = here("predict", "out/sugar.skops", data).stdout.splitlines()
    model = load_model(tmp_path / "out" / "sugar.skops")
    assert rows[0] == "prediction"
    assert np.allclose([float(row) for row in rows[1:]], model.predict(read_table(data)))


def test_a_budget_of_time_is_kept_and_options_are_heard(here: Here, files: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    options = ("--budget", "3s", "--jobs", "1", "--metric", "accuracy", "--no-report", "--test-size", "0")
    told = here("fit", files / "iris.csv", "--target", "species", "--store", "memory:", *options).stdout
    assert time.monotonic() - started < 30
    assert "accuracy" in told
    assert "nothing says how good the model is on new ones" in told
    assert "Report" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["model.skops"]
    assert here("fit", files / "iris.csv", "--target", "species", *FEW, "--quiet").stdout == ""


def test_rows_without_a_target_are_left_out(here: Here, tmp_path: Path) -> None:
    frame = iris_frame()
    frame.loc[::10, "species"] = None
    data = tmp_path / "gaps.csv"
    frame.to_csv(data, index=False)
    told = here("fit", data, "--target", "species", "--no-report", *FEW).stdout
    assert "15 rows without species are left out" in told
    assert "gaps.csv: 135 rows, 4 columns" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["iris.csv", "--target", "specie"], "did you mean 'species'? it has sepal length (cm)"),
        (["nowhere.csv", "--target", "y"], "nowhere.csv does not exist; give a .csv"),
        ([".", "--target", "y"], "is a folder; give a .csv"),
        (["one.csv", "--target", "y"], "y holds one class only"),
        (["empty.csv", "--target", "y"], "the column 'y' of empty.csv is empty"),
        (["lonely.csv", "--target", "y"], "something to predict it from is needed"),
        (["nothing.csv", "--target", "y"], "nothing.csv cannot be read as a table"),
        (["headed.csv", "--target", "y"], "headed.csv has columns but no rows"),
        (["bytes.csv", "--target", "y"], "save it in UTF-8"),
        (["mixed.csv", "--target", "y"], "holds 59 numbers and 1 other values, 'unknown' for one"),
        (["iris.csv", "--target", "species", "--metric", "r2"], "there are log_loss, accuracy"),
        (["iris.csv", "--target", "species", "--budget", "soon"], "budget is 'soon'; give seconds"),
        (["iris.csv", "--target", "species", "--jobs", "0"], "--jobs is 0"),
        (["iris.csv", "--target", "species", "--task", "regression"], "give --task classification"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(
    arguments: list[str], message: str, here: Here, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "iris.csv").write_bytes((files / "iris.csv").read_bytes())
    numbers = list(range(60))
    table(tmp_path / "one.csv", {"x": numbers, "y": ["same"] * 60})
    table(tmp_path / "empty.csv", {"x": numbers, "y": [None] * 60})
    table(tmp_path / "lonely.csv", {"y": numbers})
    table(tmp_path / "mixed.csv", {"x": numbers, "y": [*numbers[1:], "unknown"]})
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "headed.csv").write_text("x,y\n")
    (tmp_path / "bytes.csv").write_bytes(b"x,y\n\xff\xfe\x00,1\n")
    done = here("fit", *arguments, *FEW[2 if "--jobs" in arguments else 0 : 2], code=2)
    assert message in done.stderr.replace("\n", "")
    assert not (tmp_path / "model.skops").exists()


def test_a_model_that_is_none_or_misused_is_refused(here: Here, files: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.skops").write_bytes(b"PK\x03\x04 nothing more")
    assert "no model that Tasklore saved" in here("predict", "bad.skops", files / "iris.csv", code=4).stderr
    done = here("predict", "missing.skops", files / "iris.csv", code=2)
    assert "missing.skops does not exist" in done.stderr
    here("fit", files / "iris.csv", "--target", "species", "--no-report", *FEW)
    assert "--invert is for images" in here("predict", "model.skops", "x.csv", "--invert", code=2).stderr
    assert "x.csv does not exist" in here("predict", "model.skops", "x.csv", code=2).stderr
    done = here("predict", "model.skops", files / "iris.csv", "--target", "colour", code=2)
    assert "has no column 'colour'" in done.stderr
    iris_frame().drop(columns="petal width (cm)").to_csv("narrow.csv", index=False)
    done = here("predict", "model.skops", "narrow.csv")
    assert "note: X lacks 1 of 4 columns (petal width (cm))" in done.stderr
    assert len(done.stdout.splitlines()) == 151


def test_a_place_that_cannot_be_written_is_told_before_any_work(
    here: Here, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    data = ("fit", files / "iris.csv", "--target", "species", *FEW)
    assert "cannot be made" in here(*data, "-o", "file/model.skops", code=4).stderr
    assert "give the path of a file" in here(*data, "-o", ".", code=4).stderr
    assert "give the path of a file" in here(*data, "-o", tmp_path, "--no-report", code=4).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "model.html"], "model and report would both be written to model.html"),
        (["--report", "model.skops"], "model and report would both be written to model.skops"),
        (["-o", "a.skops", "--report", "folder/../a.skops"], "would both be written to a.skops"),
        (["-o", "link.skops", "--report", "real.skops"], "would both be written to link.skops"),
        (["-o", "iris.csv"], "iris.csv is the table itself"),
        (["--report", "./iris.csv"], "iris.csv is the table itself"),
    ],
)
def test_no_result_replaces_another_or_the_table(
    options: list[str], message: str, here: Here, files: Path, tmp_path: Path
) -> None:
    data = tmp_path / "iris.csv"
    data.write_bytes((files / "iris.csv").read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.skops").symlink_to("real.skops")
    done = here("fit", "iris.csv", "--target", "species", *options, *FEW, code=2)
    assert message in done.stderr.replace("\n", "")
    assert data.read_bytes() == (files / "iris.csv").read_bytes()


def test_a_file_whose_name_begins_with_a_dot(here: Here, files: Path, tmp_path: Path) -> None:
    (tmp_path / ".iris.csv").write_bytes((files / "iris.csv").read_bytes())
    here("fit", ".iris.csv", "--target", "species", "-o", "model.html", "--no-report", *FEW)
    assert load_model(tmp_path / "model.html").name == "iris"
    with open_store(tmp_path / "home" / "lore.db") as store:
        assert [task.name for task in store.find(TaskRecord)] == ["iris"]


def test_a_stop_says_what_is_lost(files: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tasklore", "fit", str(files / "iris.csv"), "--target", "species"]
    process = subprocess.Popen(
        [*command, "--budget", "60s", "--jobs", "1", "--output", "m.skops"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TASKLORE_HOME": str(tmp_path / "home"), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "kept aside" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped: no model was saved, nothing was remembered" in err
    assert "--target species --budget 60s" in err
    assert "Traceback" not in err
    assert not (tmp_path / "m.skops").exists()


def target_of(values: list[Any], task: Any = None) -> Target:
    frame = pd.DataFrame({"x": range(len(values)), "y": values})
    return read_target(frame, "y", task, Path("t.csv"))


def test_labels_are_told_from_numbers() -> None:
    def kind(values: list[Any]) -> tuple[str, str]:
        target = target_of(values)
        return target.kind, target.y.dtype.kind

    assert kind(["a", "b"] * 30) == ("classification", "U")
    assert kind([True, False] * 30) == ("classification", "b")
    assert kind([True, False, None] * 20) == ("classification", "b")
    assert kind([0, 1, 2] * 20) == ("classification", "i")
    assert kind([0.0, 1.0, None] * 20) == ("classification", "i")
    assert kind(list(range(60))) == ("regression", "f")
    assert kind([0.5, 1.5] * 30) == ("regression", "f")
    assert kind([1, 2, 3, 4, 5, 6, 7, 8]) == ("regression", "f")
    assert target_of([0, 1, 2] * 20, "regression").kind == "regression"
    assert target_of([0.5, 1.5] * 30, "classification").y.tolist() == ["0.5", "1.5"] * 30
    assert target_of([1.0, np.inf, None, 2.0], "regression").n_left_out == 2
    with pytest.raises(InvalidData, match="correct these, or give --task classification"):
        target_of(["a", "b"] * 30, "regression")


def test_a_separator_is_found(tmp_path: Path) -> None:
    frame = iris_frame()
    for name, separator in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        frame.to_csv(tmp_path / name, sep=separator, index=False)
        assert read_table(tmp_path / name).shape == (150, 5)


def test_rows_kept_aside_are_in_proportion() -> None:
    y = np.repeat(["common", "rare", "alone", "pair"], [400, 23, 1, 2])
    target = Target(y, "classification", np.ones(len(y), dtype=bool))
    counts = {"common": 0.0, "rare": 0.0, "alone": 0.0, "pair": 0.0}
    for seed in range(40):
        searched, kept = keep_aside(target, 0.2, seed)
        assert sorted([*searched, *kept]) == list(range(len(y)))
        assert set(y[searched]) == set(y), "no class is lost to the search"
        for name in y[kept]:
            counts[name] += 1 / 40
    assert counts["alone"] == counts["pair"] == 0
    assert counts["common"] == pytest.approx(80, abs=1e-6)
    assert counts["rare"] == pytest.approx(4.6, abs=0.35)
    numbers = Target(np.arange(50.0), "regression", np.ones(50, dtype=bool))
    assert len(keep_aside(numbers, 0.2, 0)[1]) == 10
    assert len(keep_aside(numbers, 0.0, 0)[1]) == 0


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    frame = iris_frame().rename(columns={"sepal length (cm)": HOSTILE})
    frame["colour"] = ["красный", "緑"] * 75
    frame["species"] = frame["species"].replace("setosa", "<script>alert(1)</script>")
    y, rows = frame.pop("species").to_numpy(dtype=str), np.arange(150)
    seen, kept = rows[rows % 3 > 0], rows[rows % 3 == 0]
    model = classifier(max_evaluations=2).fit(frame.iloc[seen], y[seen])
    X_kept = frame.iloc[kept].reset_index(drop=True)  # noqa: N806 - scikit-learn's name
    judged = judge(model, X_kept, y[kept], y[seen])
    told = (model, HOSTILE, "species", frame.iloc[seen], y[seen], X_kept, y[kept], judged)
    return Fitted(*told, 3, {"Budget": HOSTILE}, f"tasklore fit {HOSTILE}")


def test_scores_are_those_of_scikit_learn(fitted: Fitted) -> None:
    judged, model = fitted.judged, cast("Any", fitted.model)
    assert judged is not None
    scores = {score.metric: score for score in judged.scores}
    chances = model.predict_proba(fitted.kept)
    assert next(iter(scores)) == "log_loss"
    assert scores["log_loss"].value == pytest.approx(log_loss(fitted.kept_y, chances), rel=1e-4)
    right = accuracy_score(fitted.kept_y, model.predict(fitted.kept))
    assert scores["accuracy"].value == pytest.approx(right)
    assert scores["log_loss"].constant == pytest.approx(np.log(3), rel=0.01)
    low, high = judged.interval
    assert low < scores["log_loss"].value < high < scores["log_loss"].constant
    assert judged.beats_constant


def test_importance_is_that_of_scikit_learn(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasklore.apps.automl.judging.MOST_REPEATS", 3)
    found = importance(fitted.model, fitted.kept, fitted.kept_y, seconds=100.0)
    assert found is not None
    assert (found.n_rows, found.n_repeats, found.is_whole) == (50, 3, True)
    expected = permutation_importance(
        cast("Any", fitted.model),
        fitted.kept,
        fitted.kept_y,
        scoring="neg_log_loss",
        n_repeats=3,
        random_state=0,
    )
    given = dict(zip(map(str, fitted.kept.columns), cast("Any", expected).importances_mean, strict=True))
    assert dict(zip(found.columns, found.mean, strict=True)) == pytest.approx(given, abs=1e-3)
    assert found.columns[0].startswith("petal")
    assert importance(fitted.model, fitted.kept, fitted.kept_y, seconds=1e-9) is None


def test_calibration_counts_what_came_true() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random(20_000)
    y = (rng.random(20_000) < chances).astype(int)
    outputs = np.column_stack([1 - chances, chances])
    bins = calibration(Judged("classification", y, outputs, (), (0.0, 1.0)))
    assert len(bins) == 10
    assert all(b.n_rows == 2000 and b.low < b.observed < b.high for b in bins)
    assert [b.predicted for b in bins] == pytest.approx(np.arange(0.05, 1, 0.1), abs=0.01)
    assert [b.observed for b in bins] == pytest.approx([b.predicted for b in bins], abs=0.03)
    assert calibration(Judged("classification", y[:20], outputs[:20], (), (0.0, 1.0))) == ()


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


def test_a_browser_shows_the_report_and_asks_nobody(fitted: Fitted, browser: Browser, tmp_path: Path) -> None:
    path = write_report(fitted, tmp_path / "new folder" / "report.html", seconds=5.0)
    html = path.read_text()
    assert re.findall(r"https?://|@import|url\((?!#)", html) == []
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []
    assert "<script" not in html
    assert "<img src=x" not in html
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
        noticed: list[str] = []
        page.on("request", lambda request, seen=noticed: seen.append(request.url))
        page.on("console", lambda message, seen=noticed: seen.append(message.text))
        page.on("pageerror", lambda error, seen=noticed: seen.append(str(error)))
        page.goto(path.as_uri(), wait_until="networkidle")
        assert [what for what in noticed if not what.startswith("data:")] == [path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") == 400, "a phone is wide enough"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        page.close()
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator("h2").all_inner_texts() == [
        "How good it is",
        "What it looks at",
        "How it was found",
        "Why this model",
        "The data",
        "Where it comes from",
    ]
    assert HOSTILE in page.locator("main").inner_text()
    assert HOSTILE in page.title()
    charts = page.locator("figure > svg[role=img]")
    assert charts.count() == 3, "calibration, importance, curve"
    assert all(len(chart.get_attribute("aria-label") or "") > 20 for chart in charts.all())
    counts = [int(n) for n in page.locator("table.confusions td").all_inner_texts()]
    assert sum(counts) == len(fitted.kept_y)
    board = page.locator("table[aria-label=Leaderboard] tbody th").all_inner_texts()
    assert board == fitted.board["candidate"].tolist()
    past = page.locator("table[aria-label='Past tables most like this one'] tbody th").all_inner_texts()
    assert past == ["one", "two"]
    unnamed = page.locator("th:not([scope])").count()
    twice = page.evaluate(
        "() => { const ids = [...document.querySelectorAll('[id]')].map(one => one.id);"
        " return ids.length - new Set(ids).size; }"
    )
    assert (unnamed, twice) == (0, 0)
    page.close()


def test_a_report_that_cannot_be_written_says_so(
    fitted: Fitted, here: Here, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose a place that can be written"):
        write_report(fitted, tmp_path / "file" / "report.html", seconds=0.0)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependency, match=r"pip install 'tasklore\[report\]'"):
        write_report(fitted, tmp_path / "report.html")
    data = ("fit", files / "iris.csv", "--target", "species", *FEW)
    assert "a report needs jinja2" in here(*data, "--report", "r.html", code=2).stderr
    told = here(*data).stdout
    assert "note: there will be no report: a report needs jinja2" in told
    assert "Model: model.skops" in told


def test_a_csv_with_decimal_commas(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("size;price;note\n1,5;2,25;a\n2,5;3,75;b\n")
    table = read_table(tmp_path / "prices.csv")
    assert table["price"].tolist() == [2.25, 3.75]
    (tmp_path / "points.csv").write_text("size;price\n1.5;2.25\n2.5;3.75\n")
    assert read_table(tmp_path / "points.csv")["price"].tolist() == [2.25, 3.75]


def test_dates_are_no_target() -> None:
    with pytest.raises(InvalidData, match="holds dates or times"):
        target_of([pd.Timestamp("2024-01-01"), pd.NaT])


def test_none_is_a_label_where_labels_are_text(tmp_path: Path) -> None:
    path = tmp_path / "ill.csv"
    path.write_text("age,garage,severity\n1,None,None\n2,,mild\nNone,b,\n4,a,severe\n")
    table = read_table(path, "severity")
    assert read_target(table, "severity", None, path).y.tolist() == ["None", "mild", "severe"]
    assert table["age"].isna().tolist() == [False, False, True, False]
    assert table["garage"].isna().tolist() == [True, True, False, False]


def test_a_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://anna:s3cret@db.example/lore"
    monkeypatch.setattr("sys.argv", ["tasklore", "collect", "list.csv", "--store", address])
    assert command_given() == ("tasklore collect list.csv --store postgresql://anna:PASSWORD@db.example/lore")
    monkeypatch.setattr(
        "sys.argv", ["tasklore", "run", "--store", "postgresql://db/lore?user=a&password=b%c&x=1"]
    )
    assert command_given() == "tasklore run --store 'postgresql://db/lore?user=a&password=PASSWORD&x=1'"
    monkeypatch.setattr("sys.argv", ["tasklore", "run", "a b.toml", "--store=sqlite:///lore.db"])
    assert command_given() == "tasklore run 'a b.toml' --store=sqlite:///lore.db"
