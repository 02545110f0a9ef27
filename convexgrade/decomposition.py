"""Gated neurons as ReLU neurons: the same outputs on given rows, at the least norm.

With D = diag(1[X h >= 0]) a gated neuron contributes a D X v on the rows of X. Let K be the cone of its
pattern (`cones`). If v = p - m with p and m in K, then D X v = (X p)_+ - (X m)_+: two ReLU neurons
(Mishkin, Sahiner & Pilanci 2022, section 3). The best of these pairs solves

    minimise ||p|| + ||m||    subject to    p - m = v,  (2 D - I) X p >= 0,  (2 D - I) X m >= 0.

With u = p + m and G = (2 D - I) X, that is to minimise (||u + v|| + ||u - v||) / 2 subject to G u >=
|G v|, row by row. Two facts make it a search over one number, each trial a projection of `cones`:

* At the optimum, (u + v) / ||u + v|| + (u - v) / ||u - v|| is a non-negative combination of the rows of
  G that are tight. It is a multiple of u - tau v with

      tau = (||u + v|| - ||u - v||) / (||u + v|| + ||u - v||),

  so that u is the point of {u : G u >= |G v|} nearest to tau v, for one tau between -1 and 1.
* The point nearest to 0 under linear inequalities is found by projecting (0, 1) on a cone of one
  dimension more: see `_least`.

The pair always exists where the last column of X is the constant 1, and without biases where no row
lies on the boundary of the gate: see `_inside`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from convexgrade.cones import Cones
from convexgrade.network import Network, balanced

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_EXACT = 1e-6  # largest error, relative to the outputs of neurons, at which a conversion is one
_ROUNDING = 4.0 * np.finfo(float).eps  # of a sum, relative to the sum of its absolute terms
_TAU = 1e-9  # accuracy of tau; the norm is stationary there, so it is exact to rounding
_RESCALINGS = 6  # far more than it takes to find the size of a projection

_TOO_CLOSE = (
    "A gate separates rows that are equal up to rounding, so no ReLU neurons in double precision equal "
    "the gated one on them. Merge such rows, or fit with another random_state."
)

_ON_BOUNDARY = (
    "Rows lie on the boundary of a gate without a bias, so that neurons of its pattern cannot be told "
    "apart from those of others there. Fit with biases, or with patterns that are not exhaustive."
)


@dataclass(frozen=True)
class Decomposition:
    """A ReLU network that equals a gated one on some rows.

    Attributes
    ----------
    network : Network
        The ReLU network.
    path_norm_before, path_norm_after : float
        `Network.path_norm` of the gated network and of this one.
    n_neurons_before : int
        Neurons of the gated network.
    error : float
        Largest absolute difference of the two networks' outputs on the rows: rounding.
    """

    network: Network
    path_norm_before: float
    path_norm_after: float
    n_neurons_before: int
    error: float

    @property
    def n_neurons_after(self) -> int:
        """Neurons of the ReLU network, at most two for a gated one."""
        return self.network.n_neurons

    @property
    def blow_up(self) -> float:
        """How many times the path norm has grown; 1 for a network without neurons."""
        return self.path_norm_after / self.path_norm_before if self.path_norm_before > 0.0 else 1.0


def decompose(network: Network, H: Array) -> Decomposition:
    """Return the ReLU network of least path norm that splits each neuron of a gated one.

    Parameters
    ----------
    network : Network
        A gated ReLU network.
    H : ndarray of shape (n_samples, d)
        Rows of its input. The two networks agree there; elsewhere they are different functions.

    Returns
    -------
    Decomposition

    Raises
    ------
    ValueError
        If the network has no gates, if the rows that a gate separates are so close to each other that
        rounding leaves nothing of the neuron, or if rows lie on the boundary of a gate without a bias.
    """
    if network.gate_coef is None:
        raise ValueError("Only a gated ReLU network can be decomposed; this one has no gates.")
    gates = network.gates
    biased = gates[-1].any() or network.hidden_intercept.any()
    X = np.column_stack([H, np.full(len(H), float(biased))])
    _, masks = network.responses(H)
    neurons = zip(masks.T, gates.T, network.vectors.T, strict=True)
    pairs = np.array([split(X, mask, gate, v) for mask, gate, v in neurons])
    plus, minus = pairs.reshape(-1, 2, X.shape[1]).transpose(1, 0, 2)
    relu = balanced(
        np.concatenate([plus, minus]),
        np.concatenate([network.output_coef, -network.output_coef]),
        np.vstack([network.linear_coef, network.intercept]),
    )
    error = float(np.abs(relu.forward(H) - network.forward(H)).max(initial=0.0))
    size = np.abs(network.hidden(H)) @ np.abs(network.output_coef)
    if not error <= _EXACT * size.max(initial=0.0):
        raise ValueError(_TOO_CLOSE)
    return Decomposition(
        network=relu,
        path_norm_before=network.path_norm,
        path_norm_after=relu.path_norm,
        n_neurons_before=network.n_neurons,
        error=error,
    )


def split(X: Array, mask: Mask, gate: Array, v: Array) -> tuple[Array, Array]:
    """Split a vector into the difference of two vectors of a cone, of least summed norm.

    Parameters
    ----------
    X : ndarray of shape (n_samples, d)
        Rows; the last column is the constant 1, or 0 where neurons have no bias.
    mask : ndarray of bool, shape (n_samples,)
        Pattern, ``X @ gate >= 0``.
    gate : ndarray of shape (d,)
        Gate.
    v : ndarray of shape (d,)
        Vector to split.

    Returns
    -------
    p, m : ndarray of shape (d,)
        ``p - m == v`` up to rounding. One of them is zero where v or -v lies in the cone, and both
        are zero where v has no effect.
    """
    norm, zero = float(np.linalg.norm(v)), np.zeros_like(v)
    if norm == 0.0 or not mask.any():
        return zero, zero
    v = v / norm
    anywhere = X.any(axis=1)
    X, mask = X[anywhere], mask[anywhere]
    G = np.where(mask, 1.0, -1.0)[:, None] * X / np.linalg.norm(X, axis=1)[:, None]
    response = G @ v
    rounding = _ROUNDING * (np.abs(G) @ np.abs(v))
    if np.all(response >= -rounding):
        return norm * v, zero
    if np.all(response <= rounding):
        return zero, -norm * v
    inside = _inside(X, G, mask, gate)
    # u = v and u = -v, pushed inside, are the pairs (v + t h, t h) and (t h, t h - v), which are at hand
    # should the search for the least pair fail, or rounding spoil what it finds.
    sums = (v, -v, *_smallest_sum(G, response, v, inside))
    pairs = (_pushed(G, inside, 0.5 * (u + v), 0.5 * (u - v)) for u in sums)
    p, m = min(pairs, key=_summed_norm)
    return norm * p, norm * m


def _inside(X: Array, G: Array, mask: Mask, gate: Array) -> Array:
    """Return a unit vector in the interior of the cone, G u > 0: the gate, its intercept shifted.

    A row on the gate's hyperplane counts as active, so that the least active response is above the
    largest inactive one, and half way between the two is a hyperplane that touches no row. Without
    intercepts, it is the gate itself.
    """
    inside, unit = np.zeros_like(gate), gate / (np.linalg.norm(gate) or 1.0)
    inside[-1] = 1.0
    if not X[:, -1].any():
        inside = unit
    elif not mask.all():
        response = X @ unit
        inside = unit - 0.5 * (response[mask].min() + response[~mask].max()) * inside
    inside /= np.linalg.norm(inside) or 1.0
    if np.any(G @ inside <= 0.0):
        raise ValueError(_TOO_CLOSE if X[:, -1].any() else _ON_BOUNDARY)
    return inside


def _pushed(G: Array, inside: Array, p: Array, m: Array) -> tuple[Array, Array]:
    """Move both vectors along ``inside`` until they are in the cone: their difference stays."""
    deficit = -np.minimum(G @ p, G @ m)
    step = max(0.0, float(np.max(deficit / (G @ inside))))
    return p + step * inside, m + step * inside


def _summed_norm(pair: tuple[Array, Array]) -> float:
    return float(np.linalg.norm(pair, axis=1).sum())


def _smallest_sum(G: Array, response: Array, v: Array, inside: Array) -> list[Array]:
    """Return the u of least ||u + v|| + ||u - v|| with G u >= |G v|; none if the search fails."""
    need = np.abs(response)

    def nearest(tau: float) -> Array:
        return tau * v + _least(G, need - tau * response, inside)

    def miss(tau: float) -> float:
        u = nearest(tau)
        total = np.linalg.norm(u + v) + np.linalg.norm(u - v)
        return float(np.clip(4.0 * (u @ v) / total**2, -1.0, 1.0)) - tau

    try:
        with np.errstate(divide="raise", invalid="raise"):
            u = nearest(brentq(miss, -1.0, 1.0, xtol=_TAU))
            # Rows that are almost parallel (columns of very different size) leave u a little outside.
            # The way in along ``inside`` could be long, so the shortest way comes first.
            return [u + _least(G, need - G @ u, inside)]
    except (FloatingPointError, RuntimeError):  # SciPy's, where an iteration limit is reached
        return []


def _least(G: Array, need: Array, inside: Array) -> Array:
    """Return the w of least norm with G w >= need.

    The cone {(w, s) : G w >= need s} meets s = 1 in the points allowed, and its ray nearest to (0, 1)
    goes through the least of them. Lengths are measured in units of about ||w||: if they were not,
    the ray would be almost parallel to (0, 1) or to s = 0, and rounding would hide where.
    """
    unit = float(np.max(need / (G @ inside)))  # at first the length of the multiple of ``inside``
    everywhere = np.ones((len(G), 1), dtype=bool)
    apex = np.append(np.zeros((1, G.shape[1])), [[1.0]], axis=1)
    w = apex[0, :-1]
    for _ in range(_RESCALINGS):
        if unit <= 0.0:
            break
        cone = Cones.of(np.column_stack([G, -need / unit]), everywhere)
        point, _ = cone.project(np.zeros(1, dtype=np.intp), apex)
        w = unit * point[0, :-1] / point[0, -1]
        length = float(np.linalg.norm(w))
        if 0.1 * unit <= length <= 10.0 * unit:
            break
        unit = length
    return w
