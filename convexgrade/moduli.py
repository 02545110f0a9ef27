"""Moduli of continuity, and how close readouts over nested cells come by them.

Why the bound holds. Let A_i average over the cells along coordinate i alone, h be their side, and w(h)
the L^p modulus of f. Jensen's inequality in a cell, and shifts s in place of pairs of points, give

    ||f - A_i f||^p  <=  (2 / h) * integral_0^h ||f(. + s e_i) - f||^p ds  <=  2 w(h)^p .

The average over a cell is A_1 ... A_d, no A_i increases an L^p norm, and f - A_1 ... A_d f telescopes
into d such terms: at most ``d * 2**(1 / p) * w(h) <= 2 d w(h)``. One more w(h) pays for what a network
adds to the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convexgrade.checks import check_least
from convexgrade.geometric import Box, as_box

Array = NDArray[np.float64]
Modulus = float | tuple[float, float] | Callable[[float], float]

_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)
_FIXED_SHIFTS = 24  # of an estimate on each axis, each _GOLDEN times the one before
_SMALLEST = 2.0**-1074  # least side of a cell, in units of the box, in double precision
_MAX_LAYERS = 1074  # layers that come to such a cell, at most


class ReadoutCheck(NamedTuple):
    """What `check_readout_bound` measured at one layer.

    Attributes
    ----------
    layer : int
        The layer, counted from 1.
    error : float
        Measured L^p error over the box.
    modulus : float
        Modulus of continuity at the side of the layer's cells.
    bound : float
        ``(2 d + 1) * modulus``.
    ratio : float
        ``error / bound``: at most 1 where the bound holds.
    """

    layer: int
    error: float
    modulus: float
    bound: float
    ratio: float


def compare_readouts(
    readouts: Callable[[Array], Iterable[Array]],
    f: Callable[[Array], ArrayLike],
    moduli: Array,
    box: Box,
    p: float,
    n_points: int,
) -> list[ReadoutCheck]:
    """Measure the L^p distance of each readout from a function, and set it beside its bound.

    Parameters
    ----------
    readouts : callable
        Takes rows and returns the readouts, such as ``staged_predict`` or a network's ``forward``.
    f : callable
        Takes rows, shape (n, n_features), and returns n numbers.
    moduli : ndarray of shape (n_layers,)
        Modulus of f at the side of each layer's cells.
    box : Box
        Where to measure.
    p : float
        Exponent of the norm.
    n_points : int
        Points of the quadrature.

    Returns
    -------
    list of ReadoutCheck
        One for each layer.

    Raises
    ------
    TypeError
        If f is no function.
    ValueError
        If it does not return one finite number a row.
    """
    check_least("n_points", n_points, Integral, 1)
    points = spread_points(box, n_points)
    values = values_of(f, points)
    rows = []
    for layer, (readout, modulus) in enumerate(zip(readouts(points), moduli, strict=True), start=1):
        error = lp_norm(np.reshape(readout, n_points) - values, p)
        bound = float((2 * box.n_features + 1) * modulus)
        if bound > 0.0:
            ratio = error / bound
        else:
            ratio = 0.0 if error == 0.0 else float("inf")
        rows.append(ReadoutCheck(layer, error, float(modulus), bound, ratio))
    return rows


def values_of(f: Callable[[Array], ArrayLike], points: Array, *, most: int = 1) -> Array:
    """Return the values of f, checked, at points (n_points, n_features): of ``most`` dimensions."""
    if not callable(f):
        raise TypeError(f"f={f!r} must be a function of rows, shape (n_samples, n_features).")
    values = np.asarray(f(points.copy()), dtype=np.float64)  # f may write on what it gets
    if not 1 <= values.ndim <= most or len(values) != len(points) or values.size == 0:
        raise ValueError(
            f"f returned shape {values.shape} for {len(points)} rows; one number a row."
        )
    if not np.isfinite(values).all():
        worst = points[np.argwhere(~np.isfinite(values))[0, 0]]
        raise ValueError(f"f must be finite on the box; it is not at {worst.tolist()}.")
    return values


def lp_norm(values: Array, p: float, count: int | None = None) -> float:
    """Return the L^p norm of values that each stand for a share of ``1 / count``; default: all."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    total = float(np.sum((np.abs(values) / largest) ** p))  # no power of a small or large number
    return largest * (total / (values.size if count is None else count)) ** (1.0 / p)


def as_modulus(modulus: Modulus) -> Callable[[float], float]:
    """Return a modulus of continuity as a function of the scale.

    Parameters
    ----------
    modulus : float, tuple (constant, exponent), or callable
        A Lipschitz constant C, for ``C t``; a Hölder pair (C, a) with 0 < a <= 1, for ``C t**a``; or
        the modulus itself.

    Returns
    -------
    callable
        The modulus at a scale t >= 0.

    Raises
    ------
    ValueError
        If a constant is negative or not finite, or the exponent is outside (0, 1].
    TypeError
        If it is none of the three.
    """
    if callable(modulus):
        return modulus
    given: Any = modulus
    if isinstance(given, Real):
        constant, exponent = float(given), 1.0
    elif isinstance(given, tuple | list) and len(given) == 2:
        if not all(isinstance(part, Real) for part in given):
            raise TypeError(f"modulus={modulus!r} must be a Hölder pair of numbers.")
        constant, exponent = float(given[0]), float(given[1])
    else:
        raise TypeError(
            f"modulus={modulus!r} must be a Lipschitz constant, a Hölder pair (constant, exponent), "
            f"or a callable that returns the modulus at a scale."
        )
    if not (0.0 <= constant < np.inf and 0.0 < exponent <= 1.0):
        raise ValueError(
            f"modulus={modulus!r} must have a finite constant >= 0 and an exponent in (0, 1]."
        )
    return lambda t: constant * t**exponent


def layer_moduli(modulus: Modulus, box: Box, base: int, n_layers: int) -> Array:
    """Return the modulus at the side of the cells of layers 1, 2, ..., in units of the data.

    Raises
    ------
    ValueError
        If a callable returns something that is no non-negative number.
    """
    function = as_modulus(modulus)
    values = np.array([_layer_modulus(function, box, base, k + 1) for k in range(n_layers)])
    return values.astype(np.float64)


def _layer_modulus(function: Callable[[float], float], box: Box, base: int, layer: int) -> float:
    # No side rounds to 0: the modulus of a larger one is a bound as well.
    scale = float(box.width.max()) * max(float(base) ** -layer, _SMALLEST)
    return modulus_at(function, scale)


def modulus_at(modulus: Callable[[float], float], scale: float) -> float:
    """Return a modulus at a scale.

    Raises
    ------
    ValueError
        If that is no non-negative number.
    """
    value = np.asarray(modulus(scale))
    if value.ndim or value.dtype.kind not in "iuf" or not value >= 0.0:
        raise ValueError(
            f"modulus returned {value} at scale {scale:g}; it must be a number, at least 0."
        )
    return float(value)


def layers_for(eps: float, modulus: Modulus, box: Box, base: int) -> int:
    """Return the first layer whose bound ``(2 d + 1) * modulus`` is at most ``eps``.

    Raises
    ------
    ValueError
        If ``eps`` is not positive, or no layer reaches it.
    """
    given: Any = eps
    if not (isinstance(given, Real) and eps > 0.0):
        raise ValueError(f"eps={eps!r} must be positive.")
    function = as_modulus(modulus)
    for layer in range(1, _MAX_LAYERS + 1):
        if (2 * box.n_features + 1) * _layer_modulus(function, box, base, layer) <= eps:
            return layer
    raise ValueError(
        f"eps={eps!r} is below the bound of every layer up to {_MAX_LAYERS}: this modulus does not "
        f"get small enough at sides of cells down to {_SMALLEST:.1g} of the box's."
    )


def spread_points(box: Box, n_points: int) -> Array:
    """Return points that fill a box evenly, without chance: an additive recurrence.

    Its steps are the powers of 1 / g, where g > 1 solves ``g**(d + 1) = g + 1``; one coordinate has the
    golden ratio for g.
    """
    d = box.n_features
    root = 2.0
    for _ in range(60):  # a contraction
        root = (1.0 + root) ** (1.0 / (d + 1))
    steps = root ** -np.arange(1.0, d + 1.0)
    return box.points(np.modf(0.5 + np.outer(np.arange(1.0, n_points + 1.0), steps))[0])


def empirical_modulus(
    f: Callable[[Array], ArrayLike],
    n_features: int,
    p: float = 2.0,
    *,
    domain: tuple[ArrayLike, ArrayLike] = (0.0, 1.0),
    n_points: int = 20_000,
    n_shifts: int = 8,
) -> Callable[[float], float]:
    """Estimate the L^p modulus of continuity of a function on a box.

    The modulus at scale t is the largest L^p norm of ``f(x + h) - f(x)`` over shifts h of length at
    most t; x runs over those points of the box for which x + h is in it. This takes shifts along each
    axis (the bound on readouts needs no others), ``n_shifts`` that divide t evenly and those of a fixed
    geometric progression that are below t, and ``n_points`` points. **It is a lower bound, up to the
    error of the quadrature**: a longer look may find a larger modulus.

    Parameters
    ----------
    f : callable
        Takes rows, shape (n, n_features), and returns n numbers.
    n_features : int
        Number of coordinates.
    p : float, default=2.0
        Exponent of the norm, at least 1. The norm is a mean over the box: its volume counts as 1.
    domain : tuple (low, high), default=(0.0, 1.0)
        Corners of the box; numbers or arrays of shape (n_features,), ``low < high``.
    n_points : int, default=20_000
        Points x.
    n_shifts : int, default=8
        Shifts that divide t evenly.

    Returns
    -------
    callable
        The estimate at a scale t >= 0, for ``modulus`` in `check_readout_bound` and others.

    Raises
    ------
    TypeError
        If f is no function.
    ValueError
        If a parameter is not as described, or f does not return one finite number a row.

    Examples
    --------
    >>> from convexgrade.moduli import empirical_modulus
    >>> modulus = empirical_modulus(lambda X: 3.0 * X[:, 0], 1)
    >>> round(modulus(0.25), 2)  # 3 t, over the three quarters of [0, 1] where x + t is inside
    0.65
    """
    check_least("p", p, Real, 1)
    for name, size in (("n_features", n_features), ("n_points", n_points), ("n_shifts", n_shifts)):
        check_least(name, size, Integral, 1)
    return modulus_on(as_box(domain, n_features), f, p, n_points, n_shifts)


def modulus_on(
    box: Box,
    f: Callable[[Array], ArrayLike],
    p: float,
    n_points: int = 20_000,
    n_shifts: int = 8,
) -> Callable[[float], float]:
    """Estimate the modulus as `empirical_modulus` does, on a box that may have sides of no length.

    A box around rows has one where a column is constant.
    """
    points = spread_points(box, n_points)
    values = values_of(f, points)
    # Whatever t is, so that the estimate hardly falls with it; even parts of t can all be periods of f.
    steps = box.width[:, None] * _GOLDEN ** np.arange(_FIXED_SHIFTS)

    @cache
    def change(axis: int, shift: float) -> float:
        moved = points.copy()
        moved[:, axis] += shift
        inside = moved[:, axis] <= box.high[axis]
        if not inside.any():
            return 0.0
        return lp_norm(values_of(f, moved[inside]) - values[inside], p, n_points)

    def modulus(t: float) -> float:
        if not 0.0 <= t < np.inf:
            raise ValueError(f"t={t!r} must be a scale: finite, and at least 0.")
        worst = 0.0
        for axis in range(box.n_features):
            even = np.minimum(t, box.width[axis]) * np.arange(1, n_shifts + 1) / n_shifts
            for shift in (*even, *steps[axis][steps[axis] < t]):
                worst = max(worst, change(axis, float(shift)))
        return worst

    return modulus
