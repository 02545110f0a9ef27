"""A multigrade ReLU network of fixed width whose residual shrinks at every point and every stage.

Zhang, Shen and Xu (2026, arXiv 2601.16884) prove that a continuous function on a cube has a fixed-width
multigrade ReLU network whose residuals never grow pointwise and converge uniformly to 0. This is a
construction of one, with weights; nothing is trained.

One stage, for the residual e. Cut the cube into the Kuhn simplices of a grid of mesh h so fine that

    |e(x) - e(v)| <= eps <= max|e| / 4         for x in a simplex T and v a vertex of T,            (*)

and subtract, vertex by vertex, c_v phi_v with the hat function phi_v of v (1 at v, 0 at every other
vertex, affine on simplices) and c_v = sign(e(v)) max(|e(v)| - eps, 0).

* Two vertices of a simplex cannot have c of opposite signs: their e differ by at most 2 eps, and both
  exceed eps in size. By (*), e(x) has the sign of every c_v != 0 around it and |c_v| <= |e(x)|. The hats
  at x are non-negative and sum to 1, so any partial sum of c_v phi_v(x) lies between 0 and e(x): *no*
  subtraction raises |e(x)| anywhere.
* |c_v| >= |e(v)| - eps >= |e(x)| - 2 eps, so after the stage |e| <= 2 eps <= max|e| / 2.

Where (*) comes from. e is f minus functions that are affine on T (grids are nested: h is a power of 1/2
and never grows), so e and f have the same distance from their interpolants on T, and

    |e(x) - e(v)| <= max over vertices of T |e(v') - e(v)|  +  |f(x) - (interpolant of f)(x)|.

The first term is computed. The second is at most omega(diameter of T) when f has modulus of continuity
omega: with a modulus, (*) is proved. Without one it is the largest value met at sample points. So is
max|e|: too small only makes eps smaller. A residual that is zero at all these points may still have a
bump between them, at most as high as the second term: with a modulus, the mesh is halved until that is
rounding, a bump is met, or no more nodes are allowed.

The hat is a ReLU network of width d + 2: with z = (x - v) / h, M = max(0, z_1, ..., z_d) and
m = min(0, z_1, ..., z_d), phi_v = relu(1 - M + m). Layer i computes p = relu(M - z_i) and
q = relu(z_i - m), which makes M = z_i + p and m = z_i - q for the next layer, and carries x along
(x >= 0 passes a ReLU unchanged); layer d + 1 is relu(1 - p - q).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from convexgrade.wording import counted

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_ROUNDING = 1e-14  # of the largest value of f: below it, a residual or coefficient is rounding
_CONTRADICTION = 1e-12  # of the same: above a bound by less, what is measured is rounding
_CHUNK = 1 << 17  # points at which f is evaluated at a time


@dataclass(frozen=True, repr=False)
class Stage:
    """One stage: the residual's values at the nodes of a grid, shrunk towards zero and interpolated.

    Attributes
    ----------
    coefficients : ndarray of shape (n_cells + 1,) * d
        c_v at the nodes.
    oscillation : float
        eps: how far the residual before the stage is from its values at the vertices of a simplex;
        proved with a modulus, else the largest met.
    sup_norm : float
        Largest size of the residual before the stage at the points where it was evaluated.
    bound : float
        Bound of its size on the whole cube; inf without a modulus.
    """

    coefficients: Array
    oscillation: float
    sup_norm: float
    bound: float

    def __repr__(self) -> str:
        size = f"{counted(self.n_cells, 'cell')} a side, {counted(self.n_grades, 'grade')}"
        return f"Stage({size}, sup_norm={self.sup_norm:.3g}, bound={self.bound:.3g})"

    @property
    def n_cells(self) -> int:
        """Cells along a side of the cube: the mesh h is ``1 / n_cells``."""
        return self.coefficients.shape[0] - 1

    @property
    def n_grades(self) -> int:
        """Grades of the network: nodes whose coefficient is not zero."""
        return int(np.count_nonzero(self.coefficients))

    def forward(self, X: Array) -> Array:
        """Return the stage's output on rows of X in the cube, shape (n_samples,)."""
        return _interpolate(self.coefficients, X)


@dataclass(frozen=True, repr=False)
class RefinementNetwork:
    """A deep ReLU network of width d + 2, read out at the end of every grade.

    With ``state = (x, 0, 0)`` to begin with, layer l of grade g is
    ``state = max(0, coef[g, l] @ state + intercept[g, l])``; after its last layer, the grade adds
    ``output_coef[g] * state[d]`` to the output.

    Attributes
    ----------
    coef : ndarray of shape (n_grades, d + 1, d + 2, d + 2)
        Weights of the layers of each grade.
    intercept : ndarray of shape (n_grades, d + 1, d + 2)
        Their biases.
    output_coef : ndarray of shape (n_grades,)
        Weight of each readout.
    """

    coef: Array
    intercept: Array
    output_coef: Array

    def __repr__(self) -> str:
        depth = f"{counted(self.n_grades, 'grade')}, {counted(self.n_layers, 'layer')}"
        return f"RefinementNetwork({depth} of width {self.width})"

    @property
    def width(self) -> int:
        """Neurons of every layer, d + 2."""
        return self.coef.shape[-1]

    @property
    def n_grades(self) -> int:
        """Number of readouts."""
        return self.output_coef.size

    @property
    def n_layers(self) -> int:
        """Number of hidden layers."""
        return self.n_grades * self.coef.shape[1]

    def staged(self, X: Array) -> Iterator[Array]:
        """Yield the output on rows of X in the cube after each grade, shape (n_samples,)."""
        d = self.width - 2
        state, output = np.pad(X, ((0, 0), (0, 2))), np.zeros(len(X))
        for coef, intercept, output_coef in zip(
            self.coef, self.intercept, self.output_coef, strict=True
        ):
            for layer, bias in zip(coef, intercept, strict=True):
                state = np.maximum(state @ layer.T + bias, 0.0)
            output = output + output_coef * state[:, d]
            yield output

    def forward(self, X: Array) -> Array:
        """Return the output on rows of X in the cube, shape (n_samples,)."""
        output = np.zeros(len(X))
        for output in self.staged(X):  # noqa: B007 - the last is the result
            pass
        return output


@dataclass(frozen=True)
class Residual:
    """A function minus the stages so far.

    Attributes
    ----------
    f : callable
        The function: points (n_samples, d) to values (n_samples,).
    points : ndarray of shape (n_points, d)
        Points at which the residual is watched, besides the nodes of grids.
    left : ndarray of shape (n_points,)
        Its values there.
    stages : tuple of Stage
        The stages.
    """

    f: Function
    points: Array
    left: Array
    stages: tuple[Stage, ...] = ()

    @property
    def scale(self) -> float:
        """Largest size of f that the first stage met; 0 before it."""
        return self.stages[0].sup_norm if self.stages else 0.0

    @property
    def n_cells(self) -> int:
        """Cells of the finest grid so far."""
        return self.stages[-1].n_cells if self.stages else 1

    @property
    def is_zero(self) -> bool:
        """Whether the last stage met nothing but rounding where the residual was evaluated."""
        return bool(self.stages) and self.stages[-1].sup_norm <= _ROUNDING * self.scale

    @property
    def is_proved_zero(self) -> bool:
        """Whether it is no more than rounding anywhere on the cube; see `next_stage`."""
        return self.is_zero and self.stages[-1].bound <= 2.0 * _ROUNDING * self.scale

    def at(self, X: Array) -> Array:
        """Return the residual at points."""
        return self.f(X) - sum(stage.forward(X) for stage in self.stages)

    def on_grid(self, n_cells: int) -> Array:
        """Return the residual at the nodes of a grid, shape (n_cells + 1,) * d."""
        d = self.points.shape[1]
        shape = (n_cells + 1,) * d
        values = np.empty(np.prod(shape))
        for first in range(0, values.size, _CHUNK):
            index = np.arange(first, min(first + _CHUNK, values.size))
            nodes = np.column_stack(np.unravel_index(index, shape)) / n_cells
            values[index] = self.at(nodes)
        return values.reshape(shape)

    def after(self, stage: Stage) -> Residual:
        """Return the residual after a further stage."""
        left = self.left - stage.forward(self.points)
        return replace(self, left=left, stages=(*self.stages, stage))

    def sup_norm(self) -> float:
        """Return its largest size at the random points and the nodes of the last grid."""
        nodes = self.on_grid(self.n_cells)
        return float(max(np.abs(self.left).max(), np.abs(nodes).max()))


def next_stage(
    residual: Residual, modulus: Callable[[float], float] | None, max_nodes: int
) -> Stage | None:
    """Return the stage on the coarsest nested grid that meets (*); None if ``max_nodes`` has none.

    Where nothing but rounding is met, no finite grid may meet (*): what is between its nodes can only be
    bounded. With a modulus, grids then get finer until what it allows between nodes is rounding as well,
    or until something is met. Should ``max_nodes`` end this, the stage is that of the finest grid.

    Raises
    ------
    ValueError
        If the modulus is not one of f, as far as this is seen at nodes and sample points.
    """
    d, n_cells = residual.points.shape[1], residual.n_cells
    sup_norm = float(np.abs(residual.left).max())
    rounding = _ROUNDING * residual.scale
    finest = None
    while (n_cells + 1) ** d <= max_nodes:
        nodes = residual.on_grid(n_cells)
        sup_norm = max(sup_norm, float(np.abs(nodes).max()))
        sampled = _sampled_deviation(residual, nodes)
        between = sampled if modulus is None else modulus(sqrt(d) / n_cells)
        oscillation = _vertex_oscillation(nodes) + between
        if modulus is not None:
            _check_modulus(residual, nodes, sampled, between)
        bound = np.inf if modulus is None else float(np.abs(nodes).max()) + between
        stage = _shrunk(nodes, oscillation, sup_norm, bound)
        nothing = sup_norm <= rounding
        if 4.0 * oscillation <= sup_norm or (nothing and (modulus is None or between <= rounding)):
            return stage
        finest = stage if nothing else None
        n_cells *= 2
    return finest


def _shrunk(nodes: Array, oscillation: float, sup_norm: float, bound: float) -> Stage:
    """Return the stage that shrinks the residual with these values at nodes."""
    size = np.maximum(np.abs(nodes) - oscillation, 0.0)
    size[size < _ROUNDING * sup_norm] = 0.0
    return Stage(np.sign(nodes) * size, oscillation, sup_norm, bound)


def _check_modulus(residual: Residual, nodes: Array, sampled: float, between: float) -> None:
    """Refuse a modulus that the residual contradicts on the grid with these nodes.

    With omega a modulus of f, e is within omega(diameter) of its interpolant. Before the first stage e
    is f, of which vertices of a simplex are values at most a diameter apart.
    """
    largest = float(np.abs(nodes).max())
    scale = max(residual.scale, largest, float(np.abs(residual.left).max()))
    found = sampled if residual.stages else max(sampled, _vertex_oscillation(nodes))
    if found > between + _CONTRADICTION * scale:
        d, n_cells = nodes.ndim, nodes.shape[0] - 1
        raise ValueError(
            f"modulus is too small for f: it allows a change of {between:.6g} over a distance of "
            f"{sqrt(d) / n_cells:.6g}, the diagonal of a cell, where f was seen to change by "
            f"{found:.6g} or more. Take a larger modulus, or None."
        )


def _vertex_oscillation(nodes: Array) -> float:
    """Return the largest difference of two vertices of a simplex.

    Two vertices of a Kuhn simplex differ by h in some coordinates and by 0 in the others.
    """
    largest = 0.0
    for step in list(product((0, 1), repeat=nodes.ndim))[1:]:
        ahead = nodes[tuple(slice(s, None) for s in step)]
        behind = nodes[tuple(slice(None, -s or None) for s in step)]
        largest = max(largest, float(np.abs(ahead - behind).max()))
    return largest


def _sampled_deviation(residual: Residual, nodes: Array) -> float:
    """Return the largest distance met of the residual from its interpolant.

    It is looked for at the random points, and at one more in every cell.
    """
    d, n_cells = nodes.ndim, nodes.shape[0] - 1
    largest = float(np.abs(residual.left - _interpolate(nodes, residual.points)).max())
    rng = np.random.default_rng(n_cells)
    for first in range(0, n_cells**d, _CHUNK):
        index = np.arange(first, min(first + _CHUNK, n_cells**d))
        corner = np.column_stack(np.unravel_index(index, (n_cells,) * d))
        X = (corner + rng.random(corner.shape)) / n_cells
        largest = max(largest, float(np.abs(residual.at(X) - _interpolate(nodes, X)).max()))
    return largest


def _interpolate(nodes: Array, X: Array) -> Array:
    """Return the function that is affine on Kuhn simplices with these values at the nodes.

    The simplex of x has the vertices that its cell's lower corner passes through when the coordinates
    step up one by one, the one with the largest fraction first.
    """
    (n, d), n_cells = X.shape, nodes.shape[0] - 1
    vertex = np.minimum((X * n_cells).astype(np.intp), n_cells - 1)
    fraction = X * n_cells - vertex
    order = np.argsort(-fraction, axis=1, kind="stable")
    fraction = np.hstack(
        [np.ones((n, 1)), np.take_along_axis(fraction, order, 1), np.zeros((n, 1))]
    )
    values = np.zeros(n)
    for k in range(d + 1):
        values += (fraction[:, k] - fraction[:, k + 1]) * nodes[tuple(vertex.T)]
        if k < d:
            vertex[np.arange(n), order[:, k]] += 1
    return values


def network_of(stage: Stage) -> RefinementNetwork:
    """Return the grades of a stage, one block of d + 1 layers each (see the module's text)."""
    d, n_cells = stage.coefficients.ndim, stage.n_cells
    node = np.argwhere(stage.coefficients != 0.0).astype(np.float64)  # v / h
    p, q = d, d + 1
    layers = np.zeros((d + 1, d + 2, d + 2))
    layers[:, :d, :d] = np.eye(d)
    biases = np.zeros((len(node), d + 1, d + 2))
    for i in range(d):  # M - z_i and z_i - m, with M = m = 0 before the first
        layers[i, p, i], layers[i, q, i] = -n_cells, n_cells
        biases[:, i, p], biases[:, i, q] = node[:, i], -node[:, i]
        if i > 0:  # M = z_{i-1} + p and m = z_{i-1} - q
            layers[i, p, i - 1], layers[i, p, p] = n_cells, 1.0
            layers[i, q, i - 1], layers[i, q, q] = -n_cells, 1.0
            biases[:, i, p] -= node[:, i - 1]
            biases[:, i, q] += node[:, i - 1]
    layers[d, p, [p, q]] = -1.0
    biases[:, d, p] = 1.0
    return RefinementNetwork(
        coef=np.broadcast_to(layers, (len(node), *layers.shape)),
        intercept=biases,
        output_coef=stage.coefficients[stage.coefficients != 0.0],
    )
