"""Activation patterns: which rows a neuron is active on.

A gate h in R^d has the pattern ``1[X h >= 0]``. Patterns are kept as bytes, (n_samples, n_patterns),
together with one gate each, so that the same pattern can be read off the same rows again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_CHUNK = 1 << 20  # responses that are formed at a time
_EPS = float(np.finfo(np.float64).eps)
_COINCIDENT = 1e-12  # distance of unit rows up to which their hyperplanes are taken for one
_ROUNDINGS = 64.0  # roundings of the coordinates that make such a distance, if they are more
_COARSEST = 1e-8  # largest such distance with which a list may claim to be complete
_ROUNDED = 8.0  # singular values that are none, in units of the largest times size times eps


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
        Whether every pattern of X is listed, as far as rounding lets them be told apart.
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
        patterns, _ = cls.read(X, gates)
        return replace(patterns, exhaustive=exhaustive)

    @classmethod
    def read(cls, X: Array, gates: Array) -> tuple[Patterns, NDArray[np.intp]]:
        """Read patterns off gates, as `from_gates`; and which of them each gate has, or -1."""
        masks = activation(X, gates)
        first, which = _numbered(masks)
        active = np.any(masks[:, first], axis=0)
        keep, position = first[active], np.where(active, np.cumsum(active) - 1, -1)
        if keep.size < gates.shape[1]:
            gates, masks = gates[:, keep], masks[:, keep]
        return cls(gates, masks), position[which]

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


def masked_sums(masks: Mask | Array, X: Array, u: Array) -> Array:
    """Return the row sums of masks * (X @ u.T), by way of the fewer numbers a row."""
    numbers = masks.astype(float, copy=False)
    if len(u) < X.shape[1]:
        return np.asarray(np.vecdot(numbers, X @ u.T))
    return np.asarray(np.vecdot(numbers @ u, X))


def masked_adjoint(masks: Mask | Array, X: Array, theta: Array) -> Array:
    """Return masks.T @ (theta * X), the adjoint of `masked_sums`, in the same way."""
    numbers = masks.astype(float, copy=False)
    if masks.shape[1] < X.shape[1]:
        return np.asarray((numbers * theta[:, None]).T @ X)
    return np.asarray(numbers.T @ (theta[:, None] * X))


def distinct_columns(masks: Mask) -> NDArray[np.intp]:
    """Return the positions of the first of each distinct column, in order."""
    return _numbered(masks)[0]


def _numbered(masks: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions of the first of each distinct column, and which of these each column is."""
    number: dict[bytes, int] = {}
    numbers = [number.setdefault(key, len(number)) for key in _keys(masks)]
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    return first, which


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


class TooManyPatterns(ValueError):
    """Rows have more patterns than may be listed."""


def enumerate_patterns(X: Array, *, limit: int, faces: bool = True) -> Patterns:
    """List every pattern ``1[X h >= 0]`` of the rows of X.

    Those of the cells (where no ``x_i . h`` is 0) are all there are if some h has ``x_i . h > 0`` in
    every row, as where X has a constant column: a step along that h leads from a face into a cell with
    the same pattern. Without (neurons without bias, as a rule) faces have patterns of their own, of
    which h = 0 with every row active is one. Gates need those as well. ReLU neurons do not, since a
    neuron on a face has the same output under the pattern of any cell next to it.

    Hyperplanes are found in coordinates in which columns are centred (by the constant one), scaled and
    orthogonal. Where three or more of them meet up to 1e-12 there, they are taken to meet.

    Parameters
    ----------
    X : ndarray of shape (n_samples, d)
        Rows.
    limit : int
        Most patterns to list.
    faces : bool, default=True
        Whether patterns of faces that no cell has are listed, too.

    Returns
    -------
    Patterns
        The all-inactive pattern, which no neuron uses, is left out. ``exhaustive=False`` where rounding
        is in the way: of rows that differ but cannot be told apart, of columns that are nearly
        dependent, or of a pattern that no gate in double precision has (on the face of two opposite
        rows, say, which would both have to be exactly 0).

    Raises
    ------
    TooManyPatterns
        If X can have more than ``limit`` patterns; the message gives the count.
    """
    frame = _Frame.of(X)
    rank = frame.rows.shape[1]
    n_planes = _distinct_hyperplanes(frame.rows, frame.tolerance)
    if n_planes == 0:  # rows of zeros, and neurons without bias: none does anything
        return replace(Patterns.none(*X.shape), exhaustive=True)
    count = count_patterns(n_planes, rank)
    if count > limit:
        raise TooManyPatterns(
            f"patterns='exhaustive' would list up to {count} patterns "
            f"({n_planes} distinct rows of rank {rank}, counting the constant column); at most "
            f"{limit} are allowed. Use patterns='adaptive', fewer rows, fewer features or, in a chain, "
            f"whose later grades read the features of earlier ones, n_grades=1."
        )
    cells = _cells(frame.rows, frame.tolerance)
    patterns = Patterns.from_gates(X, frame.gates @ cells)
    complete = frame.tells_rows_apart and not _missing(patterns, _clear_masks(frame, cells)).any()
    if faces and not patterns.masks.all(axis=0).any():
        points = np.column_stack([_faces(frame.rows, frame.tolerance), np.zeros(rank)])
        masks = _face_masks(frame, points)
        new = _missing(patterns, masks)  # in general position, that of the origin alone
        patterns = patterns.extend(X, frame.gates @ points[:, new])
        complete = complete and not _missing(patterns, masks[:, new]).any()
    return replace(patterns, exhaustive=complete)


def _missing(patterns: Patterns, masks: Mask) -> NDArray[np.bool_]:
    """Return which columns of ``masks`` are not listed; one without an active row need not be."""
    return (patterns.find(masks) < 0) & masks.any(axis=0)


@dataclass(frozen=True)
class _Frame:
    """Rows of X in coordinates in which their hyperplanes are well apart.

    An invertible change of columns keeps the patterns, but moves the angles between hyperplanes: with
    a constant column beside one at 10^6, those of neighbouring rows are 10^-12 apart.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, rank)
        Rows of ``X @ gates`` times positive numbers, computed so that nothing cancels.
    gates : ndarray of shape (d, rank)
        Takes gates in these coordinates to gates of X.
    tolerance : float
        Distance of unit rows that may be rounding.
    tells_rows_apart : bool
        Whether rows that differ have hyperplanes that do, or are parallel.
    """

    rows: Array
    gates: Array
    tolerance: float
    tells_rows_apart: bool

    @classmethod
    def of(cls, X: Array) -> _Frame:
        """Centre by the constant column, where there is one, scale, and make columns orthogonal.

        Of unit rows, since lengths do not matter and a far one would hide the others. For a unit row
        z, ``z V / s`` has a rounding error of eps / s_min and a length of at least 1 / s_max: so it is
        known to about eps s_max / s_min of that. V need not be accurate: any matrix changes columns.
        """
        change, columns = _change_of_columns(X)
        lengths = np.linalg.norm(columns, axis=1, keepdims=True)
        units = columns / np.where(lengths > 0.0, lengths, 1.0)
        _, s, Vt = np.linalg.svd(units, full_matrices=False)
        rank = _rank(s, X.shape)
        s = np.where(s > 0.0, s, 1.0)[:rank]
        basis = Vt[:rank].T / s
        rows = units @ basis
        rounding = _ROUNDINGS * _EPS * float(s[0] / s[-1])
        tolerance = max(_COINCIDENT, rounding)
        same = 0.0 if _has_constant(X) else rounding  # without it, parallel rows may differ
        _, first = np.unique(X, axis=0, return_index=True)
        apart = tolerance <= _COARSEST and _are_apart(rows[first], same, tolerance)
        return cls(rows, change @ basis, tolerance, apart)


def _has_constant(X: Array) -> bool:
    return bool(X[0, -1] != 0.0 and np.all(X[:, -1] == X[0, -1]))


def _change_of_columns(X: Array) -> tuple[Array, Array]:
    """Return T (d, d) and X T, with columns of size 1 that are centred if the last one is constant.

    By medians, which a few far rows do not move: a difference is as accurate as its size.
    """
    center = np.zeros(X.shape[1])
    if _has_constant(X):
        center[:-1] = np.median(X[:, :-1], axis=0) / X[0, -1]
    columns = X - X[:, -1:] * center
    size = np.ma.masked_equal(np.abs(columns), 0.0)
    scale = np.ma.median(size, axis=0).filled(1.0)
    change = np.diag(1.0 / scale)
    change[-1] -= center / scale
    return change, columns / scale


def _are_apart(rows: Array, same: float, tolerance: float) -> bool:
    """Return whether no two hyperplanes are farther apart than ``same`` but not than ``tolerance``.

    ``rows`` belong to distinct rows of X: with ``same=0`` no two may be as near as that at all.
    """
    units = np.unique(_normals(rows), axis=0)
    if same == 0.0 and len(units) < len(rows):
        return False
    pairs = KDTree(units).query_pairs(tolerance, output_type="ndarray")
    distance = np.linalg.norm(units[pairs[:, 0]] - units[pairs[:, 1]], axis=1)
    return bool(np.all(distance <= same)) if same else not len(pairs)


def _clear_masks(frame: _Frame, cells: Array) -> Mask:
    """Return the patterns of those cells whose points are off every hyperplane by more than rounding."""
    heights = np.abs(_unit_rows(frame.rows) @ (cells / np.linalg.norm(cells, axis=0)))
    return activation(frame.rows, cells[:, heights.min(axis=0) > frame.tolerance])


def _face_masks(frame: _Frame, faces: Array) -> Mask:
    """Return the patterns of faces, with the rows on whose hyperplanes they lie active."""
    lengths = np.linalg.norm(frame.rows, axis=1)[:, None] * np.linalg.norm(faces, axis=0)
    return frame.rows @ faces >= -1e3 * frame.tolerance * lengths


def _row_space(X: Array) -> tuple[Array, Array]:
    """Return an orthonormal basis of the row space (d, rank) and the rows in it (n, rank)."""
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    basis = Vt[: _rank(s, X.shape)].T
    return basis, X @ basis


def _rank(singular: Array, shape: tuple[int, int]) -> int:
    """Return how many singular values of a matrix are more than rounding; at least 1."""
    rounding = _ROUNDED * max(shape) * _EPS * singular[0]
    return max(1, int(np.sum(singular > rounding)))


def _distinct_hyperplanes(rows: Array, tolerance: float) -> int:
    return len(np.unique(np.round(_normals(rows) / tolerance), axis=0))


def _normals(rows: Array) -> Array:
    """Return unit rows, of those that are not 0, with signs such that opposite ones are equal."""
    units = _unit_rows(rows)
    lead = np.argmax(np.abs(units) > 1e-8, axis=1)
    return units * np.sign(units[np.arange(len(units)), lead])[:, None]


def _unit_rows(rows: Array) -> Array:
    norms = np.linalg.norm(rows, axis=1)
    return rows[norms > 0.0] / norms[norms > 0.0, None]


def _cells(rows: Array, tolerance: float) -> Array:
    """Return one interior point of each cell of the central arrangement of ``rows``.

    One hyperplane x_i after the other: the cells that it cuts, of those that the ones before it make,
    have a facet in common on it, which is a cell of the arrangement that these cut on x_i, one dimension
    lower. So both parts are found by stepping off it; all other cells keep their points (Edelsbrunner,
    O'Rourke & Seidel 1986). In the plane the cells are the intervals between consecutive angles.
    """
    rows = _unit_rows(rows)
    rank = rows.shape[1]
    if rank == 1:
        return np.array([[1.0, -1.0]])
    if rank == 2:
        return _plane_cells(rows, tolerance)
    points = np.empty((rank, 0))
    for i, x in enumerate(rows):
        before = rows[:i]
        basis, restricted, proper = _restricted(before, x, tolerance)
        if not proper.all():
            continue
        facets = basis @ _cells(restricted, tolerance) if i else np.zeros((rank, 1))
        # A point on the hyperplane lies in a cell that it cuts.
        apart = np.abs(x @ points) > tolerance * np.linalg.norm(points, axis=0)
        points = np.concatenate([points[:, apart], _either_side(before, x, facets)], axis=1)
    return points[:, distinct_columns(activation(rows, points))]


def _faces(rows: Array, tolerance: float, first: int = 0) -> Array:
    """Return one interior point of each face of the arrangement but the cells and the origin.

    Of those on the hyperplanes from the ``first`` on, with these ever farther on as dimensions fall: so
    a face is met once, and not in every order of the hyperplanes that it is on.
    """
    rows = _unit_rows(rows)
    points = [np.empty((rows.shape[1], 0))]
    for i in range(first, len(rows) if rows.shape[1] > 1 else 0):
        basis, restricted, proper = _restricted(rows, rows[i], tolerance)
        if proper.any() and proper[:i].all():
            points.append(basis @ _cells(restricted, tolerance))
            points.append(basis @ _faces(restricted, tolerance, i))
    return np.concatenate(points, axis=1)


def _restricted(rows: Array, x: Array, tolerance: float) -> tuple[Array, Array, Mask]:
    """Restrict an arrangement of unit rows to the hyperplane of x.

    Returns
    -------
    basis : ndarray of shape (rank, rank - 1)
        Of that hyperplane.
    restricted : ndarray of shape (n_proper, rank - 1)
        The rows in that basis that cut it.
    proper : ndarray of bool, shape (n,)
        Which those are: all that are not parallel to x.
    """
    tangent = np.linalg.svd(x[None, :])[2][1:].T
    restricted = rows @ tangent
    proper = np.linalg.norm(restricted, axis=1) > tolerance
    if not proper.any():
        return tangent, restricted[proper], proper
    basis, restricted = _row_space(restricted[proper])
    return tangent @ basis, restricted, proper


def _plane_cells(rows: Array, tolerance: float) -> Array:
    """Return the unit vectors half way between consecutive normals of the rows' lines."""
    angle = np.mod(np.arctan2(rows[:, 1], rows[:, 0]), np.pi)
    critical = np.unique(np.concatenate([angle, angle + np.pi]))
    critical = critical[np.diff(critical, prepend=-1.0) > tolerance]
    if critical[-1] - critical[0] > 2.0 * np.pi - tolerance:
        critical = critical[:-1]
    middle = 0.5 * (critical + np.append(critical[1:], critical[0] + 2.0 * np.pi))
    # A line x . h = 0 lies a quarter turn from its normal x.
    return np.stack([np.cos(middle + np.pi / 2), np.sin(middle + np.pi / 2)])


def _either_side(rows: Array, x: Array, facets: Array) -> Array:
    """Step off the hyperplane x both ways, half as far as the nearest other hyperplane."""
    heights = np.abs(rows @ facets)
    slopes = np.abs(rows @ x)[:, None]
    step = 0.5 * np.min(heights / np.maximum(slopes, 1e-300), axis=0, initial=2.0)
    offset = x[:, None] * step
    return np.concatenate([facets + offset, facets - offset], axis=1)
