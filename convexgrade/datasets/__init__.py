"""Two small regression sets that ship with the package, and a generated one.

Loaded and made as scikit-learn loads and makes its own.
"""

from __future__ import annotations

from importlib import resources
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_simpson
from scipy.special import gammaln, jv
from sklearn.utils import Bunch, check_random_state

from convexgrade.checks import check_least

__all__ = ["load_concrete", "load_energy", "make_depth_separation"]

_STEP = 0.01  # of the grid on which the radial law is tabulated; its density waves with period pi
_STEPS_A_DIMENSION = 100  # of that grid at least, as the density can rise with t^(d - 1)
_MOST_STEPS = 5_000_000  # of that grid: some 0.5 GB
_TERMS = 20  # of a power series whose terms fall by half at least


def load_concrete(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load the concrete compressive strength data (regression, 1030 rows, 8 features).

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Return a DataFrame for the data and a Series for the target.

    Returns
    -------
    sklearn.utils.Bunch or tuple
        ``data`` (1030, 8), ``target`` (1030,) in MPa, ``feature_names``, ``target_names``,
        ``frame`` (data and target side by side with ``as_frame=True``, else None), ``DESCR``,
        ``filename`` and ``data_module``.

    See Also
    --------
    load_energy : Heating load of buildings.

    References
    ----------
    I-C. Yeh, "Modeling of strength of high-performance concrete using artificial neural networks",
    Cement and Concrete Research 28(12), 1998; UCI, doi 10.24432/C5PK67, CC BY 4.0.

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
        Return a DataFrame for the data and a Series for the target.

    Returns
    -------
    sklearn.utils.Bunch or tuple
        ``data`` (768, 8), ``target`` (768,) in kWh/m2, ``feature_names``, ``target_names``,
        ``frame`` (data and target side by side with ``as_frame=True``, else None), ``DESCR``,
        ``filename`` and ``data_module``.

    See Also
    --------
    load_concrete : Compressive strength of concrete.

    References
    ----------
    A. Tsanas, A. Xifara, "Accurate quantitative estimation of energy performance of residential
    buildings using statistical machine learning tools", Energy and Buildings 49, 2012; UCI, doi
    10.24432/C51307, CC BY 4.0.

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


def make_depth_separation(
    n_samples: int = 100,
    n_features: int = 10,
    *,
    truncate: float = 3.0,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Generate the target of a depth separation: ``y = max(0, 1 - ||x||)`` under a radial density.

    The density of x is ``phi^2`` with ``phi(x) = (R / ||x||)^(d/2) J_{d/2}(2 pi R ||x||)``, the
    Fourier transform of the indicator of the ball of volume 1 and radius
    ``R = Gamma(d/2 + 1)^(1/d) / sqrt(pi)``, with x divided by ``sqrt(d)`` so that the kink at 1 stays
    among the data [1]_. Three-layer networks of polynomial size learn this target [2]_; no two-layer
    network of size polynomial in both d and 1 / accuracy approximates it. (At a fixed accuracy,
    two-layer networks of polynomial size do.)

    With ``t = 2 pi R sqrt(d) ||x||`` the radius has the density ``d J_{d/2}(t)^2 / t``. It is sampled by
    the inverse of its tabulated distribution function, the direction uniformly.

    Parameters
    ----------
    n_samples : int, default=100
        Number of rows.
    n_features : int, default=10
        Dimension d.
    truncate : float, default=3.0
        Largest ``||x||``. The density of t falls off as ``d / (pi t^2)`` does, so slowly that ``||x||``
        has no mean: the law is conditioned on ``||x|| <= truncate``. 3 keeps 93% to 97% of it. Values
        for which the table would be too large are refused, from about 5000 for d = 5 and 30 for d =
        1000.
    random_state : int, RandomState instance or None, default=None
        Determines the sample.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Rows.
    y : ndarray of shape (n_samples,)
        Targets, without noise.

    Raises
    ------
    ValueError
        If ``n_samples`` or ``n_features`` is not a positive integer, or ``truncate`` not a positive
        finite number, or too large, or so small that the density is 0 in double precision.

    References
    ----------
    .. [1] I. Safran, R. Eldan and O. Shamir, "Depth Separations in Neural Networks: What is Actually
       Being Separated?", COLT 2019, arXiv 1904.06984.
    .. [2] Y. Ren, M. Zhou and R. Ge, "Depth Separation with Multilayer Mean-Field Networks",
       ICLR 2023, arXiv 2304.01063.

    Examples
    --------
    >>> from convexgrade.datasets import make_depth_separation
    >>> X, y = make_depth_separation(200, 5, random_state=0)
    >>> X.shape, float(y.min())
    ((200, 5), 0.0)
    """
    check_least("n_samples", n_samples, Integral, 1)
    check_least("n_features", n_features, Integral, 1)
    check_least("truncate", truncate, Real, 0)
    d, rng = int(n_features), check_random_state(random_state)
    ball = np.exp(gammaln(d / 2 + 1) / d) / np.sqrt(np.pi)
    unit = 2.0 * np.pi * ball * np.sqrt(d)
    largest = _MOST_STEPS * _STEP / unit
    if not 0 < truncate <= largest:
        raise ValueError(
            f"truncate={truncate!r} must be above 0 and at most {largest:.4g} with n_features={d}: the "
            f"law is tabulated that far."
        )
    t, distribution = _radial_law(d, unit * float(truncate))
    if np.isnan(distribution).any():
        raise ValueError(
            f"truncate={truncate!r} keeps so little of the law with n_features={d} that no number tells "
            f"how much."
        )
    radius = np.interp(rng.uniform(size=n_samples), distribution, t) / unit
    direction = rng.standard_normal((n_samples, d))
    X = direction * (radius / np.linalg.norm(direction, axis=1))[:, None]
    return X, np.maximum(0.0, 1.0 - radius)


def _radial_law(d: int, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a grid of t in [0, end] and the distribution function of ``d J_{d/2}(t)^2 / t`` on it."""
    t = np.linspace(0.0, end, 1 + max(_STEPS_A_DIMENSION * d, int(np.ceil(end / _STEP))))
    if end**2 < d:
        density = (t / end) ** (d - 1) * _without_power(d, t) ** 2
    else:
        density = np.zeros_like(t)
        density[1:] = d * jv(d / 2, t[1:]) ** 2 / t[1:]
        if d == 1:
            density[0] = 2.0 / np.pi  # J_{1/2}(t)^2 = 2 sin(t)^2 / (pi t), so the limit is not 0
    distribution = np.maximum.accumulate(cumulative_simpson(density, x=t, initial=0.0))
    return t, distribution / (distribution[-1] or np.nan)


def _without_power(d: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return J_{d/2}(t) without its factor t^{d/2}, up to a constant, for t^2 < d: its power series.

    That factor can be too small to be a number.
    """
    term = total = np.ones_like(t)
    for k in range(1, _TERMS):
        term = term * (-0.25 * t**2) / (k * (0.5 * d + k))
        total = total + term
    return total


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
    import pandas as pd

    return pd.DataFrame(table, columns=columns)
