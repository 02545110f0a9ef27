"""Faces of the cones on which the active groups of a proximal step lie.

At p_g = Proj_{K_g}(u) with ||p_g|| > alpha, x_g = sigma (1 - alpha / ||p_g||) p_g answers to a change
of u by sigma J_g, where with kappa = alpha / ||p_g||, P_g the projection on the span of the face of K_g
that p_g lies on, and q = p_g / ||p_g||, which lies in it,

    J_g = (1 - kappa) P_g + kappa q q^T = C_g C_g^T,
    C_g = N_g ((1 - kappa)^1/2 (I - w w^T) + w w^T)

for an orthonormal basis N_g of the face and w = N_g^T q.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Mask = NDArray[np.bool_]

_RIDGE = 1e-12  # ridge of unit normals' products, so that dependent ones have a Cholesky factor
_DEPENDENT = 1e-10  # squared distance of a unit normal from the span of others on which it depends


@dataclass(frozen=True)
class Face:
    """The directions in which active groups can move."""

    active: Index  # positions among the groups of an operator, (m,)
    sign: Array  # their s_g, (m,)
    q: Array  # (m, d)
    kappa: Array  # (m,)
    sigma: float
    normals: Array  # of the constraints that hold p_g, padded by zeros, (m, k, d)
    held: Index  # how many there are, (m,)

    @classmethod
    def of(
        cls, active: Index, sign: Array, p: Array, normals: Array | None, alpha: float, sigma: float
    ) -> Face:
        """Return the faces at p (m, d), ``normals`` (m, k, d) of tight constraints padded by zeros."""
        size = np.linalg.norm(p, axis=1)
        if normals is None:
            normals = np.zeros((len(p), 0, p.shape[1]))
        normals = _independent(normals)
        held = normals.any(axis=2).sum(axis=1)
        return cls(active, sign, p / size[:, None], alpha / size, sigma, normals, held)

    def take(self, index: Index | slice) -> Face:
        """Return the faces at ``index``."""
        return Face(
            self.active[index],
            self.sign[index],
            self.q[index],
            self.kappa[index],
            self.sigma,
            self.normals[index],
            self.held[index],
        )

    @property
    def dimensions(self) -> int:
        """Sum of the dimensions of all faces."""
        return int(self.q.size - self.held.sum())

    @cached_property
    def roots(self) -> tuple[Array, Mask]:
        """Return sigma^1/2 s_g C_g, (m, d, d), and which of their columns (m, d) are not zero."""
        d = self.q.shape[1]
        small, w = np.sqrt(1.0 - self.kappa)[:, None, None], self.q
        used = np.arange(d) >= self.held[:, None]
        basis = np.broadcast_to(np.eye(d), (len(w), d, d))
        if self.held.any():
            # Householder's reflections of zero columns are identities: the last d - held columns of
            # Q span the complement of the normals.
            basis = np.linalg.qr(self.normals.transpose(0, 2, 1), mode="complete")[0]
            basis = np.where(used[:, None, :], basis, 0.0)
            w = np.einsum("gij,gi->gj", basis, w)
        inner = small * np.eye(d) + (1.0 - small) * (w[:, :, None] * w[:, None, :])
        return np.sqrt(self.sigma) * self.sign[:, None, None] * (basis @ inner), used

    @cached_property
    def complement(self) -> Array:
        """Return an orthonormal basis of the span of the normals, zeros where there are fewer.

        With U_g the basis, P_g = I - U_g U_g^T. Shape (m, d, k).
        """
        k = self.normals.shape[1]
        basis = np.linalg.qr(self.normals.transpose(0, 2, 1))[0]
        return np.where(np.arange(k) < self.held[:, None, None], basis, 0.0)


def _independent(normals: Array) -> Array:
    """Return normals (m, k, d) without those that depend on earlier ones, zeros last as before.

    Where rows lie on a grid, some constraints follow from others, and rounding lets them be tight too.
    """
    gram = normals @ normals.transpose(0, 2, 1)
    padding = np.einsum("gii->gi", gram) == 0.0
    np.einsum("gii->gi", gram)[...] += np.where(padding, 1.0, _RIDGE)
    distances = np.einsum("gii->gi", np.linalg.cholesky(gram)) ** 2
    dependent = distances < _DEPENDENT
    if not dependent.any():
        return normals
    order = np.argsort(dependent | padding, axis=1, kind="stable")
    kept = np.where(dependent[:, :, None], 0.0, normals)
    return np.take_along_axis(kept, order[:, :, None], axis=1)
