"""Fewer neurons for the same function: linear dependence among the responses of neurons.

Write neuron g as t_g times a unit vector, with response t_g r_g on the rows. If sum_g z_g r_g = 0, the
network t + tau z has the same outputs on every row for all tau, and its penalty changes by alpha tau
sum_g z_g. Walking in the direction in which the penalty does not rise, until some t_g reaches zero,
removes one neuron; so a network never needs more neurons for an output than its responses have rank,
at most n_samples (Mishkin & Pilanci 2023, "Optimal sets and solution paths of ReLU networks").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program

Array = NDArray[np.float64]

_DEPENDENT = 1e-10  # singular value, relative to the largest, that counts as zero


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
        The same vectors, rescaled: some by zero. Prediction unchanged and penalty not raised, both
        up to rounding.
    """
    norms = np.linalg.norm(blocks, axis=1)
    units = blocks / np.where(norms > 0.0, norms, 1.0)[:, None]
    responses = (program.X @ units.T) * program.masks() * program.groups.sign
    size = norms.copy()
    for k in range(program.n_outputs):
        chosen = np.flatnonzero((program.groups.output == k) & (norms > 0.0))
        size[chosen] = _walk(responses[:, chosen], norms[chosen])
    return units * size[:, None]


def _walk(responses: Array, size: Array) -> Array:
    """Walk along null vectors of ``responses`` until the neurons left are independent."""
    null = _null_space(responses)
    while null.shape[1]:
        z = null[:, 0]
        z = z if z.sum() <= 0.0 else -z
        falling = z < 0.0
        if not falling.any():  # a null vector that earlier eliminations have used up
            null = null[:, 1:]
            continue
        ratio = np.full(size.size, np.inf)
        ratio[falling] = size[falling] / -z[falling]
        gone = int(np.argmin(ratio))
        size = np.maximum(size + ratio[gone] * z, 0.0)
        size[gone] = 0.0
        rest = null[:, 1:] - np.outer(z, null[gone, 1:] / z[gone])
        rest[gone] = 0.0
        null = rest / np.maximum(np.linalg.norm(rest, axis=0), 1e-300)
    return size


def _null_space(responses: Array) -> Array:
    _, s, Vt = np.linalg.svd(responses, full_matrices=True)
    rank = int(np.sum(s > _DEPENDENT * s.max(initial=0.0)))
    return Vt[rank:].T
