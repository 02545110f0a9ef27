"""Losses with kinks: absolute and quantile errors, Huber's loss and the hinges.

Of each, the gradient q is a bounded or one-sided function of the distance r from a kink:

    q(r) = mid + half z,   z the sign of r, or for Huber's loss r / width cut off at -1 and 1,

with bounds mid - half and mid + half. A Newton method sees no curvature in them but at the kink. So
solvers smooth it, first widely, then less and less:

    r = z sqrt(width^2 + smoothing^2 / (1 - z^2)),                                                 (*)

which is z = r / sqrt(r^2 + smoothing^2) without a width. In the dual, where q is the variable, that adds
a term which is steep at the bounds. A Newton step there is a straight line, on which q goes most of the
way to a bound at most; as a path of predictions, by (*), it is curved. Along such paths, a tenth of the
smoothing takes about a dozen steps. (Along straight lines of predictions, rows far from their kink
would be carried across it and back.)

Losses without a width keep a little smoothing: with it an optimal prediction tells its q, which
certificates need, by how little the row misses the kink. Near the bounds everything is computed from
c = 1 - |z|, which keeps its digits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from convexgrade.losses import Hessian, Loss, Path, Straight

Array = NDArray[np.float64]

_FINEST = 1e-3  # smoothing that losses without a width keep, in units of the coded targets
_LEAST = 1e-12  # and that smoothed ones of others have, in units of their width
_SHARE = 0.95  # of the way to a bound that a path goes
_HALVINGS = 100  # of the interval in which the best constant lies
_ROUNDING = 4e-16  # of the terms of a cost
_FLATTEST = 1e-6  # k^2 of a kink whose least is where its gradient is 0; hinges have none
_OUTSIDE = 1e-12  # by how much rounding may leave the bounds of q


class Kink(NamedTuple):
    """The kinks of all targets, and the bounds ``mid - half`` and ``mid + half`` of the gradients."""

    at: Array
    mid: Array | float
    half: float


class _Separable:
    """Losses that are sums over outputs: all follows from functions of single numbers."""

    quadratic = False
    kinked = True
    coupled = False

    def costs(self, f: Array, y: Array) -> Array:
        """Return the loss of each number."""
        raise NotImplementedError

    def bends(self, f: Array, y: Array) -> Array:
        """Return the second derivative at each number."""
        raise NotImplementedError

    def gradient(self, f: Array, y: Array) -> Array:
        """Return the derivative at each number."""
        raise NotImplementedError

    def dual_costs(self, q: Array, y: Array) -> Array:
        """Return the conjugate of each number."""
        raise NotImplementedError

    def value(self, f: Array, y: Array) -> Array:
        """Return the loss of each row."""
        return np.sum(self.costs(f, y), axis=1)

    def hessian(self, f: Array, y: Array) -> Hessian:
        """Return a diagonal matrix for each row."""
        return Hessian(self.bends(f, y))

    def conjugate(self, q: Array, y: Array) -> Array:
        """Return the conjugate of each row; inf outside the bounds."""
        return np.sum(self.dual_costs(q, y), axis=1)

    def baseline(self, y: Array, weights: Array) -> Array:
        """Return the best constant for each output: where the mean gradient changes sign.

        Targets are kinks, or, of classes 0 and 1, within 1 of them; rounding can move it beyond.
        """
        low, high = y.min(axis=0) - 2.0, y.max(axis=0) + 2.0
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            rising = weights @ self.gradient(np.broadcast_to(middle, y.shape), y) > 0.0
            low, high = np.where(rising, low, middle), np.where(rising, middle, high)
        return 0.5 * (low + high)


@dataclass(frozen=True, kw_only=True)
class _Smoothed(_Separable):
    """A loss with bounded gradients whose kinks are smoothed, by (*)."""

    smoothing: float = _FINEST
    width: ClassVar[float] = 0.0

    def kink(self, y: Array) -> Kink:
        """Return where the kinks are."""
        raise NotImplementedError

    def costs(self, f: Array, y: Array) -> Array:
        """Return the loss of each number, 0 at its least: what is left there is rounding.

        With a = mid / half and k^2 + a^2 = 1, over half: ``(r^2 + s^2)^1/2 - (s k - a r)`` at the
        distance r from the kink. Where that cancels, it is ``(k r + a s)^2`` over their sum. Where the
        gradient is 0 up to rounding, k r + a s is up to that times s / k^2.
        """
        at, mid, half = self.kink(y)
        r, a, s = f - at, mid / half, self.smoothing
        k = np.sqrt(1.0 - a**2)
        root, less, off = np.hypot(r, s), s * k - a * r, k * r + a * s
        rounding = _ROUNDING * (k * (np.abs(at) + np.abs(r)) + s / np.maximum(k**2, _FLATTEST))
        off = np.where(np.abs(off) <= rounding, 0.0, off)
        return half * np.where(less > 0.0, off * (off / (root + np.abs(less))), root - less)

    def gradient(self, f: Array, y: Array) -> Array:
        """Return the derivative, between the bounds; over half, it is a + z with a = mid / half.

        Where these have opposite signs, by what each is short of 1, of which hinges have little.
        """
        at, mid, half = self.kink(y)
        a, (z, short) = mid / half, self._turned(f - at)
        opposite = np.sign(a) * (short - (1.0 - np.abs(a)))
        return half * np.where(a * z < 0.0, opposite, a + z)

    def bends(self, f: Array, y: Array) -> Array:
        """Return the second derivative, which is positive."""
        at, _, half = self.kink(y)
        return half / self._stiffness(self._short(f - at))

    def dual_costs(self, q: Array, y: Array) -> Array:
        """Return the conjugate: ``q at``, and what smoothing adds."""
        at, mid, half = self.kink(y)
        a, share = mid / half, q / half
        z = share - a
        inside = np.abs(z) <= 1.0 + _OUTSIDE
        roots = np.sqrt(1.0 - a**2) + np.sqrt(np.maximum(1.0 - z**2, 0.0))
        # The difference of the roots, of which a small q would leave no digit.
        added = share * (share - 2.0 * a) / np.where(roots > 0.0, roots, 1.0)
        return np.where(inside, q * at + half * self.smoothing * added, np.inf)

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return the bounds of the gradient."""
        at, mid, half = self.kink(y)
        return np.broadcast_to(mid - half, at.shape), np.broadcast_to(mid + half, at.shape)

    def smoothed(self, smoothing: float) -> Self:
        """Return the loss with its kinks smoothed more."""
        return replace(self, smoothing=max(smoothing, self.smoothing))

    def carried(self, f: Array, y: Array, to: Loss) -> Array:
        """Return where ``to``, a loss of this kind, has the gradient that this one has at ``f``."""
        r = f - self.kink(y).at
        return self.kink(y).at + np.copysign(cast(_Smoothed, to)._distance(self._short(r)), r)

    def path(self, f: Array, step: Array, y: Array) -> Path:
        """Return the predictions at which q moves on a straight line."""
        at = self.kink(y).at
        side, short = np.where(f < at, -1.0, 1.0), self._short(f - at)
        turn = side * step / self._stiffness(short)  # of |z|
        room = np.where(turn > 0.0, short, 2.0 - short)
        fastest = float(np.max(np.abs(turn) / room, initial=0.0))

        def shorts(length: float) -> Array:
            return short - length * turn

        return Path(
            longest=min(1.0, _SHARE / max(fastest, 1e-300)),
            at=lambda length: at + side * self._distance(shorts(length)),
            velocity=lambda length: side * turn * self._stiffness(shorts(length)),
        )

    def _short(self, r: Array) -> Array:
        """Return c = 1 - |z| at a distance from the kink."""
        return self._turned(r)[1]

    def _turned(self, r: Array) -> tuple[Array, Array]:
        """Return z and c = 1 - |z| at a distance from the kink, each with all its digits.

        z = (R+ - R-) / (2 width) with R+- = ((r +- width)^2 + smoothing^2)^1/2, whose squares differ by
        4 r width.
        """
        near, far = np.abs(r) - self.width, np.abs(r) + self.width
        of_near, of_far = np.hypot(near, self.smoothing), np.hypot(far, self.smoothing)
        left = _less(of_near, near, self.smoothing) + _less(of_far, far, self.smoothing)
        return 2.0 * r / (of_near + of_far), left / (of_near + of_far)

    def _distance(self, short: Array) -> Array:
        """Return |r| by (*), negative beyond the kink, at c = 1 - |z|."""
        return (1.0 - short) * np.sqrt(self.width**2 + self.smoothing**2 / (short * (2.0 - short)))

    def _stiffness(self, short: Array) -> Array:
        """Return the derivative of r by z."""
        from_bounds = short * (2.0 - short)
        steep = self.smoothing**2 / from_bounds
        root = np.sqrt(self.width**2 + steep)
        return root + (1.0 - short) ** 2 * steep / (from_bounds * root)


def _less(root: Array, t: Array, smoothing: float) -> Array:
    """Return ``sqrt(t^2 + smoothing^2) - t`` without cancellation."""
    return np.where(t > 0.0, smoothing**2 / (root + np.abs(t)), root - t)


@dataclass(frozen=True, kw_only=True)
class Quantile(_Smoothed):
    """Twice the pinball loss of a quantile; of ``quantile=0.5``, the absolute error."""

    quantile: float = 0.5
    name: ClassVar[str] = "quantile"

    def kink(self, y: Array) -> Kink:
        """Return the targets; the gradient is -2 quantile below them, 2 (1 - quantile) above."""
        return Kink(y, 1.0 - 2.0 * self.quantile, 1.0)


@dataclass(frozen=True, kw_only=True)
class AbsoluteError(Quantile):
    """The absolute error ``|f - y|``, summed over outputs."""

    name: ClassVar[str] = "absolute_error"


@dataclass(frozen=True, kw_only=True)
class Hinge(_Smoothed):
    """The hinge ``max(0, 1 - t f)`` with t = 2 y - 1, for each output on its own."""

    name: ClassVar[str] = "hinge"

    def kink(self, y: Array) -> Kink:
        """Return t; the gradient is between -t and 0."""
        t = 2.0 * y - 1.0
        return Kink(t, -0.5 * t, 0.5)


@dataclass(frozen=True, kw_only=True)
class _SmoothedHuber(_Smoothed):
    """Huber's loss with its two kinks smoothed."""

    width: float = 1.0  # type: ignore[misc]
    name: ClassVar[str] = "huber"

    def kink(self, y: Array) -> Kink:
        """Return the targets: between the kinks, the gradient is 0 there."""
        return Kink(y, 0.0, 1.0)

    def costs(self, f: Array, y: Array) -> Array:
        """Return the mean of ``sqrt(t^2 + smoothing^2)`` over all t within ``width`` of r.

        With z in place of the two ends of the integral, whose difference would cancel.
        """
        short = self._short(f - y)
        return (1.0 - short) * np.abs(f - y) + self._below(short * (2.0 - short))

    def dual_costs(self, q: Array, y: Array) -> Array:
        """Return ``q y`` less what the loss exceeds ``q r`` by, for q between -1 and 1."""
        inside = np.abs(q) <= 1.0 + _OUTSIDE
        below = self._below(np.maximum((1.0 - q) * (1.0 + q), 0.0))
        return np.where(inside, q * y - below, np.inf)

    def _below(self, left: Array) -> Array:
        """Return ``z r`` less the loss, negated, for 1 - z^2.

        With T+- = r +- width and R = sqrt(T^2 + smoothing^2), z = (R+ - R-) / (2 width), hence
        R+ + R- = 2 r / z; and the difference of arsinh(T / smoothing) is twice the artanh of
        (T+ - T-) / (R+ + R-).
        """
        root = np.sqrt(left)
        arc = np.arcsinh(self.width * root / self.smoothing)
        return 0.5 * (
            root * np.hypot(self.width * root, self.smoothing)
            + self.smoothing**2 / self.width * arc
        )


@dataclass(frozen=True)
class Huber(_Separable, Straight):
    """Huber's loss over its ``width``: ``r^2 / (2 width)`` up to it, ``|r| - width / 2`` beyond.

    Divided by the width, so that gradients reach 1 as those of the absolute error do.
    """

    width: float = 1.0
    name: ClassVar[str] = "huber"

    def costs(self, f: Array, y: Array) -> Array:
        """Return the loss of each number."""
        q = self.gradient(f, y)
        return q * (f - y - 0.5 * self.width * q)

    def gradient(self, f: Array, y: Array) -> Array:
        """Return ``r / width``, cut off at -1 and 1."""
        return np.clip((f - y) / self.width, -1.0, 1.0)

    def bends(self, f: Array, y: Array) -> Array:
        """Return 1 / width up to the kinks, 0 beyond."""
        return (np.abs(f - y) < self.width) / self.width

    def dual_costs(self, q: Array, y: Array) -> Array:
        """Return ``q y + width q^2 / 2`` between -1 and 1."""
        inside = np.abs(q) <= 1.0 + _OUTSIDE
        return np.where(inside, q * (y + 0.5 * self.width * q), np.inf)

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return -1 and 1."""
        return np.full_like(y, -1.0), np.full_like(y, 1.0)

    def smoothed(self, smoothing: float) -> _SmoothedHuber:
        """Return the loss with its kinks smoothed."""
        return _SmoothedHuber(smoothing=max(smoothing, _LEAST * self.width), width=self.width)


@dataclass(frozen=True)
class SquaredHinge(_Separable, Straight):
    """The squared hinge ``max(0, 1 - t f)^2`` with t = 2 y - 1, for each output on its own."""

    name: ClassVar[str] = "squared_hinge"

    def costs(self, f: Array, y: Array) -> Array:
        """Return the loss of each number."""
        return np.maximum(_missing(f, y), 0.0) ** 2

    def gradient(self, f: Array, y: Array) -> Array:
        """Return ``-2 t`` times what is missing."""
        return 2.0 * (1.0 - 2.0 * y) * np.maximum(_missing(f, y), 0.0)

    def bends(self, f: Array, y: Array) -> Array:
        """Return 2 where the margin is missed, 0 elsewhere."""
        return np.where(_missing(f, y) > 0.0, 2.0, 0.0)

    def dual_costs(self, q: Array, y: Array) -> Array:
        """Return ``q t + q^2 / 4`` where q has the sign of -t."""
        t = 2.0 * y - 1.0
        return np.where(q * t <= 0.0, q * t + 0.25 * q**2, np.inf)

    def dual_bounds(self, y: Array) -> tuple[Array, Array]:
        """Return the half-line on the side of -t."""
        return np.where(y > 0.5, -np.inf, 0.0), np.where(y > 0.5, 0.0, np.inf)

    def smoothed(self, smoothing: float) -> _SmoothedSquaredHinge:
        """Return the loss with its kink smoothed."""
        return _SmoothedSquaredHinge(max(smoothing, _LEAST))


@dataclass(frozen=True)
class _SmoothedSquaredHinge(SquaredHinge):
    """The squared hinge with w = b + sqrt(b^2 + smoothing^2) in place of 2 max(0, b) in its gradient."""

    smoothing: float = 1.0

    def costs(self, f: Array, y: Array) -> Array:
        """Return the integral of w."""
        b = _missing(f, y)
        root = np.hypot(b, self.smoothing)
        return 0.5 * (b**2 + b * root + self.smoothing**2 * np.arcsinh(b / self.smoothing))

    def gradient(self, f: Array, y: Array) -> Array:
        """Return ``-t w``."""
        return (1.0 - 2.0 * y) * self._w(_missing(f, y))

    def dual_costs(self, q: Array, y: Array) -> Array:
        """Return ``q t + (q^2 - smoothing^2) / 4`` less ``smoothing^2 / 2 log |q / smoothing|``."""
        t = 2.0 * y - 1.0
        inside = q * t < 0.0
        ratio = np.where(inside, np.abs(q) / self.smoothing, 1.0)
        added = 0.25 * (ratio**2 - 1.0) - 0.5 * np.log(ratio)
        return np.where(inside, q * t + self.smoothing**2 * added, np.inf)

    def bends(self, f: Array, y: Array) -> Array:
        """Return the second derivative, which is positive."""
        b = _missing(f, y)
        return self._w(b) / np.hypot(b, self.smoothing)

    def carried(self, f: Array, y: Array, to: Loss) -> Array:
        """Return where ``to``, a loss of this kind, has the gradient that this one has at ``f``."""
        return cast(_SmoothedSquaredHinge, to)._reached(self._w(_missing(f, y)), y)

    def path(self, f: Array, step: Array, y: Array) -> Path:
        """Return the predictions at which w moves on a straight line."""
        side = 1.0 - 2.0 * y
        w, turn = self._w(_missing(f, y)), side * self.bends(f, y) * step
        fastest = float(np.max(-turn / w, initial=0.0))

        def at(length: float) -> Array:
            return self._reached(w + length * turn, y)

        return Path(
            longest=min(1.0, _SHARE / max(fastest, 1e-300)),
            at=at,
            velocity=lambda length: side * turn / self.bends(at(length), y),
        )

    def _w(self, b: Array) -> Array:
        return _less(np.hypot(b, self.smoothing), -b, self.smoothing)

    def _reached(self, w: Array, y: Array) -> Array:
        """Return the prediction at which w is reached."""
        b = 0.5 * (w - self.smoothing**2 / w)
        return (2.0 * y - 1.0) * (1.0 - b)


def _missing(f: Array, y: Array) -> Array:
    """Return by how much f misses the margin, ``1 - t f``."""
    return 1.0 - (2.0 * y - 1.0) * f
