"""Linear algebra of the proximal Newton method: its systems, over the faces of active groups.

At p_g = Proj_{K_g}(u) with ||p_g|| > alpha, x_g = sigma (1 - alpha / ||p_g||) p_g answers to a change
of u by sigma J_g, where with kappa = alpha / ||p_g||, P_g the projection on the span of the face of K_g
that p_g lies on, and q = p_g / ||p_g||, which lies in it,

    J_g = (1 - kappa) P_g + kappa q q^T = C_g C_g^T,
    C_g = N_g ((1 - kappa)^1/2 (I - w w^T) + w w^T)

for an orthonormal basis N_g of the face and w = N_g^T q. With K the columns sigma^1/2 D_g X C_g of all
active groups, and tau^1/2 Z, a Newton step solves

    (I + K K^T H) step = right side,

over the columns as I + K^T H K or over the rows as I + S K K^T S with S^2 = H, whichever is smaller.
H is never inverted: the curvature of a log loss vanishes where it is certain.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from convexgrade.solvers._kkt import (
    MAX_FLOATS,
    Operator,
    Outputs,
    cholesky,
    chunks,
    coupled,
    square_roots,
)

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

_COLUMNS_A_ROW = 1.2  # from this many on, the system over the rows is the cheaper one
_PANEL = 1 << 20  # floats of the part of K that is formed at a time,
_ROWS = 256  # or so many of its rows, if they are longer


class Face(NamedTuple):
    """The directions in which active groups can move.

    ``roots`` (m, d, d) are sigma^1/2 s_g C_g, whose columns outside ``used`` (m, d) are zero.
    """

    active: Index  # positions among the groups of an operator
    roots: Array
    used: Mask

    @classmethod
    def of(
        cls, active: Index, sign: Array, p: Array, normals: Array | None, alpha: float, sigma: float
    ) -> Face:
        """Return the faces at p (m, d), ``normals`` (m, d, d) of tight constraints padded by zeros."""
        m, d = p.shape
        used = np.ones((m, d), dtype=bool)
        size = np.linalg.norm(p, axis=1)
        small = np.sqrt(1.0 - alpha / size)[:, None, None]
        w = p / size[:, None]
        if normals is None:
            basis = np.broadcast_to(np.eye(d), (m, d, d))
        else:
            count = normals.any(axis=2).sum(axis=1)
            # Householder's reflections of zero columns are identities: the last d - count columns of
            # Q span the complement of the normals.
            basis = np.linalg.qr(normals.transpose(0, 2, 1), mode="complete")[0]
            used = np.arange(d) >= count[:, None]
            basis = np.where(used[:, None, :], basis, 0.0)
            w = np.einsum("gij,gi->gj", basis, w)
        inner = small * np.eye(d) + (1.0 - small) * (w[:, :, None] * w[:, None, :])
        return cls(active, np.sqrt(sigma) * sign[:, None, None] * (basis @ inner), used)

    def take(self, index: Index | slice) -> Face:
        """Return the faces at ``index``."""
        return Face(self.active[index], self.roots[index], self.used[index])


class Grams:
    """X^T D_p H D_q X between the patterns met so far, and with Z: for one output and one H."""

    def __init__(self, X: Array, Z: Array, masks: Mask, curvature: Array) -> None:
        self._X, self._Z, self._masks, self.curvature = X, Z, masks, curvature
        self._place: dict[int, int] = {}
        self._matrix = Z.T @ (curvature[:, None] * Z)

    def at(self, patterns: Index) -> Array | None:
        """Return the matrix over [Z, D_p X for p in patterns]; None if it would be too large."""
        new = [p for p in dict.fromkeys(patterns.tolist()) if p not in self._place]
        d, q = self._X.shape[1], self._Z.shape[1]
        if (q + d * (len(self._place) + len(new))) ** 2 > MAX_FLOATS:
            return None
        if new:
            self._extend(new)
        places = np.array([self._place[p] for p in patterns.tolist()], dtype=np.intp)
        columns = (q + d * places[:, None] + np.arange(d)).ravel()
        columns = np.concatenate([np.arange(q), columns])
        return self._matrix[np.ix_(columns, columns)]

    def _extend(self, new: list[int]) -> None:
        old = len(self._matrix)
        for p in new:
            self._place[p] = len(self._place)
        masks = self._masks[:, list(self._place)]
        size = self._Z.shape[1] + self._X.shape[1] * len(self._place)
        matrix = np.zeros((size, size))
        matrix[:old, :old] = self._matrix
        for rows in chunks(len(self._X), size, most=_row_panel(size)):
            X, weights = self._X[rows], self.curvature[rows]
            columns = (masks[rows, :, None] * X[:, None, :]).reshape(len(X), -1)
            columns = np.concatenate([self._Z[rows], columns], axis=1)
            matrix[:, old:] += columns.T @ (weights[:, None] * columns[:, old:])
        matrix[old:, :old] = matrix[:old, old:].T
        self._matrix = matrix


def _row_panel(columns: int) -> int:
    """Return the floats of some rows of K: of no fewer than make products efficient."""
    return max(_PANEL, _ROWS * columns)


class System:
    """Newton systems over a working set; Grams are kept for as long as the curvature is the same."""

    def __init__(
        self, operator: Operator, pattern: Index, masks: Mask, grams: dict[int, Grams]
    ) -> None:
        self._operator, self._pattern, self._masks, self._grams = operator, pattern, masks, grams

    def solve(self, face: Face, curvature: Array, tau: Array, right: Array) -> Array:
        """Return (I + K K^T H)^-1 right, shape (n_samples, n_outputs)."""
        step = np.empty_like(right)
        output = self._operator.output[face.active]
        for outputs in coupled(curvature):
            parts = [face.take(np.flatnonzero(output == k)) for k in outputs]
            H = curvature[:, outputs][:, :, outputs]
            columns = sum(int(part.used.sum()) for part in parts) + len(outputs) * tau.size
            if columns <= _COLUMNS_A_ROW * len(right) * len(outputs):
                found = self._by_columns(parts, outputs, H, tau, right[:, outputs])
            else:
                found = self._by_rows(parts, outputs, H, tau, right[:, outputs])
            step[:, outputs] = found
        return step

    def _by_columns(
        self, parts: list[Face], outputs: Outputs, H: Array, tau: Array, right: Array
    ) -> Array:
        matrix = self._gram(parts, outputs, H, tau)
        if matrix is None:
            matrix = self._formed(parts, outputs, H, tau)
        matrix[np.diag_indices_from(matrix)] += 1.0
        factor = cholesky(matrix)
        y = self._adjoint(parts, outputs, tau, np.einsum("ikl,il->ik", H, right))
        y = cho_solve((factor.T, False), y, check_finite=False)
        return right - self._forward(parts, outputs, tau, y)

    def _by_rows(
        self, parts: list[Face], outputs: Outputs, H: Array, tau: Array, right: Array
    ) -> Array:
        n, k = right.shape
        S = square_roots(H)
        blocks = np.zeros((k, n, k, n))
        for m, part in enumerate(parts):
            outer = self._outer(part, tau)
            for a, b in np.ndindex(k, k):
                blocks[a, :, b, :] += S[:, a, m, None] * outer * S[:, m, b]
        matrix = blocks.reshape(k * n, k * n)
        matrix[np.diag_indices_from(matrix)] += 1.0
        scaled = np.einsum("iab,ib->ai", S, right)
        inner = cho_solve((cholesky(matrix).T, False), scaled.ravel(), check_finite=False)
        theta = np.einsum("iab,bi->ia", S, inner.reshape(k, n))
        y = self._adjoint(parts, outputs, tau, theta)
        return right - self._forward(parts, outputs, tau, y)

    def _forward(self, parts: list[Face], outputs: Outputs, tau: Array, y: Array) -> Array:
        """Return K y for the outputs of the parts."""
        op = self._operator
        v = np.zeros((op.channel.size, op.X.shape[1]))
        c = np.zeros((tau.size, len(op.spans)))
        for k, part, y_k in zip(outputs, parts, self._split(parts, tau, y), strict=True):
            c[:, k] = np.sqrt(tau) * y_k[: tau.size]
            spread = np.zeros(part.used.shape)
            spread[part.used] = y_k[tau.size :]
            # The roots hold s_g already, and the operator multiplies by it once more.
            v[part.active] = op.sign[part.active, None] * np.einsum(
                "gij,gj->gi", part.roots, spread
            )
        return op.forward(v, c)[:, outputs]

    def _adjoint(self, parts: list[Face], outputs: Outputs, tau: Array, theta: Array) -> Array:
        """Return K^T theta."""
        op = self._operator
        full = np.zeros((len(op.X), len(op.spans)))
        full[:, outputs] = theta
        groups, free = op.adjoint(full)
        found = []
        for k, part in zip(outputs, parts, strict=True):
            signed = op.sign[part.active, None] * groups[part.active]
            y = np.einsum("gij,gi->gj", part.roots, signed)[part.used]
            found.append(np.concatenate([np.sqrt(tau) * free[:, k], y]))
        return np.concatenate(found)

    def _split(self, parts: list[Face], tau: Array, y: Array) -> list[Array]:
        sizes = [tau.size + int(part.used.sum()) for part in parts]
        return np.split(y, np.cumsum(sizes)[:-1])

    def _columns(self, part: Face, tau: Array, rows: slice) -> Array:
        """Return some rows of the columns of K that lead to one output."""
        op, d = self._operator, self._operator.X.shape[1]
        flat = part.roots.transpose(1, 0, 2).reshape(d, -1)[:, part.used.ravel()]
        channel = np.repeat(op.channel[part.active], part.used.sum(axis=1))
        free = np.sqrt(tau) * op.Z[rows]
        return np.concatenate([free, (op.X[rows] @ flat) * op.masks[rows][:, channel]], axis=1)

    def _formed(self, parts: list[Face], outputs: Outputs, H: Array, tau: Array) -> Array:
        """Return K^T H K, from some rows of K at a time."""
        edges = np.cumsum([0, *(tau.size + int(part.used.sum()) for part in parts)])
        own = [slice(a, b) for a, b in pairwise(edges.tolist())]
        matrix = np.zeros((edges[-1], edges[-1]))
        for rows in chunks(len(H), int(edges[-1]), most=_row_panel(int(edges[-1]))):
            K = [self._columns(part, tau, rows) for part in parts]
            for a, b in np.ndindex(len(parts), len(parts)):
                if a == b:
                    root = np.sqrt(H[rows, a, a])[:, None] * K[a]
                    matrix[own[a], own[a]] += root.T @ root
                elif a < b:
                    matrix[own[a], own[b]] += K[a].T @ (H[rows, a, b, None] * K[b])
        for a, b in combinations(range(len(parts)), 2):
            matrix[own[b], own[a]] = matrix[own[a], own[b]].T
        return matrix

    def _outer(self, part: Face, tau: Array) -> Array:
        """Return K K^T of one output, from some columns at a time."""
        op = self._operator
        free = np.sqrt(tau) * op.Z
        total = free @ free.T
        none = np.empty(0)
        for some in chunks(len(part.active), op.X.size, most=_PANEL):
            panel = self._columns(part.take(some), none, slice(None))
            total += panel @ panel.T
        return np.asarray(total)

    def _gram(self, parts: list[Face], outputs: Outputs, H: Array, tau: Array) -> Array | None:
        """Return K^T H K from the Gram matrix of patterns, if the curvature has been met before."""
        if len(outputs) > 1:
            return None
        op, part, k, h = self._operator, parts[0], outputs[0], H[:, 0, 0]
        grams = self._grams.get(k)
        if grams is None or not np.array_equal(grams.curvature, h):
            self._grams[k] = Grams(op.X, op.Z, self._masks, h)
            return None
        pattern, place = np.unique(self._pattern[part.active], return_inverse=True)
        gram = grams.at(pattern)
        if gram is None:
            return None
        q, d = tau.size, op.X.shape[1]
        root = np.sqrt(tau)
        rows = gram[q:].reshape(len(pattern), d, len(gram))[place]
        rows = (part.roots.transpose(0, 2, 1) @ rows)[part.used]
        rows = np.concatenate([root[:, None] * gram[:q], rows])
        blocks = rows[:, q:].reshape(len(rows), len(pattern), d)[:, place].transpose(1, 0, 2)
        columns = (blocks @ part.roots).transpose(1, 0, 2)[:, part.used]
        return np.concatenate([rows[:, :q] * root, columns], axis=1)
