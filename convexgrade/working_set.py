"""Column generation: the program over many patterns, solved over the few groups that matter.

Few of a program's groups are non-zero at its optimum. A solver sees a working set; every group
outside is priced exactly against the dual point, and those that would lower the objective join. With
none left, the point is optimal over all patterns, though most of them never met a solver.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade import solvers
from convexgrade.certificate import dual_point
from convexgrade.cones import project
from convexgrade.network import Network, from_blocks
from convexgrade.patterns import Patterns
from convexgrade.program import Groups, Program
from convexgrade.pruning import prune
from convexgrade.solution import Solution, Status

Array = NDArray[np.float64]

_SOLVE_WHOLE = 120  # groups up to which a program goes to the solver as it is
_BATCH = 60  # groups that join a working set at a time
_DROP = 1e-7  # norm of a block, relative to the largest, below which it is no neuron
_SMALL = 1e-3  # and below which a solution without it is tried
_ROUNDS = 50  # rounds of pricing and solving, far above what column generation takes


@dataclass(frozen=True)
class Point:
    """A feasible point of a program over some patterns, given by its non-zero blocks.

    Attributes
    ----------
    patterns : Patterns
        The patterns over which the point was sought.
    groups : Groups
        Groups of the non-zero blocks.
    blocks : ndarray of shape (n_neurons, d)
        Their vectors, inside their cones.
    unpenalised : ndarray of shape (q, n_outputs)
        Coefficients of the unpenalised columns.
    objective : float
        The program's objective there.
    status : Status
        How the last solve ended.
    """

    patterns: Patterns
    groups: Groups
    blocks: Array
    unpenalised: Array
    objective: float
    status: Status

    def prediction(self, program: Program) -> Array:
        """Return offset + f on the program's rows."""
        return program.over(self.patterns, self.groups).predict(self.blocks, self.unpenalised)

    def network(self, program: Program) -> Network:
        """Return the point as an explicit network."""
        gates = None if program.cones else self.patterns.gates[:, self.groups.pattern]
        coefficients = np.zeros((program.X.shape[1], program.n_outputs))
        coefficients[program.free] = self.unpenalised
        return from_blocks(self.blocks, self.groups.sign, self.groups.output, coefficients, gates)


def null_point(program: Program, patterns: Patterns) -> Point:
    """Return the grade without neurons: the unpenalised columns alone, fitted."""
    nothing = program.over(patterns, Groups.every(0, program.n_outputs, signed=program.cones))
    blocks = np.zeros((0, program.X.shape[1]))
    unpenalised = program.null_coefficients()
    return Point(
        patterns=patterns,
        groups=nothing.groups,
        blocks=blocks,
        unpenalised=unpenalised,
        objective=nothing.objective(blocks, unpenalised),
        status=Status.OPTIMAL,
    )


def solve_over(
    program: Program, patterns: Patterns, start: Groups | None, *, solver: str, tol: float
) -> Point:
    """Minimise over all groups of ``patterns``.

    Parameters
    ----------
    program : Program
        The grade; its own patterns and groups are not read.
    patterns : Patterns
        Patterns to minimise over.
    start : Groups or None
        First working set; None begins with the groups of highest price, or with all if they are few.
    solver : str
        Name of a solver.
    tol : float
        Stop when no group's price exceeds alpha by more than this fraction.

    Returns
    -------
    Point
        The best point met; its status says whether the last solve succeeded.
    """
    best = null_point(program, patterns)
    full = program.over(patterns, program.every_group(patterns))
    every = np.arange(len(full.groups))
    worthwhile = _violated(full, every, best, tol)
    if worthwhile.size == 0:
        return best
    if start is not None:
        working = np.unique(full.groups.locate(start))
    else:
        working = every if every.size <= _SOLVE_WHOLE else worthwhile
    for _ in range(_ROUNDS):
        point = solve_groups(program, patterns, full.groups.take(working), solver=solver)
        if point.objective > best.objective:
            return replace(best, status=Status.INACCURATE)
        best = point
        outside = np.setdiff1d(every, working)
        violated = _violated(full, outside, point, tol)
        if violated.size == 0:
            break
        working = np.concatenate([working, violated])
    return _sparse(full, best, solver=solver, tol=tol)


def _sparse(full: Program, point: Point, *, solver: str, tol: float) -> Point:
    """Solve once more without dispensable neurons; keep the result if it is optimal all the same.

    Optimal neurons are rarely unique, and an interior point method returns the middle of all optimal
    solutions: many small neurons where fewer do as well.
    """
    pruned = prune(full.over(point.patterns, point.groups), point.blocks)
    norms = np.linalg.norm(pruned, axis=1)
    large = norms > _SMALL * norms.max(initial=0.0)
    if large.all():
        return point
    fewer = solve_groups(full, point.patterns, point.groups.take(large), solver=solver)
    enough = point.objective + 0.1 * tol * full.mean_loss(full.offset)
    if fewer.objective > enough or _violated(full, np.arange(len(full.groups)), fewer, tol).size:
        return point
    return fewer


def solve_groups(program: Program, patterns: Patterns, groups: Groups, *, solver: str) -> Point:
    """Minimise over the given groups of ``patterns`` alone."""
    restricted = program.over(patterns, groups)
    return _clean(restricted, solvers.solve(restricted, solver=solver))


def _violated(
    full: Program, outside: NDArray[np.intp], point: Point, tol: float
) -> NDArray[np.intp]:
    """Return the groups at ``outside`` whose dual constraint a point fails most, worst first."""
    theta = dual_point(full, point.prediction(full)).theta
    program = full.over(full.patterns, full.groups.take(outside))
    correlations = program.adjoint(theta)
    threshold = full.alpha * (1.0 + tol)
    prices = np.linalg.norm(correlations, axis=1)
    if full.cones:
        masks = program.masks()
        for g in np.flatnonzero(prices > threshold):
            prices[g] = project(full.X, masks[:, g], correlations[g], enough=threshold).norm
    order = np.argsort(-prices, kind="stable")[:_BATCH]
    return outside[order[prices[order] > threshold]]


def _clean(program: Program, solution: Solution) -> Point:
    """Drop blocks that are zero up to solver accuracy; put the others exactly into their cones."""
    norms = np.linalg.norm(solution.blocks, axis=1)
    keep = np.flatnonzero(norms > _DROP * norms.max(initial=0.0))
    groups = program.groups.take(keep)
    blocks = solution.blocks[keep]
    if program.cones:
        masks = program.patterns.masks[:, groups.pattern]
        blocks = np.array(
            [project(program.X, mask, v).point for mask, v in zip(masks.T, blocks, strict=True)]
        ).reshape(blocks.shape)
    return Point(
        patterns=program.patterns,
        groups=groups,
        blocks=blocks,
        unpenalised=solution.unpenalised,
        objective=program.over(program.patterns, groups).objective(blocks, solution.unpenalised),
        status=solution.status,
    )
