"""adelie: block coordinate descent along a path of penalties, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import adelie as ad
import numpy as np
from protocol import Problem, compete

PATH = np.geomspace(100.0, 1.0, 20)  # multiples of alpha: a path has warm starts


def _tries(problem: Problem) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    n, d = problem.X.shape
    n_patterns = problem.masks.shape[1]
    n_groups = n_patterns * (2 if problem.cones else 1)
    X = np.asfortranarray(problem.X)
    matrix = ad.matrix.convex_relu(X, np.asfortranarray(problem.masks), gated=not problem.cones)
    signs = 2.0 * problem.masks - 1.0

    def constraints() -> list[object] | None:
        if not problem.cones:
            return None
        sides = [np.ascontiguousarray(sign[:, None] * X) for sign in signs.T]
        low, high = np.zeros(n), np.full(n, np.inf)
        return [ad.constraint.linear(sides[g % n_patterns], low, high) for g in range(n_groups)]

    def solve(path: np.ndarray, tol: float) -> np.ndarray:
        state = ad.grpnet(
            matrix,
            ad.glm.gaussian(problem.y),
            groups=d * np.arange(n_groups),
            penalty=np.ones(n_groups),
            constraints=constraints(),
            lmda_path=path,
            intercept=False,
            early_exit=False,
            tol=tol,
            max_iters=10**9,
            progress_bar=False,
        )
        return state.betas[-1].toarray().reshape(n_groups, d).T

    for tol in 10.0 ** -np.arange(4, 15, 2, dtype=float):
        for name, path in (("alone", np.ones(1)), ("path", PATH)):
            yield (
                f"{name}, tol={tol:.0e}",
                lambda path=path, tol=tol: solve(problem.alpha * path, tol),
            )


compete(_tries)
