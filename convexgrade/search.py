"""Search for neurons: descent on a whole network, and ascent on the price of one neuron.

Neither claims optimality. Both propose patterns; the convex program decides what they are worth and
the certificate says how far the result can be from optimal. So products with all rows are rounded to
single precision, in half the time: objectives and gradients are off by 1e-7 of their terms, and where
a search ends differs less by that than by its random starts. All else is in double precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from convexgrade.neurons import Neurons, directions
from convexgrade.patterns import activation, centred_gates, distinct_columns, masked_adjoint
from convexgrade.pieces import chunks
from convexgrade.program import Problem
from convexgrade.quasi_newton import Iterate, Pairs, step

Array = NDArray[np.float64]
Single = NDArray[np.float32]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

_MEMORY = 20  # pairs of L-BFGS
_CLIMB = 30  # steps up the price of a neuron
_STALLED = 1e-9  # gain of a step, relative to the loss before, at which a descent ends
_LOOK = 25  # steps after which a descent may end, or go on without withered neurons
_SHED = 0.25  # share of withered neurons without which a descent goes on
_TILE = 1 << 18  # numbers of rows times neurons that are worked on at a time: a megabyte
_AT_A_TIME = 1 << 20  # numbers of rows times gates that are priced at a time
_START = 0.1  # length of random neurons, in units of what predictions lack
_NORMAL = 1.6  # standard deviation of normal residuals, in units of their `MeanLoss.distance`
_SMOOTHED = 0.1  # distance within which a descent smooths kinks, relative to that of the offset
_WITHERED = 1e-3  # norm of a neuron, relative to the largest, below which a descent gives it up


def random_neurons(problem: Problem, n_neurons: int, rng: np.random.Generator) -> Neurons:
    """Draw small data-centred neurons, signs and outputs spread evenly over them.

    Small beside what predictions lack, so that a descent finds their directions before it grows them.
    """
    gates = centred_gates(problem.X, n_neurons, rng)
    length = np.linalg.norm(gates, axis=0)
    length[length == 0.0] = 1.0  # where X is nothing but the constant
    index = np.arange(n_neurons)
    return Neurons(
        vectors=_START * _unit(problem) * gates / length,
        sign=np.where((index // problem.n_outputs) % 2 == 0, 1.0, -1.0),
        output=index % problem.n_outputs,
    )


def _unit(problem: Problem) -> float:
    """Return the size of what predictions lack, 1 at most: residuals of late grades are small.

    For squared errors that are normal, it is their standard deviation.
    """
    return min(1.0, _NORMAL * problem.mean_loss.distance(problem.offset)) or 1.0


@dataclass(frozen=True)
class _Tiles:
    """Rows by neurons, as many rows at a time as stay in the cache, in one array that is written over.

    And one of zeros: numpy compares to an array in a third of the time that it takes to compare to 0.
    """

    n_rows: int
    work: Single
    zero: Single

    @classmethod
    def of(cls, n_rows: int, width: int) -> _Tiles:
        """Return tiles of a width."""
        zero = np.zeros((min(n_rows, max(1, _TILE // max(1, width))), width), dtype=np.float32)
        return cls(n_rows, np.empty_like(zero), zero)

    def __iter__(self) -> Iterator[tuple[slice, Single, Single]]:
        """Yield slices of the rows, and for each an array to work in and one of zeros."""
        for first in range(0, self.n_rows, len(self.work)):
            size = min(len(self.work), self.n_rows - first)
            yield slice(first, first + size), self.work[:size], self.zero[:size]


@dataclass(frozen=True)
class _Balanced:
    """The balanced network objective, smooth but for the ReLU's kink, and its gradient.

    F(o + sum_j a_j (X u_j)_+ e_{k(j)} + Z c) + alpha / 2 sum_j (||u_j||^2 + a_j^2). Its minimum over
    scalings of each neuron is the objective of a grade: alpha sum_j |a_j| ||u_j||.

    With residuals of size s, u and a have the size s^1/2. In units of it, c has that size as well, so
    that steps suit all variables alike.
    """

    problem: Problem
    output: Index
    rows: Single  # X / scale
    scale: float
    unit: float  # of c
    free: Array  # Z times that
    tiles: _Tiles

    @classmethod
    def of(cls, problem: Problem, output: Index) -> _Balanced:
        """Return the objective of neurons that go to these outputs."""
        tiles, unit = _Tiles.of(len(problem.X), output.size), float(np.sqrt(_unit(problem)))
        return cls(problem, output, *_rounded(problem.X), unit, unit * problem.Z, tiles)

    def split(self, flat: Array) -> tuple[Array, Array, Array]:
        """Return u (d, m), a (m,) and c (q, n_outputs), in its unit."""
        d, m = self.problem.X.shape[1], self.output.size
        u, a, c = flat[: d * m], flat[d * m : (d + 1) * m], flat[(d + 1) * m :]
        return u.reshape(d, m), a, c.reshape(self.problem.free.size, self.problem.n_outputs)

    def join(self, neurons: Neurons, unpenalised: Array) -> Array:
        """Return neurons, balanced, and the coefficients of the unpenalised columns in one vector."""
        norms = np.sqrt(np.linalg.norm(neurons.vectors, axis=0))
        u = neurons.vectors / np.where(norms > 0.0, norms, 1.0)
        return np.concatenate([u.ravel(), neurons.sign * norms, unpenalised.ravel() / self.unit])

    def alive(self, flat: Array) -> Mask:
        """Return which neurons have not withered."""
        u, a, _ = self.split(flat)
        size = np.linalg.norm(u * a, axis=0)
        return np.asarray(size > _WITHERED * size.max(initial=0.0))

    def without(self, alive: Mask) -> tuple[_Balanced, Mask]:
        """Return the objective of some of the neurons, and which variables are theirs."""
        d, free = self.problem.X.shape[1], self.problem.free.size * self.problem.n_outputs
        kept = np.concatenate([np.tile(alive, d), alive, np.ones(free, dtype=bool)])
        output = self.output[alive]
        return replace(self, output=output, tiles=_Tiles.of(len(self.rows), output.size)), kept

    def __call__(self, flat: Array) -> tuple[float, Array]:
        """Return value and gradient at ``flat``.

        The passes over rows times neurons are what takes time: there are four, over as many rows at
        a time as stay in the cache. The gradient in a_j is u_j . g_j with g_j = X^T D_j r, which that
        in u_j, a_j g_j, needs anyway.
        """
        p = self.problem
        u, a, c = self.split(flat)
        routing = np.zeros((a.size, p.n_outputs), dtype=np.float32)
        routing[np.arange(a.size), self.output] = a
        rounded = (self.scale * u).astype(np.float32)
        gradient = np.zeros(flat.size)
        g, grad_a, grad_c = self.split(gradient)  # views, which are filled below
        value = 0.0
        for some, work, zero in self.tiles:
            np.matmul(self.rows[some], rounded, out=work)
            np.maximum(work, zero, out=work)
            f = p.offset[some] + work @ routing + self.free[some] @ c
            value += float(p.weights[some] @ p.loss.value(f, p.y[some]))
            residual = p.weights[some, None] * p.loss.gradient(f, p.y[some])
            np.greater(work, zero, out=work)
            g += self._correlated(some, work, residual.astype(np.float32))
            grad_c += self.free[some].T @ residual
        g *= self.scale
        np.add.reduce(u * g, axis=0, out=grad_a)
        g *= a
        penalised = slice(flat.size - c.size)
        gradient[penalised] += p.alpha * flat[penalised]
        value += 0.5 * p.alpha * float(np.vdot(u, u) + a @ a)
        return value, gradient

    def _correlated(self, some: slice, masks: Single, residual: Single) -> Single:
        """Return X^T D_j r for every neuron, over some rows; ``masks`` are written over."""
        rows = self.rows[some]
        if residual.shape[1] == 1 and rows.shape[1] < masks.shape[1]:
            return np.asarray((residual * rows).T @ masks)
        masks *= residual[:, self.output]
        return np.asarray(rows.T @ masks)


def _rounded(array: Array) -> tuple[Single, float]:
    """Return an array divided by its largest size, in single precision, and that size."""
    scale = float(np.abs(array).max(initial=0.0)) or 1.0
    return (array / scale).astype(np.float32), scale


def _without_withered(
    objective: _Balanced, point: Iterate, pairs: Pairs
) -> tuple[_Balanced, Iterate, Pairs]:
    """Return the state of a descent without its withered neurons, where they are a share of all."""
    alive = objective.alive(point.x)
    if alive.mean() > 1.0 - _SHED:
        return objective, point, pairs
    objective, kept = objective.without(alive)
    return objective, Iterate.of(objective, point.x[kept]), pairs.restricted(kept)


@np.errstate(over="ignore", invalid="ignore")  # a step may leave the range of single precision
def descend(
    problem: Problem,
    start: Neurons,
    unpenalised: Array,
    *,
    max_iter: int,
    settled: float = 0.0,
) -> tuple[Neurons, Array]:
    """Descend on the balanced network with limited-memory BFGS, kinks of the loss smoothed.

    Where a share of the neurons has withered it goes on without them: what is left costs less. It
    ends after ``max_iter`` steps, where one of them gains next to nothing, or where `_LOOK` of them
    gain less than ``settled``, relative.

    Returns the neurons that have not withered, and the coefficients of the unpenalised columns.
    """
    smoothing = _SMOOTHED * problem.mean_loss.distance(problem.offset)
    smoothed = replace(problem, loss=problem.loss.smoothed(smoothing))
    objective = _Balanced.of(smoothed, start.output)
    point = Iterate.of(objective, objective.join(start, unpenalised))
    pairs, last = Pairs(point.x.size, _MEMORY), np.inf
    least = _STALLED * problem.loss_before
    for taken in range(1, max_iter + 1):
        found = step(objective, point, pairs)
        if found is None:
            break
        gain, point = point.value - found.value, found
        if gain <= least:
            break
        if taken % _LOOK == 0:
            if last - point.value <= settled * point.value:
                break
            last = point.value
            objective, point, pairs = _without_withered(objective, point, pairs)
    u, a, c = objective.split(point.x)
    neurons = Neurons(u * np.abs(a), np.where(a >= 0.0, 1.0, -1.0), objective.output)
    return neurons.take(objective.alive(point.x)), objective.unit * c


def price(problem: Problem, theta: Array, gates: Array) -> Array:
    """Return theta_k . (X u)_+ / ||u|| for each output k and gate u, shape (n_outputs, n_gates).

    A grade improves by a neuron u with sign s on output k if s times this exceeds alpha.
    """
    units, prices = directions(gates), np.empty((theta.shape[1], gates.shape[1]))
    for some in _at_a_time(problem, gates):
        responses = problem.X @ units[:, some]
        prices[:, some] = theta.T @ np.maximum(responses, 0.0, out=responses)
    return prices


def gate_prices(problem: Problem, theta: Array, gates: Array) -> Array:
    """Return ``||X^T D_h theta_k||`` for each output k and gate h, shape (n_outputs, n_gates).

    The price of a gated neuron: its vector is free, so the best one is along the correlation.
    """
    prices = np.empty((theta.shape[1], gates.shape[1]))
    for some in _at_a_time(problem, gates):
        masks = activation(problem.X, gates[:, some]).astype(float)
        for k, t in enumerate(theta.T):
            prices[k, some] = np.linalg.norm(masked_adjoint(masks, problem.X, t), axis=1)
    return prices


def _at_a_time(problem: Problem, gates: Array) -> Iterator[slice]:
    return chunks(gates.shape[1], len(problem.X), most=_AT_A_TIME)


def ascend(
    problem: Problem,
    theta: Array,
    starts: Array,
    *,
    n_jobs: int | None = None,
) -> Neurons:
    """Climb ``|theta_k . (X u)_+|`` over unit u from every start, for each output and both signs.

    Projected gradient ascent, all columns at once; each keeps its own step, which grows on success
    and shrinks on failure, so that every price rises monotonically.

    Returns
    -------
    Neurons
        The unit vectors reached, with the sign of theirs; by decreasing price, as it was climbed.
    """
    (rows, _), (slopes, _) = _rounded(problem.X), _rounded(theta)
    columns = Parallel(n_jobs=n_jobs, prefer="threads")(
        delayed(_climb)(rows, sign * slopes[:, k], starts)
        for k in range(problem.n_outputs)
        for sign in (1.0, -1.0)
    )
    reached, prices = zip(*columns, strict=True)
    m = starts.shape[1]
    index = np.arange(len(columns) * m) // m
    neurons = Neurons(
        vectors=np.concatenate(reached, axis=1),
        sign=np.where(index % 2 == 0, 1.0, -1.0),
        output=index // 2,
    )
    return neurons.take(np.argsort(-np.concatenate(prices), kind="stable"))


def _climb(X: Single, theta: Single, starts: Array) -> tuple[Array, Array]:
    u = directions(starts)
    length = np.ones(u.shape[1])
    weighted, tiles = (theta[:, None] * X).T, _Tiles.of(len(X), u.shape[1])

    def gradient(u: Array) -> tuple[Array, Array]:
        """Return X^T D_u theta, and the height theta . (X u)_+, which is u times that."""
        rounded, g = u.astype(np.float32), np.zeros_like(u)
        for some, work, zero in tiles:
            np.matmul(X[some], rounded, out=work)
            g += weighted[:, some] @ np.greater(work, zero, out=work)
        return g, np.einsum("ij,ij->j", u, g)

    slope, height = gradient(u)
    for _ in range(_CLIMB):
        trial = u + length * slope / np.maximum(np.linalg.norm(slope, axis=0), 1e-300)
        trial /= np.maximum(np.linalg.norm(trial, axis=0), 1e-300)
        trial_slope, trial_height = gradient(trial)
        better = trial_height > height
        u = np.where(better, trial, u)
        slope = np.where(better, trial_slope, slope)
        height = np.where(better, trial_height, height)
        length *= np.where(better, 1.5, 0.4)
    return u, height


def distinct(problem: Problem, neurons: Neurons) -> Neurons:
    """Return the first neuron of each pattern, sign and output."""
    masks = activation(problem.X, neurons.vectors)
    tag = np.stack([neurons.sign > 0.0, *(neurons.output == k for k in range(problem.n_outputs))])
    return neurons.take(distinct_columns(np.concatenate([masks, tag])))
