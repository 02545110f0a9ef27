"""The native solver: whichever of our own methods is the fastest for a program, by measurement.

Without cones, that is Newton's on the active groups. Where it does not serve, the proximal Newton
method; but interior points for few columns, as long as their systems are small: for log losses, whose
curvature can vanish, and where many groups are known to be active.

With cones, it is the proximal Newton method. But in many dimensions, noise and a small penalty let each
neuron lean on many constraints, which it meets one by one. So where interior points are affordable, it
has a trial, and leaves the program to them if it is slow. Where few groups and a very small penalty say
that most will be active, they go first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from convexgrade.program import Program
from convexgrade.solution import Solution, Start
from convexgrade.solvers import active, interior, newton

_GOOD = 1e-7  # gap at which a method has done its work, whatever it was asked for
_HEAVY = 8  # numbers of a start for each row from which losses with kinks are solved without it

# With cones:
_DIMENSIONS = 10  # columns of X up to which interior points are not worth a wait
_OPERATIONS = 1e7  # operations of an interior point system that are worth a wait, in units of d^2
_SLOW = 0.03  # gap after a trial of the proximal Newton method that says that it is slow
_DENSE = 0.3  # alpha that makes most groups active, in units of `alpha_max` over their number
_WIDE = 20  # columns for each row up to which most groups can be active

# Without cones:
_FEW_COLUMNS = 30  # most columns of X for which interior points are an option
_SMALL_SYSTEM = 1500  # most rows, or columns, of all systems of interior points
_SMALL_COUPLED = 3000  # most rows, or columns, of a system of interior points that couples outputs
_MANY_SHARE = 0.2  # share of a program's columns that are not zero in a start of many active groups
_MANY_A_ROW = 0.5  # numbers for each row that are not zero in a start of many active groups
_ROOM = 8  # columns for each row up to which it is no matter that interior points see all groups


def solve(program: Program, *, start: Start | None = None, tol: float = 1e-9) -> Solution:
    """Solve by the method that suits the program, and by the others where that fails.

    What the method for active groups leaves unfinished, the next one goes on with. For losses with
    kinks there is one method, which rounding errors keep from being much closer than `_GOOD`.

    Parameters
    ----------
    program : Program
        The program of a grade.
    start : Start, optional
        A point near the optimum.
    tol : float, default=1e-9
        Gap, relative to the loss of the grade without neurons, to stop at.

    Returns
    -------
    Solution
        That of the least gap.
    """
    if program.loss.kinked:
        return newton.solve(program, start=_light(program, start), tol=max(tol, _GOOD))
    found = []
    if active.suits(program):
        found.append(active.solve(program, start=start, tol=tol))
        if found[0].gap < np.inf:
            start = Start(found[0].blocks, found[0].unpenalised, found[0].gap)
    for method in _order(program, start):
        if found and found[-1].gap <= max(tol, _GOOD):
            break
        found.append(method(program, start=start, tol=tol))
    return min(found, key=lambda solution: solution.gap)


def _light(program: Program, start: Start | None) -> Start | None:
    """Return a start, or None where it has so many numbers that large systems are all it leads to.

    What it knows of the gradient, which jumps at kinks, is little. Without it, neurons join as they are
    needed: in late grades, that takes a fifth of the time.
    """
    if start is None or np.count_nonzero(start.blocks) > _HEAVY * program.y.size:
        return None
    return start


def _order(program: Program, start: Start | None) -> list[Callable[..., Solution]]:
    """Return the methods to be tried in turn."""
    if program.cones and _affords_interior_points(program):
        if start is None and _is_dense(program):
            return [interior.solve, newton.solve]
        return [partial(newton.solve, slow=_SLOW), interior.solve, newton.solve]
    if not program.cones and _suits_interior_points(program, start):
        return [interior.solve, newton.solve]
    return [newton.solve, interior.solve]


def _affords_interior_points(program: Program) -> bool:
    """Return whether interior points are worth waiting for in a program with cones."""
    n, d = program.X.shape
    if d <= _DIMENSIONS:
        return False
    rows = float(n * (program.n_outputs if program.loss.coupled else 1))
    columns = d * len(program.groups)
    return rows * columns * min(rows, columns) <= _OPERATIONS * d**2


def _is_dense(program: Program) -> bool:
    """Return whether the penalty is so small that most groups will be active: for squared errors."""
    n, d = program.X.shape
    if not program.loss.quadratic or d * np.unique(program.groups.pattern).size > _WIDE * n:
        return False
    enough = program.alpha * len(program.groups) / _DENSE
    return program.alpha_max(above=enough) > enough


def _suits_interior_points(program: Program, start: Start | None) -> bool:
    """Return whether interior points are the faster for a program without cones."""
    n, d = program.X.shape
    columns = d * np.unique(program.groups.pattern).size
    limit = _SMALL_COUPLED if program.loss.coupled else _SMALL_SYSTEM
    if d > _FEW_COLUMNS or min(n, columns) * program.n_outputs > limit:
        return False
    if not program.loss.quadratic:
        return True
    active = 0 if start is None else np.count_nonzero(start.blocks)
    many = min(_MANY_SHARE * columns, _MANY_A_ROW * n)
    return columns <= _ROOM * n and bool(active >= many)
