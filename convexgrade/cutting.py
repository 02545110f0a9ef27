"""Narrow grades: a point cut to a given number of neurons at the least rise of the loss."""

from __future__ import annotations

import numpy as np

from convexgrade.point import Point
from convexgrade.program import Program
from convexgrade.pruning import select
from convexgrade.working_set import solve_groups, solve_over

_WORTH_A_GAP = 1.2  # objective, relative to that over fewer groups, at which those are kept instead


def cut(program: Program, point: Point, *, limit: int, solver: str, tol: float) -> Point:
    """Keep ``limit`` neurons at the least rise of the loss, and solve again.

    Best over their patterns: the certificate then speaks of those that survive. But a solution that
    wants several neurons on one pattern (both signs, several outputs) leaves room for fewer patterns;
    where that costs too much, over the groups of the neurons alone, and the gap shows it.

    Parameters
    ----------
    program : Program
        The grade.
    point : Point
        The point to cut.
    limit : int
        Most neurons.
    solver : str
        Name of a solver.
    tol : float
        Largest excess of a price over alpha, relative, that counts as none.

    Returns
    -------
    Point
        The point itself, if it has no more neurons.
    """
    if len(point.groups) <= limit:
        return point
    alone = _cut_to_groups(program, point, limit, solver)
    best = _cut_to_patterns(program, point, limit, solver, tol)
    return alone if best is None or best.objective > _WORTH_A_GAP * alone.objective else best


def _cut_to_groups(program: Program, point: Point, limit: int, solver: str) -> Point:
    kept = select(
        program.over(point.patterns, point.groups), point.blocks, point.unpenalised, limit
    )
    return solve_groups(program, point, point.groups.take(kept), solver=solver)


def _cut_to_patterns(
    program: Program, point: Point, limit: int, solver: str, tol: float
) -> Point | None:
    """Return the optimum over so few patterns that it has no more neurons; None if there is none."""
    while len(point.groups) > limit:
        n_kept = min(limit, np.unique(point.groups.pattern).size - 1)
        if n_kept == 0:
            return None
        restricted = program.over(point.patterns, point.groups)
        groups = point.groups.take(select(restricted, point.blocks, point.unpenalised, n_kept))
        patterns = point.patterns.take(np.unique(groups.pattern))
        point = solve_over(program, patterns, None, solver=solver, tol=tol)
    return point
