"""The convex program of one grade.

With patterns D_g = diag(1[X h_g >= 0]), E_g = 2 D_g - I, signs s_g and one vector v_g a group,

    minimise    sum_i w_i loss(o_i + f_i, y_i) + alpha sum_g ||v_g||_2
    f           = sum_g s_g D_g X v_g e_{k(g)} + Z c
    subject to  E_g X v_g >= 0 for every g                                     (``cones=True``)

(Pilanci & Ergen 2020, eq. 8, with offset, weights, unpenalised columns Z and several outputs: group
g feeds output k(g) alone). Without the constraints it is the program of gated ReLU networks (Mishkin,
Sahiner & Pilanci 2022, eq. 3.1). An optimal v_g != 0 is one neuron: ``network.py`` converts.

The operator v -> sum_g s_g D_g X v_g and its adjoint are products with an (n_samples, n_groups) mask;
the (n_samples, n_groups * d) matrix behind them is never formed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from convexgrade.cones import Cones
from convexgrade.losses import Hessian, Loss
from convexgrade.patterns import Patterns, masked_adjoint, masked_sums

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_COMMON = "Z", "null_coefficients"  # properties that depend on neither patterns nor groups
_CHUNK = 1 << 20  # numbers of a product with masks that are formed at a time
_TOGETHER = 100  # groups whose dual norms are sought at a time
_NO_NUMBER = 1e290  # loss from which on sums of its curvature may be none
_STEPS = 60  # of Newton's method for unpenalised columns, at most,
_DEPENDENT = 1e-6  # share of a column that others leave, below which Newton steps do not see it
_FAR = 3.0  # responses, in units of the targets, that need not be so large
_FLAT = 1e-12, 1e-7  # where the loss rises by this share; the latter with kinks, rounded off
_FINER, _EASED = 0.3, 60  # rounding of kinks from solve to solve, of so many at most,
_AS_IT_IS = 1e-5  # until gradients differ from those without by so little of the largest


@dataclass(frozen=True)
class Groups:
    """Which pattern, sign and output each vector of a program belongs to; arrays of one length."""

    pattern: Index
    sign: Array
    output: Index

    def __len__(self) -> int:
        return self.pattern.size

    @classmethod
    def every(cls, n_patterns: int, n_outputs: int, *, signed: bool) -> Groups:
        """List all combinations; ``signed=False`` (free vectors) needs one sign only."""
        signs = np.array([1.0, -1.0]) if signed else np.array([1.0])
        output, sign, pattern = np.meshgrid(
            np.arange(n_outputs), signs, np.arange(n_patterns), indexing="ij"
        )
        return cls(pattern.ravel(), sign.ravel(), output.ravel())

    def take(self, index: Index | NDArray[np.bool_]) -> Groups:
        """Return the groups at ``index``."""
        return Groups(self.pattern[index], self.sign[index], self.output[index])

    def locate(self, other: Groups) -> Index:
        """Return the position in this list of each group of ``other``, or -1."""
        position = {key: g for g, key in enumerate(self._keys())}
        return np.array([position.get(key, -1) for key in other._keys()], dtype=np.intp)

    def _keys(self) -> list[tuple[int, float, int]]:
        return list(
            zip(self.pattern.tolist(), self.sign.tolist(), self.output.tolist(), strict=True)
        )


@dataclass(frozen=True)
class Program:
    """The convex program of one grade over given patterns.

    Attributes
    ----------
    X : ndarray of shape (n_samples, d)
        Rows of the grade's input; the last column is the constant 1, or 0 where neurons have no bias.
    free : ndarray of int, shape (q,)
        Columns of X that also enter unpenalised, Z = X[:, free]: none, the constant (an intercept),
        or, for a linear term, all that are independent.
    y : ndarray of shape (n_samples, n_outputs)
        Coded targets.
    offset : ndarray of shape (n_samples, n_outputs)
        The chain's output so far.
    weights : ndarray of shape (n_samples,)
        Positive, summing to 1.
    loss : Loss
        Mean loss F is ``weights @ loss.value(...)``.
    alpha : float
        Penalty.
    cones : bool
        Whether E_g X v_g >= 0 is imposed: True for ``relu``, False for ``gated_relu``.
    patterns : Patterns
        Patterns of X.
    groups : Groups
        The vectors of the program.
    """

    X: Array
    free: Index
    y: Array
    offset: Array
    weights: Array
    loss: Loss
    alpha: float
    cones: bool
    patterns: Patterns
    groups: Groups

    @cached_property
    def Z(self) -> Array:
        """Unpenalised columns, shape (n_samples, q); the last column of X counts as 1 among them."""
        return np.where(self.free == self.X.shape[1] - 1, 1.0, self.X[:, self.free])

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.y.shape[1]

    def over(self, patterns: Patterns, groups: Groups) -> Program:
        """Return the same problem over other patterns and groups; what depends on neither is kept."""
        other = replace(self, patterns=patterns, groups=groups)
        vars(other).update((name, vars(self)[name]) for name in _COMMON if name in vars(self))
        return other

    def on_rows(self, rows: Index) -> Program:
        """Return the same problem, without patterns, on some of the rows."""
        weights = self.weights[rows]
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            offset=self.offset[rows],
            weights=weights / weights.sum(),
            patterns=Patterns.none(rows.size, self.X.shape[1]),
            groups=Groups.every(0, self.n_outputs, signed=self.cones),
        )

    def every_group(self, patterns: Patterns) -> Groups:
        """Return all groups that ``patterns`` give rise to."""
        return Groups.every(len(patterns), self.n_outputs, signed=self.cones)

    def masks(self) -> NDArray[np.bool_]:
        """Return the pattern of each group, shape (n_samples, n_groups)."""
        return self.patterns.masks[:, self.groups.pattern]

    def routing(self) -> Array:
        """Return the (n_groups, n_outputs) matrix with s_g in column k(g)."""
        routing = np.zeros((len(self.groups), self.n_outputs))
        routing[np.arange(len(self.groups)), self.groups.output] = self.groups.sign
        return routing

    def predict(self, blocks: Array, unpenalised: Array) -> Array:
        """Return offset + f, shape (n_samples, n_outputs)."""
        prediction = self.offset + self.Z @ unpenalised
        signed, step = self.groups.sign[:, None] * blocks, max(1, _CHUNK // len(self.X))
        for k in range(self.n_outputs):
            own = np.flatnonzero(self.groups.output == k)
            for first in range(0, own.size, step):
                some = own[first : first + step]
                masks = self.patterns.masks[:, self.groups.pattern[some]]
                prediction[:, k] += masked_sums(masks, self.X, signed[some])
        return prediction

    def adjoint(self, theta: Array) -> Array:
        """Return s_g X^T D_g theta_{k(g)} for every group, shape (n_groups, d)."""
        patterns, place = np.unique(self.groups.pattern, return_inverse=True)
        found = np.empty((self.n_outputs, patterns.size, self.X.shape[1]))
        step = max(1, _CHUNK // len(self.X))
        for first in range(0, patterns.size, step):
            masks = self.patterns.masks[:, patterns[first : first + step]]
            for k in range(self.n_outputs):
                found[k, first : first + step] = masked_adjoint(masks, self.X, theta[:, k])
        return self.groups.sign[:, None] * found[self.groups.output, place]

    def mean_loss(self, prediction: Array) -> float:
        """Return F at a prediction."""
        return float(self.weights @ self.loss.value(prediction, self.y))

    def gradient(self, prediction: Array) -> Array:
        """Return grad F in the prediction, shape (n_samples, n_outputs)."""
        return self.weights[:, None] * self.loss.gradient(prediction, self.y)

    def curvature(self, prediction: Array) -> Hessian:
        """Return the Hessian of F in each row's prediction."""
        return self.loss.hessian(prediction, self.y).weighted(self.weights)

    def distance(self, prediction: Array) -> float:
        """Return how far, typically, a prediction is from where its loss is least.

        That is the mean loss by the mean slope: the mean distance for the absolute error, half of its
        square mean by its mean for the squared error.
        """
        return _distance(self.loss, prediction, self.y, self.weights)

    def eased(self, share: float) -> Program:
        """Return the program with kinks of the loss rounded off within a share of `distance`."""
        return replace(self, loss=self.loss.eased(share * self.distance(self.offset)))

    def penalty(self, blocks: Array) -> float:
        """Return alpha sum_g ||v_g||."""
        return self.alpha * float(np.linalg.norm(blocks, axis=1).sum())

    def objective(self, blocks: Array, unpenalised: Array) -> float:
        """Return F + penalty at a point."""
        return self.mean_loss(self.predict(blocks, unpenalised)) + self.penalty(blocks)

    def violation(self, blocks: Array) -> float:
        """Return the largest amount by which E_g X v_g >= 0 fails; 0 without cones."""
        if not self.cones or len(self.groups) == 0:
            return 0.0
        signed = np.where(self.masks(), 1.0, -1.0) * (self.X @ blocks.T)
        return float(max(0.0, -signed.min()))

    @cached_property
    def null_coefficients(self) -> Array:
        """The c minimising F(offset + Z c): the grade without neurons, shape (q, n_outputs)."""
        return fit_unpenalised(self.loss, self.Z, self.y, self.offset, self.weights)

    def alpha_max(self, *, above: float = 0.0) -> float:
        """Return the least alpha, at least ``above``, at which the grade without neurons is optimal.

        With theta = -grad F there, that is max_g ||Proj_K(s_g X^T D_g theta)||, by the optimality
        conditions 0 in alpha B + (polar cone) - s_g X^T D_g theta.
        """
        prediction = self.offset + self.Z @ self.null_coefficients
        return self.largest_dual_norm(self.adjoint(-self.gradient(prediction)), above=above)

    def largest_dual_norm(self, correlations: Array, *, above: float = 0.0) -> float:
        """Return max_g of ||Proj_K(b_g)||, or of ||b_g|| without cones; at least ``above``."""
        norms = np.linalg.norm(correlations, axis=1)
        if not self.cones:
            return max(above, float(norms.max(initial=0.0)))
        # Longest first: what these reach, most of the others need not be projected to fall short of.
        order = np.argsort(-norms, kind="stable")
        for first in range(0, order.size, _TOGETHER):
            some = order[first : first + _TOGETHER]
            some = some[norms[some] > above]
            if some.size == 0:
                break
            above = max(above, self._largest_projection(some, correlations[some], above))
        return above

    def _largest_projection(self, index: Index, correlations: Array, enough: float) -> float:
        """Return max of ||Proj_K(b_g)|| over some groups where it exceeds ``enough``."""
        patterns, place = np.unique(self.groups.pattern[index], return_inverse=True)
        cones = Cones.of(self.X, self.patterns.masks[:, patterns])
        projections, _ = cones.project(place, correlations, enough=enough)
        return float(np.linalg.norm(projections, axis=1).max())


def _distance(loss: Loss, f: Array, y: Array, weights: Array) -> float:
    """Return the mean loss by the mean slope."""
    slope = np.linalg.norm(loss.gradient(f, y), axis=1)
    return float(weights @ loss.value(f, y)) / max(float(weights @ slope), 1e-300)


def _mean_loss_at(
    loss: Loss, Z: Array, y: Array, offset: Array, weights: Array
) -> Callable[[Array], float]:
    """Return ``weights @ loss(offset + Z c)`` as a function of c."""
    return lambda c: float(weights @ loss.value(offset + Z @ c, y))


def fit_unpenalised(loss: Loss, Z: Array, y: Array, offset: Array, weights: Array) -> Array:
    """Minimise ``weights @ loss(offset + Z c)`` over c, shape (q, n_outputs), by Newton's method.

    The result is stationary to rounding where a minimiser exists. On separable classes, where none
    does, it is the point at which the loss stopped falling. A loss with kinks is rounded off, less and
    less.
    """
    c = np.zeros((Z.shape[1], y.shape[1]))
    if c.size == 0:
        return c
    before = float(weights @ loss.value(offset, y))
    if before == 0.0:  # losses are never negative
        return c
    if loss.kinked:
        for rounding in _distance(loss, offset, y, weights) * _FINER ** np.arange(_EASED):
            eased = loss.eased(rounding)
            c = _descended(eased, Z, y, offset, weights, c)
            q, q_eased = (each.gradient(offset + Z @ c, y) for each in (loss, eased))
            if np.abs(q_eased - q).max() <= _AS_IT_IS * np.abs(q).max():
                break
    c = _descended(loss, Z, y, offset, weights, c)
    if loss.quadratic:
        return c
    return shortened(loss, Z, y, offset, weights, c, before)


def shortened(
    loss: Loss, Z: Array, y: Array, offset: Array, weights: Array, c: Array, before: float
) -> Array:
    """Return c, for each output halved while its response is large for next to nothing.

    That is, next to the loss ``before`` the grade: without a linear term, neurons that cancel with it
    can have any loss. Hinges are flat beyond their kinks. Where there is no row of a class, they have
    many minimisers and rounded-off ones have none: c is then as far out as the tails of these have led.
    """
    mean_loss = _mean_loss_at(loss, Z, y, offset, weights)
    enough = mean_loss(c) + _FLAT[loss.kinked] * before
    for output in range(c.shape[1]):
        half = np.where(np.arange(c.shape[1]) == output, 0.5, 1.0)
        while np.abs(Z @ c[:, output]).max() > _FAR and mean_loss(half * c) <= enough:
            c = half * c
    return c


@np.errstate(over="ignore", invalid="ignore")
def _descended(loss: Loss, Z: Array, y: Array, offset: Array, weights: Array, c: Array) -> Array:
    """Take Newton steps from c until the loss no longer falls; none where it is no number."""
    q, k = c.shape
    mean_loss = _mean_loss_at(loss, Z, y, offset, weights)
    for _ in range(_STEPS):
        value = mean_loss(c)
        if not value < _NO_NUMBER:
            break
        f = offset + Z @ c
        gradient = Z.T @ (weights[:, None] * loss.gradient(f, y))
        curvature = loss.hessian(f, y).weighted(weights).matrices
        hessian = np.tensordot(Z, curvature[..., None] * Z[:, None, None, :], axes=(0, 0))
        hessian = hessian.transpose(0, 1, 3, 2)
        newton = np.linalg.lstsq(hessian.reshape(q * k, q * k), gradient.ravel(), rcond=1e-13)[0]
        # Quadratic convergence: the step after a decrement this small is exact to rounding.
        last = float(gradient.ravel() @ newton) <= 1e-10 * value
        steps = (c - t * newton.reshape(q, k) for t in 0.5 ** np.arange(30))
        better = (s for s in steps if mean_loss(s) <= value * (1.0 + 1e-14))
        c, previous = next(better, c), c
        if last or c is previous:
            break
    return c


def independent_columns(H: Array, weights: Array, centred: bool) -> Index:
    """Return columns of H (n_samples, d) on which all others depend, up to what Newton steps see.

    If ``centred``, on these and the constant. Hidden features of a chain, next to its inputs, can be as
    good as dependent. What linear terms reach by telling such columns apart has enormous coefficients:
    no solver finds it, no new row bears it, and yet a lower bound would have to allow for it.
    """
    columns = H / np.maximum(np.abs(H).max(axis=0), np.finfo(float).tiny)
    if centred:
        columns = columns - weights @ columns / weights.sum()
    size = np.sqrt(weights @ columns**2)
    varied = np.flatnonzero(size > _DEPENDENT * np.sqrt(weights.sum()))
    if varied.size == 0:
        return varied
    unit = np.sqrt(weights)[:, None] * columns[:, varied] / size[varied]
    triangle, order = qr(unit, mode="r", pivoting=True)
    left = np.abs(np.diagonal(triangle))  # of each column by those before it, decreasing
    return np.sort(varied[order[: np.sum(left > _DEPENDENT)]])
