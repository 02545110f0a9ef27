"""Newton systems of outputs that a log loss couples, by way of one system for each of them.

There the Hessian of a row is H = D - D 1 1^T D / 1^T D 1, with D diagonal: weight times probabilities.
With K = diag(K_k), whose columns lead to one output each, and B_k = I + K_k^T D_k K_k,

    (I + K^T H K)^-1 = B^-1 + B^-1 K^T D 1 T^-1 1^T D K B^-1,      T = sum_k E_k,
    E_k = D_k - D_k K_k B_k^-1 K_k^T D_k = S_k (I + S_k K_k K_k^T S_k)^-1 S_k,         S_k^2 = D_k,

by Woodbury's identity for B - K^T D 1 (1^T D 1)^-1 1^T D K, since 1^T D 1 = sum_k D_k. So k outputs take
k systems over the columns of one, or over the rows, and one more over the rows (Williams & Barber 1998;
Rasmussen & Williams 2006, algorithm 3.3), instead of one over all columns.

Of many rows, a sample does: the inverse over the sample preconditions conjugate gradients. Its size
follows from what they took the last time.

T is what the columns of all outputs leave unexplained: under next to no penalty, that is less than
rounding. So systems of few columns are formed and solved as they are, and so are those of which
conjugate gradients make nothing. (Interior points, which give unpenalised columns next to none, form
all of theirs: see `_kkt`.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from convexgrade.losses import Hessian
from convexgrade.pieces import MAX_FLOATS
from convexgrade.solvers._columns import Columns
from convexgrade.solvers._gradients import minimised
from convexgrade.solvers._symmetric import factored, solved_by_factor

Array = NDArray[np.float64]

# Costs are times, in units of one operation of those that form a system.
_DIRECT = 3e8  # cost up to which a system is formed and solved as it is
_FIRST = 256  # rows of the first sample
_HALVED = 1.6  # how many times as many iterations a sample of half as many rows takes, measured
_SAMPLED = 20  # iterations from which those of half a sample are reckoned, at least, measured
_LIMIT = 200  # iterations after which the next sample is tried at once
_A_PRODUCT = 5  # cost of one number of a row in products with K and K^T
_A_MASK = 200  # cost of masking one number of a row in products with K and K^T
_A_ROOT = 40  # cost of one number of the roots of faces, which all products of an iteration read
_A_SOLVE = 30  # cost of one number of the inverse over a sample, when it is used


class _ByColumns(NamedTuple):
    """B_k^-1 and D_k K_k B_k^-1, by a factor of B_k."""

    factor: Array
    weighted: Array  # D_k K_k

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.weighted.shape[1]

    def begin(self, r: Array) -> tuple[Array, Array]:
        """Return B_k^-1 r, and D_k K_k B_k^-1 r."""
        own = solved_by_factor(self.factor, r)
        return own, self.weighted @ own

    def end(self, own: Array, shared: Array) -> Array:
        """Return B_k^-1 (r + K_k^T D_k shared), given B_k^-1 r."""
        return own + solved_by_factor(self.factor, self.weighted.T @ shared)


class _ByRows(NamedTuple):
    """The same where there are fewer rows than columns, as B_k^-1 = I - K_k^T E_k K_k."""

    E: Array
    K: Array

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.K.shape[1]

    def begin(self, r: Array) -> tuple[Array, Array]:
        """Return B_k^-1 r, and D_k K_k B_k^-1 r = E_k K_k r."""
        along = self.E @ (self.K @ r)
        return r - self.K.T @ along, along

    def end(self, own: Array, shared: Array) -> Array:
        """Return B_k^-1 (r + K_k^T D_k shared), given B_k^-1 r."""
        return own + self.K.T @ (self.E @ shared)


class CoupledInverse(NamedTuple):
    """(I + K^T H K)^-1."""

    own: tuple[_ByColumns | _ByRows, ...]
    total: Array  # factor of T

    @classmethod
    def of(cls, blocks: Iterable[Array], D: Array) -> CoupledInverse:
        """Factor all systems, given the K_k of each output."""
        n = len(D)
        total = np.zeros((n, n))
        own: list[_ByColumns | _ByRows] = []
        for S, block in zip(np.sqrt(D).T, blocks, strict=True):
            scaled = S[:, None] * block
            if block.shape[1] > n:
                half = _half(_factor(scaled @ scaled.T), np.diag(S))
                E = half.T @ half
                total += E
                own.append(_ByRows(E, block))
            else:
                factor = _factor(scaled.T @ scaled)
                half = _half(factor, scaled.T * S)
                np.einsum("ii->i", total)[...] += S**2
                total -= half.T @ half
                own.append(_ByColumns(factor, S[:, None] * scaled))
        return cls(tuple(own), factored(total))

    def solve(self, r: Array) -> Array:
        """Return (I + K^T H K)^-1 r."""
        pieces = np.split(r, np.cumsum([own.size for own in self.own])[:-1])
        begun = [own.begin(piece) for own, piece in zip(self.own, pieces, strict=True)]
        along = np.sum([one for _, one in begun], axis=0)
        shared = solved_by_factor(self.total, along)
        ended = (own.end(z, shared) for own, (z, _) in zip(self.own, begun, strict=True))
        return np.concatenate(list(ended))


def _factor(gram: Array) -> Array:
    """Return the factor of I + gram, which is written over."""
    np.einsum("ii->i", gram)[...] += 1.0
    return factored(gram)


def _half(factor: Array, right: Array) -> Array:
    """Return L^-1 right."""
    return np.asarray(solve_triangular(factor, right, lower=True, check_finite=False))


def solved(K: Columns, H: Hessian, right: Array, n_rows: int) -> tuple[Array, int]:
    """Return (I + K K^T H)^-1 right, nearly, and how many rows to sample the next time.

    Where conjugate gradients come to an end without success, and the system is too large, what there is
    serves: it is a direction of descent.

    Parameters
    ----------
    K : Columns
        Columns of all outputs.
    H : Hessian
        Hessian that couples outputs.
    right : ndarray of shape (n_samples, n_outputs)
        Right side.
    n_rows : int
        Size of the sample; 0 before the first.
    """
    if K.number == 0:
        return right.copy(), n_rows
    n, columns = len(right), float(K.number)
    if n * columns**2 + columns**3 / 3.0 <= _DIRECT:
        return K.solved(K.formed(H), H, right), n_rows
    K = K.alone()
    most = min(n, _largest_sample(K))
    y, n_rows = np.zeros(K.number), min(most, n_rows or _FIRST)
    while True:
        inverse = _over_sample(K, H.D, n_rows)
        found = minimised(K, H, right, y, inverse.solve, _LIMIT)
        y, larger = found.y, min(most, 2 * n_rows)
        if found.close:
            return right - K.forward(y), _next_size(K, n, n_rows, larger, found.taken)
        if larger == n_rows:
            if columns**2 <= MAX_FLOATS:
                return K.solved(K.formed(H), H, right), n_rows
            return right - K.forward(y), n_rows
        n_rows = larger


def _over_sample(K: Columns, D: Array, n_rows: int) -> CoupledInverse:
    """Return the inverse over a sample of so many rows, weighted to stand for all."""
    if n_rows < len(D):
        K, rows = K.sampled(n_rows)
        D = D[rows] * (len(D) / n_rows)
    return CoupledInverse.of(K.written_out().blocks, D)


def _largest_sample(K: Columns) -> int:
    """Return the size of the largest sample whose inverse has no more than `MAX_FLOATS`."""
    k, half = len(K.outputs), 0.5 * K.number
    return max(1, int(MAX_FLOATS / (half + np.sqrt(half**2 + k * MAX_FLOATS))))


def _next_size(K: Columns, n: int, n_rows: int, larger: int, taken: int) -> int:
    """Return the size, of this one, half of it and a larger one, that promises to cost least."""

    def cost(size: int, iterations: float) -> float:
        return _forming(K, size) + iterations * _an_iteration(K, n, size)

    expected = {
        max(1, n_rows // 2): max(taken, _SAMPLED) * _HALVED,
        larger: 1.0 if larger == n else taken / _HALVED,
        n_rows: taken,
    }
    return min(expected, key=lambda size: cost(size, expected[size]))


def _forming(K: Columns, n_rows: int) -> float:
    """Return about how many operations it takes to form the inverse over a sample."""
    sizes = np.array(K.sizes, dtype=float)
    over = np.minimum(sizes, n_rows)
    writing = n_rows * K.number * K.operator.X.shape[1]
    return float(writing + 2.0 * np.sum(n_rows * sizes * over + n_rows**2 * over) + n_rows**3 / 3.0)


def _an_iteration(K: Columns, n: int, n_rows: int) -> float:
    """Return how many such operations take as long as an iteration."""
    roots = _A_ROOT * K.floats_a_row * K.operator.X.shape[1]
    sizes = np.array(K.sizes, dtype=float)
    inverse = _A_SOLVE * 2.0 * np.sum(n_rows * sizes + np.minimum(sizes, n_rows) ** 2)
    channels = K.operator.masks.shape[1]
    return float(n * (_A_PRODUCT * K.floats_a_row + _A_MASK * channels) + roots + inverse)
