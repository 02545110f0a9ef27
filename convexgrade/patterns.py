"""Activation patterns: which rows a neuron is active on.

A gate h in R^d has the pattern ``1[X h >= 0]``. Patterns are kept as bytes, (n_samples, n_patterns),
together with one gate each, so that the same pattern can be read off the same rows again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CHUNK = 1 << 20  # responses that are formed at a time
_PARALLEL = 1e-10  # relative size below which a projected row counts as zero


@dataclass(frozen=True)
class Patterns:
    """Distinct, non-empty activation patterns of the rows of one X.

    Attributes
    ----------
    gates : ndarray of shape (d, n_patterns)
        ``masks == (X @ gates >= 0)``.
    masks : ndarray of bool, shape (n_samples, n_patterns)
        One column a pattern.
    exhaustive : bool
        Whether every full-dimensional pattern of X is listed.
    """

    gates: Array
    masks: Mask
    exhaustive: bool = False

    def __len__(self) -> int:
        return self.masks.shape[1]

    @classmethod
    def none(cls, n_samples: int, d: int) -> Patterns:
        """Return no patterns."""
        return cls(np.empty((d, 0)), np.empty((n_samples, 0), dtype=bool))

    @classmethod
    def from_gates(cls, X: Array, gates: Array, *, exhaustive: bool = False) -> Patterns:
        """Read patterns off gates; the first gate of each distinct, non-empty pattern is kept."""
        masks = activation(X, gates)
        keep = distinct_columns(masks)
        keep = np.setdiff1d(keep, np.flatnonzero(~np.any(masks, axis=0)))
        if keep.size < gates.shape[1]:
            gates, masks = gates[:, keep], masks[:, keep]
        return cls(gates, masks, exhaustive)

    def extend(self, X: Array, gates: Array) -> Patterns:
        """Append the patterns of further gates; those already listed keep their position."""
        return Patterns.from_gates(
            X, np.concatenate([self.gates, gates], axis=1), exhaustive=self.exhaustive
        )

    def take(self, index: NDArray[np.intp]) -> Patterns:
        """Return the patterns at ``index``."""
        return Patterns(self.gates[:, index], self.masks[:, index])

    def find(self, masks: Mask) -> NDArray[np.intp]:
        """Return the position of each column of ``masks`` in this list, or -1."""
        position = {key: g for g, key in enumerate(_keys(self.masks))}
        return np.array([position.get(key, -1) for key in _keys(masks)], dtype=np.intp)


def activation(X: Array, gates: Array) -> Mask:
    """Return the patterns ``1[X h >= 0]`` of the columns of ``gates``."""
    masks = np.empty((len(X), gates.shape[1]), dtype=bool)
    step = max(1, _CHUNK // max(1, len(X)))
    for first in range(0, gates.shape[1], step):
        some = slice(first, first + step)
        np.greater_equal(X @ gates[:, some], 0.0, out=masks[:, some])
    return masks


def distinct_columns(masks: Mask) -> NDArray[np.intp]:
    """Return the positions of the first of each distinct column, in order."""
    first: dict[bytes, int] = {}
    for g, key in enumerate(_keys(masks)):
        first.setdefault(key, g)
    return np.fromiter(first.values(), dtype=np.intp, count=len(first))


def _keys(masks: Mask) -> list[bytes]:
    return [column.tobytes() for column in np.packbits(masks, axis=0).T]


def sample_patterns(X: Array, n_patterns: int, rng: np.random.Generator) -> Patterns:
    """Draw distinct patterns from data-centred Gaussian gates.

    A gate is a Gaussian direction whose hyperplane passes near a random row (the last column of X is
    the constant 1), so that gates split the data: a Gaussian offset would put many of them outside.
    Fewer than ``n_patterns`` are returned when X seems to have no more.
    """
    gates = np.empty((X.shape[1], 0))
    patterns = Patterns.from_gates(X, gates)
    for _ in range(10):
        missing = n_patterns - len(patterns)
        if missing <= 0:
            break
        patterns = patterns.extend(X, centred_gates(X, 2 * missing, rng))
    return Patterns(patterns.gates[:, :n_patterns], patterns.masks[:, :n_patterns])


def centred_gates(X: Array, n_gates: int, rng: np.random.Generator) -> Array:
    """Return Gaussian gates whose hyperplanes pass near random rows, shape (d, n_gates).

    Near, not through: a row exactly on a hyperplane would change sides with the rounding of a sum.
    """
    gates = rng.standard_normal((X.shape[1], n_gates))
    rows = X[rng.integers(X.shape[0], size=n_gates), :-1]
    spread = X[:, :-1].std(axis=0)
    spread[spread == 0.0] = 1.0
    points = rows + 0.1 * spread * rng.standard_normal(rows.shape)
    gates[-1] = -np.einsum("gd,dg->g", points, gates[:-1])
    return gates


def count_patterns(n_hyperplanes: int, rank: int) -> int:
    """Return the most cells n central hyperplanes can cut R^rank into (Cover 1965, theorem 1)."""
    return 2 * sum(comb(n_hyperplanes - 1, k) for k in range(rank))


def enumerate_patterns(X: Array, *, limit: int) -> Patterns:
    """List every full-dimensional pattern of the rows of X.

    Patterns of lower-dimensional faces are limits of these: a neuron on a face has the same output
    under the pattern of any cell next to it, so the program over the listed patterns is complete.

    Parameters
    ----------
    X : ndarray of shape (n_samples, d)
        Rows, of rank at most 4.
    limit : int
        Most patterns to list.

    Returns
    -------
    Patterns
        With ``exhaustive=True``. The all-inactive pattern, which no neuron uses, is left out.

    Raises
    ------
    ValueError
        If X can have more than ``limit`` patterns; the message gives the count.
    """
    basis, coordinates = _row_space(X)
    rank = basis.shape[1]
    n_planes = _distinct_hyperplanes(coordinates)
    if n_planes == 0:  # rows of zeros, and neurons without bias: none does anything
        return replace(Patterns.none(*X.shape), exhaustive=True)
    count = count_patterns(n_planes, rank)
    if count > limit:
        raise ValueError(
            f"patterns='exhaustive' would list up to {count} patterns "
            f"({n_planes} distinct rows of rank {rank}, counting the constant column); at most "
            f"{limit} are allowed. Use patterns='adaptive', fewer rows, fewer features or, in a chain, "
            f"whose later grades read the features of earlier ones, n_grades=1."
        )
    return Patterns.from_gates(X, basis @ _cells(coordinates), exhaustive=True)


def _row_space(X: Array) -> tuple[Array, Array]:
    """Return an orthonormal basis of the row space (d, rank) and the rows in it (n, rank)."""
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    rank = max(1, int(np.sum(s > s[0] * max(X.shape) * np.finfo(float).eps * 8)))
    basis = Vt[:rank].T
    return basis, X @ basis


def _distinct_hyperplanes(rows: Array) -> int:
    units = _unit_rows(rows)
    lead = np.argmax(np.abs(units) > 1e-8, axis=1)
    units *= np.sign(units[np.arange(len(units)), lead])[:, None]
    return len(np.unique(np.round(units / 1e-9), axis=0))


def _unit_rows(rows: Array) -> Array:
    norms = np.linalg.norm(rows, axis=1)
    return rows[norms > 0.0] / norms[norms > 0.0, None]


def _cells(rows: Array) -> Array:
    """Return one interior point of each cell of the central arrangement of ``rows``.

    Every cell has a facet on some hyperplane x_i, and that facet is a cell of the arrangement which
    the other hyperplanes cut on x_i: so the cells are found on either side of the cells of the n
    restricted arrangements, one dimension lower (Edelsbrunner, O'Rourke & Seidel 1986 do the same
    incrementally). In the plane the cells are the intervals between consecutive angles.
    """
    rows = _unit_rows(rows)
    rank = rows.shape[1]
    if rank == 1:
        return np.array([[1.0, -1.0]])
    if rank == 2:
        return _plane_cells(rows)
    points = []
    for x in rows:
        tangent = np.linalg.svd(x[None, :])[2][1:].T
        restricted = rows @ tangent
        proper = np.linalg.norm(restricted, axis=1) > _PARALLEL
        if not proper.any():
            continue
        facets = _cells(_full_rank(restricted[proper]))
        facets = tangent @ _embed(restricted[proper], facets)
        points.append(_either_side(rows[proper], x, facets))
    candidates = np.concatenate(points, axis=1)
    return candidates[:, distinct_columns(activation(rows, candidates))]


def _full_rank(rows: Array) -> Array:
    return _row_space(rows)[1]


def _embed(rows: Array, points: Array) -> Array:
    return _row_space(rows)[0] @ points


def _plane_cells(rows: Array) -> Array:
    """Return the unit vectors half way between consecutive normals of the rows' lines."""
    angle = np.mod(np.arctan2(rows[:, 1], rows[:, 0]), np.pi)
    critical = np.unique(np.concatenate([angle, angle + np.pi]))
    critical = critical[np.diff(critical, prepend=-1.0) > _PARALLEL]
    if critical[-1] - critical[0] > 2.0 * np.pi - _PARALLEL:
        critical = critical[:-1]
    middle = 0.5 * (critical + np.roll(critical, -1)) + np.where(
        np.arange(critical.size) == critical.size - 1, np.pi, 0.0
    )
    # A line x . h = 0 lies a quarter turn from its normal x.
    return np.stack([np.cos(middle + np.pi / 2), np.sin(middle + np.pi / 2)])


def _either_side(rows: Array, x: Array, facets: Array) -> Array:
    """Step off the hyperplane x both ways, half as far as the nearest other hyperplane."""
    heights = np.abs(rows @ facets)
    slopes = np.abs(rows @ x)[:, None]
    step = 0.5 * np.min(heights / np.maximum(slopes, 1e-300), axis=0)
    step = np.minimum(step, 1.0)
    offset = x[:, None] * step
    return np.concatenate([facets + offset, facets - offset], axis=1)
