"""The native solver against CVXPY's solvers, pyscnn and adelie, on the same programs.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.solvers folder

Writes the problems, an environment for each peer (pyscnn wants torch, adelie numpy < 2) and one record
a contest into ``folder``, and prints the table of all records. An interrupted run goes on where it
stopped. Every contestant is a process of its own on one thread; see `contestants.protocol` for what is
timed. A contestant that needs more than `LIMIT` seconds for a solve, or breaks down, is recorded as such
and not asked again for a larger problem of the same kind.

The optimum that errors refer to is a native method's at its last digit, and is checked by the lower
bound of `convexgrade.certificate`, which does not know who solved.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from convexgrade.dual import dual_point, lower_bound
from convexgrade.grade import state_problem
from convexgrade.losses import SquaredError
from convexgrade.patterns import Patterns, sample_patterns
from convexgrade.point import null_point
from convexgrade.program import Problem, Program
from convexgrade.proposals import Budget, propose
from convexgrade.settings import Settings
from convexgrade.solvers import interior, newton
from tests.benchmarks.datasets import load

CONTESTANTS = Path(__file__).parent / "contestants"
LIMIT = 300.0  # seconds of one solve
MEMORY = 20 * 2**30  # bytes a contestant may use
PROVED = 1e-7  # relative gap that an optimum is proved to

SHAPES = (  # set, rows, sampled patterns
    ("yacht", 277, 60),
    ("concrete", 927, 50),
    ("concrete", 927, 500),
    ("airfoil", 1352, 200),
    ("california", 7000, 500),
    ("california", 18000, 200),
)
ALPHAS = (1e-2, 1e-3)
ADAPTIVE = 0  # in place of a number of sampled patterns: those a first round of the search proposes

PACKAGES = {
    "adelie": [["numpy<2", "adelie==1.1.52"]],
    "pyscnn": [
        ["torch==2.13.0", "numpy", "scipy", "tqdm", "opt_einsum", "cvxpy"],
        ["--no-deps", "pyscnn==0.0.10", "linalg_backends"],
    ],
}
ENTRANTS = {
    "ours": ("here", ["ours.py"]),
    "pyscnn": ("pyscnn", ["peer_pyscnn.py"]),
    "adelie": ("adelie", ["peer_adelie.py"]),
    "CLARABEL": ("here", ["peer_cvxpy.py", "CLARABEL"]),
    "ECOS": ("here", ["peer_cvxpy.py", "ECOS"]),
    "SCS": ("here", ["peer_cvxpy.py", "SCS"]),
}
PEERS, SOLVERS = ("pyscnn", "adelie"), ("CLARABEL", "ECOS", "SCS")


@dataclass(frozen=True)
class Case:
    """A problem by its name: set, rows, patterns, penalty, activation.

    Of the set "gaussian" there are as many rows and columns as one likes.
    """

    name: str
    n: int
    n_patterns: int
    alpha: float
    cones: bool
    d: int = 0  # columns, if not all

    def __str__(self) -> str:
        kind = "relu" if self.cones else "gated"
        patterns = self.n_patterns or "adaptive"
        columns = f"-{self.d}d" if self.d else ""
        return f"{self.name}-{self.n}{columns}-{patterns}-{self.alpha:g}-{kind}"

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return X and y."""
        if self.name == "gaussian":
            rng = np.random.default_rng(0)
            X = rng.standard_normal((self.n, self.d))
            neurons = rng.standard_normal((self.d, 10)) / np.sqrt(self.d)
            y = np.maximum(X @ neurons, 0.0) @ rng.standard_normal(10)
            return X, y + 0.1 * y.std() * rng.standard_normal(self.n)
        X, y, _, _ = load(self.name, split=0)
        return X[: self.n], y[: self.n]

    def program(self) -> Program:
        """State the program."""
        X, y = self.rows()
        H, y = (X - X.mean(axis=0)) / X.std(axis=0), ((y - y.mean()) / y.std())[:, None]
        settings = Settings(activation="relu", fit_intercept=False)
        weights = np.full(self.n, 1.0 / self.n)
        loss, nothing = SquaredError(), np.zeros_like(y)
        problem = state_problem(H, y, nothing, weights, loss, self.alpha, settings)
        return replace(problem, cones=self.cones).over(self._patterns(problem))

    def _patterns(self, problem: Problem) -> Patterns:
        """Return patterns whose gates stay clear of all rows: pyscnn reads them off once more."""
        rng = np.random.default_rng(0)
        if self.n_patterns:
            return sample_patterns(problem.X, self.n_patterns, rng)
        proposal = propose(problem, null_point(problem), None, Budget(300, 1e-4, 1e-3, None), rng)
        assert proposal is not None
        gates = proposal.patterns.gates
        clear = np.abs(problem.X @ gates).min(axis=0) > 1e-9 * np.linalg.norm(gates, axis=0)
        return Patterns.from_gates(problem.X, gates[:, clear])

    def dominates(self, other: Case) -> bool:
        """Return whether this is the same kind of problem, and no smaller or less penalised."""
        same = self.cones == other.cones and bool(self.n_patterns) == bool(other.n_patterns)
        larger = self.n >= other.n and self.n_patterns >= other.n_patterns and self.d >= other.d
        return same and larger and self.alpha <= other.alpha


def cases() -> Iterator[Case]:
    """Yield all problems, the sampled patterns first."""
    shapes = [*SHAPES, *dict.fromkeys((name, n, ADAPTIVE) for name, n, _ in SHAPES)]
    for name, n, n_patterns in shapes:
        for alpha in ALPHAS:
            for cones in (False, True):
                yield Case(name, n, n_patterns, alpha, cones)


def write_problem(case: Case, folder: Path) -> Path:
    """Write a problem with its optimum, unless it is there."""
    path = folder / "problems" / f"{case}.npz"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):
        program = case.program()
        optimum = proved_optimum(program)
    np.savez(
        path,
        X=program.X,
        y=program.y[:, 0],
        masks=program.patterns.masks,
        gates=program.patterns.gates,
        alpha=case.alpha,
        cones=case.cones,
        optimum=optimum,
    )
    return path


def proved_optimum(program: Program) -> float:
    """Return the optimum by whichever native method's last digit a lower bound confirms."""
    for method in (newton.solve, interior.solve):
        solution = method(program, tol=1e-11)
        optimum = program.objective(solution.blocks, solution.unpenalised)
        point = dual_point(program, program.predict(solution.blocks, solution.unpenalised))
        largest = program.largest_dual_norm(program.adjoint(point.theta))
        bound = lower_bound(program, point.q, largest)
        if optimum - bound <= PROVED * optimum:
            return optimum
    raise RuntimeError(f"The optimum {optimum:.12g} is proved to {bound:.12g} only.")


def interpreter(environment: str, folder: Path) -> str:
    """Return the Python of an environment, built if it is missing."""
    if environment == "here":
        return sys.executable
    home = folder / "environments" / environment
    python = home / "bin" / "python"
    if not python.exists():
        print(f"building the environment of {environment}", flush=True)
        venv.create(home, with_pip=True)
        for packages in PACKAGES[environment]:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return str(python)


def contest(entrant: str, problem: Path, folder: Path) -> dict[str, Any]:
    """Run one contestant on one problem and return its report."""
    environment, (file, *arguments) = ENTRANTS[entrant]
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [interpreter(environment, folder), str(CONTESTANTS / file), str(problem), str(report)]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        variables[name] = "1"
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["prlimit", f"--as={MEMORY}", *command, *arguments],
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        over = _wait(process, report)
    found = json.loads(report.read_text()) if report.exists() else {"runs": []}
    if over:
        found["note"] = f"over {LIMIT:.0f} s"
    elif process.returncode != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        found["note"] = f"failed: {last[0] if last else process.returncode}"[:120]
    elif found["close"] is None:
        found["note"] = f"error {found['error']:.0e} at its best"
    return found


def _wait(process: subprocess.Popen[bytes], report: Path) -> bool:
    """Wait for a process; stop it when nothing new was reported for too long, and return whether so."""
    last, stamp = time.monotonic(), 0.0
    while process.poll() is None:
        time.sleep(0.1)
        changed = report.stat().st_mtime if report.exists() else 0.0
        if changed != stamp:
            last, stamp = time.monotonic(), changed
        if time.monotonic() - last > LIMIT:
            process.kill()
            process.wait()
            return True
    return False


def measure(folder: Path, entrants: Sequence[str], some: Sequence[Case]) -> None:
    """Hold every contest that has no record yet."""
    known = {str(case): case for case in some}
    for case in some:
        problem = write_problem(case, folder)
        for entrant in entrants:
            records = read(folder)
            if any(r["case"] == str(case) and r["entrant"] == entrant for r in records):
                continue
            over = (r for r in records if r["entrant"] == entrant and r["note"].startswith("over"))
            slow = (known[r["case"]] for r in over if r["case"] in known)
            beaten = next((other for other in slow if case.dominates(other)), None)
            if beaten is None:
                found = contest(entrant, problem, folder)
            else:
                found = {"note": f"over {LIMIT:.0f} s, as on {beaten}"}
            record = {"case": str(case), "entrant": entrant, **found}
            with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print({k: v for k, v in record.items() if k != "runs"}, flush=True)


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a folder."""
    path = folder / "results.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _by_case(records: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the records of every problem, by contestant."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        rows.setdefault(record["case"], {})[record["entrant"]] = record
    return rows


def _heading(*more: str) -> list[str]:
    columns = ["problem", *ENTRANTS, *more]
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def costs(records: list[dict[str, Any]]) -> str:
    """Return in Markdown what else solves cost: stating the problem, violated cones, memory."""
    lines = _heading()
    for case, rows in _by_case(records).items():
        cells = [
            f"{row['apart']:.1g} s, {row['violation']:.0e}, {row['memory']:.0f} MiB"
            if (row := rows.get(name, {})).get("violation") is not None
            else "–"
            for name in ENTRANTS
        ]
        lines.append("| " + " | ".join([case, *cells]) + " |")
    return "\n".join(lines)


def table(records: list[dict[str, Any]]) -> str:
    """Return the seconds to the closer error in Markdown, and to the rougher one in brackets.

    And the least of the two peers and of CVXPY's solvers, over ours.
    """
    lines = _heading("peers / ours", "CVXPY / ours")
    for case, rows in _by_case(records).items():
        cells = [_cell(rows.get(name)) for name in ENTRANTS]
        ratios = [_ratio(rows, names) for names in (PEERS, SOLVERS)]
        lines.append("| " + " | ".join([case, *cells, *ratios]) + " |")
    return "\n".join(lines)


def _ratio(rows: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """Return the least seconds of some contestants over ours."""
    ours, *others = (rows.get(name, {}).get("close") for name in ("ours", *names))
    known = [seconds for seconds in others if seconds is not None]
    return f"{min(known) / ours:.1f}" if known and ours else "–"


def _cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not run"
    rough, close = record.get("rough"), record.get("close")
    if rough is None:
        return record["note"].split(", as on")[0].split(":")[0]
    return f"{close:.2g} ({rough:.2g})" if close is not None else f"– ({rough:.2g})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of problems, environments and results")
    parser.add_argument("--entrants", nargs="+", choices=ENTRANTS, default=list(ENTRANTS))
    parser.add_argument("--only", default="", help="part of the names of the problems to run")
    arguments = parser.parse_args()
    some = [case for case in cases() if arguments.only in str(case)]
    measure(arguments.folder, arguments.entrants, some)
    records = read(arguments.folder)
    print(table(records))
    print("\nSeconds to state the problem, violated constraints and peak memory:\n")
    print(costs(records))


if __name__ == "__main__":
    main()
