"""Two small regression sets that ship with the package, loaded as scikit-learn loads its own."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
from sklearn.utils import Bunch

__all__ = ["load_concrete", "load_energy"]


def load_concrete(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the concrete compressive strength data (regression, 1030 rows, 8 features).

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return a DataFrame for the data and a Series for the target; needs pandas.

    Returns
    -------
    sklearn.utils.Bunch or tuple
        ``data`` (1030, 8), ``target`` (1030,) in MPa, ``feature_names``, ``target_names``,
        ``frame`` (data and target side by side with ``as_frame=True``, else None), ``DESCR``,
        ``filename`` and ``data_module``.

    See Also
    --------
    load_energy : Heating load of buildings.

    Examples
    --------
    >>> from convexgrade.datasets import load_concrete
    >>> concrete = load_concrete()
    >>> concrete.data.shape
    (1030, 8)
    >>> concrete.feature_names[:3], concrete.target_names
    (['cement', 'slag', 'fly_ash'], ['strength'])
    >>> X, y = load_concrete(return_X_y=True)
    >>> float(y.min()), float(y.max())
    (2.33, 82.6)
    """
    return _load("concrete", return_X_y=return_X_y, as_frame=as_frame)


def load_energy(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the heating load data of simulated buildings (regression, 768 rows, 8 features).

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return a DataFrame for the data and a Series for the target; needs pandas.

    Returns
    -------
    sklearn.utils.Bunch or tuple
        ``data`` (768, 8), ``target`` (768,) in kWh/m2, ``feature_names``, ``target_names``,
        ``frame`` (data and target side by side with ``as_frame=True``, else None), ``DESCR``,
        ``filename`` and ``data_module``.

    See Also
    --------
    load_concrete : Compressive strength of concrete.

    Examples
    --------
    >>> from convexgrade.datasets import load_energy
    >>> X, y = load_energy(return_X_y=True)
    >>> X.shape, y.shape
    ((768, 8), (768,))
    >>> load_energy(as_frame=True).frame["orientation"].nunique()
    4
    """
    return _load("energy", return_X_y=return_X_y, as_frame=as_frame)


def _load(name: str, *, return_X_y: bool, as_frame: bool) -> Any:
    columns, table = _read_csv(f"{name}.csv")
    feature_names, target_name = columns[:-1], columns[-1]
    data, target, frame = table[:, :-1], table[:, -1].copy(), None
    if as_frame:
        frame = _to_frame(table, columns)
        data, target = frame[feature_names], frame[target_name]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        frame=frame,
        feature_names=feature_names,
        target_names=[target_name],
        DESCR=_resource(f"{name}.rst").read_text(encoding="utf-8"),
        filename=f"{name}.csv",
        data_module="convexgrade.datasets.data",
    )


def _read_csv(filename: str) -> tuple[list[str], np.ndarray]:
    """Return the header and the numbers below it; the last column is the target."""
    with _resource(filename).open(encoding="utf-8") as file:
        columns = file.readline().strip().split(",")
        return columns, np.loadtxt(file, delimiter=",")


def _resource(filename: str) -> Any:
    return resources.files(__name__).joinpath("data", filename)


def _to_frame(table: np.ndarray, columns: list[str]) -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "as_frame=True needs pandas; install it, or use as_frame=False."
        ) from error
    return pd.DataFrame(table, columns=columns)
