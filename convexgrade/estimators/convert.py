"""Gated ReLU estimators as ReLU estimators."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from convexgrade.chain import Chain, Data, certify_chain, measure_energy
from convexgrade.decomposition import Decomposition, decompose
from convexgrade.estimators.base import BaseChain
from convexgrade.solution import Status
from convexgrade.wording import counted


@dataclass(frozen=True)
class Conversion:
    """A ReLU estimator that equals a gated one on its training rows.

    Attributes
    ----------
    estimator : estimator
        The fitted ReLU estimator, of the same class.
    path_norm_before, path_norm_after : float
        Sum over neurons of ``||u|| |a|``, which ``alpha`` multiplies.
    blow_up : float
        ``path_norm_after / path_norm_before``; 1 if there are no neurons.
    n_neurons_before, n_neurons_after : int
        Neurons; at most two for a gated one.
    error : float
        Largest absolute difference of the outputs (predictions of a regressor, logits of a
        classifier) on the training rows: rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import ConvexReLURegressor, to_relu
    >>> X = np.linspace(-2, 2, 30).reshape(-1, 1)
    >>> gated = ConvexReLURegressor(activation="gated_relu", random_state=0).fit(X, np.sin(X[:, 0]))
    >>> conversion = to_relu(gated, X, np.sin(X[:, 0]))
    >>> np.allclose(conversion.estimator.predict(X), gated.predict(X))
    True
    """

    estimator: BaseChain
    path_norm_before: float
    path_norm_after: float
    blow_up: float
    n_neurons_before: int
    n_neurons_after: int
    error: float

    def __str__(self) -> str:
        before = counted(self.n_neurons_before, "gated neuron")
        after = counted(self.n_neurons_after, "ReLU neuron")
        return (
            f"{before} became {after}, "
            f"path norm {self.path_norm_before:.4g} became {self.path_norm_after:.4g} "
            f"({self.blow_up:.3g} times), equal to {self.error:.1e} on the training rows."
        )


def to_relu(
    estimator: BaseChain,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> Conversion:
    """Convert a fitted estimator with ``activation="gated_relu"`` to one with ``"relu"``.

    Every gated neuron becomes the difference of two ReLU neurons (one, where that is enough) of its
    pattern. Their vectors differ by that of the neuron, so that the outputs on the training rows are
    the same, and have the least norm of all such (Mishkin, Sahiner & Pilanci 2022, section 3). On other
    rows the two estimators differ.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator of one grade with ``activation="gated_relu"``. It is not changed.
    X : array-like of shape (n_samples, n_features)
        Its training rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Its targets, for the certificate.
    sample_weight : array-like of shape (n_samples,), default=None
        Its weights.

    Returns
    -------
    Conversion
        With ``estimator``, whose certificate bounds how far it is from the optimum of the ReLU program
        over the same patterns, and how much the norm of the neurons grew.

    Raises
    ------
    TypeError
        If ``estimator`` is not one of this package's.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If it has several grades or no gates, if a gate separates rows that are equal up to rounding, or
        if rows lie on the boundary of a gate without a bias.

    See Also
    --------
    ConvexReLURegressor : Fits such networks, with ``activation="gated_relu"``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from convexgrade import ConvexReLUClassifier, to_relu
    >>> X, y = (a[::5] for a in load_iris(return_X_y=True))
    >>> gated = ConvexReLUClassifier(0.01, activation="gated_relu", random_state=0).fit(X, y)
    >>> conversion = to_relu(gated, X, y)
    >>> conversion.blow_up >= 1, conversion.error < 1e-9
    (True, True)
    """
    _check_convertible(estimator)
    data = estimator._training_data(X, y, sample_weight)
    old = estimator._progress.chain
    step, _ = old.walk(data.X)
    decomposition = decompose(old.grades[0].network, step.H)
    converted = deepcopy(estimator).set_params(activation="relu")
    chain, loss = _certified(converted, old, decomposition, data), estimator._coding.loss
    converted._progress = replace(
        estimator._progress, chain=chain, energy=measure_energy(chain, data, loss)
    )
    after, before = (estimator._uncoded(c.output(data.X)) for c in (converted._progress.chain, old))
    return Conversion(
        estimator=converted,
        path_norm_before=decomposition.path_norm_before,
        path_norm_after=decomposition.path_norm_after,
        blow_up=decomposition.blow_up,
        n_neurons_before=decomposition.n_neurons_before,
        n_neurons_after=decomposition.n_neurons_after,
        error=float(np.abs(after - before).max()),
    )


def _check_convertible(estimator: BaseChain) -> None:
    if not isinstance(estimator, BaseChain):
        raise TypeError(
            f"to_relu needs a fitted convexgrade estimator; got {type(estimator).__name__}."
        )
    check_is_fitted(estimator)
    allowed = "to_relu converts estimators of one grade fitted with activation='gated_relu'"
    if estimator.n_grades_ != 1:
        raise ValueError(
            f"{allowed}; this {type(estimator).__name__} has {estimator.n_grades_} grades, of which "
            f"the later read the hidden features that a conversion changes."
        )
    if estimator.grades_[0].network.gate_coef is None:
        raise ValueError(f"{allowed}; this {type(estimator).__name__} has ReLU neurons already.")


def _certified(converted: BaseChain, old: Chain, decomposition: Decomposition, data: Data) -> Chain:
    """Return the chain with the ReLU network and its certificate, over the gates it had."""
    [grade] = old.grades
    settings = replace(grade.settings, activation="relu")
    grade = replace(grade, network=decomposition.network, settings=settings)
    chain = old.with_grades([grade]).with_status(Status.CONVERTED)
    certificates = certify_chain(chain, data, converted._coding.loss, converted._seed)
    return chain.with_certificates(certificates)
