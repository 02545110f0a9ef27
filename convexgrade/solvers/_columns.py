"""The columns K of a Newton system.

These are sigma^1/2 D_g X C_g of all active groups (see `_faces`), and tau^1/2 Z: products of what is
small, and mostly used without being formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from convexgrade.losses import Hessian
from convexgrade.pieces import chunks
from convexgrade.solvers._faces import Face
from convexgrade.solvers._operator import Operator, Outputs
from convexgrade.solvers._symmetric import Factor, Floats, factored_with_ones, solved, squared

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

_PANEL = 1 << 20  # floats of the part of K that is formed at a time
_ROWS = 256  # rows of K that are formed at a time, at least: fewer make products slow


class Roots(NamedTuple):
    """The columns of K that lead to one output, but for those of Z, before D_g X."""

    active: Index  # (m,)
    roots: Array  # (m, d, d)
    used: Mask  # (m, d)

    def take(self, some: slice) -> Roots:
        """Return those of some groups."""
        return Roots(self.active[some], self.roots[some], self.used[some])


@dataclass(frozen=True)
class Columns:
    """The columns of K that lead to some outputs.

    Attributes
    ----------
    operator : Operator
        The map of a working set.
    face : Face
        Faces of the active groups that lead to these outputs, one output after the other.
    outputs : tuple of int
        The outputs, ascending.
    tau : ndarray of shape (q,)
        Proximal parameters of the unpenalised columns.
    """

    operator: Operator
    face: Face
    outputs: Outputs
    tau: Array

    @classmethod
    def of(cls, operator: Operator, face: Face, outputs: Outputs, tau: Array) -> Columns:
        """Return the columns that lead to some outputs, of groups that may lead to others, too."""
        goes_to = operator.output[face.active]
        own = [np.flatnonzero(goes_to == k) for k in outputs]
        return cls(operator, face.take(np.concatenate(own)), outputs, tau)

    @property
    def output(self) -> int:
        """The output, if it is one."""
        (k,) = self.outputs
        return k

    @property
    def number(self) -> int:
        """Number of columns."""
        return sum(self.sizes)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of columns that lead to each output."""
        return [self.tau.size + self.face.take(span).dimensions for span in self._spans]

    @property
    def _spans(self) -> list[slice]:
        """Which of the active groups lead to each of the outputs."""
        goes_to = self.operator.output[self.face.active]
        edges = [*np.searchsorted(goes_to, self.outputs).tolist(), goes_to.size]
        return [slice(a, b) for a, b in pairwise(edges)]

    @property
    def floats_a_row(self) -> int:
        """Numbers that all active groups have: what a product costs for each row."""
        return self.face.q.size

    @property
    def width(self) -> int:
        """Number of columns, of one output, whose outer products make up K K^T, see `outer`."""
        return min(self.face.dimensions, _lacking(self.face))

    def alone(self) -> Columns:
        """Return the same columns, with an operator of the active groups alone."""
        active = self.face.active
        operator = self.operator.restricted(active, slice(None))
        return replace(
            self, operator=operator, face=replace(self.face, active=np.arange(active.size))
        )

    def sampled(self, n_rows: int) -> tuple[Columns, Index]:
        """Return so many rows of the columns, and which: random, but each time the same."""
        rows = np.random.default_rng(0).choice(len(self.operator.X), n_rows, replace=False)
        rows = np.sort(rows)
        every = np.arange(self.operator.channel.size)
        return replace(self, operator=self.operator.restricted(every, rows)), rows

    @property
    def every(self) -> Roots:
        """What the columns of all outputs are made of."""
        return Roots(self.face.active, *self.face.roots)

    @property
    def parts(self) -> list[Roots]:
        """What the columns of each output are made of."""
        return [self.every.take(span) for span in self._spans]

    @cached_property
    def _places(self) -> tuple[Index, Index]:
        """Where in a vector of coefficients those of Z are, (n_outputs, q), and those of groups."""
        first = np.cumsum([0, *self.sizes[:-1]])
        free = first[:, None] + np.arange(self.tau.size)
        return free, np.delete(np.arange(self.number), free.ravel())

    def forward(self, y: Array) -> Array:
        """Return K y, shape (n_samples, n_outputs)."""
        op, every, (free, groups) = self.operator, self.every, self._places
        v = np.zeros((op.channel.size, op.X.shape[1]))
        c = np.zeros((self.tau.size, len(op.spans)))
        c[:, self.outputs] = (np.sqrt(self.tau) * y[free]).T
        spread = np.zeros(every.used.shape)
        spread[every.used] = y[groups]
        # The roots hold s_g already, and the operator multiplies by it once more.
        v[every.active] = op.sign[every.active, None] * np.matvec(every.roots, spread)
        return op.forward(v, c)[:, self.outputs]

    def adjoint(self, theta: Array) -> Array:
        """Return K^T theta."""
        op, every, (free, groups) = self.operator, self.every, self._places
        correlated, unpenalised = op.adjoint(self._everywhere(theta))
        signed = op.sign[every.active, None] * correlated[every.active]
        y = np.empty(self.number)
        y[free] = np.sqrt(self.tau) * unpenalised[:, self.outputs].T
        y[groups] = np.matvec(every.roots.transpose(0, 2, 1), signed)[every.used]
        return y

    def applied(self, theta: Array) -> Array:
        """Return K K^T theta, from what the faces lack."""
        op, face = self.operator, self.face
        groups, free = op.adjoint(self._everywhere(theta))
        b, U = groups[face.active], face.complement
        inside = b - np.matvec(U, np.matvec(U.transpose(0, 2, 1), b))
        along = face.kappa * np.vecdot(face.q, b)
        v = np.zeros_like(groups)
        v[face.active] = face.sigma * (
            (1.0 - face.kappa)[:, None] * inside + along[:, None] * face.q
        )
        return op.forward(v, self.tau[:, None] * free)[:, self.outputs]

    def written_out(self) -> Written:
        """Return the columns as they are: for few rows."""
        every = slice(None)
        return Written(tuple(self._rows(part, every) for part in self.parts))

    def _everywhere(self, theta: Array) -> Array:
        """Return theta with zeros for the other outputs."""
        full = np.zeros((len(theta), len(self.operator.spans)))
        full[:, self.outputs] = theta
        return full

    def row_factor(self, S: Array, dtype: DTypeLike = float) -> Factor:
        """Return the Cholesky factor of I + S K K^T S, of one output, with S (n_samples, 1) diagonal."""
        return factored_with_ones(self.outer(S.astype(dtype, copy=False)))

    def outer(self, scale: Floats) -> Floats:
        """Return the triangle of K K^T, of one output, its rows times ``scale`` (n_samples, 1).

        In the precision of ``scale``, from some columns at a time. Where the faces are most of the
        space, from what they lack: with U_g = ``complement``,

            sum_g D_g X J_g X^T D_g = X X^T o sum_g (1 - kappa_g) D_g 1 1^T D_g
                                      + sum_g D_g X (kappa_g q q^T - (1 - kappa_g) U U^T) X^T D_g.
        """
        face = self.face
        op, channel, dtype = self.operator, self.operator.channel[face.active], scale.dtype
        X = scale * op.X.astype(dtype, copy=False)
        free = scale * (np.sqrt(self.tau) * op.Z).astype(dtype, copy=False)
        if face.dimensions <= _lacking(face):
            total = squared(free)
            for panel in self._panels(X, *face.roots, channel):
                total = squared(panel, 1.0, total)
            return total
        inside = np.sqrt(face.sigma * (1.0 - face.kappa))
        total = squared(X)
        total *= squared((inside * op.masks[:, channel]).astype(dtype, copy=False))
        total = squared(free, 1.0, total)
        along = np.sqrt(face.sigma * face.kappa)[:, None] * face.q
        every = np.ones((len(channel), 1), dtype=bool)
        for panel in self._panels(X, along[:, :, None], every, channel):
            total = squared(panel, 1.0, total)
        held = np.arange(face.complement.shape[2]) < face.held[:, None]
        for panel in self._panels(X, inside[:, None, None] * face.complement, held, channel):
            total = squared(panel, -1.0, total)
        return total

    def _panels(self, X: Floats, vectors: Array, used: Mask, channel: Index) -> Iterator[Floats]:
        """Yield D_g X times the used columns of ``vectors``, some at a time."""
        n, d = X.shape
        for some in chunks(len(channel), n * max(1, used.shape[1]), most=_PANEL):
            flat = vectors[some].transpose(1, 0, 2).reshape(d, -1)[:, used[some].ravel()]
            panel = X @ flat.astype(X.dtype, copy=False)
            panel *= self.operator.masks[:, np.repeat(channel[some], used[some].sum(axis=1))]
            yield panel

    def formed(self, H: Hessian) -> Array:
        """Return K^T H K, from some rows of K at a time."""
        edges = np.cumsum([0, *self.sizes])
        own = [slice(a, b) for a, b in pairwise(edges.tolist())]
        matrix = np.zeros((self.number, self.number))
        for rows in chunks(len(H.D), self.number, most=max(_PANEL, _ROWS * self.number)):
            D = H.D[rows]
            K = [self._rows(part, rows) for part in self.parts]
            for k, place in enumerate(own):
                scaled = np.sqrt(D[:, [k]]) * K[k]
                matrix[place, place] += scaled.T @ scaled
            if H.coupled:
                shared = np.concatenate([D[:, [k]] * K[k] for k in range(len(K))], axis=1)
                shared /= np.sqrt(np.sum(D, axis=1, keepdims=True))
                matrix -= shared.T @ shared
        return matrix

    def solved(self, gram: Array, H: Hessian, right: Array) -> Array:
        """Return (I + K K^T H)^-1 right over the columns, given K^T H K, which is written over."""
        np.einsum("ii->i", gram)[...] += 1.0
        return right - self.forward(solved(gram, self.adjoint(H.times(right))))

    def _rows(self, part: Roots, rows: slice) -> Array:
        """Return some rows of the columns of K that lead to one output."""
        op, d = self.operator, self.operator.X.shape[1]
        flat = part.roots.transpose(1, 0, 2).reshape(d, -1)[:, part.used.ravel()]
        channel = np.repeat(op.channel[part.active], part.used.sum(axis=1))
        free = np.sqrt(self.tau) * op.Z[rows][:, : self.tau.size]  # without any, none
        return np.concatenate([free, (op.X[rows] @ flat) * op.masks[rows][:, channel]], axis=1)


@dataclass(frozen=True)
class Written:
    """The columns K on few rows as they are, those that lead to one output after the other."""

    blocks: tuple[Array, ...]  # (n_samples, ...)

    def forward(self, y: Array) -> Array:
        """Return K y, shape (n_samples, n_outputs)."""
        pieces = np.split(y, np.cumsum([block.shape[1] for block in self.blocks])[:-1])
        products = (block @ piece for block, piece in zip(self.blocks, pieces, strict=True))
        return np.stack(list(products), axis=1)

    def adjoint(self, theta: Array) -> Array:
        """Return K^T theta."""
        own = zip(self.blocks, theta.T, strict=True)
        return np.concatenate([block.T @ column for block, column in own])


def _lacking(face: Face) -> int:
    """Return the number of columns that say what faces lack of the whole space."""
    return int(face.held.sum()) + 2 * len(face.held)
