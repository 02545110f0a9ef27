"""Losses with kinks: smoothing, paths along which gradients move evenly, and solves against CLARABEL."""

from dataclasses import replace

import numpy as np
import pytest

from convexgrade.kinks import AbsoluteError, Hinge, Huber, Quantile, SquaredHinge
from convexgrade.losses import MeanLoss, Poisson
from convexgrade.solution import Start, Status
from convexgrade.solvers import cvx, newton, solve
from convexgrade.unpenalised import fit_unpenalised
from tests.cases import make_case, objective, scale

SMOOTHED = {
    "absolute_error": AbsoluteError(smoothing=0.02),
    "quantile": Quantile(smoothing=0.02, quantile=0.9),
    "hinge": Hinge(smoothing=0.02),
    "huber": Huber(0.5).smoothed(0.02),
    "squared_hinge": SquaredHinge().smoothed(0.02),
}
EXACT = {
    "absolute_error": lambda f, y: np.abs(f - y),
    "quantile": lambda f, y: 2.0 * np.maximum(0.9 * (y - f), 0.1 * (f - y)),
    "hinge": lambda f, y: np.maximum(1.0 - (2.0 * y - 1.0) * f, 0.0),
    "huber": lambda f, y: np.where(np.abs(f - y) < 0.5, (f - y) ** 2, np.abs(f - y) - 0.25),
    "squared_hinge": lambda f, y: np.maximum(1.0 - (2.0 * y - 1.0) * f, 0.0) ** 2,
}
LOSSES = [
    AbsoluteError(),
    Quantile(quantile=0.9),
    Huber(0.3),
    Poisson(),
    Hinge(),
    SquaredHinge(),
]


def predictions(n=200):
    """Predictions of all sizes on both sides of the kinks, and targets."""
    rng = np.random.default_rng(0)
    y = (rng.random((n, 1)) > 0.5).astype(float)
    return y + rng.choice([-1.0, 1.0], (n, 1)) * 10.0 ** rng.uniform(-6, 3, (n, 1)), y


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothing_changes_a_loss_by_no_more_than_it_says(name):
    f, y = predictions()
    difference = SMOOTHED[name].value(f, y) - EXACT[name](f, y)[:, 0]
    difference -= difference[np.abs(f - y)[:, 0].argmax()] if name == "huber" else 0.0
    slack = 1e-9 * (1.0 + EXACT[name](f, y)[:, 0])
    assert np.all(
        np.abs(difference) <= 0.02 * (1.0 + np.abs(SMOOTHED[name].gradient(f, y)[:, 0])) + slack
    )
    assert np.ptp(difference) > 1e-4


@pytest.mark.parametrize("loss", [Huber(0.3), SquaredHinge()], ids=lambda loss: loss.name)
def test_smoothing_by_nothing_leaves_numbers(loss):
    y = np.array([[0.0], [1.0]])
    for f in (y, 2.0 * y - 1.0, y + 5.0, y - 5.0):
        smoothed = loss.smoothed(0.0)
        assert np.isfinite(smoothed.value(f, y)).all()
        np.testing.assert_allclose(smoothed.gradient(f, y), loss.gradient(f, y), atol=1e-9)
        assert np.isfinite(smoothed.hessian(f, y).D).all()


@pytest.mark.parametrize("name", ["absolute_error", "quantile", "hinge"])
def test_a_loss_is_never_negative_and_nothing_where_it_is_least(name):
    loss, (f, y) = SMOOTHED[name], predictions()
    assert loss.value(f, y).min() >= 0.0
    best = (
        f
        if name == "hinge"
        else loss.path(f, -loss.gradient(f, y) / loss.hessian(f, y).D, y).at(1.0)
    )
    assert loss.value(best, y).min() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", SMOOTHED)
def test_along_a_path_the_gradient_moves_on_a_straight_line(name):
    loss, (f, y) = SMOOTHED[name], predictions()
    step = np.random.default_rng(1).standard_normal(f.shape) * np.abs(f - y)
    path = loss.path(f, step, y)
    np.testing.assert_allclose(path.at(0.0), f, rtol=1e-9)
    np.testing.assert_allclose(path.velocity(0.0), step, rtol=1e-7)
    assert 0.0 < path.longest <= 1.0
    turn = loss.hessian(f, y).D * step
    for length in (0.3 * path.longest, path.longest):
        expected = loss.gradient(f, y) + length * turn
        np.testing.assert_allclose(loss.gradient(path.at(length), y), expected, atol=1e-9)
        h = 1e-5 * path.longest
        speed = (path.at(length) - path.at(length - h)) / h
        between = path.velocity(length - 0.5 * h)
        np.testing.assert_allclose(speed, between, rtol=1e-3, atol=1e-6 * np.abs(f).max())


@pytest.mark.parametrize("name", SMOOTHED)
def test_a_path_goes_most_of_the_way_to_a_bound_and_no_further(name):
    loss, (f, y) = SMOOTHED[name], predictions()
    lower, upper = loss.dual_bounds(y)
    for sign in (-1.0, 1.0):
        path = loss.path(f, sign * 1e3 * np.ones_like(f), y)
        assert path.longest < 1.0
        assert np.all(np.isfinite(path.at(path.longest)))
        q = loss.gradient(path.at(path.longest), y)
        assert np.all((lower <= q) & (q <= upper))


@pytest.mark.parametrize("name", SMOOTHED)
def test_a_gradient_is_carried_to_another_smoothing(name):
    loss, (f, y) = SMOOTHED[name], predictions()
    finer = replace(loss, smoothing=0.005)
    there = loss.carried(f, y, finer)
    np.testing.assert_allclose(finer.gradient(there, y), loss.gradient(f, y), atol=1e-12)
    np.testing.assert_allclose(finer.carried(there, y, loss), f, rtol=1e-6)


def case(loss, *, cones=True, size=0.1, free="intercept", seed=0):
    """A program of that loss over a few sampled patterns, with alpha = size * alpha_max."""
    program = make_case("plane", cones=cones, free=free, seed=seed)
    y = program.y
    if "hinge" in loss.name:
        y = (y > np.median(y)).astype(float)
    if loss.name == "poisson":
        y = np.round(2.0 * y)
    program = replace(program, loss=loss, y=y)
    return replace(program, alpha=size * program.alpha_max())


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("size", [0.3, 0.03])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_agrees_with_clarabel(loss, size, cones):
    program = case(loss, cones=cones, size=size)
    found, reference = newton.solve(program, tol=1e-7), cvx.solve(program, solver="clarabel")
    assert found.gap <= 1e-6
    assert program.violation(found.blocks) <= 1e-10
    assert found.blocks.any()
    excess = objective(program, found) - objective(program, reference)
    assert abs(excess) <= 1e-6 * scale(program)


@pytest.mark.parametrize("free", ["none", "all"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_agrees_with_clarabel_for_any_unpenalised_columns(loss, free):
    program = case(loss, free=free, seed=1)
    found, reference = solve(program, solver="native"), cvx.solve(program, solver="clarabel")
    assert objective(program, found) == pytest.approx(
        objective(program, reference), abs=2e-6 * scale(program)
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_warm_start_ends_where_a_cold_one_does(loss):
    program = case(loss)
    cold = newton.solve(program, tol=1e-7)
    warm = newton.solve(program, start=Start(cold.blocks, cold.unpenalised, 1e-3), tol=1e-7)
    assert objective(program, warm) == pytest.approx(objective(program, cold), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_no_neurons_above_alpha_max(loss):
    solution = newton.solve(case(loss, size=1.1), tol=1e-7)
    assert solution.status is Status.OPTIMAL
    assert not solution.blocks.any()


@pytest.mark.parametrize("width", [1e-6, 1e-4, 0.01, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_unpenalised_fits_are_stationary_however_narrow_the_loss(width, seed):
    # Dual points are read off the gradient there: a fit that ends early costs percents of the bound.
    rng = np.random.default_rng(seed)
    loss, weights = Huber(width), rng.dirichlet(np.ones(25))
    Z, y = (
        np.column_stack([rng.standard_normal((25, 3)), np.ones(25)]),
        rng.standard_normal((25, 1)),
    )
    c = fit_unpenalised(MeanLoss(loss, y, weights), Z, np.zeros_like(y))
    slope = Z.T @ (weights[:, None] * loss.gradient(Z @ c, y))
    assert np.abs(slope).max() < 1e-9
