"""Errors about parameters and unfitted models, where no estimator of scikit-learn sees to it."""

from __future__ import annotations

from numbers import Integral
from typing import Any


class NotFittedError(ValueError, AttributeError):
    """Nothing to be asked of yet: scikit-learn's error of this name, for levels that do not know it.

    An `AttributeError` as well, so that ``hasattr`` says no of what `fit` will set.
    """


def check_least(name: str, value: Any, kind: Any, least: int) -> None:
    """Raise an error unless a value is a number of a kind and at least so large.

    Examples
    --------
    >>> from numbers import Integral
    >>> from convexgrade.checks import check_least
    >>> check_least("n_points", 100, Integral, 1)
    >>> check_least("n_points", True, Integral, 1)
    Traceback (most recent call last):
    ValueError: n_points=True must be an integer of at least 1.
    """
    if not (isinstance(value, kind) and not isinstance(value, bool) and value >= least):
        noun = "an integer" if kind is Integral else "a number"
        raise ValueError(f"{name}={value!r} must be {noun} of at least {least}.")
