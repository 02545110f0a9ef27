"""Grades that raise no training residual: the program of a grade with further constraints.

With e what is left before the grade and N its output, |e - N| <= |e| for every row and output, or
0 <= s N <= 2 |e| with s the sign of e. The constraints are convex, and the zero grade meets them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convexgrade.energy import rescale_within
from convexgrade.network import Network
from convexgrade.program import Program
from convexgrade.solution import Status
from convexgrade.working_set import Point, solve_groups_within

_MARGIN = (
    1e-6  # fall of residuals that is asked for, relative to the largest: more than a solver misses
)
_SLACK = 1e-10  # rise of a residual that is rounding, relative to the largest residual


def refine_pointwise(
    program: Program, point: Point, *, solver: str, fixed: bool
) -> tuple[Point, Network]:
    """Solve a grade with the constraints, over the patterns of a point's neurons.

    A solver meets the constraints to its tolerance. So it is asked for a little more; and the network
    is moved back along its ray to where no residual has grown by more than rounding, which would be
    far if a row that must not move had moved by that tolerance.

    Parameters
    ----------
    program : Program
        The grade; its own patterns and groups are not read.
    point : Point
        Its solution without the constraints.
    solver : str
        Name of a solver.
    fixed : bool
        Whether neurons may only be those of the point (so that there are no more), or any of their
        patterns.

    Returns
    -------
    point : Point
        The constrained solution.
    network : Network
        The same as a network, moved back.

    Raises
    ------
    ValueError
        If the loss is not the squared error.
    """
    if not program.loss.quadratic:
        raise ValueError(
            f"refinement='pointwise' needs loss='squared_error'; this is {program.loss.name!r}."
        )
    every = program.every_group(point.patterns)
    groups = point.groups if fixed else every.take(np.isin(every.pattern, point.groups.pattern))
    left = np.abs(program.y - program.offset)
    margin = _MARGIN * float(left.max(initial=0.0))
    if len(groups):
        # Equal rows whose residuals differ in sign leave no room for a margin.
        for cap in (np.where(left > 2.0 * margin, left - margin, left), left):
            found = solve_groups_within(program, point, groups, cap, solver=solver)
            if found.status is not Status.FAILED:
                break
        point = found
    if point.status is not Status.FAILED:
        point = replace(point, status=Status.POINTWISE, multipliers=None)
    slack = _SLACK * float(left.max(initial=0.0))
    return point, rescale_within(program, point.network(program), slack)
