"""Whole fits: one certified grade beside networks trained by descent, and beside boosting.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.fits

For every set and alpha, split 0: seconds, training objective of a grade, and test RMSE; the median of
three seeds. The networks have 100 neurons and the same penalty: scipy's L-BFGS descends the same
objective, scikit-learn's MLPs half the squares of all weights but the biases (its ``alpha`` counts n
times as much), each until it says that it has converged. Boosting has no such objective.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import root_mean_squared_error
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from convexgrade import ConvexReLURegressor
from tests.benchmarks.datasets import load
from tests.benchmarks.patterns import SETS, Descent, descend

Array = NDArray[np.float64]

ALPHAS = (1e-2, 1e-3)
SEEDS = 3
WIDTH = 100


class Task(NamedTuple):
    """A set whose columns and targets have mean 0 and variance 1 on the training rows."""

    H: Array
    y: Array
    H_test: Array
    y_test: Array
    unit: float  # of the targets

    @classmethod
    def of(cls, name: str) -> Task:
        """Standardise split 0 of a set."""
        X, y, X_test, y_test = load(name, split=0)
        center, scale = X.mean(axis=0), X.std(axis=0)
        unit = float(y.std())
        targets = ((y - y.mean()) / unit, (y_test - y.mean()) / unit)
        return cls((X - center) / scale, targets[0], (X_test - center) / scale, targets[1], unit)

    def error(self, prediction: Array) -> float:
        """Return the test RMSE in the units of the data."""
        return self.unit * root_mean_squared_error(self.y_test, prediction)


class Result(NamedTuple):
    """What a fit took and reached; an objective of NaN where there is none."""

    seconds: float
    objective: float
    error: float


def certified(task: Task, alpha: float, seed: int) -> Result:
    """Fit one grade, as the estimator does by default."""
    begin = time.perf_counter()
    model = ConvexReLURegressor(alpha, random_state=seed).fit(task.H, task.y)
    seconds = time.perf_counter() - begin
    return Result(seconds, model.certificate_.primal, task.error(model.predict(task.H_test)))


def scipy_descent(task: Task, alpha: float, seed: int) -> Result:
    """Descend the objective of a grade."""
    return _measured(descend(task.H, task.y, alpha, seed, WIDTH), task, alpha)


def perceptron(solver: str) -> Callable[[Task, float, int], Result]:
    """Return how to fit scikit-learn's network by one of its solvers."""

    def run(task: Task, alpha: float, seed: int) -> Result:
        model = MLPRegressor(
            hidden_layer_sizes=(WIDTH,),
            solver=solver,
            alpha=alpha * len(task.H),
            max_iter=20_000,
            random_state=seed,
        )
        begin = time.perf_counter()
        model.fit(task.H, task.y)
        seconds = time.perf_counter() - begin
        u = np.vstack([model.coefs_[0], model.intercepts_[0]])
        a, c = model.coefs_[1][:, 0], float(model.intercepts_[1][0])
        return _measured(Descent(u, a, c, seconds), task, alpha)

    return run


def boosting(task: Task, alpha: float, seed: int) -> Result:
    """Fit boosted trees as they come; alpha is none of theirs."""
    begin = time.perf_counter()
    model = HistGradientBoostingRegressor(random_state=seed).fit(task.H, task.y)
    seconds = time.perf_counter() - begin
    return Result(seconds, np.nan, task.error(model.predict(task.H_test)))


def _measured(trained: Descent, task: Task, alpha: float) -> Result:
    objective = trained.objective(task.H, task.y, alpha)
    return Result(trained.seconds, objective, task.error(trained.predict(task.H_test)))


ENTRANTS: dict[str, Callable[[Task, float, int], Result]] = {
    "ConvexReLURegressor": certified,
    "scipy L-BFGS": scipy_descent,
    "MLP, L-BFGS": perceptron("lbfgs"),
    "MLP, Adam": perceptron("adam"),
    "HistGradientBoosting": boosting,
}


def main() -> None:
    """Measure and print: seconds, objective and test RMSE in each cell."""
    print("| set | alpha | " + " | ".join(ENTRANTS) + " |\n" + "|---" * (len(ENTRANTS) + 2) + "|")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name in SETS:
            task = Task.of(name)
            for alpha in ALPHAS:
                cells = [_cell(run, task, alpha) for run in ENTRANTS.values()]
                print(f"| {name} | {alpha:g} | " + " | ".join(cells) + " |", flush=True)


def _cell(run: Callable[[Task, float, int], Result], task: Task, alpha: float) -> str:
    results: list[Any] = [run(task, alpha, seed) for seed in range(SEEDS)]
    seconds, objective, error = (median(values) for values in zip(*results, strict=True))
    shown = "" if np.isnan(objective) else f", {objective:.5f}"
    return f"{seconds:.2f} s{shown}, {error:.3g}"


if __name__ == "__main__":
    main()
