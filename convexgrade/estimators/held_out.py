"""Chains whose depth is given, or found on rows held out, and with it the penalty."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from joblib import Parallel
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.utils._param_validation import Interval, StrOptions

from convexgrade.correction import check_correctable
from convexgrade.estimators.deep import DeepChain, Part, told
from convexgrade.estimators.rows import Rows
from convexgrade.multigrade import ChainPlan, Progress
from convexgrade.reading import Reading
from convexgrade.selection import (
    Fold,
    Tried,
    asks_for_larger,
    deepen,
    lasting,
    least_loss,
    parts_held_out,
    said_of,
    worth_leaving_usual,
)
from convexgrade.solution import Status
from convexgrade.wording import counted

Array = NDArray[np.float64]

PENALTY: dict[str, list[Any]] = {
    "alpha": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
}
STOPPING: dict[str, list[Any]] = {
    "early_stopping": ["boolean", StrOptions({"auto"})],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
}
_SHARES = 1.0, 0.3, 3.0, 10.0  # of the usual alpha, which alpha="auto" tries on rows held out
_LARGER = 3.0  # factor of each further penalty, tried as long as larger ones are of use
_ENOUGH = 20  # rows from which "auto" holds some out
_OF_THE_FIRST = "standardize", "log_tails", "distances", "first_bias"  # what later grades build on


class ManyGrades(DeepChain):
    """A chain whose depth is given, or found on rows held out, and with it the penalty.

    ``warm_start`` adds grades to those there are.
    """

    early_stopping: bool | str
    validation_fraction: float

    _built_on: dict[str, Any]

    @property
    def alpha_(self) -> float:
        """Penalty of the first grade."""
        return self.grades_[0].alpha

    def _chosen_plan(self, given: Rows, n_rows: float) -> ChainPlan:
        self._check_corrects()
        self._built_on = {name: getattr(self, name) for name in _OF_THE_FIRST}
        return self._plan(self._usual_alpha(given, n_rows) if self._is_auto else float(self.alpha))

    def _further_plan(self) -> ChainPlan:
        return self._plan(self.alpha_ if self._is_auto else float(self.alpha))

    @property
    def _is_auto(self) -> bool:
        return isinstance(self.alpha, str)

    def _grow(self, given: Rows, plan: ChainPlan, continues: bool) -> Iterator[None]:
        rows = given.drawn
        if self._holds_out(rows):
            yield from self._grow_as_deep_as_tried(rows, plan, continues)
            return
        yield from super()._grow(given, plan, continues)
        if self.correction != "none":
            data, grown = self._data(given.distinct), self._progress
            self._progress = replace(grown, verdict="")  # an interruption leaves it unfinished
            self._progress = self._finished(grown, data, corrects=True)

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
        distinct = rows.distinct
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
        whole = self._finished(self._progress, data, corrects)
        self._progress = replace(whole, validation_loss=held_out, verdict=verdict)

    def _best_tried(
        self, folds: list[Fold], plan: ChainPlan, before: Progress | None
    ) -> tuple[Tried, ChainPlan]:
        """Grow rough chains for each penalty; return those chosen by rows held out, and their plan.

        Should the fit be interrupted, the first serves so far as it has come, if there is no other.
        """
        least = 0 if before is None else len(before.chain)
        chooses = before is None and self._is_auto
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
        chosen = chosen._replace(losses=lasting(chosen.losses, least))
        return chosen, replace(plan, alpha=chosen.alpha)

    def _tried_again(self, plan: ChainPlan, folds: list[Fold], reading: Reading) -> Tried:
        with Parallel(n_jobs=self.n_jobs) as run:
            for tried in deepen(folds, plan.rough(), self._handover(), run=run):
                self._reporter(level=1)(said_of(tried))
        return tried

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
        self._check_same_input()
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
                f"{told(fitted)}, when warm_start=True."
            )

    def _check_same_input(self) -> None:
        """Raise an error if the parameters ask that grades read something else than the fitted ones."""
        fitted = self._progress.chain.handover
        if self._handover() != fitted:
            raise ValueError(
                f"passthrough={self.passthrough!r} and keep_inputs={self.keep_inputs} must be those of "
                f"the grades already fitted, {fitted.passthrough!r} and {fitted.keep_inputs}, when "
                f"warm_start=True."
            )
        for name, value in self._built_on.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be that of the grades already fitted, "
                    f"{value!r}, when warm_start=True."
                )

    def _parts(self, rows: Rows) -> Iterator[Part]:
        """Yield rows to train on and rows held out, of classes some of each where they are not rare."""
        labels = rows.y if is_classifier(self) else np.zeros(len(rows.X))
        for part in parts_held_out(labels, float(self.validation_fraction), self._seed):
            train = np.setdiff1d(np.arange(len(rows.X)), part)
            if train.size == 0:
                raise ValueError(
                    f"early_stopping={self.early_stopping} and validation_fraction="
                    f"{self.validation_fraction:g} hold out the only row there is (copies are one); "
                    f"there must be another to train on."
                )
            yield rows.take(train).distinct, rows.take(part)
