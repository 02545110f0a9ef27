"""Solvers of a grade's program: ``solve(program, solver=...)`` returns a `Solution`.

One file an algorithm; no solver knows another. This module alone knows them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program
from convexgrade.solution import Solution, Start, Status
from convexgrade.solvers import active, cvx, interior, line, newton

Array = NDArray[np.float64]
Solver = Callable[[Program, Start | None, float], Solution]


# Which native method is the faster one, by measurement (see the benchmarks). Without cones, Newton's on
# the active groups; where that does not serve, the proximal Newton method, but for few columns and as
# long as their systems are small interior points: for log losses, whose curvature can vanish, and where
# many groups are known to be active. With cones, the proximal Newton method. But in many dimensions,
# noise and a small penalty let each neuron lean on many constraints, which it meets one by one: where
# interior points are affordable, it has a trial, and leaves the program to them if it is slow.
# Where few groups and a very small penalty say that most will be active, they go first.
_FEW_COLUMNS = 30  # most columns of X for which interior points are an option, without cones
_SMALL_SYSTEM = 1500  # most rows, or columns, of all systems of interior points, without cones
_SMALL_COUPLED = 3000  # most rows, or columns, of a system of interior points that couples outputs
_MANY_SHARE = 0.2  # share of a program's columns that are not zero in a start of many active groups
_MANY_A_ROW = 0.5  # numbers for each row that are not zero in a start of many active groups
_ROOM = 8  # columns for each row up to which it is no matter that interior points see all groups
_DIMENSIONS = 10  # columns of X up to which interior points are not worth a wait, with cones
_OPERATIONS = 1e7  # operations of an interior point system that are worth a wait, in units of d^2
_SLOW = 0.03  # gap after a trial of the proximal Newton method that says that it is slow
_DENSE = 0.3  # alpha that makes most groups active, in units of `alpha_max` over their number
_WIDE = 20  # columns for each row up to which most groups can be active
_HEAVY = 8  # numbers of a start for each row from which losses with kinks are solved without it
_GOOD = 1e-7  # gap at which a native method has done its work, whatever it was asked for
_SMALL = 1e4  # numbers of the masks of a program that CVXPY solves soon
_NOTHING = 1e-12  # loss, relative to that before the grade, that counts as none


def _native(program: Program, start: Start | None, accuracy: float) -> Solution:
    """Solve by the native method that suits the program, and by the others where that fails.

    What the method for active groups leaves unfinished, the next one goes on with. For losses with
    kinks there is one method, which rounding errors keep from being much closer than `_GOOD`.
    """
    if program.loss.kinked:
        return newton.solve(program, start=_light(program, start), tol=max(accuracy, _GOOD))
    found = []
    if active.suits(program):
        found.append(active.solve(program, start=start, tol=accuracy))
        if found[0].gap < np.inf:
            start = Start(found[0].blocks, found[0].unpenalised, found[0].gap)
    for method in _order(program, start):
        if found and found[-1].gap <= max(accuracy, _GOOD):
            break
        found.append(method(program, start=start, tol=accuracy))
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


def _through_cvxpy(name: str) -> Solver:
    """Return a solver that sets out from nowhere and always does its best, as CVXPY's do."""
    return lambda program, start, accuracy: cvx.solve(program, solver=name)


_SOLVERS: Mapping[str, Solver] = {
    "native": _native,
    **{name: _through_cvxpy(name) for name in cvx.SOLVERS},
}

SOLVERS = ("auto", *_SOLVERS)

# Tried in turn until one returns a usable point. How good the point is, the certificate says: a solver
# that stops a digit short is no reason to wait for a slower one.
_AUTO = ("native", "clarabel", "scs")

# Those that find the few groups that matter by themselves, however many there are.
_SELECTIVE = frozenset({"auto", "native"})


def selects_groups(solver: str) -> bool:
    """Return whether a solver takes programs of very many groups."""
    return solver in _SELECTIVE


def solve_at_once(program: Program, *, solver: str) -> Solution | None:
    """Return the solution of a program whose structure gives it away, about as fast as it is read.

    That is a program of one feature over all patterns; None for others, and for solvers but ``"auto"``
    and ``"native"``. The optimum is over kinks at the rows: between few rows, others can be a little
    better.
    """
    if not (selects_groups(solver) and line.suits(program)) or _leaves_nothing(program):
        return None
    solution = line.solve(program)
    return None if solution.status is Status.FAILED else solution


def solve(
    program: Program,
    *,
    solver: str = "auto",
    start: Start | None = None,
    accuracy: float = 1e-9,
) -> Solution:
    """Solve a program with the solver of that name.

    Parameters
    ----------
    program : Program
        The program of a grade.
    solver : {"auto", "native", "clarabel", "ecos", "scs"}, default="auto"
        ``"native"`` is Newton's method on the active groups, the proximal Newton method, or the interior
        point method, whichever suits the program. ``"auto"`` is the same; CLARABEL, then SCS, should it
        fail. (No program is so small that CVXPY is faster: see the benchmarks.)
    start : Start, optional
        A point near the optimum, which saves the native solver most of its iterations.
    accuracy : float, default=1e-9
        Duality gap, relative to the loss of the grade without neurons, at which the native solver stops.
        The others always go as far as they can.

    Returns
    -------
    Solution
        From the next solver in line, and with a RuntimeWarning, when one failed. Status ``FAILED``
        when no solver returned a usable point.
    """
    if len(program.groups) == 0 or _leaves_nothing(program):
        return _without_neurons(program)
    names = tuple(dict.fromkeys(_AUTO if solver == "auto" else (solver, *_AUTO)))
    for name, following in zip(names, (*names[1:], None), strict=True):
        solution = _SOLVERS[name](program, start, accuracy)
        if solution.status is not Status.FAILED or following is None:
            break
        warnings.warn(
            f"solver={name!r} failed on a program of {len(program.groups)} groups and "
            f"{len(program.X)} rows; solver={following!r} took over.",
            RuntimeWarning,
            stacklevel=2,
        )
    return solution


def second_opinion(solver: str, program: Program) -> str | None:
    """Return the solver to ask where a certificate finds the first one's point wanting, if there is one.

    For ``"auto"``, CLARABEL where CVXPY takes about a second.
    """
    n, d = program.X.shape
    return "clarabel" if solver == "auto" and (n + d) * len(program.groups) <= _SMALL else None


def solve_within(program: Program, cap: Array, *, solver: str) -> Solution:
    """Solve a program with a largest distance of each prediction from its target, through CVXPY.

    By the solver of that name, or CLARABEL for ``"auto"`` and ``"native"``.
    """
    return cvx.solve(program, solver=solver if solver in cvx.SOLVERS else "clarabel", cap=cap)


def _leaves_nothing(program: Program) -> bool:
    """Return whether the grade without neurons is optimal, as losses are never negative: it has none."""
    return program.null_loss <= _NOTHING * program.loss_before


def _without_neurons(program: Program) -> Solution:
    return Solution(
        blocks=np.zeros((len(program.groups), program.X.shape[1])),
        unpenalised=program.null_coefficients,
        multipliers=None,
        status=Status.OPTIMAL,
        iterations=0,
        gap=0.0,
    )
