"""Narrow grades: a point cut to a given number of neurons at the least rise of the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from convexgrade.curvature import columns, hessian
from convexgrade.point import Point, longest
from convexgrade.program import Problem, Program
from convexgrade.pruning import responses_of
from convexgrade.quadratics import diagonal_units
from convexgrade.working_set import solve_groups, solve_over

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Choice = Callable[[Program, Array, Array, int], Index]

_RIDGE = 1e-10  # relative to the curvature of each: keeps dependent neurons from dividing by zero
_ROUGH = 1e-3  # accuracy, relative to the objective before a cut, of those that are only compared
_WORTH_A_GAP = 1.2  # objective, relative to that over fewer groups, at which those are kept instead


def cut(problem: Problem, point: Point, *, limit: int, solver: str, tol: float) -> Point:
    """Keep ``limit`` neurons at about the least rise of the loss, and solve again.

    Best over their patterns: the certificate then speaks of those that survive. But a solution that
    wants several neurons on one pattern (both signs, several outputs) leaves room for fewer patterns;
    where that costs too much, over the groups of the neurons alone, and the gap shows it. Where all
    patterns are listed, it is always over these groups: the certificate is to go on speaking of all.

    Parameters
    ----------
    problem : Problem
        What the grade has to fit.
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
    cuts = [_cut_to_groups(problem, point, limit, solver, choose) for choose in _CHOICES]
    alone, choose = min(zip(cuts, _CHOICES, strict=True), key=lambda one: one[0].objective)
    if not point.patterns.exhaustive:
        best = _cut_to_patterns(problem, point, limit, solver, tol, choose)
        if best is not None and best.objective <= _WORTH_A_GAP * alone.objective:
            return best
    return solve_groups(problem, alone, alone.groups, solver=solver)


def select(program: Program, blocks: Array, unpenalised: Array, limit: int) -> Index:
    """Choose the groups to keep, ``limit`` of them, so that the loss rises little.

    Let every neuron change its size, t_g times its response r_g, and the unpenalised columns their
    coefficients. To second order about an optimum, removing neuron g (t_g = 0) and adjusting the
    others raises the objective by t_g^2 / (2 [M^-1]_gg), where M is the curvature of the loss in (t, c)
    (the optimal brain surgeon of Hassibi & Stork 1993). The cheapest neuron goes, M^-1 loses its row
    and column, and so on.

    Parameters
    ----------
    program : Program
        A program whose groups are those of ``blocks``.
    blocks : ndarray of shape (n_groups, d)
        Vectors of its groups, best near the optimum and pruned.
    unpenalised : ndarray of shape (q, n_outputs)
        Coefficients of the unpenalised columns.
    limit : int
        Number of groups to keep.

    Returns
    -------
    ndarray of int, shape (min(limit, n_groups),)
        Positions of the groups to keep, ascending.
    """
    m = len(blocks)
    curvature = _curvature(program, blocks, unpenalised)
    unit = diagonal_units(curvature)
    units = np.outer(unit, unit)
    inverse = np.linalg.inv(curvature / units + _RIDGE * np.eye(len(curvature))) / units
    size = np.ones(len(curvature))  # t, which every removal moves; that of c is never read
    kept = np.ones(m, dtype=bool)
    for _ in range(m - limit):
        spread = np.maximum(np.diagonal(inverse)[:m], 1e-300)
        cost = np.where(kept, size[:m] ** 2 / spread, np.inf)
        gone = int(np.argmin(cost))
        column = inverse[:, gone] / inverse[gone, gone]
        size = size - size[gone] * column
        inverse = inverse - np.outer(column, inverse[gone])
        kept[gone] = False
    return np.flatnonzero(kept)


def _curvature(program: Program, blocks: Array, unpenalised: Array) -> Array:
    """Return the Hessian of the mean loss in the sizes of all neurons and in c."""
    return hessian(program, columns(program, responses_of(program, blocks)), blocks, unpenalised)


def _largest(program: Program, blocks: Array, unpenalised: Array, limit: int) -> Index:
    """Return the groups of the longest vectors."""
    return np.sort(longest(blocks, limit))


# What raises the loss least is found greedily: now and then, the largest neurons are the better choice.
_CHOICES: tuple[Choice, ...] = (select, _largest)


def _cut_to_groups(
    problem: Problem, point: Point, limit: int, solver: str, choose: Choice
) -> Point:
    kept = choose(point.program(problem), point.blocks, point.unpenalised, limit)
    groups = point.groups.take(kept)
    accuracy = _ROUGH * min(1.0, problem.relative(point.objective))
    return solve_groups(problem, point, groups, solver=solver, accuracy=accuracy)


def _cut_to_patterns(
    problem: Problem, point: Point, limit: int, solver: str, tol: float, choose: Choice
) -> Point | None:
    """Return the optimum over so few patterns that it has no more neurons; None if there is none."""
    while len(point.groups) > limit:
        n_kept = min(limit, np.unique(point.groups.pattern).size - 1)
        if n_kept == 0:
            return None
        restricted = point.program(problem)
        groups = point.groups.take(choose(restricted, point.blocks, point.unpenalised, n_kept))
        patterns = point.patterns.take(np.unique(groups.pattern))
        point = solve_over(problem, patterns, None, solver=solver, tol=tol)
    return point
