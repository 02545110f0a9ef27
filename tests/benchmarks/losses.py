"""What do the losses of the estimators cost, and what do they bring?

    OMP_NUM_THREADS=1 python -m tests.benchmarks.losses

First, one program of each loss: seconds of the native solver and of CLARABEL through CVXPY, to the
accuracy that each stops at, and the difference of what they reach, relative to the loss before. Then
chains as they come on split 0: test RMSE, mean absolute error, seconds of the processor and largest
certified gap; and how many test targets lie between the quantiles 0.1 and 0.9.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from convexgrade import MultigradeRegressor, solvers
from convexgrade.groups import Groups
from convexgrade.kinks import AbsoluteError, Hinge, Huber, Quantile, SquaredHinge
from convexgrade.losses import BinaryLogLoss, Loss, Poisson, SquaredError
from convexgrade.patterns import sample_patterns
from convexgrade.program import Program
from tests.benchmarks.datasets import load

LOSSES = (
    SquaredError(),
    AbsoluteError(),
    Quantile(quantile=0.9),
    Huber(0.3),
    Poisson(),
    BinaryLogLoss(),
    SquaredHinge(),
    Hinge(),
)
SETS = ("yacht", "energy", "concrete")
N_PATTERNS, ALPHA = 60, 0.003


def state(loss: Loss, *, cones: bool) -> Program:
    """State a program of a loss on yacht: its targets, or which are above their median."""
    split = load("yacht", 0)
    X = (split.X_train - split.X_train.mean(axis=0)) / split.X_train.std(axis=0)
    X = np.column_stack([X, np.ones(len(X))])
    y = split.y_train[:, None] / split.y_train.mean()
    if not isinstance(loss, Poisson):
        y = (y - y.mean()) / y.std()
    if isinstance(loss, BinaryLogLoss | SquaredHinge | Hinge):
        y = (y > np.median(y)).astype(np.float64)
    patterns = sample_patterns(X, N_PATTERNS, np.random.default_rng(0))
    return Program(
        X=X,
        free=np.array([X.shape[1] - 1]),
        y=y,
        offset=np.zeros_like(y),
        weights=np.full(len(X), 1.0 / len(X)),
        loss=loss,
        alpha=ALPHA,
        cones=cones,
        patterns=patterns,
        groups=Groups.every(len(patterns), 1, signed=cones),
    )


def compare(program: Program) -> Iterator[str]:
    """Yield the seconds of both solvers, and by how much the native one's objective is above."""
    reached = []
    for solver in ("native", "clarabel"):
        start = time.perf_counter()
        found = solvers.solve(program, solver=solver)
        yield f"{time.perf_counter() - start:.2g}"
        reached.append(program.objective(found.blocks, found.unpenalised))
    yield f"{(reached[0] - reached[1]) / program.loss_before:.0e}"


def chain(name: str, loss: str, quantile: float = 0.5) -> tuple[np.ndarray, list[str]]:
    """Return a chain's predictions of the test rows, and the cells that describe it."""
    split = load(name, 0)
    model = MultigradeRegressor(loss=loss, quantile=quantile, random_state=0)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gaps above the tolerance: the table shows them
        predicted = model.fit(split.X_train, split.y_train).predict(split.X_test)
    seconds = time.process_time() - start
    gap = max(certificate.relative_gap for certificate in model.certificates_)
    rmse = root_mean_squared_error(split.y_test, predicted)
    mae = mean_absolute_error(split.y_test, predicted)
    return predicted, [f"{rmse:.4g}", f"{mae:.4g}", f"{seconds:.0f}", f"{gap:.0e}"]


def main() -> None:
    """Print both tables."""
    print("| loss | relu: native | CLARABEL | above | gated: native | CLARABEL | above |")
    print("|---|---|---|---|---|---|---|")
    for loss in LOSSES:
        cells = [cell for cones in (True, False) for cell in compare(state(loss, cones=cones))]
        print("|", loss.name, "|", " | ".join(cells), "|", flush=True)
    print(
        "\n| set | loss | test RMSE | mean absolute error | seconds | gap |\n|---|---|---|---|---|---|"
    )
    for name in SETS:
        for kind in ("squared_error", "absolute_error", "huber", "poisson"):
            print("|", name, "|", kind, "|", " | ".join(chain(name, kind)[1]), "|", flush=True)
        low, high = (chain(name, "quantile", q)[0] for q in (0.1, 0.9))
        y = load(name, 0).y_test
        share = np.mean((low <= y) & (y <= high))
        print(
            "|",
            name,
            f"| between quantiles 0.1 and 0.9: {share:.2f} of the test rows |||||",
            flush=True,
        )


if __name__ == "__main__":
    main()
