"""Which native method is the fastest? Each on its own, on generated programs.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.methods

Gaussian rows whose targets are ten neurons and noise, over sampled patterns, from nowhere to a gap of
1e-8. What `convexgrade.solvers` chooses goes by this. A full run takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

from threadpoolctl import threadpool_limits

from convexgrade.program import Program
from convexgrade.solution import Solution
from convexgrade.solvers import active, interior, newton, solve
from tests.benchmarks.solvers import Case

GAP = 1e-8
ROWS, COLUMNS, PATTERNS, ALPHAS = (250, 1000), (10, 20, 40, 80), (50, 200), (1e-2, 1e-3)
WIDEST = {"gated": 80, "relu": 40}

METHODS: dict[str, Callable[[Program], Solution]] = {
    "Newton on active groups": lambda program: active.solve(program, tol=GAP),
    "proximal Newton": lambda program: newton.solve(program, tol=GAP),
    "interior points": lambda program: interior.solve(program, tol=GAP),
    "as chosen": lambda program: solve(program, solver="native", accuracy=GAP),
}


def cases(kind: str) -> Iterator[Case]:
    """Yield the problems with cones (``relu``), or without (``gated``)."""
    for n in ROWS:
        for d in COLUMNS:
            if d > WIDEST[kind]:
                continue
            for n_patterns in PATTERNS:
                for alpha in ALPHAS:
                    yield Case("gaussian", n, n_patterns, alpha, cones=kind == "relu", d=d)


def seconds(program: Program, method: str) -> str:
    """Return how long a method takes; in brackets if it stopped short of the gap."""
    if method == "Newton on active groups" and not active.suits(program):
        return "–"
    begin = time.perf_counter()
    gap = METHODS[method](program).gap
    taken = f"{time.perf_counter() - begin:.2g}"
    return taken if gap <= GAP else f"({taken})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(WIDEST), default=list(WIDEST))
    for kind in parser.parse_args().kinds:
        print(f"\n| {kind}: rows, columns, patterns, alpha | {' | '.join(METHODS)} |")
        print("|" + "---|" * (1 + len(METHODS)))
        for case in cases(kind):
            program = case.program()
            with threadpool_limits(1):
                cells = [seconds(program, method) for method in METHODS]
            shape = f"{case.n}, {case.d}, {case.n_patterns}, {case.alpha:g}"
            print(f"| {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
