"""How a grade is fitted, and where its fit reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Report = Callable[[str], None]  # takes a line of text

_WIDTH_TO_JUDGE, _TOL_TO_JUDGE = 100, 1e-2  # patterns and tolerance of grades that only judge


def silent(line: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Settings:
    """How a grade is fitted.

    Attributes
    ----------
    activation, n_patterns, max_neurons, solver, tol, max_iter, fit_intercept, linear_term, n_jobs
        As the parameters of `ConvexReLURegressor`.
    patterns : {"adaptive", "sampled", "exhaustive", "sketched"}, default="adaptive"
        As there; ``"sketched"`` is one descent that no solver sees.
    hidden_bias : bool, default=True
        Whether neurons have biases.
    refinement : {"none", "pointwise"}, default="none"
        As the parameter of `MultigradeRegressor`.
    """

    activation: str = "relu"
    patterns: str = "adaptive"
    n_patterns: int = 300
    max_neurons: int | None = None
    solver: str = "auto"
    tol: float = 1e-4
    max_iter: int = 3
    fit_intercept: bool = True
    linear_term: bool = False
    hidden_bias: bool = True
    n_jobs: int | None = None
    refinement: str = "none"

    def rough(self) -> Settings:
        """Return how grades are fitted that only judge an alpha or a depth.

        Fewer patterns or neurons to search from, and a solution no closer than losses on other rows can
        tell; of ReLU grades that search for their patterns, whatever a descent reaches. The losses on
        other rows are much the same, in a few per cent to a tenth of the time. On one core: it is the
        folds that are shared out.
        """
        sketches = self.patterns == "adaptive" and self.activation == "relu"
        return replace(
            self,
            patterns="sketched" if sketches else self.patterns,
            n_patterns=min(self.n_patterns, _WIDTH_TO_JUDGE),
            tol=max(self.tol, _TOL_TO_JUDGE),
            max_iter=1,
            n_jobs=1,
            refinement="none",
        )
