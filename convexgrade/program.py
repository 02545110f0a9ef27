"""What a grade has to fit, the problem, and its convex program over given patterns.

The problem is the training of a network with one hidden layer, added to what grades before it give:

    minimise    sum_i w_i loss(o_i + f_i, y_i) + alpha sum_j ||u_j||_2 ||a_j||_1
    f           = sum_j (X u_j)_+ a_j^T + Z c

With patterns D_g = diag(1[X h_g >= 0]), E_g = 2 D_g - I, signs s_g and one vector v_g a group, the
program is

    minimise    sum_i w_i loss(o_i + f_i, y_i) + alpha sum_g ||v_g||_2
    f           = sum_g s_g D_g X v_g e_{k(g)} + Z c
    subject to  E_g X v_g >= 0 for every g                                     (``cones=True``)

(Pilanci & Ergen 2020, eq. 8, with offset, weights, unpenalised columns Z and several outputs: group
g feeds output k(g) alone). Over all patterns of X, it has the optimum of the problem. Without the
constraints it is the program of gated ReLU networks (Mishkin, Sahiner & Pilanci 2022, eq. 3.1). An
optimal v_g != 0 is one neuron: ``network.py`` converts.

The operator v -> sum_g s_g D_g X v_g and its adjoint are products with an (n_samples, n_groups) mask;
the (n_samples, n_groups * d) matrix behind them is never formed here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from convexgrade.cones import Cones
from convexgrade.groups import Groups
from convexgrade.losses import Loss, MeanLoss
from convexgrade.patterns import Patterns, masked_adjoint, masked_sums
from convexgrade.pieces import chunks
from convexgrade.unpenalised import fit_unpenalised

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_CHUNK = 1 << 20  # numbers of a product with masks that are formed at a time
_TOGETHER = 100  # groups whose dual norms are sought at a time


@dataclass(frozen=True)
class Problem:
    """What a grade has to fit.

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
    """

    X: Array
    free: Index
    y: Array
    offset: Array
    weights: Array
    loss: Loss
    alpha: float
    cones: bool

    @cached_property
    def Z(self) -> Array:
        """Unpenalised columns, shape (n_samples, q); the last column of X counts as 1 among them."""
        return np.where(self.free == self.X.shape[1] - 1, 1.0, self.X[:, self.free])

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.y.shape[1]

    @property
    def mean_loss(self) -> MeanLoss:
        """F, as a function of predictions."""
        return MeanLoss(self.loss, self.y, self.weights)

    @property
    def loss_before(self) -> float:
        """F before the grade, at the offset: what certified gaps are relative to."""
        return self.mean_loss(self.offset)

    @cached_property
    def null_coefficients(self) -> Array:
        """The c minimising F(offset + Z c): the grade without neurons, shape (q, n_outputs)."""
        return fit_unpenalised(self.mean_loss, self.Z, self.offset)

    @property
    def null_prediction(self) -> Array:
        """The prediction of the grade without neurons, shape (n_samples, n_outputs)."""
        return self.offset + self.Z @ self.null_coefficients

    @property
    def null_loss(self) -> float:
        """F of the grade without neurons, at most `loss_before`: what solvers' gaps are relative to."""
        return self.mean_loss(self.null_prediction)

    def relative(self, amount: float) -> float:
        """Return an amount of the objective in units of `null_loss`; as it is, where that is 0."""
        return amount / (self.null_loss or 1.0)

    def penalty(self, blocks: Array) -> float:
        """Return alpha sum_g ||v_g||."""
        return self.alpha * float(np.linalg.norm(blocks, axis=1).sum())

    def on_rows(self, rows: Index) -> Problem:
        """Return the same problem on some of the rows."""
        weights = self.weights[rows]
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            offset=self.offset[rows],
            weights=weights / weights.sum(),
        )

    def every_group(self, patterns: Patterns) -> Groups:
        """Return all groups that ``patterns`` give rise to."""
        return Groups.every(len(patterns), self.n_outputs, signed=self.cones)

    def over(self, patterns: Patterns, groups: Groups | None = None) -> Program:
        """Return the program over patterns: over some groups of theirs, or all."""
        groups = self.every_group(patterns) if groups is None else groups
        values = {field.name: getattr(self, field.name) for field in fields(Problem)}
        program = Program(**values, patterns=patterns, groups=groups)
        # What is known of the problem is not computed anew.
        known = (name for name in ("Z", "null_coefficients") if name in vars(self))
        vars(program).update((name, vars(self)[name]) for name in known)
        return program


@dataclass(frozen=True)
class Program(Problem):
    """The convex program of a problem over given patterns.

    Attributes
    ----------
    patterns : Patterns
        Patterns of X.
    groups : Groups
        The vectors of the program.
    """

    patterns: Patterns
    groups: Groups

    def take(self, groups: Index | NDArray[np.bool_]) -> Program:
        """Return the program over some of its groups."""
        return self.over(self.patterns, self.groups.take(groups))

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
        signed = self.groups.sign[:, None] * blocks
        for k in range(self.n_outputs):
            own = np.flatnonzero(self.groups.output == k)
            for part in chunks(own.size, len(self.X), most=_CHUNK):
                some = own[part]
                masks = self.patterns.masks[:, self.groups.pattern[some]]
                prediction[:, k] += masked_sums(masks, self.X, signed[some])
        return prediction

    def adjoint(self, theta: Array) -> Array:
        """Return s_g X^T D_g theta_{k(g)} for every group, shape (n_groups, d)."""
        correlations = np.empty((len(self.groups), self.X.shape[1]))
        for k in range(self.n_outputs):
            own = np.flatnonzero(self.groups.output == k)
            patterns, place = np.unique(self.groups.pattern[own], return_inverse=True)
            found = np.empty((patterns.size, self.X.shape[1]))
            for some in chunks(patterns.size, len(self.X), most=_CHUNK):
                masks = self.patterns.masks[:, patterns[some]]
                found[some] = masked_adjoint(masks, self.X, theta[:, k])
            correlations[own] = found[place]
        return self.groups.sign[:, None] * correlations

    def objective(self, blocks: Array, unpenalised: Array) -> float:
        """Return F + penalty at a point."""
        return self.mean_loss(self.predict(blocks, unpenalised)) + self.penalty(blocks)

    def violation(self, blocks: Array) -> float:
        """Return the largest amount by which E_g X v_g >= 0 fails; 0 without cones."""
        some = np.flatnonzero(blocks.any(axis=1))
        if not self.cones or some.size == 0:
            return 0.0
        masks = self.patterns.masks[:, self.groups.pattern[some]]
        signed = np.where(masks, 1.0, -1.0) * (self.X @ blocks[some].T)
        return float(max(0.0, -signed.min()))

    def alpha_max(self, *, above: float = 0.0) -> float:
        """Return the least alpha, at least ``above``, at which the grade without neurons is optimal.

        With theta = -grad F there, that is max_g ||Proj_K(s_g X^T D_g theta)||, by the optimality
        conditions 0 in alpha B + (polar cone) - s_g X^T D_g theta.
        """
        slopes = self.mean_loss.gradient(self.null_prediction)
        return self.largest_dual_norm(self.adjoint(-slopes), above=above)

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
            projections = self.projected(some, correlations[some], enough=above)
            above = max(above, float(np.linalg.norm(projections, axis=1).max()))
        return above

    def projected(self, groups: Index, points: Array, *, enough: float = 0.0) -> Array:
        """Project points on the cones of some groups; those no longer than ``enough`` only roughly."""
        patterns, place = np.unique(self.groups.pattern[groups], return_inverse=True)
        cones = Cones.of(self.X, self.patterns.masks[:, patterns])
        return cones.project(place, points, enough=enough)[0]
