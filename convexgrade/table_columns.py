"""Columns of tables as numbers: what is imputed, which categories there are.

Columns are imputed and encoded by scikit-learn's transformers, which are rebuilt from plain values:
fitted on one row of all columns' imputation values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

Array = NDArray[np.float64]

TRUTH = {"true": True, "false": False}  # how truth values are written, in lower case
# What stands for no value among numbers. Among texts it is a word like others ("None", the country
# "NA"), and only an empty cell has no value.
NO_NUMBER = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "none")


@dataclass(frozen=True)
class Column:
    """An input column: its name, what a missing value becomes, its categories (None: numeric)."""

    name: str
    fill: float | str
    categories: tuple[str, ...] | None = None

    @property
    def filling(self) -> str:
        """What a missing value becomes, as text."""
        return str(self.fill) if self.categories is not None else f"{self.fill:g}"

    @property
    def width(self) -> int:
        """Number of inputs that the column becomes."""
        return 1 if self.categories is None else len(self.categories)

    def __str__(self) -> str:
        if self.categories is None:
            return f"{self.name}: numeric, missing becomes {self.filling}"
        shown = ", ".join(self.categories[:8]) + (", ..." if self.width > 8 else "")
        number = "1 category" if self.width == 1 else f"{self.width} categories"
        return f"{self.name}: {number} ({shown}), missing becomes {self.filling}"


def learn_columns(frame: Any) -> tuple[Column, ...]:
    """Learn how the columns of a table become numbers.

    Columns of numbers or booleans are numeric, all others categorical.

    Parameters
    ----------
    frame : pandas.DataFrame
        Input columns, each with at least one value.

    Returns
    -------
    tuple of Column

    Raises
    ------
    TypeError
        If it is no pandas.DataFrame.
    ValueError
        If two columns have one name, as text, or one has no value at all.

    Examples
    --------
    >>> import pandas as pd
    >>> from convexgrade.table_columns import learn_columns
    >>> for column in learn_columns(pd.DataFrame({"age": [3, None, 7], "kind": ["b", "a", "b"]})):
    ...     print(column)
    age: numeric, missing becomes 5
    kind: 2 categories (a, b), missing becomes b
    """
    frame = _named(frame)
    empty = [name for name in frame.columns if frame[name].isna().all()]
    if empty:
        raise ValueError(f"No value at all in {listed(empty)}.")
    return tuple(_learn_column(name, frame) for name in frame.columns)


def _learn_column(name: str, frame: Any) -> Column:
    from pandas.api.types import is_numeric_dtype

    values = frame[name].convert_dtypes() if frame[name].dtype == object else frame[name]
    column = Column(name, 0.0) if is_numeric_dtype(values) else Column(name, "", ())
    [(_, fitted, _)] = _encoder([column], "auto").fit(_cleaned([column], frame)).transformers_
    if column.categories is None:
        return Column(name, float(fitted.statistics_[0]))
    imputer, one_hot = fitted
    return Column(name, str(imputer.statistics_[0]), tuple(map(str, one_hot.categories_[0])))


def encode(columns: Sequence[Column], frame: Any) -> Array:
    """Turn a table into the rows that a network reads.

    Parameters
    ----------
    columns : sequence of Column
        From `learn_columns`.
    frame : pandas.DataFrame
        Table with these columns, in any order; others are ignored.

    Returns
    -------
    ndarray of shape (n_rows, n_inputs)
        Numeric columns first. An unknown category is a row of zeros among its indicators.

    Raises
    ------
    TypeError
        If it is no pandas.DataFrame.
    ValueError
        If a column is missing or there twice, a numeric one holds something else or an infinite
        value, or there are no rows.
    """
    frame = _named(frame)
    missing = [column.name for column in columns if column.name not in frame.columns]
    if missing:
        raise ValueError(f"The table lacks {listed(missing)}.")
    if len(frame) == 0:
        raise ValueError("The table has no rows.")
    known = [np.array(c.categories, dtype=object) for c in columns if c.categories is not None]
    encoder = _encoder(columns, known).fit(_cleaned(columns, one_row(columns)))
    return np.asarray(encoder.transform(_cleaned(columns, frame)), dtype=np.float64)


class Unknown(NamedTuple):
    """Values of a categorical column that are none of its categories: how many, and the first."""

    column: str
    number: int
    first: str


def unknown_values(columns: Sequence[Column], frame: Any) -> Iterator[Unknown]:
    """Yield what `encode` turns into rows of zeros, for each column that has any."""
    frame = _named(frame)
    for column in columns:
        if column.categories is not None:
            values = _texts(frame[column.name]).dropna()
            unknown = values[~values.isin(column.categories)]
            if len(unknown):
                yield Unknown(column.name, len(unknown), unknown.iloc[0])


def one_row(columns: Sequence[Column]) -> Any:
    """Return a table of one row, all of whose values are those that missing ones become."""
    import pandas as pd

    return pd.DataFrame({column.name: [column.fill] for column in columns})


def _encoder(columns: Sequence[Column], categories: Any) -> ColumnTransformer:
    one_hot = OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
    categorical = make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot)
    numbers = [c.name for c in columns if c.categories is None]
    others = [c.name for c in columns if c.categories is not None]
    parts = [
        ("numeric", SimpleImputer(strategy="median"), numbers),
        ("categorical", categorical, others),
    ]
    encoder = ColumnTransformer([part for part in parts if part[-1]])
    return encoder.set_output(transform="default")  # whatever scikit-learn is configured to return


def _cleaned(columns: Sequence[Column], frame: Any) -> Any:
    """Return numeric columns as floats and the others as strings, NaN where missing."""
    import pandas as pd

    return pd.DataFrame(
        {
            column.name: _numbers(column.name, frame[column.name])
            if column.categories is None
            else _texts(frame[column.name]).to_numpy(dtype=object)
            for column in columns
        },
        index=range(len(frame)),
    )


def _texts(values: Any) -> Any:
    """Return values as strings that do not depend on how pandas holds them, NaN where missing.

    Beside a missing value, it holds whole numbers as floats; and it reads dates as midnights.
    """
    return values.astype(object).where(values.notna(), np.nan).map(_text, na_action="ignore")


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return str(value)


def _numbers(name: str, values: Any) -> Array:
    import pandas as pd

    try:
        numbers = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r} must hold numbers: {error}") from error
    refuse_infinite(name, numbers)
    return np.asarray(numbers)


def refuse_infinite(name: str, numbers: Array) -> None:
    """Raise an error that names a column if some of its numbers are infinite."""
    if np.isinf(numbers).any():
        raise ValueError(f"Column {name!r} holds infinite values.")


def _named(frame: Any) -> Any:
    """Return a table whose columns go by their names as text; an error where these are not distinct."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        kind = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
        raise TypeError(f"The table must be a pandas.DataFrame; got {kind}.")
    if frame.columns.nlevels > 1:
        raise ValueError("The columns of the table must have names of one level.")
    frame = frame.rename(columns=str)
    check_distinct(frame, "The table")
    return frame


def check_distinct(frame: Any, subject: str) -> None:
    """Raise a ValueError about the subject if two columns of a table have one name."""
    twice = list(frame.columns[frame.columns.duplicated()].unique())
    if twice:
        raise ValueError(f"{subject} has {listed(twice)} more than once.")


def listed(names: Sequence[str]) -> str:
    """Name columns in a sentence."""
    return ("column " if len(names) == 1 else "columns ") + ", ".join(map(repr, names))
