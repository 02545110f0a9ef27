"""What a round of the adaptive search proposes: patterns that may lower the objective.

Descent and pricing propose; the convex program over what they propose decides (`sources`). For ReLU, a
network descends from random neurons or from the last solution, and takes in neurons of high price on
the way. For gated ReLU, whose price needs no search over vectors, many gates are drawn and the ones of
highest price join.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade import search
from convexgrade.dual import DualPoint, dual_point, lower_bound
from convexgrade.network import Network
from convexgrade.neurons import Neurons, merged, neurons_of
from convexgrade.patterns import activation, centred_gates, distinct_columns
from convexgrade.point import Point, null_point, point_of
from convexgrade.program import Problem
from convexgrade.solution import Status

Array = NDArray[np.float64]

_DESCENTS = 2  # descents of one round
_DESCENT_STEPS = 400  # quasi-Newton steps of a descent, at most
_SETTLED = 3e-5  # relative gain of some steps below which a descent ends
_SKETCH_STEPS = 150  # quasi-Newton steps of a sketch, at most
_SMALL = 0.01  # norm of a neuron, relative to the largest, below which a sketch drops it
_SAMPLE = 4000  # rows of a descent before the first, where there are at least twice as many
_NEW_NEURONS = 64  # new neurons of a round, at most
_KICK = 0.5  # rise of the loss by new neurons, relative to the objective
_NUMBERS = 2e8  # inputs of a descent's neurons on all rows: minutes of searching and solving
_COLUMNS_A_ROW = 16  # variables a round's program may have for each row: what it costs grows so
_STARTS = 64, 1024  # fewest and most random starts of a price search
_START_FLOATS = 400_000  # numbers that random starts and their responses make, about
_JOINING = 32  # neurons that join the last solution's patterns at a time
_GATES_DRAWN = 7  # gates drawn for one that a gated grade keeps
_REACHED = 0.2  # of what the prices allow: twice the most that a round has been seen to gain


@dataclass(frozen=True)
class Budget:
    """What a search may spend.

    Attributes
    ----------
    width : int
        Neurons of the first descent; gates that join a gated grade at a time.
    tol : float
        Largest excess of a price over alpha, relative, that counts as none.
    gain : float
        Fall of the objective, relative, that is worth a round.
    n_jobs : int or None
        Threads of a price search.
    """

    width: int
    tol: float
    gain: float
    n_jobs: int | None


def propose(
    problem: Problem, point: Point, first: Network | None, budget: Budget, rng: np.random.Generator
) -> Point | None:
    """Return a point over more, or better, patterns; None if prices promise too little.

    Parameters
    ----------
    problem : Problem
        What the grade has to fit.
    point : Point
        The solution so far.
    first : Network or None
        Network whose neurons join the random ones of the first descent.
    budget : Budget
        What the search may spend.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    Point or None
        Its objective may be above that of ``point``: a solver will see to it.
    """
    if not problem.cones:
        return _by_gates(problem, point, budget, rng)
    proposal = _by_descent(problem, point, first, budget, rng)
    return None if proposal is None else _affordable(problem, proposal)


def sketched(
    problem: Problem,
    first: Network | None,
    budget: Budget,
    limit: int | None,
    rng: np.random.Generator,
) -> Point:
    """Return the point at which one descent of a ReLU network ends, without its small neurons.

    No solver sees it: a percent or two above the optimum over its patterns, in a fraction of the time.
    Of more neurons than the ``limit``, the largest descend once more. The other parameters are those of
    `propose`.
    """
    nothing = null_point(problem)
    neurons = _first_neurons(problem, first, nothing.unpenalised, budget, rng)
    point = _settled(problem, neurons, nothing.unpenalised, _SKETCH_STEPS)
    if limit is not None and len(point.groups) > limit:
        point = _settled(problem, point.largest(limit), point.unpenalised, _SKETCH_STEPS)
    norms = np.linalg.norm(point.blocks, axis=1)
    large = norms > _SMALL * norms.max(initial=0.0)
    point = point_of(problem, point.neurons().take(large), point.unpenalised)
    return replace(min(point, nothing, key=lambda p: p.objective), status=Status.SKETCHED)


def joined(
    problem: Problem, point: Point, budget: Budget, rng: np.random.Generator
) -> Point | None:
    """Return a ReLU point with the patterns of neurons of high price beside its own.

    This is column generation proper: the program over these patterns has a lower optimum. None if
    no price is too high.
    """
    dual = dual_point(problem, point.prediction(problem))
    found, prices = _price_climbed(problem, dual, point.blocks.T, budget, rng)
    better = np.flatnonzero(prices > (1.0 + budget.tol) * problem.alpha)[:_JOINING]
    return _with_patterns(problem, point, found.take(better)) if better.size else None


def _with_patterns(problem: Problem, point: Point, new: Neurons) -> Point:
    """Return a point over its own patterns and those of new neurons, which have zero vectors."""
    gates = np.hstack([point.patterns.gates[:, point.groups.pattern], new.vectors])
    neurons = point.neurons().join(new.times(0.0))
    return replace(point_of(problem, neurons, point.unpenalised, gates=gates), gap=point.gap)


def highest_price(
    problem: Problem, dual: DualPoint, known: Array, budget: Budget, rng: np.random.Generator
) -> float:
    """Return the highest price of a neuron that a search finds, from ``known`` ones and others."""
    if problem.cones:
        _, prices = _price_climbed(problem, dual, known, budget, rng)
    else:
        _, prices = _price_gates(problem, dual, budget, rng)
    return float(prices.max(initial=0.0))


def _by_descent(
    problem: Problem, point: Point, first: Network | None, budget: Budget, rng: np.random.Generator
) -> Point | None:
    """Descend from the point, adding the neurons of highest price now and then.

    From the empty grade it starts at random neurons, and at those of ``first``. Short descents with
    new neurons between them, and the convex program after them, reach in the same time what one long
    descent of as wide a network does not.
    """
    neurons: Neurons | None
    if len(point.groups) == 0:
        neurons = _first_neurons(problem, first, point.unpenalised, budget, rng)
    else:
        worth = budget.gain / _REACHED
        neurons = _with_new_neurons(problem, point, budget, rng, worth=worth)
    if neurons is None:
        return None
    reached = _settled(problem, neurons, point.unpenalised, _DESCENT_STEPS)
    for _ in range(_DESCENTS - 1):
        found = _with_new_neurons(problem, reached, budget, rng)
        neurons = reached.neurons() if found is None else found
        reached = _settled(problem, neurons, reached.unpenalised, _DESCENT_STEPS)
    return reached


def _settled(problem: Problem, neurons: Neurons, unpenalised: Array, n_steps: int) -> Point:
    """Return the point at which a descent ends."""
    neurons, c = search.descend(problem, neurons, unpenalised, max_iter=n_steps, settled=_SETTLED)
    return point_of(problem, merged(neurons), c)


def _first_neurons(
    problem: Problem,
    first: Network | None,
    unpenalised: Array,
    budget: Budget,
    rng: np.random.Generator,
) -> Neurons:
    """Return random neurons, and those of ``first``; where rows are many, after a descent on some.

    Most of the many random neurons wither on the way to few good ones. A sample of the rows tells
    which: the descent on all of them then begins close to its end.
    """
    neurons = search.random_neurons(problem, _first_width(problem, budget), rng)
    if first is not None:
        neurons = neurons_of(first).join(neurons)
    n = len(problem.X)
    if n < 2 * _SAMPLE:
        return neurons
    sample = problem.on_rows(np.sort(rng.choice(n, _SAMPLE, replace=False)))
    settled, _ = search.descend(
        sample, neurons, unpenalised, max_iter=_DESCENT_STEPS, settled=_SETTLED
    )
    return merged(settled)


def _first_width(problem: Problem, budget: Budget) -> int:
    """Return the neurons of the first descent.

    No more than an optimum needs (see `pruning`), nor than all searches and solves can bear.
    """
    enough = len(problem.X) * problem.n_outputs
    bearable = int(_NUMBERS // problem.X.size)
    return max(min(budget.width, enough, bearable), 2 * problem.n_outputs)


def _with_new_neurons(
    problem: Problem,
    point: Point,
    budget: Budget,
    rng: np.random.Generator,
    *,
    worth: float = 0.0,
) -> Neurons | None:
    """Return the neurons of a point and others of high price.

    None if no price is too high, or if the objective could not fall by more than ``worth``, relative,
    were the highest price found that of all neurons.
    """
    dual = dual_point(problem, point.prediction(problem))
    found, prices = _price_climbed(problem, dual, point.blocks.T, budget, rng)
    price = float(prices.max(initial=0.0))
    if price <= (1.0 + budget.tol) * problem.alpha:
        return None
    if lower_bound(problem, dual.q, price) >= (1.0 - worth) * point.objective:
        return None
    limit = min(_NEW_NEURONS, _first_width(problem, budget))
    return _kicked(problem, point, found.take(np.arange(len(found)) < limit))


def _kicked(problem: Problem, point: Point, new: Neurons) -> Neurons:
    """Return the neurons of a point and, for a descent to grow, new unit neurons of high price.

    The latter get the common size at which the loss has risen by a share of the objective: the next
    descent has to leave the kinks in which the last one ended. Smaller ones leave it there, larger
    ones undo what it has reached.
    """
    response = new.forward(problem.X, problem.n_outputs)
    prediction = point.prediction(problem)
    highest = problem.mean_loss(prediction) + _KICK * point.objective
    sizes = (problem.loss_before / problem.alpha) * 0.5 ** np.arange(60)
    size = next((t for t in sizes if problem.mean_loss(prediction + t * response) <= highest), 0.0)
    return point.neurons().join(new.times(size))


def _affordable(problem: Problem, point: Point) -> Point:
    """Return a point with no more neurons than a round's solver should see, the largest."""
    n, d = problem.X.shape
    limit = max(1, _COLUMNS_A_ROW * n // d)
    if len(point.groups) <= limit:
        return point
    return point_of(problem, point.largest(limit), point.unpenalised)


def _price_climbed(
    problem: Problem, dual: DualPoint, known: Array, budget: Budget, rng: np.random.Generator
) -> tuple[Neurons, Array]:
    """Return the distinct neurons that climbing the price reaches, and their prices.

    From known ones and from random gates. A price is that of the output for which it is highest.
    """
    n_starts = int(np.clip(_START_FLOATS // problem.X.size, *_STARTS))
    starts = np.concatenate([known, centred_gates(problem.X, n_starts, rng)], axis=1)
    reached = search.ascend(problem, dual.theta, starts, n_jobs=budget.n_jobs)
    found = search.distinct(problem, reached)
    prices = search.price(problem, dual.theta, found.vectors)
    return found, np.abs(prices).max(axis=0, initial=0.0)


def _by_gates(
    problem: Problem, point: Point, budget: Budget, rng: np.random.Generator
) -> Point | None:
    """Return the point with the patterns of gates of high price beside its own.

    At first, of any that are worth something: before there are neurons, the gates of highest price are
    all alike.
    """
    dual = dual_point(problem, point.prediction(problem))
    neurons, prices = _price_gates(problem, dual, budget, rng)
    order = np.argsort(-prices, kind="stable") if len(point.groups) else np.arange(prices.size)
    neurons = neurons.take(order[prices[order] > (1.0 + budget.tol) * problem.alpha])
    if len(neurons) == 0:
        return None
    distinct = distinct_columns(activation(problem.X, neurons.vectors))
    return _with_patterns(problem, point, neurons.take(distinct[: budget.width]))


def _price_gates(
    problem: Problem, dual: DualPoint, budget: Budget, rng: np.random.Generator
) -> tuple[Neurons, Array]:
    """Return random gates, each for the output for which its price is highest, and these prices."""
    gates = centred_gates(problem.X, _GATES_DRAWN * budget.width, rng)
    prices = search.gate_prices(problem, dual.theta, gates)
    return Neurons(gates, np.ones(gates.shape[1]), prices.argmax(axis=0)), prices.max(axis=0)
