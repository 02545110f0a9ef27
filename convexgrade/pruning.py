"""After a solve: fewer neurons, for nothing where responses are dependent, and the last digits.

Write neuron g as t_g times a unit vector, with response t_g r_g on the rows. If sum_g z_g r_g = 0, the
network t + tau z has the same outputs on every row for all tau, and its penalty changes by alpha tau
sum_g z_g. Walking in the direction in which the penalty does not rise, until some t_g reaches zero,
removes one neuron; so a network never needs more neurons for an output than its responses have rank,
at most n_samples (Mishkin & Pilanci 2023, "Optimal sets and solution paths of ReLU networks").

Below that, neurons cost something. `select` removes the ones whose loss the others make up for best.

A solver stops when the objective is right to its tolerance e. The gradient at its point, and with it a
certificate, is right to about sqrt(e) only. But the point tells which constraints are tight: on the face
where these hold, `polish` minimises without any, by Newton's method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_RIDGE = 1e-10  # relative to the mean curvature: keeps dependent neurons from dividing by zero
_DEPENDENT = 1e-8  # singular value, relative to the largest, that counts as zero
_TIGHT = 1e-9  # response, relative to the lengths of row and vector, that counts as zero
_MOST, _AFFORDABLE = 1000, 1e8  # variables, and operations for a curvature, of a polish,
_NEWTON_STEPS = 60  # which takes so many: some only lead to a further constraint
_HALVINGS = 20  # of a step
_GONE = 1e-7  # length, relative to the largest, at which a vector is gone
_CONVERGED = 1e-16  # decrement, relative to the objective, that is rounding
_FLAT = 1e-13  # curvature, relative to that of single variables, that is rounding


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
    ridge = _RIDGE * np.trace(curvature) / max(1, len(curvature))
    inverse = np.linalg.inv(curvature + ridge * np.eye(len(curvature)))
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
    return _hessian(program, _columns(program, _responses(program, blocks)), blocks, unpenalised)


class _Columns(NamedTuple):
    """What variables add to the prediction: one column each, of one output."""

    values: Array  # (n_samples, n_variables)
    output: Index  # (n_variables,)


def _columns(program: Program, neurons: Array, group: Index | None = None) -> _Columns:
    """Return columns of neurons, one a group unless told of which, followed by those of c."""
    p, k = program, program.n_outputs
    of_neurons = p.groups.output if group is None else p.groups.output[group]
    free = np.repeat(np.arange(k), p.free.size)
    return _Columns(np.hstack([neurons, np.tile(p.Z, (1, k))]), np.concatenate([of_neurons, free]))


def _hessian(program: Program, columns: _Columns, blocks: Array, unpenalised: Array) -> Array:
    """Return the Hessian of the mean loss in variables with these columns."""
    p, (values, output) = program, columns
    hessian = p.loss.hessian(p.predict(blocks, unpenalised), p.y) * p.weights[:, None, None]
    curvature = np.empty((output.size, output.size))
    for a in range(p.n_outputs):
        for b in range(p.n_outputs):
            left, right = np.flatnonzero(output == a), np.flatnonzero(output == b)
            block = values[:, left].T @ (hessian[:, a, b, None] * values[:, right])
            curvature[np.ix_(left, right)] = block
    return curvature


def is_polishable(program: Program) -> bool:
    """Return whether the curvature of all variables is small enough to be formed again and again."""
    n, d = program.X.shape
    size = len(program.groups) * d + program.free.size * program.n_outputs
    return len(program.groups) > 0 and size <= _MOST and n * size**2 <= _AFFORDABLE


def polish(program: Program, blocks: Array, unpenalised: Array) -> tuple[Array, Array]:
    """Return the point of least objective on the faces of their cones that blocks lie on.

    By Newton steps, each at most as far as the next constraint, which then is tight as well, or as the
    end of a neuron, which then is gone.

    Parameters
    ----------
    program : Program
        A program whose groups are those of ``blocks``.
    blocks : ndarray of shape (n_groups, d)
        Vectors of its groups, inside their cones, none of them zero.
    unpenalised : ndarray of shape (q, n_outputs)
        Coefficients of the unpenalised columns.

    Returns
    -------
    blocks : ndarray of shape (n_groups, d)
        Vectors on the same faces, or zero.
    unpenalised : ndarray of shape (q, n_outputs)
        Coefficients. The objective has not risen.
    """
    alive = np.arange(len(blocks))
    for _ in range(_NEWTON_STEPS):
        own = program.over(program.patterns, program.groups.take(alive))
        step = _newton_step(own, blocks[alive], unpenalised)
        moved = _stepped(own, blocks[alive], unpenalised, step)
        if moved is None:
            break
        blocks = np.zeros_like(blocks)
        blocks[alive], unpenalised = moved
        alive = np.flatnonzero(blocks.any(axis=1))
        if alive.size == 0 or step.decrement <= _CONVERGED * own.objective(*moved):
            break
    return blocks, unpenalised


class _Step(NamedTuple):
    """A Newton step of all vectors and of c."""

    turn: Array  # (n_groups, d)
    shift: Array  # (q, n_outputs)
    decrement: float


def _stepped(
    program: Program, blocks: Array, unpenalised: Array, step: _Step
) -> tuple[Array, Array] | None:
    """Return where a step leads to, halved as long as the objective rises; None if it always does.

    A vector that would turn round passes its end, where the penalty has a kink: it stays there.
    """
    value = program.objective(blocks, unpenalised)
    for t in _room(program, blocks, step.turn) * 0.5 ** np.arange(_HALVINGS):
        moved, c = blocks + t * step.turn, unpenalised + t * step.shift
        norms = np.linalg.norm(moved, axis=1)
        gone = (norms <= _GONE * norms.max()) | (np.einsum("gd,gd->g", moved, blocks) <= 0.0)
        moved[gone] = 0.0
        if program.objective(moved, c) <= value:
            return moved, c
    return None


def _newton_step(program: Program, blocks: Array, unpenalised: Array) -> _Step:
    """Return the Newton step on the faces.

    The curvature of ||v|| is (I - u u^T) / ||v|| with u = v / ||v||.
    """
    p = program
    norms = np.linalg.norm(blocks, axis=1)
    units = blocks / norms[:, None]
    faces = _faces(p, blocks)
    group = np.repeat(np.arange(len(blocks)), [face.shape[1] for face in faces])
    base = np.hstack(faces)  # (d, n_variables of neurons)
    neurons = (p.X @ base) * p.masks()[:, group] * p.groups.sign[group]
    columns = _columns(p, neurons, group)
    m = group.size
    slope = p.weights[:, None] * p.loss.gradient(p.predict(blocks, unpenalised), p.y)
    gradient = np.einsum("nv,nv->v", columns.values, slope[:, columns.output])
    along = np.einsum("dv,vd->v", base, units[group])
    gradient[:m] += p.alpha * along
    hessian = _hessian(p, columns, blocks, unpenalised)
    same = group[:, None] == group
    bent = (base.T @ base - np.outer(along, along)) / norms[group][:, None]
    hessian[:m, :m] += np.where(same, p.alpha * bent, 0.0)
    unit = np.sqrt(np.maximum(np.diagonal(hessian), 0.0))
    unit[unit == 0.0] = 1.0
    scaled = hessian / np.outer(unit, unit)
    step = -np.linalg.lstsq(scaled, gradient / unit, rcond=_FLAT)[0] / unit
    turn = np.zeros_like(blocks)
    np.add.at(turn, group, (base * step[:m]).T)
    return _Step(turn, step[m:].reshape(p.n_outputs, -1).T, -float(step @ gradient))


def _faces(program: Program, blocks: Array) -> list[Array]:
    """Return for each block an orthonormal basis, as columns, of the vectors with its tight rows."""
    X, d = program.X, program.X.shape[1]
    if not program.cones:
        return [np.eye(d)] * len(blocks)
    lengths = np.outer(np.linalg.norm(X, axis=1), np.linalg.norm(blocks, axis=1))
    tight = np.abs(X @ blocks.T) <= _TIGHT * lengths
    return [_null_space(X[rows]) if rows.any() else np.eye(d) for rows in tight.T]


def _room(program: Program, blocks: Array, turn: Array) -> float:
    """Return the largest t <= 1 at which blocks + t turn are inside their cones; tight rows stay so."""
    if not program.cones:
        return 1.0
    X, signs = program.X, np.where(program.masks(), 1.0, -1.0)
    response, change = signs * (X @ blocks.T), signs * (X @ turn.T)
    lengths = np.outer(np.linalg.norm(X, axis=1), np.linalg.norm(blocks, axis=1))
    falling = (-change > response) & (response > _TIGHT * lengths)
    ratio = np.divide(response, -change, out=np.full_like(response, np.inf), where=falling)
    return float(ratio.min(initial=1.0))


def _walk(responses: Array, size: Array) -> Array:
    """Walk along null vectors of ``responses`` until the neurons left are independent.

    An orthonormal basis of them is kept: a reflection leaves only its first vector with anything of
    the neuron that is gone. (To subtract that vector from the others would blow rounding up.)
    """
    null = _null_space(responses)
    while null.shape[1]:
        z = null[:, 0]
        z = z if z.sum() <= 0.0 else -z
        falling = z < 0.0
        if not falling.any():  # its sum is 0 at most: nothing is left of it
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
    return size


def _null_space(responses: Array) -> Array:
    # By way of QR: the left singular vectors of all rows would be a square matrix of their number.
    triangle = np.linalg.qr(responses, mode="r")
    _, s, Vt = np.linalg.svd(triangle, full_matrices=True)
    rank = int(np.sum(s > _DEPENDENT * s.max(initial=0.0)))
    return Vt[rank:].T
