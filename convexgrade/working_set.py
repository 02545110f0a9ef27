"""The program over many patterns, solved over the few groups that matter.

Few of a program's groups are non-zero at its optimum. The native solver finds these by itself, among
all. Others see a working set; every group outside is priced exactly against the dual point, and those
that would lower the objective join (column generation). With none left, the point is optimal over all
patterns, though most of them never met a solver.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convexgrade import solvers
from convexgrade.dual import SolverDual, dual_point
from convexgrade.groups import Groups
from convexgrade.patterns import Patterns
from convexgrade.point import (
    FAR,
    Point,
    gap_of,
    keep_neurons,
    null_point,
    point_at,
    pruned,
    thinned,
)
from convexgrade.polishing import operations, polish
from convexgrade.program import Problem, Program
from convexgrade.solution import Start, Status

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_SOLVE_WHOLE = 120  # groups up to which a program goes to the solver as it is
_BATCH = 60  # groups that join a working set at a time
_SMALL = 3e-3  # norm, over the largest, of blocks that solvers which select no groups go on without
_CLOSE = 0.01  # accuracy of a first solution, relative to the tolerance of prices
_EXACT = 1e-9  # accuracy of a last solution, relative to `Program.null_loss`
_ENOUGH = 0.1, 0.01  # accuracies of large or loose programs in turn, over tol and objective
_LARGE = 2e7  # numbers of X, times neurons and outputs, above which a program is large
_LOOSE = 1e-3  # tolerance above which it is loose
_PROVED = 0.5  # gap, in units of the tolerance, at which the first of those is enough
_EQUAL = 1e-8  # rise of the objective, relative to the loss before, that is the solver's rounding
_SHARP = 1e-3  # gap, relative to the tolerance of prices, of a point that needs no last digits
_CONFIRMED = 0.01, 1e-8  # gap, over tol or by itself, of a point that needs no second solver
_AFFORDABLE = 3e10  # most operations of a step towards last digits
_WORTH = 1e12  # most operations of such a step where the gap is above the tolerance
_SETTLED = 1e-7  # gap, relative to the loss before, of a point that needs no further solve
_FEW = 400  # groups up to which iterations are no slower than a solution found at once
_AT_ONCE = 0.1  # gap, over the tolerance of prices, at which a solution at once is enough
_JOINED = 2e-4  # gap of a point that new groups join
_ROUNDS = 50  # rounds of pricing and solving, far above what column generation takes


def solve_over(
    problem: Problem, patterns: Patterns, start: Point | None, *, solver: str, tol: float
) -> Point:
    """Minimise over all groups of ``patterns``, with few neurons.

    Optimal neurons are rarely unique, and an interior point method returns the middle of all optimal
    solutions: many small neurons where fewer do as well. So a solution is pruned.

    Parameters
    ----------
    problem : Problem
        What the grade has to fit.
    patterns : Patterns
        Patterns to minimise over.
    start : Point or None
        A point over ``patterns`` to set out from; None begins without neurons. For solvers that do not
        select groups themselves, its groups are the first working set as well; without any, those of
        highest price are.
    solver : str
        Name of a solver.
    tol : float
        Stop when no group's price exceeds alpha by more than this fraction.

    Returns
    -------
    Point
        The best point met; its status says whether the last solve succeeded.
    """
    start = start or null_point(problem, patterns)  # first: `over` then hands its fit on
    full = problem.over(patterns)
    found = _solved_at_once(full, solver, tol)
    if found is not None:
        return found
    working = full.groups.locate(start.groups)
    if working.size == 0:
        working = _violated(full, _every(full), start, tol)
    if working.size == 0:
        if gap_of(full, start) <= tol:
            return start
        working = _every(full)  # a dual point that proves nothing tells no groups apart either
    if solvers.selects_groups(solver):
        return _by_selection(full, start, solver=solver, tol=tol)
    return _by_columns(full, start, working, solver=solver, tol=tol)


def _every(full: Program) -> Index:
    return np.arange(len(full.groups))


def _solved_at_once(full: Program, solver: str, tol: float) -> Point | None:
    """Return the solution that the structure of a program gives away; None where there is none."""
    if len(full.groups) <= _FEW:
        return None
    solution = solvers.solve_at_once(full, solver=solver)
    if solution is None:
        return None
    point = point_at(full, solution)
    return point if gap_of(full, point) <= _AT_ONCE * tol else None


def _by_selection(full: Program, start: Point, *, solver: str, tol: float) -> Point:
    """Solve with a solver that finds the groups that matter, from what pruning leaves of a start."""
    point = _solved_closely(full, pruned(full, start), solver=solver, tol=tol)
    fewer = replace(pruned(full, point), n_before=len(point.groups))
    return _confirmed(full, _polished(full, fewer, tol), solver=solver, tol=tol)


def _confirmed(full: Program, point: Point, *, solver: str, tol: float) -> Point:
    """Return a point that is proved optimal; where it is not, a second solver's, if that is better.

    The first one knows the gap of a loss that it has smoothed, not what rounding makes of a network.
    """
    other, (share, least) = solvers.second_opinion(solver, full), _CONFIRMED
    if other is None or (gap := gap_of(full, point)) <= max(share * tol, least):
        return point
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a solver that nobody asked for by name
        found = _by_columns(full, point, full.groups.locate(point.groups), solver=other, tol=tol)
    higher = found.objective - point.objective > _EQUAL * full.loss_before
    return point if higher or gap_of(full, found) >= gap else found


def _by_columns(full: Program, start: Point, working: Index, *, solver: str, tol: float) -> Point:
    """Solve with a solver that does not select groups: roughly first, to see which ones matter."""
    if len(full.groups) <= _SOLVE_WHOLE:
        working = _every(full)
    rough = _generate(full, start, working, solver=solver, tol=tol, accuracy=_CLOSE * tol)
    few = pruned(full, rough, _SMALL)
    working = full.groups.locate(few.groups)
    point = _generate(full, few, working, solver=solver, tol=tol, accuracy=_EXACT)
    if point.objective > rough.objective + 0.1 * tol * full.loss_before:
        point = replace(rough, status=Status.INACCURATE)
    return _polished(full, replace(pruned(full, point), n_before=len(rough.groups)), tol)


def _solved_closely(full: Program, start: Point, *, solver: str, tol: float) -> Point:
    """Solve as closely as can be; or, where that takes long, until the gap is proved.

    That over the groups of the start first: others than a descent's own rarely matter. What a solver
    stops short of, a certificate may see the root of, how much depends on the program: so the gap is
    asked for, before a large program is solved any closer.
    """
    if tol <= _LOOSE and full.X.size * len(start.groups) * full.n_outputs <= _LARGE:
        return _generate(full, start, _every(full), solver=solver, tol=tol, accuracy=_EXACT)
    own = full.groups.locate(start.groups) if len(start.groups) else _every(full)

    def solved(point: Point, working: Index, enough: float) -> Point:
        accuracy = max(_EXACT, enough * tol * min(1.0, full.relative(start.objective)))
        return _generate(full, point, working, solver=solver, tol=tol, accuracy=accuracy)

    point = solved(start, own, _ENOUGH[0])
    if gap_of(full, point) * (full.loss_before or 1.0) <= _PROVED * tol * point.objective:
        return point
    return solved(point, _every(full), _ENOUGH[1])


def _generate(
    full: Program, start: Point, working: Index, *, solver: str, tol: float, accuracy: float
) -> Point:
    """Solve over a working set and price the groups outside, until none has to join."""
    best = start
    for _ in range(_ROUNDS):
        if not _settled(full, best, working):
            groups = full.groups.take(working)
            point = solve_groups(full, best, groups, solver=solver, accuracy=accuracy)
            if point.objective > best.objective + _EQUAL * full.loss_before:
                return replace(best, status=Status.INACCURATE)
            best = point
        outside = np.setdiff1d(_every(full), working)
        violated = _violated(full, outside, best, tol)
        if violated.size == 0:
            break
        working = np.concatenate([working, violated])
    return best


def _settled(full: Program, point: Point, working: Index) -> bool:
    """Return whether a point is known to be optimal over the working set already."""
    if point.gap > _SETTLED:
        return False
    return gap_of(full.take(working), point) <= _SETTLED


def _polished(full: Program, point: Point, tol: float) -> Point:
    """Return a point with its last digits, where a certificate is likely to miss them.

    Not for the squared error: its gradient is as good as its prediction, and sizes of neurons, refitted
    in any case (`energy.rescale`), are all that it lacks.
    """
    own = point.program(full)
    cost = operations(own)
    if full.loss.quadratic or not 0.0 < cost <= _WORTH:
        return point
    gap = gap_of(full, point)
    if gap <= _SHARP * tol or (gap <= tol and cost > _AFFORDABLE):
        return point
    blocks, unpenalised = polish(own, point.blocks, point.unpenalised)
    if full.cones:
        blocks = own.projected(np.arange(len(own.groups)), blocks)
    objective = own.objective(blocks, unpenalised)
    if objective > point.objective:
        return point
    polished = replace(point, blocks=blocks, unpenalised=unpenalised, objective=objective)
    return keep_neurons(full, polished, np.flatnonzero(blocks.any(axis=1)))


def solve_groups(
    problem: Problem, start: Point, groups: Groups, *, solver: str, accuracy: float = 1e-9
) -> Point:
    """Minimise over the given groups of a point's patterns alone, setting out from that point."""
    restricted = problem.over(start.patterns, groups)
    place = groups.locate(start.groups)
    blocks = np.zeros((len(groups), problem.X.shape[1]))
    blocks[place[place >= 0]] = start.blocks[place >= 0]
    gap = start.gap if np.linalg.norm(blocks, axis=1).all() else max(start.gap, _JOINED)
    if (place < 0).any():  # of a point that has lost neurons, it says nothing
        gap = max(gap, FAR)
    first = Start(blocks, start.unpenalised, gap) if blocks.any() else None
    solution = solvers.solve(restricted, solver=solver, start=first, accuracy=accuracy)
    return replace(
        thinned(restricted, point_at(restricted, solution)),
        gap=min(solution.gap, FAR),
        solver_dual=SolverDual(groups, solution.multipliers, solution.theta),
    )


def solve_groups_within(
    problem: Problem, start: Point, groups: Groups, cap: Array, *, solver: str
) -> Point:
    """Minimise over the given groups with a largest distance of each prediction from its target."""
    restricted = problem.over(start.patterns, groups)
    solution = solvers.solve_within(restricted, cap, solver=solver)
    return replace(point_at(restricted, solution), n_before=max(start.n_before, len(start.groups)))


def _violated(full: Program, outside: Index, point: Point, tol: float) -> Index:
    """Return the groups at ``outside`` whose dual constraint a point fails most, worst first."""
    if outside.size == 0:
        return outside
    theta = dual_point(full, point.prediction(full)).theta
    rest = full.take(outside)
    correlations = rest.adjoint(theta)
    threshold = full.alpha * (1.0 + tol)
    prices = np.linalg.norm(correlations, axis=1)
    if full.cones:
        above = np.flatnonzero(prices > threshold)
        points = rest.projected(above, correlations[above], enough=threshold)
        prices[above] = np.linalg.norm(points, axis=1)
    order = np.argsort(-prices, kind="stable")[:_BATCH]
    return outside[order[prices[order] > threshold]]
