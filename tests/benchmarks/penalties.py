"""Which share of the usual penalty suits which data, and which one do rows held out choose?

    OMP_NUM_THREADS=1 python -m tests.benchmarks.penalties [sets]

Test RMSE, or log loss of classes, of chains under each share of the usual penalty that ``alpha="auto"``
tries, each as deep as rows held out say, and of the chain that chooses among them: means over three
splits of three quarters of the rows to one. ``+noise`` adds normal noise to the training targets, of
their own standard deviation. Takes some minutes.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn import datasets
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split

from convexgrade import MultigradeClassifier, MultigradeRegressor
from convexgrade.estimators.held_out import _SHARES as SHARES
from convexgrade.selection import usual_alpha
from tests.benchmarks.datasets import Split, load, names

SETS = (
    "energy",
    "concrete",
    "concrete+noise",
    "diabetes",
    "ionosphere",
    "statlog-vehicle",
    "breast_cancer",
    "wine",
)
SPLITS = 3


def split_of(name: str, seed: int) -> Split:
    """Return a random split of one of the stored sets, or of one of scikit-learn's."""
    name, _, noise = name.partition("+")
    if name in names():
        stored = load(name)
        X = np.concatenate([stored.X_train, stored.X_test])
        y = np.concatenate([stored.y_train, stored.y_test])
    else:
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    classes = y if y.dtype.kind == "i" else None
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.25, stratify=classes, random_state=seed
    )
    if noise:
        rng = np.random.default_rng(seed)
        y_train = y_train + y_train.std() * rng.standard_normal(len(y_train))
    return Split(X_train, y_train, X_test, y_test)


def error(split: Split, alpha: float | str) -> float:
    """Return the test error of a chain."""
    if split.y_train.dtype.kind == "i":
        classifier = MultigradeClassifier(alpha, random_state=0)
        classifier.fit(split.X_train, split.y_train)
        return float(log_loss(split.y_test, classifier.predict_proba(split.X_test)))
    regressor = MultigradeRegressor(alpha, random_state=0).fit(split.X_train, split.y_train)
    return float(root_mean_squared_error(split.y_test, regressor.predict(split.X_test)))


def main() -> None:
    """Measure and print."""
    shares = sorted(SHARES)
    header = ["set", *(f"{share:g}" for share in shares), "chosen"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for name in sys.argv[1:] or SETS:
        errors = []
        for seed in range(SPLITS):
            split = split_of(name, seed)
            usual = usual_alpha(*split.X_train.shape)
            alphas = [*(share * usual for share in shares), "auto"]
            errors.append([error(split, alpha) for alpha in alphas])
        cells = (f"{mean:.3g}" for mean in np.mean(errors, axis=0))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
