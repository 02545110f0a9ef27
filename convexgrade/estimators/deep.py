"""What the chains for regression and classification share: depth, handover, validation rows."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from convexgrade.estimators.base import BaseChain
from convexgrade.multigrade import ChainPlan, Data, Progress
from convexgrade.network import Handover, Network

Array = NDArray[np.float64]

DEPTH: dict[str, list[Any]] = {
    "n_grades": [Interval(Integral, 1, None, closed="left")],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "alpha_decay": [Interval(Real, 0, None, closed="neither")],
    "passthrough": [StrOptions({"hidden", "output", "both"})],
    "keep_inputs": ["boolean"],
}


class ManyGrades(BaseChain):
    """A chain whose depth is given or found; ``warm_start`` adds grades to those there are."""

    n_grades: int
    early_stopping: bool
    validation_fraction: float
    alpha_decay: float
    passthrough: str
    keep_inputs: bool

    @property
    def validation_loss_(self) -> Array:
        """Mean validation loss after each grade; empty without ``early_stopping``."""
        check_is_fitted(self)
        return np.array(self._progress.validation_loss)

    def _depth(self) -> int:
        return int(self.n_grades)

    def _begin(self, train: Data) -> Progress:
        return Progress.begin(
            self._coding.loss, train, Handover(self.passthrough, bool(self.keep_inputs))
        )

    def _plan(self, first_network: Network | None = None) -> ChainPlan:
        return replace(super()._plan(first_network), alpha_decay=float(self.alpha_decay))

    def _continues(self) -> bool:
        if not (self.warm_start and self.__sklearn_is_fitted__()):
            return False
        if self.n_grades < self.n_grades_:
            raise ValueError(
                f"n_grades={self.n_grades} must be at least the {self.n_grades_} grades already "
                f"fitted when warm_start=True."
            )
        return True

    def _split(self, X: Array, y: Any, weights: Array) -> tuple[Data, Data | None]:
        if not self.early_stopping:
            return super()._split(X, y, weights)
        train, held_out = train_test_split(
            np.arange(len(X)),
            test_size=self.validation_fraction,
            random_state=self._seed,
            stratify=self._strata(y),
        )
        return (
            self._data(X[train], y[train], weights[train]),
            self._data(X[held_out], y[held_out], weights[held_out]),
        )

    def _strata(self, y: Any) -> Any:
        """Return what the validation split keeps the proportions of."""
        return None
