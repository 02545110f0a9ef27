"""What a contestant is given, how it is timed, and what it reports; needs numpy alone.

A problem is a program of one grade with squared error, one output and no unpenalised columns:

    minimise   |f - y|^2 / (2 n) + alpha sum_g |v_g|,    f = sum_g s_g D_g X v_g,
    subject to E_g X v_g >= 0                                            (with cones)

Each contestant solves it at one of its own tolerances after the other, the loosest first, until the
objective is within `CLOSE` of the known optimum. The clock runs while it solves, not while it builds its
arguments, and not while the objective is evaluated here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROUGH, CLOSE = 1e-3, 1e-6  # relative errors of the objective for which times are taken
REPEATS = 5  # solves whose median counts,
LONG = 20.0  # but one that takes longer than so many seconds is not repeated
LIMIT = 300.0  # seconds after which a contestant has not solved a problem


@dataclass(frozen=True)
class Problem:
    """Rows X (n, d), masks (n, P) and the gates (d, P) they come from, targets y (n,)."""

    X: np.ndarray
    masks: np.ndarray
    gates: np.ndarray
    y: np.ndarray
    alpha: float
    cones: bool
    optimum: float

    @classmethod
    def read(cls, path: str) -> Problem:
        """Read what `tests.benchmarks.solvers` has written."""
        with np.load(path) as arrays:
            return cls(
                arrays["X"],
                arrays["masks"],
                arrays["gates"],
                arrays["y"],
                float(arrays["alpha"]),
                bool(arrays["cones"]),
                float(arrays["optimum"]),
            )

    def error(self, blocks: np.ndarray) -> float:
        """Return the error of the objective, relative to the optimum.

        ``blocks`` (d, P) or, with cones, (d, 2 P): those of sign + first. An infeasible point may lie
        below the optimum: that is an error as well.
        """
        signs = np.repeat([1.0, -1.0][: blocks.shape[1] // self.masks.shape[1]], len(self.masks.T))
        masks = np.tile(self.masks, (1, signs.size // self.masks.shape[1]))
        residual = ((self.X @ blocks) * masks) @ signs - self.y
        norms = np.linalg.norm(blocks, axis=0)
        value = 0.5 * np.mean(residual**2) + self.alpha * norms.sum()
        return abs(float(value) / self.optimum - 1.0)

    def violation(self, blocks: np.ndarray) -> float:
        """Return the largest amount by which a constraint fails, in units of the prediction."""
        if not self.cones:
            return 0.0
        masks = np.tile(self.masks, (1, 2))
        return max(0.0, -float(np.min(np.where(masks, 1.0, -1.0) * (self.X @ blocks))))


@dataclass
class Report:
    """Median seconds to either error (None: not reached), and what came with the closer one."""

    rough: float | None = None
    close: float | None = None
    error: float | None = None
    violation: float | None = None
    memory: float = 0.0  # mebibytes of the whole process at its peak, packages included
    apart: float = 0.0  # seconds that turning the problem into the solver's own form took, once
    note: str = ""
    runs: list[dict[str, Any]] = field(default_factory=list)


def compete(
    build: Callable[[Problem], Iterable[tuple[str, Callable[[], np.ndarray]]]],
) -> None:
    """Read the problem, run the solves that ``build`` yields in turn, write the report.

    The report is written after every solve, so that what is done survives a process that is stopped.
    """
    problem, path = Problem.read(sys.argv[1]), sys.argv[2]
    begin = time.perf_counter()
    report = Report()
    for label, solve in build(problem):
        report.apart = report.apart or time.perf_counter() - begin
        seconds, blocks = _timed(solve)
        report.memory = _peak()
        error = problem.error(blocks)
        report.runs.append({"label": label, "seconds": seconds, "error": error})
        if report.error is None or error < report.error:
            report.error, report.violation = error, problem.violation(blocks)
        _write(path, report)
        for name, target in (("rough", ROUGH), ("close", CLOSE)):
            if error <= target and getattr(report, name) is None:
                setattr(report, name, _repeated(solve, seconds))
                _write(path, report)
        if report.close is not None or time.perf_counter() - begin > LIMIT:
            break
    _write(path, report)


def _timed(solve: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    begin = time.perf_counter()
    blocks = solve()
    return time.perf_counter() - begin, blocks


def _repeated(solve: Callable[[], np.ndarray], seconds: float) -> float:
    if seconds > LONG:
        return seconds
    return median([seconds, *(_timed(solve)[0] for _ in range(REPEATS - 1))])


def _peak() -> float:
    """Return the peak of this process's own memory (that of `getrusage` counts its parent's)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024.0


def _write(path: str, report: Report) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(asdict(report), file)
