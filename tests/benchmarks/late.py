"""The program of a late grade on many rows: systems by conjugate gradients of either kind, and formed.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.late [set] [grades] [neurons]

Fits a chain of so many grades (power-plant, 3, 100), states the program of the next grade over
the patterns that its search proposes, and solves it to the accuracy of a round by proximal Newton: as it
is, by conjugate gradients of one kind alone, and without them. Takes some minutes.
"""

from __future__ import annotations

import sys
import time
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

from convexgrade import MultigradeRegressor
from convexgrade.program import Program
from convexgrade.solution import Start
from convexgrade.solvers import _systems, newton
from tests.benchmarks.datasets import load

SYSTEMS = {
    "as chosen": {"_REUSED": _systems._REUSED},
    "by samples": {"_KEPT": 0},
    "by kept factors": {"_REUSED": np.inf},
    "formed": {"_MANY": np.inf},
}


class _Stop(Exception):
    """The program wanted has come up."""


def late_program(name: str, n_grades: int, width: int) -> tuple[Program, Start | None, float]:
    """Return what the first solve of the grade after a chain is asked: program, start and accuracy."""
    X, y, _, _ = load(name, split=0)
    chain = MultigradeRegressor(
        0.01, n_grades=n_grades, n_patterns=width, early_stopping=False, random_state=0
    ).fit(X, y)
    found = []

    def record(program: Program, start: Start | None = None, tol: float = 1e-9) -> None:
        found.append((program, start, tol))
        raise _Stop

    chain.set_params(n_grades=n_grades + 1, warm_start=True)
    with mock.patch.object(newton, "solve", record):
        try:
            chain.fit(X, y)
        except _Stop:
            return found[0]
    raise RuntimeError(f"The grade after {n_grades} on {name} is solved without proximal Newton.")


def main() -> None:
    """Measure and print."""
    name = sys.argv[1] if len(sys.argv) > 1 else "power-plant"
    n_grades, width = (int(word) for word in (sys.argv[2:4] or ("3", "100")))
    with threadpool_limits(1):
        program, start, accuracy = late_program(name, n_grades, width)
        n, d = program.X.shape
        print(
            f"{name}: {n} rows, {d} columns, {len(program.groups)} groups, accuracy {accuracy:.0e}"
        )
        print("| systems | seconds | gap | objective |\n|---|---|---|---|")
        for label, limits in SYSTEMS.items():
            with mock.patch.multiple(_systems, **limits):
                begin = time.process_time()
                solution = newton.solve(program, start=start, tol=accuracy)
                seconds = time.process_time() - begin
            objective = program.objective(solution.blocks, solution.unpenalised)
            print(f"| {label} | {seconds:.1f} | {solution.gap:.0e} | {objective:.8g} |", flush=True)


if __name__ == "__main__":
    main()
