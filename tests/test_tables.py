"""CSV files as people have them: what is read as numbers, what as text, and what is refused."""

import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from pandas.api.types import is_bool_dtype, is_float_dtype, is_integer_dtype

from convexgrade.tables import (
    are_too_many,
    guess_task,
    holds_numbers,
    kind_of,
    may_be_classes,
    read_table,
    tell_constant,
    tell_counts,
    tell_dates,
    tell_names,
    what_is_odd,
)

LARGE = pytest.approx(1e20, rel=1e-15)  # pandas 2 reads the next number


@pytest.fixture
def read(tmp_path):
    def read(text, **options):
        (tmp_path / "t.csv").write_text(text)
        return read_table(tmp_path / "t.csv", **options)

    return read


def column(*cells):
    return "x,y\n" + "".join(f'"{cell}",1\n' if cell else ",1\n" for cell in cells)


def refused(read, text, **options):
    with pytest.raises(ValueError, match=r"t\.csv") as error:
        read(text, **options)
    return str(error.value).partition("t.csv: ")[2]


@pytest.mark.parametrize(
    ("cells", "is_dtype", "values"),
    [
        (("1", "", "-3"), is_integer_dtype, [1, None, -3]),
        (("1", "NA", "nan"), is_integer_dtype, [1, None, None]),
        (("1.5", "None", "1e3"), is_float_dtype, [1.5, None, 1000.0]),
        ((" 1", "99999999999999999999", "inf"), is_float_dtype, [1.0, LARGE, np.inf]),
        (("True", "", "false"), is_bool_dtype, [True, None, False]),
        (("007", "12"), is_integer_dtype, [7, 12]),
        (("1_0", "1"), pd.api.types.is_string_dtype, ["1_0", "1"]),
    ],
)
def test_columns_are_what_they_are_written_for(cells, is_dtype, values, read):
    found = read(column(*cells))["x"]
    assert is_dtype(found)
    assert [None if pd.isna(v) else v for v in found] == values


def test_words_for_nothing_are_words_among_others(read):
    assert list(read(column("None", "gravel", "NA"))["x"]) == ["None", "gravel", "NA"]
    assert read(column("None", "gravel", ""))["x"].isna().tolist() == [False, False, True]
    assert read(column("NA", "", "NA"))["x"].isna().all()


@pytest.mark.parametrize(
    "cells",
    [
        ["01", "02"],
        ["01003", "90210", "", "02139"],
        ["030", "0171", "089"],  # as area codes are: of several widths
        [*(f"{i:02}" for i in range(1, 96) if i != 20), "2A", "2B", "971"],  # departments of France
    ],
)
def test_numbers_padded_with_zeros_are_codes(cells, read):
    found = read(column(*cells))["x"]
    assert [None if pd.isna(cell) else cell for cell in found] == [cell or None for cell in cells]


def test_numbers_with_a_zero_in_front_here_and_there_are_numbers(read):
    assert list(read(column("07", "7", "12"))["x"]) == [7, 7, 12]
    assert list(read(column("0", "0.5", "10"))["x"]) == [0.0, 0.5, 10.0]
    assert list(read(column("-01", "002.5", "10"))["x"]) == [-1.0, 2.5, 10.0]
    # Once it is known which columns are texts, the others hold numbers.
    assert list(read(column("01", "02"), texts=["y"])["x"]) == [1, 2]
    assert list(read(column("1", "2"), texts=["x"])["x"]) == ["1", "2"]


def test_a_name_must_be_there_once(read):
    assert "it has column 'x' more than once." in refused(read, "x,y,x\n1,2,3\n")
    table = read("x,y,x\n1,2,3\n", only=["y", "z"])
    assert list(table) == ["y"]
    assert list(read(",y\n1,2\n")) == ["Unnamed: 0", "y"]


def test_a_mistake_among_numbers_is_named(read):
    numbers = [str(i / 7) for i in range(40)]
    message = refused(read, column(*numbers[:30], "1.2x", *numbers[30:]))
    assert "column 'x' holds numbers, but '1.2x' in data row 31." in message
    assert message.endswith(
        " Cells without a value must be empty; codes of categories must begin with a letter."
    )


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        ([str(20 + i % 70) if i % 7 else "?" for i in range(200)], "'?' in data row 1"),
        (
            [str(i % 51) if i % 2 else "?" for i in range(100)],
            "'?' in data row 1",
        ),  # in half of them
        (
            ["3", *(["?", "-"][i % 2] if i % 8 == 0 else f"{i / 7}" for i in range(200))],
            "'?' in data row 2",
        ),
    ],
)
def test_signs_for_no_value_among_many_numbers_are_named(cells, first, read):
    assert f"column 'x' holds numbers, but {first}. Cells without" in refused(read, column(*cells))


def test_few_numeric_codes_beside_a_text_are_categories(read):
    codes = [*map(str, range(1, 21)), "unknown"] * 10
    assert list(read(column(*codes))["x"]) == codes
    assert "but 'unknown' in data row 21." in refused(read, column("21", *codes[1:]))


def test_what_is_known_to_be_numbers_names_the_cell_that_is_none(read):
    """As the columns of a model are, however many cells are none."""
    assert "column 'x' holds numbers, but '?' in data row 2." in refused(
        read, column("1", "?", "?"), texts=["y"]
    )


@pytest.mark.parametrize(
    ("written", "mark"),
    [
        ("{},{}00", ","),
        ("{} 000", " "),
        ("{}\N{NARROW NO-BREAK SPACE}000.5", "\N{NARROW NO-BREAK SPACE}"),
        ("{}'000", "'"),
        ("\N{MINUS SIGN}{}.5", "\N{MINUS SIGN}"),
        ("${}34.30", "$"),
        ("-$1,{}34.3", "$"),
        ("{}%", "%"),
        ("{} %", "%"),
        ("€{}", "€"),
        ("{}\N{NO-BREAK SPACE}€", "€"),
        ("£{}.5", "£"),
        ("({}.5)", "("),
        ("$({})", "$"),
        ("{}.1 kg", "kg"),
        ("{}km/h ", "km/h"),
        ("{} °C", "°C"),
    ],
)
def test_numbers_with_other_signs_are_named(written, mark, read):
    cells = [written.format(i, i) for i in range(1, 30)]
    expected = (
        f"column 'x' holds numbers with {mark!r}, as {cells[0]!r} in data row 1. Write them as plain "
        "numbers, such as 1234.5 or -1234.5; codes of categories must begin with a letter."
    )
    assert refused(read, column(*cells)) == expected
    plain = [str(i / 7) for i in range(12)]
    assert f"as {cells[0]!r} in data row 13." in refused(read, column(*plain, *cells, "free"))
    assert list(read(column(*cells[:9] * 5))["x"]) == cells[:9] * 5  # few: categories


def test_telephone_numbers_are_texts(read):
    cells = [f"030 {1234567 + i}" for i in range(29)]
    assert list(read(column(*cells))["x"]) == cells


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_read_off_the_names_and_told(separator, read):
    text = "x;y;z\n1;a,b;\n2,5;;0\n".replace(";", separator)
    with pytest.warns(UserWarning, match=r"t\.csv is read as separated by ") as told:
        table = read(text)
    assert repr(separator) in str(told[0].message)
    assert list(table) == ["x", "y", "z"]
    assert list(table["x"]) == ["1", "2,5"]
    assert table["y"].isna().tolist() == [False, True]


@pytest.mark.parametrize("text", ["x;1,y\n1,2\n", '"x;1",y\n1,2\n'])
def test_where_there_are_commas_they_separate(text, read):
    assert list(read(text)) == ["x;1", "y"]


def test_one_column_whose_quoted_name_has_another_separator_is_one(read):
    assert list(read('"x;1"\n1\n\n2\n')["x;1"].isna()) == [False, True, False]


@pytest.mark.parametrize("coding", ["latin-1", "utf-16"])
def test_what_is_not_utf8_is_refused_with_what_to_do(coding, tmp_path):
    for text in ("größe,y\n1,2\n", "x,y\n" + "1,2\n" * 100_000 + "groß,1\n"):
        (tmp_path / "t.csv").write_bytes(text.encode(coding))
        with pytest.raises(
            ValueError, match=r"t\.csv: it is not UTF-8 text\. Save it as CSV in UTF-8"
        ):
            read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8-sig"))
    assert list(read_table(tmp_path / "t.csv")) == ["x", "y"]


@pytest.mark.parametrize(
    "cells",
    [
        ["0", "1", "2", "3+"] * 10,  # few numbers: categories
        [*map(str, range(30)), *(f"V{i}" for i in range(10))],  # many texts: codes
        [*(f"${i}" for i in range(30)), *(f"V{i}" for i in range(10))],
        [f"{i}-{i}" for i in range(30)],
        [f"{i}{'ABCDEF'[i % 6]}" for i in range(60)],  # seats: no one unit
        [f"{i}A" for i in range(1, 41)],  # gates
        [f"{i}a" if i % 6 == 0 else str(i) for i in range(1, 90)],  # house numbers
    ],
)
def test_numbers_among_texts_are_texts(cells, read):
    assert list(read(column(*cells))["x"]) == cells


def test_names_are_texts_that_hardly_recur():
    n = 50
    frame = pd.DataFrame(
        {
            "name": [f"n{i}" for i in range(n)],
            "nearly": [None, "n1", *(f"n{i}" for i in range(2, n - 1)), "n1"],
            "kind": ["a", "b"] * (n // 2),
            "only": ["a"] * n,
        },
        dtype="string",
    ).assign(number=range(n))
    assert tell_names(frame) == ["name", "nearly"]
    assert tell_names(frame[:1]) == []


def test_columns_of_one_value_are_told():
    frame = pd.DataFrame({"a": ["x", None, "x"], "b": [1, 1, 1], "c": [1, 2, 1], "d": [None] * 3})
    assert tell_constant(frame) == ["a", "b"]


@pytest.mark.parametrize(
    ("cells", "are"),
    [
        (["2020-01-31", "2020-02-01 10:30", "2020-02-03T10:30:00"], True),
        (["31.1.2020", "1/2/20"], True),
        (["15:31", "3:05 pm", "23:59:59.5"], True),
        (["1 May 2024", "1-Jan-2024", "Jan 1, 2024", "3-Feb-24"], True),
        (["flat 2", "May", "row 12 b"], False),
        (["1.2.3", "1.2.4"], False),  # versions
        (["10.0.0.1", "555-12-3456"], False),
        (["2020-01-31", "late"], False),
    ],
)
def test_dates_and_times_are_told(cells, are, read):
    table = read(column(*cells, ""))
    assert tell_dates(table) == (["x"] if are else [])


@pytest.mark.parametrize(
    ("cells", "kind"),
    [("12", "integer"), ("1.5", "number"), ("true", "truth value"), ("red", "text")],
)
def test_what_a_column_holds_has_a_name(cells, kind, read):
    assert kind_of(read(column(cells, ""))["x"]) == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x,y\n1,2\n\n1,2,3\n",
            "t.csv: line 4 has 3 cells, but the first line, which must hold the column names, has 2. A "
            "cell that holds the separator must stand in double quotes.",
        ),
        ("sep=;\nx;y\n1;2\n", "t.csv: its first line, 'sep=', must hold the column names."),
        ("x\n1\n1,2\n", "t.csv: line 3 has 2 cells, but the first line,"),
        (
            'x,y\n1,2\n"1,2\n3,4\n',
            "t.csv: a double quote in line 3 is never closed. Close or remove it.",
        ),
        ("", "t.csv is empty. Its first line must hold the column names."),
        ("\n\n", "t.csv is empty. Its first line must hold the column names."),
    ],
)
def test_what_cannot_be_split_into_cells_is_explained(text, message, read):
    with pytest.raises(ValueError, match=r"t\.csv") as error:
        read(text)
    assert message in str(error.value)


def test_what_pandas_says_otherwise_is_passed_on(read, monkeypatch):
    monkeypatch.setattr(pd, "read_csv", Mock(side_effect=pd.errors.ParserError("of another kind")))
    assert refused(read, "x,y\n1,2\n") == "of another kind"


def test_another_separator_is_pointed_at(read):
    text = "a|b|y\n1|2|3\n"
    assert list(read(text)) == ["a|b|y"]
    expected = "the only column is 'a|b|y'. Cells must be separated by commas, semicolons or tabs."
    assert refused(read, text, only=["a", "b"]) == expected
    assert list(read("ab\n1\n", only=["ab", "a"])) == ["ab"]
    assert list(read("other\n1\n", only=["her"])) == []


def test_a_table_comes_by_the_standard_input(monkeypatch):
    def given(content):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))
        return read_table(Path("-"))

    assert list(given(b"x,y\n1,2\n3,4\n")["y"]) == [2, 4]
    with pytest.warns(UserWarning, match=r"^standard input is read as separated by ';'\.$"):
        assert list(given(b"x;y\n1;2\n")) == ["x", "y"]
    for content, message in (
        (b"", " is empty."),
        (b"x\n", " has no rows."),
        (b"x\n1\n1,2\n", ": line 3"),
    ):
        with pytest.raises(ValueError, match=f"^standard input{message}"):
            given(content)


def test_columns_without_a_name_that_count_the_rows_are_an_index(read):
    text = ",,,,row,,y\n0,0,b,5,0,1,1\n1,2,a,6,1,2,1\n2,1,c,7,2,4,1\n"
    assert tell_counts(read(text)) == ["Unnamed: 0", "Unnamed: 3"]
    assert tell_counts(read(text).drop(index=1)) == ["Unnamed: 0", "Unnamed: 3"]
    assert tell_counts(read(",y\n,1\n,2\n")) == []


def test_values_that_hardly_recur_are_too_many_for_classes():
    n = 40
    names = pd.Series([f"n{i}" for i in range(n)], dtype="string")
    half = pd.Series([f"n{i // 2}" for i in range(n)], dtype="string")
    assert are_too_many(names)
    assert not are_too_many(half)
    assert are_too_many(pd.concat([half[:-2], pd.Series(["a", "b"])]))
    assert are_too_many(names[:11])
    assert not are_too_many(names[:10])


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([1, 2] * 10, "classification"),
        ([100, 120, 135, 180, 210], "regression"),  # prices
        ([3] * 10, "regression"),
        (list(range(20)) * 2, "classification"),
        (list(range(21)) * 2, "regression"),
        ([1.0, 2.0] * 10, "regression"),
        ([True, False] * 10, "classification"),
        (["a", "b"] * 10, "classification"),
    ],
)
def test_the_task_follows_from_the_values(values, task):
    assert guess_task(pd.Series(values)) == task
    assert holds_numbers(pd.Series(values)) == (type(values[0]) in (int, float))


def test_a_column_of_truth_values_names_what_is_none(read):
    """Where it is known that it is no column of texts."""
    text = column("True", "no", "False")
    assert list(read(text)["x"]) == ["True", "no", "False"]
    assert refused(read, text, only=["x"], texts=[]) == (
        "column 'x' holds truth values, but 'no' in data row 2. Cells without a value must be empty."
    )
    numbers = refused(read, column("1.5", "2", "True"), only=["x"], texts=[])
    assert numbers.startswith("column 'x' holds numbers, but 'True' in data row 3.")


def test_space_of_any_kind_around_numbers_does_not_matter(read):
    assert list(read(column("1\N{NO-BREAK SPACE}", " 2", "3 ", "-4"))["x"]) == [1, 2, 3, -4]


def test_space_around_names_truth_values_and_what_stands_for_no_value_does_not_matter(read):
    table = read("a , b,y\n NA, True,1\n 0.5,False , \n2, ,2\n")
    assert list(table.columns) == ["a", "b", "y"]
    np.testing.assert_array_equal(table["a"], [np.nan, 0.5, 2.0])
    assert table["b"].tolist() == [True, False, pd.NA]
    np.testing.assert_array_equal(table["y"], [1.0, np.nan, 2.0])
    texts = read("k,y\n NA,1\n 01003,2\n 01004,3\n")
    assert texts["k"].tolist() == [" NA", " 01003", " 01004"]  # codes stay as they are written
    assert "more than once" in refused(read, "a, a\n1,2\n")


def test_what_is_odd_about_marked_numbers_is_one_of_them():
    cells = pd.Series(["free", *(f"${i}" for i in range(9))], dtype="string")
    assert what_is_odd(cells) == "has numbers written as '$0'"


def test_words_for_no_value_among_texts_are_told():
    cells = pd.Series(["yes", "no", "NA", "yes"], dtype="string")
    assert what_is_odd(cells) == "has 'NA' among its texts"
    assert what_is_odd(cells[cells != "NA"]) is None


def test_fractions_are_no_names_of_classes():
    assert may_be_classes(pd.Series([1.0, 2.0] * 5))
    assert not may_be_classes(pd.Series([1.0, 2.5] * 5))
