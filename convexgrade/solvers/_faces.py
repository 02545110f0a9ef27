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
_GATHERED = 250  # operations that take as long as to gather one number of the Gram matrix,
_COLUMN = 100  # and to form one of a column of K
_PANEL = 1 << 20  # floats of the part of K that is formed at a time,
_ROWS = 256  # or so many of its rows, if they are longer


class Face(NamedTuple):
    """The directions in which active groups can move."""

    active: Index  # positions among the groups of an operator, (m,)
    sign: Array  # their s_g, (m,)
    q: Array  # (m, d)
    kappa: Array  # (m,)
    sigma: float
    normals: Array  # of the constraints that hold p_g, padded by zeros, (m, k, d)
    held: Index  # how many there are, (m,)

    @classmethod
    def of(
        cls, active: Index, sign: Array, p: Array, normals: Array | None, alpha: float, sigma: float
    ) -> Face:
        """Return the faces at p (m, d), ``normals`` (m, k, d) of tight constraints padded by zeros."""
        size = np.linalg.norm(p, axis=1)
        if normals is None:
            normals = np.zeros((len(p), 0, p.shape[1]))
        held = normals.any(axis=2).sum(axis=1)
        return cls(active, sign, p / size[:, None], alpha / size, sigma, normals, held)

    def take(self, index: Index | slice) -> Face:
        """Return the faces at ``index``."""
        return Face(
            self.active[index],
            self.sign[index],
            self.q[index],
            self.kappa[index],
            self.sigma,
            self.normals[index],
            self.held[index],
        )

    @property
    def dimensions(self) -> int:
        """Sum of the dimensions of all faces."""
        return int(self.q.size - self.held.sum())

    def roots(self) -> tuple[Array, Mask]:
        """Return sigma^1/2 s_g C_g, (m, d, d), and which of their columns (m, d) are not zero."""
        d = self.q.shape[1]
        small, w = np.sqrt(1.0 - self.kappa)[:, None, None], self.q
        used = np.arange(d) >= self.held[:, None]
        basis = np.broadcast_to(np.eye(d), (len(w), d, d))
        if self.held.any():
            # Householder's reflections of zero columns are identities: the last d - held columns of
            # Q span the complement of the normals.
            basis = np.linalg.qr(self.normals.transpose(0, 2, 1), mode="complete")[0]
            basis = np.where(used[:, None, :], basis, 0.0)
            w = np.einsum("gij,gi->gj", basis, w)
        inner = small * np.eye(d) + (1.0 - small) * (w[:, :, None] * w[:, None, :])
        return np.sqrt(self.sigma) * self.sign[:, None, None] * (basis @ inner), used

    def complement(self) -> Array:
        """Return an orthonormal basis of the span of the normals, zeros where there are fewer.

        With U_g the basis, P_g = I - U_g U_g^T. Shape (m, d, k).
        """
        k = self.normals.shape[1]
        basis = np.linalg.qr(self.normals.transpose(0, 2, 1))[0]
        return np.where(np.arange(k) < self.held[:, None, None], basis, 0.0)


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


class _Columns(NamedTuple):
    """The columns of K that lead to one output, but for those of Z."""

    active: Index  # (m,)
    roots: Array  # (m, d, d)
    used: Mask  # (m, d)


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
            columns = sum(part.dimensions for part in parts) + len(outputs) * tau.size
            if columns <= _COLUMNS_A_ROW * len(right) * len(outputs):
                found = self._by_columns(parts, outputs, H, tau, right[:, outputs])
            else:
                found = self._by_rows(parts, outputs, H, tau, right[:, outputs])
            step[:, outputs] = found
        return step

    def _by_columns(
        self, faces: list[Face], outputs: Outputs, H: Array, tau: Array, right: Array
    ) -> Array:
        parts = [_Columns(face.active, *face.roots()) for face in faces]
        matrix = self._gram(parts, outputs, H, tau)
        if matrix is None:
            matrix = self._formed(parts, outputs, H, tau)
        matrix[np.diag_indices_from(matrix)] += 1.0
        factor = cholesky(matrix)
        y = self._adjoint(parts, outputs, tau, np.einsum("ikl,il->ik", H, right))
        y = cho_solve((factor.T, False), y, check_finite=False)
        return right - self._forward(parts, outputs, tau, y)

    def _by_rows(
        self, faces: list[Face], outputs: Outputs, H: Array, tau: Array, right: Array
    ) -> Array:
        n, k = right.shape
        S = square_roots(H)
        blocks = np.zeros((k, n, k, n))
        complements = [face.complement() for face in faces]
        for m, (face, complement) in enumerate(zip(faces, complements, strict=True)):
            outer = self._outer(face, complement, tau)
            for a, b in np.ndindex(k, k):
                blocks[a, :, b, :] += S[:, a, m, None] * outer * S[:, m, b]
        matrix = blocks.reshape(k * n, k * n)
        matrix[np.diag_indices_from(matrix)] += 1.0
        scaled = np.einsum("iab,ib->ai", S, right)
        inner = cho_solve((cholesky(matrix).T, False), scaled.ravel(), check_finite=False)
        theta = np.einsum("iab,bi->ia", S, inner.reshape(k, n))
        return right - self._applied(faces, complements, outputs, tau, theta)

    def _outer(self, face: Face, complement: Array, tau: Array) -> Array:
        """Return K K^T of one output, from some columns at a time.

        Where the faces are most of the space, from what they lack: with U_g = ``complement``,

            sum_g D_g X J_g X^T D_g = X X^T o sum_g (1 - kappa_g) D_g 1 1^T D_g
                                      + sum_g D_g X (kappa_g q q^T - (1 - kappa_g) U U^T) X^T D_g.
        """
        op = self._operator
        free = np.sqrt(tau) * op.Z
        total = free @ free.T
        channel = op.channel[face.active]
        if face.dimensions <= face.held.sum() + 2 * len(channel):
            roots, used = face.roots()
            self._add_outer(total, roots, used, channel, 1.0)
            return np.asarray(total)
        inside = np.sqrt(face.sigma * (1.0 - face.kappa))
        masks = inside * op.masks[:, channel]
        total += (op.X @ op.X.T) * (masks @ masks.T)
        along = np.sqrt(face.sigma * face.kappa)[:, None] * face.q
        every = np.ones((len(channel), 1), dtype=bool)
        self._add_outer(total, along[:, :, None], every, channel, 1.0)
        held = np.arange(complement.shape[2]) < face.held[:, None]
        self._add_outer(total, inside[:, None, None] * complement, held, channel, -1.0)
        return np.asarray(total)

    def _add_outer(
        self, total: Array, vectors: Array, used: Mask, channel: Index, factor: float
    ) -> None:
        """Add, in place, the outer products of D_g X times the used columns of ``vectors``."""
        op, d = self._operator, self._operator.X.shape[1]
        for some in chunks(len(channel), len(op.X) * max(1, used.shape[1]), most=_PANEL):
            flat = vectors[some].transpose(1, 0, 2).reshape(d, -1)[:, used[some].ravel()]
            where = np.repeat(channel[some], used[some].sum(axis=1))
            panel = (op.X @ flat) * op.masks[:, where]
            total += factor * (panel @ panel.T)

    def _applied(
        self,
        faces: list[Face],
        complements: list[Array],
        outputs: Outputs,
        tau: Array,
        theta: Array,
    ) -> Array:
        """Return K K^T theta."""
        op = self._operator
        groups, free = op.adjoint(self._everywhere(outputs, theta))
        v = np.zeros_like(groups)
        for face, U in zip(faces, complements, strict=True):
            b = groups[face.active][:, :, None]
            inside = (1.0 - face.kappa)[:, None, None] * (b - U @ (U.transpose(0, 2, 1) @ b))
            along = face.kappa * np.einsum("gi,gi->g", face.q, b[:, :, 0])
            v[face.active] = face.sigma * (inside[:, :, 0] + along[:, None] * face.q)
        return op.forward(v, tau[:, None] * free)[:, outputs]

    def _everywhere(self, outputs: Outputs, theta: Array) -> Array:
        """Return theta with zeros for the other outputs."""
        full = np.zeros((len(theta), len(self._operator.spans)))
        full[:, outputs] = theta
        return full

    def _forward(self, parts: list[_Columns], outputs: Outputs, tau: Array, y: Array) -> Array:
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

    def _adjoint(self, parts: list[_Columns], outputs: Outputs, tau: Array, theta: Array) -> Array:
        """Return K^T theta."""
        op = self._operator
        groups, free = op.adjoint(self._everywhere(outputs, theta))
        found = []
        for k, part in zip(outputs, parts, strict=True):
            signed = op.sign[part.active, None] * groups[part.active]
            y = np.einsum("gij,gi->gj", part.roots, signed)[part.used]
            found.append(np.concatenate([np.sqrt(tau) * free[:, k], y]))
        return np.concatenate(found)

    def _split(self, parts: list[_Columns], tau: Array, y: Array) -> list[Array]:
        sizes = [tau.size + int(part.used.sum()) for part in parts]
        return np.split(y, np.cumsum(sizes)[:-1])

    def _rows(self, part: _Columns, tau: Array, rows: slice) -> Array:
        """Return some rows of the columns of K that lead to one output."""
        op, d = self._operator, self._operator.X.shape[1]
        flat = part.roots.transpose(1, 0, 2).reshape(d, -1)[:, part.used.ravel()]
        channel = np.repeat(op.channel[part.active], part.used.sum(axis=1))
        free = np.sqrt(tau) * op.Z[rows][:, : tau.size]  # without any, none
        return np.concatenate([free, (op.X[rows] @ flat) * op.masks[rows][:, channel]], axis=1)

    def _formed(self, parts: list[_Columns], outputs: Outputs, H: Array, tau: Array) -> Array:
        """Return K^T H K, from some rows of K at a time."""
        edges = np.cumsum([0, *(tau.size + int(part.used.sum()) for part in parts)])
        own = [slice(a, b) for a, b in pairwise(edges.tolist())]
        matrix = np.zeros((edges[-1], edges[-1]))
        for rows in chunks(len(H), int(edges[-1]), most=_row_panel(int(edges[-1]))):
            K = [self._rows(part, tau, rows) for part in parts]
            for a, b in np.ndindex(len(parts), len(parts)):
                if a == b:
                    root = np.sqrt(H[rows, a, a])[:, None] * K[a]
                    matrix[own[a], own[a]] += root.T @ root
                elif a < b:
                    matrix[own[a], own[b]] += K[a].T @ (H[rows, a, b, None] * K[b])
        for a, b in combinations(range(len(parts)), 2):
            matrix[own[b], own[a]] = matrix[own[a], own[b]].T
        return matrix

    def _gram(self, parts: list[_Columns], outputs: Outputs, H: Array, tau: Array) -> Array | None:
        """Return K^T H K from the Gram matrix of patterns; None where that is dearer, or is new."""
        if len(outputs) > 1:
            return None
        op, part, k, h = self._operator, parts[0], outputs[0], H[:, 0, 0]
        columns, d = int(part.used.sum()), op.X.shape[1]
        if len(h) * columns * (columns + _COLUMN) <= _GATHERED * (len(part.active) * d) ** 2:
            return None
        grams = self._grams.get(k)
        if grams is None or not np.array_equal(grams.curvature, h):
            self._grams[k] = Grams(op.X, op.Z, self._masks, h)
            return None
        pattern, place = np.unique(self._pattern[part.active], return_inverse=True)
        gram = grams.at(pattern)
        if gram is None:
            return None
        q, root = tau.size, np.sqrt(tau)
        rows = gram[q:].reshape(len(pattern), d, len(gram))[place]
        rows = (part.roots.transpose(0, 2, 1) @ rows)[part.used]
        rows = np.concatenate([root[:, None] * gram[:q], rows])
        blocks = rows[:, q:].reshape(len(rows), len(pattern), d)[:, place].transpose(1, 0, 2)
        right = (blocks @ part.roots).transpose(1, 0, 2)[:, part.used]
        return np.concatenate([rows[:, :q] * root, right], axis=1)
