"""Quadratic models, in units in which no variable is small; and null spaces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NONE = 1e-100  # root of a curvature that is as good as none
_ROUNDING = 1e-13  # curvature, relative to that of single variables, that is rounding
_DEPENDENT = 1e-8  # singular value, relative to the largest, that counts as zero


def least_squares(curvature: Array, right: Array) -> Array:
    """Return the x of least squares with ``curvature @ x = right``, flat directions left alone.

    In units in which each variable has about the same curvature: columns of any size, and outputs of
    rare classes, count for as much as others.
    """
    unit = diagonal_units(curvature)
    scaled = curvature / np.outer(unit, unit)
    return np.asarray(np.linalg.lstsq(scaled, right / unit, rcond=_ROUNDING)[0] / unit)


def diagonal_units(curvature: Array) -> Array:
    """Return the roots of the diagonal to a power of two, so that scaling by them changes no digit."""
    roots = np.sqrt(np.maximum(np.diagonal(curvature), 0.0))
    return np.asarray(np.exp2(np.round(np.log2(np.where(roots < _NONE, 1.0, roots)))))


def null_space(responses: Array) -> Array:
    """Return an orthonormal basis, as columns, of the z with ``responses @ z = 0``, up to rounding."""
    # By way of QR: the left singular vectors of all rows would be a square matrix of their number.
    triangle = np.linalg.qr(responses, mode="r")
    _, s, Vt = np.linalg.svd(triangle, full_matrices=True)
    rank = int(np.sum(s > _DEPENDENT * s.max(initial=0.0)))
    return Vt[rank:].T
