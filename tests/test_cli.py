"""The commands as a user gives them: in processes of their own, on small settings."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sklearn.datasets import load_digits

import tasklore
from tasklore.cli import main
from tasklore.cli.arguments import collection
from tasklore.experiment import SECTIONS
from tasklore.state import Prior
from tasklore.tasks.images.folder import ImageFolder

SETTINGS = """
[tasks]
name = "digits"

[learner]
name = "prototypes"

[net]
name = "mlp"
hidden = [16]

[train]
steps = 5
n_tasks = 2
n_validation = 10

[stop]
rounds = 2

[test]
n_tasks = 4
n_curve = 2
shots = [1]
baselines = false
"""

PLUGIN = '''
import dataclasses
import torch
from tasklore.learners.metric import Prototypes
from tasklore.nets import MLP
from tasklore.registry import learners


@learners.register("my-prototypes")
@dataclasses.dataclass(frozen=True)
class MyPrototypes(Prototypes):
    """Prototypes of an outsider."""

    net: MLP = dataclasses.field(default_factory=lambda: MLP((8,)))
'''


def tasklore_command(
    *arguments: str | Path, home: Path, code: int = 0, columns: int = 80
) -> subprocess.CompletedProcess[str]:
    """Run one command and check its exit code; whatever fails on purpose must come without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "tasklore", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "TASKLORE_HOME": str(home), "COLUMNS": str(columns)},
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


UNSEEDED = """
    def init(self, spec, generator):
        return {name: torch.rand_like(tensor) for name, tensor in super().init(spec, generator).items()}
"""


class Here:
    """Give commands in this process, which spares each the seconds that importing torch takes."""

    def __init__(
        self, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.home, self.capsys, self.monkeypatch = home, capsys, monkeypatch

    def __call__(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Give one command, and check its exit code."""
        self.monkeypatch.setattr(sys, "argv", ["tasklore", *map(str, arguments)])
        self.monkeypatch.setenv("TASKLORE_HOME", str(self.home))
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
def here(house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setenv("COLUMNS", "80")
    return Here(house / "home", capsys, monkeypatch)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder in which one run was made: home/, folder/, run.toml, result.json."""
    place = tmp_path_factory.mktemp("house")
    (place / "run.toml").write_text(SETTINGS)
    done = tasklore_command(
        "run", place / "run.toml", "--folder", place / "folder", "--json", home=place / "home"
    )
    (place / "result.json").write_text(done.stdout)
    return place


@pytest.fixture(scope="module")
def prior(house: Path) -> Path:
    return sorted((house / "home" / "artifacts").glob("*/prior-*.safetensors"))[-1]


def digits_of(*numbers: int, each: int = 5) -> tuple[np.ndarray, np.ndarray]:
    data = cast("Any", load_digits())
    rows = np.concatenate([np.flatnonzero(data.target == number)[:each] for number in numbers])
    return data.images[rows][:, None] / 16.0, data.target[rows]


def test_json_is_one_object_and_nothing_else(house: Path) -> None:
    result = json.loads((house / "result.json").read_text())
    assert result["reason"].startswith("rounds")
    assert result["steps"] == 10
    assert [(row["method"], row["shots"], row["n_tasks"]) for row in result["rows"]] == [("prototypes", 1, 4)]
    assert Path(result["report"]).read_text().startswith("<!doctype html>")
    learned = Prior.load(result["prior"])
    assert Path(result["prior"]) == house / "folder" / "prior.safetensors"
    assert learned.provenance["run_id"] == result["run_id"]
    assert learned.provenance["validation"]["mean"] == result["validation"]["mean"]


def test_the_same_command_again_changes_nothing(house: Path, here: Here) -> None:
    again = json.loads(here("run", house / "run.toml", "--folder", house / "folder", "--json").stdout)
    first = json.loads((house / "result.json").read_text())
    assert again["run_id"] == first["run_id"]
    assert [row["mean"] for row in again["rows"]] == [row["mean"] for row in first["rows"]]


def test_quiet_prints_nothing(house: Path, here: Here, tmp_path: Path) -> None:
    done = here("run", house / "run.toml", "--folder", tmp_path / "quiet", "--quiet", "--seed", "7")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_run_tells_the_six_steps_in_order(house: Path, here: Here, tmp_path: Path) -> None:
    done = here("run", house / "run.toml", "--folder", tmp_path / "loud", "--seed", "3")
    steps = re.findall(r"^  \d (\w+(?:-\w+)?)", done.stdout, re.MULTILINE)
    assert steps == ["initialise", "collect", "meta-learn", "apply", "evaluate", "repeat"]
    assert "±" in done.stdout
    assert "Report: " in done.stdout
    assert f"What was learned: {tmp_path / 'loud' / 'prior.safetensors'}" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_saves_and_says_how_to_resume(here: Here, tmp_path: Path, number: signal.Signals) -> None:
    file, folder = tmp_path / "long.toml", tmp_path / "folder"
    file.write_text(SETTINGS.replace("steps = 5", "steps = 300").replace("rounds = 2", "rounds = 1"))
    command = [sys.executable, "-m", "tasklore", "run", str(file), "--folder", str(folder)]
    environment = {**os.environ, "TASKLORE_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for line in process.stdout:  # the steps are told once the first meta-update is done
        if "meta-learn" in line:
            break
    time.sleep(0.3)
    process.send_signal(number)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 130
    assert f"tasklore run {file} --folder {folder}" in told
    assert (folder / "checkpoint.safetensors").exists()
    here.home = tmp_path / "home"
    resumed = here("run", file, "--folder", folder, "--json")
    assert json.loads(resumed.stdout)["steps"] == 300


def test_adapt_and_predict(here: Here, prior: Path, tmp_path: Path) -> None:
    x, y = digits_of(5, 6, 7)
    np.savez(tmp_path / "support.npz", x=x, y=y)
    np.savez(tmp_path / "new.npz", x=x)
    adapted = tmp_path / "p.safetensors"
    told = here("adapt", prior, tmp_path / "support.npz", "-o", adapted)
    assert "3 classes (5, 6, 7)" in told.stdout
    printed = here("predict", adapted, tmp_path / "new.npz").stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert len(rows) == 15
    assert sum(float(rows[0][f"probability {label}"]) for label in (5, 6, 7)) == pytest.approx(1, abs=1e-5)
    assert np.mean([row["prediction"] == str(label) for row, label in zip(rows, y, strict=True)]) > 0.7

    table = tmp_path / "support.csv"
    names = [f"pixel {i}" for i in range(64)]
    with table.open("w") as file:
        csv.writer(file).writerows(
            [[*names, "digit"], *([*row.ravel(), n] for row, n in zip(x, y, strict=True))]
        )
    from_table = tmp_path / "from-table.safetensors"
    here("adapt", prior, table, "-o", from_table, "--target", "digit")
    written = tmp_path / "out.csv"
    here("predict", from_table, table, "--target", "digit", "-o", written)
    assert written.read_text() == printed
    header, *lines = (row.split(",") for row in table.read_text().splitlines())
    order = np.random.default_rng(0).permutation(65)  # columns go by name, and others are no matter
    table.write_text("\n".join(",".join(np.array(row)[order]) for row in (header, *lines)))
    assert here("predict", from_table, table).stdout == printed
    table.write_text("\n".join(",".join(row[1:]) for row in (header, *lines)))
    told = here("predict", from_table, table, code=2).stderr
    assert "has no column 'pixel 0', which the predictor was adapted to" in " ".join(told.split())


def test_adapt_to_folders_of_images(here: Here, prior: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    x, y = digits_of(8, 9)
    for i, (picture, label) in enumerate(zip(x, y, strict=True)):
        (tmp_path / "images" / f"digit {label}").mkdir(parents=True, exist_ok=True)
        pixels = (255 * picture[0]).astype(np.uint8)
        image.fromarray(pixels).save(tmp_path / "images" / f"digit {label}" / f"{i}.png")
    adapted = tmp_path / "p.safetensors"
    here("adapt", prior, tmp_path / "images", "-o", adapted)
    done = here("predict", adapted, tmp_path / "images" / "digit 8")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["file"] for row in rows] == sorted(
        p.name for p in (tmp_path / "images" / "digit 8").iterdir()
    )
    assert [row["prediction"] for row in rows].count("digit 8") >= 4
    assert "its subfolders do" in here("predict", adapted, tmp_path / "images", code=2).stderr
    assert "no subfolders" in here("adapt", prior, tmp_path / "images" / "digit 8", code=2).stderr
    for file in (tmp_path / "images").glob("*/*.png"):  # dark on white, as scans are
        image.fromarray(255 - np.asarray(image.open(file))).save(file)
    here("adapt", prior, tmp_path / "images", "-o", adapted, "--invert")
    assert here("predict", adapted, tmp_path / "images" / "digit 8", "--invert").stdout == done.stdout
    (tmp_path / "images" / "digit 8" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    done = here("adapt", prior, tmp_path / "images", code=2)
    assert "broken.png is not an image" in done.stderr


def test_evaluate(here: Here, prior: Path) -> None:
    arguments = ("evaluate", prior, "--tasks", "digits", "--ways", "3", "--shots", "2", "--n-tasks", "8")
    score = json.loads(here(*arguments, "--json").stdout)["2"]
    assert score["n_tasks"] == 8
    assert 0.4 < score["mean"] <= 1
    assert "±" in here(*arguments).stdout


def test_compare_ranks_and_goes_on(here: Here, tmp_path: Path) -> None:
    options = ["--tasks", "digits", "--ways", "3", "--net", "mlp", "--minutes", "0.02", "--n-tasks", "8"]
    command = ["compare", *options, "--learner", "prototypes", "--folder", tmp_path / "contest"]
    told = here(*command).stdout
    assert re.search(r"digits: 0\.02 minutes each, 8 test tasks", told)
    assert re.search(r"prototypes +learning_rate 0\.0003 +validation", told)
    assert max(map(len, told.split("Report:")[0].splitlines())) <= 80
    page = (tmp_path / "contest" / "report.html").read_text()
    assert "nearest-centroid" in page
    assert "<script" not in page
    found = json.loads(here(*command, "--json").stdout)
    methods = [standing["method"] for standing in found["standings"]]
    assert re.findall(r"^ +\d+ ([\w-]+)", told, flags=re.MULTILINE) == methods
    assert here(*command, "--quiet").stdout == ""
    learned = tmp_path / "contest" / "prototypes.safetensors"
    again = here(
        "evaluate", learned, "--tasks", "digits", "--ways", "3", "--shots", "1", "--n-tasks", "8", "--json"
    )
    ours = next(standing for standing in found["standings"] if standing["method"] == "prototypes")
    assert json.loads(again.stdout)["1"]["mean"] == ours["scores"]["1"]["mean"]
    as_learned = here("evaluate", learned, "--tasks", "digits", "--shots", "1", "--n-tasks", "8", "--json")
    assert json.loads(as_learned.stdout)["1"]["mean"] == ours["scores"]["1"]["mean"], "with three ways too"
    refused = here(*command, "--learner", "finetune", code=2)
    assert "is a baseline" in refused.stderr


def test_folders_are_named_after_what_was_asked(house: Path, here: Here) -> None:
    for seed in ("7", "8"):
        here("run", house / "run.toml", "--quiet", "--seed", seed)
    assert {folder.name for folder in (here.home / "runs").iterdir()} == {"run-seed7", "run-seed8"}
    options = ["--tasks", "sinusoid", "--learner", "maml", "--minutes", "0.01", "--n-tasks", "4", "--quiet"]
    here("compare", *options, "--net", "mlp", "--seed", "3", "--set", "n_queries=4", "--shots", "2")
    place = here.home / "contests" / "sinusoid-2shot-0.01min-mlp-seed3-n_queries=4"
    settings = json.loads((place / "contest.json").read_text())["settings"]
    assert (settings["tasks"]["n_queries"], settings["tasks"]["n_shots"]) == (4, 2)


def test_settings_of_a_collection_are_read_as_in_toml() -> None:
    images = collection("image-folder", changes=["folder=my images", "size = 14", "grey=true", "train=0.5"])
    assert images == ImageFolder("my images", size=14, grey=True, train=0.5)
    assert collection("omniglot", 20, 5, ['split="alphabets"']).split == "alphabets"
    assert collection("mix", changes=['of=["mnist", "digits"]', "weights=[1, 3]"]).weights == (1.0, 3.0)
    assert collection("image-folder", changes=["folder=a\nsize = 3"]).folder == "a\nsize = 3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("sinusoid", "--ways", "5"), "--ways is of no use here: sinusoid has no n_ways; leave it out"),
        (("digits", "--set", "n_query=5"), "did you mean 'n_queries'?"),
        (("digits", "--set", "n_queries=few"), "n_queries is 'few'; it must be an integer"),
        (("digits", "--set", "n_queries"), "write --set KEY=VALUE"),
        (("digits", "--set", "n_shots=5"), "there is an option for that, --shots"),
        (("image-folder",), "image-folder needs folder, which has no default; `tasklore compare` takes"),
    ],
)
def test_settings_that_a_collection_does_not_have(here: Here, options: tuple[str, ...], message: str) -> None:
    assert message in here("compare", "--tasks", *options, code=2).stderr


def test_lore(here: Here, tmp_path: Path) -> None:
    listed = here("lore", "list").stdout
    assert "prototypes" in listed
    assert max(map(len, listed.splitlines()[:-1])) <= 80
    record = re.findall(r"[0-9a-f]{12}", listed)[0]
    assert json.loads(here("lore", "show", record).stdout)["kind"] == "run"
    assert "all is well" in here("lore", "verify").stdout

    here("lore", "export", tmp_path / "lore.json")
    other = tmp_path / "other.db"
    first = here("lore", "merge", tmp_path / "lore.json", "--store", other).stdout
    second = here("lore", "merge", tmp_path / "lore.json", "--store", other).stdout
    assert not first.startswith("0 ")
    assert second.startswith("0 records added")
    erased = here("lore", "erase", record, "--reason", "test", "--store", other).stdout
    assert re.match(r"[1-9]\d* records erased", erased)
    assert "all is well" in here("lore", "verify").stdout  # the own store keeps its priors
    assert here("lore", "show", record, "--store", other, code=4).stdout == ""
    other.write_bytes(b"no database" * 1000)
    assert "error" in here("lore", "list", "--store", other, code=4).stderr


@pytest.mark.parametrize("verb", ["list", "verify", "export there", "show 0123456789ab", "learn --to there"])
def test_a_store_that_is_not_there_is_not_made(here: Here, tmp_path: Path, verb: str) -> None:
    typo = tmp_path / "lor.db"
    asked = verb.replace("there", str(tmp_path / "there")).split()
    assert "lor.db does not exist; give" in here("lore", *asked, "--store", typo, code=2).stderr
    assert not typo.exists()


def test_parts_of_a_cluster_need_a_cluster(here: Here, house: Path) -> None:
    told = here("run", house / "run.toml", "--workers", "4", code=2).stderr
    assert "--workers is for --ray or --ray-address" in told


def test_an_empty_store_says_so(here: Here) -> None:
    assert "nothing is remembered yet" in here("lore", "list", "--store", "memory:").stdout


def test_an_interrupt_anywhere_is_told(here: Here) -> None:
    """Also where the command had not begun what it can say more of."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    here.monkeypatch.setattr("tasklore.cli.lore._opened", interrupted)
    assert here("lore", "list", code=130).stderr.split() == ["interrupted"]


def test_a_learner_and_a_collection_of_one_name_are_both_checked(house: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "random.py"  # which is the name of a module of Python, too
    plugin.write_text(PLUGIN.replace("my-prototypes", "digits"))
    checked = tasklore_command("check", plugin, home=house / "home").stdout
    assert "digits" in checked
    assert "draws only" in checked or "passed" in checked


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"prototypes"', '"prototype"', "did you mean 'prototypes'?"),
        ('"digits"', '"digit"', "did you mean 'digits'?"),
        ("n_validation", "n_validations", "did you mean 'n_validation'?"),
        ("[stop]", "[stopp]", "did you mean 'stop'?"),
        ("steps = 5", 'steps = "five"', "[train] steps is 'five'"),
        ("rounds = 2", "rounds = 0", "rounds must be positive"),
        ("[learner]", "[learner", "run.toml"),
    ],
)
def test_bad_settings_are_one_clear_message(
    here: Here, tmp_path: Path, old: str, new: str, message: str
) -> None:
    (tmp_path / "run.toml").write_text(SETTINGS.replace(old, new))
    done = here("run", tmp_path / "run.toml", "--json", code=2)
    assert message in done.stderr
    assert done.stdout == ""


def test_bad_inputs_are_one_clear_message(here: Here, prior: Path, tmp_path: Path) -> None:
    x, y = digits_of(5, 6)
    np.savez(tmp_path / "nan.npz", x=np.where(x == x[0, 0, 3, 3], np.nan, x), y=y)
    np.savez(tmp_path / "one.npz", x=x[:5], y=y[:5])
    np.savez(tmp_path / "objects.npz", x=x, y=np.array([{}] * len(y), dtype=object))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "nan.npz").read_bytes()[:200])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "text.csv").write_text("a,b\nx,1\ny,2\n")
    (tmp_path / "folder").mkdir()
    for name, code, message in [
        ("nan.npz", 2, "NaN"),
        ("one.npz", 2, "two classes"),
        ("objects.npz", 2, "without running code"),
        ("torn.npz", 2, "cannot be read"),
        ("empty.csv", 2, "cannot be read as a table"),
        ("text.csv", 2, "not numbers"),
        ("folder", 2, "no images"),
        ("missing.csv", 2, "does not exist"),
    ]:
        done = here("adapt", prior, tmp_path / name, code=code)
        assert message in done.stderr, name


def test_damaged_files_have_their_own_exit_code(here: Here, prior: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(prior.read_bytes()[:-100])
    assert "torn" in here("evaluate", torn, "--tasks", "digits", code=4).stderr
    done = here("predict", prior, tmp_path, code=4)
    assert "prior" in done.stderr
    (tmp_path / "table.csv").write_text("name,age\nann,5\n")
    done = here("evaluate", tmp_path / "table.csv", "--tasks", "digits", code=4)
    assert "is no .safetensors file" in done.stderr


def test_what_is_not_there_is_wrong_use(here: Here, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.safetensors"
    for command in (
        ("evaluate", nowhere, "--tasks", "digits"),
        ("adapt", nowhere, tmp_path),
        ("predict", nowhere, tmp_path),
    ):
        assert "nowhere.safetensors does not exist; give" in here(*command, code=2).stderr
    assert "is a folder; give" in here("adapt", tmp_path, tmp_path, code=2).stderr
    assert "is not the id of a record" in here("lore", "show", "prior-1", code=2).stderr
    assert "no record here" in here("lore", "show", "0" * 12, code=4).stderr


def test_a_learner_of_ones_own(house: Path, tmp_path: Path) -> None:
    home = house / "home"
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    checked = tasklore_command("check", plugin, home=home).stdout
    assert "my-prototypes" in checked
    assert "passed" in checked
    settings = SETTINGS.replace('"prototypes"', '"my-prototypes"')
    (tmp_path / "run.toml").write_text(settings.replace('[net]\nname = "mlp"\nhidden = [16]\n', ""))
    done = tasklore_command("run", tmp_path / "run.toml", "--plugin", plugin, "--json", home=home)
    assert json.loads(done.stdout)["rows"][0]["method"] == "my-prototypes"


def test_a_learner_that_breaks_a_promise_is_told_which(house: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN + UNSEEDED)
    assert (
        "draw only from the generator"
        in tasklore_command("check", plugin, home=house / "home", code=3).stderr
    )


@pytest.mark.parametrize(
    ("code", "message"), [("def broken(:", "SyntaxError"), ("x = 1", "registers nothing")]
)
def test_files_that_register_nothing(here: Here, tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    assert message in here("check", tmp_path / "mine.py", code=2).stderr


def test_lists_show_what_is_registered(here: Here) -> None:
    from tasklore.registry import learners, sources

    here.monkeypatch.setenv("COLUMNS", "120")
    for command, registry in (("learners", learners), ("tasks", sources)):
        shown = here(command).stdout
        assert [name for name in registry.names() if name not in shown] == []


def test_version_debug_and_wrong_use(here: Here) -> None:
    assert here("--version").stdout == f"tasklore {tasklore.__version__}\n"
    assert "No such command" in here("lern", code=2).stderr
    debugged = subprocess.run(
        [sys.executable, "-m", "tasklore", "--debug", "predict", "no", "no"], capture_output=True, text=True
    )
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


def test_the_help_of_run_names_the_sections(here: Here) -> None:
    here.monkeypatch.setenv("COLUMNS", "200")
    shown = re.search(r"A TOML file[^│]*", here("run", "--help").stdout)
    assert shown is not None
    assert [section for section in SECTIONS if section not in shown[0]] == []


def test_every_command_is_documented() -> None:
    from typer.main import get_command

    from tasklore.cli import CODES, app

    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    commands = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    for name, command in commands.items():
        assert f"tasklore {name}" in page
        for parameter in command.params:
            flag = max(parameter.opts, key=len)
            assert not flag.startswith("--") or flag in page, f"tasklore {name} {flag}"
    for name in commands["lore"].commands:
        assert f"tasklore lore {name}" in page
    for code in {0, 1} | {code for _, code in CODES}:
        assert re.search(rf"^\| {code} +\|", page, re.MULTILINE), f"exit code {code}"
