"""Small programs with known answers, replayed over every solver.

Every optimum below is a formula derived beside it, or that of an equivalent smaller program; none was
read off a solver.
"""

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pytest
from scipy.optimize import linprog, nnls
from scipy.sparse import csc_array

from convexgrade.groups import Groups
from convexgrade.kinks import AbsoluteError, Hinge, Huber, Quantile, SquaredHinge
from convexgrade.losses import BinaryLogLoss, Poisson, SoftmaxLogLoss, SquaredError
from convexgrade.patterns import enumerate_patterns
from convexgrade.program import Program
from convexgrade.solvers._proximal import Step


@dataclass(frozen=True)
class Known:
    name: str
    program: Program
    optimum: float

    def __str__(self):
        return self.name


def make_program(
    X,
    y,
    *,
    alpha,
    loss=None,
    cones=True,
    weights=None,
    offset=None,
    free=(),
    patterns=None,
):
    """State a program over all patterns of X, unless told which."""
    X = np.asarray(X, dtype=float)
    y = np.asarray(y, dtype=float).reshape(len(X), -1)
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=float)
    patterns = enumerate_patterns(X, limit=10_000) if patterns is None else patterns
    return Program(
        X=X,
        free=np.asarray(free, dtype=np.intp),
        y=y,
        offset=np.zeros_like(y) if offset is None else np.asarray(offset, float).reshape(y.shape),
        weights=weights / weights.sum(),
        loss=SquaredError() if loss is None else loss,
        alpha=alpha,
        cones=cones,
        patterns=patterns,
        groups=Groups.every(len(patterns), y.shape[1], signed=cones),
    )


def _one_row(cones):
    # f = ||x|| t with t = ||v||: minimise (f - y)^2 / 2 + alpha f / ||x||, so f = y - alpha / ||x||.
    x, y, alpha = np.array([[3.0, 4.0]]), 2.0, 1.0
    shrink = alpha / 5.0
    return Known(
        f"one row, cones={cones}",
        make_program(x, [y], alpha=alpha, cones=cones),
        0.5 * shrink**2 + shrink * (y - shrink),
    )


def _one_row_log_loss(cones):
    # log(1 + e^-f) + alpha f / ||x||, stationary at 1 / (1 + e^f) = alpha / ||x||.
    r = 0.5 / 2.0
    f = np.log(1.0 / r - 1.0)
    return Known(
        f"one row, log loss, cones={cones}",
        make_program([[0.0, 2.0]], [1.0], alpha=0.5, loss=BinaryLogLoss(), cones=cones),
        np.log1p(np.exp(-f)) + r * f,
    )


def _one_row_of_other_losses(cones):
    # One row, ||x|| = 5, a = alpha / 5: minimise loss(f) + a f for f >= 0, so that loss'(f) = -a.
    def stated(name, y, loss, f):
        program = make_program([[3.0, 4.0]], [y], alpha=1.0, loss=loss, cones=cones)
        value = float(loss.value(np.array([[f]]), np.array([[y]]))[0]) + 0.2 * f
        return Known(f"one row, {name}, cones={cones}", program, value)

    def short(z, smoothing):  # z = r / sqrt(r^2 + smoothing^2)
        return smoothing * z / np.sqrt(1.0 - z**2)

    smoothing = AbsoluteError().smoothing
    return [
        stated("poisson", 3.0, Poisson(), np.log(3.0 - 0.2)),
        stated("huber", 2.0, Huber(0.5), 2.0 - 0.2 * 0.5),
        stated("absolute error", 2.0, AbsoluteError(), 2.0 - short(0.2, smoothing)),
        # The gradient is 1 - 2 quantile + z.
        stated("quantile", 2.0, Quantile(quantile=0.7), 2.0 + short(0.2, smoothing)),
        # And that of the hinge (z - 1) / 2, at r = f - 1.
        stated("hinge", 1.0, Hinge(), 1.0 + short(0.6, smoothing)),
        stated("squared hinge", 1.0, SquaredHinge(), 1.0 - 0.1),
    ]


def _orthogonal(y, cones):
    """Orthonormal rows: one vector per set of rows it serves, at the norm of the outputs there.

    ReLU neurons serve positive and negative targets apart: F = |f - y|^2 / 4 and the norm shrinks
    each part by 2 alpha. A free vector serves all rows at once, whatever the signs.
    """
    y, alpha = np.asarray(y), 0.2
    parts = [np.maximum(y, 0.0), np.maximum(-y, 0.0)] if cones else [y]
    optimum = 0.0
    for norm in map(np.linalg.norm, parts):
        left = min(norm, 2.0 * alpha)
        optimum += 0.25 * left**2 + alpha * (norm - left)
    return Known(
        f"orthonormal rows y={y.tolist()}, cones={cones}",
        make_program(np.eye(2), y, alpha=alpha, cones=cones),
        optimum,
    )


def _weighted_orthogonal():
    # Row 2 has three times the weight: F = sum w_i (f_i - y_i)^2 / 2, one neuron a row by the signs.
    alpha, w, y = 0.1, np.array([0.25, 0.75]), np.array([1.0, -2.0])
    shrink = alpha / w
    optimum = np.sum(0.5 * w * shrink**2 + alpha * (np.abs(y) - shrink))
    return Known("weighted", make_program(np.eye(2), y, alpha=alpha, weights=w), float(optimum))


def _offset():
    # The offset moves the target.
    inner = _orthogonal([1.0, -2.0], True)
    program = make_program(np.eye(2), [3.0, 1.0], alpha=0.2, offset=[2.0, 3.0])
    return Known("offset", program, inner.optimum)


def _two_outputs():
    # Outputs share no neuron: the objectives add.
    first, second = _orthogonal([1.0, -2.0], True), _orthogonal([-0.5, 3.0], True)
    program = make_program(np.eye(2), [[1.0, -0.5], [-2.0, 3.0]], alpha=0.2)
    return Known("two outputs", program, first.optimum + second.optimum)


def _duplicated_column():
    # Columns [x, x]: the least norm splits evenly, so it is the program in sqrt(2) x.
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 1)), rng.standard_normal(6)
    # In one dimension the patterns are {x > 0} and {x < 0}, each with one vector per sign.
    optimum = 0.0
    for side in (np.maximum(x[:, 0], 0.0), np.maximum(-x[:, 0], 0.0)):
        rows = side > 0.0
        optimum += _scalar_lasso(np.sqrt(2.0) * side[rows], y[rows], len(y), 0.05)
    return Known(
        "duplicated column", make_program(np.hstack([x, x]), y, alpha=0.05), float(optimum)
    )


def _scalar_lasso(z, y, n, alpha):
    """min over b of |z b - y|^2 / (2 n) + alpha |b|, by soft thresholding."""
    b = np.sign(z @ y) * max(abs(z @ y) - n * alpha, 0.0) / (z @ z)
    return np.sum((z * b - y) ** 2) / (2 * n) + alpha * abs(b)


def _rank_one_intercept():
    # Constant rows: with a free intercept no neuron is needed, and F is the variance over 2.
    y = np.array([1.0, 2.0, 4.0])
    return Known(
        "constant rows, intercept",
        make_program(np.ones((3, 1)), y, alpha=0.1, free=[0]),
        float(np.var(y) / 2),
    )


def _above_alpha_max():
    y = np.array([0.0, 1.0, 1.0, 0.0])
    X = np.column_stack([np.arange(4.0), np.ones(4)])
    program = make_program(X, y, alpha=10.0, loss=BinaryLogLoss(), free=[1])
    return Known("alpha above alpha_max", program, float(np.log(2.0)))


def _softmax_trivial():
    X = np.column_stack([np.arange(3.0), np.ones(3)])
    program = make_program(X, np.eye(3), alpha=10.0, loss=SoftmaxLogLoss(), free=[1])
    return Known("softmax above alpha_max", program, float(np.log(3.0)))


def _fewer_rows_than_columns():
    # Two orthonormal rows in R^5: as in R^2, since only the row space matters.
    rng = np.random.default_rng(1)
    rows = np.linalg.qr(rng.standard_normal((5, 2)))[0].T
    inner = _orthogonal([1.0, -2.0], True)
    return Known("n < d", make_program(rows, [1.0, -2.0], alpha=0.2), inner.optimum)


def _one_row_with_constant():
    # As one row, at x = (2, 1).
    y, alpha, norm = -3.0, 0.5, np.sqrt(5.0)
    left = alpha / norm
    return Known(
        "one row and constant",
        make_program([[2.0, 1.0]], [y], alpha=alpha),
        0.5 * left**2 + left * (abs(y) - left),
    )


KNOWN = [
    _one_row_with_constant(),
    _one_row(True),
    _one_row(False),
    _one_row_log_loss(True),
    _one_row_log_loss(False),
    _orthogonal([2.0, 1.0], True),
    _orthogonal([2.0, 1.0], False),
    _orthogonal([2.0, -1.0], True),
    _orthogonal([2.0, -1.0], False),
    _orthogonal([0.3, -1.0], True),
    _weighted_orthogonal(),
    _offset(),
    _two_outputs(),
    _duplicated_column(),
    _rank_one_intercept(),
    _above_alpha_max(),
    _softmax_trivial(),
    _fewer_rows_than_columns(),
]

# Of losses that interior points do not take.
OTHERS = [*_one_row_of_other_losses(True), *_one_row_of_other_losses(False)]


def random_program(
    seed, *, loss="squared_error", cones=True, n=12, d=2, alpha=0.02, k=1, free=True
):
    """A random program over all patterns of n rows with d - 1 features and the constant."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.standard_normal((n, d - 1)), np.ones(n)])
    classes = np.arange(n) % max(k, 2)
    targets = {
        "squared_error": (SquaredError(), rng.standard_normal((n, k))),
        "binary": (BinaryLogLoss(), (classes == 1).astype(float)),
        "softmax": (SoftmaxLogLoss(), np.eye(max(k, 2))[classes]),
    }
    chosen, y = targets[loss]
    return make_program(
        X,
        y,
        alpha=alpha,
        loss=chosen,
        cones=cones,
        weights=rng.uniform(0.5, 2.0, n),
        offset=0.3 * rng.standard_normal(np.asarray(y).shape),
        free=[d - 1] if free else [],
    )


def counted_newton_steps(monkeypatch):
    """Return a list that will hold the number of Newton steps of every proximal step."""
    solve, steps = Step.solve, []

    def counting(self, *arguments):
        state, taken = solve(self, *arguments)
        steps.append(taken)
        return state, taken

    monkeypatch.setattr(Step, "solve", counting)
    return steps


def assert_optimal(program, solution, *, tol=1e-6):
    """Check objective-independent optimality: feasibility, multipliers, complementarity, stationarity.

    Stationarity of group g: b_g + (E_g X)^T rho_g = alpha v_g / ||v_g||, with b_g its correlation with
    theta = -grad F. For v_g = 0, some rho_g >= 0 makes the left side at most alpha long: that is, the
    projection of b_g on the cone is no longer than alpha.
    """
    blocks, c = solution.blocks, solution.unpenalised
    assert program.violation(blocks) <= tol
    prediction = program.predict(blocks, c)
    theta = -program.weights[:, None] * program.loss.gradient(prediction, program.y)
    np.testing.assert_allclose(program.Z.T @ theta, 0.0, atol=10 * tol)
    b = program.adjoint(theta)
    assert program.largest_dual_norm(b) <= (1.0 + 1e3 * tol) * program.alpha
    if program.cones and solution.multipliers is not None:
        signs = np.where(program.masks(), 1.0, -1.0)
        rho = csc_array(solution.multipliers).toarray()
        assert rho.min(initial=0.0) >= -tol
        np.testing.assert_allclose(rho * signs * (program.X @ blocks.T), 0.0, atol=10 * tol)
        b = b + (signs * rho).T @ program.X
    norms = np.linalg.norm(blocks, axis=1)
    active = norms > 1e-4 * max(1.0, norms.max(initial=0.0))
    scale = 1.0 / np.where(active, norms, 1.0)
    expected = program.alpha * blocks * scale[:, None]
    np.testing.assert_allclose(b[active], expected[active], atol=1e3 * tol)


def assert_solves(known, solution, *, short=1e-8):
    """Check that a solution attains a known optimum, and that it is optimal."""
    objective = known.program.objective(solution.blocks, solution.unpenalised)
    assert objective == pytest.approx(known.optimum, abs=short)
    assert_optimal(known.program, solution)


def projection(X, mask, b):
    """The projection of b on a cone, by non-negative least squares on all rows."""
    signed = np.where(mask, 1.0, -1.0)[:, None] * X
    return b + signed.T @ nnls(signed.T, -b)[0]


def brute_force_patterns(X):
    """All sign vectors s for which some h has s_i x_i . h > 0 in every row, by linear programming."""
    n, d = X.shape
    found = set()
    for signs in product([1.0, -1.0], repeat=n):
        s = np.array(signs)
        margin = linprog(
            np.append(np.zeros(d), -1.0),
            A_ub=np.column_stack([-s[:, None] * X, np.ones(n)]),
            b_ub=np.zeros(n),
            bounds=[(-1.0, 1.0)] * d + [(None, 1.0)],
        )
        if -margin.fun > 1e-9:
            found.add(tuple(s > 0.0))
    found.discard((False,) * n)
    return found


def brute_force_dual_norm(X, mask, b):
    """max <b, v> over v in the cone, ||v|| <= 1, by trying every set of tight constraints."""
    signed = np.where(mask, 1.0, -1.0)[:, None] * X
    best = 0.0
    for size in range(min(X.shape) + 1):
        for rows in combinations(range(len(X)), size):
            tight = signed[list(rows)]
            v = b - np.linalg.pinv(tight) @ (tight @ b) if size else b
            norm = np.linalg.norm(v)
            if norm > 1e-12 and np.all(signed @ v >= -1e-10 * norm):
                best = max(best, float(b @ v) / norm)
    return best
