"""Certificates: how far a grade can be from optimal, recomputed from data by weak duality.

Nothing here knows who solved the program. From the rows, targets, offset, weights and the network
alone:

* ``primal`` is the network's own objective, F(o + f) + alpha sum_j ||u_j|| |a_j|_1.
* For any q with Z^T W q = 0 and theta = -W q, Fenchel's inequality gives at every point of the program

      F + alpha sum ||v_g||  >=  sum_i w_i (q_i . o_i - loss*(q_i))
                                 + sum_g (alpha ||v_g|| - <s_g X^T D_g theta, v_g>),

  and the last sum is non-negative once ||Proj_K(s_g X^T D_g theta)|| <= alpha for all g. So q = t grad
  with t = min(1, alpha / max_g ||Proj_K(.)||) makes ``dual = sum_i w_i (q_i . o_i - loss*(q_i))``
  a lower bound on the program's optimum: whatever the solver did, ``gap = primal - dual >= 0``
  bounds the distance to it. (Neurons off their cones by ``violation``, mostly rounding, can bring the
  gap below 0 by about as little.)

The bound speaks of the program over the listed patterns (all signs, all outputs). With every pattern
listed it is a bound over all networks of any width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array

from convexgrade.groups import Groups
from convexgrade.network import Network
from convexgrade.patterns import Patterns
from convexgrade.program import Program
from convexgrade.solution import Status
from convexgrade.unpenalised import coefficients, fit_unpenalised
from convexgrade.wording import counted

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CLOSE_ENOUGH = 1e-6  # relative excess over alpha at which multipliers are not refined
_BALANCED = 1e-12  # size of Z^T W q, over that of its terms, that is rounding
_ROUNDING = 1e-15  # the same, where balancing has no digits left to gain
_BEYOND = 1e100  # loss, as of e^f, from which on squares of gradients may be no numbers
_ROUNDS = 100  # rounds of balancing, at most: separable classes take tens of them
_LINEAR = 1e4  # predictions, in units of their size, of which a curvature tells nothing
_HOLDS = 1e-9  # a pattern holds a neuron if no row, at unit length, is on the wrong side by more


@dataclass(frozen=True)
class Certificate:
    """How far from optimal one grade can be, given the grades before it.

    Attributes
    ----------
    primal : float
        Objective of the grade's network: mean loss plus penalty.
    dual : float
        Lower bound on the objective of every network made of the listed patterns.
    gap : float
        ``primal - dual``: the grade is at most this far above the optimum over its patterns.
    relative_gap : float
        ``gap`` as a fraction of the mean loss before the grade.
    violation : float
        Largest amount by which a neuron leaves the cone of the pattern it is counted under, in
        units of the prediction.
    price : float
        Largest correlation found of what is left with a neuron: ``|theta . (X u)_+| / ||u||``, or
        ``||X^T D theta||`` of a gated one with the pattern D. Above ``alpha``, adding that neuron would
        lower the objective; ``status`` says so from ``(1 + tol) alpha`` on. Below, it may be a bound.
    price_is_exact : bool
        True if no neuron's price is higher (every pattern listed): then ``dual`` bounds every network of
        any width. False if it is the best that a search found.
    n_patterns : int
        Patterns that ``dual`` speaks of.
    status : Status
        How the fit of the grade ended; its value is a sentence.

    Examples
    --------
    >>> from convexgrade import ConvexReLURegressor
    >>> model = ConvexReLURegressor(patterns="exhaustive").fit([[0.0], [1.0], [3.0]], [0, 1, 0])
    >>> model.certificate_.price_is_exact, bool(model.certificate_.relative_gap < 1e-6)
    (True, True)
    """

    primal: float
    dual: float
    gap: float
    relative_gap: float
    violation: float
    price: float
    price_is_exact: bool
    n_patterns: int
    status: Status

    def __str__(self) -> str:
        scope = "all" if self.price_is_exact else "its"
        patterns = counted(self.n_patterns, "pattern")
        return (
            f"objective {self.primal:.6g}, at least {self.dual:.6g} over {scope} {patterns}, "
            f"relative gap {self.relative_gap:.1e}. {self.status.value}"
        )


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


class Multipliers(NamedTuple):
    """A solver's rho_g >= 0 for the constraints of some groups, shape (n_samples, n_groups)."""

    groups: Groups
    rho: Array | csc_array


def dual_point(program: Program, prediction: Array) -> DualPoint:
    """Return the dual point that belongs to a prediction.

    The gradient at the prediction, its unpenalised part refitted, is balanced: moved inside the domain
    of the conjugate until Z^T W q = 0. Where that fails, it is projected, and moves back towards that of
    the unpenalised model without offset: this meets the same condition, and lies well inside the domain
    however close to certainty the chain already is.
    """
    p, basis = program, _unpenalised_basis(program)
    if not p.mean_loss(prediction) < _BEYOND:  # its gradient is no help: any point will do
        prediction = np.zeros_like(prediction)
    q = _balanced(p, basis, prediction)
    if not _is_balanced(p, basis, q):
        plain = _balanced(p, basis, np.zeros_like(p.y))
        q = _between(p, basis, q, plain if _is_balanced(p, basis, plain) else np.zeros_like(q))
    return DualPoint(q, -p.weights[:, None] * q)


def _unpenalised_basis(program: Program) -> Array:
    """Return B of the columns' span of Z with B^T W B = I: equations in it are well conditioned."""
    root = np.sqrt(program.weights)[:, None]
    left, size, _ = np.linalg.svd(root * program.Z, full_matrices=False)
    kept = size > len(left) * np.finfo(float).eps * size.max(initial=0.0)
    return np.asarray(left[:, kept] / root)


def _is_balanced(program: Program, basis: Array, q: Array) -> bool:
    """Return whether Z^T W q = 0 up to rounding."""
    off, size = _imbalance(program, basis, q)
    return bool(np.linalg.norm(off) <= _BALANCED * size)


def _imbalance(program: Program, basis: Array, q: Array) -> tuple[Array, float]:
    """Return B^T W q and what its length would be if nothing cancelled."""
    root = np.sqrt(program.weights)[:, None]
    return basis.T @ (program.weights[:, None] * q), float(np.linalg.norm(root * q))


def _balanced(program: Program, basis: Array, prediction: Array) -> Array:
    """Return the gradient q at a refitted prediction, moved until Z^T W q = 0 as far as it can be.

    By q' = q - H Z c with H the curvature of each row, and c from (Z^T W H Z) c = Z^T W q: what one more
    Newton step of the refit would change to first order, the projection on Z^T W q = 0 in the metric of
    H^-1. (For the squared error, H = I.) Near an end of the domain, H of a log loss is about as small as
    the distance to it, so that q moves by a share of that. Where the refit has no minimiser, as on
    classes that Z separates, the q of their rows balance only at the end of the domain, however far the
    refit went. So each row stops there by itself, and those that have not stopped go on: every round
    stops one, or is the last but for rounding.

    A refit that is stuck may ask for steps that no curvature is known well enough for: then q is left.
    """
    p = program
    refit = prediction + p.Z @ fit_unpenalised(p.F, p.Z, prediction)
    q = p.loss.gradient(refit, p.y)
    if basis.shape[1] == 0:
        return q
    metric = p.loss.hessian(refit, p.y)
    lower, upper = p.loss.dual_bounds(p.y)
    last, longest = np.inf, _LINEAR * (1.0 + float(np.abs(refit).max(initial=0.0)))
    for _ in range(_ROUNDS):
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
    size = np.abs(change)
    room = np.maximum(np.where(change > 0.0, upper - q, q - lower), 0.0)
    ratio = np.divide(room, size, out=np.full_like(room, np.inf), where=size > room)
    step = np.minimum(ratio.min(axis=1, keepdims=True), 1.0)
    stopped = (ratio <= step) & (step < 1.0)
    q = np.clip(q + step * change, lower, upper)
    return np.where(stopped, np.where(change > 0.0, upper, lower), q), stopped


def _between(program: Program, basis: Array, q: Array, anchor: Array) -> Array:
    """Return the point nearest to the projection of q, inside the domain, on the way from an anchor.

    Or from 0, which is in every loss's domain, if that gets further.
    """
    for _ in range(2):  # the second for the last digits
        q = q - basis @ _imbalance(program, basis, q)[0]
    lower, upper = program.loss.dual_bounds(program.y)
    anchors = (anchor, np.zeros_like(q))
    steps = [_longest_step(start, q - start, lower, upper) for start in anchors]
    start, step = anchors[int(np.argmax(steps))], max(steps)
    return np.clip(start + step * (q - start), lower, upper)  # rounding of the step


def _longest_step(start: Array, direction: Array, lower: Array, upper: Array) -> float:
    """Return the largest t <= 1 with lower <= start + t direction <= upper."""
    room = np.where(direction > 0.0, upper - start, start - lower)
    size = np.abs(direction)
    ratio = np.divide(room, size, out=np.full_like(room, np.inf), where=size > room)
    return float(np.clip(ratio.min(initial=1.0), 0.0, 1.0))


def certify_network(
    program: Program,
    network: Network,
    patterns: Patterns,
    *,
    status: Status,
    point: DualPoint | None = None,
    price: float = 0.0,
    multipliers: Multipliers | None = None,
) -> Certificate:
    """Bound the distance of a network from the optimum of a grade over ``patterns``.

    Parameters
    ----------
    program : Program
        Rows, targets, offset, weights, loss and alpha of the grade; its own groups are not read.
    network : Network
        The grade's network.
    patterns : Patterns
        The patterns the bound speaks of. A neuron that none of them holds brings its own, so that
        the network is always a point of the program that is bounded.
    status : Status
        Passed on.
    point : DualPoint, optional
        The network's own dual point, if it is already known; it only saves recomputing it.
    price : float, default=0
        Price of the best neuron that a search found.
    multipliers : Multipliers, optional
        Any rho_g >= 0 bound the dual norm of their group: those of a solver save projections. Where
        they are missing or too far from the best, these are sought by non-negative least squares.

    Returns
    -------
    Certificate
    """
    patterns, violation = _holding(program, patterns, network)
    primal = objective(program, network)
    point = dual_point(program, predicted(program, network)) if point is None else point
    full = program.over(patterns, program.every_group(patterns))
    largest = dual_norm_bound(full, point, multipliers)
    dual = max(0.0, lower_bound(program, point.q, largest))  # no objective is negative
    before = program.loss_before
    return Certificate(
        primal=primal,
        dual=dual,
        gap=primal - dual,
        relative_gap=relative_gap(primal - dual, before),
        violation=violation,
        price=max(price, largest),
        price_is_exact=patterns.exhaustive,
        n_patterns=len(patterns),
        status=status,
    )


def predicted(program: Program, network: Network) -> Array:
    """Return the chain's output with a network, shape (n_samples, n_outputs)."""
    return program.offset + network.forward(program.X[:, :-1])


def objective(program: Program, network: Network) -> float:
    """Return the mean loss with a network, plus its penalty."""
    return program.mean_loss(predicted(program, network)) + program.alpha * network.path_norm


def relative_gap(gap: float, before: float) -> float:
    """Return a gap relative to the loss before; inf if it is no number, or above a loss of 0."""
    if before > 0.0:
        relative = gap / before
    else:
        relative = 0.0 if before == 0.0 and gap <= 0.0 else np.inf
    return np.inf if np.isnan(relative) else relative


def state_unproved(
    program: Program, network: Network, patterns: Patterns, status: Status
) -> Certificate:
    """Return the certificate of a network about which nothing is proved: no objective is negative.

    For networks that only judge, where a bound would take longer than their fit. No price is sought.
    """
    primal = objective(program, network)
    before = program.loss_before
    return Certificate(
        primal=primal,
        dual=0.0,
        gap=primal,
        relative_gap=relative_gap(primal, before),
        violation=0.0,
        price=0.0,
        price_is_exact=False,
        n_patterns=len(patterns),
        status=status,
    )


def dual_norm_bound(full: Program, point: DualPoint, multipliers: Multipliers | None) -> float:
    """Return a bound on max_g ||Proj_K(s_g X^T D_g theta)||, attained if it is well above alpha.

    Parameters
    ----------
    full : Program
        The groups it has are those of the maximum.
    point : DualPoint
        Where theta comes from.
    multipliers : Multipliers or None
        Of any quality: where the bound ||s_g X^T D_g theta + (E_g X)^T rho_g|| is close to alpha, it
        saves the projection.

    Returns
    -------
    float
    """
    correlations = full.adjoint(point.theta)
    if multipliers is None or len(multipliers.groups) == 0 or not full.cones:
        return full.largest_dual_norm(correlations)
    bounds = np.linalg.norm(correlations + _held_back(full, multipliers), axis=1)
    near = bounds <= full.alpha * (1.0 + _CLOSE_ENOUGH)
    rest = full.over(full.patterns, full.groups.take(~near))
    return rest.largest_dual_norm(correlations[~near], above=float(bounds[near].max(initial=0.0)))


def _held_back(full: Program, multipliers: Multipliers) -> Array:
    """Return (E_g X)^T rho_g of every group, (n_groups, d); zero where there is no rho_g."""
    place = multipliers.groups.locate(full.groups)
    known = np.flatnonzero(place >= 0)
    rho = coo_array(csc_array(multipliers.rho)[:, place[known]])
    row, group = rho.row, known[rho.col]
    signs = np.where(full.patterns.masks[row, full.groups.pattern[group]], 1.0, -1.0)
    signed = csr_array(
        (signs * np.maximum(rho.data, 0.0), (group, row)), shape=(len(full.groups), len(full.X))
    )
    return np.asarray(signed @ full.X)


def lower_bound(program: Program, q: Array, largest: float) -> float:
    """Return the dual value at q, scaled back until ``largest``, its dual norm, is alpha.

    At most the optimum where Z^T W q = 0, as at every `DualPoint`.
    """
    t = 1.0 if largest <= program.alpha else program.alpha / largest
    q = t * q
    conjugate = program.loss.conjugate(q, program.y)
    return float(program.weights @ (np.sum(q * program.offset, axis=1) - conjugate))


def _holding(program: Program, patterns: Patterns, network: Network) -> tuple[Patterns, float]:
    """Add the pattern of every neuron that no pattern holds; return the largest violation left."""
    gates = network.gates
    if gates.shape[1] == 0:
        return patterns, 0.0
    if not program.cones:
        return patterns.extend(program.X, gates), 0.0
    response = program.X @ gates
    wrong, strays = np.zeros(gates.shape[1]), np.zeros(gates.shape[1], dtype=bool)
    unlisted = np.flatnonzero(patterns.find(response >= 0.0) < 0)
    if unlisted.size:  # the others are in the cone of their own pattern
        misplaced = _misplaced(response[:, unlisted], patterns)
        wrong[unlisted] = misplaced.max(axis=0)
        reach = np.outer(
            np.linalg.norm(program.X, axis=1), np.linalg.norm(gates[:, unlisted], axis=0)
        )
        strays[unlisted] = (misplaced > _HOLDS * reach).any(axis=0)
    if strays.any() and not patterns.exhaustive:
        patterns = patterns.extend(program.X, gates[:, strays])
        wrong[strays] = 0.0
    return patterns, float(np.max(wrong * network.output_sizes, initial=0.0))


def _misplaced(response: Array, patterns: Patterns) -> Array:
    """Return how far each neuron is, row by row, from the pattern that suits it best.

    The sum of a neuron's misplaced responses over rows costs one product with the masks for all
    patterns; single rows are looked at for the best pattern alone. The empty pattern, which lists
    leave out, is always one to choose: a neuron active on no row violates nothing.
    """
    masks = np.column_stack([np.zeros(len(response), dtype=bool), patterns.masks])
    positive, negative = np.maximum(response, 0.0), np.maximum(-response, 0.0)
    misplaced = positive.sum(axis=0)[:, None] + (negative - positive).T @ masks
    best = masks[:, np.argmin(misplaced, axis=1)]
    return np.where(best, negative, positive)
