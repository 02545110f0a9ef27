"""How good are the patterns? Adaptive and sampled grades against descents of wide networks.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.patterns results.jsonl

For every set and alpha: ten networks of 300 neurons, trained by scipy's L-BFGS to convergence, on the
objective of a grade; five adaptive grades, as the estimators fit them by default; and grades over 50,
200 and 1000 sampled patterns. Results are appended to the file as they come, so that an interrupted run
goes on where it stopped; the table is printed at the end. A full run takes about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from convexgrade.grade import fit_grade, state_problem
from convexgrade.losses import SquaredError
from convexgrade.program import Problem
from convexgrade.settings import Settings
from tests.benchmarks.datasets import load

Array = NDArray[np.float64]

SETS = ("yacht", "energy", "concrete", "airfoil")
ALPHAS = (1e-2, 1e-3, 1e-4)
SAMPLES = (50, 200, 1000)
WIDTH = 300
FITS, GRADES = 10, 5
# A descent has converged when a step gains less than this (the loss of the mean is 0.5).
CONVERGED = {"ftol": 1e-10, "gtol": 1e-9, "maxiter": 20_000, "maxfun": 100_000}


def standardised(name: str) -> tuple[Array, Array]:
    """Return features and targets of split 0, each of mean 0 and variance 1."""
    X, y, _, _ = load(name, split=0)
    return (X - X.mean(axis=0)) / X.std(axis=0), ((y - y.mean()) / y.std())[:, None]


def problem(name: str, alpha: float, settings: Settings) -> Problem:
    """State what a first grade has to fit."""
    H, y = standardised(name)
    weights = np.full(len(H), 1.0 / len(H))
    return state_problem(H, y, np.zeros_like(y), weights, SquaredError(), alpha, settings)


class Descent(NamedTuple):
    """A network x -> (x u)_+ a + c, x with a one behind it, and the seconds of its training."""

    u: Array
    a: Array
    c: float
    seconds: float

    def predict(self, H: Array) -> Array:
        """Return the predictions for some rows."""
        return np.maximum(with_ones(H) @ self.u, 0.0) @ self.a + self.c

    def objective(self, H: Array, target: Array, alpha: float) -> float:
        """Return the objective of a grade."""
        penalty = np.linalg.norm(self.u, axis=0) @ np.abs(self.a)
        return float(0.5 * np.mean((self.predict(H) - target) ** 2) + alpha * penalty)


def with_ones(H: Array) -> Array:
    """Return rows with a one behind them."""
    return np.column_stack([H, np.ones(len(H))])


def descend(H: Array, target: Array, alpha: float, seed: int, width: int = WIDTH) -> Descent:
    """Train a network by L-BFGS on the balanced objective, whose minima are those of a grade."""
    X = with_ones(H)
    n, d = X.shape
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((d, width)) / np.sqrt(d)
    start = np.concatenate([u.ravel(), rng.standard_normal(width) / np.sqrt(width), [0.0]])

    def split(p: Array) -> tuple[Array, Array, float]:
        return p[: d * width].reshape(d, width), p[d * width : -1], p[-1]

    def balanced(p: Array) -> tuple[float, Array]:
        u, a, c = split(p)
        hidden = np.maximum(X @ u, 0.0)
        residual = (hidden @ a + c - target) / n
        value = 0.5 * n * residual @ residual + 0.5 * alpha * (p[:-1] @ p[:-1])
        grad_u = X.T @ ((hidden > 0.0) * np.outer(residual, a)) + alpha * u
        grad_a = hidden.T @ residual + alpha * a
        return value, np.concatenate([grad_u.ravel(), grad_a, [residual.sum()]])

    begin = time.perf_counter()
    found = minimize(balanced, start, jac=True, method="L-BFGS-B", options=CONVERGED).x
    return Descent(*split(found), time.perf_counter() - begin)


def descent(name: str, alpha: float, seed: int) -> dict[str, float]:
    """Train a network on a set, and report its objective."""
    H, y = standardised(name)
    trained = descend(H, y[:, 0], alpha, seed)
    return {"objective": trained.objective(H, y[:, 0], alpha), "seconds": trained.seconds}


def grade(name: str, alpha: float, settings: Settings, seed: int = 0) -> dict[str, Any]:
    """Fit a grade and report its certificate."""
    fitted = fit_grade(problem(name, alpha, settings), settings, (seed, 0))
    certificate = fitted.certificate
    return {
        "objective": certificate.primal,
        "seconds": fitted.seconds,
        "gap": certificate.relative_gap,
        "price": certificate.price / alpha,
        "neurons": fitted.n_neurons,
        "pruned_from": fitted.n_before_pruning,
    }


def contestants(name: str, alpha: float) -> Iterator[tuple[str, Any]]:
    """Yield a label and the function that measures it."""
    for seed in range(GRADES):
        yield f"adaptive {seed}", lambda seed=seed: grade(name, alpha, Settings(), seed)
    for n in SAMPLES:
        settings = Settings(patterns="sampled", n_patterns=n)
        yield f"sampled {n}", lambda settings=settings: grade(name, alpha, settings)
    for seed in range(FITS):
        yield f"descent {seed}", lambda seed=seed: descent(name, alpha, seed)


def measure(path: Path, sets: list[str], alphas: list[float]) -> None:
    """Append what the file has not yet."""
    done = {(r["set"], r["alpha"], r["label"]) for r in results(path)}
    for alpha in alphas:
        for name in sets:
            for label, run in contestants(name, alpha):
                if (name, alpha, label) in done:
                    continue
                with threadpool_limits(1):
                    record = {"set": name, "alpha": alpha, "label": label, **run()}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                print(record, flush=True)


def results(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(records: list[dict[str, Any]]) -> str:
    """Return the results in Markdown: objectives relative to the best descent, times beside.

    Of the adaptive grades, the one of highest objective is shown, and the median time.
    """
    lines = [
        "| set | alpha | best of ten descents | adaptive | gap | price / alpha | neurons "
        "| sampled 50 | sampled 200 | sampled 1000 | seconds: one descent | adaptive |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((r["set"], r["alpha"]) for r in records):
        rows = {r["label"]: r for r in records if (r["set"], r["alpha"]) == key}
        descents = [r for label, r in rows.items() if label.startswith("descent")]
        best = min(r["objective"] for r in descents)
        grades = [r for label, r in rows.items() if label.startswith("adaptive")]
        adaptive = max(grades, key=lambda r: r["objective"])
        sampled = [f"{rows[f'sampled {n}']['objective'] / best:.2f}" for n in SAMPLES]
        cells = [
            key[0],
            f"{key[1]:g}",
            f"{best:.6g}",
            f"{100.0 * (adaptive['objective'] / best - 1.0):+.2f} %",
            f"{adaptive['gap']:.0e}",
            f"{adaptive['price']:.2f}",
            f"{adaptive['neurons']} of {adaptive['pruned_from']}",
            *sampled,
            f"{median(r['seconds'] for r in descents):.2g}",
            f"{median(r['seconds'] for r in grades):.2g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="file of results, one JSON record a line")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--alphas", nargs="+", type=float, default=list(ALPHAS))
    arguments = parser.parse_args()
    measure(arguments.path, arguments.sets, arguments.alphas)
    print(table(results(arguments.path)))


if __name__ == "__main__":
    main()
