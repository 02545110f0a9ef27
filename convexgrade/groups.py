"""Groups: which pattern, sign and output each vector of a program belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True)
class Groups:
    """The groups of a program, as arrays of one length: pattern, sign s_g and output k(g) of each."""

    pattern: Index
    sign: Array
    output: Index

    def __len__(self) -> int:
        return self.pattern.size

    @classmethod
    def every(cls, n_patterns: int, n_outputs: int, *, signed: bool) -> Groups:
        """List all combinations; ``signed=False`` (free vectors) needs one sign only."""
        signs = np.array([1.0, -1.0]) if signed else np.array([1.0])
        output, sign, pattern = np.meshgrid(
            np.arange(n_outputs), signs, np.arange(n_patterns), indexing="ij"
        )
        return cls(pattern.ravel(), sign.ravel(), output.ravel())

    def take(self, index: Index | NDArray[np.bool_]) -> Groups:
        """Return the groups at ``index``."""
        return Groups(self.pattern[index], self.sign[index], self.output[index])

    def locate(self, other: Groups) -> Index:
        """Return the position in this list of each group of ``other``, or -1."""
        position = {key: g for g, key in enumerate(self._keys())}
        return np.array([position.get(key, -1) for key in other._keys()], dtype=np.intp)

    def _keys(self) -> list[tuple[int, float, int]]:
        return list(
            zip(self.pattern.tolist(), self.sign.tolist(), self.output.tolist(), strict=True)
        )
