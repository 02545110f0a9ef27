"""The benchmark sets in ``data/``: one compressed .npz a set, with its standard splits.

>>> from tests.benchmarks.datasets import load, n_splits
>>> n_splits("yacht")
20
>>> load("yacht", split=3).X_train.shape
(277, 6)
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"


class Split(NamedTuple):
    """Train and test fold, as stored: nothing is standardised.

    Attributes
    ----------
    X_train, X_test : ndarray of shape (n_samples, n_features)
        Features.
    y_train, y_test : ndarray of shape (n_samples,)
        Targets: float for regression, int (classes 0..K-1) for classification.
    """

    X_train: NDArray[np.float64]
    y_train: NDArray[np.float64] | NDArray[np.int64]
    X_test: NDArray[np.float64]
    y_test: NDArray[np.float64] | NDArray[np.int64]


def names() -> list[str]:
    """Return the names of the sets, in alphabetical order."""
    return sorted(path.stem for path in DATA.glob("*.npz"))


def n_splits(name: str) -> int:
    """Return how many splits the set ``name`` has."""
    with np.load(_path(name)) as arrays:
        return int(arrays["n_splits"])


def load(name: str, split: int = 0) -> Split:
    """Load one split of a set.

    Parameters
    ----------
    name : str
        One of `names`.
    split : int, default=0
        Which split, from 0 to ``n_splits(name) - 1``.

    Returns
    -------
    Split
        ``X_train, y_train, X_test, y_test``. The train fold is every row outside the test fold,
        unless the set stores its own.
    """
    with np.load(_path(name)) as arrays:
        if not 0 <= split < arrays["n_splits"]:
            raise ValueError(f"{name} has splits 0 to {arrays['n_splits'] - 1}, got {split}.")
        X, y, test = arrays["X"], arrays["y"], arrays[f"test_{split}"]
        stored = f"train_{split}"
        train = arrays[stored] if stored in arrays else np.setdiff1d(np.arange(len(y)), test)
    return Split(X[train], y[train], X[test], y[test])


def _path(name: str) -> Path:
    path = DATA / f"{name}.npz"
    if not path.is_file():
        raise ValueError(f"No set named {name!r}; there are {', '.join(names())}.")
    return path
