"""One grade against two on the target of a depth separation.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.depth [d ...]

Test error as a fraction of the target's variance. Two grades, at one alpha for all d: the first, without
biases, hands its output, one number, to the second. A strong penalty keeps it from over-fitting what it
cannot represent; then comes backward correction, with a weak one. One grade, with biases: its search
begins with as many neurons as the two grades have together; of several alphas, as fitted and corrected,
that with the least *test* error, which favours it. scikit-learn's networks of one and of two
hidden layers have as many neurons as the two grades; the better test error of L-BFGS and Adam. The last
line of each d is the error of the two corrected grades over the least error of anything with one hidden
layer.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from convexgrade import MultigradeRegressor, correct
from convexgrade.datasets import make_depth_separation

Array = NDArray[np.float64]

DIMENSIONS = (2, 5, 10, 20, 50)
N_TRAIN, N_TEST = 4000, 20_000
ALPHA, NEURONS, SWEEPS = 3e-3, 512, 30
CORRECTED = 3e-5  # largest penalty of a correction
ALPHAS = (3e-3, 1e-4, 3e-5, 1e-5)  # of the single grade
QUICK = {
    "alpha_decay": 1.0,
    "max_iter": 1,
    "tol": 1e-2,
    "standardize": False,
    "early_stopping": False,
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


class Row(NamedTuple):
    """A learner: its neurons, its alpha if it has one, its test error and what it took."""

    name: str
    neurons: str
    alpha: str
    error: float
    seconds: float


class Experiment:
    """The rows of one dimension."""

    def __init__(self, d: int) -> None:
        self.X, self.y = make_depth_separation(N_TRAIN, d, random_state=0)
        self.X_test, self.y_test = make_depth_separation(N_TEST, d, random_state=1)

    def error(self, model: Any) -> float:
        """Return the test error over the variance."""
        miss = model.predict(self.X_test) - self.y_test
        return float(np.mean(miss**2) / np.var(self.y_test))

    def chain(self, name: str, model: MultigradeRegressor) -> tuple[Row, Row]:
        """Fit a chain and correct it."""
        start = time.perf_counter()
        model.fit(self.X, self.y)
        fitted = time.perf_counter() - start
        weaker = min(model.alpha, CORRECTED)
        corrected = correct(model, self.X, self.y, alpha=weaker, max_sweeps=SWEEPS)
        seconds = time.perf_counter() - start
        shown = " + ".join(str(grade.n_neurons) for grade in model.grades_)
        alpha = f"{model.alpha:g}"
        return (
            Row(name, shown, alpha, self.error(model), fitted),
            Row(f"{name}, corrected", shown, alpha, self.error(corrected), seconds),
        )

    def perceptron(self, name: str, layers: tuple[int, ...]) -> Row:
        """Fit scikit-learn's network."""
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
        found = min(self.error(model.fit(self.X, self.y)) for model in models)
        return Row(name, " + ".join(map(str, layers)), "", found, time.perf_counter() - start)


def measure(d: int) -> Iterator[Row]:
    """Yield the rows of the table."""
    experiment = Experiment(d)
    two, corrected = experiment.chain("two grades", two_grades())
    yield two
    yield corrected
    widths = tuple(map(int, two.neurons.split(" + ")))
    single = [
        experiment.chain(
            "one grade",
            MultigradeRegressor(alpha, n_grades=1, n_patterns=sum(widths), **QUICK),
        )
        for alpha in ALPHAS
    ]
    one_layer = [min(rows, key=lambda row: row.error) for rows in zip(*single, strict=True)]
    one_layer.append(experiment.perceptron("MLP, one hidden layer", (sum(widths),)))
    yield from one_layer
    yield experiment.perceptron("MLP, two hidden layers", widths)
    least = min(row.error for row in one_layer)
    yield Row(
        "two grades, corrected, over the best of one layer", "", "", corrected.error / least, 0
    )


def main() -> None:
    """Measure and print."""
    dimensions = [int(word) for word in sys.argv[1:]] or DIMENSIONS
    print(
        "| d | learner | neurons | alpha | test MSE / variance | seconds |\n|---|---|---|---|---|---|"
    )
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for d in dimensions:
            for name, neurons, alpha, error, seconds in measure(d):
                line = f"| {d} | {name} | {neurons} | {alpha} | {error:.3g} | {seconds:.0f} |"
                print(line, flush=True)


if __name__ == "__main__":
    main()
