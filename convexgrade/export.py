"""Models of tables: what a fitted estimator learned, as plain values that fit in one file.

The file is a ``.npz`` archive of plain arrays and one JSON string. Reading it unpickles nothing, so
a stranger's file cannot run code.
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
from sklearn.utils.validation import check_is_fitted

from convexgrade.certificate import Certificate
from convexgrade.deep_network import DeepNetwork
from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.targets import probabilities
from convexgrade.handover import Handover
from convexgrade.network import Network
from convexgrade.reading import Distances, Reading, Tails
from convexgrade.solution import Status
from convexgrade.span import Span
from convexgrade.table_columns import TRUTH, Column, encode, listed, one_row
from convexgrade.wording import counted

Array = NDArray[np.float64]

_FORMAT, _VERSION = "convexgrade model", 1
_SHOWN = 8  # columns that are named
_WEIGHTS = [field.name for field in fields(Network)]


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
            f"{counted(self.neurons, 'neuron')} in {self.seconds:.1f} s, alpha {self.alpha:g}, "
            f"training loss {self.training_loss:.6g}\n  {c}\n"
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
        """Return the model of an estimator fitted on ``encode(columns, frame)`` and one target.

        Raises
        ------
        TypeError
            If ``estimator`` is not a chain or a grade of this package.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        ValueError
            If it has several targets, if the labels of its classes are neither texts nor numbers, or if
            it was fitted on other columns.
        """
        _check_exportable(estimator)
        given = {**estimator.get_params(), "loss": estimator._coding.loss.name}  # that of the fit
        return cls(
            target=str(target),
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
        """Predict the target of every row of a table.

        Parameters
        ----------
        frame : pandas.DataFrame
            A table with the columns that the model was fitted on.

        Returns
        -------
        ndarray of shape (n_samples,)
            Predictions, as `predict` of the estimator returns them; of classes that tie up to rounding,
            either.
        """
        if not self.classes:
            low, high = self.limits or (-np.inf, np.inf)
            output = self._output(frame)[:, 0]
            with np.errstate(over="ignore"):  # far out, without limits
                number = np.exp(output) if self.parameters.get("loss") == "poisson" else output
            return np.clip(number, low, high)
        best = np.argmax(probabilities(self._output(frame)), axis=1)
        return np.array(self.classes)[best]

    def predict_proba(self, frame: Any) -> Array:
        """Return class probabilities of every row of a table.

        Parameters
        ----------
        frame : pandas.DataFrame
            A table with the columns that the model was fitted on.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes``.

        Raises
        ------
        ValueError
            If the model predicts a number, or was fitted by a loss without probabilities.
        """
        if not self.classes:
            raise ValueError(f"{self.target!r} is a number: its model gives no probabilities.")
        if self.parameters.get("loss", "log_loss") != "log_loss":
            raise ValueError(
                f"loss={self.parameters.get('loss')!r} gives margins, not probabilities."
            )
        return probabilities(self._output(frame))

    def targets(self, written: Any) -> Any:
        """Return targets as the model predicts them.

        Parameters
        ----------
        written : pandas.Series of str
            Targets as they are written in a table.

        Returns
        -------
        pandas.Series
            Targets, missing where the text is none of that kind.
        """
        import pandas as pd

        kinds = {type(label) for label in self.classes}
        if kinds == {str}:
            return written
        if kinds == {bool}:
            return written.str.lower().map(TRUTH)
        return pd.to_numeric(written, errors="coerce")

    def _output(self, frame: Any) -> Array:
        return self.network.forward(encode(self.columns, frame))

    @property
    def choices(self) -> str:
        """How the fit has chosen to read columns, as text."""
        inputs, reading = _input_names(self.columns), self.network.reading
        if not reading.changes:
            return "All columns are read as they are."
        heavy, apart = (
            _some([inputs[j] for j in columns])
            for columns in (reading.tails.heavy, reading.distances.column)
        )
        return (
            f"Tails are read on a logarithmic scale in {heavy}; distances from the mean are read of "
            f"{apart}."
        )

    def describe(self) -> str:
        """Return what the model reads and predicts, and what is certified about it, as text."""
        of = f" of {', '.join(map(str, self.classes))}" if self.classes else ""
        parameters = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return "\n".join(
            [
                f"{self.task}{of}: {self.target!r} from {counted(len(self.columns), 'column')}",
                *(f"  {column}" for column in self.columns),
                f"{self.estimator}({parameters})",
                self.choices,
                *(f"grade {i}: {grade}" for i, grade in enumerate(self.grades, start=1)),
            ]
        )


def _input_names(columns: Sequence[Column]) -> list[str]:
    """Name the inputs of a network, in the order of `encode`."""
    numbers = [column.name for column in columns if column.categories is None]
    return numbers + [f"{c.name}={text}" for c in columns for text in c.categories or ()]


def _some(names: Sequence[str]) -> str:
    """Name columns in a sentence, the first of many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{listed(names[:_SHOWN])}{more}" if names else "no column"


def _check_exportable(estimator: BaseChain) -> None:
    name = type(estimator).__name__
    if not isinstance(estimator, BaseChain):
        raise TypeError(f"A model needs a fitted chain or grade of convexgrade; got {name}.")
    check_is_fitted(estimator)
    labels = np.asarray(getattr(estimator, "classes_", ()))
    n_targets = estimator.network_.baseline.size if labels.size == 0 else 1
    if n_targets > 1:
        raise ValueError(f"A model has one target; this {name} was fitted on {n_targets}.")
    plain = all(isinstance(label, str | bool | int | float) for label in labels.tolist())
    if labels.dtype.kind in "mM" or not plain:  # dates become integers on the way
        raise ValueError(f"Classes must be texts or numbers to be saved; got {labels!r}.")


def _limits(estimator: BaseChain) -> tuple[float, float] | None:
    """Return what the fit has limited predictions to, whatever the parameter is now."""
    if not hasattr(estimator, "prediction_range_"):
        return None
    low, high = (float(end[0]) for end in estimator.prediction_range_)
    return (low, high) if np.isfinite([low, high]).any() else None


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
    for low, high in network.spans:
        if not (low.shape == high.shape and low.shape in ((), (k,)) and (low <= high).all()):
            raise ValueError(f"What a grade adds is not kept to {counted(k, 'interval')}.")
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

    Parameters
    ----------
    model : TableModel
        The model.
    path : str or path-like
        Where to; a file that is there is replaced.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from convexgrade import ConvexReLURegressor
    >>> from convexgrade.table_columns import encode, learn_columns
    >>> from convexgrade.export import TableModel, load_model, save_model
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
    for i, span in enumerate(model.network.spans, start=1):
        arrays |= {f"grade_{i}_{end}": value for end, value in span._asdict().items()}
    with written_whole(path) as file:
        np.savez(file, **arrays)


def load_model(path: str | os.PathLike[str]) -> TableModel:
    """Read a file written by `save_model`; nothing in it is executed.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    TableModel
        The model, predicting as the saved one does.

    Raises
    ------
    ValueError
        If it is any other file, or damaged.
    OSError
        If it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        model = _read(content)
        model.describe()
        model.predict(one_row(model.columns))  # a file that fails later would be a riddle
    except Exception as error:  # zip, zlib, npy and JSON readers fail each in its own way
        raise ValueError(f"{os.fspath(path)} is no convexgrade model: {error}") from error
    return model


def _read(content: bytes) -> TableModel:
    if not content.startswith(b"PK"):
        raise ValueError("it is not a zip archive.")
    with np.load(BytesIO(content), allow_pickle=False) as archive:
        if "about" not in archive.files:
            raise ValueError("it describes none.")
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
    numbers = range(1, len(about["grades"]) + 1)
    networks = tuple(
        Network(*(arrays.pop(f"grade_{i}_{name}", None) for name in _WEIGHTS)) for i in numbers
    )
    spans = tuple(Span(*(arrays.pop(f"grade_{i}_{end}") for end in Span._fields)) for i in numbers)
    tails = Tails(*(arrays.pop(f"tails_{name}") for name in ("low", "high", "unit")))
    distances = Distances(*(arrays.pop(f"distances_{name}") for name in ("column", "center")))
    handover = Handover(**about.pop("handover"))
    reading = Reading(tails, distances)
    network = DeepNetwork(arrays.pop("baseline"), networks, spans, handover, reading)
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
