"""Certificates: how far a grade can be from optimal, recomputed from data by weak duality.

Nothing here knows who solved the program. From the rows, targets, offset, weights and the network (and
what a solver may know of the dual, none of which has to be believed):

* ``primal`` is the network's own objective, F(o + f) + alpha sum_j ||u_j|| |a_j|_1.
* For any q with Z^T W q = 0 and theta = -W q, Fenchel's inequality gives at every point of the program

      F + alpha sum ||v_g||  >=  sum_i w_i (q_i . o_i - loss*(q_i))
                                 + sum_g (alpha ||v_g|| - <s_g X^T D_g theta, v_g>),

  and the last sum is non-negative once ||Proj_K(s_g X^T D_g theta)|| <= alpha for all g. So t q in place
  of q, with t = min(1, alpha / max_g ||Proj_K(.)||), makes
  ``dual = sum_i w_i (t q_i . o_i - loss*(t q_i))`` a lower bound on the program's optimum: whatever the
  solver did, ``gap = primal - dual >= 0`` bounds the distance to it. (Neurons off their cones by
  ``violation``, mostly rounding, can bring the gap below 0 by about as little.)

The bound speaks of the program over the listed patterns (all signs, all outputs). With every pattern
listed it is a bound over all networks of any width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.dual import DualPoint, SolverDual, best_bound
from convexgrade.network import Network
from convexgrade.patterns import Patterns
from convexgrade.program import Problem
from convexgrade.solution import Status
from convexgrade.wording import counted

Array = NDArray[np.float64]

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
        lower the objective; ``status`` says so from ``(1 + min(tol, 1e-4)) alpha`` on. Below, it may
        be a bound.
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


def certify_network(
    problem: Problem,
    network: Network,
    patterns: Patterns,
    *,
    status: Status,
    solver_dual: SolverDual | None = None,
    search: Callable[[DualPoint], float] = lambda point: 0.0,
) -> Certificate:
    """Bound the distance of a network from the optimum of a grade over ``patterns``.

    Parameters
    ----------
    problem : Problem
        What the grade had to fit.
    network : Network
        The grade's network.
    patterns : Patterns
        The patterns the bound speaks of. A neuron that none of them holds brings its own, so that
        the network is always a point of the program that is bounded.
    status : Status
        Passed on.
    solver_dual : SolverDual, optional
        What a solver knows of the dual. Any rho_g >= 0 bound the dual norm of their group: those of a
        solver save projections. Where they are missing or too far from the best, these are sought by
        non-negative least squares. Any theta proves a bound; the higher of that and the one of the
        prediction counts.
    search : callable, optional
        Called with the dual point of the bound, unless the patterns are all there are; returns the
        price of the best neuron that it finds.

    Returns
    -------
    Certificate
    """
    patterns, violation = _holding(problem, patterns, network)
    bare = state_unproved(problem, network, patterns, status)
    full = problem.over(patterns)
    bound = best_bound(full, predicted(problem, network), solver_dual)
    price = 0.0 if patterns.exhaustive else search(bound.point)
    dual = max(0.0, bound.value)  # no objective is negative
    return replace(
        bare,
        dual=dual,
        gap=bare.primal - dual,
        relative_gap=relative_gap(bare.primal - dual, problem.loss_before),
        violation=violation,
        price=max(price, bound.largest),
        price_is_exact=patterns.exhaustive,
    )


def predicted(problem: Problem, network: Network) -> Array:
    """Return the chain's output with a network, shape (n_samples, n_outputs)."""
    return problem.offset + network.forward(problem.X[:, :-1])


def objective(problem: Problem, network: Network) -> float:
    """Return the mean loss with a network, plus its penalty."""
    return problem.mean_loss(predicted(problem, network)) + problem.alpha * network.path_norm


def relative_gap(gap: float, before: float) -> float:
    """Return a gap relative to the loss before; inf if it is no number, or above a loss of 0."""
    if before > 0.0:
        relative = gap / before
    else:
        relative = 0.0 if before == 0.0 and gap <= 0.0 else np.inf
    return np.inf if np.isnan(relative) else relative


def state_unproved(
    problem: Problem, network: Network, patterns: Patterns, status: Status
) -> Certificate:
    """Return the certificate of a network about which nothing is proved: no objective is negative.

    For networks that only judge, where a bound would take longer than their fit. No price is sought.
    """
    primal = objective(problem, network)
    before = problem.loss_before
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


def _holding(problem: Problem, patterns: Patterns, network: Network) -> tuple[Patterns, float]:
    """Add the pattern of every neuron that no pattern holds; return the largest violation left."""
    gates = network.gates
    if gates.shape[1] == 0:
        return patterns, 0.0
    if not problem.cones:
        return patterns.extend(problem.X, gates), 0.0
    response = problem.X @ gates
    wrong, strays = np.zeros(gates.shape[1]), np.zeros(gates.shape[1], dtype=bool)
    unlisted = np.flatnonzero(patterns.find(response >= 0.0) < 0)
    if unlisted.size:  # the others are in the cone of their own pattern
        misplaced = _misplaced(response[:, unlisted], patterns)
        wrong[unlisted] = misplaced.max(axis=0)
        reach = np.outer(
            np.linalg.norm(problem.X, axis=1), np.linalg.norm(gates[:, unlisted], axis=0)
        )
        strays[unlisted] = (misplaced > _HOLDS * reach).any(axis=0)
    if strays.any() and not patterns.exhaustive:
        patterns = patterns.extend(problem.X, gates[:, strays])
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
