"""Neurons one by one, as vectors with a sign and an output: what searches move and points consist of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.network import Network

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

_ALIKE = 0.9995  # cosine from which two neurons count as one


@dataclass(frozen=True)
class Neurons:
    """Neurons ``sign_j (x . v_j)_+``, each of one output.

    Attributes
    ----------
    vectors : ndarray of shape (d, m)
        The v_j: in a network, |a_j| u_j.
    sign : ndarray of shape (m,)
        Their signs.
    output : ndarray of int, shape (m,)
        Their outputs.
    """

    vectors: Array
    sign: Array
    output: Index

    def __len__(self) -> int:
        return self.sign.size

    def join(self, other: Neurons) -> Neurons:
        """Return these neurons and the others."""
        return Neurons(
            np.concatenate([self.vectors, other.vectors], axis=1),
            np.concatenate([self.sign, other.sign]),
            np.concatenate([self.output, other.output]),
        )

    def take(self, index: Index | Mask) -> Neurons:
        """Return the neurons at ``index``."""
        return Neurons(self.vectors[:, index], self.sign[index], self.output[index])

    def times(self, size: float) -> Neurons:
        """Return the neurons with vectors so many times as long."""
        return replace(self, vectors=size * self.vectors)

    def forward(self, X: Array, n_outputs: int) -> Array:
        """Return their sum on rows, shape (n_samples, n_outputs)."""
        routing = self.sign[:, None] * (self.output[:, None] == np.arange(n_outputs))
        return np.maximum(X @ self.vectors, 0.0) @ routing


def neurons_of(network: Network) -> Neurons:
    """Return a network's neurons, one for each output that a neuron feeds."""
    neuron, output = np.nonzero(network.output_coef)
    weight = network.output_coef[neuron, output]
    return Neurons(network.vectors[:, neuron] * np.abs(weight), np.sign(weight), output)


def directions(vectors: Array) -> Array:
    """Return columns of length 1 that point as those of ``vectors`` do; zero ones stay.

    Whatever their length: squares of neurons that a correction lets fade away can be no numbers.
    """
    _, exponent = np.frexp(np.abs(vectors).max(axis=0, initial=0.0))
    vectors = np.ldexp(vectors, -exponent)  # exact, with lengths of about 1
    lengths = np.linalg.norm(vectors, axis=0)
    return np.asarray(vectors / np.where(lengths > 0.0, lengths, 1.0))


def merged(neurons: Neurons) -> Neurons:
    """Add up neurons that point almost the same way, sign and output being equal.

    Descents let many neurons gather where an optimum has one. The longest of them takes in all that
    are alike; the sum has almost the same outputs and no larger penalty.
    """
    norms = np.linalg.norm(neurons.vectors, axis=0)
    units = directions(neurons.vectors)
    alike = units.T @ units > _ALIKE
    alike &= neurons.sign[:, None] == neurons.sign
    alike &= neurons.output[:, None] == neurons.output
    leader = np.full(norms.size, -1)
    for j in np.argsort(-norms, kind="stable"):
        if leader[j] < 0:
            leader[alike[j] & (leader < 0)] = j
            leader[j] = j
    leaders, place = np.unique(leader, return_inverse=True)
    sums = np.zeros((leaders.size, len(neurons.vectors)))
    np.add.at(sums, place, neurons.vectors.T)
    return replace(neurons.take(leaders), vectors=sums.T)
