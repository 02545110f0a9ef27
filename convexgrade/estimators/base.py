"""What the estimators share: validation, the fit loop, warnings.

One grade is a chain of length one, so every estimator that solves convex programs is a `BaseChain`; a
mixin of `targets` codes its targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from convexgrade.certificate import Certificate
from convexgrade.chain import Chain, Data, certify_chain
from convexgrade.deep_network import DeepNetwork, read_far
from convexgrade.estimators.rows import (
    Rows,
    checked_weights,
    effective_number,
    refuse_huge,
    refused_whole,
    validated_rows,
)
from convexgrade.estimators.targets import Coding
from convexgrade.grade import Grade
from convexgrade.handover import HIDDEN_AND_INPUTS
from convexgrade.losses import Loss
from convexgrade.multigrade import ChainPlan, Progress, first_price, grow
from convexgrade.network import Network
from convexgrade.reading import AS_IT_IS, Reading
from convexgrade.settings import Report, Settings, silent
from convexgrade.solvers import SOLVERS

Array = NDArray[np.float64]

_LARGEST = 1e50  # value of a column that is read as it is: solvers cannot do with larger ones


class BaseChain(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A chain of grades behind scikit-learn's interface.

    Subclasses list their parameters, name the number of grades, and code their targets.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "activation": [StrOptions({"relu", "gated_relu"})],
        "patterns": [StrOptions({"adaptive", "sampled", "exhaustive"})],
        "n_patterns": [Interval(Integral, 1, None, closed="left")],
        "max_neurons": [Interval(Integral, 1, None, closed="left"), None],
        "solver": [StrOptions(set(SOLVERS))],
        "standardize": ["boolean"],
        "fit_intercept": ["boolean"],
        "linear_term": ["boolean"],
        "tol": [Interval(Real, 0, 1, closed="right")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "n_jobs": [
            Interval(Integral, 1, None, closed="left"),
            Interval(Integral, None, -1, closed="right"),
            None,
        ],
    }

    alpha: float | str
    activation: str
    patterns: str
    n_patterns: int
    max_neurons: int | None
    solver: str
    standardize: bool
    fit_intercept: bool
    linear_term: bool
    tol: float
    max_iter: int
    warm_start: bool
    random_state: Any
    verbose: int
    n_jobs: int | None

    _seed: int
    _coding: Coding
    _reading: Reading
    _progress: Progress

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the chain, grade by grade.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; a weight of 2 is the row twice, 0 leaves it out. For how many rows
            there are, ``alpha="auto"`` takes their effective number ``sum(w)**2 / sum(w**2)``. If there
            are at least 1.5 times as many rows as distinct ones, equal rows are taken for copies: they
            count, and are held out, as one. But not in a table of few values, where rows recur by
            themselves: on average four times or more, in numbers without a common divisor, or of at
            most 30 distinct rows. (Of such a table written once with its counts as weights, copies
            count as one.)

        Returns
        -------
        self : object
            The fitted estimator. Should the fit be interrupted, the grades finished until then stay
            and the estimator predicts with them; before the first, it is what it was before the fit.

        Raises
        ------
        TypeError
            If X or y is sparse.
        ValueError
            If a parameter, X, y or the weights are not as described.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the gap of a grade exceeds ``tol``.
        """
        for _ in self._fitting(X, y, sample_weight):
            pass
        self._warn_unconverged()
        return self

    def _fitting(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Iterator[None]:
        """Fit, and pause when a grade has been added to the chain that stays, and when that ends.

        What ends it before the first grade leaves the estimator as it was: an error always, and an
        interruption as long as nothing was tried on rows held out.
        """
        last = getattr(self, "_progress", None)

        def was_tried(error: BaseException) -> bool:
            changed = getattr(self, "_progress", last) is not last
            return changed and not isinstance(error, Exception)

        with refused_whole(self, was_tried):
            growing = self._begun(X, y, sample_weight, groups)
            next(growing, None)
        yield
        yield from growing

    def _begun(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
    ) -> Iterator[None]:
        """Check and learn what a fit needs, and return its generator of grades."""
        continues = self._continues()
        self._learn_class_weight()
        given = self._weighted(*self._validate(X, y, reset=not continues), sample_weight)
        refuse_huge("X", given.X)
        if groups is not None:
            check_consistent_length(given.X, groups)
            given = replace(given, groups=column_or_1d(groups))
        if continues:
            self._coding = self._continued(given.distinct.y)
            return self._grow(given, self._further_plan(), continues)
        self._learn_from(given.distinct)
        plan = self._chosen_plan(given, effective_number(given.drawn.copies))
        if self.__sklearn_is_fitted__():
            plan = replace(plan, first_network=self._first_network(self._progress.chain))
            del self._progress  # which must not be half of this fit
        return self._grow(given, plan, continues)

    def transform(self, X: ArrayLike) -> Array:
        """Return the hidden features of the last grade.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_neurons)
            Output of each neuron of the last grade: no column if it has none.
        """
        rows = self._validate_rows(X)
        *_, last, _ = self._progress.chain.walk(rows)
        return self.grades_[-1].network.hidden(last.H)

    @property
    def grades_(self) -> tuple[Grade, ...]:
        """The fitted grades."""
        check_is_fitted(self)
        return self._progress.chain.grades

    @property
    def certificates_(self) -> list[Certificate]:
        """The certificate of each grade, as computed at the end of its fit."""
        return [grade.certificate for grade in self.grades_]

    @property
    def n_grades_(self) -> int:
        """Number of fitted grades."""
        return len(self.grades_)

    @property
    def network_(self) -> DeepNetwork:
        """Explicit weights in the units of the data, enough to predict with numpy alone."""
        check_is_fitted(self)
        scaling = self._coding.scaling
        network = self._progress.chain.network(scaling.center, scaling.scale)
        return replace(network, reading=self._reading)

    @property
    def _n_features_out(self) -> int:
        return self.grades_[-1].n_neurons

    @property
    def n_iter_(self) -> int:
        """Rounds of search and solve of the grade that took most; at most ``max_iter``."""
        return max(grade.n_rounds for grade in self.grades_)

    @property
    def train_loss_(self) -> Array:
        """Mean training loss after each grade, in the units of the standardised targets."""
        check_is_fitted(self)
        return np.array(self._progress.train_loss)

    @property
    def stop_reason_(self) -> str:
        """Why the chain has no more grades; empty after an interrupted fit."""
        check_is_fitted(self)
        return self._progress.verdict

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_progress")

    def _outputs(self, X: ArrayLike) -> Iterator[Array]:
        """Yield the chain's output after each grade in the units of the data."""
        rows = self._validate_rows(X)
        return map(self._uncoded, self._progress.chain.staged(rows))

    def _last_output(self, X: ArrayLike) -> Array:
        rows = self._validate_rows(X)
        return self._uncoded(self._progress.chain.output(rows))

    def _uncoded(self, output: Array) -> Array:
        """Return an output of the chain in the units of the data."""
        return self._coding.uncoded(output)

    def _validate_rows(self, X: ArrayLike) -> Array:
        rows = validated_rows(self, X)  # before anything is read that only a fit sets
        return read_far(self._reading, rows)

    def _validate(self, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Array, Any]:
        raise NotImplementedError

    def _learn_coding(self, y: Any, weights: Array) -> Coding:
        raise NotImplementedError

    def _loss_of(self, n_outputs: int) -> Loss:
        """Return the loss that the parameters ask for."""
        raise NotImplementedError

    def _continued(self, y: Any) -> Coding:
        """Return the coding for a fit that adds to fitted grades."""
        raise NotImplementedError

    def _coded(self, y: Any) -> Array:
        raise NotImplementedError

    def _learn_class_weight(self) -> None:
        """Note what classes weigh in this fit, where there are any."""

    def _learn_reading(self, rows: Rows) -> Reading:
        """Return how columns are read: as they are, unless a subclass says more."""
        return AS_IT_IS

    def _depth(self) -> int:
        return 1

    def _begin(self, train: Data) -> Progress:
        """Return the chain without grades."""
        return Progress.begin(self._coding.loss, train, HIDDEN_AND_INPUTS)

    def _continues(self) -> bool:
        """Return whether `fit` adds to fitted grades instead of starting anew."""
        return False

    def _first_network(self, last: Chain) -> Network | None:
        """Return a network of the last fit from which the search of the first grade starts as well."""
        return None

    def _learn_from(self, rows: Rows) -> None:
        """Learn what a fit needs to know before it has a plan: seed, coding of targets, reading."""
        largest = np.abs(rows.X).max()
        if not self.standardize and largest > _LARGEST:
            raise ValueError(
                f"X has values of up to {largest:.3g}, too large to be read as they are: they need "
                f"standardize=True, or another unit."
            )
        self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self._coding = self._learn_coding(rows.y, rows.weights)
        self._reading = self._learn_reading(rows)

    def _chosen_plan(self, given: Rows, n_rows: float) -> ChainPlan:
        """Return the plan of a fit that starts anew, as far as data choose it before the first grade."""
        return self._plan(float(self.alpha))

    def _further_plan(self) -> ChainPlan:
        """Return the plan of a fit that adds to fitted grades."""
        raise NotImplementedError

    def _grow(self, given: Rows, plan: ChainPlan, continues: bool) -> Iterator[None]:
        """Fit the grades, setting out from those there are if the fit ``continues``."""
        data = self._data(given.distinct)
        start = self._progress if continues else self._begin(data)
        for progress in self._growing(start, data, plan):
            self._progress = progress
            yield

    def _growing(self, start: Progress, data: Data, plan: ChainPlan) -> Iterator[Progress]:
        for progress in grow(start, data, plan, self._reporter(level=2)):
            self._reporter(level=1)(_summary(progress))
            yield progress

    def _weighted(self, X: Array, y: Any, sample_weight: ArrayLike | None) -> Rows:
        copies = checked_weights(sample_weight, X)
        return Rows(X, y, copies, self._class_shares(y, copies))

    def _class_shares(self, y: Any, copies: Array) -> Array:
        """Return what the class of each row weighs, if there are classes."""
        return np.ones(len(y))

    def _data(self, rows: Rows) -> Data:
        return self._read(rows, self._reading)

    def _read(self, rows: Rows, reading: Reading) -> Data:
        """Return rows as a chain with that reading is fitted to them."""
        return Data(reading.apply(rows.X), self._coded(rows.y), rows.weights / rows.weights.sum())

    def _plan(self, alpha: float) -> ChainPlan:
        """Return the plan of a chain with this penalty in its first grade."""
        settings = Settings(
            activation=self.activation,
            patterns=self.patterns,
            n_patterns=int(self.n_patterns),
            max_neurons=self.max_neurons,
            solver=self.solver,
            tol=float(self.tol),
            max_iter=self.max_iter,
            fit_intercept=self.fit_intercept,
            linear_term=self.linear_term,
            n_jobs=self.n_jobs,
        )
        return ChainPlan(
            n_grades=self._depth(),
            alpha=alpha,
            loss=self._coding.loss,
            standardize=self.standardize,
            settings=settings,
            seed=self._seed,
            span=self._coding.span,
        )

    def _certify(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None
    ) -> list[Certificate]:
        check_is_fitted(self)
        data = self._training_data(X, y, sample_weight)
        return certify_chain(self._progress.chain, data, self._coding.loss, self._seed)

    def _training_data(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Data:
        given = self._weighted(*self._validate(X, y, reset=False), sample_weight)
        return self._data(given.distinct)

    def _alpha_max(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> float:
        """Return the alpha above which a fit to these data would have no neuron."""
        self._learn_class_weight()
        rows = self._weighted(*self._validate(X, y, reset=True), sample_weight).distinct
        self._learn_from(rows)
        any_alpha = 1.0  # prices do not depend on it
        return first_price(self._data(rows), self._plan(any_alpha))

    def _reporter(self, level: int) -> Report:
        return print if self.verbose >= level else silent

    def _warn_unconverged(self) -> None:
        remedies = "A larger max_iter or tol, or another solver, may help."
        if not self.standardize:
            remedies += " So may standardize=True, where columns differ in size by many digits."
        for index, grade in enumerate(self.grades_):
            certificate, tol = grade.certificate, grade.settings.tol
            if certificate.relative_gap > tol and not certificate.status.constrained:
                warnings.warn(
                    f"Grade {index + 1} has relative gap {certificate.relative_gap:.2e}, above "
                    f"tol={tol:g}. {certificate.status.value} {remedies}",
                    ConvergenceWarning,
                    stacklevel=4,  # past `fit` and scikit-learn's wrapper of it
                )


def _summary(progress: Progress) -> str:
    if progress.verdict:
        return progress.verdict
    grade = progress.chain.grades[-1]
    return f"Grade {len(progress.chain)}: training loss {progress.train_loss[-1]:.6g}, {grade}"
