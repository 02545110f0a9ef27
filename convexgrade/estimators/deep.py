"""What deep estimators share: depth, what grades hand on, readouts after each grade, validation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from joblib import Parallel
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_classifier
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from convexgrade.chain import Data, staged_loss
from convexgrade.correction import (
    METHODS,
    Limits,
    check_correctable,
    check_curved,
    correct_chain,
    correct_progress,
)
from convexgrade.descent import objective
from convexgrade.energy import Energy
from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.rows import Rows, distinct_rows, drawn_rows
from convexgrade.estimators.targets import (
    ClassifierTargets,
    RegressorTargets,
    knows_probabilities,
    probabilities,
)
from convexgrade.handover import Handover
from convexgrade.multigrade import ChainPlan, Progress
from convexgrade.network import Network
from convexgrade.reading import AS_IT_IS, Reading, heavy_tails
from convexgrade.scaling import n_varying
from convexgrade.selection import (
    Fold,
    Tried,
    asks_for_larger,
    deepen,
    is_better,
    lasting,
    least_loss,
    parts_held_out,
    said_of,
    usual_alpha,
    worth_leaving_usual,
)
from convexgrade.solution import Status
from convexgrade.wording import counted

Array = NDArray[np.float64]
Part = tuple[Rows, Rows]  # distinct rows to train on, and rows held out
Change = Callable[[Reading, Rows], Reading | None]  # of how rows are read; None if it is none

PENALTY: dict[str, list[Any]] = {
    "alpha": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
}
DEPTH: dict[str, list[Any]] = {
    "n_grades": [Interval(Integral, 1, None, closed="left")],
    "alpha_decay": [Interval(Real, 0, None, closed="neither")],
    "passthrough": [StrOptions({"hidden", "output", "both"})],
    "keep_inputs": ["boolean"],
    "whiten": ["boolean"],
    "first_bias": ["boolean"],
    "log_tails": ["boolean", StrOptions({"auto"})],
    "distances": ["boolean", StrOptions({"auto"})],
}
CORRECTION: dict[str, list[Any]] = {"correction": [StrOptions({"none", *METHODS})]}
STOPPING: dict[str, list[Any]] = {
    "early_stopping": ["boolean", StrOptions({"auto"})],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
}
_SHARES = 1.0, 0.3, 3.0, 10.0  # of the usual alpha, which alpha="auto" tries on rows held out
_LARGER = 3.0  # factor of each further penalty, tried as long as larger ones are of use
_ENOUGH = 20  # rows from which "auto" holds some out


class DeepChain(BaseChain):
    """A chain of several grades."""

    loss: str
    n_grades: int
    alpha_decay: float
    passthrough: str
    keep_inputs: bool
    first_bias: bool
    whiten: bool
    log_tails: bool | str
    distances: bool | str

    @property
    def objective_path_(self) -> Array:
        """Mean loss plus penalties of all grades: at first, with readouts refitted, after each sweep.

        Only the first where rows held out rejected the correction; empty without one.
        """
        check_is_fitted(self)
        return np.array(self._progress.objective_path)

    @property
    def validation_loss_(self) -> Array:
        """Mean loss, after each grade, of rows held out; empty if there were none."""
        check_is_fitted(self)
        return np.array(self._progress.validation_loss)

    def _corrected(self, progress: Progress, data: Data, method: str, limits: Limits) -> Progress:
        loss, reporter = self._coding.loss, self._reporter(level=2)
        return correct_progress(progress, data, loss, self._seed, method, limits, reporter)

    def _depth(self) -> int:
        return int(self.n_grades)

    def _handover(self) -> Handover:
        return Handover(self.passthrough, bool(self.keep_inputs))

    def _learn_reading(self, rows: Rows) -> Reading:
        reading = AS_IT_IS
        if self.standardize and self.log_tails:
            reading = replace(reading, tails=heavy_tails(rows.X, rows.weights))
        return self._as_asked(reading, rows)

    def _changes(self) -> list[tuple[str, Change]]:
        """Return what "auto" leaves to rows held out: changes of a reading, and what is said of each.

        In turn, of the best reading so far; None of one where there is nothing to change.
        """
        changes: list[tuple[str, Change]] = []
        if self.log_tails == "auto":
            changes.append(("With tails as they are:", self._without_tails))
        if self.distances == "auto":
            changes.append(("With distances:", _with_distances))
        return changes

    def _without_tails(self, reading: Reading, rows: Rows) -> Reading | None:
        return self._as_asked(AS_IT_IS, rows) if reading.tails.draws_in else None

    def _as_asked(self, reading: Reading, rows: Rows) -> Reading:
        """Return a reading with distances, if these are wanted whatever rows held out say."""
        asked = self.distances != "auto" and self.distances
        return reading.with_distances(rows.X, rows.weights) if asked else reading

    def _folds(self, parts: Sequence[Part], reading: Reading) -> list[Fold]:
        """Return rows to train on and rows held out as chains with that reading see them."""
        return [
            Fold(self._read(train, reading), self._read(held_out, reading))
            for train, held_out in parts
        ]

    def _better_read(
        self,
        tried: Tried,
        folds: list[Fold],
        parts: Sequence[Part],
        rows: Rows,
        again: Callable[[list[Fold], Reading], Tried],
    ) -> Iterator[tuple[Tried, list[Fold]]]:
        """Yield chains that read otherwise and are better than the best so far, and their folds.

        Their reading is taken. ``again`` tries chains on folds, as they are with a reading.
        """
        for said, change in self._changes():
            reading = change(self._reading, rows)
            if reading is None:
                continue
            self._reporter(level=1)(said)
            others = self._folds(parts, reading)
            also = again(others, reading)
            if is_better(also, tried, folds):
                self._reading, tried, folds = reading, also, others
                yield tried, folds

    def _begin(self, train: Data) -> Progress:
        return Progress.begin(self._coding.loss, train, self._handover())

    def _plan(self, first_network: Network | None = None) -> ChainPlan:
        return replace(
            super()._plan(first_network),
            alpha_decay=float(self.alpha_decay),
            first_bias=bool(self.first_bias),
            whiten=bool(self.whiten),
        )


class ManyGrades(DeepChain):
    """A chain whose depth is given, or found on rows held out, and with it the penalty.

    ``warm_start`` adds grades to those there are.
    """

    early_stopping: bool | str
    validation_fraction: float
    correction: str

    _alpha: float = 1.0  # what "auto" stands for: any, until `_choose` replaces it

    @property
    def alpha_(self) -> float:
        """Penalty of the first grade."""
        return self.grades_[0].alpha

    def _choose(self, given: Rows, n_rows: float) -> None:
        if self.correction != "none":
            check_curved(self._coding.loss, f"correction={self.correction!r}")
        self._alpha = usual_alpha(n_rows, n_varying(self._reading.apply(given.X), given.weights))

    def _first_alpha(self) -> float:
        return self._alpha if isinstance(self.alpha, str) else float(self.alpha)

    def _grow(self, given: Rows, plan: ChainPlan, continues: bool) -> Iterator[None]:
        rows = drawn_rows(given)
        if self._holds_out(rows):
            yield from self._grow_as_deep_as_tried(rows, plan, continues)
            return
        yield from super()._grow(given, plan, continues)
        if self.correction != "none":
            data, grown = self._data(distinct_rows(given)), self._progress
            self._progress = replace(grown, verdict="")  # an interruption leaves it unfinished
            self._progress = self._corrected(grown, data, self.correction, Limits())

    def _grow_as_deep_as_tried(
        self, rows: Rows, plan: ChainPlan, continues: bool
    ) -> Iterator[None]:
        """Find the depth from which on the loss of rows held out rises, then fit it to all rows."""
        before = self._progress if continues else None
        parts = list(self._parts(rows))
        times = "" if len(parts) == 1 else f", {len(parts)} times"
        self._reporter(level=1)(f"{len(parts[0][1].X)} of {len(rows.X)} rows held out{times}:")
        folds = self._folds(parts, self._reading)
        tried, plan = self._best_tried(folds, plan, before)
        distinct = distinct_rows(rows)
        if before is None:
            again = partial(self._tried_again, plan)
            for better in self._better_read(tried, folds, parts, distinct, again):
                tried, folds = better
                self._progress = tried.first
        losses, corrects = tried.losses, False
        if self.correction != "none":
            corrected = self._losses_corrected(tried, folds, plan)
            was = before is not None and before.chain.corrected
            corrects = was or corrected[-1] < losses[-1]
            losses = corrected if corrects else losses
        data, plan = self._data(distinct), replace(plan, n_grades=len(losses))
        grades = counted(len(losses), "grade")
        self._reporter(level=1)(f"All rows, {grades} from alpha={plan.alpha:.3g} on:")
        for whole in self._growing(before or self._begin(data), data, plan):
            held_out = losses[: len(whole.chain)]
            self._progress = replace(whole, validation_loss=held_out, verdict="")
            yield
        verdict = tried.verdict if whole.verdict == plan.complete else whole.verdict
        whole = self._progress
        if corrects:
            whole = self._corrected(whole, data, self.correction, Limits())
        elif self.correction != "none":
            whole = replace(whole, objective_path=(objective(whole.chain, data, plan.loss),))
        self._progress = replace(whole, validation_loss=held_out, verdict=verdict)

    def _best_tried(
        self, folds: list[Fold], plan: ChainPlan, before: Progress | None
    ) -> tuple[Tried, ChainPlan]:
        """Grow rough chains for each penalty; return those chosen by rows held out, and their plan.

        Should the fit be interrupted, the first serves so far as it has come, if there is no other.
        """
        least = 0 if before is None else len(before.chain)
        chooses = before is None and isinstance(self.alpha, str)
        results: list[Tried] = []
        with Parallel(n_jobs=self.n_jobs) as run:
            shares = list(_SHARES if chooses else (1.0,))
            while shares:
                share = shares.pop(0)
                here = replace(plan.rough(), alpha=share * plan.alpha)
                self._reporter(level=1)(f"alpha={here.alpha:.3g}:")
                for tried in deepen(folds, here, self._handover(), least=least, run=run):
                    self._reporter(level=1)(said_of(tried))
                    if not results and before is None:
                        self._progress = tried.first
                results.append(tried)
                best = min(results, key=least_loss)
                if chooses and not shares and asks_for_larger(best, tried, folds, plan.loss):
                    shares.append(_LARGER * share)
        chosen = worth_leaving_usual(results, folds, plan.alpha, plan.loss)
        self._alpha = chosen.alpha
        chosen = chosen._replace(losses=lasting(chosen.losses, least))
        return chosen, replace(plan, alpha=self._alpha)

    def _tried_again(self, plan: ChainPlan, folds: list[Fold], reading: Reading) -> Tried:
        with Parallel(n_jobs=self.n_jobs) as run:
            for tried in deepen(folds, plan.rough(), self._handover(), run=run):
                self._reporter(level=1)(said_of(tried))
        return tried

    def _losses_corrected(
        self, tried: Tried, folds: list[Fold], plan: ChainPlan
    ) -> tuple[float, ...]:
        """Return the mean loss, after each grade of the corrected chains, of the rows held out."""
        losses, loss = [], plan.loss
        for progress, fold in zip(tried.chains, folds, strict=True):
            corrected = correct_chain(progress.chain, fold.train, loss, self.correction, Limits())
            held_out = staged_loss(corrected.chain, fold.validation, loss, plan.span)
            losses.append(lasting(held_out, len(tried.losses)))
        return tuple(np.mean(losses, axis=0).tolist())

    def _holds_out(self, rows: Rows) -> bool:
        """Return whether rows are held out; "auto": where depth is to be found, and rows are many."""
        if not isinstance(self.early_stopping, str):
            return bool(self.early_stopping)
        return self.n_grades > 1 and len(rows.X) >= _ENOUGH

    def _continues(self) -> bool:
        if not (self.warm_start and self.__sklearn_is_fitted__()):
            return False
        if any(c.status is Status.TRIED for c in self.certificates_):
            return False  # interrupted before there was a grade of all rows
        if self.n_grades < self.n_grades_:
            raise ValueError(
                f"n_grades={self.n_grades} must be at least the {self.n_grades_} grades already "
                f"fitted when warm_start=True."
            )
        if self.correction != "none":
            asked = f"correction={self.correction!r}"
            check_correctable(self._progress.chain, self._coding.loss, asked)
        self._check_same_loss()
        fitted = self._progress.chain.handover
        if self._handover() != fitted:
            raise ValueError(
                f"passthrough={self.passthrough!r} and keep_inputs={self.keep_inputs} must be those of "
                f"the grades already fitted, {fitted.passthrough!r} and {fitted.keep_inputs}, when "
                f"warm_start=True."
            )
        if self.n_grades == self.n_grades_ and self.correction == "none":
            warnings.warn(
                f"warm_start=True adds no grade to the {counted(self.n_grades_, 'grade')} there are "
                f"under n_grades={self.n_grades}; a larger n_grades does, warm_start=False fits anew.",
                stacklevel=6,  # past `fit` and scikit-learn's wrapper of it
            )
        return True

    def _check_same_loss(self) -> None:
        """Raise an error if the parameters ask for another loss than that of the fitted grades."""
        fitted = self._coding.loss
        asked = self._loss_of(self._coding.scaling.center.size)
        if asked != fitted:
            raise ValueError(
                f"loss={self.loss!r} and its parameters must be those of the grades already fitted, "
                f"{_told(fitted)}, when warm_start=True."
            )

    def _parts(self, rows: Rows) -> Iterator[Part]:
        """Yield rows to train on and rows held out, of classes some of each where they are not rare."""
        labels = rows.y if is_classifier(self) else np.zeros(len(rows.X))
        for part in parts_held_out(labels, float(self.validation_fraction), self._seed):
            train = np.setdiff1d(np.arange(len(rows.X)), part)
            if train.size == 0:
                raise ValueError(
                    f"early_stopping={self.early_stopping} and validation_fraction="
                    f"{self.validation_fraction:g} hold out all of {len(rows.X)} rows; at least one "
                    f"must be left to train on."
                )
            yield distinct_rows(rows.take(train)), rows.take(part)


def _with_distances(reading: Reading, rows: Rows) -> Reading | None:
    other = reading.with_distances(rows.X, rows.weights)
    return other if other.reads_distances else None


def _told(loss: Any) -> str:
    """Return a loss as the parameters that ask for it."""
    match loss.name:
        case "quantile":
            return f"'quantile' with quantile={loss.quantile:g}"
        case "huber":
            return f"'huber' with epsilon={loss.width:g}"
        case name:
            return repr(name)


class StagedRegressor(RegressorTargets):
    """Predictions by the first grades of a chain, and where each grade's squared error went."""

    @property
    def energy_(self: Any) -> list[Energy]:
        """Where the squared error before each grade went; for ``loss="squared_error"`` alone."""
        check_is_fitted(self)
        if not self._coding.loss.quadratic:
            raise AttributeError(
                f"energy_ needs loss='squared_error'; this is loss={_told(self._coding.loss)}."
            )
        return list(self._progress.energy)

    def staged_predict(self: Any, X: ArrayLike) -> Iterator[Array]:
        """Yield the predictions of the chain after each grade.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Yields
        ------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions of the first 1, 2, ... grades; the last are those of `predict`.
        """
        return map(self._shaped, self._outputs(X))


class StagedClassifier(ClassifierTargets):
    """Predictions by the first grades of a chain."""

    def staged_predict(self: Any, X: ArrayLike) -> Iterator[NDArray[Any]]:
        """Yield the classes predicted by the chain after each grade.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Yields
        ------
        ndarray of shape (n_samples,)
            Classes predicted by the first 1, 2, ... grades.
        """
        return map(self._classes_of, self._outputs(X))

    @available_if(knows_probabilities)  # type: ignore[untyped-decorator]
    def staged_predict_proba(self: Any, X: ArrayLike) -> Iterator[Array]:
        """Yield the class probabilities of the chain after each grade; for ``loss="log_loss"`` alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Yields
        ------
        ndarray of shape (n_samples, n_classes)
            Probabilities by the first 1, 2, ... grades.
        """
        return map(probabilities, self._outputs(X))
