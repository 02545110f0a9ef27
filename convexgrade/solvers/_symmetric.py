"""Symmetric matrices: triangles in half the memory, and factors with the least ridge that works.

A *triangle* is a vector, the lower triangle of a matrix in rectangular full packed format (Gustavson,
Wasniewski, Dongarra & Langou 2010): three blocks, each of which BLAS takes as it is. It holds half as
many numbers as a square, and products and factors take no longer. It may be in single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, get_blas_funcs, get_lapack_funcs
from scipy.linalg.lapack import dposv, dpotrf

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]  # in double or single precision
Index = NDArray[np.intp]

_RIDGES = (0.0, 1e-16, 1e-15, 1e-14, 1e-12, 1e-10, 1e-8)  # tried in turn, relative to the diagonal


def squared(panel: Floats, sign: float = 1.0, total: Floats | None = None) -> Floats:
    """Return the triangle of sign * panel panel^T, added to a total that is written over."""
    n, width = panel.shape
    if total is None:
        total = np.zeros(n * (n + 1) // 2, dtype=panel.dtype)
    if width == 0:
        return total
    add = _routine("sfrk", panel)
    return np.asarray(
        add(n, width, sign, panel.T, 1.0, total, trans="T", uplo="L", overwrite_c=True)
    )


def triangle(matrix: Floats) -> Floats:
    """Return the triangle of a symmetric matrix."""
    return np.asarray(_routine("trttf", matrix)(matrix.T, uplo="L")[0])


def square(entries: Floats) -> Floats:
    """Return the symmetric matrix that a triangle stands for."""
    lower = np.tril(_routine("tfttr", entries)(_side(entries), entries, uplo="L")[0])
    return np.asarray(lower + np.tril(lower, -1).T)


def diagonal(entries: Floats) -> Index:
    """Return where in a triangle its diagonal stands.

    The first half of the columns are kept as they are, below one another in a rectangle, of which the
    corner above takes the other half, transposed.
    """
    n = _side(entries)
    first, odd = (n + 1) // 2, n % 2
    length = n + 1 - odd  # of the rectangle's columns
    j = np.arange(n)
    left, right = j[:first], j[first:] - first
    return np.concatenate([(1 - odd + left) + left * length, right + (right + odd) * length])


def _side(entries: Floats) -> int:
    return (isqrt(8 * entries.size + 1) - 1) // 2


def _routine(name: str, array: Floats) -> Any:
    """Return the routine of LAPACK for an array's precision."""
    return get_lapack_funcs(name, (array,))


@dataclass(frozen=True)
class Factor:
    """The Cholesky factor of a matrix that was given as a triangle, in the blocks [L, 0; M, U^T].

    LAPACK solves by a triangle in rectangular full packed format as well, but one right side takes it
    four times as long as these blocks do.

    Attributes
    ----------
    lower : ndarray of shape (k, k)
        L, which the lower triangle holds.
    between : ndarray of shape (n - k, k)
        M.
    upper : ndarray of shape (n - k, n - k)
        U, which the upper triangle holds.
    """

    lower: Floats
    between: Floats
    upper: Floats

    @classmethod
    def unpacked(cls, entries: Floats) -> Factor:
        """Return the blocks of a triangle, copied."""
        n = _side(entries)
        first, even = (n + 1) // 2, 1 - n % 2
        rectangle = entries.reshape(first, n + even).T
        blocks = (
            rectangle[even : even + first],
            rectangle[even + first :],
            rectangle[: n - first, 1 - even : 1 - even + n - first],
        )
        return cls(*(np.array(block, order="F") for block in blocks))

    def solve(self, right: Array) -> Array:
        """Return the solution for a right side (n,), as precise as the factor is."""
        scale = float(np.abs(right).max()) or 1.0  # within the range of single precision
        first = len(self.lower)
        x = (right / scale).astype(self.lower.dtype)
        head = self._swept(self.lower, x[:first], lower=True)
        tail = self._swept(self.upper, x[first:] - self.between @ head, lower=False, trans=1)
        tail = self._swept(self.upper, tail, lower=False)
        head = self._swept(self.lower, head - self.between.T @ tail, lower=True, trans=1)
        return np.asarray(scale * np.concatenate([head, tail]).astype(float, copy=False))

    def _swept(self, block: Floats, right: Floats, *, lower: bool, trans: int = 0) -> Floats:
        if right.size == 0:
            return right
        (sweep,) = get_blas_funcs(("trsv",), (block,))
        return np.asarray(sweep(block, right, lower=lower, trans=trans))


def factored_triangle(entries: Floats) -> Factor:
    """Return the factor of a triangle, with the least ridge that works; the triangle is written over."""
    n, place = _side(entries), diagonal(entries)
    factor = _routine("pftrf", entries)
    for ridged in _ridged(entries[place]):
        entries[place] = ridged
        found, info = factor(n, entries, uplo="L")
        if info == 0 and np.isfinite(found[place]).all():
            return Factor.unpacked(np.asarray(found))
    raise np.linalg.LinAlgError("not positive definite")


def factored_with_ones(entries: Floats) -> Factor:
    """Return the factor of the identity plus a triangle, which is written over."""
    entries[diagonal(entries)] += 1.0
    return factored_triangle(entries)


def factored_over_rows(outer: Callable[[int, Floats], Floats], R: Floats) -> Factor:
    """Return the factor of I + R K K^T R^T, of the rows of one output after the other.

    Parameters
    ----------
    outer : callable
        ``outer(m, scale)`` is the triangle of K K^T of output m, its rows times ``scale``
        (n_samples, 1).
    R : ndarray of shape (n_samples, k, k)
        Couples the outputs; in the precision of the factor.
    """
    n, k = R.shape[:2]
    if k == 1:
        matrix = outer(0, R[:, 0])
    else:
        blocks, unscaled = np.empty((k, n, k, n), dtype=R.dtype), np.ones((n, 1), dtype=R.dtype)
        own = np.stack([square(outer(m, unscaled)) for m in range(k)])
        right = np.ascontiguousarray(R.transpose(2, 0, 1))
        for i in range(n):  # R_i diag(own_ij) R_j^T for all j in one product
            scaled = R[i] @ (own[:, i, :, None] * right).reshape(k, n * k)
            blocks[:, i] = scaled.reshape(k, n, k).transpose(0, 2, 1)
        matrix = triangle(blocks.reshape(k * n, k * n))
    return factored_with_ones(matrix)


def cholesky(matrices: Array) -> Array:
    """Return lower Cholesky factors of a stack of matrices, with the least ridge that works."""
    for ridged in _with_ridges(matrices):
        try:
            return np.asarray(np.linalg.cholesky(ridged), dtype=float)
        except np.linalg.LinAlgError:
            continue
    raise np.linalg.LinAlgError("not positive definite")


def factored(matrix: Array) -> Array:
    """Return the lower Cholesky factor of one symmetric matrix, with the least ridge that works.

    What stands above its diagonal means nothing. (numpy's function takes twice as long.)
    """
    for ridged in _with_ridges(matrix):
        found, info = dpotrf(ridged.T, lower=True, clean=False)
        if info == 0 and np.isfinite(np.einsum("ii->i", found)).all():
            return np.asarray(found, dtype=float)
    raise np.linalg.LinAlgError("not positive definite")


def solved_by_factor(factor: Array, right: Array) -> Array:
    """Return the solution of the system of the matrix that `factored` made a factor of."""
    return np.asarray(cho_solve((factor, True), right, check_finite=False))


def solved(matrix: Array, right: Array) -> Array:
    """Return the solution of one symmetric system, with the least ridge that works.

    In one call: for the few hundred columns of most systems, wrappers take as long as the rest.
    """
    if right.size == 0:  # LAPACK's wrapper refuses it
        return right.copy()
    for ridged in _with_ridges(matrix):
        _, solution, info = dposv(ridged.T, right, lower=True)
        if info == 0 and np.isfinite(solution).all():
            return np.asarray(solution, dtype=float)
    raise np.linalg.LinAlgError("not positive definite")


def _with_ridges(matrix: Array) -> Iterator[Array]:
    """Yield a matrix, or stack, with ever larger ridges, written over the one before."""
    entries = np.einsum("...ii->...i", matrix)
    for ridged in _ridged(entries.copy()):
        entries[...] = ridged
        yield matrix


def _ridged(diagonals: Floats) -> Iterator[Floats]:
    """Yield diagonals with ever larger ridges.

    Rounding can leave a matrix indefinite by as much; refinement makes up for the ridge.
    """
    unit = np.finfo(diagonals.dtype).eps / np.finfo(float).eps
    for ridge in _RIDGES:
        yield (diagonals * (1.0 + unit * ridge)).astype(diagonals.dtype, copy=False)
