"""The energy identity of squared-error chains, by accurate and by careless solves."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from convexgrade import MultigradeClassifier, MultigradeRegressor, certify, to_relu
from convexgrade.energy import rescale
from convexgrade.grade import fit_grade, state_problem
from convexgrade.losses import BinaryLogLoss, SquaredError
from convexgrade.network import Network
from convexgrade.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CARELESS = {"tol": 0.1, "max_iter": 1, "n_patterns": 8}
CASES = {
    "default": {},
    "careless": CARELESS,
    "careless, linear term": {**CARELESS, "linear_term": True, "alpha": 0.003},
    "no intercept": {"fit_intercept": False},
    "gated": {"activation": "gated_relu", "patterns": "sampled", "n_patterns": 15},
    "narrow": {"max_neurons": 2, "patterns": "sampled"},
}


def make_data(seed, n=40, k=1):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    Y = np.column_stack([np.abs(X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1], np.sin(3.0 * X[:, 1])])
    Y = Y + 0.1 * rng.standard_normal(Y.shape)
    return X, Y[:, 0] if k == 1 else Y[:, :k]


def fit(X, y, weights=None, **parameters):
    defaults = {
        "alpha": 0.03,
        "alpha_decay": 1.0,
        "n_grades": 2,
        "early_stopping": False,
        "random_state": 0,
        "n_patterns": 8,
    }
    return MultigradeRegressor(**{**defaults, **parameters}).fit(X, y, weights)


def energy_by_hand(model, X, y, weights):
    """Recompute everything from ``network_`` and predictions, in standardised units."""
    Y = y.reshape(len(y), -1)
    weights = weights / weights.sum()
    scale = np.sqrt(weights @ (Y - weights @ Y) ** 2)
    stages = [np.broadcast_to(weights @ Y, Y.shape)]
    stages += [p.reshape(len(y), -1) for p in model.staged_predict(X)]
    left = [weights @ (((Y - s) / scale) ** 2).sum(axis=1) for s in stages]
    output = [weights @ (((b - a) / scale) ** 2).sum(axis=1) for a, b in itertools.pairwise(stages)]
    penalty = [2.0 * g.alpha * g.network.path_norm for g in model.grades_]
    return np.array(left), np.array(output), np.array(penalty)


@pytest.mark.parametrize(
    ("case", "weighted"), [("default", False), ("careless", False), *((c, True) for c in CASES)]
)
def test_the_identity_holds_to_rounding_in_every_grade(case, weighted):
    X, y = make_data(1)
    weights = np.random.default_rng(2).uniform(0.1, 5.0, len(y)) if weighted else np.ones(len(y))
    model = fit(X, y, weights, **CASES[case])
    left, output, penalty = energy_by_hand(model, X, y, weights)
    total = left[0]
    assert total == pytest.approx(1.0, rel=1e-12)
    assert len(model.energy_) == model.n_grades_ >= 2
    assert left[-1] + output.sum() + penalty.sum() == pytest.approx(total, rel=1e-12)
    for index, energy in enumerate(model.energy_):
        assert abs(energy.defect) <= 1e-12 * total
        expected = (*left[index : index + 2], output[index], penalty[index])
        assert energy[:4] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert energy.after < energy.before  # no grade is trivial here
    for one, following in zip(model.energy_, model.energy_[1:], strict=False):
        assert one.after == following.before
    assert 0.5 * np.array([e.after for e in model.energy_]) == pytest.approx(model.train_loss_)


def test_the_identity_sums_over_outputs():
    X, Y = make_data(3, n=40, k=2)
    weights = np.random.default_rng(2).uniform(0.1, 5.0, len(Y))
    model = fit(X, Y, weights, **CARELESS)
    left, output, penalty = energy_by_hand(model, X, Y, weights)
    assert left[0] == pytest.approx(2.0, rel=1e-12)
    assert left[-1] + output.sum() + penalty.sum() == pytest.approx(left[0], rel=1e-12)
    assert max(abs(energy.defect) for energy in model.energy_) <= 3e-12


@pytest.mark.parametrize("case", ["default", "careless"])
def test_certificates_speak_of_the_rescaled_grades(case):
    X, y = make_data(4)
    model = fit(X, y, **CASES[case])
    for stored, again, loss, grade in zip(
        model.certificates_, certify(model, X, y), model.train_loss_, model.grades_, strict=True
    ):
        assert stored.primal == pytest.approx(again.primal, rel=1e-12)
        assert stored.primal == pytest.approx(
            loss + grade.alpha * grade.network.path_norm, rel=1e-12
        )


def test_warm_starts_and_early_stopping_keep_one_entry_a_grade():
    X, y = make_data(5)
    model = fit(X, y, n_grades=1, warm_start=True)
    first = model.energy_
    model.set_params(n_grades=2).fit(X, y)
    assert model.energy_[:1] == first
    assert len(model.energy_) == 2
    stopped = fit(X, y, n_grades=4, early_stopping=True, patterns="sampled", alpha=0.1)
    assert len(stopped.energy_) == stopped.n_grades_
    assert max(abs(energy.defect) for energy in stopped.energy_) <= 1e-12


def test_other_losses_have_no_energy():
    X, y = make_data(6)
    model = MultigradeClassifier(
        0.05, n_grades=1, early_stopping=False, n_patterns=8, random_state=0
    )
    model.fit(X, y > 1.0)
    assert not hasattr(model, "energy_")
    assert model._progress.energy == ()


def some_program(loss, y):
    rng = np.random.default_rng(0)
    n = len(y)
    return state_problem(
        rng.standard_normal((n, 2)), y, np.zeros_like(y), np.full(n, 1 / n), loss, 0.1, Settings()
    )


def some_network(k=1, scale=1.0):
    rng = np.random.default_rng(1)
    u, a = rng.standard_normal((3, 5)), scale * rng.standard_normal((5, k))
    return Network(u[:2], u[2], a, 0.1 * rng.standard_normal((2, k)), rng.standard_normal(k))


@pytest.mark.parametrize("size", [1e-6, 1e3, 1e6])
def test_neurons_are_refitted_whatever_the_unit_of_an_unpenalised_column(size):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((30, 2))
    y = np.maximum(H[:, :1], 0.0) + 0.4 * np.maximum(-H[:, :1], 0.0) + H[:, 1:]
    no_neuron_reads_it = np.array([[1.0, -1.0], [0.0, 0.0]])

    def refitted(unit):
        problem = state_problem(
            H * [1.0, unit],
            y + 0.1 * np.cos(9.0 * y),
            np.zeros_like(y),
            np.full(30, 1 / 30),
            SquaredError(),
            0.01,
            Settings(linear_term=True),
        )
        sizes = np.array([[0.9], [0.5]])
        start = Network(no_neuron_reads_it, np.zeros(2), sizes, np.zeros((2, 1)), np.zeros(1))
        return rescale(problem, start)

    expected, found = refitted(1.0), refitted(size)
    np.testing.assert_allclose(found.output_coef, expected.output_coef, rtol=1e-6)
    np.testing.assert_allclose(found.linear_coef[1] * size, expected.linear_coef[1], rtol=1e-6)
    assert abs(expected.linear_coef[1, 0]) > 0.5


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_rescaling_minimises_along_the_ray(scale):
    program = some_program(SquaredError(), np.zeros((40, 2)))
    y = some_network(2).forward(program.X[:, :-1]) + np.random.default_rng(3).standard_normal(
        (40, 2)
    )
    program = replace(program, y=y)

    def objective(network):
        prediction = network.forward(program.X[:, :-1])
        return program.mean_loss(prediction) + program.alpha * network.path_norm

    best = rescale(program, some_network(2, scale))
    assert best.n_neurons == 5
    assert np.linalg.norm(best.vectors[:, 0]) > 0.0
    for t in (0.0, 0.9, 0.999, 1.001, 1.1):
        root = np.sqrt(t)
        other = Network(
            root * best.hidden_coef,
            root * best.hidden_intercept,
            root * best.output_coef,
            t * best.linear_coef,
            t * best.intercept,
        )
        assert objective(other) > objective(best)


@pytest.mark.parametrize("seed", range(3))
def test_refitted_sizes_leave_gaps_of_rounding(seed):
    """One step along the ray alone would leave gaps of the solver's tolerance, about 1e-6."""
    H, y = make_data(seed, n=20)
    y = ((y - y.mean()) / y.std())[:, None]
    settings = Settings(patterns="exhaustive")
    problem = state_problem(
        H, y, np.zeros_like(y), np.full(20, 0.05), SquaredError(), 0.01, settings
    )
    assert fit_grade(problem, settings, (0, 0)).certificate.relative_gap < 1e-10


def test_a_grade_that_points_the_wrong_way_becomes_the_zero_grade():
    program = some_program(SquaredError(), np.random.default_rng(3).standard_normal((40, 1)))
    network = some_network()
    output = network.forward(program.X[:, :-1])
    zero = rescale(some_program(SquaredError(), -output), network)
    assert zero.n_neurons == 0
    assert np.all(zero.forward(program.X[:, :-1]) == 0.0)


def test_grades_under_other_losses_are_left_as_they_are():
    network = some_network()
    program = some_program(BinaryLogLoss(), np.ones((10, 1)))
    assert rescale(program, network) is network


def test_conversion_measures_energies_anew():
    X, y = make_data(1)
    gated = fit(X, y, n_grades=1, activation="gated_relu", n_patterns=10, alpha=0.01)
    converted = to_relu(gated, X, y).estimator
    [energy], [grade] = converted.energy_, converted.grades_
    assert energy.penalty == pytest.approx(2.0 * grade.alpha * grade.network.path_norm)
    total = energy.after + energy.output + energy.penalty + energy.defect
    assert energy.before == pytest.approx(total)


def test_a_gated_grade_that_points_the_wrong_way_becomes_the_zero_grade():
    rng = np.random.default_rng(0)
    u, g = rng.standard_normal((2, 3, 5))
    zero = np.zeros((2, 1))
    network = Network(u[:2], u[2], rng.standard_normal((5, 1)), zero, np.zeros(1), g[:2], g[2])
    H = rng.standard_normal((30, 2))
    settings, weights = Settings(activation="gated_relu"), np.full(30, 1 / 30)
    y = -network.forward(H)
    problem = state_problem(H, y, np.zeros_like(y), weights, SquaredError(), 0.1, settings)
    found = rescale(problem, network)
    assert found.n_neurons == found.gates.shape[1] == 0
    np.testing.assert_array_equal(found.forward(H), 0.0)


def test_unpenalised_coefficients_of_every_output_are_refitted():
    rng = np.random.default_rng(0)
    H, weights = rng.standard_normal((40, 2)), np.full(40, 1 / 40)
    u, a = rng.standard_normal((3, 4)), np.abs(rng.standard_normal((4, 2)))
    network = Network(u[:2], u[2], a, np.zeros((2, 2)), np.zeros(2))
    y = network.forward(H) + [5.0, -3.0] + 0.1 * rng.standard_normal((40, 2))
    settings = Settings(fit_intercept=True)
    problem = state_problem(H, y, np.zeros_like(y), weights, SquaredError(), 1e-3, settings)
    left = y - rescale(problem, network).forward(H)
    np.testing.assert_allclose(weights @ left, 0.0, atol=1e-10)
