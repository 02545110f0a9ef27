"""Column generation: the program over many patterns, solved over the few groups that matter.

Few of a program's groups are non-zero at its optimum. A solver sees a working set; every group
outside is priced exactly against the dual point, and those that would lower the objective join. With
none left, the point is optimal over all patterns, though most of them never met a solver.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade import solvers
from convexgrade.certificate import Multipliers, dual_norm_bound, dual_point, lower_bound
from convexgrade.cones import Cones, Tight
from convexgrade.network import Network, from_blocks
from convexgrade.patterns import Patterns, activation
from convexgrade.polishing import operations, polish
from convexgrade.program import Groups, Program, shortened
from convexgrade.pruning import prune
from convexgrade.search import Neurons
from convexgrade.solution import Solution, Start, Status

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_SOLVE_WHOLE = 120  # groups up to which a program goes to the solver as it is
_BATCH = 60  # groups that join a working set at a time
_DROP = 1e-7  # norm of a block, relative to the largest, below which it is no neuron
_SMALL = 3e-3  # and below which a solver that does not select groups goes on without it
_OFF_ZERO = 1e-6, 1e-5, 1e-4, 1e-3, 1e-2  # and which one can have that is zero at the optimum
_CLOSE = 0.01  # accuracy of a first solution, relative to the tolerance of prices,
_EXACT = 1e-9  # and of the last, relative to the loss before the grade
_ENOUGH = 0.1, 0.01  # but these, relative to tolerance and objective, one by one, where a point
_LARGE = 2e7  # has more than so many numbers on all rows, times the outputs,
_LOOSE = 1e-3  # or the tolerance is greater than this,
_PROVED = 0.5  # until it has proved a gap of so much of the tolerance
_EQUAL = 1e-8  # rise of the objective, relative to the loss before, that is the solver's rounding
_SHARP = 1e-3  # gap, relative to the tolerance of prices, of a point that needs no last digits
_CONFIRMED = 0.01, 1e-8  # and, or below the second, of one that no second solver is asked about
_AFFORDABLE = 3e10, 1e12  # operations of a step towards these; where the gap is above the tolerance
_SETTLED = 1e-7  # gap, relative to the loss before, of a point that needs no further solve
_FEW = 400  # groups up to which iterations are no slower than a solution found at once,
_AT_ONCE = 0.01  # and gap, relative to the tolerance of prices, up to which that needs no other
_FAR = 0.01  # gap of a point that no solver has seen, relative to the loss before
_JOINED = 2e-4  # and of one that new groups join
_ROUNDS = 50  # rounds of pricing and solving, far above what column generation takes


@dataclass(frozen=True)
class Point:
    """A feasible point of a program over some patterns, given by its non-zero blocks.

    Attributes
    ----------
    patterns : Patterns
        The patterns over which the point was sought.
    groups : Groups
        Groups of the non-zero blocks.
    blocks : ndarray of shape (n_neurons, d)
        Their vectors, inside their cones.
    unpenalised : ndarray of shape (q, n_outputs)
        Coefficients of the unpenalised columns.
    objective : float
        The program's objective there.
    status : Status
        How the last solve ended.
    gap : float
        About how far from optimal it is over its groups, relative to the loss before the grade.
    multipliers : Multipliers or None
        Those of the constraints, where the solver has them.
    n_before : int
        Number of neurons before those that others make up for were pruned.
    """

    patterns: Patterns
    groups: Groups
    blocks: Array
    unpenalised: Array
    objective: float
    status: Status
    gap: float = _FAR
    multipliers: Multipliers | None = None
    n_before: int = 0

    def neurons(self) -> Neurons:
        """Return the non-zero blocks as neurons."""
        return Neurons(self.blocks.T, self.groups.sign, self.groups.output)

    def prediction(self, program: Program) -> Array:
        """Return offset + f on the program's rows."""
        return program.over(self.patterns, self.groups).predict(self.blocks, self.unpenalised)

    def network(self, program: Program) -> Network:
        """Return the point as an explicit network."""
        gates = None if program.cones else self.patterns.gates[:, self.groups.pattern]
        coefficients = np.zeros((program.X.shape[1], program.n_outputs))
        coefficients[program.free] = self.unpenalised
        blocks = self.blocks
        if not program.X[:, -1].any():  # neurons without bias: whatever stands there has no effect
            blocks, gates = (
                _without_last(blocks.T).T,
                None if gates is None else _without_last(gates),
            )
        return from_blocks(blocks, self.groups.sign, self.groups.output, coefficients, gates)


def _without_last(vectors: Array) -> Array:
    return np.vstack([vectors[:-1], np.zeros((1, vectors.shape[1]))])


def null_point(program: Program, patterns: Patterns) -> Point:
    """Return the grade without neurons: the unpenalised columns alone, fitted."""
    nothing = program.over(patterns, Groups.every(0, program.n_outputs, signed=program.cones))
    blocks = np.zeros((0, program.X.shape[1]))
    unpenalised = program.null_coefficients
    return Point(
        patterns=patterns,
        groups=nothing.groups,
        blocks=blocks,
        unpenalised=unpenalised,
        objective=nothing.objective(blocks, unpenalised),
        status=Status.OPTIMAL,
    )


def no_worse_than_null(program: Program, point: Point) -> Point:
    """Return the grade without neurons in place of a worse point, which solvers that fail can leave."""
    null = null_point(program, point.patterns)
    return point if point.objective <= null.objective else replace(null, status=point.status)


def drawn_in(program: Program, point: Point) -> Point:
    """Return a point with unpenalised coefficients no larger than the loss needs (see `shortened`)."""
    if program.loss.quadratic:
        return point
    response = point.prediction(program) - program.Z @ point.unpenalised
    data = (program.loss, program.Z, program.y, response, program.weights)
    before = program.mean_loss(program.offset)
    return replace(point, unpenalised=shortened(*data, point.unpenalised, before))


def point_of(
    program: Program, neurons: Neurons, unpenalised: Array, *, gates: Array | None = None
) -> Point:
    """Return neurons as a point of the program over their own patterns, or those of ``gates``.

    A ReLU neuron lies in the cone of its own pattern. Those that share pattern, sign and output add
    up inside it: the prediction stays, and the penalty does not rise.
    """
    gates = neurons.vectors if gates is None else gates
    patterns = Patterns.from_gates(program.X, gates)
    pattern = patterns.find(activation(program.X, gates))
    active = pattern >= 0
    full = program.over(patterns, program.every_group(patterns))
    position = full.groups.locate(Groups(pattern, neurons.sign, neurons.output).take(active))
    distinct, place = np.unique(position, return_inverse=True)
    groups = full.groups.take(distinct)
    blocks = np.zeros((distinct.size, len(neurons.vectors)))
    np.add.at(blocks, place, neurons.vectors.T[active])
    return Point(
        patterns=patterns,
        groups=groups,
        blocks=blocks,
        unpenalised=unpenalised,
        objective=program.over(patterns, groups).objective(blocks, unpenalised),
        status=Status.ITERATION_LIMIT,
        n_before=distinct.size,
    )


def solve_over(
    program: Program, patterns: Patterns, start: Point | None, *, solver: str, tol: float
) -> Point:
    """Minimise over all groups of ``patterns``, with few neurons.

    Optimal neurons are rarely unique, and an interior point method returns the middle of all optimal
    solutions: many small neurons where fewer do as well. So a solution is pruned, and the next one is
    sought from what is left of it; by a solver that selects its groups itself, over all of them, by
    others over these and whatever has to join.

    Parameters
    ----------
    program : Program
        The grade; its own patterns and groups are not read.
    patterns : Patterns
        Patterns to minimise over.
    start : Point or None
        A point over ``patterns`` whose groups are the first working set; None, or one without
        neurons, begins with the groups of highest price, or with all if they are few.
    solver : str
        Name of a solver.
    tol : float
        Stop when no group's price exceeds alpha by more than this fraction.

    Returns
    -------
    Point
        The best point met; its status says whether the last solve succeeded.
    """
    start = start or null_point(program, patterns)  # first: `over` then hands its fit on
    full = program.over(patterns, program.every_group(patterns))
    if len(full.groups) > _FEW:
        at_once = solvers.solve_at_once(full, solver=solver)
        if at_once is not None:
            point = _clean(full, at_once)
            if _gap(full, point) <= _AT_ONCE * tol:
                return point
    every = np.arange(len(full.groups))
    working = full.groups.locate(start.groups)
    if working.size == 0:
        working = _violated(full, every, start, tol)
        if working.size == 0 and _gap(full, start) <= tol:
            return start
        if working.size == 0:  # prices of a dual point that proves nothing choose no groups either
            working = every
    if not solvers.selects_groups(solver):
        return _narrowed(full, start, working, solver=solver, tol=tol)
    start = _pruned(full, start, _DROP)
    point = _solved_closely(full, start, every, solver=solver, tol=tol)
    pruned = replace(_pruned(full, point, _DROP), n_before=len(point.groups))
    return _confirmed(full, _polished(full, pruned, tol), solver=solver, tol=tol)


def _confirmed(full: Program, point: Point, *, solver: str, tol: float) -> Point:
    """Return a point that is proved optimal; where it is not, a second solver's, if that is better.

    The first one knows the gap of a loss that it has rounded off, not what rounding makes of a network.
    """
    other, (share, least) = solvers.second(solver, full), _CONFIRMED
    if other is None or (gap := _gap(full, point)) <= max(share * tol, least):
        return point
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a solver that nobody asked for by name
        found = _narrowed(full, point, full.groups.locate(point.groups), solver=other, tol=tol)
    higher = found.objective - point.objective > _EQUAL * full.mean_loss(full.offset)
    return point if higher or _gap(full, found) >= gap else found


def _narrowed(full: Program, start: Point, working: Index, *, solver: str, tol: float) -> Point:
    """Solve with a solver that does not select groups: roughly first, to see which ones matter."""
    if len(full.groups) <= _SOLVE_WHOLE:
        working = np.arange(len(full.groups))
    rough = _generate(full, start, working, solver=solver, tol=tol, accuracy=_CLOSE * tol)
    few = _pruned(full, rough, _SMALL)
    working = full.groups.locate(few.groups)
    point = _generate(full, few, working, solver=solver, tol=tol, accuracy=_EXACT)
    if point.objective > rough.objective + 0.1 * tol * full.mean_loss(full.offset):
        point = replace(rough, status=Status.INACCURATE)
    return _polished(full, replace(_pruned(full, point, _DROP), n_before=len(rough.groups)), tol)


def _solved_closely(full: Program, start: Point, every: Index, *, solver: str, tol: float) -> Point:
    """Solve as closely as can be; or, where that takes long, until the gap is proved.

    That over the groups of the start first: others than a descent's own rarely matter. What a solver
    stops short of, a certificate may see the root of, how much depends on the program: so the gap is
    asked for, before a large program is solved any closer.
    """
    if tol <= _LOOSE and full.X.size * len(start.groups) * full.n_outputs <= _LARGE:
        return _generate(full, start, every, solver=solver, tol=tol, accuracy=_EXACT)
    own = full.groups.locate(start.groups) if len(start.groups) else every
    before = full.mean_loss(full.offset) or 1.0

    def solved(point: Point, working: Index, enough: float) -> Point:
        accuracy = max(_EXACT, enough * tol * min(1.0, start.objective / before))
        return _generate(full, point, working, solver=solver, tol=tol, accuracy=accuracy)

    point = solved(start, own, _ENOUGH[0])
    if _gap(full, point) * before <= _PROVED * tol * point.objective:
        return point
    return solved(point, every, _ENOUGH[1])


def _generate(
    full: Program, start: Point, working: Index, *, solver: str, tol: float, accuracy: float
) -> Point:
    """Solve over a working set and price the groups outside, until none has to join."""
    best = start
    for _ in range(_ROUNDS):
        if not _settled(full, best, working):
            groups = full.groups.take(working)
            point = solve_groups(full, best, groups, solver=solver, accuracy=accuracy)
            if point.objective > best.objective + _EQUAL * full.mean_loss(full.offset):
                return replace(best, status=Status.INACCURATE)
            best = point
        outside = np.setdiff1d(np.arange(len(full.groups)), working)
        violated = _violated(full, outside, best, tol)
        if violated.size == 0:
            break
        working = np.concatenate([working, violated])
    return best


def _settled(full: Program, point: Point, working: Index) -> bool:
    """Return whether a point is known to be optimal over the working set already."""
    if point.gap > _SETTLED:
        return False
    return _gap(full.over(full.patterns, full.groups.take(working)), point) <= _SETTLED


def _gap(over: Program, point: Point) -> float:
    """Bound how far a point is from the optimum over some groups, relative to the loss before.

    By the prediction of its network, which a certificate will see: rounding can tell the two apart.
    """
    dual = dual_point(over, over.offset + point.network(over).forward(over.X[:, :-1]))
    bound = lower_bound(over, dual, dual_norm_bound(over, dual, point.multipliers))
    return (point.objective - bound) / (over.mean_loss(over.offset) or 1.0)


def _polished(full: Program, point: Point, tol: float) -> Point:
    """Return a point with its last digits, where a certificate is likely to miss them.

    Not for the squared error: its gradient is as good as its prediction, and sizes of neurons, refitted
    in any case (`energy.rescale`), are all that it lacks.
    """
    own = full.over(point.patterns, point.groups)
    cost = operations(own)
    if full.loss.quadratic or not 0.0 < cost <= max(_AFFORDABLE):
        return point
    gap = _gap(full, point)
    if gap <= _SHARP * tol or cost > _AFFORDABLE[gap > tol]:
        return point
    blocks, unpenalised = polish(own, point.blocks, point.unpenalised)
    if full.cones:
        blocks = _projected(own, own.groups.pattern, blocks)
    objective = own.objective(blocks, unpenalised)
    if objective > point.objective:
        return point
    polished = replace(point, blocks=blocks, unpenalised=unpenalised, objective=objective)
    return _take(full, polished, np.flatnonzero(blocks.any(axis=1)))


def _pruned(full: Program, point: Point, share: float) -> Point:
    """Prune a point, and drop the neurons that are then smaller than a share of the largest."""
    blocks = prune(full.over(point.patterns, point.groups), point.blocks)
    return _take(full, replace(point, blocks=blocks), _large(blocks, share))


def _large(blocks: Array, share: float) -> Index:
    """Return which blocks are larger than a share of the largest."""
    norms = np.linalg.norm(blocks, axis=1)
    return np.flatnonzero(norms > share * norms.max(initial=0.0))


def _take(program: Program, point: Point, index: Index) -> Point:
    """Return a point without its neurons but those at ``index``."""
    groups, blocks = point.groups.take(index), point.blocks[index]
    objective = program.over(point.patterns, groups).objective(blocks, point.unpenalised)
    rise = max(0.0, objective - point.objective) / (program.mean_loss(program.offset) or 1.0)
    gap = min(point.gap + rise, _FAR)
    return replace(point, groups=groups, blocks=blocks, objective=objective, gap=gap)


def solve_groups(
    program: Program, start: Point, groups: Groups, *, solver: str, accuracy: float = 1e-9
) -> Point:
    """Minimise over the given groups of a point's patterns alone, setting out from that point."""
    restricted = program.over(start.patterns, groups)
    place = groups.locate(start.groups)
    blocks = np.zeros((len(groups), program.X.shape[1]))
    blocks[place[place >= 0]] = start.blocks[place >= 0]
    gap = start.gap if np.linalg.norm(blocks, axis=1).all() else max(start.gap, _JOINED)
    first = Start(blocks, start.unpenalised, gap) if blocks.any() else None
    solution = solvers.solve(restricted, solver=solver, start=first, accuracy=accuracy)
    rho = solution.multipliers
    return replace(
        _thinned(restricted, _clean(restricted, solution)),
        gap=min(solution.gap, _FAR),
        multipliers=None if rho is None else Multipliers(groups, rho),
    )


def solve_groups_within(
    program: Program, start: Point, groups: Groups, cap: Array, *, solver: str
) -> Point:
    """Minimise over the given groups with a largest distance of each prediction from its target."""
    restricted = program.over(start.patterns, groups)
    solution = solvers.solve_within(restricted, cap, solver=solver)
    return replace(_clean(restricted, solution), n_before=max(start.n_before, len(start.groups)))


def _violated(full: Program, outside: Index, point: Point, tol: float) -> Index:
    """Return the groups at ``outside`` whose dual constraint a point fails most, worst first."""
    theta = dual_point(full, point.prediction(full)).theta
    program = full.over(full.patterns, full.groups.take(outside))
    correlations = program.adjoint(theta)
    threshold = full.alpha * (1.0 + tol)
    prices = np.linalg.norm(correlations, axis=1)
    if full.cones:
        above = np.flatnonzero(prices > threshold)
        cone = program.groups.pattern[above]
        points = _projected(program, cone, correlations[above], enough=threshold)
        prices[above] = np.linalg.norm(points, axis=1)
    order = np.argsort(-prices, kind="stable")[:_BATCH]
    return outside[order[prices[order] > threshold]]


def _clean(program: Program, solution: Solution) -> Point:
    """Drop blocks that are zero up to solver accuracy; put the others exactly into their cones."""
    keep = _large(solution.blocks, _DROP)
    groups = program.groups.take(keep)
    blocks = solution.blocks[keep]
    if program.cones:
        blocks = _projected(program, groups.pattern, blocks)
    return Point(
        patterns=program.patterns,
        groups=groups,
        blocks=blocks,
        unpenalised=solution.unpenalised,
        objective=program.over(program.patterns, groups).objective(blocks, solution.unpenalised),
        status=solution.status,
        n_before=keep.size,
    )


def _thinned(program: Program, point: Point) -> Point:
    """Drop small blocks as long as the objective is lower without.

    Interior points leave every block a little off zero, the farther the less close the solve.
    """
    for share in _OFF_ZERO:
        large = _large(point.blocks, share)
        if large.size < len(point.blocks):
            fewer = replace(_take(program, point, large), n_before=large.size)
            if fewer.objective >= point.objective:
                break
            point = fewer
    return point


def _projected(program: Program, cone: Index, points: Array, *, enough: float = 0.0) -> Array:
    """Project points on the cones of patterns; those of length ``enough`` or less need not arrive."""
    cones = Cones.of(program.X, program.patterns.masks)
    none = Tight.none(cone.size, program.X.shape[1])
    return cones.project(cone, points, none, enough=enough)[0]
