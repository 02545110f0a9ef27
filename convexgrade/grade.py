"""One grade: propose patterns, solve the convex program over them, price what is missing, repeat.

A sample, an enumeration or a descent proposes patterns; the convex program decides which neurons
there are; the certificate bounds what is left; a search for neurons of high price says whether other
patterns could help, and proposes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from convexgrade import search
from convexgrade.certificate import (
    Certificate,
    Multipliers,
    certify_network,
    dual_point,
    predicted,
    state_unproved,
)
from convexgrade.cutting import cut
from convexgrade.energy import rescale
from convexgrade.groups import Groups
from convexgrade.losses import Loss
from convexgrade.network import Network
from convexgrade.patterns import Patterns, enumerate_patterns, sample_patterns
from convexgrade.point import Point, drawn_in, no_worse_than_null, null_point, point_of
from convexgrade.pointwise import refine_pointwise
from convexgrade.program import Program
from convexgrade.proposals import Budget, highest_price, joined, propose, sketched
from convexgrade.solution import Status
from convexgrade.unpenalised import independent_columns
from convexgrade.wording import counted
from convexgrade.working_set import solve_groups, solve_over

Array = NDArray[np.float64]
Report = Callable[[str], None]
Seed = Sequence[int]

_EXHAUSTIVE_LIMIT = 20_000  # patterns; half a minute at n = 140 in rank 3
_FINAL_STEPS = 1000  # quasi-Newton steps after a cut to ``max_neurons``
_COMPLETIONS = 8  # times that neurons of high price join the last patterns, at most
_CHEAP = 3e6  # operations of a Newton step up to which neurons of high price join
_ROUGH = 10.0  # relative gain that is worth a round, and accuracy of its solve, over ``tol``
_ACCURATE = 1e-3  # least objective, relative to the loss before, to which a round's accuracy scales
_WIDTH_TO_JUDGE, _TOL_TO_JUDGE = 100, 1e-2  # patterns and tolerance of grades that only judge
_LOOSEST = 0.01  # loosest accuracy of a round: with less, solutions may lie outside the cones


@dataclass(frozen=True)
class Settings:
    """How a grade is fitted: the estimators' parameters of the same names.

    ``patterns="sketched"``, which is no parameter of theirs, is one descent that no solver sees.
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
        """Return how grades are fitted that only judge a penalty or a depth.

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

    def patterns_on(self, program: Program) -> Patterns:
        """Return the patterns of its gates on the rows of a program, all of them if it had all.

        What a fit has listed can be listed again, though the limit counts more than there are.
        """
        if self.exhaustive:
            most = max(_EXHAUSTIVE_LIMIT, 10 * self.gates.shape[1])
            return enumerate_patterns(program.X, limit=most)
        return Patterns.from_gates(program.X, self.gates)

    def __repr__(self) -> str:
        gap = f"relative_gap={self.certificate.relative_gap:.1e}"
        return f"Grade({counted(self.n_neurons, 'neuron')}, alpha={self.alpha:.3g}, {gap})"

    def __str__(self) -> str:
        more = self.n_before_pruning > self.n_neurons
        pruned = f" (pruned from {self.n_before_pruning})" if more else ""
        size = counted(self.n_neurons, "neuron") + pruned
        return f"{size} in {self.seconds:.1f} s, {self.certificate}"


def state_program(
    H: Array, y: Array, offset: Array, weights: Array, loss: Loss, alpha: float, settings: Settings
) -> Program:
    """State the program of a grade on input rows H (n_samples, d), without patterns yet."""
    n, d = H.shape
    constant = np.array([d]) if settings.fit_intercept else np.arange(0)
    linear = np.arange(0)
    if settings.linear_term:
        linear = independent_columns(H, weights, centred=settings.fit_intercept)
    return Program(
        X=np.column_stack([H, np.full(n, float(settings.hidden_bias))]),
        free=np.concatenate([linear, constant]),
        y=y,
        offset=offset,
        weights=weights,
        loss=loss,
        alpha=alpha,
        cones=settings.activation == "relu",
        patterns=Patterns.none(n, d + 1),
        groups=Groups.every(0, y.shape[1], signed=True),
    )


# On one BLAS thread: the products of a search are too small to share out (two threads took three
# times as long), and a search that rounds differently ends at other neurons.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def fit_grade(
    program: Program,
    settings: Settings,
    seed: Seed,
    first: Network | None = None,
    report: Report = lambda line: None,
) -> Grade:
    """Fit one grade.

    Parameters
    ----------
    program : Program
        From `state_program`.
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
    point, n_rounds = _SOURCES[settings.patterns](program, settings, first, rng, report)
    point = no_worse_than_null(program, _within_width(program, point, settings))
    point = drawn_in(program, point)
    point, network = _REFINEMENTS[settings.refinement](program, point, settings)
    if point.status is Status.SKETCHED:
        status = Status.SKETCHED if network.n_neurons else Status.TRIVIAL
        certificate = state_unproved(program, network, point.patterns, status)
    else:
        certificate = certify_grade(
            program, network, point.patterns, point.status, settings, seed, point.multipliers
        )
    return Grade(
        network=network,
        certificate=certificate,
        gates=point.patterns.gates,
        exhaustive=point.patterns.exhaustive,
        alpha=program.alpha,
        settings=settings,
        n_before_pruning=max(point.n_before, network.n_neurons),
        n_rounds=n_rounds,
        seconds=time.perf_counter() - start,
    )


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def certify_grade(
    program: Program,
    network: Network,
    patterns: Patterns,
    status: Status,
    settings: Settings,
    seed: Seed,
    multipliers: Multipliers | None = None,
) -> Certificate:
    """Certify a grade's network, searching for better neurons where patterns are not exhaustive.

    The status of the result says what was proved: global optimality; optimality over the patterns,
    with or without a better neuron in sight; or, where the relative gap exceeds
    ``settings.tol``, ``status``.
    """
    rng = np.random.default_rng([*seed, 1])
    point = dual_point(program, predicted(program, network))
    found = 0.0
    if not patterns.exhaustive:
        found = highest_price(program, point, network.vectors, _budget(settings), rng)
    certificate = certify_network(
        program,
        network,
        patterns,
        status=status,
        point=point,
        price=found,
        multipliers=multipliers,
    )
    return replace(certificate, status=_verdict(certificate, network, program.alpha, settings.tol))


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def null_price(program: Program, settings: Settings, seed: Seed) -> float:
    """Return the highest price at the grade without neurons, its ``alpha_max``, as far as found."""
    point = dual_point(program, null_point(program, program.patterns).prediction(program))
    if settings.patterns == "exhaustive":
        every = enumerate_patterns(program.X, limit=_EXHAUSTIVE_LIMIT)
        full = program.over(every, program.every_group(every))
        return full.largest_dual_norm(full.adjoint(point.theta))
    none, rng = np.empty((program.X.shape[1], 0)), np.random.default_rng([*seed, 2])
    return highest_price(program, point, none, _budget(settings), rng)


def _budget(settings: Settings) -> Budget:
    width = settings.n_patterns
    if settings.activation == "relu":  # a wider descent only ends at more neurons than may stay
        width = min(width, settings.max_neurons or width)
    return Budget(width, settings.tol, _ROUGH * settings.tol, settings.n_jobs)


def _verdict(certificate: Certificate, network: Network, alpha: float, tol: float) -> Status:
    if certificate.status is Status.CORRECTED:  # whose loss before the grade is no measure any more
        return Status.CORRECTED
    if certificate.relative_gap > tol:
        claimed = certificate.status.converged
        return Status.INACCURATE if claimed else certificate.status
    if not certificate.price_is_exact and certificate.price > (1.0 + tol) * alpha:
        return Status.OPTIMAL
    if network.n_neurons == 0:
        return Status.TRIVIAL
    return Status.GLOBALLY_OPTIMAL if certificate.price_is_exact else Status.NO_BETTER_NEURON


def _solved(program: Program, patterns: Patterns, start: Point | None, settings: Settings) -> Point:
    return solve_over(program, patterns, start, solver=settings.solver, tol=settings.tol)


def _sampled(
    program: Program,
    settings: Settings,
    first: Network | None,
    rng: np.random.Generator,
    report: Report,
) -> tuple[Point, int]:
    patterns = sample_patterns(program.X, settings.n_patterns, rng)
    return _solved(program, patterns, None, settings), 1


def _exhaustive(
    program: Program,
    settings: Settings,
    first: Network | None,
    rng: np.random.Generator,
    report: Report,
) -> tuple[Point, int]:
    patterns = enumerate_patterns(program.X, limit=_EXHAUSTIVE_LIMIT)
    return _solved(program, patterns, None, settings), 1


def _adaptive(
    program: Program,
    settings: Settings,
    first: Network | None,
    rng: np.random.Generator,
    report: Report,
) -> tuple[Point, int]:
    """Alternate proposals and the convex program until nothing better is proposed.

    Each round's program holds the last point or a better one, so the objective cannot rise. Rounds
    solve it only as closely as they are worth; the last solve is over all groups of the patterns, and
    the only one that the last round needs.
    """
    point, budget = null_point(program, program.patterns), _budget(settings)
    before = program.loss_before or 1.0  # 0 where nothing is left to fit
    for n_rounds in range(1, settings.max_iter + 1):
        proposal = propose(program, point, first, budget, rng)
        if proposal is None:
            break
        if n_rounds == settings.max_iter:
            solved = _solved(program, proposal.patterns, proposal, settings)
            report(_line(n_rounds, solved))
            if solved.objective <= point.objective:
                return _completed(program, solved, settings, rng), n_rounds
            break
        share = np.clip(proposal.objective / before, _ACCURATE, 1.0)  # descents can end higher
        accuracy = min(budget.gain * float(share), _LOOSEST)
        solved = solve_groups(
            program, proposal, proposal.groups, solver=settings.solver, accuracy=accuracy
        )
        last, point = point, min(solved, proposal, point, key=lambda p: p.objective)
        report(_line(n_rounds, point))
        if last.objective - point.objective <= budget.gain * point.objective:
            break
    point = _solved(program, point.patterns, point, settings)
    return _completed(program, point, settings, rng), n_rounds


def _line(n_rounds: int, point: Point) -> str:
    size = counted(len(point.groups), "neuron")
    return f"round {n_rounds}: objective {point.objective:.6g}, {size}"


def _sketched(
    program: Program,
    settings: Settings,
    first: Network | None,
    rng: np.random.Generator,
    report: Report,
) -> tuple[Point, int]:
    return sketched(program, first, _budget(settings), settings.max_neurons, rng), 1


def _completed(
    program: Program, point: Point, settings: Settings, rng: np.random.Generator
) -> Point:
    """Let ReLU neurons of high price join the patterns until there are none, or nothing is gained.

    Only while solves are so cheap that the many rounds of pure column generation are affordable; and
    not where there are too many neurons already: a cut to ``max_neurons`` would keep few of those.
    """
    (n, d), limit = program.X.shape, settings.max_neurons or np.inf
    if not program.cones or len(point.groups) > limit:
        return point
    for _ in range(_COMPLETIONS):
        columns = len(point.groups) * d
        if n * columns * min(n, columns) > _CHEAP:
            break
        trial = joined(program, point, _budget(settings), rng)
        if trial is None:
            break
        solved = _solved(program, trial.patterns, trial, settings)
        if solved.objective >= point.objective:
            break
        gain = point.objective - solved.objective
        point = replace(solved, n_before=max(point.n_before, solved.n_before))
        if gain <= 0.1 * settings.tol * point.objective:
            break
    return point


_SOURCES = {
    "adaptive": _adaptive,
    "sampled": _sampled,
    "exhaustive": _exhaustive,
    "sketched": _sketched,
}


def _within_width(program: Program, point: Point, settings: Settings) -> Point:
    """Cut a point to ``max_neurons``; an adaptive one descends once more at that width."""
    limit = settings.max_neurons
    if limit is None or len(point.groups) <= limit:
        return point
    narrow = partial(cut, program, limit=limit, solver=settings.solver, tol=settings.tol)
    narrowed = narrow(point)
    if settings.patterns == "adaptive" and program.cones:
        start = narrowed.neurons(), narrowed.unpenalised
        refined = point_of(program, *search.descend(program, *start, max_iter=_FINAL_STEPS))
        refined = narrow(_solved(program, refined.patterns, refined, settings))
        narrowed = min(narrowed, refined, key=lambda p: p.objective)
    status = Status.CUT if narrowed.status.converged else narrowed.status
    return replace(narrowed, status=status, n_before=point.n_before)


def _least_objective(program: Program, point: Point, settings: Settings) -> tuple[Point, Network]:
    return point, rescale(program, point.network(program))


def _pointwise(program: Program, point: Point, settings: Settings) -> tuple[Point, Network]:
    limited = settings.max_neurons is not None
    return refine_pointwise(program, point, solver=settings.solver, fixed=limited)


# How a solution becomes the network of its grade.
_REFINEMENTS = {"none": _least_objective, "pointwise": _pointwise}
