"""Unpenalised columns: those of least loss, and which of them others depend on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lstsq, qr

from convexgrade.losses import Hessian, MeanLoss
from convexgrade.quadratics import least_squares

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_NO_NUMBER = 1e290  # loss from which on sums of its curvature may be none
_STEPS = 60  # steps of Newton's method, at most
_DEPENDENT = 1e-6  # share of a column that others leave, below which Newton steps do not see it
_FAR_LESS = 0.5  # share of the loss of the offset below which another start is better
_FAR = 3.0  # size of responses, in units of the targets, that is larger than need be
_FLAT = 1e-12  # rise of the loss, relative, that is none
_FLAT_SMOOTHED = 1e-7  # the same while kinks are smoothed
_FINER = 0.3  # factor of the smoothing of kinks from solve to solve
_SMOOTHINGS = 60  # such solves, at most
_AS_IT_IS = 1e-5  # difference that rounding makes to gradients, over the largest, that is none


def fit_unpenalised(mean_loss: MeanLoss, Z: Array, offset: Array) -> Array:
    """Minimise the mean loss at ``offset + Z c`` over c, shape (q, n_outputs), by Newton's method.

    The result is stationary to rounding where a minimiser exists. On separable classes, where none
    does, it is the point at which the loss stopped falling. A loss with kinks is smoothed, less and
    less.
    """
    c = np.zeros((Z.shape[1], offset.shape[1]))
    if c.size == 0:
        return c
    before = mean_loss(offset)
    if before == 0.0:  # losses are never negative
        return c
    if mean_loss.loss.kinked:
        for smoothing in mean_loss.distance(offset) * _FINER ** np.arange(_SMOOTHINGS):
            smoothed = mean_loss.smoothed(smoothing)
            c = _descended(smoothed, Z, offset, c)
            f = offset + Z @ c
            q, q_smoothed = (each.loss.gradient(f, each.y) for each in (mean_loss, smoothed))
            if np.abs(q_smoothed - q).max() <= _AS_IT_IS * np.abs(q).max():
                break
    elif not mean_loss.loss.quadratic and mean_loss.of_baseline() < _FAR_LESS * before:
        c = _towards_baseline(mean_loss, Z, offset)
    c = _descended(mean_loss, Z, offset, c)
    return c if mean_loss.loss.quadratic else shortened(mean_loss, Z, offset, c, before)


def _towards_baseline(mean_loss: MeanLoss, Z: Array, offset: Array) -> Array:
    """Return the c whose predictions are nearest to the best constant; 0 if these are no better.

    From an offset that is far off, Newton's method finds no way back where losses are exponentials:
    their curvature is next to none there, or falls as fast as they do.
    """
    root = np.sqrt(mean_loss.weights)[:, None]
    near = np.asarray(lstsq(root * Z, root * (mean_loss.baseline - offset))[0])
    better = mean_loss(offset + Z @ near) < mean_loss(offset)
    return near if better else np.zeros_like(near)


def shortened(mean_loss: MeanLoss, Z: Array, offset: Array, c: Array, before: float) -> Array:
    """Return c, for each output halved while its response is large for next to nothing.

    That is, next to the loss ``before`` the grade: without a linear term, neurons that cancel with it
    can have any loss. Hinges are flat beyond their kinks. Where there is no row of a class, they have
    many minimisers and smoothed ones have none: c is then as far out as the tails of these have led.
    Exponentials far off can have any loss before; then that of the best constant counts.
    """
    if mean_loss.loss.kinked:
        flat = _FLAT_SMOOTHED * before
    else:
        flat = _FLAT * min(before, mean_loss.of_baseline())
    enough = mean_loss(offset + Z @ c) + flat
    for output in range(c.shape[1]):
        half = np.where(np.arange(c.shape[1]) == output, 0.5, 1.0)
        while (
            np.abs(Z @ c[:, output]).max() > _FAR and mean_loss(offset + Z @ (half * c)) <= enough
        ):
            c = half * c
    return c


@np.errstate(over="ignore", invalid="ignore")
def _descended(mean_loss: MeanLoss, Z: Array, offset: Array, c: Array) -> Array:
    """Take Newton steps from c until the loss no longer falls; none where it is no number."""
    for _ in range(_STEPS):
        f = offset + Z @ c
        value = mean_loss(f)
        if not value < _NO_NUMBER:
            break
        gradient = Z.T @ mean_loss.gradient(f)
        step = coefficients(Z, mean_loss.hessian(f), gradient)
        # Quadratic convergence: the step after a decrement this small is exact to rounding.
        last = float(np.vdot(gradient, step)) <= 1e-10 * value
        steps = (c - t * step for t in 0.5 ** np.arange(30))
        better = (s for s in steps if mean_loss(offset + Z @ s) <= value * (1.0 + 1e-14))
        c, previous = next(better, c), c
        if last or c is previous:
            break
    return c


def coefficients(columns: Array, hessian: Hessian, right: Array) -> Array:
    """Return the c (q, n_outputs) with ``columns^T H columns c = right``, or as nearly as can be."""
    c = np.empty_like(right)
    for outputs in hessian.blocks:
        gram = weighted_gram(columns, hessian, outputs)
        found = least_squares(gram, right[:, outputs].T.ravel())
        c[:, outputs] = found.reshape(outputs.size, -1).T
    return c


def weighted_gram(columns: Array, hessian: Hessian, outputs: Index) -> Array:
    """Return sum_i H_i (x) z_i z_i^T, output by output: the Hessian in c of F(offset + Z c).

    Parameters
    ----------
    columns : ndarray of shape (n_samples, q)
        The z_i.
    hessian : Hessian
        The H_i.
    outputs : ndarray of shape (k,)
        Outputs: of a ``hessian`` that couples none, a single one.

    Returns
    -------
    ndarray of shape (k * q, k * q)
    """
    q, k = columns.shape[1], outputs.size
    gram = np.empty((k, q, k, q))
    for a in range(k):
        for b in range(a + 1):
            entry = hessian.entry(int(outputs[a]), int(outputs[b]))
            gram[a, :, b] = columns.T @ (entry[:, None] * columns)
            gram[b, :, a] = gram[a, :, b].T
    return gram.reshape(k * q, k * q)


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
