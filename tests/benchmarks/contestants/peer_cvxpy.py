"""CVXPY with the solver of the third argument; canonicalised before the clock starts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import cvxpy as cp
import numpy as np
from protocol import Problem, compete

OPTIONS = {
    "CLARABEL": lambda tol: {"tol_gap_abs": tol, "tol_gap_rel": tol, "tol_feas": tol},
    "ECOS": lambda tol: {"abstol": tol, "reltol": tol, "feastol": tol},
    "SCS": lambda tol: {"eps_abs": tol, "eps_rel": tol, "max_iters": 10**8},
}


def _state(problem: Problem) -> tuple[cp.Problem, cp.Variable]:
    n, d = problem.X.shape
    copies = 2 if problem.cones else 1
    masks = np.tile(problem.masks, (1, copies))
    signs = np.repeat([1.0, -1.0][:copies], problem.masks.shape[1])
    V = cp.Variable((d, masks.shape[1]))
    scores = problem.X @ V
    f = cp.multiply(masks.astype(float), scores) @ signs
    loss = cp.sum_squares(f - problem.y) / (2 * n)
    constraints = [cp.multiply(2.0 * masks - 1.0, scores) >= 0] if problem.cones else []
    return cp.Problem(
        cp.Minimize(loss + problem.alpha * cp.sum(cp.norm(V, 2, axis=0))), constraints
    ), V


def _tries(problem: Problem) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    solver = sys.argv[3]
    stated, V = _state(problem)
    data, chain, inverse = stated.get_problem_data(solver, solver_opts={})

    def solve(tol: float) -> np.ndarray:
        raw = chain.solve_via_data(stated, data, solver_opts=OPTIONS[solver](tol))
        stated.unpack_results(raw, chain, inverse)
        return np.asarray(V.value)

    for tol in 10.0 ** -np.arange(4, 12, dtype=float):
        yield f"tol={tol:.0e}", lambda tol=tol: solve(tol)


compete(_tries)
