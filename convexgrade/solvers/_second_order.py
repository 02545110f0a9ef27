"""Second-order cones {(t, v) : ||v|| <= t}, many at once: their Jordan algebra and scalings.

Elements are the rows of arrays of shape (n_cones, 1 + d). With the product

    x o y = (<x, y>, x_0 y_1 + y_0 x_1),         identity (1, 0),

an element has the eigenvalues x_0 +- ||x_1||, and the cone is where both are non-negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def join(axis: Array, rest: Array) -> Array:
    """Return the elements with these first and other coordinates."""
    return np.concatenate([axis[:, None], rest], axis=1)


def product(x: Array, y: Array) -> Array:
    """Return x o y."""
    return join(np.vecdot(x, y), x[:, :1] * y[:, 1:] + y[:, :1] * x[:, 1:])


def determinant(x: Array) -> Array:
    """Return x_0^2 - ||x_1||^2, the product of the eigenvalues, without cancelling squares."""
    norm = np.linalg.norm(x[:, 1:], axis=1)
    return np.asarray((x[:, 0] - norm) * (x[:, 0] + norm))


def divide(x: Array, y: Array) -> Array:
    """Return z with y o z = x."""
    axis = (y[:, 0] * x[:, 0] - np.vecdot(y[:, 1:], x[:, 1:])) / determinant(y)
    return join(axis, (x[:, 1:] - axis[:, None] * y[:, 1:]) / y[:, :1])


def clip_eigenvalues(x: Array, low: float, high: float) -> Array:
    """Return x with its eigenvalues moved into [low, high]."""
    norm = np.linalg.norm(x[:, 1:], axis=1)
    small, large = np.clip(x[:, 0] - norm, low, high), np.clip(x[:, 0] + norm, low, high)
    radius = np.divide(large - small, 2.0 * norm, out=np.zeros_like(norm), where=norm > 0.0)
    return join((small + large) / 2.0, radius[:, None] * x[:, 1:])


def positive_root(b: Array | float, c: Array) -> Array:
    """Return the x > 0 with x^2 - b x = c for c > 0, in the form that does not cancel."""
    size = np.hypot(b, 2.0 * np.sqrt(c))
    return np.where(np.asarray(b) > 0.0, 0.5 * (b + size), 2.0 * c / np.maximum(size - b, 1e-300))


def reach(x: Array, step: Array) -> float:
    """Return the largest a for which every x + a step lies in the cone; x lies inside.

    The first positive root of det(x + a step) = det x + 2 a b + a^2 det(step). With R the root of
    b^2 - det(step) det x, it is det x / (R - b) where b <= 0, and for b > 0, which that form cancels
    for, (b + R) / -det(step), if the step leaves the cone at all: if det(step) < 0.
    """
    b = x[:, 0] * step[:, 0] - np.vecdot(x[:, 1:], step[:, 1:])
    det, det_step = determinant(x), determinant(step)
    root = np.sqrt(np.maximum(b**2 - det_step * det, 0.0))  # negative by rounding alone
    above, below = np.where(b > 0.0, b + root, det), np.where(b > 0.0, -det_step, root - b)
    return float(np.min(np.divide(above, below, out=np.full_like(det, np.inf), where=below > 0.0)))


@dataclass(frozen=True)
class NesterovTodd:
    """The scaling W = W^T of Nesterov and Todd with W z = W^-1 s =: point, for s, z inside.

    W^2 = eta^2 (2 w w^T - J) with J = diag(1, -1, ..., -1), w^T J w = 1.

    A Newton step on s o z asks for W dz + W^-1 ds = u. Where the axis of z is a constant, dz_0 = 0,
    it fixes the axis of ds; with p = W^-1 u and rho = 2 / (1 + 2 ||w_1||^2) what remains is

        ds_0 = rho (eta^2 p_0 / 2 + w_0 w_1 . ds_1)
        dz_1 = p_1 + rho w_0 p_0 w_1 - S ds_1,        S = eta^-2 (I - rho w_1 w_1^T).
    """

    w: Array
    eta: Array
    point: Array

    @classmethod
    def between(cls, s: Array, z: Array) -> NesterovTodd:
        """Return the scaling of two interior points."""
        det_s, det_z = determinant(s), determinant(z)
        s_unit, z_unit = s / np.sqrt(det_s)[:, None], z / np.sqrt(det_z)[:, None]
        gamma = np.sqrt((1.0 + np.vecdot(s_unit, z_unit)) / 2.0)
        w = (s_unit + join(z_unit[:, 0], -z_unit[:, 1:])) / (2.0 * gamma[:, None])
        eta = (det_s / det_z) ** 0.25
        return cls(w, eta, eta[:, None] * _apply(w, z))

    def apply(self, x: Array) -> Array:
        """Return W x."""
        return self.eta[:, None] * _apply(self.w, x)

    def invert(self, x: Array) -> Array:
        """Return W^-1 x."""
        flipped = join(self.w[:, 0], -self.w[:, 1:])
        return _apply(flipped, x) / self.eta[:, None]

    @cached_property
    def rho(self) -> Array:
        """Return rho, shape (n_cones,)."""
        return 2.0 / (1.0 + 2.0 * np.vecdot(self.w[:, 1:], self.w[:, 1:]))

    def axis_step(self, p: Array, step: Array) -> Array:
        """Return ds_0 for ``step`` = ds_1."""
        along = self.w[:, 0] * np.vecdot(self.w[:, 1:], step)
        return self.rho * (0.5 * self.eta**2 * p[:, 0] + along)

    def reduce(self, p: Array) -> Array:
        """Return dz_1 + S ds_1."""
        return p[:, 1:] + (self.rho * self.w[:, 0] * p[:, 0])[:, None] * self.w[:, 1:]

    def multiply(self, step: Array) -> Array:
        """Return S ds_1 for ``step`` = ds_1."""
        along = self.rho * np.vecdot(self.w[:, 1:], step)
        return (step - along[:, None] * self.w[:, 1:]) / self.eta[:, None] ** 2

    def roots(self) -> Array:
        """Return S^1/2 = eta^-1 (I - rho / (1 + (1 + 2 ||w_1||^2)^-1/2) w_1 w_1^T)."""
        factor = self.rho / (1.0 + np.sqrt(0.5 * self.rho))
        outer = self.w[:, 1:, None] * self.w[:, None, 1:]
        identity = np.eye(outer.shape[1])
        return (identity - factor[:, None, None] * outer) / self.eta[:, None, None]


def _apply(w: Array, x: Array) -> Array:
    along = np.vecdot(w[:, 1:], x[:, 1:])
    axis = w[:, 0] * x[:, 0] + along
    return join(axis, x[:, 1:] + (x[:, 0] + along / (1.0 + w[:, 0]))[:, None] * w[:, 1:])
