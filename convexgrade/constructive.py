"""A multigrade network for a given function, written down instead of fitted; see `refinement`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convexgrade.checks import NotFittedError, check_least
from convexgrade.moduli import Modulus, as_modulus, modulus_at, values_of
from convexgrade.refinement import (
    Function,
    RefinementNetwork,
    Residual,
    Stage,
    network_of,
    next_stage,
)

Array = NDArray[np.float64]

_DIMENSIONS = (1, 2, 3)
_TOO_FINE = (
    "Stage {index} needs a grid of more than max_nodes={limit} nodes: the residual varies too much "
    "between the nodes of the finest one allowed."
)
_ZERO = "The residual is zero up to rounding"
_UNSEEN = (
    "{zero} at all points evaluated, among them the {nodes} nodes of the finest grid that "
    "max_nodes={limit} allows. Elsewhere, the modulus leaves it up to {bound:.3g}."
)


class RefinementCheck(NamedTuple):
    """What `ConstructiveMultigrade.check` found at the points it was given.

    Attributes
    ----------
    sup_norms : ndarray of shape (n_stages + 1,)
        Largest size of the residual before the first stage and after each.
    ratios : ndarray of shape (n_stages,)
        ``sup_norms[k + 1] / sup_norms[k]``, and over 1 where that is 0: 1/2 at most where the guarantee
        holds and some of the points are where the residual is largest.
    increase : float
        Largest growth of the residual's size at any point in any stage; 0 up to rounding.
    """

    sup_norms: Array
    ratios: Array
    increase: float


class ConstructiveMultigrade:
    """Approximate a function on [0, 1]^d, d <= 3, by a multigrade ReLU network with proved refinement.

    No data and no training: the weights follow from values of the function. The network has width d + 2
    throughout. No grade raises the size of the residual at any point of the cube, and every stage (many
    grades) at least halves its largest value [1]_. With a modulus of continuity this is proved; without
    one, the residual can rise where the points evaluated do not show it.

    The construction also ends where the residual is zero, up to rounding, at all points evaluated. With
    a modulus, grids get finer first, until this is proved of the whole cube. Where ``max_nodes`` does
    not allow grids so fine, the last stage halves nothing, and ``stop_reason_`` says so: the last entry
    of ``bounds_`` is how large the residual may be between the nodes.

    Parameters
    ----------
    n_stages : int, default=4
        Most stages.
    modulus : float, tuple (constant, exponent) or callable, default=None
        What is known of the function's continuity: a Lipschitz constant in the Euclidean norm, a Hölder
        pair (C, a) with 0 < a <= 1, for ``C t**a``, or ``omega(t)``, a bound on ``|f(x) - f(y)|`` for
        ``|x - y| <= t``. With it the guarantee is a proof; that f has this modulus is checked at the
        points evaluated alone. None takes the oscillation from samples: then the guarantee holds as far
        as those have seen.
    max_nodes : int, default=300_000
        Largest grid of a stage. The number of nodes grows as h to the power -d.
    n_samples : int, default=4096
        Random points (always the same) at which the residual is evaluated besides the grid.

    Attributes
    ----------
    stages_ : tuple of Stage
        The stages, each with ``coefficients``, ``n_cells``, ``oscillation`` and ``n_grades``.
    n_stages_ : int
        Number of stages.
    n_grades_ : int
        Number of grades: one for each node whose coefficient is not 0.
    width_ : int
        Width of the network, d + 2.
    sup_norms_ : ndarray of shape (``n_stages_`` + 1,)
        Largest size of the residual at the points evaluated, before the first stage and after each.
    bounds_ : ndarray of shape (``n_stages_`` + 1,)
        Upper bounds of the residual on the whole cube; inf without a modulus.
    guaranteed_ : bool
        Whether the guarantee rests on ``modulus`` (True), and ``bounds_`` are proved, or on samples
        (False).
    stop_reason_ : str
        Why there are no more stages.

    See Also
    --------
    GeometricLayerwiseRegressor : Networks of growing depth for functions and data.

    References
    ----------
    .. [1] S. Zhang, Z. Shen and Y. Xu, "Multigrade Neural Network Approximation", 2026,
       arXiv 2601.16884. They prove that such a network exists; the construction is this package's.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import ConstructiveMultigrade
    >>> def f(X):
    ...     return np.sqrt(np.abs(X[:, 0] - 0.4))
    >>> model = ConstructiveMultigrade(n_stages=3, modulus=np.sqrt).fit(f, dimension=1)
    >>> model.width_, bool(np.all(model.sup_norms_[1:] <= 0.5 * model.sup_norms_[:-1]))
    (3, True)
    >>> X = np.linspace(0, 1, 7).reshape(-1, 1)
    >>> np.allclose(model.to_network().forward(X), model.predict(X))
    True
    """

    stages_: tuple[Stage, ...]
    sup_norms_: Array
    bounds_: Array
    guaranteed_: bool
    stop_reason_: str

    def __init__(
        self,
        n_stages: int = 4,
        *,
        modulus: Modulus | None = None,
        max_nodes: int = 300_000,
        n_samples: int = 4096,
    ) -> None:
        self.n_stages = n_stages
        self.modulus = modulus
        self.max_nodes = max_nodes
        self.n_samples = n_samples

    def __repr__(self) -> str:
        names = ("n_stages", "modulus", "max_nodes", "n_samples")
        return f"ConstructiveMultigrade({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"

    def fit(self, f: Function, dimension: int) -> Self:
        """Construct the network for a function.

        Parameters
        ----------
        f : callable
            Continuous; maps points, an array of shape (n_samples, dimension) in [0, 1], to values of
            shape (n_samples,).
        dimension : {1, 2, 3}
            Number of variables, d.

        Returns
        -------
        self : object
            The constructed model.

        Raises
        ------
        ValueError
            If a parameter is not as described, if f returns another shape or values that are not
            finite, if it varies more than ``modulus`` allows where it was evaluated, or if the first
            stage needs more than ``max_nodes``.
        TypeError
            If ``modulus`` is of another type, or f is no function.
        """
        f = _checked(f)
        self._check_parameters(dimension)
        modulus = None if self.modulus is None else _finite(as_modulus(self.modulus))
        points = np.random.default_rng(0).random((self.n_samples, dimension))
        residual, reason = self._refine(Residual(f, points, f(points)), modulus)
        self._dimension = dimension
        self.stages_ = residual.stages
        self.guaranteed_ = modulus is not None
        self.stop_reason_ = reason
        self.sup_norms_ = np.array([*(s.sup_norm for s in self.stages_), residual.sup_norm()])
        # After a stage |e| <= 2 eps.
        last = 2.0 * self.stages_[-1].oscillation if self.guaranteed_ else np.inf
        # No grade raises the residual anywhere, so that every bound holds from its stage on.
        self.bounds_ = np.minimum.accumulate([*(s.bound for s in self.stages_), last])
        return self

    def _refine(
        self, residual: Residual, modulus: Callable[[float], float] | None
    ) -> tuple[Residual, str]:
        """Return the residual after all stages, and why there are no more."""
        for index in range(1, self.n_stages + 1):
            stage = next_stage(residual, modulus, self.max_nodes)
            if stage is None and index == 1:
                raise ValueError(
                    f"max_nodes={self.max_nodes} is too small for the first stage: f varies too much "
                    f"between the nodes of such a grid."
                )
            if stage is None:
                return residual, _TOO_FINE.format(index=index, limit=self.max_nodes)
            residual = residual.after(stage)
            if residual.is_zero:
                return residual, self._zero_reason(residual, modulus is not None)
        return residual, f"All {self.n_stages} stages were constructed."

    def _zero_reason(self, residual: Residual, proved: bool) -> str:
        """Say how far it is known that the residual is zero."""
        if not proved:
            return f"{_ZERO} at all points evaluated."
        if residual.is_proved_zero:
            return f"{_ZERO}."
        last = residual.stages[-1]
        size, limit, bound = last.coefficients.size, self.max_nodes, last.bound
        return _UNSEEN.format(zero=_ZERO, nodes=size, limit=limit, bound=bound)

    @property
    def n_stages_(self) -> int:
        """Number of stages."""
        self._check_fitted()
        return len(self.stages_)

    @property
    def n_grades_(self) -> int:
        """Number of grades of the network."""
        self._check_fitted()
        return sum(stage.n_grades for stage in self.stages_)

    @property
    def width_(self) -> int:
        """Width of the network, d + 2."""
        self._check_fitted()
        return self._dimension + 2

    def predict(self, X: ArrayLike) -> Array:
        """Return the approximation at points of the cube, by its formula.

        Parameters
        ----------
        X : array-like of shape (n_samples, d)
            Points in [0, 1]^d.

        Returns
        -------
        ndarray of shape (n_samples,)
            Values.

        Raises
        ------
        ValueError
            If X has another shape or leaves the cube.
        """
        X = self._check_points(X)
        return sum((stage.forward(X) for stage in self.stages_), start=np.zeros(len(X)))

    def staged_predict(self, X: ArrayLike) -> Iterator[Array]:
        """Yield the approximation at points of the cube after each stage.

        (`RefinementNetwork.staged` does so after each grade.)

        Parameters
        ----------
        X : array-like of shape (n_samples, d)
            Points in [0, 1]^d.

        Yields
        ------
        ndarray of shape (n_samples,)
            Values after the first 1, 2, ... stages; the last are those of `predict`.
        """
        X = self._check_points(X)
        output = np.zeros(len(X))
        for stage in self.stages_:
            output = output + stage.forward(X)
            yield output

    def check(self, f: Function, X: ArrayLike) -> RefinementCheck:
        """Measure the residuals of f at points, and whether any of them ever grew.

        Parameters
        ----------
        f : callable
            The function, as in `fit`.
        X : array-like of shape (n_samples, d)
            Points in [0, 1]^d, best others than those that the fit saw.

        Returns
        -------
        RefinementCheck
            ``sup_norms``, ``ratios`` and ``increase``.
        """
        X = self._check_points(X)
        values = _checked(f)(X)
        sizes = np.abs([values, *(values - output for output in self.staged_predict(X))])
        sup_norms = sizes.max(axis=1)
        return RefinementCheck(
            sup_norms=sup_norms,
            ratios=sup_norms[1:] / np.where(sup_norms[:-1] > 0.0, sup_norms[:-1], 1.0),
            increase=float(np.diff(sizes, axis=0).max(initial=0.0)),
        )

    def to_network(self) -> RefinementNetwork:
        """Return the explicit network, grade after grade, enough to predict with numpy alone.

        Returns
        -------
        RefinementNetwork
            With the values of `predict` up to rounding. Its forward pass goes through
            ``(d + 1) * n_grades_`` layers one by one.
        """
        self._check_fitted()
        parts = [network_of(stage) for stage in self.stages_]
        return RefinementNetwork(
            coef=np.concatenate([part.coef for part in parts]),
            intercept=np.concatenate([part.intercept for part in parts]),
            output_coef=np.concatenate([part.output_coef for part in parts]),
        )

    def _check_parameters(self, dimension: Any) -> None:
        counts = isinstance(dimension, Integral) and not isinstance(dimension, bool)
        if not counts or dimension not in _DIMENSIONS:
            raise ValueError(
                f"dimension={dimension!r} must be 1, 2 or 3: the number of grades grows as h to the "
                f"power -dimension."
            )
        for name, least in (("n_stages", 1), ("max_nodes", 2), ("n_samples", 1)):
            check_least(name, getattr(self, name), Integral, least)

    def _check_fitted(self) -> None:
        if not hasattr(self, "stages_"):
            raise NotFittedError(
                "This ConstructiveMultigrade is not fitted: call fit(f, dimension) first."
            )

    def _check_points(self, X: ArrayLike) -> Array:
        self._check_fitted()
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self._dimension or len(X) == 0:
            raise ValueError(
                f"X has shape {X.shape}; expected (n_samples, {self._dimension}) with at least one row."
            )
        if not np.all((X >= 0.0) & (X <= 1.0)):
            raise ValueError(
                f"X must lie in [0, 1]^{self._dimension}, where the function was read."
            )
        return X


def _finite(modulus: Callable[[float], float]) -> Callable[[float], float]:
    """Return a modulus with its values checked."""

    def checked(t: float) -> float:
        value = modulus_at(modulus, t)
        if value == np.inf:
            raise ValueError(f"modulus returned {value} at scale {t:g}; it must be finite.")
        return value

    return checked


def _checked(f: Function) -> Function:
    """Return f with its values checked."""
    if not callable(f):
        raise TypeError(
            f"fit takes a function of points in the unit cube and its dimension, not data; got "
            f"{type(f).__name__} for f."
        )
    return lambda X: values_of(f, X)
