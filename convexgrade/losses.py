"""Losses: what a prediction costs, its derivatives, and its convex conjugate.

A loss compares predictions ``f`` with targets ``y``, both of shape (n_samples, n_outputs), row by
row. It knows nothing of features, patterns, penalties or solvers. Everything a grade needs follows
from five functions of one row:

=================== ================================================= =============================
function            meaning                                           used by
=================== ================================================= =============================
``value``           the loss of each row                              objective
``gradient``        its gradient in ``f``                             descent, dual point
``hessian``         its Hessian in ``f``                              Newton methods
``conjugate``       sup over f of <q, f> - loss(f, y)                 lower bound
``dual_bounds``     box that holds every ``q`` with finite conjugate  lower bound
=================== ================================================= =============================

and from ``baseline``, the constant prediction of least weighted loss, where a chain starts. A loss that
is half a squared norm says so (``quadratic``): the grades of its chains obey an energy identity. One
with kinks says so as well (``kinked``), and solvers approach it through losses whose kinks are
smoothed (``smoothed``), along paths on which their gradients change evenly (`kinks`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax, xlog1py, xlogy

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Hessian:
    """The Hessian H of each row: diagonal, or ``D - D 1 1^T D / 1^T D 1`` where outputs are coupled.

    Attributes
    ----------
    D : ndarray of shape (n_samples, n_outputs)
        Diagonal matrices.
    coupled : bool
        Whether outputs are.
    """

    D: Array
    coupled: bool = False

    def weighted(self, weights: Array) -> Hessian:
        """Return the Hessian of each row times its weight."""
        return replace(self, D=weights[:, None] * self.D)

    def times(self, f: Array) -> Array:
        """Return H f, shape (n_samples, n_outputs)."""
        if not self.coupled:
            return self.D * f
        mean = np.sum(self.D * f, axis=1, keepdims=True) / self._mass
        return np.asarray(self.D * (f - mean))

    def rooted(self, f: Array) -> Array:
        """Return R f, shape (n_samples, n_outputs, m) as f, for some R with R^T R = H.

        For coupled outputs, H = D^1/2 P D^1/2 with the projection P off D^1/2 1: R = P D^1/2.
        """
        root = np.sqrt(self.D)[:, :, None]
        scaled = root * f
        if self.coupled:
            along = np.sum(root * scaled, axis=1, keepdims=True)
            scaled -= root * (along / self._mass[:, :, None])
        return np.asarray(scaled)

    def entry(self, a: int, b: int) -> Array:
        """Return H_ab of each row, shape (n_samples,)."""
        own = self.D[:, a] if a == b else np.zeros(len(self.D))
        return own - self.D[:, a] * self._shares[:, b] if self.coupled else own

    def without(self, entries: Mask) -> Hessian:
        """Return the Schur complement of some entries of each row (n_samples, n_outputs).

        Where outputs are coupled, that of entry e is ``D' - D' 1 1^T D' / 1^T D' 1`` once more, with
        D'_e = 0: what leaves e alone and keeps what the others have in common.
        """
        return replace(self, D=np.where(entries, 0.0, self.D))

    @property
    def blocks(self) -> list[Index]:
        """The sets of outputs that are coupled: all, or each by itself."""
        every = np.arange(self.D.shape[1])
        return [every] if self.coupled else list(every[:, None])

    @property
    def traces(self) -> Array:
        """Trace of each, shape (n_samples,)."""
        bends = self.D * (1.0 - self._shares) if self.coupled else self.D
        return np.asarray(np.sum(bends, axis=1))

    @property
    def matrices(self) -> Array:
        """Matrices, shape (n_samples, n_outputs, n_outputs)."""
        matrices = self.D[:, :, None] * np.eye(self.D.shape[1])
        if self.coupled:
            matrices -= self.D[:, :, None] * self._shares[:, None, :]
        return np.asarray(matrices)

    @cached_property
    def _mass(self) -> Array:
        return np.maximum(np.sum(self.D, axis=1, keepdims=True), 1e-300)

    @cached_property
    def _shares(self) -> Array:
        return np.asarray(self.D / self._mass)


class Path(NamedTuple):
    """Predictions that a Newton step leads through, by the length of the step."""

    longest: float  # length up to which the loss can follow, at most 1
    at: Callable[[float], Array]
    velocity: Callable[[float], Array]


class Loss(Protocol):
    """What a grade asks of a loss. Targets are coded as real arrays (n_samples, n_outputs)."""

    @property
    def name(self) -> str:
        """Name in the public API."""

    @property
    def quadratic(self) -> bool:
        """Whether it is ``|f - y|^2 / 2``."""

    @property
    def kinked(self) -> bool:
        """Whether its gradient jumps or its curvature vanishes, up to rounding."""

    @property
    def coupled(self) -> bool:
        """Whether it is no sum over outputs, so that its Hessian is not diagonal."""

    def value(self, f: Array, y: Array) -> Array:
        """Return the loss of each row, shape (n_samples,)."""

    def gradient(self, f: Array, y: Array) -> Array:
        """Return the gradient of each row in its prediction, shape (n_samples, n_outputs)."""

    def hessian(self, f: Array, y: Array) -> Hessian:
        """Return the Hessian of each row in its prediction."""

    def conjugate(self, q: Array, y: Array) -> Array:
        """Return sup over f of ``<q, f> - loss(f, y)`` for each row; inf outside the domain."""

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return lower and upper bounds on the ``q`` of finite conjugate, shaped like ``y``."""

    def baseline(self, y: Array, weights: Array) -> Array:
        """Return the constant prediction of least weighted loss, shape (n_outputs,)."""

    def smoothed(self, smoothing: float) -> Loss:
        """Return a loss of about the same gradient, with kinks smoothed within ``smoothing``.

        Its value may differ by a constant.
        """

    def carried(self, f: Array, y: Array, to: Loss) -> Array:
        """Return where ``to``, this loss smoothed by more or less, has the gradient of this at ``f``."""

    def path(self, f: Array, step: Array, y: Array) -> Path:
        """Return the predictions from ``f`` on along a Newton step."""


class MeanLoss(NamedTuple):
    """F: the weighted mean of a loss over rows with given targets, as a function of predictions.

    Attributes
    ----------
    loss : Loss
        Loss of a row.
    y : ndarray of shape (n_samples, n_outputs)
        Coded targets.
    weights : ndarray of shape (n_samples,)
        Weights of the rows.
    """

    loss: Loss
    y: Array
    weights: Array

    def __call__(self, f: Array) -> float:
        """Return F at predictions of shape (n_samples, n_outputs)."""
        return float(self.weights @ self.loss.value(f, self.y))

    def gradient(self, f: Array) -> Array:
        """Return its gradient, shape (n_samples, n_outputs)."""
        return self.weights[:, None] * self.loss.gradient(f, self.y)

    def hessian(self, f: Array) -> Hessian:
        """Return its Hessian in each row's prediction."""
        return self.loss.hessian(f, self.y).weighted(self.weights)

    def distance(self, f: Array) -> float:
        """Return how far, typically, predictions are from where their loss is least.

        That is the mean loss over the mean slope: for the absolute error the mean distance, for the
        squared error half the mean of its square over its mean. 0 where no slope is left.
        """
        slope = float(self.weights @ np.linalg.norm(self.loss.gradient(f, self.y), axis=1))
        return self(f) / slope if slope > 0.0 else 0.0

    @property
    def baseline(self) -> Array:
        """The best constant prediction, shape (n_outputs,)."""
        return self.loss.baseline(self.y, self.weights)

    def of_baseline(self) -> float:
        """Return the mean loss of the best constant."""
        return self(np.broadcast_to(self.baseline, self.y.shape))

    def smoothed(self, smoothing: float) -> MeanLoss:
        """Return the mean of the loss with its kinks smoothed within ``smoothing``."""
        return self._replace(loss=self.loss.smoothed(smoothing))


class Straight:
    """Losses whose predictions stay where they are as a loss is smoothed, and move on straight lines."""

    def carried(self, f: Array, y: Array, to: Loss) -> Array:
        """Return ``f``."""
        return f

    def path(self, f: Array, step: Array, y: Array) -> Path:
        """Return the straight line."""
        return Path(1.0, lambda length: f + length * step, lambda length: step)


class Smooth(Straight):
    """What losses without kinks have in common: they are as easy as can be."""

    kinked = False
    coupled = False

    def smoothed(self, smoothing: float) -> Self:
        """Return the loss itself."""
        return self


@dataclass(frozen=True)
class SquaredError(Smooth):
    """Half the squared error, ``|f - y|^2 / 2``, summed over outputs."""

    name = "squared_error"
    quadratic = True

    def value(self, f: Array, y: Array) -> Array:
        """Return ``|f - y|^2 / 2`` for each row."""
        return 0.5 * np.sum((f - y) ** 2, axis=1)

    def gradient(self, f: Array, y: Array) -> Array:
        """Return ``f - y``."""
        return f - y

    def hessian(self, f: Array, y: Array) -> Hessian:
        """Return the identity for each row."""
        return Hessian(np.ones_like(f))

    def conjugate(self, q: Array, y: Array) -> Array:
        """Return ``<q, y> + |q|^2 / 2``; finite everywhere."""
        return np.sum(q * (y + 0.5 * q), axis=1)

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return no bounds: every ``q`` has a finite conjugate."""
        return np.full_like(y, -np.inf), np.full_like(y, np.inf)

    def baseline(self, y: Array, weights: Array) -> Array:
        """Return the weighted mean."""
        return weights @ y / weights.sum()


@dataclass(frozen=True)
class BinaryLogLoss(Smooth):
    """Negative log-likelihood of one logit, ``log(1 + e^f) - y f``, with y in {0, 1}."""

    name = "log_loss"
    quadratic = False

    def value(self, f: Array, y: Array) -> Array:
        """Return ``log(1 + e^-m)`` at the margin ``m = (2 y - 1) f``: all its digits in either tail."""
        return np.sum(np.logaddexp(0.0, (1.0 - 2.0 * y) * f), axis=1)

    def gradient(self, f: Array, y: Array) -> Array:
        """Return ``sigmoid(f) - y``, as ``-(2 y - 1) sigmoid(-m)``."""
        side = 2.0 * y - 1.0
        return -side * expit(-side * f)

    def hessian(self, f: Array, y: Array) -> Hessian:
        """Return ``p (1 - p)``; ``expit(-f)`` keeps it positive in the tail."""
        return Hessian(expit(f) * expit(-f))

    def conjugate(self, q: Array, y: Array) -> Array:
        """Return ``p log p + (1 - p) log(1 - p)`` at ``p = |q|``, of the other class, in [0, 1].

        It is the same at ``q + y``, which would round a small q away.
        """
        p = (1.0 - 2.0 * y) * q
        inside = np.all((p >= 0.0) & (p <= 1.0), axis=1)
        p = np.clip(p, 0.0, 1.0)
        entropy = np.sum(xlogy(p, p) + xlog1py(1.0 - p, -p), axis=1)
        return np.where(inside, entropy, np.inf)

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return ``-y <= q <= 1 - y``."""
        return -y, 1.0 - y

    def baseline(self, y: Array, weights: Array) -> Array:
        """Return the weighted prior log-odds."""
        p = _shrink_to_open_interval(weights @ y / weights.sum())
        return np.log(p) - np.log1p(-p)


@dataclass(frozen=True)
class SoftmaxLogLoss(Smooth):
    """Multinomial negative log-likelihood, ``logsumexp(f) - <y, f>``, with one-hot ``y``."""

    name = "log_loss"
    quadratic = False
    coupled = True

    def value(self, f: Array, y: Array) -> Array:
        """Return ``logsumexp(f) - <y, f>``.

        At ``f - max f``, so that it cannot overflow, and by log(1 + others), so that the loss of a
        certain prediction has all its digits.
        """
        rows, top = np.arange(len(f)), f.argmax(axis=1)
        f = f - f[rows, top, None]
        others = np.exp(f)
        others[rows, top] = 0.0
        return np.log1p(others.sum(axis=1)) - np.vecdot(y, f)

    def gradient(self, f: Array, y: Array) -> Array:
        """Return ``softmax(f) - y``; of a row's own class, minus the sum of the others."""
        others = (1.0 - y) * softmax(f, axis=1)
        return others - y * np.minimum(others.sum(axis=1, keepdims=True), 1.0)

    def hessian(self, f: Array, y: Array) -> Hessian:
        """Return ``diag(p) - p p^T`` for each row, where p sums up to 1."""
        return Hessian(softmax(f, axis=1), coupled=True)

    def conjugate(self, q: Array, y: Array) -> Array:
        """Return ``sum p log p`` at ``p = q + y`` on the probability simplex, inf off it.

        The condition ``sum q = 0`` is met by every gradient and by every combination of gradients,
        up to rounding; a row is off the simplex when its sum differs from that by more. The p of the
        row's own class is 1 less all others, of which a small one would be lost in ``q + y``.
        """
        p = np.where(y > 0.0, 0.0, q)
        others = p.sum(axis=1)
        off = np.maximum(np.abs(q.sum(axis=1)), others - 1.0)
        inside = np.all(p >= 0.0, axis=1) & (off <= 1e-9)
        p, others = np.maximum(p, 0.0), np.clip(others, 0.0, 1.0)
        value = np.sum(xlogy(p, p), axis=1) + xlog1py(1.0 - others, -others)
        return np.where(inside, value, np.inf)

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return ``-y <= q``; the upper bound follows from ``sum q = 0``."""
        return -y, np.full_like(y, np.inf)

    def baseline(self, y: Array, weights: Array) -> Array:
        """Return the weighted log priors, centred."""
        log_prior = np.log(_shrink_to_open_interval(weights @ y / weights.sum()))
        return log_prior - log_prior.mean()


@dataclass(frozen=True)
class Poisson(Smooth):
    """Half the Poisson deviance of counts y >= 0 whose mean is ``e^f``.

    ``e^f - y f + y log y - y``: zero where the mean is y. Near there, the terms cancel: in units of y,
    it is ``e^t - 1 - t`` with ``t = f - log y``.
    """

    name = "poisson"
    quadratic = False

    # Values and slopes that are no numbers are infinite: searches and steps then turn back.

    @np.errstate(over="ignore")
    def value(self, f: Array, y: Array) -> Array:
        """Return half the deviance of each row; no rounding makes it negative."""
        unit = _units(y)
        t = f - np.log(unit)
        positive = unit * np.maximum(np.expm1(t) - t, 0.0)
        return np.sum(np.where(y > 0.0, positive, np.exp(f)), axis=1)

    @np.errstate(over="ignore")
    def gradient(self, f: Array, y: Array) -> Array:
        """Return ``e^f - y``, in units of y as well."""
        unit = _units(y)
        return np.where(y > 0.0, unit * np.expm1(f - np.log(unit)), np.exp(f))

    @np.errstate(over="ignore")
    def hessian(self, f: Array, y: Array) -> Hessian:
        """Return ``diag(e^f)`` for each row."""
        return Hessian(np.exp(f))

    def conjugate(self, q: Array, y: Array) -> Array:
        """Return ``p log p - p - (y log y - y)`` at ``p = q + y >= 0``.

        With s = q / y, that is ``q log y + y ((1 + s) log(1 + s) - s)``; where y = 0, ``q log q - q``.
        """
        inside = np.all(q + y >= 0.0, axis=1)
        unit = _units(y)
        s = np.maximum(q / unit, -1.0)
        positive = q * np.log(unit) + unit * (xlog1py(1.0 + s, s) - s)
        p = np.maximum(q, 0.0)
        value = np.sum(np.where(y > 0.0, positive, xlogy(p, p) - p), axis=1)
        return np.where(inside, value, np.inf)

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return ``-y <= q``."""
        return -y, np.full_like(y, np.inf)

    def baseline(self, y: Array, weights: Array) -> Array:
        """Return the logarithm of the weighted mean; far below 0 where every y is 0."""
        return np.log(np.maximum(weights @ y / weights.sum(), 1e-12))


def _units(y: Array) -> Array:
    """Return y, and 1 where it is 0: what deviances are measured in."""
    return np.where(y > 0.0, y, 1.0)


def _shrink_to_open_interval(p: Array) -> Array:
    """Keep priors off 0 and 1, where log-odds are infinite (a class of weight zero)."""
    return np.clip(p, 1e-12, 1.0 - 1e-12)
