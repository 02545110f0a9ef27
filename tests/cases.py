"""Programs of many kinds that solvers are compared on, and how their solutions are."""

from dataclasses import replace

import numpy as np

from convexgrade.losses import BinaryLogLoss, SoftmaxLogLoss, SquaredError
from convexgrade.patterns import sample_patterns
from tests.bank import make_program
from tests.benchmarks.datasets import load

LOSSES = ["squared_error", "two_outputs", "binary", "softmax"]
FREE = {"none": [], "intercept": [-1], "all": slice(None)}
CLARABEL = 1e-6  # of the loss before: what it may stop short of an optimum


def make_rows(shape, rng):
    """Rows of a shape named in words, the constant last."""
    n, d = {"line": (30, 1), "plane": (40, 2), "wide": (10, 14)}.get(shape, (25, 2))
    X = rng.standard_normal((n, d))
    if shape == "duplicated rows":
        X = np.concatenate([X, X[:10], X[:5]])
    if shape == "duplicated columns":
        X = np.column_stack([X, X])
    if shape == "ties":
        X = np.round(X)
    return np.column_stack([X, np.ones(len(X))])


def make_case(
    shape="plane", loss="squared_error", *, cones=True, free="intercept", size=0.1, seed=0
):
    """A program over a few sampled patterns with alpha = size * alpha_max."""
    rng = np.random.default_rng(seed)
    X = make_rows(shape, rng)
    n, d = X.shape
    score = X[:, 0] + 0.7 * rng.standard_normal(n)
    chosen, y = {
        "squared_error": (SquaredError(), np.abs(score)),
        "two_outputs": (SquaredError(), np.column_stack([np.abs(score), score**2])),
        "binary": (BinaryLogLoss(), (score > 0.0).astype(float)),
        "softmax": (SoftmaxLogLoss(), np.eye(3)[np.digitize(score, [-0.5, 0.5])]),
    }[loss]
    program = make_program(
        X,
        y,
        alpha=1.0,
        loss=chosen,
        cones=cones,
        weights=rng.uniform(0.5, 2.0, n),
        offset=0.3 * rng.standard_normal(y.shape),
        free=np.arange(d)[FREE[free]],
        patterns=sample_patterns(X, 5, rng),
    )
    return replace(program, alpha=size * program.alpha_max())


def real_program(name, n, n_patterns, alpha, *, cones=True):
    X, y, _, _ = load(name, split=0)
    X, y = X[:n], y[:n]
    X = np.column_stack([(X - X.mean(axis=0)) / X.std(axis=0), np.ones(len(X))])
    patterns = sample_patterns(X, n_patterns, np.random.default_rng(0))
    y = (y - y.mean()) / y.std()
    return make_program(X, y, alpha=alpha, cones=cones, free=[-1], patterns=patterns)


def objective(program, solution):
    return program.objective(solution.blocks, solution.unpenalised)


def scale(program):
    return program.null_loss


def assert_as_good(program, found, reference, short=1e-8):
    """No higher than a reference, nor lower by more than that may stop short of the optimum."""
    excess = (objective(program, found) - objective(program, reference)) / scale(program)
    assert -short <= excess <= 1e-8
