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

# "auto" tries these in turn until one converges.
_AUTO = ("native", "clarabel", "scs")


def solve(program: Program, *, solver: str = "auto") -> Solution:
    """Solve a program with the solver of that name.

    Parameters
    ----------
    program : Program
        The program of a grade.
    solver : {"auto", "native", "clarabel", "ecos", "scs"}, default="auto"
        ``"auto"`` tries the native interior point method, then CLARABEL, then SCS, until one
        converges; if none does, the lowest objective counts.

    Returns
    -------
    Solution
        From ``"auto"`` (and a RuntimeWarning) when the solver asked for failed. Status ``FAILED``
        when no solver returned a usable point.
    """
    if len(program.groups) == 0:
        return _without_neurons(program)
    if solver != "auto":
        solution = _SOLVERS[solver](program)
        if solution.status is not Status.FAILED:
            return solution
        warnings.warn(
            f"solver={solver!r} failed on a program of {len(program.groups)} groups and "
            f"{len(program.X)} rows; solver='auto' took over.",
            RuntimeWarning,
            stacklevel=2,
        )
    usable = []
    for name in _AUTO:
        solution = _SOLVERS[name](program)
        if solution.status.converged:
            return solution
        if solution.status is not Status.FAILED:
            usable.append(solution)
    return min(
        usable,
        key=lambda s: program.objective(s.blocks, s.unpenalised),
        default=solution,
    )


def _without_neurons(program: Program) -> Solution:
    return Solution(
        blocks=np.zeros((0, program.X.shape[1])),
        unpenalised=program.null_coefficients(),
        multipliers=None,
        status=Status.OPTIMAL,
        iterations=0,
    )
