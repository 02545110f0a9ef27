"""After a solve: fewer neurons, for nothing where responses are dependent.

Write neuron g as t_g times a unit vector, with response t_g r_g on the rows. If sum_g z_g r_g = 0, the
network t + tau z has the same outputs on every row for all tau, and its penalty changes by alpha tau
sum_g z_g. Walking in the direction in which the penalty does not rise, until some t_g reaches zero,
removes one neuron; so a network never needs more neurons for an output than its responses have rank,
at most n_samples (Mishkin & Pilanci 2023, "Optimal sets and solution paths of ReLU networks").

Below that, neurons cost something. `select` removes the ones whose loss the others make up for best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convexgrade.curvature import columns, hessian
from convexgrade.program import Program
from convexgrade.unpenalised import diagonal_units

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_RIDGE = 1e-10  # relative to the curvature of each: keeps dependent neurons from dividing by zero
_DEPENDENT = 1e-8  # singular value, relative to the largest, that counts as zero


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
    responses = _responses(program, units)
    size = norms.copy()
    for k in range(program.n_outputs):
        chosen = np.flatnonzero((program.groups.output == k) & (norms > 0.0))
        size[chosen] = _walk(responses[:, chosen], norms[chosen])
    return units * size[:, None]


def _responses(program: Program, blocks: Array) -> Array:
    return (program.X @ blocks.T) * program.masks() * program.groups.sign


def select(program: Program, blocks: Array, unpenalised: Array, limit: int) -> Index:
    """Choose the groups to keep, ``limit`` of them, so that the loss rises little.

    Let every neuron change its size, t_g times its response r_g, and the unpenalised columns their
    coefficients. To second order about an optimum, removing neuron g (t_g = 0) and adjusting the
    others raises the objective by t_g^2 / (2 [M^-1]_gg), where M is the curvature of the loss in (t, c)
    (the optimal brain surgeon of Hassibi & Stork 1993). The cheapest neuron goes, M^-1 loses its row
    and column, and so on.

    Parameters
    ----------
    program : Program
        A program whose groups are those of ``blocks``.
    blocks : ndarray of shape (n_groups, d)
        Vectors of its groups, best near the optimum and pruned.
    unpenalised : ndarray of shape (q, n_outputs)
        Coefficients of the unpenalised columns.
    limit : int
        Number of groups to keep.

    Returns
    -------
    ndarray of int, shape (min(limit, n_groups),)
        Positions of the groups to keep, ascending.
    """
    m = len(blocks)
    curvature = _curvature(program, blocks, unpenalised)
    unit = diagonal_units(curvature)
    units = np.outer(unit, unit)
    inverse = np.linalg.inv(curvature / units + _RIDGE * np.eye(len(curvature))) / units
    size = np.ones(len(curvature))  # t, which every removal moves; that of c is never read
    kept = np.ones(m, dtype=bool)
    for _ in range(m - limit):
        spread = np.maximum(np.diagonal(inverse)[:m], 1e-300)
        cost = np.where(kept, size[:m] ** 2 / spread, np.inf)
        gone = int(np.argmin(cost))
        column = inverse[:, gone] / inverse[gone, gone]
        size = size - size[gone] * column
        inverse = inverse - np.outer(column, inverse[gone])
        kept[gone] = False
    return np.flatnonzero(kept)


def _curvature(program: Program, blocks: Array, unpenalised: Array) -> Array:
    """Return the Hessian of the mean loss in the sizes of all neurons and in c."""
    return hessian(program, columns(program, _responses(program, blocks)), blocks, unpenalised)


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


def null_space(responses: Array) -> Array:
    """Return an orthonormal basis, as columns, of the z with ``responses @ z = 0``, up to rounding."""
    # By way of QR: the left singular vectors of all rows would be a square matrix of their number.
    triangle = np.linalg.qr(responses, mode="r")
    _, s, Vt = np.linalg.svd(triangle, full_matrices=True)
    rank = int(np.sum(s > _DEPENDENT * s.max(initial=0.0)))
    return Vt[rank:].T
