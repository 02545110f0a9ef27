"""What a notebook shows of fitted parts: one short line that is true of them, never their arrays."""

from functools import cache

import numpy as np
import pytest

from convexgrade import (
    ConstructiveMultigrade,
    Conversion,
    ConvexReLURegressor,
    GeometricLayerwiseRegressor,
    MultigradeRegressor,
    deep_network,
)
from convexgrade.deep_network import DeepNetwork
from convexgrade.energy import Energy
from convexgrade.export import GradeSummary

SHORT = 100


@cache
def chain():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((60, 2)), np.exp(3.0 * rng.standard_normal(60))])
    y = np.abs(X[:, 0]) * X[:, 1]
    parameters = {"early_stopping": False, "distances": True, "log_tails": True, "random_state": 0}
    return MultigradeRegressor(0.01, n_grades=2, n_patterns=10, **parameters).fit(X, y)


@cache
def cells():
    X = np.linspace(0.0, 1.0, 100)[:, None]
    return GeometricLayerwiseRegressor(2, 3, decoder="sine").fit(X, np.sin(5.0 * X[:, 0]))


@cache
def stages():
    return ConstructiveMultigrade(n_stages=2).fit(lambda X: X[:, 0] ** 2, 1)


def assert_shown(thing, expected):
    assert len(repr(thing)) < SHORT
    assert repr(thing) == expected


def test_grade():
    grade = chain().grades_[1]
    gap = grade.certificate.relative_gap
    assert grade.n_neurons > 1
    expected = f"Grade({grade.n_neurons} neurons, alpha=0.003, relative_gap={gap:.1e})"
    assert_shown(grade, expected)


def test_network():
    network = chain().network_.grades[0]
    assert_shown(network, f"Network(6 inputs, {network.n_neurons} neurons, 1 output)")


def test_network_with_gates_or_without_neurons():
    X = np.linspace(-1.0, 1.0, 20)[:, None]
    gated = ConvexReLURegressor(0.01, activation="gated_relu", random_state=0).fit(X, X[:, 0] ** 2)
    [network] = gated.network_.grades
    assert_shown(network, f"Network(1 input, {network.n_neurons} gated neurons, 1 output)")
    [network] = ConvexReLURegressor(100.0).fit(X, np.hstack([X, X])).network_.grades
    assert_shown(network, "Network(1 input, 0 neurons, 2 outputs)")


def test_deep_network():
    network = chain().network_
    first, second = (grade.n_neurons for grade in network.grades)
    assert_shown(network, f"DeepNetwork(2 grades, {first} and {second} neurons)")
    assert_shown(DeepNetwork(network.baseline, (), ()), "DeepNetwork(0 grades)")


def test_a_network_forms_features_of_a_few_rows_at_a_time(monkeypatch):
    network, X = chain().network_, np.random.default_rng(1).standard_normal((25, 3))
    X[7] = 1e300  # which is read nearer
    expected = network.forward(X)
    assert np.isfinite(expected).all()
    monkeypatch.setattr(deep_network, "MOST_FEATURES", 1)
    np.testing.assert_allclose(network.forward(X), expected, rtol=1e-12)


def test_a_network_without_grades_is_its_baseline():
    network = DeepNetwork(np.array([1.0, -2.0]), (), ())
    np.testing.assert_array_equal(network.forward(np.ones((3, 4))), [[1.0, -2.0]] * 3)
    assert network.forward(np.empty((0, 4))).shape == (0, 2)
    with pytest.raises(ValueError, match=r"shape \(n_samples, n_features\); got \(3,\)"):
        network.forward(np.ones(3))


def test_reading():
    reading = chain().network_.reading
    expected = "Reading(tails=Tails(1 column drawn in), distances=Distances(3 columns))"
    assert_shown(reading, expected)


def test_tables_and_their_layers():
    tables = cells().tables_
    assert_shown(tables, "Tables(base=2, 1 output, 3 layers, 8 cells in the last)")
    assert_shown(tables.layers[0], "Layer(2 cells, 1 output)")


def test_code():
    code = cells().codes_[-1]
    numbers = f"amplitude={code.amplitude:.3g}, error={code.error:.1e}"
    assert_shown(code, f"Code(8 cells, {abs(code.multiple).bit_length()} bits, {numbers})")


def test_geometric_network_and_its_parts():
    network = cells().to_network()
    assert network.width == 7
    assert_shown(network, "GeometricNetwork(5 hidden layers of width 7, 3 readouts)")
    assert_shown(network.layers[-1], "HiddenLayer(7 channels with 2 sines)")
    assert_shown(network.readouts[0], "Readout(hidden_layer=2)")


def test_refinement_stage():
    stage = stages().stages_[0]
    size = f"{stage.coefficients.size - 1} cells a side, {np.sum(stage.coefficients != 0)} grades"
    assert_shown(stage, f"Stage({size}, sup_norm={stage.sup_norm:.3g}, bound=inf)")


def test_refinement_network():
    network, n = stages().to_network(), stages().n_grades_
    assert_shown(network, f"RefinementNetwork({n} grades, {2 * n} layers of width 3)")


@pytest.mark.parametrize("index", [0, 1])
def test_energy_as_text(index):
    energy = chain().energy_[index]
    assert len(str(energy)) < SHORT
    numbers = [energy.before, energy.after, energy.output, energy.penalty]
    assert all(f"{number:.4g} " in str(energy) for number in numbers)
    expected = "squared error 1 before, 0.25 after: 0.5 output, 0.25 penalty, 0.0e+00 defect"
    assert str(Energy(1.0, 0.25, 0.5, 0.25, 0.0)) == expected


def test_one_neuron_is_no_plural():
    gated, certificate = ConvexReLURegressor(), chain().grades_[0].certificate
    converted = str(Conversion(gated, 0.5, 1.0, 2.0, 1, 2, 0.0))
    assert converted.startswith(
        "1 gated neuron became 2 ReLU neurons, path norm 0.5 became 1 (2 times)"
    )
    summary = str(GradeSummary(certificate, 1, 0.01, 0.25, 1.5))
    assert summary.startswith("1 neuron in 1.5 s, alpha 0.01, training loss 0.25\n")
