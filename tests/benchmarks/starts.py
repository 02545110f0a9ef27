"""Which random gates are worth starting from? One round of the adaptive search with each kind.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.starts

The gates are the first neurons of the descent and the random starts of the price search. One round takes
about the same time whatever they are, so the objectives compare. Mean over seeds of the objective,
relative to that of the kind in use, and of the seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from convexgrade.patterns import centred_gates
from convexgrade.settings import Settings
from tests.benchmarks.patterns import SETS, grade

Array = NDArray[np.float64]
Draw = Callable[[Array, int, np.random.Generator], Array]

ALPHA = 1e-3
SEEDS = (0, 1, 2)
_NEAR = (
    0.01  # distance of a hyperplane from the rows it nearly goes through, in standard deviations
)


def plain(X: Array, n_gates: int, rng: np.random.Generator) -> Array:
    """Return Gaussian gates, offset included."""
    return rng.standard_normal((X.shape[1], n_gates))


def through(n_points: int) -> Draw:
    """Draw hyperplanes through that many random rows, random otherwise: at most d of them fix one."""

    def draw(X: Array, n_gates: int, rng: np.random.Generator) -> Array:
        gates = np.empty((X.shape[1], n_gates))
        for gate in gates.T:
            rows = X[rng.choice(len(X), size=min(n_points, X.shape[1] - 1), replace=False)]
            rows = rows + _NEAR * rng.standard_normal(rows.shape)
            direction = rng.standard_normal(X.shape[1])
            gate[:] = direction - rows.T @ np.linalg.lstsq(rows.T, direction, rcond=None)[0]
        return gates

    return draw


def bisecting(X: Array, n_gates: int, rng: np.random.Generator) -> Array:
    """Return hyperplanes half way between two random rows."""
    a, b = X[rng.integers(len(X), size=(2, n_gates)), :-1]
    normal = a - b + _NEAR * rng.standard_normal(a.shape)
    return np.vstack([normal.T, -np.einsum("gd,gd->g", normal, 0.5 * (a + b))])


def sparse(X: Array, n_gates: int, rng: np.random.Generator) -> Array:
    """Return centred gates that read two features."""
    d = X.shape[1] - 1
    normal = rng.standard_normal((n_gates, d))
    normal[np.argsort(rng.random((n_gates, d)), axis=1) >= 2] = 0.0
    rows = X[rng.integers(len(X), size=n_gates), :-1]
    points = rows + _NEAR * rng.standard_normal(rows.shape)
    return np.vstack([normal.T, -np.einsum("gd,gd->g", normal, points)])


KINDS: dict[str, Draw] = {
    "Gaussian, through a row (in use)": centred_gates,
    "Gaussian, offset too": plain,
    "through 2 rows": through(2),
    "through d rows": through(10**6),
    "bisecting 2 rows": bisecting,
    "through a row, 2 features": sparse,
}


def measure(kind: str, name: str) -> tuple[float, float]:
    """Return mean objective and seconds of one round."""
    settings = Settings(max_iter=1)
    draw = KINDS[kind]
    with (
        patch("convexgrade.search.centred_gates", draw),
        patch("convexgrade.proposals.centred_gates", draw),
        threadpool_limits(1),
    ):
        fits = [grade(name, ALPHA, settings, seed) for seed in SEEDS]
    return fmean(f["objective"] for f in fits), fmean(f["seconds"] for f in fits)


def main() -> None:
    """Measure and print."""
    print("| gates | " + " | ".join(SETS) + " |\n|" + "---|" * (1 + len(SETS)))
    reference: dict[str, float] = {}
    for kind in KINDS:
        cells = []
        for name in SETS:
            objective, seconds = measure(kind, name)
            best = reference.setdefault(name, objective)
            cells.append(f"{100.0 * (objective / best - 1.0):+.2f} % ({seconds:.1f} s)")
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
