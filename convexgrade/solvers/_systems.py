"""Linear systems of the proximal Newton method, over the faces of active groups.

With the columns K (see `_columns`) a Newton step solves

    (I + K K^T H) step = right side,

over the columns as I + K^T H K or over the rows as I + S K K^T S with S^2 = H, whichever is smaller.
H is never inverted: the curvature of a log loss vanishes where it is certain. Each output has a system
of its own; for those that a loss couples, see `_coupling`.

Where either takes long to form, conjugate gradients solve it by products with K alone, which cost what
the groups have numbers, not their square. They are preconditioned

- over the columns by the same system over a sample of the rows, I + K_s^T H_s K_s: rows are much alike,
  and a few dozen products do, however large sigma is;
- should that take long, over the rows, unless there are too many, by a system that was formed some steps
  ago, in single precision: from step to step faces change little, and sigma by a factor. It serves until
  products have cost what a new one does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from convexgrade.losses import Hessian
from convexgrade.pieces import MAX_FLOATS, chunks
from convexgrade.solvers import _coupling
from convexgrade.solvers._columns import Columns
from convexgrade.solvers._faces import Face
from convexgrade.solvers._gradients import CLOSE, conjugate, minimised
from convexgrade.solvers._operator import Operator
from convexgrade.solvers._symmetric import Factor, factored, solved_by_factor

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

# Costs are times, in units of one operation of those that form a system.
_GATHERED = 250  # cost of gathering one number of the Gram matrix of patterns
_COLUMN = 100  # cost of forming one number of a column of K
_MANY = 3e8  # cost of forming a system from which on conjugate gradients are worth a trial
_FEW = 16  # iterations of conjugate gradients that are no trial
_A_PRODUCT = 3  # cost of one number of a row in products with K and K^T
_A_ROOT = 25  # cost of one number of the roots of faces, which all products of an iteration read
_A_SWEEP = 100  # cost of one number of a preconditioner's factor over a sample, when it is used
_A_SOLVE = 10  # cost of one number of a kept factor over the rows, when it is used
_SAMPLED = 8  # rows for each one in the sample of a preconditioner
_SAMPLE = 256, 2048  # smallest and largest sample of a preconditioner, in rows
_NOTHING = 1e-6  # part of a root of the curvature that says nothing, relative to the largest
_KEPT = MAX_FLOATS  # floats up to which the factor of a system over the rows is kept
_REPAID = 3  # cost up to which a factor is kept, in units of a system over the columns
_REUSED = 12  # steps in which a kept factor is expected to serve, about
_SINGLE = 0.5  # cost of a factor in single precision, relative to one in double precision
_GRAM = 2048  # columns of patterns up to which their products are kept
_CACHED = 1 << 17  # floats that a processor's cache holds, 1 MB
_TOGETHER = 256  # rows that are summed at a time, at least: fewer are not worth the writing of sums


class PatternGrams:
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
        return self._matrix.take(columns, axis=0).take(columns, axis=1)

    def _extend(self, new: list[int]) -> None:
        """Add patterns: their products are sums of x_i x_i^T over the rows that two patterns share.

        Which is symmetric in the two: a new one is multiplied with those that have a place before it.
        """
        before = len(self._place)
        for p in new:
            self._place[p] = len(self._place)
        d, q, old, every = self._X.shape[1], self._Z.shape[1], len(self._matrix), list(self._place)
        upper = np.triu_indices(d)
        shared = np.zeros((len(new), len(every), upper[0].size))
        free = np.zeros((len(new), d * q))
        floats = len(every) + upper[0].size
        for rows in chunks(len(self._X), floats, most=max(_CACHED, _TOGETHER * floats)):
            X, weighted = self._X[rows], self.curvature[rows, None] * self._X[rows]
            squares = X[:, upper[0]] * weighted[:, upper[1]]
            masks = self._masks[rows][:, every].astype(float)
            for a, mask in enumerate(self._masks[rows][:, new].T):
                on, known = np.flatnonzero(mask), before + a + 1
                shared[a, :known] += masks[on, :known].T @ squares[on]
            unpenalised = (weighted[:, :, None] * self._Z[rows, None, :]).reshape(len(X), -1)
            free += masks[:, before:].T @ unpenalised
        among = shared[:, before:]
        among += np.tril(among.transpose(2, 0, 1), -1).transpose(2, 1, 0)
        place = np.empty((d, d), dtype=np.intp)
        place[upper] = place.T[upper] = np.arange(upper[0].size)
        columns = shared[:, :, place].transpose(1, 2, 0, 3).reshape(len(every) * d, -1)
        size = q + d * len(every)
        matrix = np.zeros((size, size))
        matrix[:old, :old] = self._matrix
        matrix[:q, old:] = free.reshape(len(new) * d, q).T
        matrix[q:, old:] = columns
        matrix[old:, :old] = matrix[:old, old:].T
        self._matrix = matrix


def _sample_size(rows: int) -> int:
    return int(np.clip(rows // _SAMPLED, *_SAMPLE))


@dataclass
class _Kept:
    """The factor of a system over the rows, and what products have been spent with it so far."""

    factor: Factor
    spent: float = 0.0


@dataclass
class Memory:
    """What a solve keeps from system to system.

    Attributes
    ----------
    grams : dict of int to PatternGrams
        Products of patterns' columns, for each output.
    samples_serve : bool
        Whether preconditioners over samples have always served. As sigma grows they do ever worse: what
        has failed once is not tried again.
    single_serves : bool
        Whether factors in single precision have always served.
    kept : dict of int to _Kept
        The last factor of a system over the rows, for each output.
    n_sampled : int
        Rows to sample for the next system of coupled outputs, 0 at first.
    """

    grams: dict[int, PatternGrams] = field(default_factory=dict)
    samples_serve: bool = True
    single_serves: bool = True
    kept: dict[int, _Kept] = field(default_factory=dict)
    n_sampled: int = 0


class System:
    """Newton systems over a working set."""

    def __init__(self, operator: Operator, pattern: Index, masks: Mask, memory: Memory) -> None:
        self._operator, self._pattern, self._masks, self._memory = operator, pattern, masks, memory
        self._n_columns = np.unique(pattern).size * operator.X.shape[1]

    def solve(self, face: Face, H: Hessian, tau: Array, right: Array) -> Array:
        """Return (I + K K^T H)^-1 right, shape (n_samples, n_outputs)."""
        outputs = tuple(range(right.shape[1]))
        if H.coupled:
            K, memory = Columns.of(self._operator, face, outputs, tau), self._memory
            step, memory.n_sampled = _coupling.solved(K, H, right, memory.n_sampled)
            return step
        step = np.empty_like(right)
        for k in outputs:
            K = Columns.of(self._operator, face, (k,), tau)
            step[:, [k]] = self._solved(K, H.D[:, [k]], right[:, [k]])
        return step

    def _solved(self, K: Columns, h: Array, right: Array) -> Array:
        over_columns, over_rows = _operations(K, right.size)
        cost = min(over_columns, over_rows)
        found = None
        by_gram = over_columns <= over_rows and self._keeps_gram(K.output, h)
        if cost >= _MANY and not by_gram:
            keeps = right.size * (right.size + 1) // 2 <= _KEPT
            keeps = keeps and over_rows <= _REPAID * over_columns
            limit = int(cost / _operations_sampled(K, right.size) / (_REUSED if keeps else 1))
            if self._memory.samples_serve and limit > _FEW:
                found = self._by_sample(K, h, right, limit)
                self._memory.samples_serve = found is not None
            if found is None and keeps:
                found = self._by_kept(K, h, right, _SINGLE * over_rows)
        direct = self._by_columns if over_columns <= over_rows else self._by_rows
        return direct(K, h, right) if found is None else found

    def _keeps_gram(self, output: int, h: Array) -> bool:
        """Return whether products of patterns' columns serve in many steps: where H stays."""
        if self._n_columns > _GRAM:
            return False
        grams = self._memory.grams.get(output)
        return grams is None or np.array_equal(grams.curvature, h[:, 0])

    def _by_sample(self, K: Columns, h: Array, right: Array, limit: int) -> Array | None:
        """Return a step that is exact enough, by conjugate gradients over the columns.

        None if so many iterations do not reach it.
        """
        K, begin = K.alone(), np.zeros(K.number)
        found = minimised(K, Hessian(h), right, begin, _over_sample(K, h), limit)
        return right - K.forward(found.y) if found.close else None

    def _by_kept(self, K: Columns, h: Array, right: Array, cost: float) -> Array:
        """Return a step by conjugate gradients over the rows, with a factor kept or made anew.

        In single precision, which takes half the time to make and to use, until that does not serve:
        of some systems it leaves nothing.
        """
        K, S = K.alone(), np.sqrt(h)
        product = _A_PRODUCT * len(right) * K.floats_a_row + _A_SOLVE * right.size**2

        def served(kept: _Kept) -> Array | None:
            found, taken = _by_factor(K, S, right, kept.factor, int(cost / product))
            kept.spent += taken * product
            return found

        memory, kept = self._memory, self._memory.kept.get(K.output)
        found = served(kept) if kept is not None and kept.spent < cost else None
        if found is None and memory.single_serves:
            try:
                kept = memory.kept[K.output] = _Kept(K.row_factor(S, np.float32))
                found = served(kept)
            except np.linalg.LinAlgError:
                pass
            memory.single_serves = found is not None
        if found is None:
            kept = memory.kept[K.output] = _Kept(K.row_factor(S))
            found = _over_rows(K, S, right, kept.factor)
        return found

    def _by_columns(self, K: Columns, h: Array, right: Array) -> Array:
        matrix = self._gram(K, h)
        if matrix is None:
            matrix = K.formed(Hessian(h))
        return K.solved(matrix, Hessian(h), right)

    def _by_rows(self, K: Columns, h: Array, right: Array) -> Array:
        S = np.sqrt(h)
        return _over_rows(K, S, right, K.row_factor(S))

    def _gram(self, K: Columns, h: Array) -> Array | None:
        """Return K^T H K from the Gram matrix of patterns; None where that is dearer, or is new."""
        if not self._keeps_gram(K.output, h):
            return None
        op, part, k = self._operator, K.every, K.output
        columns, d = int(part.used.sum()), op.X.shape[1]
        if len(h) * columns * (columns + _COLUMN) <= _GATHERED * (len(part.active) * d) ** 2:
            return None
        grams = self._memory.grams.get(k)
        if grams is None:
            self._memory.grams[k] = PatternGrams(op.X, op.Z, self._masks, h[:, 0])
            return None
        pattern, place = np.unique(self._pattern[part.active], return_inverse=True)
        gram = grams.at(pattern)
        if gram is None:
            return None
        q, root = K.tau.size, np.sqrt(K.tau)
        rows = gram[q:].reshape(len(pattern), d, len(gram))[place]
        rows = (part.roots.transpose(0, 2, 1) @ rows)[part.used]
        rows = np.concatenate([root[:, None] * gram[:q], rows])
        blocks = rows[:, q:].reshape(len(rows), len(pattern), d)[:, place].transpose(1, 0, 2)
        right = (blocks @ part.roots).transpose(1, 0, 2)[:, part.used]
        return np.concatenate([rows[:, :q] * root, right], axis=1)


def _operations(K: Columns, rows: int) -> tuple[float, float]:
    """Return about how many operations forming and factoring takes, over the columns and the rows."""
    over_columns = rows * float(K.number) ** 2 + float(K.number) ** 3 / 3.0
    over_rows = float(rows) ** 2 * K.width + float(rows) ** 3 / 3.0
    return over_columns, over_rows


def _operations_sampled(K: Columns, rows: int) -> float:
    """Return how many such operations take as long as an iteration with a sample of the rows."""
    products = _A_PRODUCT * rows * K.floats_a_row
    roots = _A_ROOT * K.floats_a_row * K.operator.X.shape[1]
    return float(products + roots + _A_SWEEP * min(_sample_size(rows), K.number) ** 2)


def _over_sample(K: Columns, h: Array) -> Callable[[Array], Array]:
    """Return the inverse of I + K_s^T H_s K_s, for a sample of the rows weighted to stand for all.

    Where the sample has fewer rows than there are columns it is, with T = S_s K_s,
    I - T^T (I + T T^T)^-1 T.
    """
    n = len(h)
    size = min(n, _sample_size(n))
    sample, rows = K.sampled(size)
    weighted = h[rows] * (n / size)
    if K.number <= size:
        matrix = sample.formed(Hessian(weighted))
        np.einsum("ii->i", matrix)[...] += 1.0
        columns = factored(matrix)
        return partial(solved_by_factor, columns)
    S = np.sqrt(weighted)
    factor = sample.row_factor(S)
    # Roots have d numbers for each column.
    products = sample.written_out() if size <= K.operator.X.shape[1] else sample

    def inverse(r: Array) -> Array:
        return r - products.adjoint(S * _solved_by(factor, S * products.forward(r)))

    return inverse


def _solved_by(factor: Factor, f: Array) -> Array:
    return factor.solve(f[:, 0])[:, None]


def _over_rows(K: Columns, S: Array, right: Array, factor: Factor) -> Array:
    """Return the step that a factor of I + S K K^T S gives."""
    return _step(K, S, right, _solved_by(factor, S * right))


def _by_factor(
    K: Columns, S: Array, right: Array, factor: Factor, limit: int
) -> tuple[Array | None, int]:
    """Return a step by conjugate gradients over the rows, and how many iterations they took.

    They maximise D(w) = w^T S right - w^T (I + S K K^T S) w / 2, whose maximum is what a whole Newton
    step gains, and a step with S step = w gains D(w). With the residual r it is at most |r|^2 / 2 less.
    """
    r = S * right
    found = conjugate(
        lambda way: way + S * K.applied(S * way),
        r,
        np.zeros_like(r),
        partial(_solved_by, factor),
        lambda left, gained: left <= CLOSE * gained,
        limit,
    )
    return _step(K, S, right, found.y) if found.close else None, found.taken


def _step(K: Columns, S: Array, right: Array, w: Array) -> Array:
    """Return the step with S step = w, and right - K K^T S w where S says nothing.

    With an exact w both are the same. The latter has the error of w times K K^T in it.
    """
    says = float(_NOTHING * S.max(initial=0.0)) < S
    step = np.divide(w, S, out=np.zeros_like(w), where=says)
    return step if says.all() else np.where(says, step, right - K.applied(S * w))
