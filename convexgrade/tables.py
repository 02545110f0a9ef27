"""Tables as people have them: CSV files, read so that nothing is lost without a word."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import Any

from convexgrade.table_columns import check_distinct

# What stands for no value among numbers. Among texts it is a word like others ("None", the country
# "NA"), and only an empty cell has no value.
_NO_NUMBER = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "none")
_OTHER_SEPARATORS = ";\t"  # in the line of names, where it has no comma
_UNNAMED = "Unnamed: "  # before its number, the name that pandas gives to a column without
_TRUTH = {"true": True, "false": False}
_FEW = 20  # distinct numbers that can be names of classes or categories: more are quantities
_REPEATED = 2  # rows of each class, on average, without which there are too many of them
_TINY = 10  # rows among which chance alone can leave most classes with one
_ALL_DIFFERENT = 0.9  # distinct texts a row from which on they are names rather than categories
_MOSTLY = 0.9  # share of the values that are numbers, with which the others must be mistakes
_MARKS = re.compile(r"\s*[$€£¥%]\s*|,")  # of currencies, percentages, thousands
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
        File or pipe.
    only : collection of str, optional
        Columns to be read; by default all.
    texts : collection of str, optional
        Columns to be left as they are written; no other then holds codes. By default those are texts
        whose numbers are padded with zeros to one width, as codes are ("01003").

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
    try:
        rows = _rows(path)
        table = rows.iloc[1:].reset_index(drop=True).set_axis(_names(rows.iloc[0]), axis=1)
        if only is not None:
            table = table.loc[:, table.columns.isin(only)]
        check_distinct(table, "it")
        for name in table:
            if texts is None or name not in texts:
                table[name] = _typed(table[name], keep_codes=texts is None)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 text. Save it as CSV in UTF-8.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if len(rows) == 1:
        raise ValueError(f"{path} has no rows.")
    return table


def _names(first_row: Any) -> list[str]:
    """Return the names in a row of cells; columns without are named as pandas does it."""
    known = first_row.notna()
    return [
        name if has else f"{_UNNAMED}{i}"
        for i, (name, has) in enumerate(zip(first_row, known, strict=True))
    ]


def _rows(path: Path) -> Any:
    """Return all cells as text, the names in the first row; None where they are empty."""
    import pandas as pd

    source = path if path.is_file() else BytesIO(path.read_bytes())  # a pipe is read but once

    def rows(**options: Any) -> Any:
        if isinstance(source, BytesIO):
            source.seek(0)
        return pd.read_csv(
            source, header=None, dtype="string", keep_default_na=False, na_values=[""], **options
        )

    separator = _separator(rows(nrows=1))
    found = rows(sep=separator)
    if len(found.columns) == 1:  # then an empty line is a row with a missing value
        found = rows(sep=separator, skip_blank_lines=False, names=[0])
        if pd.isna(found.iloc[0, 0]):
            raise ValueError("its first line is empty.")
    elif separator != ",":
        warnings.warn(f"{path} is read as separated by {separator!r}.", stacklevel=3)
    return found


def _separator(first_row: Any) -> str:
    """Return what separates the names in the first row, which was read as separated by commas."""
    if len(first_row.columns) > 1:
        return ","
    return next((s for s in _OTHER_SEPARATORS if first_row[0].str.contains(s).any()), ",")


def _typed(column: Any, *, keep_codes: bool) -> Any:
    """Return a column of texts as the numbers or truth values that they are written for, if they are."""
    import pandas as pd

    known = column.mask(column.isin(_NO_NUMBER))
    written = known.dropna()
    if written.empty:
        return known
    truth = written.str.lower()
    if truth.isin(_TRUTH).all():
        return known.str.lower().map(_TRUTH).astype("boolean")
    if keep_codes and _are_codes(written):
        return column
    numbers = pd.to_numeric(written, errors="coerce")
    strange = written[numbers.isna()]
    if strange.empty:
        return numbers.reindex(known.index)
    without = pd.to_numeric(written.str.replace(_MARKS, "", regex=True), errors="coerce")
    if without.nunique() <= _FEW or without.isna().sum() > (1.0 - _MOSTLY) * len(written):
        return column
    first = f"{strange.iloc[0]!r} in data row {strange.index[0] + 1}"
    mark = _MARKS.search(strange.iloc[0])
    if mark and pd.notna(without[strange.index[0]]):
        raise ValueError(
            f"column {column.name!r} holds numbers with {mark[0].strip()!r}, as {first}. Write them as "
            "plain numbers, such as 1234.5."
        )
    raise ValueError(
        f"column {column.name!r} holds numbers, but {first}. Cells without a value must be empty."
    )


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

    n_values = values.nunique()
    few = 2 <= n_values <= min(_FEW, len(values) / _REPEATED)
    few_integers = is_integer_dtype(values) and few
    return "classification" if few_integers or not holds_numbers(values) else "regression"


def are_too_many(values: Any) -> bool:
    """Return whether values are too many for classes: most would have a single row to learn from."""
    return bool(len(values) > _TINY and values.nunique() > len(values) / _REPEATED)


def holds_numbers(values: Any) -> bool:
    """Return whether a column holds numbers, not truth values."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(values) and not is_bool_dtype(values))
