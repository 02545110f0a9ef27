"""Nested cells of a box, and tables of what is averaged over them.

A box is cut into ``base`` parts a coordinate, each part again, and so on: layer l has cells of side
``base**-l``. The table of a layer holds, for each cell with rows, what its average adds to that of its
parent; the readout of a layer is the sum of the terms so far (Zhang, Shen and Xu, "Geometric
Layer-wise Approximation Rates for Deep Networks", arXiv 2604.20219, without its network; see
`geometric_network` for that, and `moduli` for how
close readouts come).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convexgrade.wording import counted

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

# Coordinates are taken in units of 2**-53 of the box: their digits in any base are then exact, and
# ``base * 2**53`` has to fit into 64 bits. Layers of finer cells repeat the one before.
_FRACTION_BITS = 53
MAX_BASE = 1000

# Digits of several coordinates make one key as long as there are at most so many of them: with fewer
# than 2**31 cells, ``cell * size + digits`` fits into 64 bits.
_MAX_KEY_SIZE = 2**31


@dataclass(frozen=True)
class Box:
    """A box with sides parallel to the axes.

    Attributes
    ----------
    low, high : ndarray of shape (n_features,)
        Its corners. A side of length 0 counts as one cell wide.
    """

    low: Array
    high: Array

    @classmethod
    def around(cls, X: Array) -> Box:
        """Return the smallest box around the rows of X."""
        return cls(X.min(axis=0), X.max(axis=0))

    @property
    def n_features(self) -> int:
        """Number of coordinates."""
        return self.low.size

    @property
    def width(self) -> Array:
        """Lengths of its sides."""
        return self.high - self.low

    def unit(self, X: Array) -> Array:
        """Return rows in coordinates that run from 0 to 1 along each side, clipped to that."""
        half = 0.5 * self.high - 0.5 * self.low  # halves: the difference could overflow
        inside = np.clip(X, self.low, self.high)
        return np.clip((0.5 * inside - 0.5 * self.low) / np.where(half > 0.0, half, 1.0), 0.0, 1.0)

    def points(self, unit: Array) -> Array:
        """Return the points at given unit coordinates."""
        return self.low + unit * self.width


def digits(unit: Array, base: int, n_layers: int) -> Iterator[Codes]:
    """Yield the base-``base`` digits of coordinates in [0, 1], first layer first.

    Digits of a layer do not depend on how many layers follow.
    """
    one = 2**_FRACTION_BITS
    remainder = np.minimum(np.floor(unit * one), one - 1).astype(np.int64)
    for _ in range(n_layers):
        scaled = base * remainder
        yield scaled >> _FRACTION_BITS
        remainder = scaled & (one - 1)


def cell_centers(n_features: int, base: int, layer: int) -> Array:
    """Return the centres of all cells of a layer in unit coordinates.

    Cell ``k`` has, as digits of ``k`` in base ``base**n_features``, the joint digits of its layers;
    a joint digit is ``sum_i base**i * digit_i``. So the parent of ``k`` is ``k // base**n_features``.
    """
    code = np.arange(base ** (n_features * layer), dtype=np.int64)
    center = np.full((code.size, n_features), 0.5)
    for _ in range(layer):  # the last layer's digits first
        for i in range(n_features):
            center[:, i] = (center[:, i] + code % base) / base
            code //= base
    return center


def cell_codes(cell_digits: Codes, base: int, parents: Codes) -> Codes:
    """Return the numbers of cells, as in `cell_centers`, from those of their parents."""
    n_features = cell_digits.shape[1]
    return parents * base**n_features + cell_digits @ base ** np.arange(n_features)


@dataclass(frozen=True, repr=False)
class Layer:
    """The table of one layer: only cells with rows are stored.

    Attributes
    ----------
    keys : tuple of ndarray
        Sorted keys. A cell is found from its parent group of coordinates by group of coordinates,
        as a path through a tree; its place among the last keys is its number.
    terms : ndarray of shape (n_cells, n_outputs)
        Average of each cell less that of its parent.
    weight : ndarray of shape (n_cells,)
        Total weight of the rows in each cell.
    """

    keys: tuple[Codes, ...]
    terms: Array
    weight: Array

    def __repr__(self) -> str:
        return f"Layer({counted(self.n_cells, 'cell')}, {counted(self.terms.shape[1], 'output')})"

    @property
    def n_cells(self) -> int:
        """Number of cells with rows."""
        return self.weight.size

    def find(
        self, parents: Codes, cell_digits: Codes, base: int
    ) -> tuple[Codes, NDArray[np.bool_]]:
        """Return numbers of cells, and whether they are in the table."""
        cells = parents
        found = np.ones(len(parents), dtype=np.bool_)
        for (code, size), keys in zip(_key_parts(cell_digits, base), self.keys, strict=True):
            wanted = cells * size + code
            cells = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
            found &= keys[cells] == wanted
        return cells, found


@dataclass(frozen=True, repr=False)
class Tables:
    """Tables of all layers.

    Attributes
    ----------
    base : int
        Parts a coordinate is cut into by each layer.
    baseline : ndarray of shape (n_outputs,)
        Average over all rows: layer 0, whose one cell is the box.
    layers : tuple of Layer
        One table a layer.
    """

    base: int
    baseline: Array
    layers: tuple[Layer, ...]

    def __repr__(self) -> str:
        shape = f"{counted(self.baseline.size, 'output')}, {counted(len(self.layers), 'layer')}"
        last = counted(self.layers[-1].n_cells, "cell")
        return f"Tables(base={self.base}, {shape}, {last} in the last)"

    @classmethod
    def build(cls, unit: Array, y: Array, weights: Array, base: int, n_layers: int) -> Tables:
        """Average y, shape (n_samples, n_outputs), over nested cells.

        Time and memory grow with the rows and layers, never with the number of cells there could be.
        """
        largest = weights.max()  # of which products with y may be none that have digits
        shares = weights / largest
        baseline = shares @ y / shares.sum()
        value = np.broadcast_to(baseline, y.shape)
        cells = np.zeros(len(y), dtype=np.int64)
        layers = []
        for cell_digits in digits(unit, base, n_layers):
            keys, cells = _number(cells, cell_digits, base)
            share = np.bincount(cells, shares).astype(np.float64)
            left = shares[:, None] * (y - value)
            terms = np.column_stack([np.bincount(cells, column) for column in left.T])
            layers.append(Layer(keys, terms / share[:, None], largest * share))
            value = value + layers[-1].terms[cells]
        return cls(base, baseline, tuple(layers))

    def staged(self, unit: Array) -> Iterator[tuple[Array, Codes]]:
        """Yield the readout of each layer, and the layer whose cell it really comes from.

        Where a cell has no rows, or would be finer than coordinates are, its parent's value stays and
        with it the parent's layer.
        """
        value = np.tile(self.baseline, (len(unit), 1))
        level = np.zeros(len(unit), dtype=np.int64)
        alive = np.arange(len(unit))
        cells = np.zeros(len(unit), dtype=np.int64)
        every = digits(unit, self.base, len(self.layers))
        for index, (layer, cell_digits) in enumerate(zip(self.layers, every, strict=True), start=1):
            cells, found = layer.find(cells, cell_digits[alive], self.base)
            alive, cells = alive[found], cells[found]
            value[alive] += layer.terms[cells]
            level[alive] += self.base**index <= 2**_FRACTION_BITS
            yield value.copy(), level.copy()


def _number(parents: Codes, cell_digits: Codes, base: int) -> tuple[tuple[Codes, ...], Codes]:
    """Return the sorted keys of all cells with rows, and the number of each row's cell."""
    cells, keys = parents, []
    for code, size in _key_parts(cell_digits, base):
        distinct, cells = np.unique(cells * size + code, return_inverse=True)
        keys.append(distinct)
    return tuple(keys), cells


def _key_parts(cell_digits: Codes, base: int) -> Iterator[tuple[Codes, int]]:
    """Yield the joint digit of one group of coordinates after another, and how many there are."""
    group = 1
    while base ** (group + 1) <= _MAX_KEY_SIZE:
        group += 1
    for start in range(0, cell_digits.shape[1], group):
        part = cell_digits[:, start : start + group]
        yield part @ base ** np.arange(part.shape[1]), base ** part.shape[1]


def as_box(domain: tuple[ArrayLike, ArrayLike], n_features: int) -> Box:
    """Return a box from its corners, numbers or one value a coordinate.

    Raises
    ------
    ValueError
        If they are not finite, do not fit, the upper one is not above the lower one in every coordinate,
        or a side is too long for a number.
    """
    try:
        low, high = domain
        corners = [
            np.broadcast_to(np.asarray(corner, dtype=np.float64), (n_features,)).copy()
            for corner in (low, high)
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"domain={domain!r} must be a pair (low, high) of numbers or of arrays with one value "
            f"for each of the {n_features} features."
        ) from error
    # One pair (low, high) a column reads, of two equal columns, as two equal corners.
    if not (np.isfinite(corners).all() and np.all(corners[0] < corners[1])):
        raise ValueError(
            f"domain={domain!r} must have finite corners with low < high in each of the {n_features} "
            f"features; it is (low, high), each of them a number or one number a feature, and not a "
            f"pair for each feature."
        )
    box = Box(*corners)
    with np.errstate(over="ignore"):
        if not np.isfinite(box.width).all():
            raise ValueError(f"domain={domain!r} must have sides whose lengths are finite.")
    return box
