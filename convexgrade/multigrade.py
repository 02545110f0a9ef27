"""How a chain grows: each grade reads the features of the last and fits what the chain leaves over.

    offset_0 = baseline, features_0 = X
    H_l      = scaled features_{l-1}
    grade_l  = the optimum of its convex program on (H_l, y, offset_{l-1})
    offset_l = offset_{l-1} + forward_l(H_l),  features_l = [hidden_l(H_l), X]  (or as `Handover` says)

(multigrade deep learning: Xu 2023, arXiv 2302.00150). The zero network is feasible in every grade, so
the training loss cannot rise; it falls strictly unless the grade is trivial, and then the chain ends.

What is left over may be small, but what fits it is not everywhere: away from the training rows, deep
features grow without bound. So to other rows, grades after the first add no more and no less than to
training rows (`Link.span`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from convexgrade.chain import (
    Chain,
    Data,
    GradeInput,
    Link,
    energies,
    state_grade,
)
from convexgrade.energy import Energy
from convexgrade.grade import fit_grade, null_price
from convexgrade.handover import Handover
from convexgrade.losses import Loss
from convexgrade.network import Network
from convexgrade.program import Problem
from convexgrade.scaling import (
    DEPENDENT,
    ROUNDING,
    Scaling,
    combining,
    scaling_between,
    standard_scaling,
    whitened,
    within_row_space,
)
from convexgrade.settings import Report, Settings, silent
from convexgrade.solution import Status
from convexgrade.span import UNLIMITED, Span

_LEAST_ALPHA = 1e-100  # of smaller ones, the square of the reciprocal may be no number
_ROUNDING = 1e-12  # price that rounding alone can give


@dataclass(frozen=True)
class ChainPlan:
    """How a chain is grown.

    Attributes
    ----------
    n_grades : int
        Largest number of grades.
    alpha : float
        Penalty of the first grade.
    loss : Loss
        Loss.
    standardize : bool
        Whether X is standardised for the first grade.
    settings : Settings
        How each grade is fitted.
    seed : int
        Determines all randomness; grade l draws from (seed, l) alone, so that a chain grown in two
        fits equals one grown at once.
    first_network : Network or None
        Network from which the search of the first grade starts as well; it reads scaled columns.
    alpha_decay : float
        Factor of the penalty from each grade to the next.
    whiten : bool
        Whether the grades after the first read uncorrelated columns.
    first_bias : bool
        Whether the neurons of the first grade have biases.
    span : Span
        What predictions keep to; validation losses are those of predictions.
    """

    n_grades: int
    alpha: float
    loss: Loss
    standardize: bool
    settings: Settings
    seed: int
    first_network: Network | None = None
    alpha_decay: float = 1.0
    whiten: bool = False
    first_bias: bool = True
    span: Span = UNLIMITED

    def settings_of(self, index: int) -> Settings:
        """Return how the grade of an index, which counts from 0, is fitted."""
        return replace(self.settings, hidden_bias=index > 0 or self.first_bias)

    def rough(self) -> ChainPlan:
        """Return the plan of chains that only judge."""
        return replace(self, settings=self.settings.rough())

    @property
    def complete(self) -> str:
        """What is said of a chain that has all its grades."""
        many = self.n_grades > 1
        return f"All {self.n_grades} grades were fitted." if many else "The one grade was fitted."

    def alpha_of(self, index: int) -> float:
        """Return alpha of the grade of an index, which counts from 0, at least 1e-100."""
        return max(self.alpha * self.alpha_decay**index, _LEAST_ALPHA)


@dataclass(frozen=True)
class Progress:
    """A chain after its newest grade.

    Attributes
    ----------
    chain : Chain
        All grades so far.
    train_loss, validation_loss : tuple of float
        Mean loss after each grade; the second empty without a validation set.
    verdict : str
        Why the chain ended, empty while it grows.
    objective_path : tuple of float
        Mean loss plus penalties of all grades during the last correction; one value, of the chain as
        fitted, where rows held out rejected it; empty without one.
    energy : tuple of Energy
        Where the squared error before each grade went; empty for losses that are not quadratic.
    """

    chain: Chain
    train_loss: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    verdict: str = ""
    objective_path: tuple[float, ...] = ()
    energy: tuple[Energy, ...] = ()

    @classmethod
    def begin(cls, loss: Loss, data: Data, handover: Handover) -> Progress:
        """Return the chain without grades: the best constant."""
        return cls(Chain(loss.baseline(data.y, data.weights), handover=handover))


def grow(
    start: Progress,
    data: Data,
    plan: ChainPlan,
    report: Report = silent,
) -> Iterator[Progress]:
    """Add grades one by one, yielding the chain after each; the last yield has a verdict.

    A generator, so that grades already finished survive an interruption. Grades of ``start`` are not
    touched.
    """
    progress = start
    while len(progress.chain) < plan.n_grades:
        progress = extended(progress, data, plan, report)
        yield progress
        if progress.verdict:
            return
    yield replace(progress, verdict=plan.complete)


def extended(
    progress: Progress,
    data: Data,
    plan: ChainPlan,
    report: Report = silent,
) -> Progress:
    """Return a chain with one grade more; the chain as it is, with a verdict, if that is of no use.

    A grade without neurons stays if it is the first, or if its unpenalised columns lower the loss. It
    ends the chain as well, in a later fit too unless that has a lower penalty for it; but not where it
    is constraints that leave a first one without: under the lower penalty of the next, some may be
    worth it.
    """
    depth = len(progress.chain)
    if depth and progress.chain.grades[-1].alpha <= plan.alpha_of(depth - 1):
        ended = _why_over(progress.chain)
        if ended:
            return replace(progress, verdict=ended)
    if not _n_features(progress.chain, data):
        return replace(progress, verdict=_NOTHING_TO_READ.format(index=depth + 1))
    chain = _add_grade(progress.chain, data, plan, report)
    verdict, measured = _why_over(chain), _measured(progress, chain, data, plan)
    if verdict and depth > 0:
        before, after = measured.train_loss[-2:]
        if before - after <= plan.settings_of(depth).tol * before:
            return replace(progress, verdict=verdict)
    return replace(measured, verdict=verdict)


def _why_over(chain: Chain) -> str:
    """Return why a chain ends with its last grade, empty if it goes on."""
    grade, status = chain.grades[-1], chain.grades[-1].certificate.status
    if grade.n_neurons > 0 or (len(chain) == 1 and status is Status.POINTWISE):
        return ""
    why = _WITHOUT_NEURONS.get(status, _UNSOLVED)
    return why.format(index=len(chain), alpha=grade.alpha, status=status.value)


_NOTHING_TO_READ = (
    "Grade {index} has nothing to read: the grade before it has no neuron, and hands on no inputs."
)

# What ends a chain, if its last grade has no neuron and one of these statuses.
_WITHOUT_NEURONS = {
    Status.TRIVIAL: (
        "Grade {index} is trivial: no neuron, of its patterns or found by a search, correlates with "
        "what is left by more than alpha={alpha:g}."
    ),
    Status.OPTIMAL: (
        "Grade {index} has no neuron: none of its patterns has one that lowers the objective by more "
        "than the tolerance, though some neuron correlates with what is left by more than "
        "alpha={alpha:g}. More patterns or rounds may help."
    ),
    Status.GLOBALLY_OPTIMAL: (
        "Grade {index} has no neuron: none lowers the objective by more than the tolerance, though some "
        "correlate with what is left by more than alpha={alpha:g}."
    ),
    Status.POINTWISE: (
        "Grade {index} has no neuron: at alpha={alpha:g}, none over the patterns tried lowers the "
        "objective and raises no training residual. Others may."
    ),
    Status.SKETCHED: "Grade {index} has no neuron: a descent at alpha={alpha:g} kept none.",
}
_UNSOLVED = "Grade {index} has no neuron at alpha={alpha:g}. {status}"


def first_price(data: Data, plan: ChainPlan) -> float:
    """Return the highest price of a neuron before the first grade, as far as a search finds it.

    At a greater alpha that grade would be trivial. 0 where rounding alone is left to fit.
    """
    start = Chain(plan.loss.baseline(data.y, data.weights))
    problem = _next_problem(start, data, plan).problem
    price = null_price(problem, plan.settings_of(0), (plan.seed, 0))
    return price if price > _ROUNDING else 0.0


class _Next(NamedTuple):
    scaling: Scaling
    problem: Problem


def _next_problem(chain: Chain, data: Data, plan: ChainPlan) -> _Next:
    """State what the grade after a chain has to fit, on columns scaled."""
    *_, (features, offset) = chain.walk(data.X)
    if chain.links:
        n_hidden = chain.grades[-1].n_neurons
        scaling = scaling_between(features, data.weights, chain.handover, n_hidden, data.X)
        if plan.whiten:
            scaling = whitened(scaling, features, data.weights, data.X)
    elif plan.standardize:
        scaling = standard_scaling(features, data.weights)
    else:
        scaling = Scaling(np.zeros(features.shape[1]), np.ones(features.shape[1]))
    if scaling.mix is None and features.shape[1] > len(features):
        least = DEPENDENT if chain.links else ROUNDING * features.shape[1]
        scaling = within_row_space(scaling, features, least)
    step, index = GradeInput(scaling.apply(features), offset), len(chain)
    return _Next(
        scaling, state_grade(step, data, plan.loss, plan.alpha_of(index), plan.settings_of(index))
    )


def _add_grade(chain: Chain, data: Data, plan: ChainPlan, report: Report) -> Chain:
    scaling, problem = _next_problem(chain, data, plan)
    first = plan.first_network if not chain.links else None
    if first is not None and scaling.mix is not None:
        first = combining(first, scaling.mix.T)
    grade = fit_grade(problem, plan.settings_of(len(chain)), (plan.seed, len(chain)), first, report)
    link = Link(scaling, grade)
    if chain.links:
        link = link.limited(problem.X[:, :-1])
    return replace(chain, links=(*chain.links, link))


def _n_features(chain: Chain, data: Data) -> int:
    """Return how many columns the grade after a chain reads."""
    n_inputs = data.X.shape[1]
    if not chain.links:
        return n_inputs
    return chain.handover.width(chain.grades[-1].n_neurons, chain.baseline.size, n_inputs)


def _measured(before: Progress, chain: Chain, data: Data, plan: ChainPlan) -> Progress:
    *_, offset, output = (step.offset for step in chain.walk(data.X))
    return Progress(
        chain,
        (*before.train_loss, data.under(plan.loss)(output)),
        energy=before.energy + energies([offset, output], chain.grades[-1:], data, plan.loss),
    )
