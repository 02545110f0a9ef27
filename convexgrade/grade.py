"""One grade: propose patterns, solve the convex program over them, price what is missing, repeat.

A sample, an enumeration or a descent proposes patterns; the convex program decides which neurons
there are; the certificate bounds what is left; a search for neurons of high price says whether other
patterns could help, and proposes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from convexgrade import search
from convexgrade.certificate import Certificate, DualPoint, certify_network, dual_point
from convexgrade.losses import Loss
from convexgrade.network import Network
from convexgrade.patterns import (
    Patterns,
    activation,
    centred_gates,
    enumerate_patterns,
    sample_patterns,
)
from convexgrade.program import Groups, Program
from convexgrade.search import Neurons
from convexgrade.solution import Status
from convexgrade.working_set import Point, null_point, solve_groups, solve_over

Array = NDArray[np.float64]
Report = Callable[[str], None]
Seed = Sequence[int]

_EXHAUSTIVE_LIMIT = 20_000  # patterns; a few minutes at n = 140 in rank 3
_DESCENT_STEPS = 1000  # quasi-Newton steps of one descent
_STARTS = 64  # random starts of a price search
_NEW_NEURONS = 32  # neurons a search hands to the next descent
_GATES_DRAWN = 20  # gates drawn for one that a gated grade keeps


@dataclass(frozen=True)
class Settings:
    """How a grade is fitted: the estimators' parameters of the same names."""

    activation: str = "relu"
    patterns: str = "adaptive"
    n_patterns: int = 100
    max_neurons: int | None = None
    solver: str = "auto"
    tol: float = 1e-4
    max_iter: int = 3
    fit_intercept: bool = True
    linear_term: bool = False
    n_jobs: int | None = None


@dataclass(frozen=True)
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
    n_rounds: int
    seconds: float

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return self.network.n_neurons

    def __str__(self) -> str:
        return f"{self.n_neurons} neurons in {self.seconds:.1f} s, {self.certificate}"


def state_program(
    H: Array, y: Array, offset: Array, weights: Array, loss: Loss, alpha: float, settings: Settings
) -> Program:
    """State the program of a grade on input rows H (n_samples, d), without patterns yet."""
    n, d = H.shape
    linear = np.arange(d) if settings.linear_term else np.arange(0)
    constant = np.array([d]) if settings.fit_intercept else np.arange(0)
    return Program(
        X=np.column_stack([H, np.ones(n)]),
        free=np.concatenate([linear, constant]),
        y=y,
        offset=offset,
        weights=weights,
        loss=loss,
        alpha=alpha,
        cones=settings.activation == "relu",
        patterns=_no_patterns(n, d + 1),
        groups=Groups.every(0, y.shape[1], signed=True),
    )


def _no_patterns(n: int, d: int) -> Patterns:
    return Patterns(np.empty((d, 0)), np.empty((n, 0), dtype=bool))


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
    point = _within_width(program, point, settings)
    network = point.network(program)
    return Grade(
        network=network,
        certificate=certify_grade(program, network, point.patterns, point.status, settings, seed),
        gates=point.patterns.gates,
        exhaustive=point.patterns.exhaustive,
        alpha=program.alpha,
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
) -> Certificate:
    """Certify a grade's network, searching for better neurons where patterns are not exhaustive.

    The status of the result says what was proved: global optimality; optimality over the patterns,
    with or without a better neuron in sight; or, where the relative gap exceeds
    ``settings.tol``, ``status``.
    """
    rng = np.random.default_rng([*seed, 1])
    prediction = program.offset + network.forward(program.X[:, :-1])
    point = dual_point(program, prediction)
    found = 0.0
    if not patterns.exhaustive and program.cones:
        neurons = _search(program, point, network.vectors, rng, settings.n_jobs)
        found = _best_price(program, point, neurons)
    elif not patterns.exhaustive:
        found = float(_price_gates(program, point, settings, rng)[1].max(initial=0.0))
    certificate = certify_network(
        program, network, patterns, status=status, point=point, price=found
    )
    return replace(certificate, status=_verdict(certificate, network, program.alpha, settings.tol))


def _verdict(certificate: Certificate, network: Network, alpha: float, tol: float) -> Status:
    if certificate.relative_gap > tol:
        unproved = certificate.status.converged
        return Status.INACCURATE if unproved else certificate.status
    if network.n_neurons == 0:
        return Status.TRIVIAL
    if certificate.price_is_exact:
        return Status.GLOBALLY_OPTIMAL
    better = certificate.price > (1.0 + tol) * alpha
    return Status.OPTIMAL if better else Status.NO_BETTER_NEURON


def _sampled(
    program: Program,
    settings: Settings,
    first: Network | None,
    rng: np.random.Generator,
    report: Report,
) -> tuple[Point, int]:
    patterns = sample_patterns(program.X, settings.n_patterns, rng)
    return solve_over(program, patterns, None, solver=settings.solver, tol=settings.tol), 1


def _exhaustive(
    program: Program,
    settings: Settings,
    first: Network | None,
    rng: np.random.Generator,
    report: Report,
) -> tuple[Point, int]:
    patterns = enumerate_patterns(program.X, limit=_EXHAUSTIVE_LIMIT)
    return solve_over(program, patterns, None, solver=settings.solver, tol=settings.tol), 1


def _adaptive(
    program: Program,
    settings: Settings,
    first: Network | None,
    rng: np.random.Generator,
    report: Report,
) -> tuple[Point, int]:
    """Alternate proposals and the convex program until nothing better is proposed.

    Each round's program holds the patterns of the last point, so the objective cannot rise.
    """
    point = null_point(program, program.patterns)
    enough = settings.tol * point.objective
    propose = _propose_by_descent if program.cones else _propose_gates
    for n_rounds in range(1, settings.max_iter + 1):
        neurons = propose(program, point, first, settings, rng)
        if neurons is None:
            break
        last, point = point, _harvest(program, point, neurons, settings)
        report(f"round {n_rounds}: objective {point.objective:.6g}, {len(point.groups)} neurons")
        if last.objective - point.objective <= enough:
            break
    return point, n_rounds


def _propose_by_descent(
    program: Program,
    point: Point,
    first: Network | None,
    settings: Settings,
    rng: np.random.Generator,
) -> Neurons | None:
    """Descend from the point and, as seeds, the neurons of highest price; None if none is too high.

    From the empty grade it starts at random neurons instead, and at those of ``first``.
    """
    if len(point.groups) == 0:
        start = search.random_neurons(program, _first_width(program, settings), rng)
        if first is not None:
            start = search.neurons_of(first).join(start)
    else:
        dual = dual_point(program, point.prediction(program))
        found = _search(program, dual, point.blocks.T, rng, settings.n_jobs)
        if _best_price(program, dual, found) <= (1.0 + settings.tol) * program.alpha:
            return None
        start = _neurons(point).join(_seeds(found, point))
    return search.descend(program, start, point.unpenalised, max_iter=_DESCENT_STEPS)


def _first_width(program: Program, settings: Settings) -> int:
    """Return the neurons of the first descent: no more than an optimum needs (see `pruning`)."""
    enough = len(program.X) * program.n_outputs
    width = min(settings.max_neurons or settings.n_patterns, enough)
    return max(width, 2 * program.n_outputs)


def _propose_gates(
    program: Program,
    point: Point,
    first: Network | None,
    settings: Settings,
    rng: np.random.Generator,
) -> Neurons | None:
    """Draw many gates and return those of highest price; None if no price is above alpha."""
    dual = dual_point(program, point.prediction(program))
    neurons, prices = _price_gates(program, dual, settings, rng)
    best = np.argsort(-prices, kind="stable")[: settings.n_patterns]
    best = best[prices[best] > (1.0 + settings.tol) * program.alpha]
    return neurons.take(best) if best.size else None


def _price_gates(
    program: Program, dual: DualPoint, settings: Settings, rng: np.random.Generator
) -> tuple[Neurons, Array]:
    gates = centred_gates(program.X, _GATES_DRAWN * settings.n_patterns, rng)
    prices = search.gate_prices(program, dual.theta, gates)
    output, gate = np.divmod(np.arange(prices.size), gates.shape[1])
    return Neurons(gates[:, gate], np.ones(prices.size), output), prices.ravel()


_SOURCES = {"adaptive": _adaptive, "sampled": _sampled, "exhaustive": _exhaustive}


def _harvest(program: Program, point: Point, neurons: Neurons, settings: Settings) -> Point:
    """Solve the program over the patterns of a descent's neurons and of the point so far."""
    gates = np.concatenate([point.patterns.gates[:, point.groups.pattern], neurons.vectors], axis=1)
    neurons = _neurons(point).join(neurons)
    patterns = Patterns.from_gates(program.X, gates)
    pattern = patterns.find(activation(program.X, gates))
    groups = Groups(
        pattern=pattern,
        sign=neurons.sign if program.cones else np.ones_like(neurons.sign),
        output=neurons.output,
    ).take(pattern >= 0)
    solved = solve_over(program, patterns, groups, solver=settings.solver, tol=settings.tol)
    return solved if solved.objective < point.objective else point


def _within_width(program: Program, point: Point, settings: Settings) -> Point:
    """Cut a point to ``max_neurons``; an adaptive one descends once more at that width."""
    limit = settings.max_neurons
    if limit is None or len(point.groups) <= limit:
        return point
    point = _cut(program, point, limit, settings)
    if settings.patterns == "adaptive" and program.cones:
        neurons = search.descend(
            program, _neurons(point), point.unpenalised, max_iter=_DESCENT_STEPS
        )
        refined = _cut(program, _harvest(program, point, neurons, settings), limit, settings)
        point = min(point, refined, key=lambda p: p.objective)
    return point


def _cut(program: Program, point: Point, limit: int, settings: Settings) -> Point:
    """Solve again over the patterns of the largest neurons until at most ``limit`` are left.

    The certificate then speaks of the patterns that survive. Where even one pattern needs more
    neurons (both signs, several outputs), only the largest are kept, and the gap shows it.
    """
    while len(point.groups) > limit:
        norms = np.linalg.norm(point.blocks, axis=1)
        size = np.zeros(len(point.patterns))
        np.maximum.at(size, point.groups.pattern, norms)
        n_patterns = min(limit, np.count_nonzero(size) - 1)
        if n_patterns == 0:
            largest = np.argsort(-norms, kind="stable")[:limit]
            groups = point.groups.take(largest)
            return solve_groups(program, point.patterns, groups, solver=settings.solver)
        kept = np.sort(np.argsort(-size, kind="stable")[:n_patterns])
        patterns = Patterns(point.patterns.gates[:, kept], point.patterns.masks[:, kept])
        point = solve_over(program, patterns, None, solver=settings.solver, tol=settings.tol)
    return point


def _neurons(point: Point) -> Neurons:
    return Neurons(point.blocks.T, point.groups.sign, point.groups.output)


def _seeds(found: Neurons, point: Point) -> Neurons:
    """Scale found unit neurons to a tenth of the typical neuron: seeds for a descent to grow."""
    norms = np.linalg.norm(point.blocks, axis=1)
    size = 0.1 * float(np.median(norms)) if norms.size else 0.01
    return found._replace(vectors=size * found.vectors)


def _search(
    program: Program,
    dual: DualPoint,
    known: Array,
    rng: np.random.Generator,
    n_jobs: int | None,
) -> Neurons:
    """Climb the price from known neurons and from random gates; return the best distinct ones."""
    starts = np.concatenate([known, centred_gates(program.X, _STARTS, rng)], axis=1)
    found = search.ascend(program, dual.theta, starts, n_jobs=n_jobs)
    return search.best_distinct(program, found, _NEW_NEURONS)


def _best_price(program: Program, dual: DualPoint, found: Neurons) -> float:
    prices = search.price(program, dual.theta, found.vectors)
    return float(np.abs(prices).max(initial=0.0))
