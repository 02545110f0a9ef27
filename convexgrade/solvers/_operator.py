"""The linear map of a program, and what systems over it share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from convexgrade.groups import Groups
from convexgrade.patterns import masked_adjoint, masked_sums
from convexgrade.pieces import chunks

Array = NDArray[np.float64]
Index = NDArray[np.intp]
Outputs = tuple[int, ...]

_CACHED = 1 << 16  # floats that a processor's cache holds: what is formed over and over has no more


@dataclass(frozen=True)
class Operator:
    """The linear map A of a program, through its channels; these are sorted by output.

    Attributes
    ----------
    X, Z : ndarray of shape (n_samples, d), (n_samples, q)
        Rows and unpenalised columns.
    masks : ndarray of shape (n_samples, n_channels)
        Pattern of each channel, in zeros and ones.
    spans : tuple of slice
        Channels of each output.
    channel, slot : ndarray of int, shape (n_groups,)
        Channel of each group, and its place among the groups of that channel.
    sign : ndarray of shape (n_groups,)
        Sign of each group.
    output : ndarray of int, shape (n_groups,)
        Output of each group.
    """

    X: Array
    Z: Array
    masks: Array
    spans: tuple[slice, ...]
    channel: Index
    slot: Index
    sign: Array
    output: Index

    @classmethod
    def build(
        cls, X: Array, Z: Array, masks: NDArray[np.bool_], groups: Groups, n_outputs: int
    ) -> Operator:
        """Find the channels of groups: what groups of one pattern and output share."""
        n_patterns = masks.shape[1]
        pairs = groups.output * n_patterns + groups.pattern
        pairs, channel = np.unique(pairs, return_inverse=True)
        output, pattern = np.divmod(pairs, n_patterns)
        order = np.argsort(channel, kind="stable")
        slot = np.empty_like(order)
        slot[order] = np.arange(order.size) - np.searchsorted(channel[order], channel[order])
        edges = np.searchsorted(output, np.arange(n_outputs + 1)).tolist()
        return cls(
            X=X,
            Z=Z,
            masks=masks[:, pattern].astype(float),
            spans=tuple(slice(a, b) for a, b in pairwise(edges)),
            channel=channel,
            slot=slot,
            sign=groups.sign,
            output=groups.output,
        )

    def columns(self, outputs: Outputs) -> int:
        """Return the number of columns of A that lead to some outputs."""
        n_channels = sum(self._lengths[k] for k in outputs)
        return int(n_channels * self.X.shape[1] + len(outputs) * self.Z.shape[1])

    def restricted(self, groups: Index, rows: Index | slice) -> Operator:
        """Return the map of some groups alone, in the order of ``groups``, to some of the rows."""
        used, channel = np.unique(self.channel[groups], return_inverse=True)
        edges = np.searchsorted(used, [0, *(span.stop for span in self.spans)]).tolist()
        return Operator(
            X=self.X[rows],
            Z=self.Z[rows],
            masks=self.masks[rows][:, used],
            spans=tuple(slice(a, b) for a, b in pairwise(edges)),
            channel=channel,
            slot=self.slot[groups],
            sign=self.sign[groups],
            output=self.output[groups],
        )

    def forward(self, v: Array, c: Array) -> Array:
        """Return A (v, c), shape (n_samples, n_outputs)."""
        u = np.zeros((self.masks.shape[1], v.shape[1]))
        np.add.at(u, self.channel, self.sign[:, None] * v)
        if self._at_once:
            f = np.empty((len(self.X), len(self.spans)))
            sums = np.eye(len(self.spans))[self._goes_to]
            for rows in self._parts():
                f[rows] = (self.masks[rows] * (self.X[rows] @ u.T)) @ sums
        else:
            own = (masked_sums(self.masks[:, span], self.X, u[span]) for span in self.spans)
            f = np.stack(list(own), axis=1)
        return f + self.Z @ c

    def adjoint(self, theta: Array) -> tuple[Array, Array]:
        """Return A^T theta: s_g X^T D_g theta_{k(g)} for every group, and Z^T theta."""
        if self._at_once:
            channels = np.zeros((self.masks.shape[1], self.X.shape[1]))
            for rows in self._parts():
                own = theta[rows].take(self._goes_to, axis=1)
                channels += (self.masks[rows] * own).T @ self.X[rows]
        else:
            every = enumerate(self.spans)
            channels = np.concatenate(
                [masked_adjoint(self.masks[:, span], self.X, theta[:, k]) for k, span in every]
            )
        return self.sign[:, None] * channels[self.channel], self.Z.T @ theta

    @property
    def _at_once(self) -> bool:
        """Whether outputs have so few channels that one product serves them all."""
        return len(self.spans) > 1 and max(self._lengths) <= self.X.shape[1]

    def _parts(self) -> Iterator[slice]:
        """Yield rows, so few that a processor's cache holds what their channels make of them."""
        return chunks(len(self.X), self.masks.shape[1], most=_CACHED)

    @property
    def _lengths(self) -> list[int]:
        """Number of channels of each output."""
        return [span.stop - span.start for span in self.spans]

    @cached_property
    def _goes_to(self) -> Index:
        """Output of each channel."""
        return np.repeat(np.arange(len(self.spans)), self._lengths)

    def stack(self, blocks: Array) -> Array:
        """Put the blocks of each channel's groups below each other, zeros where there are fewer."""
        rows, columns = blocks.shape[1:]
        n_channels, n_slots = self.masks.shape[1], int(self.slot.max()) + 1
        stacked = np.zeros((n_channels, n_slots, rows, columns))
        stacked[self.channel, self.slot] = blocks
        return stacked.reshape(n_channels, n_slots * rows, columns)

    def unstack(self, stacked: Array, rows: int) -> Array:
        """Return the blocks that `stack` put below each other."""
        blocks = stacked.reshape(stacked.shape[0], -1, rows, stacked.shape[2])
        return np.asarray(blocks[self.channel, self.slot])
