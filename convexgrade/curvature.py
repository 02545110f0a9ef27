"""The curvature of a program's loss in variables that are told by what they add to the prediction."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program

Array = NDArray[np.float64]
Index = NDArray[np.intp]


class Variables(NamedTuple):
    """What variables add to the prediction: one column each, of one output."""

    values: Array  # (n_samples, n_variables)
    output: Index  # (n_variables,)


def columns(program: Program, responses: Array, group: Index | None = None) -> Variables:
    """Return responses of neurons, one a group unless told of which, and after them the columns of c."""
    p, k = program, program.n_outputs
    of_neurons = p.groups.output if group is None else p.groups.output[group]
    free = np.repeat(np.arange(k), p.free.size)
    return Variables(
        np.hstack([responses, np.tile(p.Z, (1, k))]), np.concatenate([of_neurons, free])
    )


def hessian(program: Program, variables: Variables, blocks: Array, unpenalised: Array) -> Array:
    """Return the Hessian of the mean loss in variables with these columns."""
    p, (values, output) = program, variables
    of_rows = p.mean_loss.hessian(p.predict(blocks, unpenalised))
    curvature = np.zeros((output.size, output.size))
    for a, b in (pair for outputs in of_rows.blocks for pair in product(outputs, outputs)):
        left, right = np.flatnonzero(output == a), np.flatnonzero(output == b)
        block = values[:, left].T @ (of_rows.entry(a, b)[:, None] * values[:, right])
        curvature[np.ix_(left, right)] = block
    return curvature
