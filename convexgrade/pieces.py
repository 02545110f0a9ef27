"""Large arrays piece by piece: how much may be formed at a time."""

from __future__ import annotations

from collections.abc import Iterator

MAX_FLOATS = 64_000_000  # size of the largest array that is ever formed: half a gigabyte


def chunks(length: int, floats: int, *, most: int | None = None) -> Iterator[slice]:
    """Yield slices of a range that take at most so many floats, but at least one item each.

    Parameters
    ----------
    length : int
        Length of the range.
    floats : int
        Floats that an item takes.
    most : int, optional
        Floats that a slice takes at most. By default a quarter of `MAX_FLOATS`.

    Yields
    ------
    slice
        The next items; the last slice can end beyond the range.
    """
    step = max(1, (MAX_FLOATS // 4 if most is None else most) // max(1, floats))
    for first in range(0, length, step):
        yield slice(first, first + step)
