"""How the output of a chain answers to its grades, from the last one back to the first.

All activation patterns are frozen, so that these are derivatives except where a row lies on a neuron's
hyperplane.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.multigrade import Chain

Array = NDArray[np.float64]


class FrozenGrade(NamedTuple):
    """One grade on the rows: scaled input with a column for biases (1, or 0), and active neurons."""

    H: Array
    active: NDArray[np.bool_]


class Answer(NamedTuple):
    """What r functions of a chain's output gain from one grade, row by row.

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


def frozen_grades(chain: Chain, X: Array) -> list[FrozenGrade]:
    """Return what every grade reads of the rows of X, and which of its neurons are active on them."""
    found = []
    for step, grade in zip(chain.walk(X), chain.grades, strict=False):
        constant = np.full(len(X), float(grade.settings.hidden_bias))
        gates = grade.network.gates
        active = step.H @ gates[:-1] + gates[-1] >= 0.0
        found.append(FrozenGrade(np.column_stack([step.H, constant]), active))
    return found


def each_output(chain: Chain, n_rows: int) -> Array:
    """Return the derivatives of the outputs by themselves, to be followed back by `answers`."""
    k = chain.baseline.size
    return np.broadcast_to(np.eye(k), (n_rows, k, k))


def answers(chain: Chain, found: list[FrozenGrade], by_output: Array) -> Iterator[Answer]:
    """Follow derivatives by the output (n_samples, r, n_outputs) back, from the last grade to the first.

    Parameters
    ----------
    chain : Chain
        With at least one grade.
    found : list of FrozenGrade
        Its grades on the rows.
    by_output : ndarray of shape (n_samples, r, n_outputs)
        Derivatives of r functions of the output: of the outputs themselves, or of a loss.
    """
    by_hidden: Array | float = 0.0
    for index in reversed(range(len(chain))):
        scaling, grade = chain.links[index]
        network = grade.network
        direct = _times(by_output, network.output_coef.T)
        by_response = (direct + by_hidden) * found[index].active[:, None, :]
        yield Answer(index, by_response, by_output)
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
