"""Tables from files that are damaged, or written in another way than most."""

import lzma
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasklore.apps.automl.collecting import Dataset, read_manifest
from tasklore.cli.apply import _read  # pyright: ignore[reportPrivateUsage]
from tasklore.cli.tables import read_table, read_target
from tasklore.errors import InvalidData, MissingDependency

ROWS = [(place % 2, place, 2 * place) for place in range(60)]


def written(path: Path, header: str, rows: list[Any], end: str = "") -> Path:
    lines = [header, *(",".join(map(str, row)) + end for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("first", ["y", "id"])
def test_a_separator_after_the_last_column_moves_no_column(
    first: str, separator: str, tmp_path: Path
) -> None:
    # A first column of 0, 1, 2, … is the case where pandas' index looks as if there was none.
    rows = [(place, place * 3, place % 5) for place in range(60)] if first == "id" else ROWS
    path = written(tmp_path / "t.csv", f"{first},a,b", rows, end=",")
    path.write_text(path.read_text().replace(",", separator))
    expected = pd.DataFrame(rows, columns=pd.Index([first, "a", "b"]))
    pd.testing.assert_frame_equal(read_table(path, first), expected)


def test_a_text_target_before_a_last_separator(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "y,a", [("None", 1), ("mild", 2), ("severe", 3)], end=",")
    table = read_table(path, "y")
    assert read_target(table, "y", None, path).y.tolist() == ["None", "mild", "severe"]
    assert table["a"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    ["y,a\n0,1,9\n1,2,8\n", "# made by a machine\ny,a\n0,1\n", '"a","y"\n"1",2,"u"\n"2",3,"v"\n'],
    ids=["a column without a name", "a comment", "names of rows"],
)
def test_more_values_than_names_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InvalidData, match="more values than its first line has names; give each column a"):
        read_table(tmp_path / "t.csv", "y")


@pytest.mark.parametrize("ending", ["zip", "xz", "gz", "bz2", "tar"])
def test_damaged_packings_are_told(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.csv.{ending}"
    path.write_bytes(b"PK\x03\x04nonsense" if ending == "zip" else b"nonsense")
    with pytest.raises(InvalidData, match=r"cannot be (unpacked|read as a table): .*; .*give a"):
        read_table(path, "y")


def test_whole_packings_are_read(tmp_path: Path) -> None:
    plain = written(tmp_path / "t.csv", "y,a,b", ROWS)
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.write(plain, "t.csv")
    (tmp_path / "t.csv.xz").write_bytes(lzma.compress(plain.read_bytes()))
    for ending in ("zip", "xz"):
        pd.testing.assert_frame_equal(read_table(tmp_path / f"t.csv.{ending}"), read_table(plain))
    cut = lzma.compress(plain.read_bytes())[:-30]
    (tmp_path / "cut.csv.xz").write_bytes(cut)
    with pytest.raises(InvalidData, match=r"cut\.csv\.xz cannot be"):
        read_table(tmp_path / "cut.csv.xz")


def test_a_zst_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv.zst"
    path.write_bytes(b"nonsense")
    with monkeypatch.context() as changed:
        changed.setitem(sys.modules, "zstandard", None)
        with pytest.raises(MissingDependency, match="pip install zstandard, or give a"):
            read_table(path)
    pytest.importorskip("zstandard")
    with pytest.raises(InvalidData, match="cannot be unpacked"):
        read_table(path)


def test_no_table_takes_its_first_column_for_an_index(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "a,b,target", [(1, 2, place) for place in range(20)], end=",")
    problem = Dataset("t", "regression", path, "a family").read()
    assert [column.name for column in problem.schema.columns] == ["a", "b"]
    assert problem.y.tolist() == list(range(20))
    written(path, "a,b,target", [(1, 2, 3, 4)] * 20)
    with pytest.raises(InvalidData, match=r"^the rows of .* have more values than its first line has names"):
        Dataset("t", "regression", path, "a family").read()
    with pytest.raises(InvalidData, match=r"^the rows of .* have more values"):
        read_manifest(path)
    with pytest.raises(InvalidData, match=r"^the rows of .* have more values"):
        read_table(path, "target")
    with pytest.raises(InvalidData, match=r"^the rows of .* have more values"):
        _read(path, (2,), None, labelled=True, invert=False)


def test_codes_with_leading_zeros_stay_what_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "code,a", [(f"{place % 3:02}", place) for place in range(60)])
    target = read_target(read_table(path, "code"), "code", None, path)
    assert (target.kind, sorted(set(target.y.tolist()))) == ("classification", ["00", "01", "02"])
    path.write_text(path.read_text().replace("\n02,", "\n,"))
    target = read_target(read_table(path, "code"), "code", None, path)
    assert (sorted(set(target.y.tolist())), int(target.known.sum())) == (["00", "01"], 40)
    plain = written(tmp_path / "u.csv", "code,a", [(place % 3, place) for place in range(60)])
    assert read_target(read_table(plain, "code"), "code", None, plain).y.dtype == "int64"
