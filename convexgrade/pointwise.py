"""Grades that raise no training residual: the program of a grade with further constraints.

With e what is left before the grade and N its output, |e - N| <= |e| for every row and output, or
0 <= s N <= 2 |e| with s the sign of e. The constraints are convex, and the zero grade meets them.

A solver meets them to its tolerance only, which a row with N = 0 does not forgive: with N ever so little
on the wrong side, the residual rises. A rise of 1e-10 of the largest |e| is let pass; the errors of a
solver can be larger. So N is asked for a little more than 0 where it can be
(0 < delta <= s N). It cannot at *pinned* rows, where N = 0 is all that is allowed: those with e = 0, and
equal rows with residuals on either side. There the solution is put right afterwards. On the pieces on
which it is linear, N = 0 at given rows is a system of homogeneous linear equations in the vectors of
the neurons and the unpenalised coefficients; the solution fails it by the solver's tolerance, and is
projected on its null space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.energy import rescale_within
from convexgrade.groups import Groups
from convexgrade.network import Network
from convexgrade.point import Point, pruned
from convexgrade.program import Problem
from convexgrade.solution import Status
from convexgrade.working_set import solve_groups_within

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MARGIN = 1e-6  # fall of residuals asked for, relative to the largest: more than a solver misses
_SLACK = 1e-10  # rise of a residual that is let pass, relative to the largest before the grade
_EQUAL_ROWS = 1e-8  # difference of rows, in units of the largest entry of each column
_KINK = 1e-6  # response, relative to lengths of row and neuron, that a solver cannot tell from 0
_AFFORDABLE = 1e5  # rows, times groups of all patterns, up to which these are seen at once
_DEPENDENT = 1e-12  # relative size of equations that follow from others


def refine_pointwise(
    problem: Problem, point: Point, *, solver: str, fixed: bool
) -> tuple[Point, Network]:
    """Solve a grade with the constraints, over the patterns of a point's neurons.

    Or over all patterns, if they are listed and few, and not fixed: others may serve the constraints
    better.

    What is left of the solver's errors after the module's remedies is removed by moving the network
    back along its ray, to where no residual has grown by more than 1e-10 of the largest before the
    grade, over all rows and outputs.

    Parameters
    ----------
    problem : Problem
        What the grade has to fit.
    point : Point
        Its solution without the constraints.
    solver : str
        Name of a solver.
    fixed : bool
        Whether neurons may only be those of the point (so that there are no more), or any of their
        patterns.

    Returns
    -------
    point : Point
        The constrained solution.
    network : Network
        The same as a network, moved back.

    Raises
    ------
    ValueError
        If the loss is not the squared error.
    """
    if not problem.loss.quadratic:
        raise ValueError(
            f"refinement='pointwise' needs loss='squared_error'; this is {problem.loss.name!r}."
        )
    left = problem.y - problem.offset
    size = np.abs(left)
    largest = float(size.max(initial=0.0))
    margin = _MARGIN * largest
    if len(point.groups):
        pinned = _pinned(problem.X, left, 2.0 * margin)
        for groups, cap in _attempts(problem, point, size, np.where(pinned, 0.0, margin), fixed):
            found = solve_groups_within(problem, point, groups, cap, solver=solver)
            if found.status is not Status.FAILED:
                break
        # What solves over many groups leaves most of them a little off zero.
        point = replace(pruned(problem, found), n_before=max(found.n_before, len(found.groups)))
    if point.status is not Status.FAILED:
        point = replace(point, status=Status.POINTWISE, solver_dual=None)
        along = np.where(left < 0.0, -1.0, 1.0) * (point.prediction(problem) - problem.offset)
        point = _zero_at(problem, point, (along <= 0.5 * margin) | (size <= 2.0 * margin))
    return point, rescale_within(problem, point.network(problem), _SLACK * largest)


def _attempts(
    problem: Problem, point: Point, size: Array, margin: Array, fixed: bool
) -> Iterator[tuple[Groups, Array]]:
    """Yield over which groups to solve, and how large residuals may be: the best first.

    Those of all patterns, where these are listed and few. Else those of the point's neurons, then all:
    the former may leave no room for a margin; nor may all of them.
    """
    every = problem.every_group(point.patterns)
    own = point.groups if fixed else every.take(np.isin(every.pattern, point.groups.pattern))
    tried = [own] if fixed else [own, every]
    if not fixed and point.patterns.exhaustive and len(problem.X) * len(every) <= _AFFORDABLE:
        tried = [every]
    for groups in tried:
        yield groups, size - margin
    yield tried[0], size


def _pinned(X: Array, left: Array, least: float) -> Mask:
    """Return for which rows and outputs the zero grade is all that raises no residual.

    Equal rows include those that a neuron would have to be very steep to tell apart.
    """
    unit = _EQUAL_ROWS * np.abs(X).max(axis=0)
    _, place = np.unique(np.round(X / np.where(unit > 0.0, unit, 1.0)), axis=0, return_inverse=True)
    highest, lowest = (np.zeros((place.max() + 1, left.shape[1])) for _ in range(2))
    np.maximum.at(highest, place, left)
    np.minimum.at(lowest, place, left)
    return (np.abs(left) <= least) | ((highest > 0.0) & (lowest < 0.0))[place]


def _zero_at(problem: Problem, point: Point, held: Mask) -> Point:
    """Return the point nearest to this one whose grade is 0 at the rows and outputs that are held.

    Nearest where neurons keep the side of these rows on which they are; those with a kink at a row keep
    it there.
    """
    if not held.any() or not len(point.groups):
        return point
    equations = _equations(problem, point, held)
    x = np.concatenate([point.blocks.ravel(), point.unpenalised.ravel()])
    for _ in range(2):  # the second for the last digits
        x = x - np.linalg.lstsq(equations, equations @ x, rcond=_DEPENDENT)[0]
    n = point.blocks.size
    blocks, unpenalised = x[:n].reshape(point.blocks.shape), x[n:].reshape(point.unpenalised.shape)
    objective = point.program(problem).objective(blocks, unpenalised)
    return replace(point, blocks=blocks, unpenalised=unpenalised, objective=objective)


def _equations(problem: Problem, point: Point, held: Mask) -> Array:
    """Return A of A x = 0 with x the blocks, then the unpenalised coefficients, row by row.

    One equation for each row and output that is held: the sum of active responses is 0; and one for
    each neuron of such an output with a kink at such a row: its response is 0.
    """
    p, groups, (n_groups, d) = problem, point.groups, point.blocks.shape
    scores = p.X @ point.blocks.T
    lengths = np.linalg.norm(p.X, axis=1)[:, None] * np.linalg.norm(point.blocks, axis=1)
    kinked = (np.abs(scores) <= _KINK * lengths) & p.cones & held[:, groups.output]
    active = point.patterns.masks[:, groups.pattern] & ~kinked
    rows, outputs = np.nonzero(held)
    factors = active[rows] * groups.sign * (groups.output == outputs[:, None])
    sums = (factors[:, :, None] * p.X[rows][:, None, :]).reshape(rows.size, n_groups * d)
    free = p.Z[rows][:, :, None] * (outputs[:, None] == np.arange(p.n_outputs))[:, None, :]
    kink_rows, kink_groups = np.nonzero(kinked)
    kinks = np.zeros((kink_rows.size, n_groups, d))
    kinks[np.arange(kink_rows.size), kink_groups] = p.X[kink_rows]
    n_free = p.free.size * p.n_outputs
    above = np.hstack([sums, free.reshape(rows.size, n_free)])
    below = np.pad(kinks.reshape(kink_rows.size, n_groups * d), ((0, 0), (0, n_free)))
    return np.vstack([above, below])
