"""Solvers of a grade's program: ``solve(program, solver=...)`` returns a `Solution`.

One file an algorithm; no algorithm knows another. This module knows what users may ask for, and
``native.py`` which of our own algorithms suits a program.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program
from convexgrade.solution import Solution, Start, Status
from convexgrade.solvers import cvx, line, native

Array = NDArray[np.float64]
Solver = Callable[[Program, Start | None, float], Solution]

_SMALL = 1e4  # numbers of the masks of a program that CVXPY solves soon
_NOTHING = 1e-12  # loss, relative to that before the grade, that counts as none


def _through_cvxpy(name: str) -> Solver:
    """Return a solver that sets out from nowhere and always does its best, as CVXPY's do."""
    return lambda program, start, accuracy: cvx.solve(program, solver=name)


_SOLVERS: Mapping[str, Solver] = {
    "native": lambda program, start, accuracy: native.solve(program, start=start, tol=accuracy),
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
