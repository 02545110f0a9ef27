"""Losses: derivatives against differences, conjugates against Fenchel's inequality."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from convexgrade.kinks import AbsoluteError, Hinge, Huber, Quantile, SquaredHinge
from convexgrade.losses import (
    BinaryLogLoss,
    Hessian,
    MeanLoss,
    Poisson,
    SoftmaxLogLoss,
    SquaredError,
)

REAL = {
    "squared_error": SquaredError(),
    "absolute_error": AbsoluteError(smoothing=0.05),
    "quantile": Quantile(smoothing=0.05, quantile=0.8),
    "huber": Huber(0.7),
    "smoothed huber": Huber(0.7).smoothed(0.1),
}
MARGINS = {
    "hinge": Hinge(smoothing=0.05),
    "squared_hinge": SquaredHinge(),
    "smoothed squared hinge": SquaredHinge().smoothed(0.1),
}


def _case(name, rng, n=20):
    classes = (np.arange(n) % 2.0)[:, None]
    if name in REAL:
        return REAL[name], rng.standard_normal((n, 2)), rng.standard_normal((n, 2))
    if name in MARGINS:
        return MARGINS[name], 3 * rng.standard_normal((n, 2)), np.hstack([classes, 1.0 - classes])
    if name == "poisson":
        return Poisson(), rng.standard_normal((n, 2)), rng.poisson(1.5, (n, 2)).astype(float)
    if name == "binary":
        return BinaryLogLoss(), 3 * rng.standard_normal((n, 1)), classes
    return SoftmaxLogLoss(), 3 * rng.standard_normal((n, 3)), np.eye(3)[np.arange(n) % 3]


LOSSES = [*REAL, *MARGINS, "poisson", "binary", "softmax"]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_hessian_are_the_derivatives(name):
    loss, f, y = _case(name, np.random.default_rng(0))
    h = 1e-6
    for k in range(f.shape[1]):
        step = np.zeros_like(f)
        step[:, k] = h
        slope = (loss.value(f + step, y) - loss.value(f - step, y)) / (2 * h)
        np.testing.assert_allclose(loss.gradient(f, y)[:, k], slope, atol=1e-8)
        bend = (loss.gradient(f + step, y) - loss.gradient(f - step, y)) / (2 * h)
        np.testing.assert_allclose(loss.hessian(f, y).matrices[:, :, k], bend, atol=1e-8)


@pytest.mark.parametrize("f", [-800.0, -40.0, -3.0, 0.0, 0.5, 36.0, 40.0, 800.0])
def test_the_classes_of_the_log_loss_can_change_places(f):
    """To the last digit, in both tails: where one class is as good as certain, little is left."""
    loss, here, there = BinaryLogLoss(), np.array([[f]]), np.array([[-f]])
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    assert loss.value(here, one) == loss.value(there, zero)
    assert loss.gradient(here, one) == -loss.gradient(there, zero)
    tail = np.exp(-f) if f > 30.0 else np.log1p(np.exp(-f)) if f > -700.0 else -f
    np.testing.assert_allclose(loss.value(here, one), tail, rtol=1e-14)


@pytest.mark.parametrize("coupled", [False, True])
def test_hessians_without_some_entries_are_schur_complements(coupled):
    rng = np.random.default_rng(0)
    H = Hessian(rng.uniform(0.1, 2.0, (6, 4)), coupled)
    entries = rng.random((6, 4)) < 0.4
    assert entries.any(axis=1).sum() > 3
    for M, found, gone in zip(H.matrices, H.without(entries).matrices, entries, strict=True):
        rest = np.flatnonzero(~gone)
        across = M[np.ix_(rest, np.flatnonzero(gone))]
        inner = across @ np.linalg.pinv(M[np.ix_(gone, gone)]) @ across.T
        expected = np.zeros((4, 4))
        expected[np.ix_(rest, rest)] = M[np.ix_(rest, rest)] - inner
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_products_traces_and_roots_of_hessians(name):
    loss, f, y = _case(name, np.random.default_rng(2))
    weights = np.random.default_rng(3).uniform(0.5, 2.0, len(f))
    H = loss.hessian(f, y).weighted(weights)
    matrices = weights[:, None, None] * loss.hessian(f, y).matrices
    np.testing.assert_allclose(H.matrices, matrices, atol=1e-14)
    np.testing.assert_allclose(H.times(y), np.einsum("ikl,il->ik", matrices, y), atol=1e-14)
    np.testing.assert_allclose(H.traces, np.einsum("ikk->i", matrices), atol=1e-14)
    k = f.shape[1]
    entries = np.array([[H.entry(a, b) for b in range(k)] for a in range(k)])
    np.testing.assert_allclose(entries.transpose(2, 0, 1), matrices, atol=1e-14)
    root = H.rooted(np.broadcast_to(np.eye(f.shape[1]), matrices.shape))
    np.testing.assert_allclose(root.transpose(0, 2, 1) @ root, matrices, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_conjugate_meets_fenchel_with_equality_at_the_gradient(name):
    loss, f, y = _case(name, np.random.default_rng(1))
    q = loss.gradient(f, y)
    np.testing.assert_allclose(
        loss.conjugate(q, y), np.sum(q * f, axis=1) - loss.value(f, y), atol=1e-12
    )
    other = f + np.random.default_rng(2).standard_normal(f.shape)
    assert np.all(loss.conjugate(q, y) >= np.sum(q * other, axis=1) - loss.value(other, y) - 1e-12)


@pytest.mark.parametrize("margin", [5.0, 20.0, 36.0, 50.0, 300.0])
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_fenchel_is_met_to_many_digits_however_certain_predictions_are(n_classes, margin):
    """Or a certificate of rows that are nearly fitted claims bounds above what is attained."""
    if n_classes == 2:
        loss, y = BinaryLogLoss(), np.array([[0.0], [1.0]])
        f = margin * (2.0 * y - 1.0)
    else:
        loss, y = SoftmaxLogLoss(), np.eye(n_classes)
        f = margin * y + np.linspace(0.0, 1.0, n_classes)
    q, value = loss.gradient(f, y), loss.value(f, y)
    margins = np.vecdot(q, f) if n_classes == 2 else np.vecdot(q, f - np.vecdot(y, f)[:, None])
    np.testing.assert_allclose(loss.conjugate(q, y), margins - value, rtol=1e-13)


@pytest.mark.parametrize("r", [-1e-3, -1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_smoothed_kinks_have_all_digits_however_near_predictions_are(quantile, r):
    loss, y = Quantile(smoothing=1e-3, quantile=quantile), np.zeros((1, 1))
    f = loss.baseline(y, np.ones(1)) + np.array([[r]])
    mid, t = np.longdouble(loss.kink(y).mid), np.longdouble(f[0, 0])
    least = np.longdouble(1e-3) * np.sqrt(1 - mid**2)
    expected = mid * t + np.sqrt(t**2 + np.longdouble(1e-3) ** 2) - least
    assert loss.value(f, y)[0] == pytest.approx(float(expected), rel=1e-3, abs=0)
    if quantile == 0.5:
        q = loss.gradient(f, y)
        bound = q[0, 0] * f[0, 0] - loss.conjugate(q, y)[0]
        assert bound == pytest.approx(loss.value(f, y)[0], rel=1e-9, abs=0)


@pytest.mark.parametrize("r", [1e-9, 1e-3, 1.0, 30.0, 1e5])
def test_hinges_have_all_digits_far_beyond_their_kink(r):
    """There the slope is what a root is short of 1; next to none, it made distances infinite."""
    loss, y, f = Hinge(smoothing=1e-3), np.array([[0.0], [1.0]]), np.array([[-1.0 - r], [1.0 + r]])
    t = np.longdouble(f[1, 0]) - 1
    root = np.sqrt(t**2 + np.longdouble(1e-3) ** 2)
    left = np.longdouble(1e-3) ** 2 / (2 * (root + t))
    np.testing.assert_allclose(loss.value(f, y), float(left), rtol=1e-12)
    np.testing.assert_allclose(
        loss.gradient(f, y)[:, 0], np.array([1, -1]) * float(left / root), rtol=1e-12
    )
    mean_loss = MeanLoss(loss, y, np.array([0.5, 0.5]))
    assert mean_loss.distance(f) == pytest.approx(float(root), rel=1e-12)
    assert mean_loss.distance(1e200 * f) < np.inf


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "squared_error"])
def test_gradients_lie_in_the_dual_bounds_and_the_bounds_are_sharp(name):
    loss, f, y = _case(name, np.random.default_rng(3))
    lower, upper = loss.dual_bounds(y)
    q = loss.gradient(f, y)
    assert np.all((q >= lower) & (q <= upper))
    for outside in (lower - 1e-3, upper + 1e-3):
        beyond = np.isfinite(outside).any(axis=1)
        assert np.all(
            np.isinf(loss.conjugate(np.where(np.isfinite(outside), outside, q), y)[beyond])
        )


@pytest.mark.parametrize("name", LOSSES)
def test_baseline_is_the_best_constant(name):
    rng = np.random.default_rng(4)
    loss, f, y = _case(name, rng)
    weights = rng.uniform(0.1, 1.0, len(y))

    def mean_loss(c):
        return weights @ loss.value(np.broadcast_to(c, f.shape), y)

    found = mean_loss(loss.baseline(y, weights))
    best = minimize(mean_loss, np.zeros(f.shape[1]), tol=1e-12).fun
    assert found <= best + 1e-9


def test_the_best_constant_of_a_smoothed_hinge_is_a_little_beyond_its_kink():
    loss, y, weights = Hinge(), np.repeat([[0.0], [1.0]], [30, 10], axis=0), np.full(40, 0.025)
    found = loss.baseline(y, weights)
    assert -1.001 < found[0] < -1.0001
    assert abs(weights @ loss.gradient(np.broadcast_to(found, y.shape), y)[:, 0]) < 1e-12


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "poisson"])
def test_large_predictions_stay_finite(name):
    loss, f, y = _case(name, np.random.default_rng(5))
    big = 1e4 * np.sign(f)
    for quantity in (loss.value(big, y), loss.gradient(big, y), loss.hessian(big, y).matrices):
        assert np.all(np.isfinite(quantity))


def test_a_smoothed_huber_loss_has_all_digits_far_out():
    """There it is the mean of sqrt(t^2 + smoothing^2) over a width that hardly matters."""
    r = np.array([[1.0], [1e2], [1e4]])
    value = Huber(1e-4).smoothed(1e-3).value(r, np.zeros_like(r))
    np.testing.assert_allclose(value, np.hypot(r[:, 0], 1e-3), rtol=1e-14)


def test_a_softmax_loss_has_all_digits_however_certain_or_tied_predictions_are():
    f = np.array([[40.0, 0.0, -5.0], [1.0, 1.0, 1.0], [0.0, 2.0, 2.0], [-700.0, 700.0, 0.0]])
    y = np.eye(3)[[0, 1, 0, 0]]
    expected = logsumexp(f - np.sum(y * f, axis=1, keepdims=True), axis=1)
    np.testing.assert_allclose(SoftmaxLogLoss().value(f, y), expected, rtol=1e-14)
    assert expected[0] == pytest.approx(np.exp(-40.0) + np.exp(-45.0), rel=1e-12)


def test_deviances_of_nearly_right_means_have_their_digits():
    """At f = log y + t, the deviance is y (t^2 / 2 + t^3 / 6 + ...), and q f - loss*(q) as well."""
    y = np.array([[1.0], [20.0], [300.0], [4000.0]])
    for t in (1e-4, -1e-5, 1e-6):
        f, near = np.log(y) + t, (y * (t**2 / 2.0 + t**3 / 6.0))[:, 0]
        q = Poisson().gradient(f, y)
        np.testing.assert_allclose(Poisson().value(f, y), near, rtol=1e-7)
        np.testing.assert_allclose(q, y * np.expm1(t), rtol=1e-8)
        bound = q[:, 0] * f[:, 0] - Poisson().conjugate(q, y)
        np.testing.assert_allclose(bound, near, rtol=1e-7)


def test_deviances_beyond_all_numbers_are_infinite_without_a_warning():
    y = np.array([[0.0], [5.0], [1000.0]])
    f = np.full((3, 1), 711.0)
    np.testing.assert_array_equal(Poisson().value(f, y), np.inf)
    np.testing.assert_array_equal(Poisson().gradient(f, y), np.inf)
    f = np.full((1, 1), 709.0)  # whose exponential is a number
    assert np.isfinite(Poisson().value(f, np.full((1, 1), 1e3))).all()


def test_the_deviance_of_the_right_mean_is_zero_and_never_less():
    y = np.array([[0.1], [1.0 / 3.0], [1.0], [2.0], [3.0], [7.0], [100.0], [1e9]])
    value = Poisson().value(np.log(y), y)
    assert np.all(value >= 0.0)
    np.testing.assert_allclose(value, 0.0, atol=1e-15 * y.sum() * np.log(y.max()))
