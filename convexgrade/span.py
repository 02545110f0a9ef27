"""Intervals that outputs keep to, where rows to come ask for more than training rows did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Span(NamedTuple):
    """One interval for each output.

    Attributes
    ----------
    low, high : ndarray of shape (n_outputs,) or ()
        Their ends, infinite where there is none; of shape () if those of all outputs are the same.
    """

    low: Array
    high: Array

    @classmethod
    def of(cls, y: Array) -> Span:
        """Return the ranges of the columns of y (n_samples, n_outputs)."""
        return cls(y.min(axis=0), y.max(axis=0))

    def wider(self, share: float) -> Span:
        """Return the intervals with so many times their width more on either side."""
        with np.errstate(over="ignore"):  # without end, then
            more = share * (self.high - self.low)
            return Span(self.low - more, self.high + more)

    def times(self, scale: Array) -> Span:
        """Return the intervals of outputs multiplied by positive ``scale`` (n_outputs,)."""
        return Span(self.low * scale, self.high * scale)

    def joined(self, other: Span) -> Span:
        """Return the least intervals that hold both."""
        return Span(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def apply(self, output: Array) -> Array:
        """Return the nearest values inside the intervals."""
        return np.clip(output, self.low, self.high)


UNLIMITED = Span(np.array(-np.inf), np.array(np.inf))
