"""What the command line says of a fit and of predictions, and how it goes on where nobody reads."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexgrade.certificate import Certificate
from convexgrade.display import error_metric
from convexgrade.estimators import MultigradeRegressor
from convexgrade.table_columns import NO_NUMBER, Column
from convexgrade.tables import what_is_odd
from convexgrade.wording import counted

_MANY = 20  # categories of a column from which on it is named


class Outlasting(io.TextIOBase):
    """A stream whose reader may leave: what is written from then on is lost, and no error."""

    def __init__(self, stream: Any) -> None:
        self._stream = io.StringIO() if stream is None else stream  # None: closed from the start

    def write(self, text: str) -> int:
        """Write text, if anybody reads it."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            silence(self._stream)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if anybody reads it."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            silence(self._stream)


def silence(stream: Any) -> None:
    """Let a stream lead nowhere, with what it still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def filled(columns: Sequence[Column], frame: Any) -> str:
    """Return how many missing values of each column become what; empty if none are missing."""
    missing = ((column, frame[column.name].isna().sum()) for column in columns)
    return ", ".join(f"{n} of {column.name!r} by {column.filling}" for column, n in missing if n)


def tell_columns(columns: Sequence[Column], frame: Any) -> None:
    """Print what `fit` makes of the columns of a table."""
    missing = filled(columns, frame)
    if missing:
        print(f"Missing values filled: {missing}.")
    many = [
        f"{column.name!r} ({column.width}, such as {column.categories[0]!r})"
        for column in columns
        if column.categories is not None and column.width > _MANY
    ]
    for column in columns:
        odd = column.categories and what_is_odd(frame[column.name].dropna())
        if odd:
            print(f"Column {column.name!r} {odd}: read as categories.")
    if many:
        print(f"Columns of more than {_MANY} categories, each an input: {', '.join(many)}.")
    sizes = counted(len(frame), "row"), counted(len(columns), "column")
    print(f"{', '.join(sizes)}, {counted(sum(c.width for c in columns), 'input')} of the network\n")


def fit_and_tell(estimator: Any, X: Any, y: Any, shown: dict[str, tuple[Any, Any]]) -> None:
    """Fit a chain, printing a line a grade as it comes: the certificate and errors on tables."""
    metric, error = error_metric(estimator)
    header = ["grade", "patterns", "neurons", "  objective", "lower bound", "relative gap"]
    header += [*(f"{name} {metric}" for name in shown), "seconds"]
    rows = _rows_of_grades(estimator, X, y, shown, error)
    if estimator.verbose:  # then the fit prints too: the table comes after it, in one piece
        rows = list(rows)
        print(flush=True)
    _print_row(header, header)
    for row in rows:
        _print_row(header, row)
    chosen = estimator.alpha == "auto" and estimator.validation_loss_.size > 0
    by = ", chosen on rows held out" if chosen else ""
    print(f"\nThe first penalty is alpha={estimator.alpha_:.3g}{by}.")
    print(estimator.stop_reason_)
    if estimator.objective_path_.size > 1:
        first, *_, last = estimator.objective_path_
        errors = ", ".join(
            f"{name} {metric} {error(known, estimator.predict(rows)):.4g}"
            for name, (rows, known) in shown.items()
        )
        print("The table shows the chain before its correction, which lowered the objective of all")
        print(f"grades from {first:.6g} to {last:.6g}: {errors}.")
    for index, certificate in enumerate(estimator.certificates_):
        print(f"Grade {index + 1}: {certificate.status.value}")
    print(textwrap.fill(_claim(estimator.certificates_), width=100), flush=True)


def _rows_of_grades(
    estimator: Any, X: Any, y: Any, shown: dict[str, tuple[Any, Any]], error: Callable[..., float]
) -> Iterable[list[str]]:
    """Fit a chain, and yield the cells of each grade as it comes."""
    told = 0
    for _ in estimator._fitting(X, y):
        if estimator.n_grades_ == told:  # and the chain has ended
            continue
        told, grade, c = estimator.n_grades_, estimator.grades_[-1], estimator.certificates_[-1]
        cells = [str(told), str(c.n_patterns), str(grade.n_neurons)]
        cells += [f"{c.primal:.6g}", f"{c.dual:.6g}", f"{c.relative_gap:.1e}"]
        cells += [f"{error(known, estimator.predict(rows)):.4g}" for rows, known in shown.values()]
        yield [*cells, f"{grade.seconds:.1f}"]


def _print_row(header: list[str], cells: list[str]) -> None:
    print("  ".join(c.rjust(len(name)) for name, c in zip(header, cells, strict=True)), flush=True)


def _claim(certificates: Sequence[Certificate]) -> str:
    """Say in one sentence what the certificates of a chain prove, and no more."""
    gap = max(0.0, *(certificate.relative_gap for certificate in certificates))
    if all(certificate.price_is_exact for certificate in certificates):
        rivals = "no network with one hidden layer, of any width,"
    else:
        rivals = "no network with a grade's activation patterns"
    return (
        f"Certified from data and weights alone, given the grades before: {rivals} has a training "
        f"objective lower than that grade's by more than {gap:.1e} of the loss before that grade."
    )


def prediction_errors(model: Any, written: Any, predicted: NDArray[Any]) -> Iterator[str]:
    """Yield how far predictions of a model are off the targets that a table has, as they are written."""
    known = model.targets(written)
    lost = written[written.notna() & known.isna() & ~written.isin(NO_NUMBER)]
    if len(lost):
        share = f"{len(lost)} of {written.notna().sum()} values of {model.target!r}"
        yield (
            f"warning: {share} cannot be read, as {lost.iloc[0]!r}: these rows do not count for the "
            f"error."
        )
    has = known.notna().to_numpy()
    y, guess = known[has].tolist(), predicted[has].tolist()
    if not y:
        return
    rows = f"of {counted(len(y), 'row')} with a known {model.target!r}"
    if model.classes:
        wrong = np.mean([one != other for one, other in zip(y, guess, strict=True)])
        yield f"error rate {wrong:.4g}, {rows}."
        return
    given = {"loss": "squared_error", "quantile": 0.5} | model.parameters
    name, metric = error_metric(MultigradeRegressor(loss=given["loss"], quantile=given["quantile"]))
    try:
        yield f"{name} {metric(y, guess):.4g}, {rows}."
    except ValueError as error:  # as of negative counts
        yield f"warning: no {name}, {rows}: {error}"


def held_out(estimator: Any) -> str:
    """Return the error of a fitted chain on the rows that its fit held out, as text."""
    said = in_units_of_y(estimator, float(estimator.validation_loss_[-1]))
    chosen = "alpha and depth" if estimator.alpha == "auto" else "the depth"
    return (
        f"On rows held out: {said}, by chains fitted to the other rows. As these rows chose {chosen}, "
        "this can be a little optimistic."
    )


def in_units_of_y(estimator: Any, loss: float) -> str:
    """Return a mean loss of a fitted estimator of one target as an error with its name, in units of y.

    Of Huber's loss and of classes, no error that has a name follows from it but the loss itself.
    """
    coding = estimator._coding
    unit, center = float(coding.scaling.scale[0]), float(coding.scaling.center[0])
    name, _ = error_metric(estimator)
    match coding.loss.name:
        case "squared_error":
            return f"{name} {unit * np.sqrt(2.0 * loss):.4g}"
        case "absolute_error":
            return f"{name} {unit * loss:.4g} (with its kink smoothed)"
        case "quantile":
            return f"{name} {0.5 * unit * loss:.4g} (with its kink smoothed)"
        case "poisson":
            return f"{name} {2.0 * np.exp(center) * loss:.4g}"
        case "huber":
            linear = f"{unit * coding.loss.width:.4g}"
            return f"Huber's loss {unit * loss:.4g} (linear from {linear} on, and divided by that)"
    said = f"{coding.loss.name.removesuffix('_loss').replace('_', ' ')} loss {loss:.4g}"
    if estimator.class_weight is not None:
        return f"{said} (rows weighted by class)"
    if coding.loss.name == "log_loss":
        said += f" (right classes have probability {np.exp(-loss):.3g} in the geometric mean)"
    return said
