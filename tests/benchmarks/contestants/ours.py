"""convexgrade's native solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from protocol import Problem, compete

from convexgrade.groups import Groups
from convexgrade.losses import SquaredError
from convexgrade.patterns import Patterns
from convexgrade.program import Program
from convexgrade.solvers import solve


def _tries(problem: Problem) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    n = len(problem.X)
    program = Program(
        X=problem.X,
        free=np.arange(0),
        y=problem.y[:, None],
        offset=np.zeros((n, 1)),
        weights=np.full(n, 1.0 / n),
        loss=SquaredError(),
        alpha=problem.alpha,
        cones=problem.cones,
        patterns=Patterns(problem.gates, problem.masks),
        groups=Groups.every(problem.masks.shape[1], 1, signed=problem.cones),
    )
    for accuracy in 10.0 ** -np.arange(3, 12, dtype=float):
        yield (
            f"accuracy={accuracy:.0e}",
            lambda accuracy=accuracy: solve(program, solver="native", accuracy=accuracy).blocks.T,
        )


compete(_tries)
