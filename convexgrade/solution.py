"""What a solver returns: a status sentence and a point, whatever the algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

Array = NDArray[np.float64]


class Status(Enum):
    """How a solve, or a whole grade, ended. The value is the sentence shown to the user."""

    OPTIMAL = (
        "Optimal over its patterns to the requested tolerance; others may lower the objective."
    )
    NO_BETTER_NEURON = (
        "Optimal over its patterns to the requested tolerance, and a search found no better neuron."
    )
    GLOBALLY_OPTIMAL = "Globally optimal to the requested tolerance: all patterns were enumerated."
    TRIVIAL = (
        "No neuron is worth its penalty: none, of its patterns or found by a search, correlates enough "
        "with what is left."
    )
    CONVERTED = (
        "Converted from a gated grade: equal to it on the training rows, not optimal among ReLU "
        "networks; the certificate tells how far from it."
    )
    CORRECTED = (
        "Corrected together with the other grades after its fit, and so not the optimum of its own "
        "program; the certificate tells how far from it, given the grades before it."
    )
    POINTWISE = (
        "Constrained to raise no training residual; the gap is measured against the program without "
        "these constraints, whose optimum may be out of reach."
    )
    CUT = (
        "Cut to max_neurons; the gap is measured against all signs and outputs of its patterns, which "
        "may take more neurons."
    )
    SKETCHED = "A sketch to judge by, which no solver has seen."
    TRIED = "Tried on some rows, to be judged by the others; the certificate speaks of the former alone."
    OTHER_DATA = "Optimal on the data of its fit; on these, the certificate tells how far from it."
    INACCURATE = (
        "The solver stopped early; the certificate tells how far from optimal the point is."
    )
    ITERATION_LIMIT = "The iteration limit was reached before the requested tolerance."
    FAILED = "The solver failed and returned no usable point."

    @property
    def constrained(self) -> bool:
        """Whether a gap is the price of something else that the grade had to do."""
        return self in (Status.POINTWISE, Status.CORRECTED, Status.CUT, Status.CONVERTED)

    @property
    def converged(self) -> bool:
        """Whether the requested tolerance was met."""
        return self in _CONVERGED


_CONVERGED = frozenset(
    {Status.OPTIMAL, Status.NO_BETTER_NEURON, Status.GLOBALLY_OPTIMAL, Status.TRIVIAL}
)


def status_of(gap: float, tol: float, otherwise: Status) -> Status:
    """Return how a solve ended by the gap of its point: ``otherwise`` where that is above ``tol``."""
    if not np.isfinite(gap):
        return Status.FAILED
    return Status.OPTIMAL if gap <= tol else otherwise


class Start(NamedTuple):
    """A point of a program from which a solver may set out.

    ``blocks`` (n_groups, d) and ``unpenalised`` (q, n_outputs), as in `Solution`; ``gap`` is about
    how far it is from optimal, relative to the loss of the grade without neurons.
    """

    blocks: Array
    unpenalised: Array
    gap: float


@dataclass(frozen=True)
class Solution:
    """A point of a program, as a solver left it.

    Attributes
    ----------
    blocks : ndarray of shape (n_groups, d)
        One vector v_g a group, signs not folded in.
    unpenalised : ndarray of shape (q, n_outputs)
        Coefficients c of the unpenalised columns.
    multipliers : ndarray or sparse array of shape (n_samples, n_groups), or None
        Multipliers rho_g >= 0 of the constraints E_g X v_g >= 0, where the solver has them. They
        can tighten a certificate; a certificate is valid without them.
    status : Status
        How the solve ended.
    iterations : int
        Iterations of the algorithm.
    gap : float
        Duality gap by the solver's own account, relative to the loss of the grade without neurons;
        inf where it keeps none. Certificates do not rely on it.
    theta : ndarray of shape (n_samples, n_outputs), or None
        The dual variable, minus the gradient of the mean loss, where the prediction does not tell it:
        for losses with kinks, where the solver has it.
    """

    blocks: Array
    unpenalised: Array
    multipliers: Array | csc_array | None
    status: Status
    iterations: int
    gap: float = float("inf")
    theta: Array | None = None
