"""Tables as people have them: CSV files, read so that nothing is lost without a word."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from convexgrade.table_columns import NO_NUMBER, TRUTH, check_distinct
from convexgrade.wording import counted

_OTHER_SEPARATORS = ";\t"  # in the line of names, where it has no comma
_UNNAMED = "Unnamed: "  # before its number, the name that pandas gives to a column without
_FEW = 20  # distinct numbers that can be names of classes or categories: more are quantities
_REPEATED = 2  # rows of each class, on average, without which there are too many of them
_TINY = 10  # rows among which chance alone can leave most classes with one
_ALL_DIFFERENT = 0.9  # distinct texts a row from which on they are names rather than categories
_MOSTLY = 0.9  # share of numbers, of all values or in kind, with which the others must be mistakes
_MARKS = (
    re.compile(  # of currencies and percentages, minus as it is typeset, commas, gaps of thousands
        r"\s*[$€£¥%]\s*|\u2212|,|(?<=\d)[\s'\u2019](?=\d{3}(?!\d))"
    )
)
_BRACKETS = re.compile(r"^\((.+)\)$")  # around a negative number, as accountants write it
_UNIT = re.compile(r"\d\.?((?:\s+[^\W\d_]|[^\W\d_]{2}|\s*°)\D*?)\s*$")  # not the letter of "11a"
_DATE = re.compile(  # and times of the day
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T].*)?"
    r"|\d{1,2}[- ][^\W\d_]{3,9}\.?[-, ]+\d{2,4}|[^\W\d_]{3,9}\.? \d{1,2},? \d{4}"  # 1 May 2024
    r"|\d{1,2}:\d{2}(:\d{2}\S*)?( ?[AaPp][Mm])?"
)
_TOO_MANY_CELLS = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")  # pandas' words
_FOR_EXCEL = "sep="  # and a separator, a line that some programs put before the names
_OPEN_QUOTE = re.compile(r"EOF inside string starting at row (\d+)")
STANDARD_STREAM = Path("-")
_PADDED = r"0\d+"  # a code in digits


def read_table(
    path: Path,
    *,
    only: Collection[str] | None = None,
    texts: Collection[str] | None = None,
) -> Any:
    """Read a CSV file with a line of names.

    Cells separated by semicolons or tabs, as the line of names shows, are read too, with a warning.

    Parameters
    ----------
    path : Path
        File or pipe; ``-`` is the standard input.
    only : collection of str, optional
        Columns to be read; by default all.
    texts : collection of str, optional
        Columns to be left as they are written; all others then hold numbers or truth values. By
        default, what a column holds is told by its cells, and texts are left as they are, as are
        numbers padded with zeros to one width, as codes are ("01003").

    Returns
    -------
    pandas.DataFrame
        Columns of numbers, of truth values, and of texts.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is no such table or not in UTF-8, a name is there twice, or a column of numbers holds
        something else.
    """
    from pandas.errors import EmptyDataError, ParserError

    shown = _shown(path)
    try:
        rows = _rows(path)
        table = rows.iloc[1:].reset_index(drop=True).set_axis(_names(rows.iloc[0]), axis=1)
        if only is not None:
            refuse_other_separator(list(table.columns), only)
            table = table.loc[:, table.columns.isin(only)]
        check_distinct(table, "it")
        for name in table:
            if texts is None or name not in texts:
                table[name] = _typed(table[name], keep_codes=texts is None)
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: it is not UTF-8 text. Save it as CSV in UTF-8.") from error
    except EmptyDataError as error:
        raise ValueError(f"{shown} is empty. Its first line must hold the column names.") from error
    except ParserError as error:
        raise ValueError(f"{shown}: {_explained(error)}") from error
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    if len(rows) == 1:
        raise ValueError(f"{shown} has no rows.")
    return table


def _shown(path: Path) -> str:
    return "standard input" if path == STANDARD_STREAM else str(path)


def _explained(error: Exception) -> str:
    """Return what pandas could not split into cells, and what to do about it."""
    cells, quote = _TOO_MANY_CELLS.search(str(error)), _OPEN_QUOTE.search(str(error))
    if cells:
        expected, line, found = map(int, cells.groups())
        return (
            f"line {line} has {counted(found, 'cell')}, but the first line, which must hold the column "
            f"names, has {expected}. A cell that holds the separator must stand in double quotes."
        )
    if quote:
        return f"a double quote in line {int(quote[1]) + 1} is never closed. Close or remove it."
    return str(error)


def refuse_other_separator(names: Sequence[str], wanted: Collection[str]) -> None:
    """Raise an error if one column's name is a line of names that something else separates."""
    if len(names) != 1 or names[0] in wanted:
        return
    if any(re.search(rf"(^|\W){re.escape(name)}(\W|$)", names[0]) for name in wanted):
        raise ValueError(
            f"the only column is {names[0]!r}. Cells must be separated by commas, semicolons or tabs."
        )


def _names(first_row: Any) -> list[str]:
    """Return the names in a row of cells, less space around them; those without as pandas has them."""
    known = first_row.notna()
    return [
        name.strip() if has else f"{_UNNAMED}{i}"
        for i, (name, has) in enumerate(zip(first_row, known, strict=True))
    ]


def _rows(path: Path) -> Any:
    """Return all cells as text, the names in the first row; None where they are empty."""
    import pandas as pd

    source: Path | BytesIO = path
    if path == STANDARD_STREAM:
        if sys.stdin is None:
            raise ValueError("it is closed.")
        source = BytesIO(sys.stdin.buffer.read())
    elif not path.is_file():
        source = BytesIO(path.read_bytes())  # a pipe is read but once

    def rows(**options: Any) -> Any:
        if isinstance(source, BytesIO):
            source.seek(0)
        return pd.read_csv(
            source, header=None, dtype="string", keep_default_na=False, na_values=[""], **options
        )

    first = rows(nrows=1)
    if str(first.iloc[0, 0]).startswith(_FOR_EXCEL):
        raise ValueError(f"its first line, {_FOR_EXCEL!r}, must hold the column names.")
    separator = _separator(first)
    found = rows(sep=separator)
    if len(found.columns) == 1:  # then an empty line is a row with a missing value
        found = rows(sep=separator, skip_blank_lines=False, names=[0])
        if pd.isna(found.iloc[0, 0]):
            raise ValueError("its first line is empty.")
    elif separator != ",":
        warnings.warn(f"{_shown(path)} is read as separated by {separator!r}.", stacklevel=3)
    return found


def _separator(first_row: Any) -> str:
    """Return what separates the names in the first row, which was read as separated by commas."""
    if len(first_row.columns) > 1:
        return ","
    return next((s for s in _OTHER_SEPARATORS if first_row[0].str.contains(s).any()), ",")


def _typed(column: Any, *, keep_codes: bool) -> Any:
    """Return a column of texts as the numbers or truth values that they are written for, if they are.

    Whatever space is around them.
    """
    import pandas as pd

    bare = column.str.strip()
    known = bare.mask(bare.isin([*NO_NUMBER, ""]))
    written = known.dropna()
    if written.empty:
        return known
    is_truth = written.str.lower().isin(TRUTH)
    if is_truth.all():
        return known.str.lower().map(TRUTH).astype("boolean")
    if is_truth.mean() > 0.5 and not keep_codes:
        odd = written[~is_truth]
        raise ValueError(
            f"column {column.name!r} holds truth values, but {odd.iloc[0]!r} in data row "
            f"{odd.index[0] + 1}. Cells without a value must be empty."
        )
    if keep_codes and _are_codes(written):
        return column
    numbers = pd.to_numeric(written, errors="coerce")
    strange = written[numbers.isna()]
    if strange.empty:
        return numbers.reindex(known.index)
    unit = _unit(written)
    without = pd.to_numeric(_without_marks(written, unit), errors="coerce")
    if keep_codes and not _are_numbers(written, without):
        return column
    row = strange.index[0]
    cell = column[row]
    first = f"{cell!r} in data row {row + 1}"
    if pd.notna(without[row]):
        raise ValueError(
            f"column {column.name!r} holds numbers with {_mark(cell, unit)!r}, as {first}. Write them "
            "as plain numbers, such as 1234.5 or -1234.5; codes of categories must begin with a letter."
        )
    raise ValueError(
        f"column {column.name!r} holds numbers, but {first}. Cells without a value must be empty; "
        "codes of categories must begin with a letter."
    )


def _unit(written: Any) -> str:
    """Return the word behind the number in more than a few cells, such as "kg"; or nothing."""
    words = written.str.extract(_UNIT)[0].str.strip().value_counts()
    common = words.index[words > (1.0 - _MOSTLY) * len(written)]
    return str(common[0]) if len(common) else ""


def _without_marks(written: Any, unit: str) -> Any:
    plain = written.str.strip().str.removesuffix(unit).str.replace(_MARKS, "", regex=True)
    return plain.str.replace(_BRACKETS, r"-\1", regex=True)


def _mark(cell: str, unit: str) -> str:
    """Return what keeps a cell from being a number, of what `_without_marks` takes away."""
    mark = _MARKS.search(cell)
    if mark:
        return mark[0].strip() or mark[0]
    return unit if unit and cell.strip().endswith(unit) else "("


def _are_numbers(written: Any, numbers: Any) -> bool:
    """Return whether the cells that are no numbers must be mistakes, or signs for no value.

    Numbers are then more than classes and categories have as names. And the other cells are few, or
    few distinct ones beside many numbers, as "?" in every third cell is.
    """
    others = written[numbers.isna()]
    few = len(others) <= (1.0 - _MOSTLY) * len(written)
    few_kinds = others.nunique() <= (1.0 - _MOSTLY) * numbers.nunique()
    return bool(numbers.nunique() > _FEW and (few or few_kinds))


def _are_codes(written: Any) -> bool:
    """Return whether numbers are padded with zeros to a width that no other value falls short of.

    A shorter one ("7" beside "012") shows that the zeros do not belong to it, as in typed quantities.
    """
    padded, width = written.str.fullmatch(_PADDED), written.str.len()
    return bool(padded.any() and (width[~padded] >= width[padded].max()).all())


def tell_names(frame: Any) -> list[str]:
    """Return the columns of texts that are all, or nearly all, different: no new row has the same."""
    return [
        name
        for name in frame
        if frame[name].dtype == "string"
        and frame[name].nunique() >= max(2.0, _ALL_DIFFERENT * frame[name].notna().sum())
    ]


def tell_constant(frame: Any) -> list[str]:
    """Return the columns of one value, whether or not some cells are empty."""
    return [name for name in frame if frame[name].nunique() == 1]


def tell_dates(frame: Any) -> list[str]:
    """Return the columns of texts that are mostly dates or times of the day."""
    texts = {name: frame[name].dropna() for name in frame if frame[name].dtype == "string"}
    return [
        name
        for name, cells in texts.items()
        if len(cells)
        and sum(bool(_DATE.fullmatch(cell.strip())) for cell in cells) >= _MOSTLY * len(cells)
    ]


def tell_counts(frame: Any) -> list[str]:
    """Return the columns without a name that count the rows, from any number on: they are an index.

    The index of the frame must be that of `read_table`, less the rows that were left out since.
    """
    return [
        name
        for name in frame
        if name.startswith(_UNNAMED)
        and holds_numbers(frame[name])
        and (frame[name] - frame.index).nunique() == 1
    ]


def guess_task(values: Any) -> str:
    """Return "classification" for texts, truth values and few integers that recur, or "regression"."""
    from pandas.api.types import is_integer_dtype

    if not holds_numbers(values):
        return "classification"
    few_integers = is_integer_dtype(values) and may_be_classes(values)
    return "classification" if few_integers else "regression"


def may_be_classes(numbers: Any) -> bool:
    """Return whether numbers are whole, few and recur, though they be written as 1.0."""
    few = 2 <= numbers.nunique() <= min(_FEW, len(numbers) / _REPEATED)
    return few and bool((numbers % 1.0 == 0.0).all())


def what_is_odd(cells: Any) -> str | None:
    """Return what is odd about texts: that most are numbers, or some a word for no value; or None."""
    import pandas as pd

    if cells.dtype != "string" or cells.empty:
        return None
    plain = pd.to_numeric(cells.str.strip(), errors="coerce").notna()
    if plain.mean() > 0.5:
        return None if plain.all() else f"has numbers, but also {cells[~plain].iloc[0]!r}"
    marked = pd.to_numeric(_without_marks(cells, _unit(cells)), errors="coerce").notna()
    if marked.mean() > 0.5:
        return f"has numbers written as {cells[marked & ~plain].iloc[0]!r}"
    empty = cells[cells.str.strip().isin(NO_NUMBER)]
    return None if empty.empty else f"has {empty.iloc[0]!r} among its texts"


def are_too_many(values: Any) -> bool:
    """Return whether values are too many for classes: most would have a single row to learn from."""
    return bool(len(values) > _TINY and values.nunique() > len(values) / _REPEATED)


def kind_of(values: Any) -> str:
    """Return what a column holds, as the noun for one of its values."""
    from pandas.api.types import is_bool_dtype, is_integer_dtype

    if is_bool_dtype(values):
        return "truth value"
    if is_integer_dtype(values):
        return "integer"
    return "number" if holds_numbers(values) else "text"


def holds_numbers(values: Any) -> bool:
    """Return whether a column holds numbers, not truth values."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(values) and not is_bool_dtype(values))
