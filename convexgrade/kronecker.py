"""Regularised least squares whose rows are Kronecker products, solved without forming them.

Row (i, r) of J is the outer product of row i of H (n, d) with G[i, r] (n, k, m): the Jacobian of what is
linear in the weights (d, m) of a layer that reads H. The system is

    (J^T J + I (x) diag(D)) V = B,      V, B of shape (d, m), D > 0 of shape (m,).

Three ways, by size: the normal equations, J^T J summed over chunks of rows; their dual, because

    J (I (x) diag(D)^-1) J^T  =  (H H^T) o (G diag(D)^-1 G^T)        (o: entry by entry)

costs no more than two Gram matrices of n k rows; conjugate gradients, preconditioned by the diagonal
blocks of the neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg

from convexgrade.pieces import chunks

Array = NDArray[np.float64]

_NORMAL = 800  # unknowns up to which the normal equations are formed
_DUAL = 1500  # rows up to which their dual is
_CHUNK = 1 << 22  # numbers of J that are formed at a time
_ITERATIONS = 200  # of conjugate gradients: a step that is only nearly the best still is a step
_RESIDUAL = 1e-3


class KroneckerSystem:
    """The system of one layer.

    Parameters
    ----------
    H : ndarray of shape (n, d)
        What the layer reads.
    G : ndarray of shape (n, k, m)
        How k residuals of each row answer to the layer's m responses.
    """

    def __init__(self, H: Array, G: Array) -> None:
        self.H = H
        self.G = G

    def apply(self, V: Array) -> Array:
        """Return J V, shape (n, k)."""
        return np.asarray((self.G @ (self.H @ V)[:, :, None])[:, :, 0])

    def adjoint(self, residuals: Array) -> Array:
        """Return J^T applied to residuals (n, k), shape (d, m)."""
        return np.asarray(self.H.T @ (residuals[:, None, :] @ self.G)[:, 0, :])

    def method(self) -> str:
        """Return which way `solve` goes: "normal", "dual" or "iterative"."""
        n, k, m = self.G.shape
        unknowns, rows = self.H.shape[1] * m, n * k
        if unknowns <= min(_NORMAL, rows):
            return "normal"
        return "dual" if rows <= _DUAL else "iterative"

    def solve(self, B: Array, D: Array) -> Array:
        """Return V, shape (d, m); to a relative residual of 1e-3 where it is iterated."""
        ways: dict[str, Callable[[Array, Array], Array]] = {
            "normal": self._solve_normal,
            "dual": self._solve_dual,
            "iterative": self._solve_iteratively,
        }
        return ways[self.method()](B, D)

    def _solve_normal(self, B: Array, D: Array) -> Array:
        regular = self._gram + np.diag(np.tile(D, self.H.shape[1]))
        return np.asarray(cho_solve(cho_factor(regular), B.ravel()).reshape(B.shape))

    @cached_property
    def _gram(self) -> Array:
        n, k, m = self.G.shape
        columns = self.H.shape[1] * m
        gram = np.zeros((columns, columns))
        for some in chunks(n, k * columns, most=_CHUNK):
            J = (self.H[some, None, :, None] * self.G[some, :, None, :]).reshape(-1, columns)
            gram += J.T @ J
        return gram

    def _solve_dual(self, B: Array, D: Array) -> Array:
        """(J^T J + D)^-1 = D^-1 - D^-1 J^T (1 + J D^-1 J^T)^-1 J D^-1 (Woodbury)."""
        n, k, m = self.G.shape
        G = self.G.reshape(n * k, m)
        kernel = self._input_gram * ((G / D) @ G.T)
        kernel[np.diag_indices(n * k)] += 1.0
        answer = cho_solve(cho_factor(kernel, overwrite_a=True), self.apply(B / D).ravel())
        return (B - self.adjoint(answer.reshape(n, k))) / D

    @cached_property
    def _input_gram(self) -> Array:
        k = self.G.shape[1]
        return np.asarray(np.kron(self.H @ self.H.T, np.ones((k, k))), dtype=float)

    def _solve_iteratively(self, B: Array, D: Array) -> Array:
        def product(v: Array) -> Array:
            V = v.reshape(B.shape)
            return (self.adjoint(self.apply(V)) + D * V).ravel()

        inverse = np.linalg.inv(self._blocks + D[:, None, None] * np.eye(len(B)))

        def precondition(b: Array) -> Array:
            return np.asarray(np.einsum("jpq,qj->pj", inverse, b.reshape(B.shape)).ravel())

        shape = (B.size, B.size)
        found, _ = cg(
            LinearOperator(shape, matvec=product, dtype=np.float64),
            B.ravel(),
            rtol=_RESIDUAL,
            maxiter=_ITERATIONS,
            M=LinearOperator(shape, matvec=precondition, dtype=np.float64),
        )
        return np.asarray(found.reshape(B.shape))

    @cached_property
    def _blocks(self) -> Array:
        """Diagonal blocks of J^T J, one (d, d) matrix a neuron."""
        energy = np.einsum("ikj,ikj->ji", self.G, self.G)
        return np.stack([(self.H.T * e) @ self.H for e in energy])
