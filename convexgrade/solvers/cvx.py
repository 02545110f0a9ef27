"""The program of a grade in CVXPY: the readable definition, and the reference for every solver."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program
from convexgrade.solution import Solution, Status

Array = NDArray[np.float64]


def _squared_error(f: cp.Expression, y: Array, weights: Array) -> cp.Expression:
    return 0.5 * cp.sum_squares(cp.multiply(np.sqrt(weights)[:, None], f - y))


def _binary_log_loss(f: cp.Expression, y: Array, weights: Array) -> cp.Expression:
    return cp.sum(cp.multiply(weights[:, None], cp.logistic(f) - cp.multiply(y, f)))


def _softmax_log_loss(f: cp.Expression, y: Array, weights: Array) -> cp.Expression:
    return weights @ (cp.log_sum_exp(f, axis=1) - cp.sum(cp.multiply(y, f), axis=1))


def _log_loss(f: cp.Expression, y: Array, weights: Array) -> cp.Expression:
    one_logit = y.shape[1] == 1
    return (_binary_log_loss if one_logit else _softmax_log_loss)(f, y, weights)


LOSSES: Mapping[str, Callable[[cp.Expression, Array, Array], cp.Expression]] = {
    "squared_error": _squared_error,
    "log_loss": _log_loss,
}

SOLVERS = ("clarabel", "ecos", "scs")


def _options(solver: str, tol: float, max_iter: int) -> dict[str, Any]:
    """Translate one tolerance and one iteration limit into each solver's own words."""
    table: dict[str, dict[str, Any]] = {
        "clarabel": {"tol_gap_abs": tol, "tol_gap_rel": tol, "tol_feas": tol, "max_iter": max_iter},
        "ecos": {"abstol": tol, "reltol": tol, "feastol": tol, "max_iters": max_iter},
        # SCS is a first-order method: thousands of cheap iterations for one of the others.
        "scs": {"eps_abs": tol, "eps_rel": tol, "max_iters": 500 * max_iter},
    }
    return table[solver]


_STATUS = {
    cp.OPTIMAL: Status.OPTIMAL,
    cp.OPTIMAL_INACCURATE: Status.INACCURATE,
    cp.USER_LIMIT: Status.ITERATION_LIMIT,
}


def solve(program: Program, *, solver: str, tol: float = 1e-9, max_iter: int = 200) -> Solution:
    """Solve a program with one of CVXPY's solvers.

    Parameters
    ----------
    program : Program
        The program of a grade; with at least one group or unpenalised column.
    solver : {"clarabel", "ecos", "scs"}
        Solver that CVXPY calls.
    tol : float, default=1e-9
        Absolute and relative tolerance handed to it.
    max_iter : int, default=200
        Iteration limit (of an interior point method; SCS gets 500 times as many).

    Returns
    -------
    Solution
        With status ``FAILED`` and no usable point when the solver gave up; never an exception for
        a numerical failure.
    """
    if program.loss.name not in LOSSES:
        raise NotImplementedError(
            f"solver={solver!r} has no CVXPY form of loss={program.loss.name!r}; "
            f"available: {sorted(LOSSES)}."
        )
    V = cp.Variable((program.X.shape[1], len(program.groups)))
    c = cp.Variable((program.free.size, program.n_outputs)) if program.free.size else None
    problem, cone = _state(program, V, c)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate": the status says it
            problem.solve(solver=solver.upper(), **_options(solver, tol, max_iter))
    except cp.SolverError:
        return _failure(program)
    if V.value is None:
        return _failure(program)
    return Solution(
        blocks=np.ascontiguousarray(V.value.T),
        unpenalised=c.value if c is not None else np.zeros((0, program.n_outputs)),
        multipliers=None if cone is None else np.maximum(cone.dual_value, 0.0),
        status=_STATUS.get(problem.status, Status.INACCURATE),
        iterations=int(problem.solver_stats.num_iters or 0),
    )


def _state(
    program: Program, V: cp.Variable, c: cp.Variable | None
) -> tuple[cp.Problem, cp.Constraint | None]:
    """State the program; return it with its cone constraint E_g X v_g >= 0, if it has one."""
    masks = program.masks()
    scores = program.X @ V
    f = program.offset + cp.multiply(masks.astype(float), scores) @ program.routing()
    if c is not None:
        f = f + program.Z @ c
    loss = LOSSES[program.loss.name](f, program.y, program.weights)
    penalty = program.alpha * cp.sum(cp.norm(V, 2, axis=0))
    cone = cp.multiply(2.0 * masks - 1.0, scores) >= 0 if program.cones else None
    return cp.Problem(cp.Minimize(loss + penalty), [] if cone is None else [cone]), cone


def _failure(program: Program) -> Solution:
    return Solution(
        blocks=np.zeros((len(program.groups), program.X.shape[1])),
        unpenalised=np.zeros((program.free.size, program.n_outputs)),
        multipliers=None,
        status=Status.FAILED,
        iterations=0,
    )
