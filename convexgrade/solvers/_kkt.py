"""Linear algebra of the interior point method: its Newton systems.

A system has one positive definite block B_g (d x d) a group, coupled by the curvature of the loss:

    (B + A^T H A) x = r,    A (v, c) = sum_g s_g D_g X v_g e_{k(g)} + Z c,    H = diag(H_i).

Groups of one pattern and output differ in sign alone and reach the prediction through one vector,
u = sum_g s_g v_g. Such a pair is a *channel* here. With B_g = L_g L_g^T, s_g v_g = L_g^-T e_g, and
the QR factorisation of the L_g^-1 of a channel, one below the other,

    [L_g^-1]_g = Q [T; 0],   Q square, T d x d,   so that   u = T^T y,   [y; y'] = Q^T e,

the system separates into y' = its right side, and with K the matrix of all D X T^T into

    (I + K^T H K) y = right side,              right sides Q^T [s_g L_g^-1 r_g]_g.

Nothing cancels in this, however small or large the blocks become. The system in y is solved where
it is smaller: as it stands, or over the rows as I + R K K^T R^T with R^T R = H. Unpenalised columns
have no block; they are given a small one, a proximal term, and the caller's refinement undoes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, pairwise

import numpy as np
from numpy.typing import NDArray

from convexgrade.losses import Hessian
from convexgrade.patterns import masked_adjoint, masked_sums
from convexgrade.pieces import MAX_FLOATS, chunks
from convexgrade.solvers._operator import Operator, Outputs
from convexgrade.solvers._symmetric import (
    Factor,
    Floats,
    cholesky,
    factored,
    factored_over_rows,
    solved_by_factor,
    squared,
)

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_COLUMNS_A_ROW = 1.2  # columns for each row from which on a system over the rows is the cheaper one
_PROXIMAL = 1e-12  # block of an unpenalised column, relative to its curvature
_ROUNDED_AWAY = 1e-9  # a term this small, relative to the others, is too inexact in their sum


class ChannelGrams:
    """A^T H A for some outputs, kept until H changes: for the squared error it never does."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._curvature = np.empty(0)
        self._kept: dict[Outputs, Array] = {}

    def at(self, curvature: Array, outputs: Outputs) -> Array:
        """Return A^T H A restricted to the columns of A that lead to ``outputs``."""
        if not np.array_equal(self._curvature, curvature):
            self._curvature, self._kept = np.array(curvature), {}
        if outputs not in self._kept:
            self._kept[outputs] = self._form(curvature, outputs)
        return self._kept[outputs]

    def _form(self, curvature: Array, outputs: Outputs) -> Array:
        size = self._operator.columns(outputs)
        edges = np.cumsum([0, *(self._operator.columns((k,)) for k in outputs)]).tolist()
        own = [slice(a, b) for a, b in pairwise(edges)]
        gram = np.zeros((size, size))
        for rows in chunks(len(curvature), size):
            J = [self._columns(rows, k) for k in outputs]
            for a, b in combinations_with_replacement(range(len(outputs)), 2):
                weights = curvature[rows, outputs[a], outputs[b]]
                gram[own[a], own[b]] += _weighted(J[a], weights, J[b])
        for upper, lower in combinations(own, 2):
            gram[lower, upper] = gram[upper, lower].T
        return gram

    def _columns(self, rows: slice, output: int) -> Array:
        op = self._operator
        X, masks = op.X[rows], op.masks[rows, op.spans[output]]
        channels = (masks[:, :, None] * X[:, None, :]).reshape(len(X), -1)
        return np.concatenate([channels, op.Z[rows]], axis=1)


def _weighted(left: Array, weights: Array, right: Array) -> Array:
    """Return left^T diag(weights) right; a symmetric one costs half."""
    if left is right:
        root = np.sqrt(weights)[:, None] * left
        return np.asarray(root.T @ root)
    return np.asarray(left.T @ (weights[:, None] * right))


@dataclass(frozen=True)
class _Part:
    """The columns of K that lead to one output: X T^T under the masks of its channels, scaled Z."""

    X: Array
    Z: Array
    masks: Array  # (n_samples, n_channels)
    T: Array  # (n_channels, d, d)
    scale: Array  # (q,)

    @property
    def split(self) -> int:
        """Number of columns before the unpenalised ones."""
        return int(self.T.shape[0] * self.T.shape[1])

    def forward(self, y: Array) -> Array:
        """Return K y."""
        u = np.vecmat(y[: self.split].reshape(self.T.shape[:2]), self.T)
        free = self.scale * y[self.split :]
        return np.asarray(masked_sums(self.masks, self.X, u) + self.Z @ free)

    def adjoint(self, theta: Array) -> Array:
        """Return K^T theta."""
        u = masked_adjoint(self.masks, self.X, theta)
        channels = np.matvec(self.T, u)
        return np.concatenate([channels.ravel(), self.scale * (self.Z.T @ theta)])

    def outer(self, scale: Floats) -> Floats:
        """Return the triangle of K K^T, its rows times ``scale`` (n_samples, 1).

        Of a channel it is a (X X^T) o (m m^T) + (D X w)(D X w)^T if T is so simple.
        """
        (n, d), X = self.X.shape, scale * self.X
        free = scale * self.Z * self.scale
        simple = _level_and_axis(self.T)
        if simple is not None:
            total = squared(X)
            total *= squared(np.sqrt(simple[0]) * self.masks)
            total = squared(free, 1.0, total)
            return squared((X @ simple[1].T) * self.masks, 1.0, total)
        total = squared(free)
        for some in chunks(len(self.T), n * d):
            blocks = (X @ self.T[some].reshape(-1, d).T).reshape(n, -1, d)
            blocks *= self.masks[:, some, None]
            total = squared(blocks.reshape(n, -1), 1.0, total)
        return total

    def scale_rows(self, matrix: Array) -> Array:
        """Return diag(T, scale) times a matrix that has one row a column of A."""
        width = matrix.shape[1]
        blocks = self.T @ matrix[: self.split].reshape(*self.T.shape[:2], width)
        free = self.scale[:, None] * matrix[self.split :]
        return np.concatenate([blocks.reshape(self.split, width), free])


def _level_and_axis(T: Array) -> tuple[Array, Array] | None:
    """Return a (c,) and w (c, d) if every T^T T = a I + w w^T, as it is without cones."""
    for some in (T[:1], T):  # one shows already that there are cones
        values, vectors = np.linalg.eigh(some.transpose(0, 2, 1) @ some)
        if np.any(values[:, -2:-1] - values[:, :1] > 1e-12 * values[:, -1:]):
            return None
    return values[:, 0], np.sqrt(values[:, -1:] - values[:, :1]) * vectors[:, :, -1]


@dataclass(frozen=True)
class _ColumnSystem:
    """I + K^T H K as it stands."""

    factor: Array

    @classmethod
    def build(cls, parts: list[_Part], gram: Array) -> _ColumnSystem:
        """Scale A^T H A from both sides, add I and factor."""
        edges = np.cumsum([part.split + part.scale.size for part in parts])[:-1]
        for _ in range(2):
            rows = zip(parts, np.split(gram, edges), strict=True)
            gram = np.concatenate([part.scale_rows(block) for part, block in rows]).T
        np.einsum("ii->i", gram)[...] += 1.0
        return cls(factored(gram))

    def solve(self, right: list[Array]) -> list[Array]:
        solution = solved_by_factor(self.factor, np.concatenate(right))
        return np.split(solution, np.cumsum([r.size for r in right])[:-1])


@dataclass(frozen=True)
class _RowSystem:
    """The same over the rows: I - K^T R^T (I + R K K^T R^T)^-1 R K with R^T R = H.

    H itself is never inverted: the curvature of a log loss vanishes where it is certain.
    """

    parts: list[_Part]
    R: Array  # (n_samples, k, k)
    factor: Factor

    @classmethod
    def build(cls, parts: list[_Part], R: Array) -> _RowSystem:
        """Form I + R K K^T R^T, output by output, and factor."""
        return cls(parts, R, factored_over_rows(lambda m, scale: parts[m].outer(scale), R))

    def solve(self, right: list[Array]) -> list[Array]:
        pairs = list(zip(self.parts, right, strict=True))
        f = np.stack([part.forward(r) for part, r in pairs])
        scaled = np.einsum("iab,bi->ai", self.R, f)
        inner = self.factor.solve(scaled.ravel())
        theta = np.einsum("iab,ai->bi", self.R, inner.reshape(f.shape))
        return [r - part.adjoint(t) for (part, r), t in zip(pairs, theta, strict=True)]


def block_roots(rows: Array, weights: Array, roots: Array) -> Array:
    """Return L_g^T with L_g L_g^T = sum_i w_ig x_i x_i^T + roots_g^T roots_g.

    They are upper triangular; without rows, as they come.

    The weights w range over many orders of magnitude. Where the large ones would round the second
    term away, the sum is never formed: its factor comes from a QR factorisation of the parts.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, d)
        Rows x_i.
    weights : ndarray of shape (n_rows, n_groups)
        Weights w_ig >= 0.
    roots : ndarray of shape (n_groups, d, d)
        Roots of the second term.
    """
    if len(rows) == 0:
        return roots
    triangles = np.empty_like(roots)
    large = np.vecdot(rows, rows) @ weights
    safe = _ROUNDED_AWAY * large < np.einsum("gij,gij->g", roots, roots)
    small = roots[safe]
    blocks = _weighted_grams(rows, weights[:, safe]) + small.transpose(0, 2, 1) @ small
    triangles[safe] = cholesky(blocks).transpose(0, 2, 1)
    for g in np.flatnonzero(~safe):
        parts = np.concatenate([np.sqrt(weights[:, g, None]) * rows, roots[g]])
        triangles[g] = np.linalg.qr(parts, mode="r")
    return triangles


def _weighted_grams(rows: Array, weights: Array) -> Array:
    """Return sum_i w_ig x_i x_i^T for every g, shape (n_groups, d, d)."""
    n, d = rows.shape
    grams = np.zeros((weights.shape[1], d * d))
    for some in chunks(n, d * d):
        X = rows[some]
        grams += weights[some].T @ (X[:, :, None] * X[:, None, :]).reshape(-1, d * d)
    return grams.reshape(-1, d, d)


@dataclass(frozen=True)
class Factorisation:
    """Factors of B + A^T H A."""

    operator: Operator
    inverse_roots: Array  # L_g^-1, (n_groups, d, d)
    pairs: Index  # channels of two groups; the others need no Q: T is their L_g^-1 itself
    Q: Array  # (n_pairs, slots * d, slots * d)
    scale: Array  # of the unpenalised columns, (q, n_outputs)
    systems: Mapping[Outputs, _ColumnSystem | _RowSystem]

    @classmethod
    def build(
        cls, operator: Operator, roots: Array, hessian: Hessian, grams: ChannelGrams
    ) -> Factorisation:
        """Factor B + A^T H A.

        Parameters
        ----------
        operator : Operator
            The map A.
        roots : ndarray of shape (n_groups, d, d)
            L_g^T, from `block_roots`.
        hessian : Hessian
            H.
        grams : ChannelGrams
            Of the same operator.

        Raises
        ------
        numpy.linalg.LinAlgError
            If a matrix is not positive definite, not finite, or of more than `MAX_FLOATS` numbers.
        """
        op, d, curvature = operator, operator.X.shape[1], hessian.matrices
        inverse_roots = np.asarray(np.linalg.inv(roots).transpose(0, 2, 1), dtype=float)
        stacked = op.stack(inverse_roots)
        pairs = np.unique(op.channel[op.slot > 0])
        T = stacked[:, :d].copy()
        Q, upper = np.linalg.qr(stacked[pairs], mode="complete")
        T[pairs] = upper[:, :d]
        own = np.einsum("iq,ikk->qk", op.Z**2, curvature)
        scale = 1.0 / np.sqrt(_PROXIMAL * np.maximum(own, 0.01 * own.max(initial=1e-100)))
        systems: dict[Outputs, _ColumnSystem | _RowSystem] = {}
        every = tuple(range(len(op.spans)))
        R = hessian.rooted(np.broadcast_to(np.eye(len(every)), curvature.shape))
        for outputs in [every] if hessian.coupled else [(k,) for k in every]:
            rows, columns = len(op.X) * len(outputs), op.columns(outputs)
            if columns == 0:
                continue
            if min(rows, columns) ** 2 > MAX_FLOATS:
                raise np.linalg.LinAlgError("too large")
            parts = [
                _Part(op.X, op.Z, op.masks[:, op.spans[k]], T[op.spans[k]], scale[:, k])
                for k in outputs
            ]
            if columns > min(_COLUMNS_A_ROW * rows, MAX_FLOATS**0.5):
                systems[outputs] = _RowSystem.build(parts, R[:, outputs][:, :, outputs])
            else:
                systems[outputs] = _ColumnSystem.build(parts, grams.at(curvature, outputs))
        return cls(op, inverse_roots, pairs, Q, scale, systems)

    def solve(self, r: Array, r_free: Array) -> tuple[Array, Array]:
        """Return v, shape (n_groups, d), and c, shape (q, n_outputs)."""
        op, d = self.operator, r.shape[1]
        signed = op.sign[:, None] * r
        y = op.stack(self.inverse_roots @ signed[:, :, None])
        y[self.pairs] = self.Q.transpose(0, 2, 1) @ y[self.pairs]
        y_free = self.scale * r_free
        for outputs, system in self.systems.items():
            right = [np.append(y[op.spans[k], :d].ravel(), y_free[:, k]) for k in outputs]
            for k, solution in zip(outputs, system.solve(right), strict=True):
                split = solution.size - len(y_free)
                y[op.spans[k], :d] = solution[:split].reshape(-1, d, 1)
                y_free[:, k] = solution[split:]
        y[self.pairs] = self.Q @ y[self.pairs]
        e = op.unstack(y, d)
        v = (self.inverse_roots.transpose(0, 2, 1) @ e)[:, :, 0]
        return op.sign[:, None] * v, self.scale * y_free
