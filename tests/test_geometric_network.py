"""The explicit network of nested tables: its shape, its values, its lattice decoder."""

import sys
from fractions import Fraction

import numpy as np
import pytest

from convexgrade import GeometricLayerwiseRegressor, check_readout_bound
from convexgrade.lattice import MAX_CELLS, decode, find_multiple
from convexgrade.moduli import compare_readouts, layer_moduli, spread_points
from tests.samples import FUNCTIONS, cone, jump, noise, spike

SHAPES = [(1, 2, 5), (1, 3, 3), (2, 2, 3), (3, 2, 2), (1, 8, 2), (3, 4, 1)]


def wavy(X):
    return np.sin(7.0 * X.sum(axis=1)) + jump(X)


def fitted(d, base, n_layers, f=wavy, **parameters):
    model = GeometricLayerwiseRegressor(base, n_layers, **parameters)
    return model.fit_function(f, d, 3)


# The lattice decoder


@pytest.mark.parametrize("n_cells", [1, 2, 5, 16, 32, MAX_CELLS])
def test_one_integer_holds_a_table(n_cells):
    rng = np.random.default_rng(n_cells)
    for bits in (10, 4) if n_cells <= 32 else (10,):  # one reduction of the largest is enough
        for values in (rng.uniform(-1, 1, n_cells), np.eye(n_cells)[0], np.full(n_cells, -1.0)):
            multiple = find_multiple(values, bits)
            assert isinstance(multiple, int)
            assert np.abs(decode(multiple, n_cells) - values).max() <= 4.0 * 2.0**-bits
            assert abs(multiple).bit_length() <= n_cells * (bits + 3) + 20


def test_decoding_equals_double_precision_while_that_suffices():
    for multiple in (0, 1, -7, 12345):
        expected = np.sin(multiple * np.sin(np.arange(1.0, 9.0)))
        np.testing.assert_allclose(decode(multiple, 8), expected, atol=1e-11)


def test_double_precision_does_not_suffice_for_long():
    values = np.random.default_rng(0).uniform(-1, 1, 16)
    multiple = find_multiple(values, 10)
    naive = np.sin(float(multiple) * np.sin(np.arange(1.0, 17.0)))
    assert np.abs(naive - values).max() > 0.5
    assert np.abs(decode(multiple, 16) - values).max() < 0.005


# The network


@pytest.mark.parametrize(("d", "base", "n_layers"), SHAPES)
def test_width_and_activations_are_as_stated(d, base, n_layers):
    network = fitted(d, base, n_layers).to_network()
    assert len(network.layers) == n_layers + 2
    assert len(network.readouts) == n_layers
    assert network.width == 2 * d * (base - 1) + d + 4 <= 2 * d * base + d + 2
    assert network.width_bound == 2 * d * base + d + 2
    n_inputs = d
    for layer in network.layers:
        assert layer.weight.shape == (network.width, n_inputs)
        assert layer.bias.shape == (network.width,)
        assert layer.n_sines == 2
        assert layer.activations.count("relu") == network.width - 2
        assert all(isinstance(entry, int | Fraction) for entry in layer.weight.flat)
        n_inputs = layer.width
    for number, readout in enumerate(network.readouts):
        assert readout.hidden_layer == number + 2
        assert readout.weight.shape == (network.width,)


@pytest.mark.parametrize(("d", "base", "n_layers"), SHAPES)
def test_readouts_are_the_tables_up_to_the_error_of_decoding(d, base, n_layers):
    tables = fitted(d, base, n_layers)
    decoded = fitted(d, base, n_layers, decoder="sine")
    network = decoded.to_network()
    rows = np.random.default_rng(0).uniform(-0.1, 1.1, (100, d))  # also outside the box
    outputs = network.forward(rows)
    assert outputs.shape == (n_layers, 100)
    assert np.all(np.abs(outputs) <= network.scale)
    for output, exact, sine, error in zip(
        outputs,
        tables.staged_predict(rows),
        decoded.staged_predict(rows),
        decoded.decoding_error_,
        strict=True,
    ):
        np.testing.assert_allclose(output, sine, atol=1e-12)
        assert np.abs(output - exact).max() <= error + 1e-12
        assert error < 0.01
    np.testing.assert_array_equal(tables.to_network().forward(rows), outputs)
    np.testing.assert_array_equal(tables.decoding_error_, np.zeros(n_layers))


@pytest.mark.parametrize("base", [2, 3])
def test_a_deeper_network_starts_with_the_layers_of_a_shallower_one(base):
    X, y = noise(100, 1)
    short, long = (
        GeometricLayerwiseRegressor(base, n_layers, decoder="sine").fit(X, y).to_network()
        for n_layers in (2, 3)
    )
    for a, b in zip(short.layers, long.layers, strict=False):
        np.testing.assert_array_equal(a.weight, b.weight)
        np.testing.assert_array_equal(a.bias, b.bias)
        assert a.activations == b.activations
    for a, b in zip(short.readouts, long.readouts, strict=False):
        assert a.hidden_layer == b.hidden_layer
        np.testing.assert_array_equal(a.weight, b.weight)
        assert a.bias == b.bias
    # What differs between hidden layers are integers, amplitudes and offsets, nothing else.
    second, third = long.layers[1], long.layers[2]
    changed = np.argwhere(second.weight != third.weight)
    assert set(map(int, changed[:, 0])) <= {long.width - 1, long.width - 3}


def in_double_precision(network, X):
    """Evaluate the network by numpy alone, in the order of its definition."""
    hidden, outputs, readouts = X, [], list(network.readouts)
    for number, layer in enumerate(network.layers):
        response = hidden @ layer.weight.astype(float).T + layer.bias.astype(float)
        is_sine = np.array([kind == "sine" for kind in layer.activations])
        hidden = np.where(is_sine, np.sin(response), np.maximum(response, 0.0))
        if readouts and readouts[0].hidden_layer == number:
            readout = readouts.pop(0)
            outputs.append(hidden @ readout.weight.astype(float) + float(readout.bias))
    return np.array(outputs)


@pytest.mark.parametrize(("base", "n_layers"), [(2, 1), (3, 1)])
def test_double_precision_agrees_where_it_suffices(base, n_layers):
    network = fitted(1, base, n_layers, p=1.0).to_network()
    X = np.random.default_rng(0).uniform(0.0, 1.0, (50, 1))
    np.testing.assert_allclose(in_double_precision(network, X), network.forward(X), atol=1e-4)


def test_double_precision_fails_where_it_does_not():
    network = fitted(1, 2, 4).to_network()
    X = np.random.default_rng(0).uniform(0.0, 1.0, (50, 1))
    assert network.weight_bits > 53
    assert np.abs(in_double_precision(network, X) - network.forward(X)).max() > 0.1


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("d", "base", "n_layers"), SHAPES[:4])
def test_the_network_is_within_the_bound_at_every_layer(d, base, n_layers, name):
    f, modulus = FUNCTIONS[name]
    model = fitted(d, base, n_layers, f, decoder="sine", p=2)
    moduli = layer_moduli(modulus(2), model.box_, base, n_layers)
    rows = compare_readouts(model.to_network().forward, f, moduli, model.box_, 2, 400)
    assert all(0.0 < row.ratio <= 1.0 for row in rows)
    again = check_readout_bound(model, f, modulus(2), n_points=400)  # asks the estimator
    assert [row.error for row in rows] == pytest.approx([check.error for check in again], rel=1e-9)
    assert all(check.ratio <= 1.0 for check in check_readout_bound(model, f, modulus(2)))


def bump(X):
    """One cell in 48 is 1: hard to decode, since the L^1 norm is so small beside the height."""
    return np.where(np.floor(48 * X[:, 0]) == 20, 1.0, 0.0)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(
    ("d", "base", "n_layers", "f"), [(1, 2, 5, spike), (1, 3, 3, spike), (1, 48, 1, bump)]
)
def test_decoding_stays_below_the_share_that_the_bound_leaves_for_it(d, base, n_layers, f, p):
    tables, decoded = (
        fitted(d, base, n_layers, f, decoder=decoder, p=p) for decoder in ("table", "sine")
    )
    points = spread_points(tables.box_, 5000)
    before = np.full(len(points), decoded.tables_.baseline[0])
    for exact, sine in zip(
        tables.staged_predict(points), decoded.staged_predict(points), strict=True
    ):
        error, norm = (np.mean(np.abs(v) ** p) ** (1 / p) for v in (sine - exact, exact - before))
        assert error <= 1.05 * norm / (4 * d * (base + 1) + base)
        before = sine


def test_ramps_are_where_and_as_narrow_as_stated():
    network = fitted(1, 2, 2, p=1.0).to_network()
    assert network.ramp == Fraction(1, 2**30)
    assert network.ramp_measure(2) == 2 * 2.0**-30
    face = 0.5
    left, ramp, right = network.forward([[face - 2.0**-29], [face - 2.0**-31], [face]]).T
    tables = fitted(1, 2, 2, p=1.0)
    for at, output in ((face - 0.1, left), (face + 0.1, right)):
        for value, expected in zip(output, tables.staged_predict([[at]]), strict=True):
            assert value == pytest.approx(expected[0], abs=0.01)
    assert np.abs(ramp - left).max() > 1e-3
    assert np.all(np.abs(ramp) <= network.scale)
    narrow = fitted(1, 2, 2, p=4.0).to_network()
    assert narrow.ramp_measure(2) ** (1 / 4) < 2.0**-29


def test_cells_without_rows_keep_their_parents_value_in_the_network():
    X = np.array([[0.0], [0.1], [0.9], [1.0]])
    model = GeometricLayerwiseRegressor(2, 3, decoder="sine").fit(X, [1.0, 2.0, 3.0, 5.0])
    asked = np.array([[0.3], [0.45], [0.6], [0.97]])
    staged = list(model.staged_predict(asked, return_level=True))
    assert [level.tolist() for _, level in staged] == [[1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 1, 3]]
    np.testing.assert_allclose(staged[-1][0], [1.5, 1.5, 4.0, 4.0], atol=0.01)
    np.testing.assert_allclose(model.to_network().forward(asked)[-1], staged[-1][0], atol=1e-12)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_constant_is_exact(value):
    X = np.linspace(0, 1, 9)[:, None]
    model = GeometricLayerwiseRegressor(2, 2, decoder="sine").fit(X, np.full(9, value))
    np.testing.assert_array_equal(model.to_network().forward(X), np.full((2, 9), value))


def test_units_of_the_data_are_part_of_the_network():
    X, y = noise(200, 2)
    X = np.column_stack([1e6 + X[:, 0], 1e-6 * X[:, 1]])
    X = np.column_stack([X, np.full(200, 7.0)])  # a constant column
    model = GeometricLayerwiseRegressor(2, 2, decoder="sine").fit(X, y)
    np.testing.assert_allclose(model.to_network().forward(X)[-1], model.predict(X), atol=1e-12)


def test_a_column_that_was_constant_is_not_read_by_the_network_either():
    X = np.column_stack([np.linspace(0, 1, 9), np.ones(9)])
    model = GeometricLayerwiseRegressor(2, 2, decoder="sine").fit(X, np.sin(5.0 * X[:, 0]))
    asked = np.array([[0.6, -9.0], [0.6, 1.0], [0.6, 1.3], [0.6, 2.5]])
    outputs = model.to_network().forward(asked)
    np.testing.assert_allclose(outputs, list(model.staged_predict(asked)), atol=1e-12)
    np.testing.assert_array_equal(outputs, outputs[:, :1].repeat(4, axis=1))


@pytest.mark.parametrize("X", [[[np.nan]], [[0.5, 0.5]], [0.5], [[np.inf]]])
def test_rows_that_the_network_cannot_read_are_refused(X):
    network = fitted(1, 2, 1).to_network()
    with pytest.raises(ValueError, match="must be finite and have 1 columns"):
        network.forward(X)
    assert network.forward(np.empty((0, 1))).shape == (1, 0)


# Limits


@pytest.mark.parametrize("kind", [np.int64, np.int8])
def test_sizes_may_be_integers_of_numpy(kind):
    X, y = noise(d=1)
    numpys = GeometricLayerwiseRegressor(kind(3), kind(2), decoder="sine").fit(X, y)
    plain = GeometricLayerwiseRegressor(3, 2, decoder="sine").fit(X, y)
    np.testing.assert_array_equal(numpys.predict(X), plain.predict(X))
    assert numpys.to_network().width == plain.to_network().width


def test_64_cells_take_seconds_and_more_are_refused_with_the_reason():
    reason = (
        r"base=2, n_layers=7 .* = 128 cells .* limited to 64: the lattice reduction .* a minute"
    )
    with pytest.raises(ValueError, match=reason):
        fitted(1, 2, 7, decoder="sine")
    with pytest.raises(ValueError, match=reason):
        fitted(1, 2, 7).to_network()
    with pytest.raises(ValueError, match="far too many cells"):
        GeometricLayerwiseRegressor(decoder="sine").fit(*noise(d=20))
    model = GeometricLayerwiseRegressor(np.int64(2), np.int64(40), decoder="sine")
    with pytest.raises(ValueError, match="far too many cells"):  # 2^80, no 0 of numpy's integers
        model.fit(*noise(d=2))
    with pytest.raises(ValueError, match="at most 64 cells"):
        find_multiple(np.zeros(65), 10)
    model = fitted(1, 2, 6, decoder="sine")
    assert model.decoding_error_.max() < 0.01


def test_one_output_only():
    X, _ = noise(20, 1)
    Y = np.column_stack([X, X])
    with pytest.raises(ValueError, match="y has 2 outputs; a sine network"):
        GeometricLayerwiseRegressor(2, 2, decoder="sine").fit(X, Y)
    with pytest.raises(ValueError, match="y has 2 outputs; a sine network"):
        GeometricLayerwiseRegressor(2, 2).fit(X, Y).to_network()


def test_without_flint_tables_work_and_networks_say_what_to_install(monkeypatch):
    X, y = noise(50, 1)
    monkeypatch.setitem(sys.modules, "flint", None)
    model = GeometricLayerwiseRegressor(2, 2).fit(X, y)
    assert model.predict(X).shape == (50,)
    with pytest.raises(ImportError, match="python-flint, or convexgrade with the extra 'exact'"):
        decode(1, 1)
    network_needs = model.set_params(n_layers=1, base=7).fit(X, cone(X))
    with pytest.raises(ImportError, match="python-flint"):
        network_needs.to_network()
