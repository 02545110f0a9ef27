"""Models of tables: what a fitted estimator learned, as plain values that fit in one file.

The file is a ``.npz`` archive of plain arrays and one JSON string. Reading it unpickles nothing, so
a stranger's file cannot run code. Columns are imputed and encoded by scikit-learn's transformers,
which are rebuilt from plain values: fitted on one row of all columns' imputation values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from convexgrade.certificate import Certificate
from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.targets import probabilities
from convexgrade.network import DeepNetwork, Handover, Network
from convexgrade.reading import Distances, Reading, Tails
from convexgrade.solution import Status

Array = NDArray[np.float64]

_FORMAT, _VERSION = "convexgrade model", 1
_WEIGHTS = [field.name for field in fields(Network)]


@dataclass(frozen=True)
class Column:
    """An input column: its name, what a missing value becomes, its categories (None: numeric)."""

    name: str
    fill: float | str
    categories: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """Number of inputs that the column becomes."""
        return 1 if self.categories is None else len(self.categories)

    def __str__(self) -> str:
        if self.categories is None:
            return f"{self.name}: numeric, missing becomes {self.fill:g}"
        shown = ", ".join(self.categories[:8]) + (", ..." if self.width > 8 else "")
        return f"{self.name}: {self.width} categories ({shown}), missing becomes {self.fill}"


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

    Examples
    --------
    >>> import pandas as pd
    >>> from convexgrade.export import learn_columns
    >>> for column in learn_columns(pd.DataFrame({"age": [3, None, 7], "kind": ["b", "a", "b"]})):
    ...     print(column)
    age: numeric, missing becomes 5
    kind: 2 categories (a, b), missing becomes b
    """
    frame = frame.rename(columns=str)
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
    ValueError
        If a column is missing, or a numeric one holds something else or an infinite value.
    """
    frame = frame.rename(columns=str)
    missing = [column.name for column in columns if column.name not in frame.columns]
    if missing:
        raise ValueError(f"The table lacks {listed(missing)}.")
    known = [np.array(c.categories, dtype=object) for c in columns if c.categories is not None]
    encoder = _encoder(columns, known).fit(_cleaned(columns, _one_row(columns)))
    return np.asarray(encoder.transform(_cleaned(columns, frame)), dtype=np.float64)


def _one_row(columns: Sequence[Column]) -> Any:
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
    return ColumnTransformer([part for part in parts if part[-1]])


def _cleaned(columns: Sequence[Column], frame: Any) -> Any:
    """Return numeric columns as floats and the others as strings, NaN where missing."""
    import pandas as pd

    def strings(values: Any) -> Any:
        return values.astype(object).where(values.notna(), np.nan).map(str, na_action="ignore")

    return pd.DataFrame(
        {
            column.name: _numbers(column.name, frame[column.name])
            if column.categories is None
            else strings(frame[column.name]).to_numpy(dtype=object)
            for column in columns
        },
        index=range(len(frame)),
    )


def _numbers(name: str, values: Any) -> Array:
    import pandas as pd

    try:
        numbers = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Column {name!r} must hold numbers: {error}") from error
    if np.isinf(numbers).any():
        raise ValueError(f"Column {name!r} holds infinite values.")
    return np.asarray(numbers)


def listed(names: Sequence[str]) -> str:
    """Name columns in a sentence."""
    return ("column " if len(names) == 1 else "columns ") + ", ".join(map(repr, names))


@dataclass(frozen=True)
class GradeSummary:
    """What is known about a fitted grade; ``training_loss`` is that of the chain up to it."""

    certificate: Certificate
    neurons: int
    alpha: float
    training_loss: float
    seconds: float

    def __str__(self) -> str:
        c = self.certificate
        scope = "exact" if c.price_is_exact else "the best that a search found"
        return (
            f"{self.neurons} neurons in {self.seconds:.1f} s, alpha {self.alpha:g}, training loss "
            f"{self.training_loss:.6g}\n  {c}\n"
            f"  price {c.price:.6g} ({scope}), violation {c.violation:.1e}"
        )


@dataclass(frozen=True)
class TableModel:
    """A fitted model that predicts from raw tables, without the estimator that fitted it.

    Attributes
    ----------
    target : str
        Name of the target.
    classes : tuple
        Class labels; empty for regression.
    columns : tuple of Column
        Input columns.
    network : DeepNetwork
        Explicit weights in the units of the encoded columns.
    grades : tuple of GradeSummary
        What is known about each grade.
    estimator : str
        Class of the estimator.
    parameters : dict
        Its parameters.
    limits : tuple of float or None
        What predictions of a number keep to; None sets no limit.
    """

    target: str
    classes: tuple[Any, ...]
    columns: tuple[Column, ...]
    network: DeepNetwork
    grades: tuple[GradeSummary, ...]
    estimator: str
    parameters: dict[str, Any]
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_weights(self.network, sum(c.width for c in self.columns), len(self.classes))

    @classmethod
    def from_estimator(cls, estimator: BaseChain, columns: Sequence[Column], target: str) -> Self:
        """Return the model of an estimator fitted on ``encode(columns, frame)`` and one target."""
        given = {**estimator.get_params(), "loss": estimator._coding.loss.name}  # that of the fit
        return cls(
            target=target,
            classes=tuple(np.asarray(getattr(estimator, "classes_", ())).tolist()),
            columns=tuple(columns),
            network=estimator.network_,
            grades=tuple(
                GradeSummary(g.certificate, g.n_neurons, g.alpha, float(loss), g.seconds)
                for g, loss in zip(estimator.grades_, estimator.train_loss_, strict=True)
            ),
            estimator=type(estimator).__name__,
            parameters={name: _plain(value) for name, value in given.items()},
            limits=_limits(estimator),
        )

    @property
    def task(self) -> str:
        """What is predicted: "classification" or "regression"."""
        return "classification" if self.classes else "regression"

    def predict(self, frame: Any) -> NDArray[Any]:
        """Predict the target of every row of a table (pandas.DataFrame)."""
        if not self.classes:
            low, high = self.limits or (-np.inf, np.inf)
            output = self._output(frame)[:, 0]
            with np.errstate(over="ignore"):  # far out, without limits
                number = np.exp(output) if self.parameters.get("loss") == "poisson" else output
            return np.clip(number, low, high)
        best = np.argmax(probabilities(self._output(frame)), axis=1)
        return np.array(self.classes)[best]

    def predict_proba(self, frame: Any) -> Array:
        """Return class probabilities, in the order of ``classes``, of every row of a table."""
        if not self.classes:
            raise ValueError(f"{self.target!r} is a number: its model gives no probabilities.")
        if self.parameters.get("loss", "log_loss") != "log_loss":
            raise ValueError(
                f"loss={self.parameters.get('loss')!r} gives margins, not probabilities."
            )
        return probabilities(self._output(frame))

    def _output(self, frame: Any) -> Array:
        return self.network.forward(encode(self.columns, frame))

    def describe(self) -> str:
        """Return what the model reads and predicts, and what is certified about it, as text."""
        of = f" of {', '.join(map(str, self.classes))}" if self.classes else ""
        parameters = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return "\n".join(
            [
                f"{self.task}{of}: {self.target!r} from {len(self.columns)} columns",
                *(f"  {column}" for column in self.columns),
                f"{self.estimator}({parameters})",
                *(f"grade {i}: {grade}" for i, grade in enumerate(self.grades, start=1)),
            ]
        )


def _limits(estimator: BaseChain) -> tuple[float, float] | None:
    if getattr(estimator, "extrapolation", None) is None:
        return None
    low, high = estimator.prediction_range_
    return float(low[0]), float(high[0])


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int | float | None) else repr(value)


def _check_weights(network: DeepNetwork, n_inputs: int, n_classes: int) -> None:
    k = 1 if n_classes in (0, 2) else n_classes
    expected: list[tuple[Array | None, tuple[int, ...]]] = [(network.baseline, (k,))]
    width = network.reading.width(n_inputs)
    d = width
    for grade in network.grades:
        m = grade.n_neurons
        shapes = [(d, m), (m,), (m, k), (d, k), (k,), (d, m), (m,)]
        expected += zip((getattr(grade, name) for name in _WEIGHTS), shapes, strict=True)
        d = network.handover.width(m, k, width)
    for array, shape in expected:
        if array is not None and (array.shape != shape or not np.isfinite(array).all()):
            raise ValueError(
                f"The network does not fit {n_inputs} inputs and {n_classes} classes: "
                f"an array of shape {array.shape} should have {shape} and be finite."
            )
    column, center = network.reading.distances.column, network.reading.distances.center
    known = column.dtype.kind == "i" and np.isin(column, np.arange(n_inputs)).all()
    if not (known and column.shape == center.shape and np.isfinite(center).all()):
        raise ValueError(
            f"The network does not fit {n_inputs} inputs: it reads distances of others."
        )
    tails = network.reading.tails
    low, high, unit = tails.low, tails.high, tails.unit
    fits = low.shape == high.shape == unit.shape and low.shape in ((), (n_inputs,))
    if not (fits and (low < high).all() and (unit > 0.0).all()):
        raise ValueError(
            f"The network does not fit {n_inputs} inputs: its tails are not intervals of them."
        )


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file to write that takes its name only once it is complete."""
    given, path = os.fspath(path), Path(path).resolve()
    if path.exists() and not path.is_file():  # a device, which a rename would replace
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        if str(error.filename) == str(part):  # of which the caller knows nothing
            error.filename, error.filename2 = given, None
        raise
    finally:
        with suppress(OSError):  # there may be none, or no such folder
            part.unlink()


def save_model(model: TableModel, path: str | os.PathLike[str]) -> None:
    """Write a model to a file, wholly or not at all.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from convexgrade import ConvexReLURegressor
    >>> from convexgrade.export import TableModel, encode, learn_columns, load_model, save_model
    >>> frame = pd.DataFrame({"size": [1.0, 2.0, None, 4.0], "kind": ["a", "b", "b", "a"]})
    >>> columns = learn_columns(frame)
    >>> estimator = ConvexReLURegressor(alpha=0.1, random_state=0)
    >>> model = TableModel.from_estimator(
    ...     estimator.fit(encode(columns, frame), [1, 3, 4, 2]), columns, target="price"
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, f"{folder}/model.npz")
    ...     loaded = load_model(f"{folder}/model.npz")
    >>> bool((loaded.predict(frame) == model.predict(frame)).all())
    True
    """
    about = {name: value for name, value in vars(model).items() if name != "network"}
    about |= {"format": _FORMAT, "version": _VERSION, "handover": asdict(model.network.handover)}
    about |= {name: list(map(asdict, about[name])) for name in ("columns", "grades")}
    text = json.dumps(about, default=lambda status: status.name)
    arrays: dict[str, Any] = {"about": np.array(text), "baseline": model.network.baseline}
    reading = model.network.reading
    for part in ("tails", "distances"):
        arrays |= {f"{part}_{name}": value for name, value in vars(getattr(reading, part)).items()}
    for i, network in enumerate(model.network.grades, start=1):
        weights = {f"grade_{i}_{name}": getattr(network, name) for name in _WEIGHTS}
        arrays |= {name: array for name, array in weights.items() if array is not None}
    with written_whole(path) as file:
        np.savez(file, **arrays)


def load_model(path: str | os.PathLike[str]) -> TableModel:
    """Read a file written by `save_model`; nothing in it is executed.

    Any other or damaged file is a ValueError.
    """
    content = Path(path).read_bytes()
    try:
        model = _read(content)
        model.describe()
        model.predict(_one_row(model.columns))  # a file that fails later would be a riddle
    except Exception as error:  # zip, zlib, npy and JSON readers fail each in its own way
        raise ValueError(f"{os.fspath(path)} is no convexgrade model: {error}") from error
    return model


def _read(content: bytes) -> TableModel:
    if not content.startswith(b"PK"):
        raise ValueError("it is not a zip archive.")
    with np.load(BytesIO(content), allow_pickle=False) as archive:
        arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    about = json.loads(str(arrays.pop("about")))
    if (about.pop("format"), about.pop("version")) != (_FORMAT, _VERSION):
        raise ValueError(f"it is not of format version {_VERSION}, which this version reads.")
    about["columns"] = tuple(map(_read_column, about["columns"]))
    about["grades"] = tuple(map(_read_grade, about["grades"]))
    about["classes"] = tuple(about["classes"])
    if about["limits"] is not None:
        low, high = map(float, about["limits"])
        about["limits"] = (low, high)
    networks = tuple(
        Network(*(arrays.pop(f"grade_{i}_{name}", None) for name in _WEIGHTS))
        for i in range(1, len(about["grades"]) + 1)
    )
    tails = Tails(*(arrays.pop(f"tails_{name}") for name in ("low", "high", "unit")))
    distances = Distances(*(arrays.pop(f"distances_{name}") for name in ("column", "center")))
    handover = Handover(**about.pop("handover"))
    network = DeepNetwork(arrays.pop("baseline"), networks, handover, Reading(tails, distances))
    if arrays:
        raise ValueError(f"it holds more than that: {', '.join(arrays)}.")
    return TableModel(network=network, **about)


def _read_column(values: dict[str, Any]) -> Column:
    categories = values.pop("categories")
    return Column(**values, categories=None if categories is None else tuple(categories))


def _read_grade(values: dict[str, Any]) -> GradeSummary:
    certificate = values.pop("certificate")
    status = Status[certificate.pop("status")]
    return GradeSummary(certificate=Certificate(**certificate, status=status), **values)
