"""Solvers of a grade's program: ``solve(program, solver=...)`` returns a `Solution`.

One file an algorithm; no solver knows another. This module alone knows them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from convexgrade.program import Program
from convexgrade.solution import Solution, Status
from convexgrade.solvers import cvx, interior

_SOLVERS: Mapping[str, Callable[[Program], Solution]] = {
    "native": interior.solve,
    **{name: partial(cvx.solve, solver=name) for name in cvx.SOLVERS},
}

SOLVERS = ("auto", *_SOLVERS)

# "auto" tries these in turn until one returns a usable point. How good the point is, the certificate
# says: a solver that stops a digit short is no reason to wait for a slower one.
_AUTO = ("native", "clarabel", "scs")


def solve(program: Program, *, solver: str = "auto") -> Solution:
    """Solve a program with the solver of that name.

    Parameters
    ----------
    program : Program
        The program of a grade.
    solver : {"auto", "native", "clarabel", "ecos", "scs"}, default="auto"
        ``"auto"`` takes the native interior point method; CLARABEL, then SCS, should it fail.

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
        solution = _SOLVERS[name](program)
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
