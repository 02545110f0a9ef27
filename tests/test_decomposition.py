"""Gated networks as ReLU networks: equal on the rows, and of the least norm that a pair can have."""

import pickle
from dataclasses import FrozenInstanceError, replace

import cvxpy as cp
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from convexgrade import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    MultigradeRegressor,
    certify,
    decomposition,
    to_relu,
)
from convexgrade.decomposition import decompose, split
from convexgrade.network import Network
from convexgrade.patterns import centred_gates


def gated_network(rng, H, *, m=4, k=1):
    X = np.column_stack([H, np.ones(len(H))])
    gates = centred_gates(X, m, rng)
    return Network(
        hidden_coef=rng.standard_normal((H.shape[1], m)),
        hidden_intercept=rng.standard_normal(m),
        output_coef=rng.standard_normal((m, k)),
        linear_coef=rng.standard_normal((H.shape[1], k)),
        intercept=rng.standard_normal(k),
        gate_coef=gates[:-1],
        gate_intercept=gates[-1],
    )


def with_vectors(network, vectors):
    return Network(
        vectors[:-1],
        vectors[-1],
        network.output_coef,
        network.linear_coef,
        network.intercept,
        network.gate_coef,
        network.gate_intercept,
    )


def columns(H):
    return np.column_stack([H, np.ones(len(H))])


def gates_of(network):
    return np.vstack([network.gate_coef, network.gate_intercept])


def assert_equal_on_rows(result, network, H):
    expected = network.forward(H)
    scale = np.abs(network.hidden(H) @ np.abs(network.output_coef)).max()
    np.testing.assert_allclose(result.network.forward(H), expected, rtol=0.0, atol=1e-9 * scale)
    assert result.error <= 1e-9 * scale
    assert result.network.gate_coef is None
    assert result.n_neurons_after <= 2 * result.n_neurons_before
    assert result.path_norm_after == pytest.approx(result.blow_up * result.path_norm_before)


def least_penalty(network, H):
    """State the program of every neuron as it is written in the paper, with all constraints.

    A neuron whose gate is shut on every row needs no vectors.
    """
    X, total = columns(H), 0.0
    masks = (X @ gates_of(network) >= 0.0).T
    for v, mask, output in zip(network.vectors.T, masks, network.output_coef, strict=True):
        if not mask.any():
            continue
        G = np.where(mask, 1.0, -1.0)[:, None] * X
        p, m = cp.Variable(v.size), cp.Variable(v.size)
        problem = cp.Problem(
            cp.Minimize(cp.norm(p) + cp.norm(m)), [p - m == v, G @ p >= 0, G @ m >= 0]
        )
        problem.solve(solver=cp.CLARABEL)
        total += problem.value * np.abs(output).sum()
    return total


@pytest.mark.parametrize(
    ("d", "n", "k"), [(2, 10, 1), (2, 60, 3), (3, 40, 1), (4, 60, 3), (6, 60, 1), (6, 4, 3)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_on_the_rows_at_the_least_penalty(d, n, k, seed):
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((n, d))
    network = gated_network(rng, H, k=k)
    result = decompose(network, H)
    assert_equal_on_rows(result, network, H)
    assert result.path_norm_after == pytest.approx(least_penalty(network, H), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_both_vectors_lie_in_the_cone_and_differ_by_the_given_one(seed):
    rng = np.random.default_rng(seed)
    X = columns(rng.standard_normal((50, 3)))
    gate = centred_gates(X, 1, rng)[:, 0]
    mask = X @ gate >= 0.0
    v = rng.standard_normal(4)
    p, m = split(X, mask, gate, v)
    size = np.linalg.norm(p) + np.linalg.norm(m)
    np.testing.assert_allclose(p - m, v, rtol=0.0, atol=1e-14 * size)
    G = np.where(mask, 1.0, -1.0)[:, None] * X
    assert min((G @ p).min(), (G @ m).min()) >= -1e-14 * size * np.linalg.norm(X, axis=1).max()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_vector_of_the_cone_or_its_negative_stays_one_neuron(sign):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((30, 3))
    network = gated_network(rng, H, m=3, k=2)
    network = with_vectors(network, sign * 0.7 * gates_of(network))
    result = decompose(network, H)
    assert_equal_on_rows(result, network, H)
    assert result.n_neurons_after == result.n_neurons_before == 3
    assert result.blow_up == pytest.approx(1.0, rel=1e-14)


def test_duplicated_rows_change_nothing():
    rng = np.random.default_rng(0)
    H = rng.standard_normal((20, 2))
    network = gated_network(rng, H)
    once, thrice = decompose(network, H), decompose(network, np.vstack([H, H, H]))
    assert thrice.path_norm_after == pytest.approx(once.path_norm_after, rel=1e-9)


def test_rank_deficient_rows():
    rng = np.random.default_rng(0)
    H = rng.standard_normal((30, 2))
    H = np.column_stack([H, H[:, 0] - 2.0 * H[:, 1], np.full(30, 3.0)])
    network = gated_network(rng, H)
    result = decompose(network, H)
    assert_equal_on_rows(result, network, H)
    assert result.path_norm_after == pytest.approx(least_penalty(network, H), rel=1e-5)


@pytest.mark.parametrize("size", [1e-100, 1e-8, 1e8, 1e100])
def test_the_size_of_a_vector_does_not_matter(size):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((30, 2))
    network = gated_network(rng, H)
    larger = with_vectors(network, size * network.vectors)
    result = decompose(larger, H)
    assert result.blow_up == pytest.approx(decompose(network, H).blow_up, rel=1e-6)
    assert result.error <= 1e-12 * size * np.abs(network.forward(H)).max()


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1e3, 1e6])
def test_columns_of_very_different_size(size):
    """In units in which the columns are alike, the reference is well conditioned."""
    rng = np.random.default_rng(0)
    H = rng.standard_normal((30, 2))
    X, units = columns(H), np.array([size, size, 1.0])
    gate = centred_gates(X, 1, rng)[:, 0]
    mask = X @ gate >= 0.0
    v = rng.standard_normal(3)
    p, m = split(X * units, mask, gate / units, v / units)

    q, r = cp.Variable(3), cp.Variable(3)
    G = np.where(mask, 1.0, -1.0)[:, None] * X
    length = np.linalg.norm(v / units)
    norms = [cp.norm(cp.multiply(1.0 / (units * length), a)) for a in (q, r)]
    problem = cp.Problem(cp.Minimize(sum(norms)), [q - r == v, G @ q >= 0, G @ r >= 0])
    problem.solve(solver=cp.CLARABEL)
    assert (np.linalg.norm(p) + np.linalg.norm(m)) / length == pytest.approx(
        problem.value, rel=1e-5
    )
    outputs = np.maximum(X * units @ p, 0.0) - np.maximum(X * units @ m, 0.0)
    np.testing.assert_allclose(outputs, mask * (X @ v), atol=1e-11)


def test_a_row_on_the_hyperplane_counts_as_active():
    H = np.array([[-1.0], [0.0], [0.0], [2.0]])
    network = Network(
        hidden_coef=np.array([[1.0]]),
        hidden_intercept=np.array([-3.0]),
        output_coef=np.array([[1.0]]),
        linear_coef=np.zeros((1, 1)),
        intercept=np.zeros(1),
        gate_coef=np.array([[1.0]]),
        gate_intercept=np.array([0.0]),
    )
    np.testing.assert_array_equal(network.forward(H)[:, 0], [0.0, -3.0, -3.0, -1.0])
    assert_equal_on_rows(decompose(network, H), network, H)


@pytest.mark.parametrize("intercept", [100.0, -100.0])
def test_gates_that_are_open_or_shut_on_every_row(intercept):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((20, 2))
    network = gated_network(rng, H, m=1)
    network.gate_intercept[:] = intercept
    result = decompose(network, H)
    np.testing.assert_allclose(result.network.forward(H), network.forward(H), atol=1e-12)
    assert result.n_neurons_after == (2 if intercept > 0.0 else 0)


def test_a_network_without_neurons_has_no_blow_up():
    rng = np.random.default_rng(0)
    H = rng.standard_normal((20, 2))
    network = gated_network(rng, H, m=0, k=2)
    result = decompose(network, H)
    np.testing.assert_array_equal(result.network.forward(H), network.forward(H))
    assert (result.blow_up, result.n_neurons_after, result.error) == (1.0, 0, 0.0)


def test_where_the_search_fails_the_gate_gives_a_pair(monkeypatch):
    def fails(*arguments):
        raise RuntimeError("Maximum number of iterations reached.")

    rng = np.random.default_rng(0)
    H = rng.standard_normal((30, 2))
    network = gated_network(rng, H)
    best = decompose(network, H)
    monkeypatch.setattr(decomposition, "_least", fails)
    cheap = decompose(network, H)
    assert_equal_on_rows(cheap, network, H)
    assert cheap.path_norm_after > best.path_norm_after


@pytest.mark.parametrize("seed", range(4))
def test_a_network_without_biases_becomes_one_without(seed):
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((25, 3))
    H[0] = 0.0
    network = gated_network(rng, H)
    network = replace(
        network,
        hidden_intercept=0.0 * network.hidden_intercept,
        gate_intercept=0.0 * network.gate_intercept,
    )
    result = decompose(network, H)
    assert_equal_on_rows(result, network, H)
    assert not result.network.hidden_intercept.any()
    # Constraints of a row of zeros say nothing, so the program may be stated without biases.
    vectors, gates = network.hidden_coef.T, H @ network.gate_coef >= 0.0
    total = 0.0
    for v, mask, output in zip(vectors, gates.T, network.output_coef, strict=True):
        G = np.where(mask, 1.0, -1.0)[:, None] * H
        p, m = cp.Variable(3), cp.Variable(3)
        problem = cp.Problem(
            cp.Minimize(cp.norm(p) + cp.norm(m)), [p - m == v, G @ p >= 0, G @ m >= 0]
        )
        problem.solve(solver=cp.CLARABEL)
        total += problem.value * np.abs(output).sum()
    assert result.path_norm_after == pytest.approx(total, rel=1e-5)


def test_relu_networks_and_inseparable_rows_are_errors():
    rng = np.random.default_rng(0)
    H = np.linspace(-1.0, 1.0, 5)[:, None]
    network = gated_network(rng, H, m=1)
    with pytest.raises(ValueError, match="has no gates"):
        decompose(decompose(network, H).network, H)
    H = np.array([[1.0], [np.nextafter(1.0, 2.0)]])
    network.gate_coef[:] = 1.0
    network.gate_intercept[:] = -H[1]
    with pytest.raises(ValueError, match="separates rows that are equal up to rounding"):
        decompose(network, H)


def test_a_row_that_rounding_puts_on_a_gate_without_a_bias_is_an_error():
    """Whichever side of it the row then counts to."""
    X = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for second in (True, False):
        mask = np.array([True, second])
        with pytest.raises(ValueError, match="Rows lie on the boundary of a gate without a bias"):
            split(X, mask, np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0 - 2.0 * second, 0.0]))


def make_data(k, n=40):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 2))
    y = np.abs(X[:, 0]) + 0.5 * X[:, 1] + 0.05 * rng.standard_normal(n)
    return X, np.column_stack([y, -y, X[:, 0]])[:, :k] if k > 1 else y


def fit_gated(estimator, X, y, **fit_parameters):
    model = estimator(0.02, activation="gated_relu", n_patterns=20, random_state=0)
    return model.fit(X, y, **fit_parameters)


def problem(kind):
    X, y = make_data(3 if kind == "several outputs" else 1)
    if kind in ("two classes", "three classes"):
        n_classes = {"two classes": 2, "three classes": 3}[kind]
        edges = np.quantile(y, np.arange(1, n_classes) / n_classes)
        return ConvexReLUClassifier, X, np.array(["a", "b", "c"])[np.digitize(y, edges)]
    return ConvexReLURegressor, X, y


KINDS = ["one output", "several outputs", "two classes", "three classes"]


def outputs(model, X):
    return model.network_.forward(X)


def assert_reproduced(certificate, again):
    for field in ("primal", "dual", "gap", "price"):
        assert getattr(again, field) == pytest.approx(getattr(certificate, field), rel=1e-9)
    assert again.n_patterns == certificate.n_patterns
    assert again.status is certificate.status


@pytest.mark.parametrize("kind", KINDS)
def test_the_converted_estimator_predicts_the_same_and_has_a_certificate(kind):
    estimator, X, y = problem(kind)
    gated = fit_gated(estimator, X, y)
    before = pickle.dumps(gated)
    conversion = to_relu(gated, X, y)
    relu = conversion.estimator
    assert pickle.dumps(gated) == before

    assert type(relu) is estimator
    assert relu.get_params() == {**gated.get_params(), "activation": "relu"}
    expected = gated.decision_function(X) if hasattr(gated, "classes_") else gated.predict(X)
    got = relu.decision_function(X) if hasattr(relu, "classes_") else relu.predict(X)
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(outputs(relu, X), outputs(gated, X), atol=1e-9)
    assert conversion.error <= 1e-9
    assert relu.n_features_in_ == gated.n_features_in_
    np.testing.assert_array_equal(relu.train_loss_, gated.train_loss_)

    certificate = relu.certificate_
    assert certificate.gap >= 0.0
    assert certificate.violation <= 1e-9
    [again] = certify(relu, X, y)
    assert_reproduced(certificate, again)
    old = gated.certificate_
    grown = conversion.path_norm_after - conversion.path_norm_before
    assert certificate.primal - old.primal == pytest.approx(gated.alpha * grown, rel=1e-6)
    assert certificate.dual >= old.dual - 1e-12  # the program of the gated grade, and constraints
    assert conversion.n_neurons_before == gated.grades_[0].n_neurons
    assert conversion.n_neurons_after == relu.grades_[0].n_neurons == relu.transform(X).shape[1]


def test_the_certificate_bounds_what_a_relu_network_of_its_patterns_reaches():
    X, y = make_data(1)
    X = X[:, :1]
    parameters = {"alpha": 0.02, "patterns": "exhaustive", "random_state": 0}
    gated = ConvexReLURegressor(activation="gated_relu", **parameters).fit(X, y)
    converted = to_relu(gated, X, y).estimator.certificate_
    best = ConvexReLURegressor(**parameters).fit(X, y).certificate_
    assert converted.price_is_exact
    assert converted.dual <= best.primal <= converted.primal


def test_the_error_of_a_conversion_is_one_of_predictions():
    X, y = make_data(1)
    counts = np.round(np.exp(12.0 + y))
    parameters = {"activation": "gated_relu", "n_patterns": 20, "random_state": 0}
    gated = ConvexReLURegressor(0.02, loss="poisson", **parameters).fit(X, counts)
    conversion = to_relu(gated, X, counts)
    difference = np.abs(conversion.estimator.predict(X) - gated.predict(X))
    assert conversion.error == pytest.approx(difference.max(), rel=1e-6)
    assert conversion.error > 1e-12  # in counts, not in their logarithms


def test_the_conversion_is_exact_on_rows_of_positive_weight():
    X, y = make_data(1)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(X))
    weights[::4] = 0.0
    gated = fit_gated(ConvexReLURegressor, X, y, sample_weight=weights)
    conversion = to_relu(gated, X, y, sample_weight=weights)
    kept = weights > 0.0
    difference = np.abs(conversion.estimator.predict(X) - gated.predict(X))
    assert difference[kept].max() <= 1e-9
    assert difference[~kept].max() > 1e-3
    [again] = certify(conversion.estimator, X, y, sample_weight=weights)
    assert_reproduced(conversion.estimator.certificate_, again)


def test_a_trivial_grade_is_converted_too():
    X, y = make_data(1)
    gated = ConvexReLURegressor(100.0, activation="gated_relu", random_state=0).fit(X, y)
    conversion = to_relu(gated, X, y)
    assert (conversion.n_neurons_after, conversion.blow_up, conversion.error) == (0, 1.0, 0.0)
    assert conversion.estimator.certificate_.status is gated.certificate_.status


def test_a_conversion_is_frozen_prints_a_line_and_can_be_pickled():
    X, y = make_data(1)
    conversion = to_relu(fit_gated(ConvexReLURegressor, X, y), X, y)
    with pytest.raises(FrozenInstanceError):
        conversion.blow_up = 1.0
    line = str(conversion)
    assert "\n" not in line
    assert f"{conversion.n_neurons_after} ReLU neurons" in line
    again = pickle.loads(pickle.dumps(conversion))
    assert str(again) == line
    np.testing.assert_array_equal(again.estimator.predict(X), conversion.estimator.predict(X))


def test_a_converted_estimator_starts_a_warm_fit():
    X, y = make_data(1)
    relu = to_relu(fit_gated(ConvexReLURegressor, X, y), X, y).estimator
    before = relu.certificate_.primal
    relu.set_params(warm_start=True).fit(X, y)
    assert relu.certificate_.relative_gap < 1e-4
    assert relu.certificate_.primal < before


def test_a_converted_grade_that_is_kept_is_not_warned_of():
    X, y = make_data(1)
    chain = MultigradeRegressor(
        0.02,
        n_grades=1,
        activation="gated_relu",
        n_patterns=10,
        early_stopping=False,
        random_state=0,
    )
    relu = to_relu(chain.fit(X, y), X, y).estimator
    assert relu.certificates_[0].relative_gap > relu.tol
    relu.set_params(warm_start=True, n_grades=2).fit(X, y)  # warnings are errors
    assert relu.n_grades_ == 2
    assert "Converted from a gated grade" in str(relu.certificates_[0])


def test_what_cannot_be_converted_is_an_error_that_says_what_can():
    X, y = make_data(1)
    with pytest.raises(TypeError, match="convexgrade estimator; got Ridge"):
        to_relu(Ridge().fit(X, y), X, y)
    with pytest.raises(NotFittedError):
        to_relu(ConvexReLURegressor(activation="gated_relu"), X, y)
    relu = ConvexReLURegressor(0.02, n_patterns=10, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"activation='gated_relu'.* has ReLU neurons already"):
        to_relu(relu, X, y)
    chain = fit_gated(MultigradeRegressor, X, y)
    with pytest.raises(ValueError, match=r"estimators of one grade .* has \d grades"):
        to_relu(chain, X, y)


def test_gates_whose_boundary_rows_lie_on_are_not_converted():
    X, y = np.array([[0.0], [1.0], [2.0]]), [0.0, 1.0, 3.0]
    gated = MultigradeRegressor(
        0.01,
        n_grades=1,
        activation="gated_relu",
        patterns="exhaustive",
        first_bias=False,
        early_stopping=False,
    ).fit(X, y)
    with pytest.raises(ValueError, match="Rows lie on the boundary of a gate without a bias"):
        to_relu(gated, X, y)
