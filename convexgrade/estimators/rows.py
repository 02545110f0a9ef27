"""Rows as users give them: with weights, as copies of one another, one by one or told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

Array = NDArray[np.float64]

_LEAST = 1e-292  # largest weight below which all are rescaled; smaller shares of the largest are 0
_HUGE = {"X": (4e307, "differences"), "y": (1e300, "sums")}  # size of which these may be no numbers
_COPIED = 1.5  # rows for each distinct one from which on they were copied: bootstraps have 1.58
_RECURRING = 4.0  # samples for each distinct row of a table of few values, at least
_FEW = 30  # distinct rows of a table of few values whose numbers may have a common divisor
_SINGLE = 1e7  # numbers up to which a weight is so many copies of a row, where some are drawn
_DIGITS = 2.0**40  # what twelve decimal digits can tell apart
_ROUNDING = 1e-15  # relative difference of two ratios of weights that is none
_WHOLE = 1e-3  # how far from whole numbers rounding takes weights in their common unit


@dataclass(frozen=True)
class Rows:
    """Rows with uncoded targets: how many there are of each, and what each of them counts.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    copies : ndarray of shape (n_samples,)
        Weights of the samples: of 2, a row is there twice.
    share : ndarray of shape (n_samples,)
        Weights of their classes, which make no row more than one.
    groups : ndarray of shape (n_samples,), optional
        Groups, where these are told.
    """

    X: Array
    y: NDArray[Any]
    copies: Array
    share: Array
    groups: NDArray[Any] | None = None

    @property
    def weights(self) -> Array:
        """Weights in the loss."""
        return self.copies * self.share

    def take(self, which: NDArray[Any]) -> Rows:
        """Return some of the rows, by index or mask."""
        groups = None if self.groups is None else self.groups[which]
        return Rows(self.X[which], self.y[which], self.copies[which], self.share[which], groups)

    @cached_property
    def distinct(self) -> Rows:
        """The distinct rows of positive weight, sorted, with the weight of all their copies.

        A row of weight 0 must not shape patterns or scalings, and a row twice is a row of weight 2. The
        order of the rows then does not matter either: the search visits the same points whatever it was.
        Nor does the unit of the weights, which are relative to the largest: those that have a unit in
        common not by a digit.
        """
        rows = self._counted
        first, copy_of = rows._copies
        copies = np.bincount(copy_of, rows.copies).astype(np.float64)
        copies /= copies.max()
        numbers = _numbers(copies)
        exact = numbers / numbers.max()
        same = np.allclose(exact, copies, rtol=_ROUNDING, atol=0.0)
        return replace(rows.take(first), copies=exact if same else copies)

    @cached_property
    def drawn(self) -> Rows:
        """The rows of positive weight as they are drawn, to be held out or not; in their own order.

        A row of weight 2 is the row twice, drawn one by one, as long as weights are multiples of a unit
        and copies take little memory: where some rows recur, some of those to come do, too. So many of
        them are no chance, but rows that were copied or weighed. These go together, as one row of their
        weight: copies on either side would let a chain judge itself by what it knows by heart. Not where
        equal X have different targets: how many copies these have is what is to be learnt. Nor in a
        table of few values, where nearly every row to come is one of those known.
        """
        samples = self._counted
        _, copy_of = samples._copies
        if _recur(np.bincount(copy_of)):
            return samples.take(np.lexsort((samples.copies, copy_of)))
        rows = self.distinct
        numbers = _numbers(rows.copies)
        _, place, targets = np.unique(rows.X, axis=0, return_inverse=True, return_counts=True)
        apart = targets[place.ravel()] > 1
        copied = numbers.sum() >= _COPIED * len(numbers)
        times = np.where(apart | ~copied, numbers, 1.0)
        if times.sum() * rows.X.shape[1] > _SINGLE or np.any(times % 1.0):
            return rows
        index = np.repeat(np.arange(len(rows.X)), times.astype(np.intp))
        return replace(rows, copies=rows.copies / times).take(index)

    @cached_property
    def _counted(self) -> Rows:
        """The rows of positive weight."""
        positive = self.weights > 0.0
        return self if positive.all() else self.take(positive)

    @cached_property
    def _copies(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The index of the first of each distinct row, sorted, and which of these each row is."""
        # By lines only where there are columns: numpy cannot sort lines of objects, as labels may be.
        lines = 0 if self.y.ndim > 1 else None
        _, code = np.unique(self.y, axis=lines, return_inverse=True)
        table = np.column_stack([self.X, code])
        _, first, copy_of = np.unique(table, axis=0, return_index=True, return_inverse=True)
        return first, copy_of


@contextmanager
def refused_whole(
    estimator: object, stays: Callable[[BaseException], bool] = lambda error: False
) -> Iterator[None]:
    """Put an estimator's attributes back where its input is refused, half of which may be noted.

    Unless something of use has come before the error: then it ``stays``.
    """
    before = vars(estimator).copy()
    try:
        yield
    except BaseException as error:
        if not stays(error):
            vars(estimator).clear()
            vars(estimator).update(before)
        raise


@contextmanager
def checking() -> Iterator[None]:
    """Let scikit-learn check input: quietly where it sums X, and with a hint for columns of texts."""
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # sums tell whether values are infinite
            yield
    except ValueError as error:
        if "could not convert string" in str(error):
            error.add_note(
                "Columns of texts must be encoded, say by OneHotEncoder in a ColumnTransformer; "
                "texts as targets are for classifiers."
            )
        raise


def refuse_huge(name: str, values: Array) -> None:
    """Raise an error if values of X or y are so large that what is made of them may be no numbers."""
    largest, (most, made) = float(np.abs(values).max(initial=0.0)), _HUGE[name]
    if largest > most:
        raise ValueError(
            f"{name} has values of up to {largest:.3g}, whose {made} are no numbers; they need "
            f"another unit."
        )


def validated(
    estimator: BaseEstimator, X: ArrayLike, y: ArrayLike, *, reset: bool = True
) -> tuple[Array, Array]:
    """Return rows and real targets as arrays, checked as scikit-learn does, of sizes that sums bear."""
    if issparse(y):
        raise TypeError("Sparse data was passed for y, but dense data is required: y.toarray().")
    with checking():
        rows, targets = validate_data(
            estimator, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=reset
        )
    targets = np.asarray(targets, dtype=np.float64)  # words would fail in what follows
    refuse_huge("y", targets)
    return rows, targets


def validated_rows(estimator: BaseEstimator, X: ArrayLike) -> Array:
    """Return rows for a fitted estimator as an array, checked as scikit-learn does."""
    check_is_fitted(estimator)
    with checking():
        return np.asarray(validate_data(estimator, X, dtype=np.float64, reset=False))


def checked_weights(sample_weight: ArrayLike | None, X: Array) -> Array:
    """Return the weights of the rows of X, none of them negative and at least one positive."""
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if not (weights > 0.0).any():
        raise ValueError("sample_weight is zero for every row; at least one must be positive.")
    with np.errstate(over="ignore"):
        total = weights.sum()
    # Only their ratios count, and of numbers as large or small as these nobody means counts.
    usual = np.isfinite(total) and weights.max() >= _LEAST
    weights = weights if usual else weights / weights.max()
    return np.where(weights >= _LEAST * weights.max(), weights, 0.0)


def in_twelve_digits(values: ArrayLike) -> Array:
    """Return what few sums of weights come to without the last digits, which depend on their unit."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.round(mantissa * _DIGITS) / _DIGITS, exponent))


def effective_number(weights: Array) -> float:
    """Return of how many rows positive weights speak: Kish's effective number, whatever their unit.

    With it the variance of a weighted mean falls.
    """
    shares = weights / weights.max()  # squares of very small weights would be 0
    return float(in_twelve_digits(shares.sum() ** 2 / (shares**2).sum()))


def _recur(counts: NDArray[np.intp]) -> bool:
    """Return whether samples are those of a table of few values, given how many there are of each row.

    Of a table that was copied as a whole, the numbers have a common divisor.
    """
    uneven = np.gcd.reduce(counts) == 1
    return bool(counts.sum() >= _RECURRING * counts.size and (uneven or counts.size <= _FEW))


def _numbers(copies: Array) -> Array:
    """Return weights in their largest common unit, in which 10 for all are 1; if none, as they are.

    They are relative to the largest. Euclid's algorithm, with the remainder nearest to zero; of less
    than a share of the largest weight it is rounding.
    """
    unit = 0.0
    for share in np.unique(copies):
        rest = float(share)
        while rest > 1.0 / _SINGLE:
            unit, rest = rest, abs(unit - round(unit / rest) * rest)
    numbers = copies / unit
    whole = np.round(numbers)
    return whole if np.all((whole > 0.0) & (np.abs(numbers - whole) <= _WHOLE)) else copies
