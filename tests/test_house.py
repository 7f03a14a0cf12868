"""The rules of the house, read off the files: floors, lengths, names, safety, and what importing costs."""

import ast
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tasklore

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tasklore"
LONGEST_FILE = 600  # lines
VAGUE_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"}
# Formats whose loading runs code.
UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("yaml", "load"), ("pd", "read_pickle")}
HEAVY = ("torch", "pandas", "sklearn", "scipy", "sqlalchemy", "numpy", "matplotlib")


def tracked(pattern: str = "*") -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", pattern], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_stay_short() -> None:
    lengths = {shown(path): len(path.read_text().splitlines()) for path in tracked("*.py")}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_file_has_a_vague_name() -> None:
    assert [shown(path) for path in tracked("*.py") if VAGUE_NAMES & set(path.stem.lower().split("_"))] == []


def test_the_package_never_runs_code_from_data() -> None:
    faults = [
        f"{shown(path)}:{line}: {what}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, what in unsafe(ast.parse(path.read_text(), path))
    ]
    assert faults == []


def test_the_package_neither_asserts_nor_probes() -> None:
    faults = [
        f"{shown(path)}:{node.lineno}"
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(), path))
        if (
            isinstance(node, ast.Assert) and SOURCE / "testing" not in path.parents
        )  # pytest suites that ship
        or (isinstance(node, ast.Name) and node.id == "hasattr")
    ]
    assert faults == [], "raise a leaf of tasklore.errors; give the contract a method"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "eval('1')",
        "np.load('x', allow_pickle=True)",
    ],
)
def test_the_check_above_sees(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and description of whatever must not stand in the package."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    if name.name.split(".")[0] in UNSAFE_MODULES:
                        yield node.lineno, f"import {name.name}"
            case ast.ImportFrom(module=str(module), level=0):
                if module.split(".")[0] in UNSAFE_MODULES:
                    yield node.lineno, f"from {module} import"
            case ast.Call(func=ast.Name(id=name)) if name in UNSAFE_CALLS:
                yield node.lineno, f"{name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if (
                owner,
                name,
            ) in UNSAFE_ATTRIBUTES:
                yield node.lineno, f"{owner}.{name}()"
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                yield node.value.lineno, "allow_pickle=True"
            case _:
                pass


def test_files_name_no_registry_and_no_place_on_one_machine() -> None:
    # Written in pieces, so that this file does not contain them itself.
    hosts = [
        "py" + "pi.org",
        "python" + "hosted.org",
        "download.py" + "torch.org",
        "npm" + "js.org",
        "ana" + "conda.org",
    ]
    places = ["work", "root", "home/[a-z]", "Users/[A-Za-z]"]
    forbidden = re.compile(
        "|".join([*map(re.escape, hosts), rf"(?<![\w.)}}\]*-])/(?:{'|'.join(places)})[/\w]*/"])
    )
    assert forbidden.search("see /" + "root/x/y")
    assert forbidden.search("https://" + hosts[0])
    faults = [
        f"{shown(path)}:{number}: {found.group()}"
        for path in tracked()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (found := forbidden.search(line))
    ]
    assert faults == []


def test_imports_run_one_way() -> None:
    linter = shutil.which("lint-imports", path=Path(sys.executable).parent)
    assert linter is not None, "import-linter is missing: pip install -c constraints.txt -e '.[lint]'"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_every_public_name_can_be_had() -> None:
    modules = {path.stem for path in SOURCE.iterdir()}
    for name in tasklore.__all__:
        assert name not in modules, f"tasklore.{name} would become the module once that is imported"
        assert name in dir(tasklore)
        assert getattr(tasklore, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tasklore.nothing  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("tasklore", HEAVY),
        ("tasklore.errors", HEAVY),
        ("tasklore.registry", HEAVY),
        ("tasklore.loop", ("torch", "pandas", "sklearn")),
        ("tasklore.experience", ("torch", "pandas", "sklearn")),
    ],
)
def test_importing_stays_light(
    module: str, unwanted: tuple[str, ...], record_property: Callable[..., None]
) -> None:
    seconds, loaded = in_fresh_python(f"import {module}")
    record_property("measured", f"import {module}: {seconds:.3f} s")
    assert not loaded & set(unwanted)


def test_help_stays_light(record_property: Callable[..., None]) -> None:
    _, loaded = in_fresh_python(
        "import contextlib, io, tasklore.cli\n"
        "sys.argv = ['tasklore', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): tasklore.cli.main()"
    )
    command = shutil.which("tasklore", path=Path(sys.executable).parent)
    assert command is not None
    started = time.perf_counter()
    shown_help = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    record_property("measured", f"tasklore --help: {time.perf_counter() - started:.3f} s from start to end")
    assert "demo" in shown_help
    assert not loaded & set(HEAVY)


def in_fresh_python(code: str) -> tuple[float, set[str]]:
    """Run ``code`` in a new interpreter; return its seconds and the top-level modules it loaded."""
    program = (
        f"import json, sys, time\nstarted = time.perf_counter()\n{code}\n"
        "seconds = time.perf_counter() - started\n"
        "print(json.dumps([seconds, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, loaded = json.loads(done.stdout)
    return seconds, set(loaded)


def test_every_learner_has_a_page_and_a_benchmark_row() -> None:
    from tasklore.registry import learners

    names = learners.names()
    said = ("ROWS", "SHALLOW", "QUICK", "EVERYTHING")  # rows, and the baselines of tables
    rows = {text for name in said for text in strings_in(ROOT / "benchmarks" / "fewshot_rows.py", name)}
    assert [name for name in names if not (ROOT / "docs" / "learners" / f"{name}.md").is_file()] == [], (
        "no docs page"
    )
    assert [name for name in names if name not in rows] == [], "no benchmark row"


def strings_in(path: Path, constant: str) -> set[str]:
    """Return every text inside a module-level constant, without running the module."""
    for statement in ast.parse(path.read_text(), path).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == constant:
                break
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name == constant:
                break
            case _:
                continue
    else:
        raise AssertionError(f"{shown(path)} has no module-level {constant}")
    return {
        node.value
        for node in ast.walk(value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_requirement_is_pinned() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    wrong = [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line)]
    assert wrong == [], "exact versions only, and no addresses"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {normal(re.split(r"[\[<>=! ]", line)[0]) for line in needed} - {"tasklore"}
    assert names - {normal(line.split("==")[0]) for line in lines} == set()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.18"\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Python 3.9.18, Tasklore needs Python >= 3.11; name another: make PYTHON=" in done.stderr
