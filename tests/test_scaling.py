"""What grades read: scaled as a block, zero where it is the same on all rows, nothing at all."""

import numpy as np
import pytest
from sklearn.base import clone

from convexgrade import ConvexReLURegressor, MultigradeClassifier, MultigradeRegressor, certify
from convexgrade.chain import Chain, Data
from convexgrade.handover import HIDDEN_AND_INPUTS, Handover
from convexgrade.losses import SquaredError
from convexgrade.multigrade import ChainPlan, _next_problem
from convexgrade.scaling import (
    scaling_between,
    standard_scaling,
    target_scaling,
    whitened,
    within_row_space,
)
from convexgrade.settings import Settings

WEIGHTS = np.full(50, 0.02)


def features(seed=0):
    return np.random.default_rng(seed).standard_normal((50, 6))


@pytest.mark.parametrize("error", [0.0, 1e-15, 1e-11, 1e-9])
def test_what_is_the_same_on_all_rows_but_for_errors_becomes_zero(error):
    H = features()
    H[:, 1] = 0.7 + error * H[:, 1]
    H[:, 5] = 0.7 + 1e-9 * H[:, 5]  # an input: as people have them
    scaling = scaling_between(H, WEIGHTS, HIDDEN_AND_INPUTS, n_hidden=3, X=H[:, 3:])
    scaled = scaling.apply(H)
    np.testing.assert_array_equal(scaled[:, 1], 0.0)
    np.testing.assert_allclose(scaled.std(axis=0)[[0, 2, 3, 4, 5]], 1.0, rtol=1e-6)
    assert np.isfinite(whitened(scaling, H, WEIGHTS, H[:, 3:]).apply(H)).all()


@pytest.mark.parametrize("passthrough", ["output", "both"])
def test_an_output_that_hardly_moves_is_no_column_but_a_feature_or_an_input_that_does_is(
    passthrough,
):
    """A grade that raises no residual may fit next to nothing, which is then a solver's error."""
    width, small = 2 * (passthrough == "both"), 1e-7 * features()
    H = np.column_stack([small[:, :width], small[:, 2], features()[:, 3], small[:, 4:]])
    handover = Handover(passthrough, True)
    scaled = scaling_between(H, WEIGHTS, handover, n_hidden=2, X=H[:, -2:]).apply(H)
    np.testing.assert_array_equal(scaled[:, width], 0.0)
    np.testing.assert_allclose(np.delete(scaled, width, axis=1).std(axis=0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("keep_inputs", [True, False])
@pytest.mark.parametrize("passthrough", ["hidden", "output", "both"])
def test_wide_grades_are_scaled_down_as_a_block(passthrough, keep_inputs):
    handover = Handover(passthrough, keep_inputs)
    n_hidden, n_inputs = 18, 2
    n_features = handover.width(n_hidden, 1, n_inputs)
    H = np.random.default_rng(0).standard_normal((50, n_features))
    X = np.column_stack([features()[:, :n_inputs], np.full(50, 7.0)])  # of which two vary
    if keep_inputs:
        H = np.column_stack([H, X[:, -1]])
    scaling = scaling_between(H, WEIGHTS, handover, n_hidden, X)
    spread = scaling.apply(H).std(axis=0)
    width = n_hidden if handover.hands_hidden else 0
    np.testing.assert_allclose(spread[:width], 1.0 / 3.0)
    np.testing.assert_allclose(spread[width:n_features], 1.0)
    assert not spread[n_features:].any()


def test_standard_scaling_makes_constant_columns_0_on_all_rows():
    alike = 1e17 + 16.0 * np.arange(50)
    columns = [np.full(50, 0.1), alike, 1e200 * features()[:, 0], 1e-200 * features()[:, 1]]
    scaling = standard_scaling(np.column_stack(columns), WEIGHTS)
    scaled = scaling.apply(np.column_stack(columns))
    np.testing.assert_array_equal(scaled[:, :2], 0.0)
    np.testing.assert_array_equal(scaling.apply(np.full((1, 4), 7.0))[:, :2], 0.0)
    np.testing.assert_allclose(scaled[:, 2:].std(axis=0), 1.0)


def test_columns_beyond_the_rows_are_rotated_away():
    H = np.random.default_rng(0).standard_normal((20, 50))
    H[:, 7] = 3.0
    scaling = standard_scaling(H, WEIGHTS[:20])
    turned = within_row_space(scaling, H, 1e-14)
    whole, few = scaling.apply(H), turned.apply(H)
    assert few.shape == (20, 19)  # centred rows add up to 0
    np.testing.assert_allclose(few @ few.T, whole @ whole.T, atol=1e-12)
    none = within_row_space(standard_scaling(np.ones((5, 9)), np.ones(5)), np.ones((5, 9)), 1e-14)
    assert np.abs(none.apply(np.ones((5, 9)))).max() == 0.0


@pytest.mark.parametrize("activation", ["relu", "gated_relu"])
@pytest.mark.parametrize("estimator", [MultigradeRegressor, MultigradeClassifier])
def test_wide_tables_have_the_program_of_their_rows(estimator, activation):
    """An orthogonal change of columns changes nothing, nor do 100 columns more than there are rows."""
    rng = np.random.default_rng(0)
    F, Q = rng.standard_normal((40, 5)), np.linalg.qr(rng.standard_normal((150, 150)))[0][:5]
    y = F[:, 0] if estimator is MultigradeRegressor else F[:, 0] > 0.0
    model = estimator(
        0.01,
        n_grades=2,
        early_stopping=False,
        standardize=False,
        activation=activation,
        patterns="sampled",
        n_patterns=20,
        random_state=0,
    )
    wide = clone(model).fit(F @ Q, y)
    assert [c.relative_gap < 1e-4 for c in wide.certificates_] == [True, True]
    for again, stored in zip(certify(wide, F @ Q, y), wide.certificates_, strict=True):
        assert again.primal == pytest.approx(stored.primal, rel=1e-9)
    H, network = F @ Q, wide.network_.grades[0]
    primal = wide.train_loss_[0] + 0.01 * network.path_norm / wide._coding.scaling.scale[0]
    assert wide.certificates_[0].primal == pytest.approx(primal, rel=1e-9)
    # What stands at right angles to all rows is not seen.
    beside = rng.standard_normal((40, 150))
    beside -= beside @ Q.T @ Q
    np.testing.assert_allclose(network.forward(H + beside), network.forward(H), atol=1e-9)


def test_a_fit_begins_with_the_last_one_on_wide_tables_as_well():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 60))
    y = np.abs(X[:, 0]) + X[:, 1]
    model = ConvexReLURegressor(0.02, n_patterns=5, warm_start=True, random_state=0).fit(X, y)
    first = model._first_network(model._progress.chain)
    H = model._progress.chain.links[0].scaling
    whole = (X - H.center) / H.scale
    np.testing.assert_allclose(
        first.forward(whole), model.grades_[0].network.forward(H.apply(X)), atol=1e-12
    )
    assert model.fit(X, y).certificate_.primal <= model.certificate_.primal * (1.0 + 1e-9)


def test_targets_that_are_constant_are_centred():
    y = np.column_stack([np.full(50, 0.1), features()[:, 0]])
    scaling = target_scaling(y, WEIGHTS)
    np.testing.assert_array_equal(scaling.apply(y + 1.0)[:, 0], 1.0)
    np.testing.assert_allclose(scaling.apply(y).std(axis=0), [0.0, 1.0])


@pytest.mark.parametrize("patterns", ["adaptive", "sampled"])
@pytest.mark.parametrize("linear_term", [False, True])
def test_a_column_that_was_constant_opens_and_shuts_no_gate(patterns, linear_term):
    """A gate has weights on it that no row has tested: at 1.01e6, predictions moved by 1.6."""
    X = np.column_stack([np.random.default_rng(0).standard_normal((100, 2)), np.full(100, 1e6)])
    model = MultigradeRegressor(
        0.01,
        n_grades=2,
        early_stopping=False,
        activation="gated_relu",
        patterns=patterns,
        n_patterns=20,
        linear_term=linear_term,
        random_state=0,
    ).fit(X, np.abs(X[:, 0]) + X[:, 1])
    for value in (0.0, 1.01e6, -1e308):
        elsewhere = np.column_stack([X[:, :2], np.full(100, value)])
        np.testing.assert_array_equal(model.predict(elsewhere), model.predict(X))
    assert model.grades_[0].n_neurons > 0


@pytest.mark.parametrize("whiten", [False, True])
def test_a_neuron_in_place_of_an_intercept_is_no_column_for_a_linear_term(whiten):
    """What a solver misses by on such a neuron was read with coefficients of 1e14."""
    rng = np.random.default_rng(8)
    X = rng.standard_normal((50, 3))
    y = np.abs(X[:, 0]) + 0.1 * rng.standard_normal(50)
    model = MultigradeRegressor(
        0.02,
        n_grades=2,
        early_stopping=False,
        n_patterns=15,
        random_state=0,
        linear_term=True,
        fit_intercept=False,
        extrapolation=None,
        whiten=whiten,
    ).fit(X, y)
    first, second = model.network_.grades
    spread = np.ptp(first.hidden(X), axis=0)
    assert spread.min() < 1e-8 * np.abs(first.hidden(X)).max()  # there is such a neuron
    assert np.abs(second.linear_coef).max() < 1e3
    new = rng.standard_normal((200, 3))
    np.testing.assert_allclose(model.network_.forward(new)[:, 0], model.predict(new), atol=1e-9)


def test_a_wide_table_of_very_different_columns_keeps_them_all():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 30)) * np.where(np.arange(30) == 7, 3e9, 1.0)
    data = Data(X, np.abs(X[:, :1]), np.full(20, 0.05))
    plan = ChainPlan(1, 1e-4, SquaredError(), standardize=False, settings=Settings(), seed=0)
    H = _next_problem(Chain(np.zeros(1)), data, plan).problem.X[:, :-1]
    assert H.shape == (20, 20)  # and not the direction of the large column alone
    size = np.linalg.svd(H, compute_uv=False)
    np.testing.assert_allclose(size, np.linalg.svd(X, compute_uv=False), rtol=1e-5)


def test_an_output_handed_on_beside_what_it_is_a_sum_of_is_no_column_for_a_linear_term():
    """More columns than rows: a rotation kept a direction of rounding, read with weights of 1e12."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3))
    y = np.abs(X[:, 0]) - X[:, 1] * X[:, 2] + 0.1 * rng.standard_normal(50)
    Y = np.column_stack([y, 1e3 + 1e3 * y**2, 1e-5 * y])
    model = MultigradeRegressor(
        0.02,
        n_grades=2,
        n_patterns=6,
        max_iter=1,
        passthrough="both",
        linear_term=True,
        early_stopping=False,
        extrapolation=None,
        random_state=0,
    ).fit(X, Y, sample_weight=np.arange(50) % 3)
    assert np.abs(model.grades_[1].network.linear_coef).max() < 1e4
    spread = model.predict(X).std(axis=0)
    np.testing.assert_allclose(
        model.network_.forward(X) / spread, model.predict(X) / spread, atol=1e-9
    )


def test_a_chain_ends_where_the_next_grade_would_have_nothing_to_read():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 2))
    y = np.abs(X[:, 0])
    X, y = np.concatenate([X, X[:15]]), np.concatenate([y, y[:15] + 1.0])  # no residual may grow
    model = MultigradeRegressor(
        0.02,
        n_grades=3,
        n_patterns=8,
        early_stopping=False,
        refinement="pointwise",
        keep_inputs=False,
        random_state=0,
    ).fit(X, y)
    assert [grade.n_neurons for grade in model.grades_] == [0]
    assert model.stop_reason_.startswith("Grade 2 has nothing to read: the grade before it has no")


def test_hidden_features_of_narrow_grades_are_not_scaled_up():
    H = np.random.default_rng(0).standard_normal((50, 9))
    scaling = scaling_between(H, np.full(50, 0.02), HIDDEN_AND_INPUTS, n_hidden=1, X=H[:, 1:])
    np.testing.assert_allclose(scaling.apply(H).std(axis=0), 1.0)
