"""The adaptive search against the truth: all patterns, where they can be listed."""

import numpy as np
import pytest

from convexgrade import proposals, search
from convexgrade.dual import dual_point
from convexgrade.grade import fit_grade, null_price, state_problem
from convexgrade.losses import SoftmaxLogLoss
from convexgrade.patterns import Patterns, sample_patterns
from convexgrade.proposals import Budget
from convexgrade.settings import Settings
from convexgrade.solution import Status
from convexgrade.solvers import cvx
from convexgrade.working_set import solve_over
from tests.bank import brute_force_patterns
from tests.samples import fit

N_PROBLEMS = 20
SHORTFALLS_ALLOWED = 1  # 5 %


def random_problem(case):
    """A target with kinks, curves, products or nothing but noise; one or two features."""
    rng = np.random.default_rng([case, 40])
    d = 1 + case % 2
    n = {0: 60, 1: 40}.get(case) or int(rng.integers(15, 61 if d == 1 else 26))
    H = rng.standard_normal((n, d))
    w = rng.standard_normal(d)
    targets = (
        np.abs(H[:, 0]),
        np.sin(2.0 * H @ w),
        np.maximum(H @ w, 0.0) - np.abs(H[:, -1] - 0.5),
        H.prod(axis=1),
        rng.standard_normal(n),
    )
    y = targets[case // 2 % 5] + 0.1 * rng.standard_normal(n)
    return H, ((y - y.mean()) / y.std())[:, None], (0.05, 0.01, 0.002)[case % 3]


def test_adaptive_reaches_the_global_optimum_of_small_problems():
    shortfalls = {}
    for case in range(N_PROBLEMS):
        H, y, alpha = random_problem(case)
        exhaustive = fit(H, y, alpha=alpha, patterns="exhaustive")[1].certificate
        adaptive = fit(H, y, alpha=alpha)[1].certificate
        assert exhaustive.status is Status.GLOBALLY_OPTIMAL
        assert adaptive.primal >= exhaustive.dual - 1e-9
        assert exhaustive.price_is_exact
        assert not adaptive.price_is_exact
        excess = adaptive.primal / exhaustive.primal - 1.0
        if excess > 1e-4:
            shortfalls[case] = excess
    assert len(shortfalls) <= SHORTFALLS_ALLOWED, f"excess over the optimum by case: {shortfalls}"


@pytest.mark.parametrize(("seed", "n", "d"), [(0, 6, 1), (1, 5, 2), (2, 5, 3)])
def test_no_network_is_below_the_exhaustive_bound(seed, n, d):
    """Patterns from linear programs, the optimum from CVXPY: nothing of the package's own search."""
    rng = np.random.default_rng(seed)
    H, y = rng.standard_normal((n, d)), rng.standard_normal((n, 1))
    program, exhaustive = fit(H, y, alpha=0.02, patterns="exhaustive")
    masks = np.array(sorted(brute_force_patterns(program.X))).T
    patterns = Patterns(np.zeros((d + 1, masks.shape[1])), masks)
    whole = program.over(patterns)
    solution = cvx.solve(whole, solver="clarabel")
    optimum = whole.objective(solution.blocks, solution.unpenalised)
    certificate = exhaustive.certificate
    assert certificate.status is Status.GLOBALLY_OPTIMAL
    assert certificate.n_patterns == masks.shape[1]
    assert certificate.primal == pytest.approx(optimum, rel=1e-6)
    assert certificate.dual == pytest.approx(optimum, rel=1e-6)
    assert certificate.dual <= optimum + 1e-9
    _, adaptive = fit(H, y, alpha=0.02)
    assert certificate.dual - 1e-9 <= adaptive.certificate.primal <= optimum * (1.0 + 1e-4)


@pytest.mark.parametrize("d", [1, 2])
def test_gates_of_one_round_serve_as_well_as_sampled_ones_and_further_rounds_better(d):
    rng = np.random.default_rng(d)
    H = rng.uniform(-1.0, 1.0, (150, d))
    y = np.sin(3.0 * H[:, 0]) + H[:, -1] ** 2 + 0.1 * rng.standard_normal(150)
    settings = {"activation": "gated_relu", "n_patterns": 60, "alpha": 0.003}
    (_, sampled), (_, once), (_, thrice) = (
        fit(H, y[:, None], **settings, **kind)
        for kind in ({"patterns": "sampled"}, {"max_iter": 1}, {"max_iter": 3})
    )
    assert once.certificate.n_patterns == sampled.certificate.n_patterns == 60
    assert once.certificate.primal < 1.3 * sampled.certificate.primal
    assert thrice.certificate.primal < 0.95 * once.certificate.primal


@pytest.mark.parametrize(
    ("activation", "max_neurons"), [("relu", None), ("relu", 3), ("gated_relu", 3)]
)
def test_the_same_seed_gives_the_same_grade(activation, max_neurons):
    H, y, alpha = random_problem(3)
    settings = {"activation": activation, "max_neurons": max_neurons, "n_patterns": 15}
    first, again = (fit(H, y, alpha=alpha, seed=5, **settings)[1] for _ in range(2))
    assert first.n_neurons > 0
    for name, value in vars(first.network).items():
        np.testing.assert_array_equal(value, getattr(again.network, name), err_msg=name)
    np.testing.assert_array_equal(first.gates, again.gates)
    assert first.certificate == again.certificate
    assert first.n_before_pruning == again.n_before_pruning
    assert first.n_rounds == again.n_rounds


@pytest.mark.parametrize(
    ("activation", "n_patterns", "seed"),
    [("relu", 20, 0), ("gated_relu", 5, 0), ("gated_relu", 5, 1)],
)
def test_more_rounds_lower_the_objective(activation, n_patterns, seed):
    H, y, _ = random_problem(3)
    limits = (1, 2, 4)
    settings = {"activation": activation, "n_patterns": n_patterns}
    grades = [fit(H, y, alpha=0.002, seed=seed, max_iter=m, **settings)[1] for m in limits]
    objectives = [grade.certificate.primal for grade in grades]
    rise = 1e-6 if activation == "gated_relu" else 1e-4  # a ReLU grade ends at column generation
    assert np.all(np.diff(objectives) <= rise * objectives[0])
    assert [grade.n_rounds for grade in grades[:2]] == [1, 2]
    if activation == "gated_relu":
        assert objectives[-1] < 0.99 * objectives[0]
    for grade in grades:
        assert grade.n_before_pruning >= grade.n_neurons


def test_no_round_where_prices_promise_less_than_it_is_worth():
    """The most that any grade gains over a point, if no price is above the highest h that is found:
    by scaling theta down by alpha / h the dual constraint holds for all neurons."""
    H, y, alpha = random_problem(1)
    program, _ = fit(H, y, alpha=alpha, n_patterns=1, max_iter=1)
    few = sample_patterns(program.X, 4, np.random.default_rng(0))
    point = solve_over(program, few, None, solver="auto", tol=1e-4)
    theta = dual_point(program, point.prediction(program)).theta

    def round_worth(gain):
        budget = Budget(20, 0.0, gain, None)
        return proposals.propose(program, point, None, budget, np.random.default_rng(0))

    every = search.ascend(program, theta, np.random.default_rng(1).standard_normal((3, 500)))
    price = np.abs(search.price(program, theta, every.vectors)).max()
    assert price > alpha  # or there would be no round at all
    t = min(1.0, alpha / price)
    dual = float(np.sum(t * theta * y) - 0.5 * t**2 * np.sum(theta**2 / program.weights[:, None]))
    promise = 1.0 - dual / point.objective
    assert promise > 1e-3
    assert round_worth(0.05 * promise) is not None
    assert round_worth(0.3 * promise) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"patterns": "adaptive"},
        {"patterns": "sampled"},
        {"patterns": "sampled", "solver": "clarabel"},
        {"patterns": "adaptive", "activation": "gated_relu"},
        {"patterns": "sampled", "activation": "gated_relu"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_class_that_the_linear_term_separates_hides_no_neurons(settings):
    """XOR and a third class beyond a line: at its price of 0, no neuron was ever looked for."""
    H = np.random.default_rng(0).standard_normal((30, 2))
    y = np.eye(3)[np.where(H[:, 0] > 1.0, 2, H[:, 0] * H[:, 1] > 0.0).astype(int)]
    loss = SoftmaxLogLoss()
    weights = np.full(30, 1 / 30)
    offset = np.broadcast_to(loss.baseline(y, weights), y.shape)
    settings = Settings(**{"n_patterns": 20, "linear_term": True, **settings})
    problem = state_problem(H, y, offset, weights, loss, 1e-3, settings)
    assert 0.01 < null_price(problem, settings, (0, 0)) < 1.0
    grade = fit_grade(problem, settings, (0, 0))
    assert grade.n_neurons > 0
    assert grade.certificate.primal < 0.12  # 0.57 without neurons
    assert grade.certificate.relative_gap < 1e-4
