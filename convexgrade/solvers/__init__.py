"""Solvers of a grade's program: ``solve(program, solver=...)`` returns a `Solution`.

One file an algorithm; no solver knows another. This module alone knows them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np

from convexgrade.program import Program
from convexgrade.solution import Solution, Start, Status
from convexgrade.solvers import cvx, interior

Solver = Callable[[Program, Start | None, float], Solution]


def _native(program: Program, start: Start | None, accuracy: float) -> Solution:
    return interior.solve(program, start=start, tol=accuracy)


def _through_cvxpy(name: str) -> Solver:
    """Return a solver that sets out from nowhere and always does its best: CVXPY's cannot else."""
    return lambda program, start, accuracy: cvx.solve(program, solver=name)


_SOLVERS: Mapping[str, Solver] = {
    "native": _native,
    **{name: _through_cvxpy(name) for name in cvx.SOLVERS},
}

SOLVERS = ("auto", *_SOLVERS)

# "auto" tries these in turn until one returns a usable point. How good the point is, the certificate
# says: a solver that stops a digit short is no reason to wait for a slower one.
_AUTO = ("native", "clarabel", "scs")


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
        ``"auto"`` takes the native interior point method; CLARABEL, then SCS, should it fail.
    start : Start, optional
        A point near the optimum, which saves the native solver about half of its iterations.
    accuracy : float, default=1e-9
        Duality gap, relative to the loss before the grade, at which the native solver stops. The
        others always go as far as they can.

    Returns
    -------
    Solution
        From ``"auto"`` (and a RuntimeWarning) when the solver asked for failed. Status ``FAILED``
        when no solver returned a usable point.
    """
    if len(program.groups) == 0:
        return _without_neurons(program)
    names = _AUTO if solver == "auto" else (solver, *_AUTO)
    for name in names:
        solution = _SOLVERS[name](program, start, accuracy)
        if solution.status is not Status.FAILED:
            break
        if name == solver:
            warnings.warn(
                f"solver={solver!r} failed on a program of {len(program.groups)} groups and "
                f"{len(program.X)} rows; solver='auto' took over.",
                RuntimeWarning,
                stacklevel=2,
            )
    return solution


def _without_neurons(program: Program) -> Solution:
    return Solution(
        blocks=np.zeros((0, program.X.shape[1])),
        unpenalised=program.null_coefficients(),
        multipliers=None,
        status=Status.OPTIMAL,
        iterations=0,
    )
