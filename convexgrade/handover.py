"""What a grade hands on to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Handover:
    """Which of its hidden features, the output so far and the inputs a grade hands on.

    Attributes
    ----------
    passthrough : {"hidden", "output", "both"}
        Whether the hidden features of the grade, the output of the chain so far, or both.
    keep_inputs : bool
        Whether X follows them.
    """

    passthrough: str = "hidden"
    keep_inputs: bool = True

    @property
    def hands_hidden(self) -> bool:
        """Whether hidden features are among what is handed on; they come first."""
        return self.passthrough != "output"

    @property
    def hands_output(self) -> bool:
        """Whether the output so far is; it comes after the hidden features."""
        return self.passthrough != "hidden"

    def features(self, hidden: Array, output: Array, X: Array) -> Array:
        """Return what the next grade reads, unscaled: hidden features, output, X, as far as kept."""
        return np.hstack(self._kept(hidden, output, X))

    def width(self, n_neurons: int, n_outputs: int, n_inputs: int) -> int:
        """Return the number of columns that the next grade reads."""
        return sum(self._kept(n_neurons, n_outputs, n_inputs))

    def _kept(self, hidden: T, output: T, X: T) -> list[T]:
        kept = (self.hands_hidden, self.hands_output, self.keep_inputs)
        return [part for part, keep in zip((hidden, output, X), kept, strict=True) if keep]


HIDDEN_AND_INPUTS = Handover()
