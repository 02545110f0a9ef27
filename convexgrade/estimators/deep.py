"""What deep estimators share: what grades hand on, how columns are read, corrections, and folds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from convexgrade.chain import Chain, Data, staged_loss
from convexgrade.correction import METHODS, Limits, check_curved, correct_chain, correct_progress
from convexgrade.descent import objective
from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.rows import Rows
from convexgrade.handover import Handover
from convexgrade.multigrade import ChainPlan, Progress
from convexgrade.reading import AS_IT_IS, Reading, heavy_tails
from convexgrade.scaling import n_varying
from convexgrade.selection import Fold, Tried, is_better, lasting, usual_alpha

Array = NDArray[np.float64]
Part = tuple[Rows, Rows]  # distinct rows to train on, and rows held out
Change = Callable[[Reading, Rows], Reading | None]  # of how rows are read; None if it is none

DEPTH: dict[str, list[Any]] = {
    "n_grades": [Interval(Integral, 1, None, closed="left")],
    "alpha_decay": [Interval(Real, 0, None, closed="neither")],
    "passthrough": [StrOptions({"hidden", "output", "both"})],
    "keep_inputs": ["boolean"],
    "whiten": ["boolean"],
    "first_bias": ["boolean"],
    "log_tails": ["boolean", StrOptions({"auto"})],
    "distances": ["boolean", StrOptions({"auto"})],
    "correction": [StrOptions({"none", *METHODS})],
}


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
    correction: str

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

    def _check_corrects(self) -> None:
        """Raise an error if a correction is asked for that the loss does not allow."""
        if self.correction != "none":
            check_curved(self._coding.loss, f"correction={self.correction!r}")

    def _losses_corrected(
        self, tried: Tried, folds: list[Fold], plan: ChainPlan
    ) -> tuple[float, ...]:
        """Return the mean loss, after each grade of the corrected chains, of the rows held out."""
        pairs = zip(tried.chains, folds, strict=True)
        judged = Parallel(n_jobs=self.n_jobs)(
            delayed(_judged_corrected)(progress.chain, fold, plan, self.correction)
            for progress, fold in pairs
        )
        losses = np.mean([lasting(each, len(tried.losses)) for each in judged], axis=0).tolist()
        self._reporter(level=1)(f"Corrected: validation loss {losses[-1]:.6g}.")
        return tuple(losses)

    def _finished(self, progress: Progress, data: Data, corrects: bool) -> Progress:
        """Return a chain that has all its grades, corrected if rows held out are not against it."""
        if corrects:
            return self._corrected(progress, data, self.correction, Limits())
        if self.correction == "none":
            return progress
        value = objective(progress.chain, data, self._coding.loss)
        return replace(progress, objective_path=(value,))

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

    def _usual_alpha(self, given: Rows, n_rows: float) -> float:
        return usual_alpha(n_rows, n_varying(self._reading.apply(given.X), given.weights))

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

    def _plan(self, alpha: float) -> ChainPlan:
        return replace(
            super()._plan(alpha),
            alpha_decay=float(self.alpha_decay),
            first_bias=bool(self.first_bias),
            whiten=bool(self.whiten),
        )


def _judged_corrected(chain: Chain, fold: Fold, plan: ChainPlan, method: str) -> tuple[float, ...]:
    """Return the loss of the rows held out after each grade of a chain, once it is corrected."""
    corrected = correct_chain(chain, fold.train, plan.loss, method, Limits()).chain
    return staged_loss(corrected, fold.validation, plan.loss, plan.span)


def _with_distances(reading: Reading, rows: Rows) -> Reading | None:
    other = reading.with_distances(rows.X, rows.weights)
    return other if other.reads_distances else None


def told(loss: Any) -> str:
    """Return a loss as the parameters that ask for it."""
    match loss.name:
        case "quantile":
            return f"'quantile' with quantile={loss.quantile:g}"
        case "huber":
            return f"'huber' with epsilon={loss.width:g}"
        case name:
            return repr(name)
