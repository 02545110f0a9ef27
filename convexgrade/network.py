"""One grade as an explicit network: arrays, nothing else.

A `Network` knows neither loss nor solver nor training rows; ``hidden`` and ``forward`` are all there
is to predicting with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.pieces import chunks
from convexgrade.wording import counted

Array = NDArray[np.float64]

_FADED = 1e-16  # share of the path norm that is none
_CHUNK = 1 << 18  # hidden features that are formed at a time, where only the output is asked for


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
    n_neurons : int
        Number of neurons, m.
    path_norm : float
        What the penalty of a grade weights by alpha.
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

    def without_faded(self) -> Network:
        """Return the network without the neurons whose share of the path norm is rounding, if any."""
        shares = self.lengths * self.output_sizes
        return self.resized(np.where(shares > _FADED * shares.sum(), 1.0, 0.0))

    def resized(self, factors: Array) -> Network:
        """Return the network with other sizes of neurons, without those whose factor is not positive.

        Both layers of a neuron share its factor, to stay in balance.
        """
        kept = factors > 0.0
        root = np.sqrt(factors[kept])
        return replace(
            self,
            hidden_coef=root * self.hidden_coef[:, kept],
            hidden_intercept=root * self.hidden_intercept[kept],
            output_coef=root[:, None] * self.output_coef[kept],
            gate_coef=None if self.gate_coef is None else self.gate_coef[:, kept],
            gate_intercept=None if self.gate_intercept is None else self.gate_intercept[kept],
        )

    def hidden(self, H: Array) -> Array:
        """Return the hidden features of the rows of H, shape (n_samples, m)."""
        if self.gate_coef is None:
            hidden = H @ self.hidden_coef
            hidden += self.hidden_intercept
            return np.maximum(hidden, 0.0, out=hidden)
        response, active = self.responses(H)
        return response * active

    def responses(self, H: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Return neurons' linear responses on the rows of H, (n_samples, m), and where they count."""
        gate = response = H @ self.hidden_coef + self.hidden_intercept
        if self.gate_coef is not None and self.gate_intercept is not None:
            gate = H @ self.gate_coef + self.gate_intercept
        return response, np.asarray(gate >= 0.0)

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
    outputs = sign[:, None] * (output[:, None] == np.arange(unpenalised.shape[1]))
    return balanced(blocks, outputs, unpenalised, gates)


def balanced(
    vectors: Array, outputs: Array, unpenalised: Array, gates: Array | None = None
) -> Network:
    """Return the network of neurons (m, d + 1) with output weights (m, k), both layers as large.

    Without the neurons that do nothing; the other arguments are those of `from_blocks`.
    """
    norms, sizes = np.linalg.norm(vectors, axis=1), np.abs(outputs).sum(axis=1)
    active = np.flatnonzero((norms > 0.0) & (sizes > 0.0))
    root = np.sqrt(norms[active] / sizes[active])[:, None]
    scaled = (vectors[active] / root).T
    return Network(
        hidden_coef=scaled[:-1],
        hidden_intercept=scaled[-1],
        output_coef=outputs[active] * root,
        linear_coef=unpenalised[:-1],
        intercept=unpenalised[-1],
        gate_coef=None if gates is None else gates[:-1, active],
        gate_intercept=None if gates is None else gates[-1, active],
    )


def scale_output(network: Network, scale: Array) -> Network:
    """Return the network with each output multiplied by ``scale`` (k,)."""
    return replace(
        network,
        output_coef=network.output_coef * scale,
        linear_coef=network.linear_coef * scale,
        intercept=network.intercept * scale,
    )
