"""Where the solution of a grade comes from: a search for patterns, a sample, all, or a sketch.

The search proposes patterns, solves the convex program over them, looks for neurons of high price, and
begins again: a descent proposes, but the program decides which neurons there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from convexgrade import search
from convexgrade.cutting import cut
from convexgrade.network import Network
from convexgrade.patterns import Patterns, enumerate_patterns, sample_patterns
from convexgrade.point import Point, null_point, point_of
from convexgrade.program import Problem
from convexgrade.proposals import Budget, joined, propose, sketched
from convexgrade.settings import Report, Settings
from convexgrade.solution import Status
from convexgrade.wording import counted
from convexgrade.working_set import solve_groups, solve_over

MOST_PATTERNS = 20_000  # patterns; half a minute at n = 140 in rank 3
_FINAL_STEPS = 1000  # quasi-Newton steps after a cut to ``max_neurons``
_COMPLETIONS = 8  # times that neurons of high price join the last patterns, at most
_CHEAP = 3e6  # operations of a Newton step up to which neurons of high price join
_ROUGH = 10.0  # relative gain that is worth a round, and accuracy of its solve, over ``tol``
_ACCURATE = 1e-3  # least objective, relative to `Problem.null_loss`, to which accuracies scale
_LOOSEST = 0.01  # loosest accuracy of a round: with less, solutions may lie outside the cones


class Task(NamedTuple):
    """What is asked for, besides the problem."""

    settings: Settings
    first: Network | None  # from which a search starts, as well as from random neurons
    rng: np.random.Generator
    report: Report  # is called with a line of text after every round


class Found(NamedTuple):
    """A point of the program, and the rounds of proposing and solving that led to it."""

    point: Point
    n_rounds: int


def find(problem: Problem, task: Task) -> Found:
    """Return what the source that the settings name comes to, cut to ``max_neurons``."""
    point, n_rounds = _SOURCES[task.settings.patterns](problem, task)
    return Found(_within_width(problem, point, task.settings), n_rounds)


def budget_of(settings: Settings) -> Budget:
    """Return what a search may cost."""
    width = settings.n_patterns
    if settings.activation == "relu":  # a wider descent only ends at more neurons than may stay
        width = min(width, settings.max_neurons or width)
    return Budget(width, settings.tol, _ROUGH * settings.tol, settings.n_jobs)


def _solved(problem: Problem, patterns: Patterns, start: Point | None, settings: Settings) -> Point:
    return solve_over(problem, patterns, start, solver=settings.solver, tol=settings.tol)


def _sampled(problem: Problem, task: Task) -> Found:
    patterns = sample_patterns(problem.X, task.settings.n_patterns, task.rng)
    return Found(_solved(problem, patterns, None, task.settings), 1)


def _exhaustive(problem: Problem, task: Task) -> Found:
    patterns = enumerate_patterns(problem.X, limit=MOST_PATTERNS, faces=not problem.cones)
    return Found(_solved(problem, patterns, None, task.settings), 1)


def _adaptive(problem: Problem, task: Task) -> Found:
    """Alternate proposals and the convex program until nothing better is proposed.

    Each round's program holds the last point or a better one, so the objective cannot rise. Rounds
    solve it only as closely as they are worth; the last solve is over all groups of the patterns, and
    the only one that the last round needs.
    """
    settings, budget = task.settings, budget_of(task.settings)
    point = null_point(problem)
    for n_rounds in range(1, settings.max_iter + 1):
        proposal = propose(problem, point, task.first, budget, task.rng)
        if proposal is None:
            break
        if n_rounds == settings.max_iter:
            final = _solved(problem, proposal.patterns, proposal, settings)
            task.report(_line(n_rounds, final))
            if final.objective <= point.objective:
                return Found(_completed(problem, final, task), n_rounds)
            break
        reached = problem.relative(proposal.objective)  # above 1, where a descent ends higher
        accuracy = min(budget.gain * float(np.clip(reached, _ACCURATE, 1.0)), _LOOSEST)
        rough = solve_groups(
            problem, proposal, proposal.groups, solver=settings.solver, accuracy=accuracy
        )
        last, point = point, min(rough, proposal, point, key=lambda p: p.objective)
        task.report(_line(n_rounds, point))
        if last.objective - point.objective <= budget.gain * point.objective:
            break
    point = _solved(problem, point.patterns, point, settings)
    return Found(_completed(problem, point, task), n_rounds)


def _line(n_rounds: int, point: Point) -> str:
    size = counted(len(point.groups), "neuron")
    return f"round {n_rounds}: objective {point.objective:.6g}, {size}"


def _sketched(problem: Problem, task: Task) -> Found:
    settings = task.settings
    point = sketched(problem, task.first, budget_of(settings), settings.max_neurons, task.rng)
    return Found(point, 1)


def _completed(problem: Problem, point: Point, task: Task) -> Point:
    """Let ReLU neurons of high price join the patterns until there are none, or nothing is gained.

    Only while solves are so cheap that the many rounds of pure column generation are affordable; and
    not where there are too many neurons already: a cut to ``max_neurons`` would keep few of those.
    """
    settings = task.settings
    (n, d), limit = problem.X.shape, settings.max_neurons or np.inf
    if not problem.cones or len(point.groups) > limit:
        return point
    for _ in range(_COMPLETIONS):
        columns = len(point.groups) * d
        if n * columns * min(n, columns) > _CHEAP:
            break
        trial = joined(problem, point, budget_of(settings), task.rng)
        if trial is None:
            break
        better = _solved(problem, trial.patterns, trial, settings)
        if better.objective >= point.objective:
            break
        gain = point.objective - better.objective
        point = replace(better, n_before=max(point.n_before, better.n_before))
        if gain <= 0.1 * settings.tol * point.objective:
            break
    return point


_SOURCES: Mapping[str, Callable[[Problem, Task], Found]] = {
    "adaptive": _adaptive,
    "sampled": _sampled,
    "exhaustive": _exhaustive,
    "sketched": _sketched,
}


def _within_width(problem: Problem, point: Point, settings: Settings) -> Point:
    """Cut a point to ``max_neurons``; an adaptive one descends once more at that width."""
    limit = settings.max_neurons
    if limit is None or len(point.groups) <= limit:
        return point
    narrow = partial(cut, problem, limit=limit, solver=settings.solver, tol=settings.tol)
    narrowed = narrow(point)
    if settings.patterns == "adaptive" and problem.cones:
        start = narrowed.neurons(), narrowed.unpenalised
        refined = point_of(problem, *search.descend(problem, *start, max_iter=_FINAL_STEPS))
        refined = narrow(_solved(problem, refined.patterns, refined, settings))
        narrowed = min(narrowed, refined, key=lambda p: p.objective)
    status = Status.CUT if narrowed.status.converged else narrowed.status
    return replace(narrowed, status=status, n_before=point.n_before)
