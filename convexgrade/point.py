"""A point of a program over many patterns: its non-zero blocks, and what rounding leaves of a solution.

Solvers leave blocks a little off zero and a little outside their cones, and more of them than needed.
What becomes of them here, the objective of the point takes account of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.certificate import predicted, relative_gap
from convexgrade.dual import SolverDual, own_bound
from convexgrade.groups import Groups
from convexgrade.network import Network, from_blocks
from convexgrade.neurons import Neurons
from convexgrade.patterns import Patterns
from convexgrade.program import Problem, Program
from convexgrade.pruning import prune
from convexgrade.solution import Solution, Status
from convexgrade.unpenalised import shortened

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_ROUNDING = 1e-14  # gain, relative to the objective, that is none
FAR = 0.01  # gap of a point that no solver has seen
_DROP = 1e-7  # size of a block, relative to the largest, below which it is no neuron
_OFF_ZERO = 1e-6, 1e-5, 1e-4, 1e-3, 1e-2  # and which one can have that is zero at the optimum


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
        About how far from optimal it is over its groups, in units of `Program.null_loss`: by the
        solver's account, and by what has been dropped since.
    solver_dual : SolverDual or None
        What the last solver knows of the dual, if there was one.
    n_before : int
        Number of neurons before those that others make up for were pruned.
    """

    patterns: Patterns
    groups: Groups
    blocks: Array
    unpenalised: Array
    objective: float
    status: Status
    gap: float = FAR
    solver_dual: SolverDual | None = None
    n_before: int = 0

    def neurons(self) -> Neurons:
        """Return the non-zero blocks as neurons."""
        return Neurons(self.blocks.T, self.groups.sign, self.groups.output)

    def largest(self, limit: int) -> Neurons:
        """Return so many of the neurons, the largest first."""
        return self.neurons().take(longest(self.blocks, limit))

    def program(self, problem: Problem) -> Program:
        """Return the program over its groups."""
        return problem.over(self.patterns, self.groups)

    def prediction(self, problem: Problem) -> Array:
        """Return offset + f on the problem's rows."""
        return self.program(problem).predict(self.blocks, self.unpenalised)

    def network(self, problem: Problem) -> Network:
        """Return the point as an explicit network."""
        used = np.ones(problem.X.shape[1])
        used[-1] = problem.X[:, -1].any()  # without biases, what stands for them has no effect
        groups = self.groups
        gates = None if problem.cones else self.patterns.gates[:, groups.pattern] * used[:, None]
        coefficients = np.zeros((problem.X.shape[1], problem.n_outputs))
        coefficients[problem.free] = self.unpenalised
        return from_blocks(self.blocks * used, groups.sign, groups.output, coefficients, gates)


def null_point(problem: Problem, patterns: Patterns | None = None) -> Point:
    """Return the grade without neurons, over patterns, if any: the unpenalised columns alone, fitted."""
    none = Patterns.none(*problem.X.shape)
    return Point(
        patterns=none if patterns is None else patterns,
        groups=problem.every_group(none),
        blocks=np.zeros((0, problem.X.shape[1])),
        unpenalised=problem.null_coefficients,
        objective=problem.null_loss,
        status=Status.OPTIMAL,
    )


def no_worse_than_null(problem: Problem, point: Point) -> Point:
    """Return the grade without neurons in place of a point that is worse, or as good up to rounding.

    Solvers that fail can leave a worse one. And far above the alpha from which on no neuron is worth its
    penalty, what a descent leaves of them is so small that rounding hides what it costs.
    """
    null = null_point(problem, point.patterns)
    gain = null.objective - point.objective
    return point if gain > _ROUNDING * null.objective else replace(null, status=point.status)


def drawn_in(problem: Problem, point: Point) -> Point:
    """Return a point with unpenalised coefficients no larger than the loss needs (see `shortened`)."""
    if problem.loss.quadratic:
        return point
    response = point.prediction(problem) - problem.Z @ point.unpenalised
    c = shortened(problem.mean_loss, problem.Z, response, point.unpenalised, problem.loss_before)
    objective = problem.mean_loss(response + problem.Z @ c) + problem.penalty(point.blocks)
    return replace(point, unpenalised=c, objective=objective)


def point_of(
    problem: Problem, neurons: Neurons, unpenalised: Array, *, gates: Array | None = None
) -> Point:
    """Return neurons as a point of the program over their own patterns, or those of ``gates``.

    A ReLU neuron lies in the cone of its own pattern. Those that share pattern, sign and output add
    up inside it: the prediction stays, and the penalty does not rise.
    """
    gates = neurons.vectors if gates is None else gates
    patterns, pattern = Patterns.read(problem.X, gates)
    active = pattern >= 0
    full = problem.over(patterns)
    position = full.groups.locate(Groups(pattern, neurons.sign, neurons.output).take(active))
    distinct, place = np.unique(position, return_inverse=True)
    own = full.take(distinct)
    blocks = np.zeros((distinct.size, len(neurons.vectors)))
    np.add.at(blocks, place, neurons.vectors.T[active])
    return Point(
        patterns=patterns,
        groups=own.groups,
        blocks=blocks,
        unpenalised=unpenalised,
        objective=own.objective(blocks, unpenalised),
        status=Status.ITERATION_LIMIT,
        n_before=distinct.size,
    )


def gap_of(over: Program, point: Point) -> float:
    """Bound how far a point is from the optimum over some groups, relative to the loss before.

    By what its network alone tells, so that whoever has the data can prove it again: by its prediction,
    as rounding can tell it from that of the blocks, and not by the theta of its solver.
    """
    bound = own_bound(over, predicted(over, point.network(over)), point.solver_dual)
    return relative_gap(point.objective - bound.value, over.loss_before)


def pruned(problem: Problem, point: Point, share: float = _DROP) -> Point:
    """Prune a point, and drop the neurons that are then smaller than a share of the largest."""
    blocks = prune(point.program(problem), point.blocks)
    return keep_neurons(problem, replace(point, blocks=blocks), _large(problem, blocks, share))


def _large(problem: Problem, blocks: Array, share: float) -> Index:
    """Return which blocks are larger than a share of the largest: in units of the columns of X."""
    sizes = np.linalg.norm(blocks * np.sqrt(problem.weights @ problem.X**2), axis=1)
    return np.flatnonzero(sizes > share * sizes.max(initial=0.0))


def longest(blocks: Array, limit: int) -> Index:
    """Return which so many blocks are the longest, the longest first."""
    return np.argsort(-np.linalg.norm(blocks, axis=1), kind="stable")[:limit]


def keep_neurons(problem: Problem, point: Point, index: Index) -> Point:
    """Return a point without its neurons but those at ``index``."""
    groups, blocks = point.groups.take(index), point.blocks[index]
    objective = problem.over(point.patterns, groups).objective(blocks, point.unpenalised)
    rise = problem.relative(max(0.0, objective - point.objective))
    gap = min(point.gap + rise, FAR)
    return replace(point, groups=groups, blocks=blocks, objective=objective, gap=gap)


def point_at(program: Program, solution: Solution) -> Point:
    """Drop blocks that are zero up to solver accuracy; put the others exactly into their cones."""
    keep = _large(program, solution.blocks, _DROP)
    own, blocks = program.take(keep), solution.blocks[keep]
    if program.cones:
        blocks = program.projected(keep, blocks)
    return Point(
        patterns=program.patterns,
        groups=own.groups,
        blocks=blocks,
        unpenalised=solution.unpenalised,
        objective=own.objective(blocks, solution.unpenalised),
        status=solution.status,
        n_before=keep.size,
    )


def thinned(problem: Problem, point: Point) -> Point:
    """Drop small blocks as long as the objective is lower without.

    Interior points leave every block a little off zero, the farther the less close the solve.
    """
    for share in _OFF_ZERO:
        large = _large(problem, point.blocks, share)
        if large.size < len(point.blocks):
            fewer = replace(keep_neurons(problem, point, large), n_before=large.size)
            if fewer.objective >= point.objective:
                break
            point = fewer
    return point
