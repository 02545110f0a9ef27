"""pyscnn: accelerated proximal gradient (gated), augmented Lagrangian (relu)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from protocol import Problem, compete
from scnn.metrics import Metrics
from scnn.models import ConvexGatedReLU, ConvexReLU
from scnn.optimize import optimize_model
from scnn.regularizers import NeuronGL1
from scnn.solvers import AL, RFISTA

ENDLESS = 1_000_000


def _match(problem: Problem, gates: np.ndarray) -> np.ndarray:
    """Return where each of pyscnn's gates (it drops and reorders them) stands in the problem."""
    mine = {column.tobytes(): p for p, column in enumerate(problem.masks.T)}
    theirs = (problem.X @ gates > 0.0).T
    return np.array([mine[np.ascontiguousarray(column).tobytes()] for column in theirs])


def _solve(problem: Problem, tol: float) -> np.ndarray:
    model = (ConvexReLU if problem.cones else ConvexGatedReLU)(problem.gates, c=1)
    if problem.cones:
        solver = AL(
            model, max_primal_iters=ENDLESS, max_dual_iters=ENDLESS, tol=tol, constraint_tol=tol
        )
    else:
        solver = RFISTA(model, max_iters=ENDLESS, tol=tol)
    model, _ = optimize_model(
        model,
        solver,
        Metrics(metric_freq=10**9),
        problem.X,
        problem.y[:, None],
        regularizer=NeuronGL1(problem.alpha),
        unitize_data=False,
        return_convex=True,
        device="cpu",
        dtype="float64",
    )
    place = _match(problem, np.asarray(model.G))
    halves = []
    for parameter in model.parameters[: 2 if problem.cones else 1]:
        blocks = np.zeros((problem.X.shape[1], problem.masks.shape[1]))
        blocks[:, place] = np.asarray(parameter[0]).T
        halves.append(blocks)
    return np.hstack(halves)


def _tries(problem: Problem) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    # The tolerance is on a squared norm.
    for tol in 10.0 ** -np.arange(5, 15, dtype=float):
        yield f"tol={tol:.0e}", lambda tol=tol: _solve(problem, tol)


compete(_tries)
