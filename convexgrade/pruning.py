"""After a solve: fewer neurons, for nothing where responses are dependent.

Write neuron g as t_g times a unit vector, with response t_g r_g on the rows. If sum_g z_g r_g = 0, the
network t + tau z has the same outputs on every row for all tau, and its penalty changes by alpha tau
sum_g z_g. Walking in the direction in which the penalty does not rise, until some t_g reaches zero,
removes one neuron; so a network never needs more neurons for an output than its responses have rank,
at most n_samples (Mishkin & Pilanci 2023, "Optimal sets and solution paths of ReLU networks").

Below that, neurons cost something: see `cutting`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program
from convexgrade.quadratics import null_space

Array = NDArray[np.float64]


def prune(program: Program, blocks: Array) -> Array:
    """Return equally good blocks of which, for each output, at most as many as the rank are non-zero.

    Parameters
    ----------
    program : Program
        A program whose groups are those of ``blocks``.
    blocks : ndarray of shape (n_groups, d)
        Vectors of its groups.

    Returns
    -------
    ndarray of shape (n_groups, d)
        The same vectors, rescaled: some by zero. The penalty is not raised, and predictions change by
        about 1e-8 of the responses at most, what counts as dependent, whatever the units of X.
    """
    norms = np.linalg.norm(blocks, axis=1)
    units = blocks / np.where(norms > 0.0, norms, 1.0)[:, None]
    responses = responses_of(program, units)
    size = norms.copy()
    for k in range(program.n_outputs):
        chosen = np.flatnonzero((program.groups.output == k) & (norms > 0.0))
        size[chosen] = _walk(responses[:, chosen], norms[chosen])
    return units * size[:, None]


def responses_of(program: Program, blocks: Array) -> Array:
    """Return the response of each block on the rows, with its sign, (n_samples, n_groups)."""
    return (program.X @ blocks.T) * program.masks() * program.groups.sign


def _walk(responses: Array, size: Array) -> Array:
    """Walk along null vectors of ``responses`` until the neurons left are independent.

    In units in which all responses are of one length, so that short ones do not pass for rounding, and
    a unit of each costs what its vector is long. An orthonormal basis of null vectors is kept: a
    reflection leaves only its first one with anything of the neuron that is gone. (To subtract that
    vector from the others would blow rounding up.)
    """
    lengths = np.linalg.norm(responses, axis=0)
    lengths[lengths == 0.0] = 1.0
    null = null_space(responses / lengths)
    if null.shape[1] == 0:
        return size
    size, cost = size * lengths, 1.0 / lengths
    while null.shape[1]:
        z = null[:, 0]
        z = z if z @ cost <= 0.0 else -z
        falling = z < 0.0
        if not falling.any():  # it costs nothing at most: nothing is left of it
            null = null[:, 1:]
            continue
        ratio = np.full(size.size, np.inf)
        ratio[falling] = size[falling] / -z[falling]
        gone = int(np.argmin(ratio))
        size = np.maximum(size + ratio[gone] * z, 0.0)
        size[gone] = 0.0
        axis = null[gone].copy()
        axis[0] += np.copysign(np.linalg.norm(axis), axis[0])
        null = null[:, 1:] - np.outer(null @ axis, (2.0 / (axis @ axis)) * axis[1:])
        null[gone] = 0.0
    return size / lengths
