"""Numbers of things in words."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Return how many there are of a thing.

    Examples
    --------
    >>> from convexgrade.wording import counted
    >>> counted(1, "neuron"), counted(0, "neuron")
    ('1 neuron', '0 neurons')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def counted_each(numbers: Sequence[int], noun: str) -> str:
    """Return how many there are in each of several places, at least one.

    Examples
    --------
    >>> from convexgrade.wording import counted_each
    >>> counted_each([8, 13, 1], "neuron"), counted_each([1], "neuron")
    ('8, 13 and 1 neurons', '1 neuron')
    """
    *first, last = numbers
    return f"{', '.join(map(str, first))} and {last} {noun}s" if first else counted(last, noun)
