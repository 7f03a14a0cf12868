"""Any table becomes the same canonical one, whatever it comes as."""

import datetime
from typing import Any

import dateutil.tz
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from tasklore import AutoRegressor
from tasklore.apps.automl.gaps import warn_of_lost_texts
from tasklore.apps.automl.tables import (
    MISSING,
    Schema,
    _parsed,  # pyright: ignore[reportPrivateUsage]
)
from tasklore.errors import InvalidData


def messy(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "amount": rng.normal(size=n),
            "count": pd.array([None if i % 7 == 0 else i for i in range(n)], dtype="Int64"),
            "written": [str(v) if i % 5 else " n/a" for i, v in enumerate(rng.normal(size=n))],
            "colour": rng.choice(["red", "green", "blue"], n),
            "grade": pd.Categorical(rng.choice(["a", "b"], n)),
            "member": rng.random(n) < 0.5,
            "maybe": [None, True, False] * (n // 3),
            "day": pd.date_range("2024-01-01", periods=n),
            "noted": [f"2023-0{1 + i % 9}-1{i % 10}" for i in range(n)],
            "remark": [f"the customer number {i} wrote a remark about item {i * 7}" for i in range(n)],
            "empty": [None] * n,
            "same": ["x"] * n,
        },
        index=rng.permutation(n) + 1000,
    )


KINDS = {
    "amount": "number",
    "count": "number",
    "written": "category",  # a fifth cannot be read as a number
    "colour": "category",
    "grade": "category",
    "member": "boolean",
    "maybe": "boolean",
    "day": "date",
    "noted": "date",
    "remark": "text",
    "empty": "number",
    "same": "category",
}


def test_kinds_are_found() -> None:
    schema = Schema.of(messy())
    assert {column.name: column.kind for column in schema.columns} == KINDS
    assert "empty" not in schema.of_kind("number"), "it tells nothing"
    assert "same" not in schema.of_kind("category")
    assert Schema.from_dict(schema.to_dict()) == schema
    by_name = {column.name: column for column in schema.columns}
    assert by_name["count"].missing == pytest.approx(9 / 60)
    assert by_name["colour"].n_unique == 3


def test_numbers_written_as_text_are_numbers() -> None:
    schema = Schema.of(pd.DataFrame({"a": ["1.5", "2", None, "-3e2"] * 10}))
    assert schema.columns[0].kind == "number"
    table = schema.table(pd.DataFrame({"a": ["7", "seven", None]}))
    assert table["a"].tolist()[0] == 7.0
    assert table["a"].isna().tolist() == [False, True, True]


def test_the_canonical_table() -> None:
    frame = messy()
    table = Schema.of(frame).table(frame)
    assert list(table.columns) == list(frame.columns)
    assert table.index.tolist() == list(range(60))
    assert table["count"].dtype == np.float64
    assert table["maybe"].tolist()[:3] == [MISSING, "True", "False"]
    assert table["day"].dtype == "datetime64[us]"
    assert table["noted"].tolist()[0] == datetime.datetime(2023, 1, 10)
    infinite = Schema.of([[1.0], [2.0]]).table([[np.inf], [1.0]])
    assert np.isnan(infinite.iloc[0, 0])


def test_later_tables_may_differ_in_form() -> None:
    frame = messy()
    schema = Schema.of(frame)
    whole = schema.table(frame)
    shuffled = frame[list(reversed(frame.columns))].assign(new=1)
    pd.testing.assert_frame_equal(schema.table(shuffled), whole)
    with pytest.warns(UserWarning, match=r"lacks 1 of 12 columns \(colour\)"):
        fewer = schema.table(frame.drop(columns="colour"))
    assert set(fewer["colour"]) == {MISSING}
    with pytest.raises(InvalidData, match="none of the columns"):
        schema.table(pd.DataFrame({"z": [1]}))


def test_arrays_go_by_place() -> None:
    x = np.arange(12.0).reshape(4, 3)
    schema = Schema.of(x)
    assert [column.name for column in schema.columns] == ["x0", "x1", "x2"]
    pd.testing.assert_frame_equal(schema.table(csr_array(x)), schema.table(x))
    pd.testing.assert_frame_equal(schema.table(pd.DataFrame(x, columns=list("abc"))), schema.table(x))
    with pytest.raises(InvalidData, match="X has 2 features, but Tasklore is expecting 3 features"):
        schema.table(x[:, :2])


def test_doubled_names_are_told_apart() -> None:
    frame = pd.DataFrame([[1, 2, 3], [4, 5, 6]], columns=["a", "a", "b"])
    schema = Schema.of(frame)
    assert [column.name for column in schema.columns] == ["a", "a (2)", "b"]
    assert schema.table(frame)["a (2)"].tolist() == [2.0, 5.0]


def test_a_made_up_name_never_meets_a_given_one() -> None:
    frame = pd.DataFrame([[1, 2, 3, 4], [5, 6, 7, 8]], columns=["a", "a", "a (2)", "a"])
    schema = Schema.of(frame)
    assert [column.name for column in schema.columns] == ["a", "a (3)", "a (2)", "a (4)"]
    np.testing.assert_array_equal(schema.table(frame), frame)


def test_dates_beyond_nanoseconds() -> None:
    written = ["1066-10-14", "9999-12-31", None, "2024-02-29"]
    schema = Schema.of(pd.DataFrame({"until": written}))
    assert schema.columns[0].kind == "date"
    years = schema.table(pd.DataFrame({"until": written}))["until"].dt.year
    np.testing.assert_array_equal(years, [1066, 9999, np.nan, 2024])


def test_levels_keep_their_names_beside_gaps() -> None:
    """A gap turns whole numbers and truth values into floats when a file is read."""
    schema = Schema.of(pd.DataFrame({"grade": pd.Categorical([1, 2, 3]), "paid": [True, False, True]}))
    later = schema.table(pd.DataFrame({"grade": [1.0, None, 3.0], "paid": [1.0, None, 0.0]}))
    assert later["grade"].tolist() == ["1", MISSING, "3"]
    assert later["paid"].tolist() == ["True", MISSING, "False"]
    written = schema.table(pd.DataFrame({"grade": ["1", "2.5"], "paid": ["TRUE", "false"]}))
    assert written["grade"].tolist() == ["1", "2.5"]
    assert written["paid"].tolist() == ["True", "False"]


@pytest.mark.parametrize("dtype", ["float64", "Float64"])
def test_enormous_numbers_are_cut(dtype: str) -> None:
    frame = pd.DataFrame({"a": pd.array([1e308, -1e308, 2.0, 3.0], dtype=dtype)})
    schema = Schema.of(frame)
    assert schema.columns[0].n_unique == 4
    assert schema.table(frame)["a"].tolist() == [1e30, -1e30, 2.0, 3.0]


def test_plain_numbers_are_described_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 50, (300, 6)).astype(float)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:, 4], x[:, 5], x[0, 5] = np.nan, np.inf, 3.0
    together = Schema.of(pd.DataFrame(x, columns=list("abcdef")))
    apart = Schema.of(pd.DataFrame({name: pd.array(x[:, i], "Float64") for i, name in enumerate("abcdef")}))
    for one, other in zip(together.columns, apart.columns, strict=True):
        assert (one.name, one.kind, one.n_unique) == (other.name, other.kind, other.n_unique)
        assert one.missing == pytest.approx(other.missing)
    rare = np.zeros((100_000, 1))
    rare[77_777] = 1.0
    assert Schema.of(rare).columns[0].n_unique == 2
    assert Schema.of(rare).of_kind("number") == ["x0"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(3), "needs rows and columns"),
        (pd.Series([1, 2]), "one column"),
        (np.zeros((0, 2)), "0 sample"),
        (np.zeros((2, 0)), r"0 feature\(s\)"),
        (np.zeros((2, 2), dtype=complex), "Complex data not supported"),
        (pd.DataFrame({"a": [1.0], "b": [1j]}), "Complex data not supported"),
        (csr_array((100_000, 100_000)), "sparse matrix of 100000 × 100000"),
    ],
)
def test_what_is_no_table_is_refused(given: object, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        Schema.of(given)


@pytest.mark.parametrize(
    ("written", "day", "month"),
    [
        (["05/01/2024", "31/01/2024"], 5, 1),
        (["05/01/2024", "01/31/2024"], 1, 5),
        (["05/01/2024", "07/02/2024"], 1, 5),
        (["05.01.2024", "07.02.2024"], 5, 1),
        (["05-01-24 10:30", "31-12-24 11:00"], 5, 1),
        (["2024-01-05", "2024-12-31"], 5, 1),
    ],
)
def test_a_column_of_dates_is_read_in_one_order(written: list[str], day: int, month: int) -> None:
    schema = Schema.of(pd.DataFrame({"when": written}))
    assert schema.columns[0].kind == "date"
    again = Schema.from_dict(schema.to_dict())
    table: Any = again.table(pd.DataFrame({"when": written[:1]}))
    first = table["when"][0]
    assert (first.year, first.month, first.day) == (2024, month, day)


def test_periods_are_dates() -> None:
    frame = pd.DataFrame({"when": pd.period_range("2024-01-01", periods=3, freq="D")})
    schema = Schema.of(frame)
    assert (schema.columns[0].kind, schema.columns[0].missing) == ("date", 0.0)
    table: Any = schema.table(frame)
    assert table["when"][2] == pd.Timestamp("2024-01-03")


def test_levels_are_named_as_one_by_one() -> None:
    mixed = pd.Series([1, True, "1", 2.0, None, "True"], dtype=object)
    frame = pd.DataFrame(
        {
            "mixed": mixed,
            "kinds": pd.Categorical(["b", None, "a", "b", "a", "b"], categories=["unused", "b", "a"]),
            "texts": ["x", None, "y", "x", "y", "(missing)"],
            "truths": pd.array([True, None, False, True, True, True], dtype="boolean"),
        }
    )
    schema, table = Schema.read(frame)
    assert schema == Schema.of(frame)
    pd.testing.assert_frame_equal(table, schema.table(frame))
    assert table["mixed"].tolist() == ["1", "True", "1", "2", MISSING, "True"]
    assert table["kinds"].tolist() == ["b", MISSING, "a", "b", "a", "b"]
    assert table["truths"].tolist() == ["True", MISSING, "False", "True", "True", "True"]
    found = {column.name: (column.n_unique, round(6 * column.missing)) for column in schema.columns}
    assert found == {"mixed": (3, 1), "kinds": (2, 1), "texts": (2, 2), "truths": (2, 1)}


@pytest.mark.parametrize("day_first", [False, True])
def test_dates_of_one_format_and_others_are_read_alike(day_first: bool) -> None:
    usual = pd.date_range("2001-03-14", periods=50, freq="31h").strftime(
        "%d/%m/%Y %H:%M" if day_first else "%m/%d/%Y %H:%M"
    )
    written = pd.Series([*usual, None, "2020-01-02", "never", "03/04/2021", "2020-01-02T03:04:05+02:00"])
    parsed = _parsed(written.astype(object), day_first)
    one_by_one = pd.to_datetime(written, format="mixed", errors="coerce", dayfirst=day_first, utc=True)
    pd.testing.assert_series_equal(parsed, one_by_one, check_dtype=False)
    assert parsed.isna().sum() == 2


def test_what_is_no_text_among_dates_is_a_gap() -> None:
    dates = pd.Series([f"{day}/03/2021" for day in range(1, 29)] * 10 + [["a", "list"]], dtype=object)
    schema, table = Schema.read(pd.DataFrame({"when": dates}))
    assert schema.columns[0].kind == "date"
    assert schema.columns[0].day_first
    assert table["when"].isna().tolist() == [False] * 280 + [True]


@pytest.mark.parametrize(
    "later",
    [
        pd.Series([45000, 45001]),
        pd.Series([1704067200.0, None]),
        pd.Series([1704067200, "13.13.2024"], dtype=object),
        pd.Series([True, "Q1 2024"], dtype=object),
    ],
    ids=["spreadsheet", "seconds", "mixed", "truth"],
)
def test_numbers_are_no_dates(later: pd.Series) -> None:
    schema = Schema.of(pd.DataFrame({"when": pd.date_range("2024-01-01", periods=9)}))
    frame = pd.DataFrame({"when": later})
    table: Any = schema.table(frame)
    assert table["when"].isna().all()
    with pytest.warns(UserWarning, match=r"no dates are taken as missing: 'when' \('.*'\); write dates as"):
        warn_of_lost_texts(frame, schema, table)


def test_dates_of_any_kind_are_dates() -> None:
    day = datetime.date(2024, 3, 2)
    schema = Schema.of(pd.DataFrame({"when": pd.date_range("2024-01-01", periods=9)}))
    ways = [day, "2024-03-02", datetime.datetime(2024, 3, 2), np.datetime64("2024-03-02")]
    later = pd.Series(ways, dtype=object)
    assert schema.table(pd.DataFrame({"when": later}))["when"].tolist() == [pd.Timestamp(day)] * 4


@pytest.mark.parametrize("zone", ["Europe/Berlin", datetime.timezone(datetime.timedelta(hours=5))], ids=str)
def test_dates_are_told_in_their_own_zone(zone: Any) -> None:
    """Else midnight would be yesterday east of Greenwich."""
    days = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=9, tz=zone)})
    schema, table = Schema.read(days)
    assert table["when"].tolist() == list(pd.date_range("2024-01-01", periods=9))
    again = Schema.from_dict(schema.to_dict()).table(days.assign(when=days["when"].dt.tz_convert("UTC")))
    pd.testing.assert_frame_equal(again, table)


def test_a_zone_without_a_name_is_told_in_utc() -> None:
    nameless = dateutil.tz.tzoffset(None, 3600)
    days = pd.DataFrame({"when": pd.date_range("2024-01-01 01:00", periods=9, tz=nameless)})
    schema, table = Schema.read(days)
    assert (schema.columns[0].zone, table["when"].iloc[0]) == ("", pd.Timestamp("2024-01-01"))


def test_truth_has_many_names() -> None:
    schema = Schema.of(pd.DataFrame({"on": [True, False, True]}))
    later = pd.DataFrame({"on": ["1", "no", " TRUE ", "0", "F", None, "perhaps"]})
    found = ["True", "False", "True", "False", "False", MISSING, "Perhaps"]
    assert schema.table(later)["on"].tolist() == found


class Foreign:
    """A table of another library."""

    def __init__(self, columns: dict[str, list[float]]) -> None:
        self.columns = columns

    def to_pandas(self) -> pd.DataFrame:
        if not self.columns:
            raise ImportError("pyarrow is needed")
        return pd.DataFrame(self.columns)


def test_columns_of_other_libraries_go_by_name() -> None:
    rng = np.random.default_rng(0)
    a, b, noise = rng.normal(size=(3, 60)).tolist()
    y = np.add(a, noise)
    model = AutoRegressor(max_evaluations=1, random_state=0).fit(Foreign({"a": a, "b": b}), y)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(
        model.predict(Foreign({"b": b, "a": a})), model.predict(pd.DataFrame({"a": a, "b": b}))
    )
    with pytest.raises(InvalidData, match=r"Foreign whose to_pandas\(\) fails \(pyarrow is needed\); give a"):
        model.predict(Foreign({}))
