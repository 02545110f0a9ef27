"""What does choosing alpha and depth cost? `MultigradeRegressorCV` against a grid search, in one run.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.selection [set]

Both are given the same penalties, depths and folds, and fit the best chain to all rows; both on one
core. The grid search tries them all; the other's path ends where smaller penalties bring nothing.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold

from convexgrade import MultigradeRegressor, MultigradeRegressorCV
from tests.benchmarks.datasets import load

FOLDS = 3
DEPTHS = (1, 2, 3, 4)
ALPHAS = np.geomspace(0.3, 3e-4, 7)


def main() -> None:
    """Time both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", nargs="?", default="yacht")
    data = load(parser.parse_args().dataset)
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(data.X_train))
    search = MultigradeRegressorCV(ALPHAS, cv=folds, n_grades=DEPTHS[-1], random_state=0)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        search.fit(data.X_train, data.y_train)
        rows.append(("MultigradeRegressorCV", time.perf_counter() - start, search))
        grid = {"alpha": ALPHAS, "n_grades": DEPTHS}
        loss = "neg_mean_squared_error"
        grid_search = GridSearchCV(
            MultigradeRegressor(early_stopping=False, random_state=0), grid, cv=folds, scoring=loss
        )
        start = time.perf_counter()
        grid_search.fit(data.X_train, data.y_train)
        rows.append(("GridSearchCV", time.perf_counter() - start, grid_search.best_estimator_))
    print("| search | seconds | alpha | grades | test RMSE |\n|---|---|---|---|---|")
    for name, seconds, model in rows:
        error = root_mean_squared_error(data.y_test, model.predict(data.X_test))
        alpha = model.grades_[0].alpha
        print(f"| {name} | {seconds:.1f} | {alpha:.3g} | {model.n_grades_} | {error:.3f} |")
    print(f"ratio {np.divide(rows[1][1], rows[0][1]):.1f}")


if __name__ == "__main__":
    main()
