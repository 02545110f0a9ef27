"""One grade against two on the target of a depth separation.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.depth [d ...]

Test error as a fraction of the target's variance. Two grades: the first, without biases, hands its
output, one number, to the second; then backward correction. One grade: about as many neurons, with
biases, as fitted and corrected. scikit-learn's networks of one and of two hidden layers have as many
neurons as the two grades; the better test error of L-BFGS and Adam.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from convexgrade import MultigradeRegressor, correct
from convexgrade.datasets import make_depth_separation

Array = NDArray[np.float64]

DIMENSIONS = (2, 5, 10, 20)
N_TRAIN, N_TEST = 4000, 20_000
ALPHA, NEURONS, SWEEPS = 3e-5, 100, 30
QUICK = {
    "alpha_decay": 1.0,
    "max_iter": 1,
    "tol": 1e-2,
    "standardize": False,
    "random_state": 0,
}


def two_grades() -> MultigradeRegressor:
    """Return the chain of the experiment, not corrected."""
    return MultigradeRegressor(
        ALPHA,
        n_grades=2,
        passthrough="output",
        keep_inputs=False,
        first_bias=False,
        n_patterns=NEURONS,
        **QUICK,
    )


def measure(d: int) -> Iterator[tuple[str, str, float, float]]:
    """Yield name, neurons, test error and seconds of every learner."""
    X, y = make_depth_separation(N_TRAIN, d, random_state=0)
    X_test, y_test = make_depth_separation(N_TEST, d, random_state=1)

    def error(model: Any) -> float:
        return float(np.mean((model.predict(X_test) - y_test) ** 2) / np.var(y_test))

    start = time.perf_counter()
    two = two_grades().fit(X, y)
    widths = [grade.n_neurons for grade in two.grades_]
    shown, seconds = " + ".join(map(str, widths)), time.perf_counter() - start
    yield "two grades", shown, error(two), seconds
    start = time.perf_counter()
    corrected = correct(two, X, y, max_sweeps=SWEEPS)
    yield "two grades, corrected", shown, error(corrected), seconds + time.perf_counter() - start

    start = time.perf_counter()
    one = MultigradeRegressor(ALPHA, n_grades=1, n_patterns=sum(widths), **QUICK).fit(X, y)
    shown, seconds = str(one.grades_[0].n_neurons), time.perf_counter() - start
    yield "one grade", shown, error(one), seconds
    start = time.perf_counter()
    moved = correct(one, X, y, max_sweeps=SWEEPS)
    yield "one grade, corrected", shown, error(moved), seconds + time.perf_counter() - start

    for name, layers in (
        ("MLP, one hidden layer", (sum(widths),)),
        ("MLP, two hidden layers", tuple(widths)),
    ):
        start = time.perf_counter()
        models = [
            MLPRegressor(
                hidden_layer_sizes=layers,
                solver=solver,
                alpha=1e-7,
                max_iter=1000,
                tol=1e-7,
                random_state=0,
            )
            for solver in ("lbfgs", "adam")
        ]
        found = min(error(model.fit(X, y)) for model in models)
        yield name, " + ".join(map(str, layers)), found, time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    dimensions = [int(word) for word in sys.argv[1:]] or DIMENSIONS
    print("| d | learner | neurons | test MSE / variance | seconds |\n|---|---|---|---|---|")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for d in dimensions:
            for name, neurons, error, seconds in measure(d):
                print(f"| {d} | {name} | {neurons} | {error:.5f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
