"""The geometric network itself: explicit layers of fixed width, evaluated in exact enough arithmetic.

The network has d inputs; every hidden layer has the same channels, of which two are sines and all others
ReLU. With h the channels of the layer before,

    steps       relu((r_i - j / N) / ramp + 1), relu((r_i - j / N) / ramp)   for j = 1, ..., N - 1
    remainders  relu(r_i)          r_i = N * h[remainder i] - D_i;   D_i = sum_j of steps' differences
    index       relu(k)            k = N**d * h[index] + sum_i N**i * D_i
    accumulator relu(s + offset)   s = the readout of the layer before
    sines       sin(k + 1), sin(v * h[first sine])

D_i is the next base-N digit of coordinate i (but on ramps of width ``ramp`` before each jump), k the
number of the cell, v the integer in which a whole table is coded (`lattice`), and the readout of a layer
adds ``amplitude * h[second sine]`` to the accumulator. A digit needs one layer, the sine of its index
another, the sine of that a third: the readout of layer l sits on hidden layer l + 2. These are
2 d (N - 1) + d + 4 channels, at most 2 d N + d + 2 as in Zhang, Shen and Xu (arXiv 2604.20219). Nothing
in a hidden layer depends on how many follow: a deeper network starts with the layers of a shallower
one. The construction is ours; the paper's own may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexgrade.geometric import Box, Tables, cell_centers, cell_codes, digits
from convexgrade.lattice import MAX_CELLS, decode, find_multiple, load_flint
from convexgrade.moduli import lp_norm
from convexgrade.wording import counted

Array = NDArray[np.float64]
Exact = NDArray[np.object_]  # of integers and fractions
Matrix = Any  # flint.arb_mat, whose package is optional

# Bits of accuracy asked from the lattice at first, and more at each further try.
_FIRST_BITS = 10
_MORE_BITS = 4

_LATENCY = 2  # hidden layers between a digit and the sine that stands for its table
_RAMP_BITS = 30  # what ramps add to an L^p error is about 2**-30 of the table
_GUARD_BITS = 96
_ACCURACY = 2.0**-48  # of a readout, relative to the largest there can be


@dataclass(frozen=True, repr=False)
class Code:
    """One table as one integer.

    Attributes
    ----------
    multiple : int
        The integer v of ``amplitude * sin(v * sin(k + 1))``.
    amplitude : float
        Largest absolute value of the table.
    terms : ndarray of shape (n_cells,)
        The table as decoded.
    error : float
        Largest absolute difference of ``terms`` from the table.
    """

    multiple: int
    amplitude: float
    terms: Array
    error: float

    def __repr__(self) -> str:
        size = f"{counted(self.terms.size, 'cell')}, {self.multiple.bit_length()} bits"
        return f"Code({size}, amplitude={self.amplitude:.3g}, error={self.error:.1e})"


def check_encodable(base: int, n_features: int, n_layers: int, n_outputs: int) -> None:
    """Refuse tables that a sine network cannot hold.

    Raises
    ------
    ValueError
        If there are several outputs, or more than `MAX_CELLS` cells in the last layer.
    """
    if n_outputs != 1:
        raise ValueError(
            f"y has {n_outputs} outputs; a sine network, and with it decoder='sine', has one. Use "
            f"decoder='table', without a network, or one estimator an output."
        )
    n_cells = base ** (n_features * n_layers)
    if n_cells > MAX_CELLS:
        shown = f"{n_cells}" if n_cells < 10**12 else "far too many"
        raise ValueError(
            f"base={base}, n_layers={n_layers} and {n_features} features make "
            f"base**(n_features * n_layers) = {shown} cells in the last layer; a sine network codes all "
            f"of them in one integer and is limited to {MAX_CELLS}: the lattice reduction that finds "
            f"the integer takes seconds at 64 cells, a minute or more at 128, and ever more beyond. "
            f"Take a smaller base or n_layers, or decoder='table' without a network."
        )


def encode_tables(tables: Tables, n_features: int, p: float) -> tuple[Code, ...]:
    """Code the tables of all layers, each one correcting what the decoding of the last left over.

    A table is decoded so well that its L^p error e is at most ``tolerance`` times its L^p norm. Then,
    for averages of whatever function, e is at most half its modulus w(h) at the side h of the cells:
    with c = 2 d, averages err by at most c w(h), those of the layer before by c w(N h) <= c N w(h), and
    the decoding before by w(N h) / 2 <= N w(h) / 2. So the table's norm is at most
    ``(c (N + 1) + N / 2) w(h)``, and tolerance is half the inverse of that factor.

    Parameters
    ----------
    tables : Tables
        A cell without rows has its parent's value.
    n_features : int
        Number of coordinates.
    p : float
        Exponent of the norm.

    Returns
    -------
    tuple of Code
        One for each layer. Earlier ones do not depend on later ones.

    Raises
    ------
    ValueError
        If `check_encodable` does not take the tables.
    """
    base = tables.base
    check_encodable(base, n_features, len(tables.layers), tables.baseline.size)
    tolerance = 1.0 / (4 * n_features * (base + 1) + base)
    decoded = tables.baseline.copy()
    codes = []
    for layer in range(1, len(tables.layers) + 1):
        *_, (averages, _) = Tables(base, tables.baseline, tables.layers[:layer]).staged(
            cell_centers(n_features, base, layer)
        )
        decoded = np.repeat(decoded, base**n_features)
        codes.append(_encode(averages[:, 0] - decoded, tolerance, p))
        decoded = decoded + codes[-1].terms
    return tuple(codes)


def _encode(table: Array, tolerance: float, p: float) -> Code:
    amplitude = float(np.abs(table).max())
    if amplitude == 0.0:
        return Code(0, 0.0, table, 0.0)
    relative = table / amplitude
    allowed = tolerance * lp_norm(relative, p)
    for bits in count(_FIRST_BITS, _MORE_BITS):
        multiple = find_multiple(relative, bits)
        terms = decode(multiple, table.size)
        if lp_norm(terms - relative, p) <= allowed:
            break
    terms = amplitude * terms
    return Code(multiple, amplitude, terms, float(np.abs(terms - table).max()))


def staged_codes(tables: Tables, codes: Sequence[Code], unit: Array) -> Iterator[Array]:
    """Yield the readout of each layer, shape (n_samples, 1), from tables as decoded."""
    value = np.tile(tables.baseline, (len(unit), 1))
    cells = np.zeros(len(unit), dtype=np.int64)
    for code, cell_digits in zip(codes, digits(unit, tables.base, len(codes)), strict=True):
        cells = cell_codes(cell_digits, tables.base, cells)
        value = value + code.terms[cells, None]
        yield value


@dataclass(frozen=True, repr=False)
class HiddenLayer:
    """One hidden layer: ``activation(weight @ h + bias)``.

    Attributes
    ----------
    weight : ndarray of shape (width, n_inputs)
        Integers and fractions, exact.
    bias : ndarray of shape (width,)
        The same.
    activations : tuple of str
        ``"relu"`` or ``"sine"``, one for each channel.
    """

    weight: Exact
    bias: Exact
    activations: tuple[str, ...]

    def __repr__(self) -> str:
        return f"HiddenLayer({counted(self.width, 'channel')} with {counted(self.n_sines, 'sine')})"

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.activations)

    @property
    def n_sines(self) -> int:
        """Number of sine channels."""
        return self.activations.count("sine")


@dataclass(frozen=True, repr=False)
class Readout:
    """An affine function of a hidden layer.

    Attributes
    ----------
    hidden_layer : int
        Which one it reads, counted from 0.
    weight : ndarray of shape (width,)
        Integers and fractions, exact.
    bias : Fraction
        The same.
    """

    hidden_layer: int
    weight: Exact
    bias: Fraction

    def __repr__(self) -> str:
        return f"Readout(hidden_layer={self.hidden_layer})"


@dataclass(frozen=True, repr=False)
class GeometricNetwork:
    """A network of fixed width with a readout for each layer of cells.

    Attributes
    ----------
    layers : tuple of HiddenLayer
        ``n_layers + 2`` of them, all of the same width.
    readouts : tuple of Readout
        One for each layer of cells.
    base, n_features : int
        N and d.
    ramp : Fraction
        Width of the ramp before each jump of a digit, as a fraction of the side of a cell's parent.
    scale : float
        A bound for the absolute value of every readout.
    """

    layers: tuple[HiddenLayer, ...]
    readouts: tuple[Readout, ...]
    base: int
    n_features: int
    ramp: Fraction
    scale: float

    def __repr__(self) -> str:
        depth = f"{counted(len(self.layers), 'hidden layer')} of width {self.width}"
        return f"GeometricNetwork({depth}, {counted(len(self.readouts), 'readout')})"

    @property
    def width(self) -> int:
        """Channels of each hidden layer."""
        return max(layer.width for layer in self.layers)

    @property
    def width_bound(self) -> int:
        """The width the paper states, ``2 d N + d + 2``."""
        return 2 * self.n_features * self.base + self.n_features + 2

    @property
    def weight_bits(self) -> int:
        """Bits of the largest weight: what double precision, with 53, would have to hold."""
        return max(
            max(abs(entry.numerator).bit_length(), entry.denominator.bit_length())
            for layer in self.layers
            for entry in layer.weight.ravel().tolist()
        )

    def ramp_measure(self, layer: int) -> float:
        """Return a bound for the share of the box on which a readout may be off.

        ``layer`` counts from 1. Each of ``layer`` digits of each coordinate has N - 1 ramps.
        """
        return float(layer * self.n_features * (self.base - 1) * self.ramp)

    def forward(self, X: Array) -> Array:
        """Evaluate every readout, layer by layer.

        The arithmetic is that of balls which provably hold the values; precision is doubled until
        every ball is smaller than 2**-48 of the largest value a readout can have.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the data. Outside the box, the nearest cell counts.

        Returns
        -------
        ndarray of shape (n_layers, n_samples)
            The readouts, as doubles.

        Raises
        ------
        ValueError
            If X is not finite or has another shape.
        """
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.n_features or not np.isfinite(X).all():
            raise ValueError(
                f"X of shape {X.shape} must be finite and have {self.n_features} columns."
            )
        if not len(X):
            return np.empty((len(self.readouts), 0))
        largest = self.scale * _ACCURACY
        precision = self.weight_bits + _GUARD_BITS
        while True:
            values = self._evaluate(X, precision)
            if max(float(value.rad()) for row in values for value in row) <= largest:
                return np.array([[float(value.mid()) for value in row] for row in values])
            precision *= 2

    def _evaluate(self, X: Array, precision: int) -> list[list[Any]]:
        flint = load_flint()
        with flint.ctx.workprec(precision):
            hidden = flint.arb_mat([[flint.arb(float(x)) for x in column] for column in X.T])
            read_at = {readout.hidden_layer: readout for readout in self.readouts}
            outputs = []
            for number, layer in enumerate(self.layers):
                hidden = _activate(layer, _affine(flint, layer.weight, layer.bias, hidden), flint)
                if (readout := read_at.get(number)) is not None:
                    weight, bias = readout.weight[None, :], np.array([readout.bias], dtype=object)
                    outputs.append(_affine(flint, weight, bias, hidden).tolist()[0])
        return outputs


def _affine(flint: Any, weight: Exact, bias: Exact, hidden: Matrix) -> Matrix:
    balls = [[_ball(flint, entry) for entry in row] for row in weight.tolist()]
    product = flint.arb_mat(balls) * hidden
    shift = [_ball(flint, entry) for entry in bias.tolist()]
    return flint.arb_mat(
        [[value + b for value in row] for row, b in zip(product.tolist(), shift, strict=True)]
    )


def _activate(layer: HiddenLayer, response: Matrix, flint: Any) -> Matrix:
    functions: dict[str, Callable[[Any], Any]] = {
        "relu": lambda value: value.max(0),
        "sine": lambda value: value.sin(),
    }
    rows = zip(layer.activations, response.tolist(), strict=True)
    return flint.arb_mat([[functions[kind](value) for value in row] for kind, row in rows])


def _ball(flint: Any, number: int | Fraction) -> Any:
    return flint.arb(flint.fmpq(number.numerator, number.denominator))


def build_network(tables: Tables, codes: Sequence[Code], box: Box, p: float) -> GeometricNetwork:
    """Write down the network of tables as `encode_tables` codes them, over the box that they cut.

    Of the tables themselves, base and baseline count. Ramps are too narrow to matter in L^p.
    """
    base, d = tables.base, box.n_features
    ramp = Fraction(1, 2 ** ceil(_RAMP_BITS * p))
    channels = _Channels(base, d)
    start = Fraction(float(tables.baseline[0]))
    amplitudes = [Fraction(code.amplitude) for code in codes]
    # The readout of layer l is at least -offsets[l]: added, it passes a ReLU unchanged.
    offsets = [abs(start) + sum(amplitudes[:n], Fraction(0)) for n in range(len(codes) + 1)]
    layers: list[HiddenLayer] = []
    readouts: list[Readout] = []
    state = _input_state(box, start)
    for _ in range(_LATENCY):
        layers.append(channels.layer(state, ramp, 0, offsets[0]))
        state = channels.state(offsets[0], Fraction(0))
    for number, code in enumerate(codes):
        layers.append(channels.layer(state, ramp, code.multiple, offsets[number]))
        state = channels.state(offsets[number], amplitudes[number])
        readouts.append(Readout(number + _LATENCY, state.total[:-1], state.total[-1]))
    return GeometricNetwork(tuple(layers), tuple(readouts), base, d, ramp, float(offsets[-1]))


@dataclass(frozen=True)
class _State:
    """What a layer hands on, as affine functions of its channels: weights, then a bias."""

    remainders: Exact  # (n_features, n_inputs + 1)
    index: Exact  # (n_inputs + 1,), and so are the others
    total: Exact
    sine: Exact


def _input_state(box: Box, start: Fraction) -> _State:
    d = box.n_features
    remainders = np.full((d, d + 1), Fraction(0), dtype=object)
    for i, (low, high) in enumerate(zip(box.low, box.high, strict=True)):
        if not 0.5 * high - 0.5 * low > 0.0:  # `Box.unit` has every point at 0 there
            continue
        width = Fraction(float(high)) - Fraction(float(low))
        remainders[i, i] = 1 / width
        remainders[i, d] = -Fraction(float(low)) / width
    nothing = np.full(d + 1, Fraction(0), dtype=object)
    return _State(remainders, nothing, _plus(nothing, start), nothing)


@dataclass(frozen=True)
class _Channels:
    """Where the channels of a hidden layer are, and what goes into and comes out of them."""

    base: int
    n_features: int

    @property
    def n_steps(self) -> int:
        """Number of step channels: two for each place where a digit of a coordinate may change."""
        return 2 * self.n_features * (self.base - 1)

    @property
    def width(self) -> int:
        """Number of all channels: steps, remainders, index, accumulator and two sines."""
        return self.n_steps + self.n_features + 4

    def layer(self, state: _State, ramp: Fraction, multiple: int, offset: Fraction) -> HiddenLayer:
        """Return the layer that follows a state."""
        rows = []
        for remainder in state.remainders:
            for j in range(1, self.base):
                late = _plus(remainder, -Fraction(j, self.base)) / ramp
                rows += [_plus(late, 1), late]
        rows += [*state.remainders, state.index, _plus(state.total, offset)]
        rows += [_plus(state.index, 1), multiple * state.sine]
        table = np.array(rows, dtype=object)
        kinds = ("relu",) * (self.width - 2) + ("sine",) * 2
        return HiddenLayer(table[:, :-1], table[:, -1], kinds)

    def state(self, offset: Fraction, amplitude: Fraction) -> _State:
        """Return what comes out of a layer with a given offset of its accumulator."""
        units = np.zeros((self.width, self.width + 1), dtype=object)
        units[range(self.width), range(self.width)] = 1
        d, base = self.n_features, self.base
        steps = units[: self.n_steps].reshape(d, base - 1, 2, -1)
        digit = (steps[:, :, 0] - steps[:, :, 1]).sum(axis=1)
        carried, [index, total, first, second] = units[-d - 4 : -4], units[-4:]
        return _State(
            remainders=base * carried - digit,
            index=base**d * index + sum(base**i * digit[i] for i in range(d)),
            total=_plus(total, -offset) + amplitude * second,
            sine=first,
        )


def _plus(function: Exact, constant: int | Fraction) -> Exact:
    """Add a constant to an affine function."""
    moved = function.copy()
    moved[-1] += constant
    return moved
