"""One integer that stands for a whole table: v with ``sin(v * sin(k + 1))`` near given values.

The sines of 1, 2, ..., m are linearly independent over the rationals (Lindemann-Weierstrass), so the
real multiples of (sin 1, ..., sin m) are dense modulo 2 pi (Kronecker): some real, hence some rational v
comes as near to any table as one likes. That v can be an integer needs pi to be independent of the
sines as well, which is expected but not proved; it does not matter here, since each integer is
checked after it is found. It is found as a near vector of a lattice: LLL reduction, from python-flint,
then Babai's nearest plane.

The lattice has the rows (sin 1, ..., sin m, w) and 2 pi e_k; its vectors are what v and full turns can
reach. The weight w of the last column, which holds v, is set so that a reduced basis has
Gram-Schmidt vectors of about ``2**-bits`` in every direction; v then has about
``m * (bits + log2(2 pi))`` bits, and the time of the reduction grows faster than the fourth power of
m: hence `MAX_CELLS`.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2, pi
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_CELLS = 64

_GUARD_BITS = 64


class _Basis(NamedTuple):
    """A reduced basis, in floating point and, of its last column, the integers v behind it."""

    vectors: Array  # (m + 1, m + 1), one in each row
    multiples: list[int]
    directions: Array  # Gram-Schmidt directions, one a column
    lengths: Array  # (m + 1,), signed


def load_flint() -> Any:
    """Return the module flint.

    Raises
    ------
    ImportError
        If it is not installed, with how to install it.
    """
    try:
        import flint
    except ImportError as error:
        raise ImportError(
            "The sine decoder and explicit geometric networks need exact arithmetic: install "
            "python-flint, or convexgrade with the extra 'exact'."
        ) from error
    return flint


def find_multiple(values: Array, bits: int) -> int:
    """Return an integer v for which ``sin(v * sin(k + 1))`` is near ``values[k]`` for every k.

    Parameters
    ----------
    values : ndarray of shape (n_cells,)
        Table in [-1, 1].
    bits : int
        Errors are around ``2**-bits``. What they are is for `decode` to say.

    Returns
    -------
    int
        Of about ``n_cells * (bits + 2.7)`` bits.

    Raises
    ------
    ValueError
        If there are more than `MAX_CELLS` cells.
    """
    if values.size > MAX_CELLS:
        raise ValueError(
            f"A table of {values.size} cells is too large for one integer: at most {MAX_CELLS} cells "
            f"are decoded, since the lattice reduction takes seconds at 64 cells, a minute or "
            f"more at 128, and ever more beyond."
        )
    basis = _reduced_basis(values.size, bits)
    left = np.append(np.arcsin(np.clip(values, -1.0, 1.0)), 0.0)
    multiple = 0
    for i in reversed(range(left.size)):  # Babai's nearest plane
        steps = round(float(basis.directions[:, i] @ left) / basis.lengths[i])
        left = left - steps * basis.vectors[i]
        multiple += steps * basis.multiples[i]
    return multiple


def decode(multiple: int, n_cells: int) -> Array:
    """Return ``sin(multiple * sin(k + 1))`` for k < n_cells, correct to double precision."""
    flint = load_flint()
    with flint.ctx.workprec(multiple.bit_length() + _GUARD_BITS):
        return np.array([float((multiple * flint.arb(k + 1).sin()).sin()) for k in range(n_cells)])


@lru_cache(maxsize=32)
def _reduced_basis(n_cells: int, bits: int) -> _Basis:
    """Reduce the lattice of a number of cells: it does not depend on the table."""
    flint = load_flint()
    multiple_bits = round(n_cells * (bits + log2(2.0 * pi)))
    # In units of 2**-unit, so fine that a multiple of the rounded sines is still exact to 2**-guard.
    unit = multiple_bits + bits + _GUARD_BITS
    with flint.ctx.workprec(unit + _GUARD_BITS):
        sines = [_floor(flint.arb(k + 1).sin() * 2**unit) for k in range(n_cells)]
        turn = _floor(2 * flint.arb.pi() * 2**unit)
    weight = 2 ** (unit - bits - multiple_bits)
    rows = [[*sines, weight]]
    rows += [[turn * (j == k) for j in range(n_cells + 1)] for k in range(n_cells)]
    reduced = flint.fmpz_mat(rows).lll()
    integers = [[int(entry) for entry in row] for row in reduced.tolist()]
    vectors = np.array([[entry / 2**unit for entry in row] for row in integers])
    directions, triangle = np.linalg.qr(vectors.T)
    multiples = [row[-1] // weight for row in integers]
    return _Basis(vectors, multiples, directions, np.diag(triangle))


def _floor(number: Any) -> int:
    exact = number.mid().fmpq()
    return int(exact.p // exact.q)
