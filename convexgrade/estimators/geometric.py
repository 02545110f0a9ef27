"""Readouts that get better layer by layer at a known rate: tables of nested cells as an estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.utils import Tags, check_scalar
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from convexgrade.estimators.rows import (
    checked_weights,
    refused_whole,
    validated,
    validated_rows,
)
from convexgrade.geometric import MAX_BASE, Box, Tables, as_box, cell_centers
from convexgrade.geometric_network import (
    Code,
    GeometricNetwork,
    build_network,
    check_encodable,
    encode_tables,
    staged_codes,
)
from convexgrade.moduli import (
    Modulus,
    ReadoutCheck,
    compare_readouts,
    layer_moduli,
    layers_for,
    modulus_on,
    values_of,
)

Array = NDArray[np.float64]

_MAX_FUNCTION_ROWS = 20_000_000


class GeometricLayerwiseRegressor(RegressorMixin, BaseEstimator):
    """A sum of layers, each of which cuts cells ``base`` times finer and corrects what is left there.

    The readout after layer l is the average of the targets over cells of side ``base**-l`` of the box
    of the training rows. For the exact averages of a function f, its L^p error over the box is at most
    ``(2 d + 1)`` times the L^p modulus of continuity of f at that side, at every layer (Zhang, Shen and
    Xu [1]_; the proof for averages is in `convexgrade.moduli`). Layers are nested: one more changes
    none of those before it. `to_network` writes the readouts as a network of fixed width.

    For rows in place of a function: if ``y = f(x)`` without noise, f has the modulus of continuity w,
    and no row lies outside the box, as it can of a given ``domain``, then the error at every point of
    the box with effective level l (see `staged_predict`) is at most ``w(sqrt(d) h) <= (2 d + 1) w(h)``
    with ``decoder="table"``, h the longest side of that level's cells. Else, nothing is promised.

    Parameters
    ----------
    base : int, default=2
        Parts that each layer cuts each coordinate of a cell into, from 2 to 1000: N.
    n_layers : int, default=5
        Number of layers, at least 1: L.
    decoder : {"table", "sine"}, default="table"
        ``"table"`` keeps the terms of cells with rows, in memory that grows with these cells.
        ``"sine"`` codes the terms of *all* cells of a layer in one integer, as the network does, for
        at most 64 cells in the last layer and one output; it needs python-flint (the extra ``exact``).
    p : float, default=2
        Exponent of the norm the bounds speak of, in [1, inf).
    domain : tuple (low, high), default=None
        Corners of the box that is cut, numbers or arrays of shape (n_features,), ``low < high``. None
        takes the smallest box around the rows. Rows outside are moved to the nearest point of the box.

    Attributes
    ----------
    box_ : Box
        The box, with ``low``, ``high`` and ``width``.
    tables_ : Tables
        ``baseline``, the average over all rows, and ``layers``, each with ``terms`` and ``weight`` of
        the cells with rows.
    n_cells_ : ndarray of shape (n_layers,)
        Number of cells with rows in each layer.
    codes_ : tuple of Code
        With the sine decoder, for each layer the integer ``multiple`` and the ``error`` of decoding.
    decoding_error_ : ndarray of shape (n_layers,)
        Largest difference of each layer's readout from the table decoder's.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Their names, if X had names.

    References
    ----------
    .. [1] S. Zhang, Z. Shen, Y. Xu, "Geometric Layer-wise Approximation Rates for Deep Networks", 2026,
       arXiv 2604.20219.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import GeometricLayerwiseRegressor
    >>> X = np.linspace(0, 1, 1000).reshape(-1, 1)
    >>> model = GeometricLayerwiseRegressor(n_layers=4).fit(X, np.abs(X[:, 0] - 0.3))
    >>> for readout in model.staged_predict([[0.3]]):
    ...     print(readout.round(3))
    [0.13]
    [0.085]
    [0.032]
    [0.021]
    >>> model.readout_bound(1.0)  # the function has Lipschitz constant 1
    array([1.5   , 0.75  , 0.375 , 0.1875])
    >>> model.levels_for(0.01)
    9
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "base": [Interval(Integral, 2, MAX_BASE, closed="both")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "decoder": [StrOptions({"table", "sine"})],
        "p": [Interval(Real, 1, None, closed="left")],
        "domain": [tuple, list, None],
    }

    box_: Box
    tables_: Tables
    codes_: tuple[Code, ...]

    def __init__(
        self,
        base: int = 2,
        n_layers: int = 5,
        *,
        decoder: str = "table",
        p: float = 2,
        domain: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> None:
        self.base = base
        self.n_layers = n_layers
        self.decoder = decoder
        self.p = p
        self.domain = domain

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Average the targets over the cells of every layer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the averages; 0 leaves a row out.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X, y or the weights are not as described, or there are more cells or outputs
            than the sine decoder takes.
        ImportError
            If the sine decoder is asked for and python-flint is not installed.
        """
        with refused_whole(self):
            rows, targets = validated(self, X, y)
            weights = checked_weights(sample_weight, rows)
            rows, targets, weights = (part[weights > 0.0] for part in (rows, targets, weights))
            box = Box.around(rows) if self.domain is None else as_box(self.domain, rows.shape[1])
            return self._fit_tables(box, rows, targets, weights)

    def fit_function(
        self, f: Callable[[Array], ArrayLike], n_features: int, points_per_side: int = 4
    ) -> Self:
        """Average a function over the cells of every layer.

        The average over a cell of the last layer is taken over the centres of ``points_per_side**d``
        equal parts of it: exact averages up to the error of that quadrature. One more layer with
        ``points_per_side / base`` sees the same points, and so has the same earlier layers.

        Parameters
        ----------
        f : callable
            Takes rows, shape (n, n_features), and returns n targets or an array with n rows.
        n_features : int
            Number of coordinates, d.
        points_per_side : int, default=4
            Points along each side of a cell of the last layer.

        Returns
        -------
        self : object
            The estimator, fitted on ``domain``, by default [0, 1]^d.

        Raises
        ------
        ValueError, TypeError
            If a parameter, f or a value of f is not as described, or there would be more than 20
            million points.
        """
        self._validate_params()
        check_scalar(n_features, "n_features", Integral, min_val=1)
        box = as_box((0.0, 1.0) if self.domain is None else self.domain, int(n_features))
        check_scalar(points_per_side, "points_per_side", Integral, min_val=1)
        per_side = int(points_per_side) * int(self.base) ** int(self.n_layers)
        if per_side**box.n_features > _MAX_FUNCTION_ROWS:
            raise ValueError(
                f"base={self.base}, n_layers={self.n_layers}, points_per_side={points_per_side} and "
                f"{n_features} features ask for {per_side} points along each side of the box, more "
                f"than {_MAX_FUNCTION_ROWS} in all. Lower one of them, or call fit with rows."
            )
        rows = box.points(cell_centers(box.n_features, per_side, 1))
        targets = values_of(f, rows, most=2)
        with refused_whole(self):
            return self._fit_tables(box, validate_data(self, rows), targets, np.ones(len(rows)))

    def predict(self, X: ArrayLike) -> Array:
        """Predict targets: the readout of the last layer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, shaped like the y of `fit`.
        """
        *_, last = self.staged_predict(X)
        return np.asarray(last)

    def staged_predict(self, X: ArrayLike, return_level: bool = False) -> Iterator[Any]:
        """Yield the readout of each layer.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; those outside the box take the nearest point of it.
        return_level : bool, default=False
            Whether to yield effective levels as well.

        Yields
        ------
        readout : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions of the first 1, 2, ... layers; the last are those of `predict`.
        level : ndarray of shape (n_samples,)
            Only with ``return_level=True``: the last layer, up to this one, whose cell around the row
            had training rows; 0 is the whole box. A cell without rows, or finer than 2**-53 of the box,
            as coordinates are read, has the value of its parent.
        """
        rows = validated_rows(self, X)
        if not return_level:
            return self._readouts(rows)
        return ((self._shaped(r), level) for r, level in self._staged(self.box_.unit(rows)))

    def readout_bound(self, modulus: Modulus) -> Array:
        """Return ``(2 d + 1)`` times a modulus of continuity at the side of each layer's cells.

        Bounds the L^p error over the box (whose volume counts as 1) of each readout for a function with
        this L^p modulus, if tables hold its averages. A Lipschitz or Hölder constant is one for every p.

        Parameters
        ----------
        modulus : float, tuple (constant, exponent), or callable
            A Lipschitz constant C, for ``C t``; a Hölder pair (C, a), for ``C t**a``; or the modulus, a
            function of the scale t. Distances are in the units of X; the scale of layer l is the
            longest side of the box times ``base**-l``.

        Returns
        -------
        ndarray of shape (n_layers,)
            The bounds, in the units of y.

        Raises
        ------
        ValueError, TypeError
            If the modulus is none of these.
        """
        check_is_fitted(self)
        moduli = layer_moduli(modulus, self.box_, self.tables_.base, len(self.tables_.layers))
        return (2 * self.box_.n_features + 1) * moduli

    def levels_for(self, eps: float, modulus: Modulus = 1.0) -> int:
        """Return how many layers make the bound at most ``eps`` (effective levels are another thing).

        Parameters
        ----------
        eps : float
            Error to reach, positive, in the units of y.
        modulus : float, tuple (constant, exponent), or callable, default=1.0
            As in `readout_bound`.

        Returns
        -------
        int
            The least such ``n_layers``; it may be more than there are.

        Raises
        ------
        ValueError
            If ``eps`` is not positive, or no layer reaches it.
        """
        check_is_fitted(self)
        return layers_for(eps, modulus, self.box_, self.tables_.base)

    def to_network(self) -> GeometricNetwork:
        """Write the readouts as an explicit network of fixed width.

        With the table decoder, the integers that stand for the tables are searched for here.

        Returns
        -------
        GeometricNetwork
            Of width at most ``2 d N + d + 2``, with two sine channels. ``forward(X)`` returns every
            readout; off tiny ramps next to the faces of cells, and rows that rounding puts on another
            side of one, they equal `staged_predict`, for the table decoder up to the error of decoding.

        Raises
        ------
        ValueError
            If there are several outputs, or more than 64 cells in the last layer.
        ImportError
            If python-flint is not installed.
        """
        check_is_fitted(self)
        codes = self.codes_ or encode_tables(self.tables_, self.box_.n_features, self.p)
        return build_network(self.tables_, codes, self.box_, self.p)

    @property
    def n_cells_(self) -> NDArray[np.int64]:
        """Number of cells with rows in each layer."""
        check_is_fitted(self)
        return np.array([layer.n_cells for layer in self.tables_.layers])

    @property
    def decoding_error_(self) -> Array:
        """Largest difference of each layer's readout from the table decoder's."""
        check_is_fitted(self)
        if not self.codes_:
            return np.zeros(len(self.tables_.layers))
        return np.array([code.error for code in self.codes_])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _fit_tables(self, box: Box, rows: Array, targets: Array, weights: Array) -> Self:
        self._one_dimensional = targets.ndim == 1
        columns, sine = targets.reshape(len(targets), -1), self.decoder == "sine"
        size = int(self.base), int(self.n_layers)  # numpy's integers overflow
        if sine:  # before any work
            check_encodable(size[0], box.n_features, size[1], columns.shape[1])
        tables = Tables.build(box.unit(rows), columns, weights, *size)
        self.codes_ = encode_tables(tables, box.n_features, self.p) if sine else ()
        self.box_, self.tables_ = box, tables
        return self

    def _staged(self, unit: Array) -> Iterator[tuple[Array, NDArray[np.int64]]]:
        exact = self.tables_.staged(unit)
        if not self.codes_:
            return exact
        decoded = staged_codes(self.tables_, self.codes_, unit)
        return ((value, level) for value, (_, level) in zip(decoded, exact, strict=True))

    def _readouts(self, X: Array) -> Iterator[Array]:
        return (self._shaped(value) for value, _ in self._staged(self.box_.unit(X)))

    def _shaped(self, value: Array) -> Array:
        return value[:, 0] if self._one_dimensional else value


def check_readout_bound(
    estimator: GeometricLayerwiseRegressor,
    f: Callable[[Array], ArrayLike],
    modulus: Modulus | None = None,
    p: float | None = None,
    *,
    n_points: int = 100_000,
) -> list[ReadoutCheck]:
    """Measure the error of every readout against a function, beside its bound.

    Parameters
    ----------
    estimator : GeometricLayerwiseRegressor
        Fitted with one output. It is only asked for predictions.
    f : callable
        The function it should approximate: takes rows, shape (n, n_features), returns n numbers.
    modulus : float, tuple (constant, exponent), or callable, default=None
        Its L^p modulus, as in `GeometricLayerwiseRegressor.readout_bound`. None estimates it from f
        (`convexgrade.moduli.empirical_modulus`), from below: a ratio of at most 1 then holds with
        the true modulus too, a ratio above 1 proves nothing.
    p : float, default=None
        Exponent of the norm, at least 1; None takes the estimator's.
    n_points : int, default=100_000
        Points of the quadrature, spread evenly over the box, whatever the training rows were. The
        error is measured up to the error of this quadrature.

    Returns
    -------
    list of ReadoutCheck
        One for each layer: ``layer``, ``error``, ``modulus``, ``bound``, ``ratio``.

    Raises
    ------
    ValueError, TypeError
        If the estimator, p, the modulus, f or what it returns is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import GeometricLayerwiseRegressor, check_readout_bound
    >>> def f(X):
    ...     return np.abs(X[:, 0] - 0.3)
    >>> model = GeometricLayerwiseRegressor(n_layers=3).fit_function(f, 1)
    >>> for check in check_readout_bound(model, f, modulus=1.0):
    ...     print(check.layer, round(check.error, 4), check.bound, round(check.ratio, 3))
    1 0.1168 1.5 0.078
    2 0.0693 0.75 0.092
    3 0.0345 0.375 0.092
    """
    _check_measurable(estimator)
    p = float(check_scalar(estimator.p if p is None else p, "p", Real))
    if not 1.0 <= p < np.inf:
        raise ValueError(f"p={p!r} must be at least 1 and finite.")
    box, tables = estimator.box_, estimator.tables_
    if modulus is None:
        modulus = modulus_on(box, f, p)
    moduli = layer_moduli(modulus, box, tables.base, len(tables.layers))
    return compare_readouts(estimator._readouts, f, moduli, box, p, n_points)


def _check_measurable(estimator: GeometricLayerwiseRegressor) -> None:
    if not isinstance(estimator, GeometricLayerwiseRegressor):
        raise TypeError(
            f"check_readout_bound needs a fitted GeometricLayerwiseRegressor; got "
            f"{type(estimator).__name__}."
        )
    check_is_fitted(estimator)
    n_outputs = estimator.tables_.baseline.size
    if n_outputs != 1:
        raise ValueError(
            f"check_readout_bound measures one output; this estimator has {n_outputs}."
        )
