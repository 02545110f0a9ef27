"""Linear systems of the proximal Newton method, over the faces of active groups.

With K the columns sigma^1/2 D_g X C_g of all active groups (see `_faces`), and tau^1/2 Z, a Newton
step solves

    (I + K K^T H) step = right side,

over the columns as I + K^T H K or over the rows as I + S K K^T S with S^2 = H, whichever is smaller.
H is never inverted: the curvature of a log loss vanishes where it is certain.

Where there are many rows and many columns, neither is formed. Conjugate gradients solve the system over
the columns by products with K alone, which cost what the groups have numbers, not their square. Rows are
much alike: the same system over a sample of them, I + K_s^T H_s K_s, is so good a preconditioner that a
few dozen products do, however large sigma is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from convexgrade.solvers._faces import Face
from convexgrade.solvers._operator import (
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
_MANY = 1e9  # operations to form a system, from which on conjugate gradients are worth a trial
_FEW = 16  # iterations that are no trial
_A_PRODUCT = 3  # operations to form a system that take as long as one of a product with K and K^T,
_A_SWEEP = 100  # and as one number of a preconditioner's factor
_CLOSE = 0.001  # error of their step, relative to what a whole one gains
_SAMPLED = 8  # rows for one of the sample of a preconditioner,
_SAMPLE = 256, 2048  # which has no fewer and no more
_GRAM = 2048  # columns of patterns whose products are kept
_PANEL = 1 << 20  # floats of the part of K that is formed at a time,
_ROWS = 256  # or so many of its rows, if they are longer


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


def _sample_size(n: int) -> int:
    return int(np.clip(n // _SAMPLED, *_SAMPLE))


def _factor(matrix: Array) -> tuple[Array, bool]:
    """Return the Cholesky factor of I + matrix, which is overwritten, as `cho_solve` wants it."""
    matrix[np.diag_indices_from(matrix)] += 1.0
    return cholesky(matrix).T, False


def _row_panel(columns: int) -> int:
    """Return the floats of some rows of K: of no fewer than make products efficient."""
    return max(_PANEL, _ROWS * columns)


class _Columns(NamedTuple):
    """The columns of K that lead to one output, but for those of Z."""

    active: Index  # (m,)
    roots: Array  # (m, d, d)
    used: Mask  # (m, d)


@dataclass
class Memory:
    """What a solve keeps from system to system.

    Attributes
    ----------
    grams : dict of int to Grams
        Products of patterns' columns, for each output.
    gradients : bool
        Whether conjugate gradients have always served. As sigma grows they do ever worse: what has
        failed once is not tried again.
    """

    grams: dict[int, Grams] = field(default_factory=dict)
    gradients: bool = True


class System:
    """Newton systems over a working set."""

    def __init__(self, operator: Operator, pattern: Index, masks: Mask, memory: Memory) -> None:
        self._operator, self._pattern, self._masks, self._memory = operator, pattern, masks, memory

    def solve(self, face: Face, curvature: Array, tau: Array, right: Array) -> Array:
        """Return (I + K K^T H)^-1 right, shape (n_samples, n_outputs)."""
        step = np.empty_like(right)
        output = self._operator.output[face.active]
        for outputs in coupled(curvature):
            parts = [face.take(np.flatnonzero(output == k)) for k in outputs]
            H = curvature[:, outputs][:, :, outputs]
            columns = sum(part.dimensions for part in parts) + len(outputs) * tau.size
            rows = len(right) * len(outputs)
            found = None
            if self._memory.gradients and not self._keeps_gram(outputs, H):
                limit = self._worth(parts, outputs, columns, len(right))
                if limit > _FEW:
                    found = self._by_gradients(parts, outputs, H, tau, right[:, outputs], limit)
                    self._memory.gradients = found is not None
            if found is None:
                direct = self._by_columns if columns <= _COLUMNS_A_ROW * rows else self._by_rows
                found = direct(parts, outputs, H, tau, right[:, outputs])
            step[:, outputs] = found
        return step

    def _worth(self, faces: list[Face], outputs: Outputs, columns: int, n: int) -> int:
        """Return how many iterations of conjugate gradients take as long as to form the system."""
        rows = n * len(outputs)
        operations = n * columns * min(columns, rows) * len(outputs)
        if operations < _MANY:
            return 0
        size = min(_sample_size(n), columns)
        numbers = sum(face.q.size for face in faces)
        return int(operations / (_A_PRODUCT * n * numbers + _A_SWEEP * size**2))

    def _keeps_gram(self, outputs: Outputs, H: Array) -> bool:
        """Return whether products of patterns' columns serve in many steps: where H stays."""
        columns = np.unique(self._pattern).size * self._operator.X.shape[1]
        if len(outputs) > 1 or columns > _GRAM:
            return False
        grams = self._memory.grams.get(outputs[0])
        return grams is None or np.array_equal(grams.curvature, H[:, 0, 0])

    def _by_gradients(
        self,
        faces: list[Face],
        outputs: Outputs,
        H: Array,
        tau: Array,
        right: Array,
        limit: int,
    ) -> Array | None:
        """Return a step that is exact enough, by preconditioned conjugate gradients.

        None if so many iterations do not reach it.

        They minimise E(y) = |y|^2 / 2 + |right - K y|_H^2 / 2, whose minimum is what a whole Newton
        step gains, to second order. With the residual r of (I + K^T H K) y = K^T H right, a step from
        y gains less by (|r|^2 - r^T (I + K^T H K)^-1 r) / 2 at most. From y = 0 they make a direction of
        descent at every iteration.
        """
        local, faces = self._alone(faces)
        parts = [_Columns(face.active, *face.roots()) for face in faces]
        precondition = local._preconditioner(faces, parts, outputs, H, tau)
        weighted = np.einsum("ikl,il->ik", H, right)
        y = np.zeros(sum(tau.size + int(part.used.sum()) for part in parts))
        energy = 0.5 * float(np.vdot(right, weighted))
        r = local._adjoint(parts, outputs, tau, weighted)
        way, old = np.zeros_like(y), np.inf
        for _ in range(limit):
            if r @ r <= _CLOSE * energy:
                return right - local._forward(parts, outputs, tau, y)
            z = precondition(r)
            way = z + (float(r @ z) / old) * way
            old = float(r @ z)
            f = local._forward(parts, outputs, tau, way)
            image = way + local._adjoint(parts, outputs, tau, np.einsum("ikl,il->ik", H, f))
            length = old / float(way @ image)
            y += length * way
            r -= length * image
            energy -= 0.5 * length * old
        return None

    def _alone(self, faces: list[Face]) -> tuple[System, list[Face]]:
        """Return the system of the groups of some faces alone, and these faces in it."""
        active = np.concatenate([face.active for face in faces])
        edges = np.cumsum([0, *(len(face.active) for face in faces)])
        operator = self._operator.restricted(active, slice(None))
        local = System(operator, self._pattern[active], self._masks, Memory())
        return local, [
            face._replace(active=np.arange(a, b))
            for face, (a, b) in zip(faces, pairwise(edges.tolist()), strict=True)
        ]

    def _preconditioner(
        self,
        faces: list[Face],
        parts: list[_Columns],
        outputs: Outputs,
        H: Array,
        tau: Array,
    ) -> Callable[[Array], Array]:
        """Return the inverse of I + K_s^T H_s K_s, for a sample of the rows weighted to stand for all.

        Where the sample has fewer rows than there are columns it is, with T = S_s K_s,
        I - T^T (I + T T^T)^-1 T.
        """
        n, k = len(H), len(outputs)
        size = max(1, _sample_size(n) // k)
        rows = np.sort(np.random.default_rng(0).choice(n, size, replace=False))
        operator = self._operator.restricted(np.arange(len(self._pattern)), rows)
        sample = System(operator, self._pattern, self._masks[rows], Memory())
        weighted = H[rows] * (n / size)
        if sum(tau.size + int(part.used.sum()) for part in parts) <= k * size:
            columns = _factor(sample._formed(parts, outputs, weighted, tau))
            return lambda r: np.asarray(cho_solve(columns, r, check_finite=False))
        S = square_roots(weighted)
        factor = sample._row_factor(faces, S, tau)

        def inverse(r: Array) -> Array:
            f = sample._forward(parts, outputs, tau, r)
            scaled = np.einsum("iab,ib->ai", S, f)
            inner = cho_solve(factor, scaled.ravel(), check_finite=False)
            theta = np.einsum("iab,bi->ia", S, inner.reshape(k, size))
            return r - sample._adjoint(parts, outputs, tau, theta)

        return inverse

    def _by_columns(
        self, faces: list[Face], outputs: Outputs, H: Array, tau: Array, right: Array
    ) -> Array:
        parts = [_Columns(face.active, *face.roots()) for face in faces]
        matrix = self._gram(parts, outputs, H, tau)
        if matrix is None:
            matrix = self._formed(parts, outputs, H, tau)
        y = self._adjoint(parts, outputs, tau, np.einsum("ikl,il->ik", H, right))
        y = cho_solve(_factor(matrix), y, check_finite=False)
        return right - self._forward(parts, outputs, tau, y)

    def _by_rows(
        self, faces: list[Face], outputs: Outputs, H: Array, tau: Array, right: Array
    ) -> Array:
        n, k = right.shape
        S = square_roots(H)
        factor = self._row_factor(faces, S, tau)
        scaled = np.einsum("iab,ib->ai", S, right)
        inner = cho_solve(factor, scaled.ravel(), check_finite=False)
        theta = np.einsum("iab,bi->ia", S, inner.reshape(k, n))
        return right - self._applied(faces, outputs, tau, theta)

    def _row_factor(self, faces: list[Face], S: Array, tau: Array) -> tuple[Array, bool]:
        """Return the Cholesky factor of I + S K K^T S, (k n, k n), as `cho_solve` wants it."""
        n, k = S.shape[:2]
        blocks = np.zeros((k, n, k, n))
        for m, face in enumerate(faces):
            outer = self._outer(face, tau)
            for a, b in np.ndindex(k, k):
                blocks[a, :, b, :] += S[:, a, m, None] * outer * S[:, m, b]
        return _factor(blocks.reshape(k * n, k * n))

    def _outer(self, face: Face, tau: Array) -> Array:
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
        complement = face.complement()
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

    def _applied(self, faces: list[Face], outputs: Outputs, tau: Array, theta: Array) -> Array:
        """Return K K^T theta."""
        op = self._operator
        groups, free = op.adjoint(self._everywhere(outputs, theta))
        v = np.zeros_like(groups)
        for face in faces:
            U = face.complement()
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
        if not self._keeps_gram(outputs, H):
            return None
        op, part, k, h = self._operator, parts[0], outputs[0], H[:, 0, 0]
        columns, d = int(part.used.sum()), op.X.shape[1]
        if len(h) * columns * (columns + _COLUMN) <= _GATHERED * (len(part.active) * d) ** 2:
            return None
        grams = self._memory.grams.get(k)
        if grams is None or not np.array_equal(grams.curvature, h):
            self._memory.grams[k] = Grams(op.X, op.Z, self._masks, h)
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
