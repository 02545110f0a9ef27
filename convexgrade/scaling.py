"""Scaling of what grades read: to mean 0 and variance 1, as blocks, or to uncorrelated columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.handover import Handover
from convexgrade.network import Network

Array = NDArray[np.float64]

_FARTHEST = 1e100  # scales from its center at which a value still leaves room for sums of products
_CONSTANT = 1e-14  # spread of a column, relative to its size, that rounding makes
_SAME = 1e-8  # range of what a grade hands on, relative to its size, that a solver's errors make
_FAINT = 1e-5  # range of an output, in units of the coded targets, that they make
ROUNDING = 1e-16  # singular value, relative to the largest, that rounding makes, times the columns
DEPENDENT = 1e-8  # the same of features that count as dependent


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
        scaled = features - self.center
        scaled /= self.scale
        return scaled if self.mix is None else scaled @ self.mix

    def within_reach(self, features: Array) -> Array:
        """Return the features with values farther than 1e100 scales from their center at that distance.

        Of larger ones, sums and what later grades make of them need not be numbers. Columns that are to
        be 0 are at their center.
        """
        with np.errstate(over="ignore"):
            reach = _FARTHEST * np.where(np.isinf(self.scale), 0.0, self.scale)
        return np.clip(features, self.center - reach, self.center + reach)


def standard_scaling(features: Array, weights: Array) -> Scaling:
    """Return the scaling to weighted mean 0 and variance 1; constant columns become 0.

    (scikit-learn's StandardScaler accumulates the weighted variance by differences, which rounds
    below zero on a single row.) On rows to come as well, of whose other values nothing is known: gates
    would otherwise turn on them. And exactly: what rounding leaves of a mean, an unpenalised coefficient
    would blow up to an intercept. Squares are those of columns divided by a power of two (so that no
    digit changes), since those of very large or small values are no numbers.
    """
    _, exponent = np.frexp(np.abs(features).max(axis=0))
    reduced = np.ldexp(features, -exponent)
    center = weights @ reduced / weights.sum()
    spread = np.sqrt(weights @ (reduced - center) ** 2 / weights.sum())
    constant = spread <= _CONSTANT * np.abs(reduced).max(axis=0)
    return Scaling(
        center=np.where(constant, features[0], np.ldexp(center, exponent)),
        scale=np.where(constant, np.inf, np.ldexp(spread, exponent)),
    )


def n_varying(columns: Array, weights: Array) -> int:
    """Return how many columns are not constant, at least 1: the mean of |x|^2 once they are scaled."""
    return max(1, int(np.isfinite(standard_scaling(columns, weights).scale).sum()))


def target_scaling(targets: Array, weights: Array) -> Scaling:
    """Return the scaling to weighted mean 0 and variance 1; constant targets are only centred."""
    scaling = standard_scaling(targets, weights)
    return replace(scaling, scale=np.where(np.isinf(scaling.scale), 1.0, scaling.scale))


def scaling_between(
    features: Array, weights: Array, handover: Handover, n_hidden: int, X: Array
) -> Scaling:
    """Return the scaling of what a grade hands on: standard, hidden features over sqrt(width / d).

    A wide grade would otherwise hand on rows of large norm, for which the same alpha is weaker; d counts
    the columns of X that vary, as constant ones have no norm. What is the same on all rows, but for what
    a solver misses by, becomes 0: in units of that, it would be a column of noise.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        What is handed on.
    weights : ndarray of shape (n_samples,)
        Weights of the rows.
    handover : Handover
        What of it is what.
    n_hidden : int
        Neurons of the grade.
    X : ndarray of shape (n_samples, n_inputs)
        Input of the chain.
    """
    scaling = standard_scaling(features, weights)
    width = n_hidden if handover.hands_hidden else 0
    shrink = np.ones(features.shape[1])
    shrink[:width] = np.sqrt(max(1.0, width / n_varying(X, weights)))
    extent = np.ptp(features, axis=0)
    same = extent <= _SAME * np.abs(features).max(axis=0)
    if handover.hands_output:
        same[width:] |= extent[width:] <= _FAINT
    if handover.keep_inputs:
        same[-X.shape[1] :] = False
    return replace(scaling, scale=np.where(same, np.inf, scaling.scale * shrink))


def within_row_space(scaling: Scaling, features: Array, least: float) -> Scaling:
    """Turn a scaling of more columns than rows into one to coordinates of the space of the rows.

    A rotation: rows keep their lengths and angles, and so do the vectors of neurons, which lie in that
    space at an optimum, as whatever they have beside it costs its length and moves no response. The
    program is the same, of as many columns as there are rows at most.

    Directions in which the rows differ by less than ``least``, relative to the one in which they do
    most, are left out. Of a table as it comes, those are rounding (`ROUNDING` times the columns). But
    where a grade hands on its output next to the features that this is a sum of, rounding leaves more
    (`DEPENDENT`), which a linear term would blow up.
    """
    scaled = scaling.apply(features)
    _, size, directions = np.linalg.svd(scaled, full_matrices=False)
    kept = size >= least * size[0]
    return replace(scaling, mix=directions[kept].T)


def whitened(scaling: Scaling, features: Array, weights: Array, X: Array) -> Scaling:
    """Turn a scaling into one to uncorrelated columns of equal variance, as many as the rank.

    Patterns do not change under linear maps of the input, but a search for them does, and so does the
    penalty. Hidden features of few inputs are all but dependent: in their coordinates, functions that
    vary fast are long vectors, out of a search's sight and dear; in these they are like any other. The
    variances sum up to the number of inputs that vary, as those of X do.
    """
    root = np.sqrt(weights / weights.sum())[:, None]
    _, size, directions = np.linalg.svd(root * scaling.apply(features), full_matrices=False)
    kept = size > DEPENDENT * size.max(initial=0.0)
    spread = np.sqrt(n_varying(X, weights) / max(1, kept.sum()))
    return replace(scaling, mix=spread * directions[kept].T / size[kept])


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
