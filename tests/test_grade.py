"""One grade: adaptive against exhaustive and against descent, widths, statuses."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from convexgrade import ConvexReLURegressor, MultigradeRegressor, certify, multigrade
from convexgrade.chain import Chain, Data
from convexgrade.cutting import cut, select
from convexgrade.grade import fit_grade, state_problem
from convexgrade.handover import HIDDEN_AND_INPUTS
from convexgrade.losses import Poisson, SquaredError
from convexgrade.multigrade import ChainPlan, Progress, grow
from convexgrade.network import Network
from convexgrade.neurons import neurons_of
from convexgrade.point import point_of
from convexgrade.settings import Settings
from convexgrade.solution import Status
from convexgrade.unpenalised import independent_columns
from convexgrade.working_set import solve_groups
from tests.benchmarks.patterns import descend, standardised
from tests.samples import fit, small_problem


@pytest.mark.parametrize(("patterns", "end"), [("exhaustive", "GLOBALLY_"), ("adaptive", "")])
def test_no_grade_is_called_trivial_in_which_a_neuron_has_a_price_above_alpha(patterns, end):
    """What such neurons gain is nothing next to the loss of a chain that is far off."""
    H, settings = np.linspace(-1.0, 1.0, 6)[:, None], Settings(patterns=patterns, n_patterns=20)
    y = np.array([[0.0], [1.0], [0.0], [2.0], [5.0], [1.0]])
    offset, weights = 40.0 + 0.3 * H, np.full(6, 1.0 / 6.0)
    problem = state_problem(H, y, offset, weights, Poisson(), 0.01, settings)
    grade = fit_grade(problem, settings, (0,))
    assert problem.null_loss == pytest.approx(0.805411, rel=1e-5)
    assert grade.certificate.primal <= problem.null_loss
    assert grade.certificate.price > 10.0 * problem.alpha
    assert grade.n_neurons == 0
    assert grade.certificate.status is Status[f"{end}OPTIMAL"]
    data = Data(H, y, weights)
    plan = ChainPlan(2, 0.01, Poisson(), False, settings, 0)
    *_, last = grow(Progress(Chain(np.array([40.0]))), data, plan)
    assert last.verdict.startswith("Grade 1 has no neuron: none ")
    assert "lowers the objective by more than the tolerance" in last.verdict


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"patterns": "sketched", "n_patterns": 100, "tol": 1e-2}),
        ({"n_patterns": 20, "tol": 0.1}, {"patterns": "sketched"}),
        ({"activation": "gated_relu"}, {"n_patterns": 100, "tol": 1e-2}),
        ({"patterns": "sampled"}, {"n_patterns": 100, "tol": 1e-2}),
        ({"patterns": "exhaustive"}, {"n_patterns": 100, "tol": 1e-2}),
    ],
)
def test_rough_settings_search_and_solve_less(given, expected):
    settings = Settings(linear_term=True, n_jobs=2, **given)
    assert settings.rough() == replace(settings, max_iter=1, n_jobs=1, **expected)


@pytest.mark.parametrize("solver", ["native", "clarabel", "scs"])
def test_a_rough_solve_leaves_no_neurons_off_zero(solver):
    """In many dimensions interior points are fastest, which leave every block a little off zero."""
    rng = np.random.default_rng(0)
    H = rng.standard_normal((60, 12))
    y = np.abs(H[:, 0]) + 0.1 * rng.standard_normal(60)
    given = {"alpha": 0.02, "patterns": "sampled", "n_patterns": 15, "solver": solver}
    _, rough = fit(H, y[:, None], tol=1e-2, **given)
    _, close = fit(H, y[:, None], tol=1e-7, **given)
    assert rough.n_neurons == close.n_neurons < 15
    assert rough.certificate.primal == pytest.approx(close.certificate.primal, rel=1e-4)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_sketch_is_near_the_optimum_without_a_solver_and_claims_nothing(n_outputs, monkeypatch):
    H, y = small_problem(0)
    y = np.column_stack([y[:, :1], np.abs(H[:, :1])])[:, :n_outputs]
    _, close = fit(H, y)
    monkeypatch.setattr("convexgrade.solvers.solve", lambda *args, **kw: pytest.fail("solved"))
    program, sketch = fit(H, y, **vars(Settings().rough()))
    certificate = sketch.certificate
    assert sketch.n_neurons > 0
    assert certificate.primal == pytest.approx(
        program.mean_loss(sketch.network.forward(H)) + program.alpha * sketch.network.path_norm
    )
    assert close.certificate.dual <= certificate.primal <= 1.02 * close.certificate.primal
    assert (certificate.dual, certificate.gap) == (0.0, certificate.primal)
    assert certificate.status is Status.SKETCHED
    assert not certificate.status.converged


def test_a_sketch_at_a_large_penalty_has_no_neuron_and_claims_nothing():
    H, y = small_problem(0)
    _, sketch = fit(H, y, alpha=10.0, **vars(Settings().rough()))
    assert sketch.n_neurons == 0
    assert sketch.certificate.status is Status.SKETCHED


def test_however_large_tol_is_a_better_neuron_in_sight_is_told():
    H, y = small_problem(0)
    program, grade = fit(H, y, patterns="sampled", n_patterns=10, tol=10.0)
    assert program.alpha * 1.01 < grade.certificate.price < program.alpha * 10.0
    assert grade.certificate.status is Status.OPTIMAL


def test_sampled_bound_speaks_of_its_patterns_only():
    H, y = small_problem(0)
    program, grade = fit(H, y, patterns="sampled", n_patterns=10)
    certificate = grade.certificate
    assert certificate.status is Status.OPTIMAL
    assert certificate.n_patterns == 10
    assert certificate.relative_gap < 1e-5
    assert certificate.price > 1.01 * program.alpha  # the search sees that others would help
    _, exhaustive = fit(H, y, patterns="exhaustive")
    assert certificate.dual > exhaustive.certificate.primal


@pytest.mark.parametrize("patterns", ["adaptive", "sampled", "exhaustive"])
def test_width_limit_holds_and_is_certified(patterns):
    H, y = small_problem(1)
    _, wide = fit(H, y, patterns=patterns, n_patterns=20)
    assert wide.n_neurons > 3
    for limit in (1, 3):
        _, grade = fit(H, y, patterns=patterns, max_neurons=limit, n_patterns=20)
        assert 1 <= grade.n_neurons <= limit
        assert grade.certificate.gap >= -1e-12
        if patterns == "exhaustive":  # the certificate still speaks of all
            assert grade.certificate.price_is_exact
            assert grade.certificate.n_patterns == wide.certificate.n_patterns
            assert 0.0 < grade.certificate.dual <= wide.certificate.primal + 1e-9
            assert grade.certificate.status is Status.CUT
        elif limit > 1:  # one pattern can need two neurons, one of each sign; then the gap shows it
            assert grade.certificate.relative_gap < 1e-4
        assert wide.certificate.primal <= grade.certificate.primal + 1e-9


@pytest.mark.parametrize("activation", ["relu", "gated_relu"])
@pytest.mark.parametrize("patterns", ["adaptive", "sampled", "exhaustive"])
def test_alpha_above_alpha_max_gives_a_trivial_grade(activation, patterns):
    H, y = small_problem(2)
    _, grade = fit(H, y, alpha=100.0, activation=activation, patterns=patterns)
    assert grade.n_neurons == 0
    assert grade.certificate.status is Status.TRIVIAL
    assert grade.certificate.primal == pytest.approx(0.5)


@pytest.mark.parametrize("solver", ["clarabel", "ecos", "scs"])
def test_a_solver_of_choice_reaches_the_same_grade(solver):
    H, y = small_problem(3, n=15)
    _, chosen = fit(H, y, patterns="exhaustive", solver=solver)
    _, auto = fit(H, y, patterns="exhaustive")
    assert chosen.certificate.primal == pytest.approx(auto.certificate.primal, abs=1e-6)
    assert chosen.certificate.relative_gap < 1e-4


@pytest.mark.parametrize("linear_term", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_unpenalised_columns_reach_the_network(linear_term, fit_intercept):
    H, y = small_problem(4)
    program, grade = fit(
        H, y + 1.0, linear_term=linear_term, fit_intercept=fit_intercept, n_patterns=50
    )
    assert program.free.size == 2 * linear_term + fit_intercept
    assert np.any(grade.network.linear_coef != 0.0) == linear_term
    assert np.any(grade.network.intercept != 0.0) == fit_intercept
    assert grade.certificate.relative_gap < 1e-4
    assert grade.certificate.gap >= -1e-12


@pytest.mark.parametrize(("name", "seed"), [("yacht", 0), ("concrete", 1)])
def test_adaptive_is_at_least_as_good_as_a_descent_on_real_data(name, seed):
    H, y = (values[:300] for values in standardised(name))
    _, grade = fit(H, y, alpha=0.01, seed=seed)
    descent = descend(H, y[:, 0], 0.01, seed, width=100)
    assert grade.certificate.primal <= descent.objective(H, y[:, 0], 0.01)
    assert grade.certificate.relative_gap < 1e-4


def test_rounds_never_raise_the_objective_and_pruning_is_reported():
    H, y = small_problem(5, d=4, n=40)
    chosen = Settings(max_iter=3, n_patterns=10)
    weights = np.full(40, 1.0 / 40)
    problem = state_problem(H, y, np.zeros_like(y), weights, SquaredError(), 1e-3, chosen)
    lines = []
    grade = fit_grade(problem, chosen, (0, 0), report=lines.append)
    objectives = [float(line.split("objective ")[1].split(",")[0]) for line in lines]
    assert len(objectives) == grade.n_rounds > 1
    assert np.all(np.diff(objectives) <= 0.0)
    assert grade.certificate.primal <= objectives[-1] * (1.0 + 1e-5)
    assert grade.n_before_pruning >= grade.n_neurons
    assert grade.n_neurons <= 40
    assert f"{grade.n_neurons} neurons" in str(grade)


@cache
def limited(seed, d, max_neurons):
    return fit(*small_problem(seed, n=50, d=d), alpha=0.003, max_neurons=max_neurons)


@pytest.mark.parametrize(("seed", "d"), [(12, 2), (13, 3), (16, 3), (20, 3), (26, 2), (26, 3)])
def test_a_width_limit_costs_no_more_than_keeping_the_largest_neurons(seed, d):
    """Nor more than that costs after removing one by one: either is the worse on some of these."""
    program, wide = limited(seed, d, None)
    _, narrow = limited(seed, d, 4)
    assert narrow.n_neurons == 4 < wide.n_neurons
    assert wide.certificate.primal < narrow.certificate.primal
    intercept = wide.network.intercept[None, :]
    point = point_of(program, neurons_of(wide.network), intercept)
    neurons = point.neurons()
    narrowed = cut(program, point, limit=4, solver="auto", tol=1e-4)
    largest = np.argsort(-np.linalg.norm(neurons.vectors, axis=0))[:4]
    chosen = select(program.over(point.patterns, point.groups), point.blocks, intercept, 4)
    for kept in (largest, chosen):
        start = point_of(program, neurons.take(kept), intercept)
        assert len(start.groups) == 4
        alone = solve_groups(program, start, start.groups, solver="auto")
        assert narrowed.objective <= alone.objective + 1e-8


def test_a_cut_to_groups_has_its_last_digits(monkeypatch):
    """Cuts that are compared are solved roughly; the one that is kept is solved again."""
    monkeypatch.setattr("convexgrade.cutting._cut_to_patterns", lambda *arguments: None)
    program, wide = limited(12, 2, None)
    point = point_of(program, neurons_of(wide.network), wide.network.intercept[None, :])
    narrowed = cut(program, point, limit=4, solver="auto", tol=1e-4)
    assert len(narrowed.groups) == 4
    again = solve_groups(program, narrowed, narrowed.groups, solver="clarabel")
    assert narrowed.objective == pytest.approx(again.objective, rel=1e-7)


def test_a_wider_limit_never_leaves_a_worse_grade():
    """Two neurons, where the best pattern wants both signs, must not be worse than one."""
    losses = [limited(13, 3, m)[1].certificate.primal for m in (1, 2, 4)]
    assert losses == sorted(losses, reverse=True)


def test_a_loose_tolerance_is_met_by_the_solver_asked_first():
    """Warnings are errors: no solver takes over from another that had nothing to do."""
    H, y = small_problem(3, n=60, d=12)
    certificate = fit(H, y, alpha=0.03, tol=1.0, max_iter=1)[1].certificate
    assert certificate.status.converged


def test_no_neuron_is_no_proof_where_a_search_has_found_a_better_one():
    """One random pattern has no neuron that is worth its penalty; others have."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.0, 1.0, (100, 5))
    y = np.abs(X[:, 0]) + np.abs(X[:, 1]) + X[:, 2] * X[:, 3]
    model = MultigradeRegressor(
        0.05, n_grades=3, early_stopping=False, patterns="sampled", n_patterns=1, random_state=2
    ).fit(X, y)
    assert model.grades_[0].n_neurons == 0
    assert model.certificates_[0].price > 2.0 * 0.05
    assert model.certificates_[0].status is Status.OPTIMAL
    assert model.stop_reason_.startswith("Grade 1 has no neuron: none of its patterns")


@pytest.mark.parametrize("failing", [0, 1])
def test_a_grade_that_a_solver_leaves_without_neurons_ends_the_chain(monkeypatch, failing):
    """The next one would have none of its features to read."""

    def fitted(problem, settings, seed, first, report):
        grade = fit_grade(problem, settings, seed, first, report)
        if seed[1] != failing:
            return grade
        d = problem.X.shape[1] - 1
        none = Network(
            np.zeros((d, 0)), np.zeros(0), np.zeros((0, 1)), np.zeros((d, 1)), np.zeros(1)
        )
        failed = replace(grade.certificate, status=Status.FAILED)
        return replace(grade, network=none, certificate=failed)

    monkeypatch.setattr(multigrade, "fit_grade", fitted)
    H, y = small_problem(0)
    plan = ChainPlan(3, 0.01, SquaredError(), True, Settings(n_patterns=10), 0)
    data = Data(H, y, np.full(len(H), 1.0 / len(H)))
    *_, progress = grow(Progress.begin(plan.loss, data, HIDDEN_AND_INPUTS), data, plan)
    assert len(progress.chain) == 1  # the first one stays
    assert progress.verdict.startswith(
        f"Grade {failing + 1} has no neuron at alpha=0.01. The solver"
    )


def test_where_all_patterns_were_tried_no_neuron_is_a_proof():
    X = np.linspace(-1.0, 1.0, 12)[:, None]
    chain = MultigradeRegressor(5.0, n_grades=2, early_stopping=False, patterns="exhaustive")
    chain.fit(X, X[:, 0])
    assert chain.grades_[0].n_neurons == 0
    assert chain.certificates_[0].status is Status.TRIVIAL
    assert chain.certificates_[0].price_is_exact
    assert chain.stop_reason_.startswith(
        "Grade 1 is trivial: no neuron, of its patterns or found by"
    )


def test_a_linear_target_needs_no_neuron_but_its_linear_term():
    X = np.random.default_rng(0).uniform(-1.0, 1.0, (60, 3))
    model = ConvexReLURegressor(0.1, linear_term=True, n_patterns=10, random_state=0)
    model.fit(X, 3.0 * X[:, 0] - X[:, 1])
    assert model.score(X, 3.0 * X[:, 0] - X[:, 1]) == pytest.approx(1.0)
    assert model.certificate_.status.value.startswith("No neuron is worth its penalty")


def test_linear_terms_of_dependent_columns_are_as_good_as_certified():
    """Hidden features next to inputs are all but dependent: the solver and the bound must agree."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.0, 1.0, (100, 5))
    y = np.abs(X[:, 0]) + np.abs(X[:, 1]) + X[:, 2] * X[:, 3]
    model = MultigradeRegressor(
        0.003,
        alpha_decay=1.0,
        n_grades=2,
        n_patterns=20,
        linear_term=True,
        early_stopping=False,
        random_state=0,
    ).fit(X, y)
    assert model.n_grades_ == 2
    assert max(c.relative_gap for c in model.certificates_) < 1e-4
    again = [c.primal for c in certify(model, X, y)]
    assert again == pytest.approx([c.primal for c in model.certificates_])


@pytest.mark.parametrize("centred", [False, True])
def test_independent_columns_span_what_all_do(centred):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((30, 4)) * [1.0, 1e-5, 1e5, 1.0]
    H = np.column_stack([np.full(30, 2.0), H, H @ [1.0, 2e5, 1e-5, 0.0], np.zeros(30)])
    weights = rng.uniform(0.5, 2.0, 30)
    kept = independent_columns(H, weights, centred)
    assert kept.size == (4 if centred else 5)
    constant = np.ones((30, 1 if centred else 0))
    some, every = np.hstack([H[:, kept], constant]), np.hstack([H, constant])
    some, every = (A / np.abs(A).max(axis=0).clip(1e-300) for A in (some, every))
    left = every - some @ np.linalg.lstsq(some, every, rcond=1e-14)[0]
    assert np.abs(left).max() < 1e-8
    assert np.linalg.matrix_rank(some) == some.shape[1]
