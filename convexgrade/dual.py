"""Points of the dual, and the lower bounds they prove.

With theta = -W q for any q with Z^T W q = 0 and finite conjugate, `certificate` derives

    optimum >= sum_i w_i (t q_i . o_i - loss*(t q_i)),    t = min(1, alpha / max_g ||Proj_K(.)||).

At the optimum q is a gradient of the loss at the prediction, so that every prediction tells one. But
where the gradient jumps, or vanishes on most rows, that of a prediction which is nearly right can be far
off, in units of its size. There a solver that works with theta hands its own on, and the higher of the
two bounds counts: neither has to be believed, as each holds whatever theta is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array

from convexgrade.groups import Groups
from convexgrade.losses import Hessian
from convexgrade.program import Problem, Program
from convexgrade.unpenalised import coefficients, fit_unpenalised

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CLOSE_ENOUGH = 1e-6  # relative excess over alpha at which multipliers are not refined
_BALANCED = 1e-12  # size of Z^T W q, over that of its terms, that is rounding
_ROUNDING = 1e-15  # the same, where balancing has no digits left to gain
_BEYOND = 1e100  # loss, as of e^f, from which on squares of gradients may be no numbers
_AT_END = 1e-9  # distance from an end of the domain, over the largest |q|, that balancing gives up
_ROUNDS = 100  # rounds of balancing, at most: separable classes take tens of them
_LINEAR = 1e4  # predictions, in units of their size, of which a curvature tells nothing


@dataclass(frozen=True)
class DualPoint:
    """A point q of the dual with Z^T W q = 0 and finite conjugate, as theta = -W q.

    Attributes
    ----------
    q, theta : ndarray of shape (n_samples, n_outputs)
        ``theta = -weights * q``.
    """

    q: Array
    theta: Array


class SolverDual(NamedTuple):
    """What a solver knows of the dual, of any quality.

    Attributes
    ----------
    groups : Groups
        Some groups.
    rho : array of shape (n_samples, n_groups), or None
        Multipliers >= 0 of the constraints of these, where they have any.
    theta : ndarray of shape (n_samples, n_outputs), or None
        Where it can tell more than the gradient at a prediction.
    """

    groups: Groups
    rho: Array | csc_array | None
    theta: Array | None = None


class Bound(NamedTuple):
    """A lower bound on the optimum over some groups.

    Attributes
    ----------
    value : float
        The bound.
    largest : float
        max_g ||Proj_K(s_g X^T D_g theta)||, or a bound on it.
    point : DualPoint
        What proves it.
    """

    value: float
    largest: float
    point: DualPoint


def best_bound(full: Program, prediction: Array, solver_dual: SolverDual | None = None) -> Bound:
    """Return the higher of the bounds that a prediction and a solver's theta prove.

    Parameters
    ----------
    full : Program
        The groups it has are those of the bound.
    prediction : ndarray of shape (n_samples, n_outputs)
        Prediction near the optimum.
    solver_dual : SolverDual or None
        What a solver knows.

    Returns
    -------
    Bound
    """
    own = own_bound(full, prediction, solver_dual)
    if solver_dual is None or solver_dual.theta is None:
        return own
    other = _bound(full, _point_near(full, solver_dual.theta), solver_dual)
    return other if other.value > own.value else own


def own_bound(full: Program, prediction: Array, solver_dual: SolverDual | None = None) -> Bound:
    """Return the bound that a prediction proves, whatever a solver's theta would."""
    return _bound(full, dual_point(full, prediction), solver_dual)


def _bound(full: Program, point: DualPoint, solver_dual: SolverDual | None) -> Bound:
    largest = dual_norm_bound(full, point, solver_dual)
    return Bound(lower_bound(full, point.q, largest), largest, point)


def dual_point(problem: Problem, prediction: Array) -> DualPoint:
    """Return the dual point that belongs to a prediction.

    The gradient at the prediction, its unpenalised part refitted, is balanced: moved inside the domain
    of the conjugate until Z^T W q = 0. Where that fails, it is projected, and moves back towards that of
    the unpenalised model without offset: this meets the same condition, and lies well inside the domain
    however close to certainty the chain already is.
    """
    p, basis = problem, _unpenalised_basis(problem)
    if not p.mean_loss(prediction) < _BEYOND:  # its gradient is no help: any point will do
        prediction = np.zeros_like(prediction)
    return _inside(p, basis, _gradient(p, basis, prediction))


def _point_near(problem: Problem, theta: Array) -> DualPoint:
    """Return the dual point near a solver's theta, which is balanced as far as its method went.

    Its q is first put inside the domain, which that of a solver leaves by rounding at most.
    """
    p, basis = problem, _unpenalised_basis(problem)
    q = np.clip(-theta / p.weights[:, None], *p.loss.dual_bounds(p.y))
    return _inside(p, basis, _balanced_by_room(p, basis, q))


def _balanced_by_room(problem: Problem, basis: Array, q: Array) -> Array:
    """Return q, inside the domain, balanced as far as it can be.

    The metric is the distance of each entry from the nearer end (1 where there is none), so that those
    next to an end stay there: for a log loss, about its Hessian.
    """
    lower, upper = problem.loss.dual_bounds(problem.y)
    room = np.minimum(q - lower, upper - q)
    metric = Hessian(np.where(np.isfinite(room), room, 1.0), coupled=problem.loss.coupled)
    return _balanced(problem, basis, q, metric, np.inf)


def _inside(problem: Problem, basis: Array, q: Array) -> DualPoint:
    """Return q as a point of the dual; where it is not balanced, one near it that is.

    Rows of separated classes are next to the ends of the domain. What they are off by may be all that is
    left to balance, and too little for equations in which other rows count: so they are put there. Where
    that does not help, the point is one between q and another that is balanced.
    """
    p = problem
    if not _is_balanced(p, basis, q):
        settled = _balanced_by_room(p, basis, _put_at_ends(p, q))
        if _is_balanced(p, basis, settled):
            q = settled
        else:
            plain = _gradient(p, basis, np.zeros_like(p.y))
            plain = plain if _is_balanced(p, basis, plain) else np.zeros_like(q)
            q = _between(p, basis, q, plain)
    return DualPoint(q, -p.weights[:, None] * q)


def _put_at_ends(problem: Problem, q: Array) -> Array:
    """Return q with entries next to an end of the domain at it."""
    lower, upper = problem.loss.dual_bounds(problem.y)
    near = _AT_END * np.abs(q).max()
    return np.where(q - lower <= near, lower, np.where(upper - q <= near, upper, q))


def _unpenalised_basis(problem: Problem) -> Array:
    """Return B of the columns' span of Z with B^T W B = I: equations in it are well conditioned.

    The columns are scaled to one length first: next to a long one, a short one would pass for rounding.
    """
    root = np.sqrt(problem.weights)[:, None]
    columns = root * problem.Z
    lengths = np.linalg.norm(columns, axis=0)
    left, size, _ = np.linalg.svd(columns / np.maximum(lengths, 1e-300), full_matrices=False)
    kept = size > len(left) * np.finfo(float).eps * size.max(initial=0.0)
    return np.asarray(left[:, kept] / root)


def _is_balanced(problem: Problem, basis: Array, q: Array) -> bool:
    """Return whether Z^T W q = 0 up to rounding."""
    off, size = _imbalance(problem, basis, q)
    return bool(np.linalg.norm(off) <= _BALANCED * size)


def _imbalance(problem: Problem, basis: Array, q: Array) -> tuple[Array, float]:
    """Return B^T W q and what its length would be if nothing cancelled."""
    root = np.sqrt(problem.weights)[:, None]
    return basis.T @ (problem.weights[:, None] * q), float(np.linalg.norm(root * q))


def _gradient(problem: Problem, basis: Array, prediction: Array) -> Array:
    """Return the gradient q at a refitted prediction, balanced as far as it can be.

    In the metric of its own curvature: that is what one more Newton step of the refit would change to
    first order. Near an end of the domain, the curvature of a log loss is about as small as the distance
    to it, so that q moves by a share of that. A refit that is stuck may ask for steps that no curvature
    is known well enough for: then q is left.
    """
    p = problem
    refit = prediction + p.Z @ fit_unpenalised(p.mean_loss, p.Z, prediction)
    q, longest = p.loss.gradient(refit, p.y), 1.0 + float(np.abs(refit).max(initial=0.0))
    return _balanced(p, basis, q, p.loss.hessian(refit, p.y), _LINEAR * longest)


def _balanced(problem: Problem, basis: Array, q: Array, metric: Hessian, longest: float) -> Array:
    """Return q moved inside the domain until Z^T W q = 0, as far as it can be.

    By q' = q - H Z c with H the metric, and c from (Z^T W H Z) c = Z^T W q: the projection on
    Z^T W q = 0 in the metric of H^-1. (For the squared error, H = I.) Where the unpenalised columns
    separate classes, the q of their rows balance only at the end of the domain. So each row stops there
    by itself, and those that have not stopped go on: every round stops one, or is the last but for
    rounding. Steps Z c above ``longest`` are not taken.
    """
    p = problem
    lower, upper = p.loss.dual_bounds(p.y)
    last = np.inf
    for _ in range(_ROUNDS if basis.shape[1] else 0):
        off, size = _imbalance(p, basis, q)
        length = float(np.linalg.norm(off))
        if length <= _ROUNDING * size or length > 0.5 * last:
            break
        step = basis @ coefficients(basis, metric.weighted(p.weights), off)
        if np.abs(step).max() > longest:
            break
        q, stopped = _move(q, -metric.times(step), lower, upper)
        metric = metric.without(stopped)
        last = np.inf if stopped.any() else length
    return q


def _move(q: Array, change: Array, lower: Array, upper: Array) -> tuple[Array, Mask]:
    """Return q + change, each row as far as it stays in its box; and which entries stopped it."""
    ratio = _steps_to_bounds(q, change, lower, upper)
    step = np.minimum(ratio.min(axis=1, keepdims=True), 1.0)
    stopped = (ratio <= step) & (step < 1.0)
    q = np.clip(q + step * change, lower, upper)
    return np.where(stopped, np.where(change > 0.0, upper, lower), q), stopped


def _between(problem: Problem, basis: Array, q: Array, anchor: Array) -> Array:
    """Return the point nearest to the projection of q, inside the domain, on the way from an anchor.

    Or from 0, which is in every loss's domain, if that gets further.
    """
    for _ in range(2):  # the second for the last digits
        q = q - basis @ _imbalance(problem, basis, q)[0]
    lower, upper = problem.loss.dual_bounds(problem.y)
    anchors = (anchor, np.zeros_like(q))
    steps = [_steps_to_bounds(p, q - p, lower, upper).min(initial=1.0) for p in anchors]
    start, step = anchors[int(np.argmax(steps))], max(steps)
    return np.clip(start + step * (q - start), lower, upper)  # rounding of the step


def _steps_to_bounds(q: Array, change: Array, lower: Array, upper: Array) -> Array:
    """Return the t < 1 at which each entry of q + t change is at its bound, inf if there is none."""
    size = np.abs(change)
    room = np.maximum(np.where(change > 0.0, upper - q, q - lower), 0.0)
    return np.divide(room, size, out=np.full_like(room, np.inf), where=size > room)


def dual_norm_bound(full: Program, point: DualPoint, solver_dual: SolverDual | None) -> float:
    """Return a bound on max_g ||Proj_K(s_g X^T D_g theta)||, attained if it is well above alpha.

    Parameters
    ----------
    full : Program
        The groups it has are those of the maximum.
    point : DualPoint
        Where theta comes from.
    solver_dual : SolverDual or None
        Of any quality: where the bound ||s_g X^T D_g theta + (E_g X)^T rho_g|| is close to alpha, it
        saves the projection.

    Returns
    -------
    float
    """
    correlations = full.adjoint(point.theta)
    if solver_dual is None or solver_dual.rho is None or not full.cones:
        return full.largest_dual_norm(correlations)
    held_back = _held_back(full, solver_dual.groups, solver_dual.rho)
    bounds = np.linalg.norm(correlations + held_back, axis=1)
    near = bounds <= full.alpha * (1.0 + _CLOSE_ENOUGH)
    rest = full.take(~near)
    return rest.largest_dual_norm(correlations[~near], above=float(bounds[near].max(initial=0.0)))


def _held_back(full: Program, groups: Groups, rho: Array | csc_array) -> Array:
    """Return (E_g X)^T rho_g of every group, (n_groups, d); zero where there is no rho_g."""
    place = groups.locate(full.groups)
    known = np.flatnonzero(place >= 0)
    some = coo_array(csc_array(rho)[:, place[known]])
    row, group = some.row, known[some.col]
    signs = np.where(full.patterns.masks[row, full.groups.pattern[group]], 1.0, -1.0)
    signed = csr_array(
        (signs * np.maximum(some.data, 0.0), (group, row)), shape=(len(full.groups), len(full.X))
    )
    return np.asarray(signed @ full.X)


def lower_bound(problem: Problem, q: Array, largest: float) -> float:
    """Return the dual value at q, scaled back until ``largest``, its dual norm, is alpha.

    At most the optimum where Z^T W q = 0, as at every `DualPoint`.
    """
    t = 1.0 if largest <= problem.alpha else problem.alpha / largest
    q = t * q
    conjugate = problem.loss.conjugate(q, problem.y)
    return float(problem.weights @ (np.sum(q * problem.offset, axis=1) - conjugate))
