"""One grade as an explicit network: arrays, nothing else.

A `Network` knows neither loss nor solver nor training rows; ``hidden`` and ``forward`` are all there
is to predicting with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from convexgrade.pieces import chunks
from convexgrade.reading import AS_IT_IS, Reading
from convexgrade.wording import counted, counted_each

Array = NDArray[np.float64]

_FARTHEST = 1e100  # scales from its center at which a value still leaves room for sums of products
_LARGEST = 0.25 * float(np.finfo(np.float64).max)  # of two such values, the difference is a number
_NEARER = 1e-150  # share of the distance at which a row is read that is too far out for sums of it
_CHUNK = 1 << 18  # hidden features that are formed at a time, where only the output is asked for
T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Network:
    """A one-hidden-layer ReLU network, or gated ReLU network, with d inputs, m neurons, k outputs.

    ``forward(H) = hidden(H) @ output_coef + H @ linear_coef + intercept``, where ``hidden(H)`` is
    ``max(0, H @ hidden_coef + hidden_intercept)``; with gates, the linear response counts where
    ``H @ gate_coef + gate_intercept >= 0`` instead.

    Attributes
    ----------
    hidden_coef : ndarray of shape (d, m)
        Input weights of the neurons.
    hidden_intercept : ndarray of shape (m,)
        Their biases.
    output_coef : ndarray of shape (m, k)
        Output weights.
    linear_coef : ndarray of shape (d, k)
        Unpenalised linear term; zero when there is none.
    intercept : ndarray of shape (k,)
        Unpenalised intercept; zero when there is none.
    gate_coef : ndarray of shape (d, m) or None
        Gates of a gated ReLU network; None for ReLU.
    gate_intercept : ndarray of shape (m,) or None
        Their biases.
    """

    hidden_coef: Array
    hidden_intercept: Array
    output_coef: Array
    linear_coef: Array
    intercept: Array
    gate_coef: Array | None = None
    gate_intercept: Array | None = None

    def __repr__(self) -> str:
        inputs, outputs = self.linear_coef.shape
        neurons = counted(self.n_neurons, "neuron" if self.gate_coef is None else "gated neuron")
        return f"Network({counted(inputs, 'input')}, {neurons}, {counted(outputs, 'output')})"

    @property
    def n_neurons(self) -> int:
        """Number of neurons, m."""
        return self.hidden_intercept.size

    @property
    def vectors(self) -> Array:
        """The neurons (hidden_coef, hidden_intercept) as columns, shape (d + 1, m)."""
        return np.vstack([self.hidden_coef, self.hidden_intercept])

    @property
    def gates(self) -> Array:
        """The gates as columns, shape (d + 1, m); without any, neurons are their own gates."""
        if self.gate_coef is None or self.gate_intercept is None:
            return self.vectors
        return np.vstack([self.gate_coef, self.gate_intercept])

    @property
    def lengths(self) -> Array:
        """``||(hidden_coef_j, hidden_intercept_j)||`` of each neuron, shape (m,)."""
        return np.asarray(np.linalg.norm(self.vectors, axis=0))

    @property
    def output_sizes(self) -> Array:
        """``||output_coef_j||_1`` of each neuron, shape (m,)."""
        return np.asarray(np.abs(self.output_coef).sum(axis=1))

    @property
    def path_norm(self) -> float:
        """``sum_j ||(hidden_coef_j, hidden_intercept_j)|| ||output_coef_j||_1``.

        The penalty of a grade is alpha times that.
        """
        return float(self.lengths @ self.output_sizes)

    @property
    def pulls(self) -> Array:
        """``||output_coef_j||_1 / ||u_j||`` of each neuron u_j, 0 of a zero one, shape (m,).

        Times u_j, the derivative of `path_norm` by u_j.
        """
        lengths = self.lengths
        zero = np.zeros_like(lengths)
        return np.divide(self.output_sizes, lengths, out=zero, where=lengths > 0.0)

    def hidden(self, H: Array) -> Array:
        """Return the hidden features of the rows of H, shape (n_samples, m)."""
        response = H @ self.hidden_coef + self.hidden_intercept
        return np.maximum(response, 0.0) if self.gate_coef is None else response * self.active(H)

    def active(self, H: Array) -> NDArray[np.bool_]:
        """Return where each neuron is active on the rows of H, shape (n_samples, m)."""
        gates = self.gates
        return np.asarray(H @ gates[:-1] + gates[-1] >= 0.0)

    def read(self, hidden: Array, H: Array) -> Array:
        """Return the network's output on the rows of H, whose hidden features are known."""
        return hidden @ self.output_coef + H @ self.linear_coef + self.intercept

    def forward(self, H: Array) -> Array:
        """Return the network's output on the rows of H, shape (n_samples, k)."""
        output = np.empty((len(H), self.intercept.size))
        for rows in chunks(len(H), self.n_neurons, most=_CHUNK):
            output[rows] = self.read(self.hidden(H[rows]), H[rows])
        return output


def from_blocks(
    blocks: Array,
    sign: Array,
    output: NDArray[np.intp],
    unpenalised: Array,
    gates: Array | None,
) -> Network:
    """Turn the vectors of a program into neurons; zero vectors leave none.

    ``v = u a`` with ``u = v / sqrt(||v||)`` and ``a = s sqrt(||v||)``: then ``||v|| = ||u|| |a|``, its
    share of the path norm, is ``(||u||^2 + a^2) / 2``, the least weight decay of the neuron (Pilanci &
    Ergen 2020, theorem 1).

    Parameters
    ----------
    blocks : ndarray of shape (n_groups, d + 1)
        Vectors v_g, the constant's coefficient last.
    sign, output : ndarray of shape (n_groups,)
        Sign and output of each vector.
    unpenalised : ndarray of shape (d + 1, n_outputs)
        Linear coefficients, the intercept last.
    gates : ndarray of shape (d + 1, n_groups) or None
        Gates, for a gated ReLU network.
    """
    norms = np.linalg.norm(blocks, axis=1)
    active = np.flatnonzero(norms > 0.0)
    root = np.sqrt(norms[active])
    vectors = (blocks[active] / root[:, None]).T
    output_coef = np.zeros((active.size, unpenalised.shape[1]))
    output_coef[np.arange(active.size), output[active]] = sign[active] * root
    return Network(
        hidden_coef=vectors[:-1],
        hidden_intercept=vectors[-1],
        output_coef=output_coef,
        linear_coef=unpenalised[:-1],
        intercept=unpenalised[-1],
        gate_coef=None if gates is None else gates[:-1, active],
        gate_intercept=None if gates is None else gates[-1, active],
    )


@dataclass(frozen=True)
class Scaling:
    """An affine change of columns, ``((features - center) / scale) @ mix``.

    Attributes
    ----------
    center, scale : ndarray of shape (n_features,)
        ``center`` finite, ``scale`` positive: infinite for columns that are to be 0.
    mix : ndarray of shape (n_features, n_columns) or None
        Combinations of the scaled columns; None keeps them as they are.
    """

    center: Array
    scale: Array
    mix: Array | None = None

    def apply(self, features: Array) -> Array:
        """Return the scaled columns."""
        scaled = (features - self.center) / self.scale
        return scaled if self.mix is None else scaled @ self.mix

    def within_reach(self, features: Array) -> Array:
        """Return the features with values farther than 1e100 scales from their center at that distance.

        Of larger ones, sums and what later grades make of them need not be numbers. Columns that are to
        be 0 are at their center.
        """
        with np.errstate(over="ignore"):
            reach = _FARTHEST * np.where(np.isinf(self.scale), 0.0, self.scale)
        return np.clip(features, self.center - reach, self.center + reach)


class Span(NamedTuple):
    """Intervals that the outputs of a chain keep to where they predict.

    Attributes
    ----------
    low, high : ndarray of shape (n_outputs,) or ()
        Their ends, infinite where there is none; of shape () if those of all outputs are the same.
    """

    low: Array
    high: Array

    @classmethod
    def around(cls, y: Array, extrapolation: float) -> Span:
        """Return the ranges of the columns of y (n_samples, n_outputs), wider on either side.

        By so many times their width.
        """
        low, high = y.min(axis=0), y.max(axis=0)
        more = extrapolation * (high - low)
        return cls(low - more, high + more)

    def joined(self, other: Span) -> Span:
        """Return the least intervals that hold both."""
        return Span(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def apply(self, output: Array) -> Array:
        """Return the nearest values inside the intervals."""
        return np.clip(output, self.low, self.high)


UNLIMITED = Span(np.array(-np.inf), np.array(np.inf))


def read_unscaled(network: Network, scaling: Scaling) -> Network:
    """Return the network that gives on unscaled features what ``network`` gives on scaled ones."""

    def coef(a: Array) -> Array:
        return (a if scaling.mix is None else scaling.mix @ a) / scaling.scale[:, None]

    def intercept(b: Array, a: Array) -> Array:
        return b - scaling.center @ coef(a)

    gate_coef, gate_intercept = network.gate_coef, network.gate_intercept
    if gate_coef is not None and gate_intercept is not None:
        gate_intercept = intercept(gate_intercept, gate_coef)
        gate_coef = coef(gate_coef)
    return Network(
        hidden_coef=coef(network.hidden_coef),
        hidden_intercept=intercept(network.hidden_intercept, network.hidden_coef),
        output_coef=network.output_coef,
        linear_coef=coef(network.linear_coef),
        intercept=intercept(network.intercept, network.linear_coef),
        gate_coef=gate_coef,
        gate_intercept=gate_intercept,
    )


def combining(network: Network, mix: Array) -> Network:
    """Return the network that reads columns of which ``network`` reads the combinations ``mix``."""
    return read_unscaled(network, Scaling(np.zeros(len(mix)), np.ones(len(mix)), mix))


def scale_output(network: Network, scale: Array) -> Network:
    """Return the network with each output multiplied by ``scale`` (k,)."""
    return replace(
        network,
        output_coef=network.output_coef * scale,
        linear_coef=network.linear_coef * scale,
        intercept=network.intercept * scale,
    )


@dataclass(frozen=True)
class Handover:
    """What a grade hands on to the next one: its hidden features, the output so far, the inputs.

    Attributes
    ----------
    passthrough : {"hidden", "output", "both"}
        Whether the hidden features of the grade, the output of the chain so far, or both.
    keep_inputs : bool
        Whether X follows them.
    """

    passthrough: str = "hidden"
    keep_inputs: bool = True

    @property
    def hands_hidden(self) -> bool:
        """Whether hidden features are among what is handed on; they come first."""
        return self.passthrough != "output"

    @property
    def hands_output(self) -> bool:
        """Whether the output so far is; it comes after the hidden features."""
        return self.passthrough != "hidden"

    def features(self, hidden: Array, output: Array, X: Array) -> Array:
        """Return what the next grade reads, unscaled: hidden features, output, X, as far as kept."""
        return np.hstack(self._kept(hidden, output, X))

    def width(self, n_neurons: int, n_outputs: int, n_inputs: int) -> int:
        """Return the number of columns that the next grade reads."""
        return sum(self._kept(n_neurons, n_outputs, n_inputs))

    def _kept(self, hidden: T, output: T, X: T) -> list[T]:
        kept = (self.hands_hidden, self.hands_output, self.keep_inputs)
        return [part for part, keep in zip((hidden, output, X), kept, strict=True) if keep]


HIDDEN_AND_INPUTS = Handover()


def read_far(reading: Reading, X: Array) -> Array:
    """Return the rows of X as they are read, however far out."""
    if not reading.changes:
        return X
    # So that distances are numbers in that unit.
    reach = _LARGEST * np.minimum(1.0, reading.tails.unit)
    return reading.apply(np.clip(X, -reach, reach))


@dataclass(frozen=True, repr=False)
class DeepNetwork:
    """A chain of grades as explicit weights in the units of the data.

    Grade 1 reads X by way of ``reading``: heavy-tailed columns drawn in, and distances from the means
    behind them where these are read. Each later grade reads what ``handover`` says, by default the
    hidden features of the one before it, followed by what grade 1 reads. The output is ``baseline``
    plus the outputs of all grades: predictions for a regressor, and their logarithms for
    ``loss="poisson"``; for a classifier log-odds, and margins for hinge losses.

    Attributes
    ----------
    baseline : ndarray of shape (k,)
        Output of the empty chain.
    grades : tuple of Network
        One network a grade; without any, the output is ``baseline``.
    handover : Handover
        What each grade hands on to the next.
    reading : Reading
        How the columns of X are read.

    Examples
    --------
    Predicting with numpy alone:

    >>> import numpy as np
    >>> from convexgrade import MultigradeRegressor
    >>> X = np.linspace(-1, 1, 40).reshape(-1, 1)
    >>> model = MultigradeRegressor(n_grades=2, random_state=0).fit(X, np.abs(X[:, 0]))
    >>> inputs = model.network_.reading.apply(X)  # X itself, but for heavy tails and distances
    >>> features, output = inputs, model.network_.baseline
    >>> for net in model.network_.grades:
    ...     hidden = np.maximum(features @ net.hidden_coef + net.hidden_intercept, 0)
    ...     output = output + hidden @ net.output_coef + features @ net.linear_coef + net.intercept
    ...     features = np.hstack([hidden, inputs])
    >>> np.allclose(output[:, 0], model.predict(X))
    True
    """

    baseline: Array
    grades: tuple[Network, ...]
    handover: Handover = HIDDEN_AND_INPUTS
    reading: Reading = AS_IT_IS

    def __repr__(self) -> str:
        neurons = [network.n_neurons for network in self.grades]
        width = f", {counted_each(neurons, 'neuron')}" if neurons else ""
        return f"DeepNetwork({counted(len(neurons), 'grade')}{width})"

    def forward(self, X: Array) -> Array:
        """Return the output on the rows of X, shape (n_samples, k).

        A row so far out that its output is no number is read on the way there, at 1e-150 of the
        distance.

        Raises
        ------
        ValueError
            If X is no table of as many columns as the chain was fitted to; without grades, no table.
        """
        X = np.asarray(X, dtype=np.float64)
        if not self.grades:
            return self._baseline_only(X)
        width = len(self.grades[0].hidden_coef) - self.reading.distances.column.size
        if X.ndim != 2 or X.shape[1] != width:
            raise ValueError(f"X must have shape (n_samples, {width}); got {X.shape}.")
        with np.errstate(over="ignore", invalid="ignore"):
            X = read_far(self.reading, X)
            output = self._output(X)
            far = ~np.isfinite(output).all(axis=1)
            if far.any():
                output[far] = self._output(_NEARER * X[far])
        return output

    def _baseline_only(self, X: Array) -> Array:
        """Return the output of the empty chain, which tells nothing of the columns of X."""
        if X.ndim != 2:
            raise ValueError(f"X must have shape (n_samples, n_features); got {X.shape}.")
        return np.tile(self.baseline, (len(X), 1))

    def _output(self, X: Array) -> Array:
        features, output = X, np.broadcast_to(self.baseline, (len(X), self.baseline.size))
        for network in self.grades:
            hidden = network.hidden(features)
            output = output + network.read(hidden, features)
            features = self.handover.features(hidden, output, X)
        return output
