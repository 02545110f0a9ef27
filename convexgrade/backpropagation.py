"""How the output of a chain answers to its grades, from the last one back to the first.

All activation patterns are frozen, so that these are derivatives except where a row lies on a neuron's
hyperplane. Of chains without limits: those of a finished one are dropped before it is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.chain import Chain
from convexgrade.grade import Grade

Array = NDArray[np.float64]


class FrozenGrade(NamedTuple):
    """One grade on the rows, with its patterns.

    Attributes
    ----------
    H : ndarray of shape (n_samples, d + 1)
        Scaled input, and last a column for biases: of ones, or of zeros where there are none.
    active : ndarray of bool, shape (n_samples, n_neurons)
        Where each neuron is active.
    hidden : ndarray of shape (n_samples, n_neurons)
        Hidden features.
    """

    H: Array
    active: NDArray[np.bool_]
    hidden: Array


class Derivatives(NamedTuple):
    """Derivatives, row by row, of r functions of a chain's output by what one grade gives.

    Attributes
    ----------
    at : int
        Index of the grade.
    by_response : ndarray of shape (n_samples, r, n_neurons)
        Derivatives by the responses of its neurons, zero where these are inactive.
    by_output : ndarray of shape (n_samples, r, n_outputs)
        Derivatives by its output, through the later grades that read it as well.
    """

    at: int
    by_response: Array
    by_output: Array


def frozen_grades(chain: Chain, X: Array) -> tuple[list[FrozenGrade], Array]:
    """Return every grade on the rows of X, and the output of the chain."""
    *met, (_, output) = chain.walk(X)
    frozen = [_frozen(one.H, grade) for one, grade in zip(met, chain.grades, strict=True)]
    return frozen, output


def _frozen(H: Array, grade: Grade) -> FrozenGrade:
    response, active = grade.network.responses(H)
    constant = np.full(len(H), float(grade.settings.hidden_bias))
    return FrozenGrade(np.column_stack([H, constant]), active, response * active)


def each_output(chain: Chain, n_rows: int) -> Array:
    """Return the derivatives of the outputs by themselves, for `pulled_back` to follow."""
    k = chain.baseline.size
    return np.broadcast_to(np.eye(k), (n_rows, k, k))


def pulled_back(chain: Chain, frozen: list[FrozenGrade], by_output: Array) -> Iterator[Derivatives]:
    """Follow derivatives by the output back through the chain, from the last grade to the first.

    Parameters
    ----------
    chain : Chain
        With at least one grade.
    frozen : list of FrozenGrade
        Its grades on the rows.
    by_output : ndarray of shape (n_samples, r, n_outputs)
        Derivatives of r functions of the output: of the outputs themselves, or of a loss.
    """
    by_hidden: Array | float = 0.0
    for index in reversed(range(len(chain))):
        scaling, grade, _ = chain.links[index]
        network = grade.network
        direct = _times(by_output, network.output_coef.T)
        by_response = (direct + by_hidden) * frozen[index].active[:, None, :]
        yield Derivatives(index, by_response, by_output)
        if index > 0:
            by_input = _times(by_response, network.hidden_coef.T)
            by_input = by_input + _times(by_output, network.linear_coef.T)
            if scaling.mix is not None:
                by_input = _times(by_input, scaling.mix.T)
            by_input = by_input / scaling.scale
            width = chain.grades[index - 1].n_neurons if chain.handover.hands_hidden else 0
            by_hidden = by_input[:, :, :width] if chain.handover.hands_hidden else 0.0
            if chain.handover.hands_output:
                read = by_input[:, :, width : width + chain.baseline.size]
                by_output = by_output + read


def _times(a: Array, matrix: Array) -> Array:
    """Return ``a @ matrix``, a of shape (n, r, p), as one product: numpy would take n small ones."""
    n, r, p = a.shape
    return (a.reshape(n * r, p) @ matrix).reshape(n, r, -1)
