"""How a chain reads the columns of its input: heavy tails drawn in, and distances from the middle.

A column whose few largest values are tens of standard deviations away leaves the others next to nothing
of its scale, and a penalty of weights makes that dear. Robust estimates of the scale mend it, but what
is far away then is farther still, and neurons grow with it; hence the logarithm. A column with a tail on
one side alone, as counts, prices and areas have it, is read so from its other end on, as it is ratios
that such columns tell; one with two tails, beyond where most rows lie.

What sets a row apart can be that a column is far from its mean, on whichever side. The distance |x - c|
is (x - c)_+ + (c - x)_+, two neurons along one axis, and where many columns matter so, a penalty of
weights makes those dear. As columns of the input, distances cost no more than other columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.wording import counted

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_STRAIGHT = 2.0  # deviations around the mean within which a column with two tails is read as it is
_HEAVY = 6.0  # those a value must be away for a tail to be heavy: one in 10^8 normal values is
_SHORT = 3.0  # and within which a side has no tail at all
_QUARTER = 0.25
_FAR = 20.0  # distances of the quartiles from one another at which the first fence stands
_PASSES = 10  # means and standard deviations of what the last fence has left
_CONSTANT = 1e-14  # spread, relative to the largest value, that rounding alone can make
_LARGEST = 1e150  # value of a column whose distances are read
_FEW = 2  # values of a column whose distances are no news


@dataclass(frozen=True, repr=False)
class Tails:
    """How the input columns are read: as they are within an interval, logarithmically beyond.

    At the distance t from its interval, a value reads as if at ``c log(1 + t / c)``: continuous, with a
    continuous slope, and strictly increasing.

    Attributes
    ----------
    low, high : ndarray of shape (n_features,)
        The intervals; infinite on a side without a heavy tail.
    unit : ndarray of shape (n_features,)
        The distances c from which on logarithms grow slowly.
    """

    low: Array
    high: Array
    unit: Array

    def __repr__(self) -> str:
        return f"Tails({counted(self.heavy.size, 'column')} drawn in)"

    @property
    def draws_in(self) -> bool:
        """Whether any column has a tail that is drawn in."""
        return self.heavy.size > 0

    def apply(self, X: Array) -> Array:
        """Return X (n_samples, n_features) with tails drawn in; X itself if no column has them."""
        heavy = self.heavy
        if heavy.size == 0:
            return X
        unit = self.unit[heavy]
        near = np.clip(X[:, heavy], self.low[heavy], self.high[heavy])
        beyond = (X[:, heavy] - near) / unit
        drawn_in = X.copy()
        drawn_in[:, heavy] = near + unit * np.copysign(np.log1p(np.abs(beyond)), beyond)
        return drawn_in

    @property
    def heavy(self) -> Index:
        """The columns that are drawn in."""
        return np.flatnonzero(np.isfinite(self.low) | np.isfinite(self.high))


AS_THEY_ARE = Tails(np.array(-np.inf), np.array(np.inf), np.array(1.0))


def heavy_tails(X: Array, weights: Array) -> Tails:
    """Find the columns of X (n_samples, n_features) with heavy tails, and where these begin.

    Mean and standard deviation are those of the column clipped to a fence of two standard deviations,
    again and again, as heavy tails draw the first fences far out; the very first rules out what may be
    placeholders, as -999 is for a length. A column without a value six such deviations away is left
    alone, which columns of normal or uniform values are; so is one of two values alone, an indicator
    that is rare. A column that ends within three deviations on its other side has one tail, which
    begins at that end.
    """
    _, exponent = np.frexp(np.abs(X).max(axis=0))
    X = np.ldexp(X, -exponent)  # no digit changes, and the squares of very large values are numbers
    least, most = X.min(axis=0), X.max(axis=0)
    low, high = _first_fence(X, weights)
    largest = np.maximum(np.abs(np.maximum(least, low)), np.abs(np.minimum(most, high)))
    for _ in range(_PASSES):
        kept = np.clip(X, low, high)
        center = weights @ kept / weights.sum()
        spread = np.sqrt(weights @ (kept - center) ** 2 / weights.sum())
        low = np.maximum(low, center - _STRAIGHT * spread)
        high = np.minimum(high, center + _STRAIGHT * spread)
    below, above = center - least, most - center
    far = np.maximum(below, above) > _HEAVY * spread
    varies = spread > _CONSTANT * largest
    heavy = far & varies & ((least < X) & (most > X)).any(axis=0)
    rising, falling = below <= _SHORT * spread, above <= _SHORT * spread
    low = np.where(rising, -np.inf, np.where(falling, most, low))
    high = np.where(falling, np.inf, np.where(rising, least, high))
    return Tails(
        low=np.where(heavy, np.ldexp(low, exponent), -np.inf),
        high=np.where(heavy, np.ldexp(high, exponent), np.inf),
        unit=np.where(heavy, np.ldexp(spread, exponent), 1.0),
    )


def _first_fence(X: Array, weights: Array) -> tuple[Array, Array]:
    """Return lower and upper ends beyond which no value of a column tells of its scale.

    A scale that takes part in values very far away would need many passes to forget them. Where the
    quartiles of a column are one value, nothing is ruled out.
    """
    order = np.argsort(X, axis=0)
    shares = np.cumsum(weights[order], axis=0) / weights.sum()
    ordered = np.take_along_axis(X, order, axis=0)
    # The first value up to which a quarter of the weight is, and the last from which on.
    at = (shares < _QUARTER).sum(axis=0), (shares <= 1.0 - _QUARTER).sum(axis=0)
    lower, upper = (np.take_along_axis(ordered, rank[None], axis=0)[0] for rank in at)
    far = np.where(upper > lower, _FAR * (upper - lower), np.inf)
    return lower - far, upper + far


@dataclass(frozen=True, repr=False)
class Distances:
    """Columns whose distances from their centers are read as well, after all columns.

    Attributes
    ----------
    column : ndarray of int, shape (n_columns,)
        Which columns.
    center : ndarray of shape (n_columns,)
        Their centers.
    """

    column: Index
    center: Array

    def __repr__(self) -> str:
        return f"Distances({counted(self.column.size, 'column')})"

    def beside(self, X: Array) -> Array:
        """Return X (n_samples, n_features) and behind its columns the distances."""
        if self.column.size == 0:
            return X
        return np.hstack([X, np.abs(X[:, self.column] - self.center)])


NONE = Distances(np.empty(0, dtype=np.intp), np.empty(0))


@dataclass(frozen=True)
class Reading:
    """How the input columns are read: tails are drawn in, then distances added.

    Attributes
    ----------
    tails : Tails
        Which columns are read on a logarithmic scale, and from where on.
    distances : Distances
        Which columns' distances from their means are read beside them.
    """

    tails: Tails = AS_THEY_ARE
    distances: Distances = NONE

    @property
    def changes(self) -> bool:
        """Whether anything is read other than it is."""
        return self.tails.draws_in or self.reads_distances

    @property
    def reads_distances(self) -> bool:
        """Whether any distance is read."""
        return self.distances.column.size > 0

    def apply(self, X: Array) -> Array:
        """Return what the first grade reads of X (n_samples, n_features), before it is scaled."""
        return self.distances.beside(self.tails.apply(X))

    def width(self, n_inputs: int) -> int:
        """Return the number of columns that the first grade reads."""
        return n_inputs + self.distances.column.size

    def with_distances(self, X: Array, weights: Array) -> Reading:
        """Return the reading with distances of columns of X (n_samples, n_features) from their means.

        A column of two values, whose distance is another name for it, has none.
        """
        read = self.tails.apply(X)
        of_size = np.flatnonzero(np.abs(read).max(axis=0) <= _LARGEST)
        column = np.array([j for j in of_size if np.unique(read[:, j]).size > _FEW], dtype=np.intp)
        center = weights @ read[:, column] / weights.sum()
        return replace(self, distances=Distances(column, center))


AS_IT_IS = Reading()
