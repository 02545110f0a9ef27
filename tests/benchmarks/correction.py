"""Backward feature correction: two experiments where lower features must be corrected, and real sets.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.correction [quadratic] [relu] [sets]

All three without a word. Times are of one thread.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from convexgrade import MultigradeClassifier, MultigradeRegressor, correct
from tests.benchmarks import quadratic
from tests.benchmarks.datasets import Split, load

Array = NDArray[np.float64]

SEEDS = (0, 1)
QUADRATIC_SEEDS = 10
SWEEPS = 25
CLASSIFICATION = {
    "ionosphere": 4,
    "statlog-vehicle": 2,
    "statlog-image": 1,
    "magic": 1,
    "spambase": 1,
}  # and how many splits
REGRESSION = {
    "yacht": 4,
    "energy": 3,
    "concrete": 2,
    "airfoil": 2,
    "power-plant": 1,
    "california": 1,
}
CHAINS: dict[str, dict[str, Any]] = {
    "alpha from 0.01 down": {"alpha": 1e-2, "early_stopping": False},
    "2 grades, alpha 0.003": {
        "alpha": 3e-3,
        "n_grades": 2,
        "alpha_decay": 1.0,
        "early_stopping": False,
    },
}
TOO_LONG = {("california", "alpha from 0.01 down")}  # hours, corrections included
FACTORS = (1.0, 0.1)
KINDS = ("none", "backward", "last alpha for all", "0.1 of it", "readouts")


class Sample(NamedTuple):
    """A train and a test sample, and the subspace that the target lives on."""

    X: Array
    y: Array
    X_test: Array
    y_test: Array
    directions: Array


def sample(d: int, n: int, seed: int, target: Callable[[Array], Array]) -> Sample:
    """Draw Gaussian rows; the target reads four orthonormal directions of them."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((d, 4)))[0]
    X, X_test = rng.standard_normal((n, d)), rng.standard_normal((10_000, d))
    return Sample(X, target(X @ directions), X_test, target(X_test @ directions), directions)


def quadratic_target(z: Array) -> Array:
    """Return a sum of squares plus products of them: degree 4."""
    q = (z**2 - 1.0) / np.sqrt(2.0)
    return q.sum(axis=1) / 2.0 + 0.5 * (q[:, 0] * q[:, 1] + q[:, 2] * q[:, 3]) / np.sqrt(2.0)


def relu_target(z: Array) -> Array:
    """Return a sum of absolute values plus absolute values of sums of them."""
    r = np.abs(z)
    pairs = np.abs(r[:, 0] + r[:, 1] - 1.6) + np.abs(r[:, 2] + r[:, 3] - 1.6)
    return r.sum(axis=1) / 2.0 + 0.7 * pairs


def score(predict: Callable[[Array], Array], data: Sample) -> float:
    """Return R2 on the test sample."""
    return 1.0 - _relative(predict(data.X_test), data)


def _relative(prediction: Array, data: Sample) -> float:
    return float(np.mean((prediction - data.y_test) ** 2) / np.var(data.y_test))


def kernels(data: Sample) -> Iterator[tuple[str, float]]:
    """Yield kernel ridge regression's test R2, the best over scales and penalties: a favour to it."""
    scale = 1.0 / data.X.shape[1]
    grids: dict[str, list[dict[str, Any]]] = {
        "poly4": [{"kernel": "poly", "degree": 4, "gamma": g * scale} for g in (0.3, 1.0)],
        "RBF": [{"kernel": "rbf", "gamma": g * scale} for g in (0.1, 0.3, 1.0)],
        "Laplace": [{"kernel": "laplacian", "gamma": g * scale} for g in (0.1, 0.3, 1.0)],
    }
    for name, grid in grids.items():
        fits = [
            KernelRidge(alpha=alpha, **kernel).fit(data.X, data.y - data.y.mean())
            for kernel in grid
            for alpha in (1e-3, 1e-1, 1.0)
        ]
        yield f"kernel ridge, {name}", max(_score_centred(fit, data) for fit in fits)


def _score_centred(fit: KernelRidge, data: Sample) -> float:
    mean = data.y.mean()
    return score(lambda X: fit.predict(X) + mean, data)


def off_subspace(net: quadratic.Quadratic, data: Sample) -> float:
    """Return the share of grade 1 off the target's subspace; neurons weighted by their influence."""
    influence = np.mean(net.systems(data.X)[0].G[:, 0] ** 2, axis=0)
    inside = np.sum((data.directions.T @ net.U) ** 2, axis=0)
    return float(1.0 - influence @ inside / (influence @ np.sum(net.U**2, axis=0)))


def quadratic_bound(data: Sample) -> float:
    """Return R2 of the quadratic function fitted to the test rows: no first grade has a higher one."""
    rows, cols = np.triu_indices(data.X.shape[1])
    products = data.X_test[:, rows] * data.X_test[:, cols]
    columns = np.column_stack([np.ones(len(products)), data.X_test, products])
    return 1.0 - _relative(columns @ np.linalg.lstsq(columns, data.y_test, rcond=None)[0], data)


def quadratic_figures(seed: int) -> dict[str, float]:
    """Return test R2 of every learner of experiment 1, and how far grade 1 is off the subspace."""
    data = sample(15, 2000, seed, quadratic_target)
    X, y = data.X, data.y
    fits = quadratic.fit(X, y, (6, 8), SWEEPS)
    start = time.perf_counter()
    quadratic.corrected(replace(fits.both, ridge=fits.corrected.ridge), X, y, SWEEPS)
    middle = time.perf_counter()
    joint = quadratic.joint(fits.both, X, y)
    end = time.perf_counter()
    longer = quadratic.corrected(fits.corrected, X, y, 3 * SWEEPS)
    return {
        "any quadratic function": quadratic_bound(data),
        "one grade": score(fits.one.predict, data),
        "two grades, greedy": score(fits.both.predict, data),
        "readouts refitted": score(fits.both.refitted(X, y).predict, data),
        "corrected": score(fits.corrected.predict, data),
        "joint L-BFGS from greedy": score(joint.predict, data),
        "grade 1 off the subspace, greedy": off_subspace(fits.both, data),
        "corrected, 25 sweeps": off_subspace(fits.corrected, data),
        "corrected, 100 sweeps": off_subspace(longer, data),
        "ridge chosen": fits.corrected.ridge,
        "seconds, corrected": middle - start,
        "seconds, joint": end - middle,
    }


def quadratic_experiment() -> None:
    """Experiment 1: quadratic activations, d = 15, 2000 rows, widths 6 and 8."""
    found = [quadratic_figures(seed) for seed in range(QUADRATIC_SEEDS)]
    print(f"| quadratic | seed 0 | seed 1 | median of {len(found)} | least | most |")
    print("|---|---|---|---|---|---|")
    for name in found[0]:
        values = np.array([row[name] for row in found])
        shown = (*values[:2], np.median(values), values.min(), values.max())
        form = "{:.4f}" if np.median(values) > 0.01 else "{:.1e}"
        print(f"| {name} | " + " | ".join(form.format(value) for value in shown) + " |")
    for seed in SEEDS:
        for name, value in kernels(sample(15, 2000, seed, quadratic_target)):
            print(f"| {name}, seed {seed} | {value:.4f} |", flush=True)


def relu_experiment() -> None:
    """Experiment 2: the library's chain, d = 10, 3000 rows, at most 16 neurons a grade."""
    print("| relu | seed | test R2 | seconds |\n|---|---|---|---|")
    for seed in SEEDS:
        data = sample(10, 3000, seed, relu_target)
        start = time.perf_counter()
        model = MultigradeRegressor(
            3e-4,
            n_grades=2,
            alpha_decay=1.0,
            max_neurons=16,
            n_patterns=16,
            max_iter=1,
            early_stopping=False,
            random_state=0,
        ).fit(data.X, data.y)
        fitted = time.perf_counter() - start
        one, greedy = (1.0 - _relative(stage, data) for stage in model.staged_predict(data.X_test))
        print(f"| one grade | {seed} | {one:.4f} | |")
        print(f"| two grades, greedy | {seed} | {greedy:.4f} | {fitted:.1f} |", flush=True)
        for method in ("readouts", "backward"):
            start = time.perf_counter()
            corrected = correct(model, data.X, data.y, method=method, max_sweeps=SWEEPS)
            taken = time.perf_counter() - start
            print(f"| {method} | {seed} | {score(corrected.predict, data):.4f} | {taken:.1f} |")
        start = time.perf_counter()
        joint = MLPRegressor(
            hidden_layer_sizes=(16, 16),
            solver="lbfgs",
            alpha=1e-5,
            max_iter=5000,
            random_state=seed,
        )
        found = score(joint.fit(data.X, data.y).predict, data)
        print(f"| joint L-BFGS | {seed} | {found:.4f} | {time.perf_counter() - start:.1f} |")
        for name, found in kernels(data):
            print(f"| {name} | {seed} | {found:.4f} | |", flush=True)


def errors_of(model: Any, fold: Split) -> dict[str, float]:
    """Return RMSE, or percentage of wrong classes and log loss."""
    if is_regressor(model):
        return {"RMSE": root_mean_squared_error(fold.y_test, model.predict(fold.X_test))}
    probabilities = model.predict_proba(fold.X_test)
    return {
        "% wrong": 100.0 * (1.0 - accuracy_score(fold.y_test, model.predict(fold.X_test))),
        "log loss": log_loss(fold.y_test, probabilities, labels=model.classes_),
    }


def set_errors(name: str, split: int, chain: str) -> tuple[list[dict[str, float]], list[float]]:
    """Return test errors and seconds of a chain, in the order of `KINDS`."""
    fold = load(name, split)
    classes = name in CLASSIFICATION
    estimator = MultigradeClassifier if classes else MultigradeRegressor
    start = time.perf_counter()
    settings = {"n_grades": 2 if classes else 4, "random_state": 0, **CHAINS[chain]}
    model = estimator(**settings).fit(fold.X_train, fold.y_train)
    errors, seconds = [errors_of(model, fold)], [time.perf_counter() - start]
    for factor in (None, *FACTORS):  # of the last grade's alpha; None: each grade keeps its own
        alpha = None if factor is None else factor * model.grades_[-1].alpha
        start = time.perf_counter()
        corrected = correct(model, fold.X_train, fold.y_train, alpha=alpha)
        seconds.append(time.perf_counter() - start)
        errors.append(errors_of(corrected, fold))
    readouts = correct(model, fold.X_train, fold.y_train, method="readouts")
    errors.append(errors_of(readouts, fold))
    return errors, seconds


def sets_experiment() -> None:
    """Test errors on real sets: mean over splits, and on how many of them correction lowers it."""
    print("| set (splits) | chain | error | " + " | ".join(KINDS) + " | fit, s | backward, s |")
    print("|" + "---|" * (len(KINDS) + 5))
    for name, n_splits in {**REGRESSION, **CLASSIFICATION}.items():
        for chain in CHAINS:
            if (name, chain) in TOO_LONG:
                continue
            runs = [set_errors(name, split, chain) for split in range(n_splits)]
            fit, backward = np.mean([seconds[:2] for _, seconds in runs], axis=0)
            for kind in runs[0][0][0]:
                table = np.array([[error[kind] for error in errors] for errors, _ in runs])
                better = (table < table[:, :1]).sum(axis=0)
                cells = [f"{table[:, 0].mean():.3f}"] + [
                    f"{mean:.3f} ({wins})"
                    for mean, wins in zip(table.mean(axis=0)[1:], better[1:], strict=True)
                ]
                print(
                    f"| {name} ({n_splits}) | {chain} | {kind} | {' | '.join(cells)} | "
                    f"{fit:.0f} | {backward:.0f} |",
                    flush=True,
                )


EXPERIMENTS = {"quadratic": quadratic_experiment, "relu": relu_experiment, "sets": sets_experiment}


def main() -> None:
    """Measure and print."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name in sys.argv[1:] or EXPERIMENTS:
            EXPERIMENTS[name]()


if __name__ == "__main__":
    main()
