"""After a solve: the last digits.

A solver stops when the objective is right to its tolerance e. The gradient at its point, and with it a
certificate, is right to about sqrt(e) only. But the point tells which constraints are tight: on the face
where these hold, `polish` minimises without any, by Newton's method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from convexgrade.curvature import columns, hessian
from convexgrade.program import Program
from convexgrade.quadratics import least_squares, null_space
from convexgrade.solvers import _kkt
from convexgrade.solvers._operator import Operator

Array = NDArray[np.float64]

_TIGHT = 1e-9  # response, relative to the lengths of row and vector, that counts as zero
_A_FACE = 20  # for each dimension of a vector cubed, its face takes as long as so many operations
_NEWTON_STEPS, _OPERATIONS = 60, 3e12  # at most, and of all; some only lead to a further constraint
_HALVINGS = 20  # of a step
_GONE = 1e-7  # length, relative to the largest, at which a vector is gone
_CONVERGED = 1e-16  # decrement, relative to the objective, that is rounding
_FEW, _FORMED = 1000, 1e9  # variables, and operations to form their curvature, that are affordable
_ALONG, _ACROSS = 1e-4, 1e8  # curvature a preconditioner sees along a vector, and off its face
_ITERATIONS, _EXACT = 30, 1e-10  # of conjugate gradients, at most, and residual that ends them


def operations(program: Program) -> float:
    """Return about how many operations a Newton step on faces takes, 0 if there are none."""
    n, d = program.X.shape
    rows, columns = n * program.n_outputs, len(program.groups) * d
    return float(rows * columns * min(rows, columns) + _A_FACE * columns * d**2)


@np.errstate(all="ignore")  # what is not finite lowers nothing
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
    for _ in range(int(min(_NEWTON_STEPS, _OPERATIONS / operations(program)))):
        own = program.take(alive)
        try:
            step = _newton_step(own, blocks[alive], unpenalised)
        except np.linalg.LinAlgError:
            break
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
        gone = (norms <= _GONE * norms.max()) | (np.vecdot(moved, blocks) <= 0.0)
        moved[gone] = 0.0
        if program.objective(moved, c) <= value:
            return moved, c
    return None


def _newton_step(program: Program, blocks: Array, unpenalised: Array) -> _Step:
    """Return the Newton step on the faces, by whichever system is affordable."""
    bases = _bases(program, blocks)
    size = sum(base.shape[1] for base in bases) + program.free.size * program.n_outputs
    small = size <= _FEW and len(program.X) * size**2 <= _FORMED
    return (_by_columns if small else _by_rows)(program, bases, blocks, unpenalised)


def _by_columns(program: Program, bases: list[Array], blocks: Array, unpenalised: Array) -> _Step:
    """Return the Newton step from the curvature of all variables, of which some can be redundant.

    The curvature of ||v|| is (I - u u^T) / ||v|| with u = v / ||v||.
    """
    p = program
    norms = np.linalg.norm(blocks, axis=1)
    units = blocks / norms[:, None]
    group = np.repeat(np.arange(len(blocks)), [base.shape[1] for base in bases])
    every = np.hstack(bases)  # (d, n_variables of neurons)
    neurons = (p.X @ every) * p.masks()[:, group] * p.groups.sign[group]
    variables = columns(p, neurons, group)
    m = group.size
    slope = p.mean_loss.gradient(p.predict(blocks, unpenalised))
    gradient = np.einsum("nv,nv->v", variables.values, slope[:, variables.output])
    along = np.einsum("dv,vd->v", every, units[group])
    gradient[:m] += p.alpha * along
    curvature = hessian(p, variables, blocks, unpenalised)
    same = group[:, None] == group
    bent = (every.T @ every - np.outer(along, along)) / norms[group][:, None]
    curvature[:m, :m] += np.where(same, p.alpha * bent, 0.0)
    step = -least_squares(curvature, gradient)
    turn = np.zeros_like(blocks)
    np.add.at(turn, group, (every * step[:m]).T)
    return _Step(turn, step[m:].reshape(p.n_outputs, -1).T, -float(step @ gradient))


def _by_rows(program: Program, bases: list[Array], blocks: Array, unpenalised: Array) -> _Step:
    """Return the Newton step by conjugate gradients.

    Systems over the rows, which are the smaller ones here, want blocks that have an inverse: those of
    the preconditioner are a little curved along u, and off the face so much that steps stay on it. Few
    iterations do.
    """
    p, shape = program, blocks.shape
    norms = np.linalg.norm(blocks, axis=1)
    units, bend = blocks / norms[:, None], p.alpha / norms
    faces = np.stack([base @ base.T for base in bases])
    operator = Operator.build(p.X, p.Z, p.patterns.masks, p.groups, p.n_outputs)
    f = p.predict(blocks, unpenalised)
    curvature = p.mean_loss.hessian(f)
    least = np.sqrt(_ALONG * bend.min() / bend)[:, None, None]
    along = (1.0 - least) * (units[:, :, None] * units[:, None, :])
    off = np.sqrt(_ACROSS) * (np.eye(shape[1]) - faces)
    roots = np.sqrt(bend)[:, None, None] * (faces - along + off)
    factors = _kkt.Factorisation.build(operator, roots, curvature, _kkt.ChannelGrams(operator))

    def joined(v: Array, c: Array) -> Array:
        return np.concatenate([(faces @ v[:, :, None]).ravel(), c.ravel()])

    def parted(x: Array) -> tuple[Array, Array]:
        return x[: blocks.size].reshape(shape), x[blocks.size :].reshape(unpenalised.shape)

    def curved(x: Array) -> Array:
        v, c = parted(x)
        change = curvature.times(operator.forward(v, c))
        groups, free = operator.adjoint(change)
        across = v - np.vecdot(units, v)[:, None] * units
        return joined(groups + bend[:, None] * across, free)

    groups, free = operator.adjoint(p.mean_loss.gradient(f))
    slope = joined(groups + p.alpha * units, free)
    square = (slope.size, slope.size)
    system = LinearOperator(square, matvec=curved, dtype=float)
    inverse = LinearOperator(
        square, matvec=lambda x: joined(*factors.solve(*parted(x))), dtype=float
    )
    found, _ = cg(system, -slope, rtol=_EXACT, maxiter=_ITERATIONS, M=inverse)
    return _Step(*parted(found), -float(found @ slope))


def _bases(program: Program, blocks: Array) -> list[Array]:
    """Return for each block an orthonormal basis, as columns, of the vectors with its tight rows."""
    X, d = program.X, program.X.shape[1]
    if not program.cones:
        return [np.eye(d)] * len(blocks)
    sizes = np.linalg.norm(X, axis=1)
    tight = np.abs(X @ blocks.T) <= _TIGHT * np.outer(sizes, np.linalg.norm(blocks, axis=1))
    units = X / np.maximum(sizes, 1e-300)[:, None]
    return [null_space(units[rows]) if rows.any() else np.eye(d) for rows in tight.T]


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
