"""One grade: its convex program, its fit and its certificate.

Patterns are proposed and the program is solved over them (`sources`); what that comes to is turned into
a network; the certificate bounds what is left, and a search for neurons of high price says whether
other patterns could help.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from convexgrade.certificate import Certificate, certify_network, state_unproved
from convexgrade.dual import DualPoint, SolverDual, dual_point
from convexgrade.energy import rescale
from convexgrade.losses import Loss
from convexgrade.network import Network
from convexgrade.patterns import Patterns, enumerate_patterns
from convexgrade.point import Point, drawn_in, no_worse_than_null
from convexgrade.pointwise import refine_pointwise
from convexgrade.program import Problem
from convexgrade.proposals import highest_price
from convexgrade.settings import Report, Settings, silent
from convexgrade.solution import Status
from convexgrade.sources import MOST_PATTERNS, Task, budget_of, find
from convexgrade.unpenalised import independent_columns
from convexgrade.wording import counted

Array = NDArray[np.float64]
Seed = Sequence[int]

_NO_BETTER = 1e-4  # excess of a price over alpha, relative, that says little, however large tol is


@dataclass(frozen=True, repr=False)
class Grade:
    """A fitted grade.

    Attributes
    ----------
    network : Network
        Its weights, in the coordinates of its input.
    certificate : Certificate
        How far from optimal it can be, given the grades before it.
    gates : ndarray of shape (d + 1, n_patterns)
        Gates of the patterns the certificate speaks of: the training rows give these back.
    exhaustive : bool
        Whether those are all patterns of the training rows.
    alpha : float
        Penalty it was fitted with.
    settings : Settings
        How it was fitted. With ``alpha`` they define the program that its certificate speaks of,
        whatever has become of an estimator's parameters since.
    n_before_pruning : int
        Neurons of the solution before those that others make up for were removed, and before a cut
        to ``max_neurons``.
    n_rounds : int
        Rounds of proposing and solving.
    seconds : float
        Wall-clock time of the fit.
    n_neurons : int
        Number of neurons.
    """

    network: Network
    certificate: Certificate
    gates: Array
    exhaustive: bool
    alpha: float
    settings: Settings
    n_before_pruning: int
    n_rounds: int
    seconds: float

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return self.network.n_neurons

    def patterns_on(self, problem: Problem) -> Patterns:
        """Return the patterns of its gates on the rows of a problem, all of them if it had all.

        What a fit has listed can be listed again, though the limit counts more than there are.
        """
        if self.exhaustive:
            most = max(MOST_PATTERNS, 10 * self.gates.shape[1])
            return enumerate_patterns(problem.X, limit=most, faces=not problem.cones)
        return Patterns.from_gates(problem.X, self.gates)

    def __repr__(self) -> str:
        gap = f"relative_gap={self.certificate.relative_gap:.1e}"
        return f"Grade({counted(self.n_neurons, 'neuron')}, alpha={self.alpha:.3g}, {gap})"

    def __str__(self) -> str:
        more = self.n_before_pruning > self.n_neurons
        pruned = f" (pruned from {self.n_before_pruning})" if more else ""
        size = counted(self.n_neurons, "neuron") + pruned
        return f"{size} in {self.seconds:.1f} s, {self.certificate}"


def state_problem(
    H: Array, y: Array, offset: Array, weights: Array, loss: Loss, alpha: float, settings: Settings
) -> Problem:
    """State what a grade has to fit on input rows H (n_samples, d)."""
    n, d = H.shape
    constant = np.array([d]) if settings.fit_intercept else np.arange(0)
    linear = np.arange(0)
    if settings.linear_term:
        linear = independent_columns(H, weights, centred=settings.fit_intercept)
    return Problem(
        X=np.column_stack([H, np.full(n, float(settings.hidden_bias))]),
        free=np.concatenate([linear, constant]),
        y=y,
        offset=offset,
        weights=weights,
        loss=loss,
        alpha=alpha,
        cones=settings.activation == "relu",
    )


# On one BLAS thread: the products of a search are too small to share out (two threads took three
# times as long), and a search that rounds differently ends at other neurons.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def fit_grade(
    problem: Problem,
    settings: Settings,
    seed: Seed,
    first: Network | None = None,
    report: Report = silent,
) -> Grade:
    """Fit one grade.

    Parameters
    ----------
    problem : Problem
        From `state_problem`.
    settings : Settings
        Pattern source, solver, tolerances and limits.
    seed : sequence of int
        Determines all randomness.
    first : Network, optional
        Network from which an adaptive search starts as well as from random neurons.
    report : callable, optional
        Called with a line of text after every round.

    Returns
    -------
    Grade

    Raises
    ------
    ValueError
        If ``patterns="exhaustive"`` would list too many patterns.
    """
    start = time.perf_counter()
    rng = np.random.default_rng([*seed, 0])
    point, n_rounds = find(problem, Task(settings, first, rng, report))
    point = no_worse_than_null(problem, point)
    point = drawn_in(problem, point)
    point, network = _REFINEMENTS[settings.refinement](problem, point, settings)
    if point.status is Status.SKETCHED:
        certificate = state_unproved(problem, network, point.patterns, point.status)
    else:
        certificate = certify_grade(
            problem, network, point.patterns, point.status, settings, seed, point.solver_dual
        )
    return Grade(
        network=network,
        certificate=certificate,
        gates=point.patterns.gates,
        exhaustive=point.patterns.exhaustive,
        alpha=problem.alpha,
        settings=settings,
        n_before_pruning=max(point.n_before, network.n_neurons),
        n_rounds=n_rounds,
        seconds=time.perf_counter() - start,
    )


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def certify_grade(
    problem: Problem,
    network: Network,
    patterns: Patterns,
    status: Status,
    settings: Settings,
    seed: Seed,
    solver_dual: SolverDual | None = None,
) -> Certificate:
    """Certify a grade's network, searching for better neurons where patterns are not exhaustive.

    The status of the result says what was proved: global optimality; optimality over the patterns,
    with or without a better neuron in sight; or, where the relative gap exceeds
    ``settings.tol``, ``status``.
    """
    rng = np.random.default_rng([*seed, 1])

    def search(point: DualPoint) -> float:
        return highest_price(problem, point, network.vectors, budget_of(settings), rng)

    certificate = certify_network(
        problem, network, patterns, status=status, solver_dual=solver_dual, search=search
    )
    return replace(certificate, status=_verdict(certificate, network, problem.alpha, settings.tol))


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def null_price(problem: Problem, settings: Settings, seed: Seed) -> float:
    """Return the highest price at the grade without neurons, its ``alpha_max``, as far as found."""
    point = dual_point(problem, problem.null_prediction)
    if settings.patterns == "exhaustive":
        every = enumerate_patterns(problem.X, limit=MOST_PATTERNS, faces=not problem.cones)
        full = problem.over(every)
        return full.largest_dual_norm(full.adjoint(point.theta))
    none, rng = np.empty((problem.X.shape[1], 0)), np.random.default_rng([*seed, 2])
    return highest_price(problem, point, none, budget_of(settings), rng)


def _verdict(certificate: Certificate, network: Network, alpha: float, tol: float) -> Status:
    if certificate.status is Status.CORRECTED:  # whose loss before the grade is no measure any more
        return Status.CORRECTED
    if certificate.relative_gap > tol:
        claimed = certificate.status.converged
        return Status.INACCURATE if claimed else certificate.status
    none_better = certificate.price <= (1.0 + min(tol, _NO_BETTER)) * alpha
    if none_better and network.n_neurons == 0:
        return Status.TRIVIAL
    if certificate.price_is_exact:
        return Status.GLOBALLY_OPTIMAL
    return Status.NO_BETTER_NEURON if none_better else Status.OPTIMAL


def _least_objective(problem: Problem, point: Point, settings: Settings) -> tuple[Point, Network]:
    return point, rescale(problem, point.network(problem))


def _pointwise(problem: Problem, point: Point, settings: Settings) -> tuple[Point, Network]:
    limited = settings.max_neurons is not None
    return refine_pointwise(problem, point, solver=settings.solver, fixed=limited)


# How a solution becomes the network of its grade.
_REFINEMENTS = {"none": _least_objective, "pointwise": _pointwise}
