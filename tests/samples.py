"""Rows, targets and functions that tests of several modules fit."""

import numpy as np
from sklearn.base import RegressorMixin

from convexgrade.grade import fit_grade, state_problem
from convexgrade.losses import SquaredError
from convexgrade.settings import Settings

CENTER = 0.37


def make_data(n=60, d=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    y = np.abs(X[:, 0]) + 0.5 * X[:, -1] + 0.05 * rng.standard_normal(n)
    return X, y


def targets(estimator, y, n_classes=2):
    if issubclass(estimator, RegressorMixin):
        return y
    return np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes))


def small_problem(seed, *, d=2, n=30):
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((n, d))
    y = np.abs(H[:, 0]) + np.maximum(H @ rng.standard_normal(d), 0.0) + 0.1 * rng.standard_normal(n)
    return H, ((y - y.mean()) / y.std())[:, None]


def fit(H, y, *, alpha=0.01, seed=0, **settings):
    chosen = Settings(**settings)
    n = len(H)
    problem = state_problem(
        H, y, np.zeros_like(y), np.full(n, 1.0 / n), SquaredError(), alpha, chosen
    )
    return problem, fit_grade(problem, chosen, (seed, 0))


def cone(X):
    """A function with Lipschitz constant 1."""
    return np.linalg.norm(X - CENTER, axis=1)


def root(X):
    """A function that is Hölder continuous with (1, 1/2), and no better at its singularity."""
    return np.sqrt(cone(X))


def jump(X):
    """A jump of height 1: a shift by t changes it on a slab of width at most t."""
    return np.where(X[:, 0] > CENTER, 1.0, 0.0)


def spike(X):
    """An unbounded function, in L^p for p < 4 where d = 1."""
    return cone(X) ** -0.25


FUNCTIONS = {
    "lipschitz": (cone, lambda p: 1.0),
    "holder": (root, lambda p: (1.0, 0.5)),
    "jump": (jump, lambda p: (1.0, 1.0 / p)),
}


def noise(n=300, d=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=n)
