"""What cross-validated chains share: the folds, what is tried on them, and what that chose."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.base import _fit_context, is_classifier
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.deep import DEPTH, DeepChain, Part
from convexgrade.estimators.rows import Rows
from convexgrade.multigrade import ChainPlan
from convexgrade.reading import Reading
from convexgrade.selection import (
    Alphas,
    Fold,
    Selection,
    Tried,
    given_alphas,
    path_of_alphas,
    select,
)

Array = NDArray[np.float64]

_CHOSEN = {"alpha", "warm_start"}  # parameters of chains that these have not
_FOLDS = 5  # folds, unless ``cv`` says otherwise
_TRIED, _MANY = 2, 5000  # folds that are tried, of tables of at least so many rows


class CrossValidated(DeepChain):
    """A chain whose alpha and depth are chosen by cross-validation."""

    alphas: ArrayLike | None
    n_alphas: int
    eps: float
    cv: Any

    _selection: Selection

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{k: v for k, v in BaseChain._parameter_constraints.items() if k not in _CHOSEN},
        **DEPTH,
        "alphas": ["array-like", None],
        "n_alphas": [Interval(Integral, 1, None, closed="left")],
        "eps": [Interval(Real, 0, 1, closed="neither")],
        "cv": ["cv_object"],
    }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Choose alpha and depth on the folds, then fit the chain to all rows, and correct it if asked.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; a weight of 2 is the row twice, 0 leaves it out.
        groups : array-like of shape (n_samples,), default=None
            What the rows of a group have in common, such as a patient or a batch, for a ``cv`` that
            keeps groups together, as `sklearn.model_selection.GroupKFold` does.

        Returns
        -------
        self : object
            The fitted estimator. Should the fit be interrupted once the folds have chosen, the grades
            finished until then stay and the estimator predicts with them; before the first, it is what
            it was before the fit.

        Raises
        ------
        TypeError
            If X or y is sparse.
        ValueError
            If a parameter, X, y, the weights or the groups are not as described, or groups are given
            and ``cv`` is none that could read them.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the gap of a grade exceeds ``tol``.
        """
        for _ in self._fitting(X, y, sample_weight, groups):
            pass
        self._warn_unconverged()
        return self

    @property
    def alpha_(self) -> float:
        """The alpha that was chosen."""
        check_is_fitted(self)
        return self._selection.alpha

    @property
    def alphas_(self) -> Array:
        """The values of alpha that were tried, decreasing."""
        check_is_fitted(self)
        return np.array(list(dict.fromkeys(result.alpha for result in self._selection.results)))

    @property
    def cv_results_(self) -> dict[str, Any]:
        """What was tried, laid out like the ``cv_results_`` of scikit-learn's searches.

        One row for each alpha, reading and depth; a score is minus the mean validation loss (of the
        standardised targets, for a regressor).
        """
        check_is_fitted(self)
        results = self._selection.results
        scores = -np.vstack([result.losses for result in results])
        tried = [len(result.losses) for result in results]
        depths = np.concatenate([np.arange(1, n + 1) for n in tried])
        mean = scores.mean(axis=1)
        parameters = {
            **{
                name: np.repeat([getattr(result, name) for result in results], tried)
                for name in ("alpha", "log_tails", "distances")
            },
            "n_grades": depths,
        }
        rows = zip(*(values.tolist() for values in parameters.values()), strict=True)
        return {
            **{f"param_{name}": values for name, values in parameters.items()},
            "params": [dict(zip(parameters, row, strict=True)) for row in rows],
            **{f"split{i}_test_score": column for i, column in enumerate(scores.T)},
            "mean_test_score": mean,
            "std_test_score": scores.std(axis=1),
            "rank_test_score": rankdata(-mean, method="min").astype(np.intp),
        }

    def _chosen_plan(self, given: Rows, n_rows: float) -> ChainPlan:
        self._check_corrects()
        usual = self._usual_alpha(given, n_rows)
        plan = self._plan(usual)
        parts = list(self._parts(given))
        if not parts:
            raise ValueError(
                f"cv={self.cv!r} has no folds; an iterator serves one fit, a list of splits any number."
            )
        alphas = self._alphas_to_try(given, plan, usual)
        folds = self._folds(parts, self._reading)
        found = self._selected(folds, plan, alphas, self._reading)
        same, results = Alphas(np.array([found.alpha]), usual), list(found.results)

        def again(others: list[Fold], reading: Reading) -> Tried:
            also = self._selected(others, plan, same, reading)
            results.extend(also.results)
            return also.chosen

        chosen = found.chosen
        for better in self._better_read(chosen, folds, parts, given.distinct, again):
            chosen, folds = better
        corrected = self._if_lower(chosen, folds, plan)
        self._selection = Selection(tuple(results), chosen._replace(chains=()), corrected)
        return replace(plan, alpha=self._selection.alpha, n_grades=self._selection.depth)

    def _if_lower(self, chosen: Tried, folds: list[Fold], plan: ChainPlan) -> tuple[float, ...]:
        """Return the losses of the chosen chains, corrected; none if they are not lower in the end."""
        if self.correction == "none":
            return ()
        losses = self._losses_corrected(chosen, folds, plan)
        return losses if losses[-1] < chosen.losses[-1] else ()

    def _grow(self, given: Rows, plan: ChainPlan, continues: bool) -> Iterator[None]:
        yield from super()._grow(given, plan, continues)
        grown, (_, chosen, corrected) = self._progress, self._selection
        # Where all its grades were fitted, why the folds went no deeper.
        verdict = chosen.verdict if grown.verdict == plan.complete else grown.verdict
        held_out = (corrected or chosen.losses)[: self.n_grades_]
        # An interruption leaves it unfinished.
        self._progress = replace(grown, verdict="", validation_loss=held_out)
        finished = self._finished(self._progress, self._data(given.distinct), bool(corrected))
        self._progress = replace(finished, verdict=verdict, validation_loss=held_out)

    def _selected(
        self, folds: list[Fold], plan: ChainPlan, alphas: Alphas, reading: Reading
    ) -> Selection:
        report = self._reporter(level=1)
        found = select(folds, plan, self._handover(), alphas, self.n_jobs, report)
        log_tails, distances = reading.tails.draws_in, reading.reads_distances
        return found._replace(
            results=tuple(
                result._replace(log_tails=log_tails, distances=distances)
                for result in found.results
            )
        )

    def _alphas_to_try(self, given: Rows, plan: ChainPlan, usual: float) -> Alphas:
        if self.alphas is None:
            data = self._data(given.distinct)
            return path_of_alphas(data, plan, int(self.n_alphas), float(self.eps), usual)
        return Alphas(np.unique(given_alphas(self.alphas))[::-1], usual)

    def _parts(self, given: Rows) -> Iterator[Part]:
        """Yield the rows of the folds; where these are drawn here, of rows as `Rows.drawn` has them."""
        if given.groups is not None and not hasattr(self.cv, "split"):
            name = f"cv={self.cv!r}" if self._draws_folds else "cv, a list of splits,"
            raise ValueError(
                f"groups are given, but {name} does not read them; cv must be a splitter that does, "
                f"such as GroupKFold(5)."
            )
        if self._draws_folds:
            given = given.drawn
        tried = _TRIED if self.cv is None and len(given.X) >= _MANY else None
        self._check_rows_suffice(given)
        splits = self._splitter().split(given.X, given.y, given.groups)
        for fold, (train, held_out) in enumerate(islice(splits, tried)):
            rows, others = (
                given.take(_index(part, len(given.X), fold)) for part in (train, held_out)
            )
            if not (rows.weights.any() and others.weights.any()):
                raise ValueError(
                    f"fold {fold} of cv has training or validation rows without weight; at least one "
                    f"row of each must have a positive one."
                )
            if not self._draws_folds and is_classifier(self):
                _warn_unseen_classes(rows, others, fold)
            yield rows.distinct, others.take(others.weights > 0.0)

    @property
    def _draws_folds(self) -> bool:
        """Whether folds are drawn here: a number of them, at most, is given."""
        return self.cv is None or isinstance(self.cv, Integral)

    @property
    def _n_folds(self) -> int:
        """How many folds are drawn, where they are."""
        return _FOLDS if self.cv is None else int(self.cv)

    def _check_rows_suffice(self, given: Rows) -> None:
        """Raise an error if folds are drawn, and every class has fewer rows than there are folds."""
        if not self._draws_folds:
            return
        most, what = len(given.X), "of positive weight"
        if is_classifier(self):
            _, counts = np.unique(given.y, return_counts=True)
            most, what = int(counts.max()), "of the largest class"
        if self._n_folds > most:
            raise ValueError(
                f"cv={self.cv!r} asks for {self._n_folds} folds, more than there are rows {what}: "
                f"n_samples={most}."
            )

    def _splitter(self) -> Any:
        if not self._draws_folds:
            return check_cv(self.cv)
        kind = StratifiedKFold if is_classifier(self) else KFold
        return kind(self._n_folds, shuffle=True, random_state=self._seed)


def _warn_unseen_classes(rows: Rows, others: Rows, fold: int) -> None:
    """Warn of classes that are judged, but not learnt, in a fold that was given."""
    seen = np.unique(rows.y[rows.weights > 0.0])
    unseen = np.setdiff1d(others.y[others.weights > 0.0], seen).tolist()
    if unseen:
        warnings.warn(
            f"fold {fold} of cv has validation rows of classes that its training rows lack, {unseen}: "
            f"its losses say little of alpha and depth.",
            stacklevel=2,
        )


def _index(rows: ArrayLike, n_rows: int, fold: int) -> NDArray[Any]:
    """Return rows of a fold as an index, which an empty list is not; an error where there is no such."""
    index = np.asarray(rows)
    if index.size == 0:
        return index.astype(np.intp)
    if index.dtype.kind not in "biu":
        raise ValueError(
            f"fold {fold} of cv has rows of type {index.dtype}; they must be integers or a mask."
        )
    if index.dtype != bool and not -n_rows <= index.min() <= index.max() < n_rows:
        raise ValueError(
            f"fold {fold} of cv has rows from {index.min()} to {index.max()}, but there are {n_rows} "
            f"rows: they must be numbered from 0 to {n_rows - 1}."
        )
    return index
