"""The energy identity: where the squared error of a chain goes, grade by grade.

Write e for what is left before a grade (targets minus offset), N for the grade's output,
R = sum_j ||u_j|| |a_j|_1 for its penalty, and <., .> for the inner product with the rows' weights (which
sum to 1), summed over outputs. The loss is *half* a squared error, so that along the ray t N, t >= 0,
where R becomes t R, the grade's objective is

    ||e - t N||^2 / 2 + alpha t R,     least at     t = max(0, (<e, N> - alpha R) / ||N||^2).

A grade multiplied by this t (all of N: neurons, linear term and intercept) has, with N and R those after
the multiplication, <e, N> = ||N||^2 + alpha R; inserted into ||e - N||^2 = ||e||^2 - 2 <e, N> + ||N||^2,

    ||e||^2 = ||e - N||^2 + ||N||^2 + 2 alpha R.

It holds whatever the solver did: an optimal grade has t = 1 anyway. Summed over the grades of a chain,
||y - baseline||^2 = ||what is left||^2 + sum over grades (||N||^2 + 2 alpha R).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.certificate import objective
from convexgrade.network import Network
from convexgrade.program import Problem
from convexgrade.quadratics import least_squares

Array = NDArray[np.float64]

_AFFORDABLE = 1e9  # operations of a refit of sizes
_ROUNDING = 1e-12  # relative rise of an objective that counts as none


class Energy(NamedTuple):
    """Where the squared error before a grade went.

    ``before = after + output + penalty + defect``, in the units of the standardised targets: squared
    errors averaged with the rows' weights and summed over outputs, twice the mean training loss.

    Attributes
    ----------
    before, after : float
        Squared error before and after the grade; ``after`` is ``before`` of the next grade.
    output : float
        Squared norm of the grade's output.
    penalty : float
        ``2 * alpha * sum_j ||u_j|| |a_j|_1`` over its neurons.
    defect : float
        What is missing: 0 up to rounding, but for pointwise refinement, where it may be positive, and
        for grades that were corrected, or converted by `to_relu`, where it may have either sign.
    """

    before: float
    after: float
    output: float
    penalty: float
    defect: float

    def __str__(self) -> str:
        parts = f"{self.output:.4g} output, {self.penalty:.4g} penalty, {self.defect:.1e} defect"
        return f"squared error {self.before:.4g} before, {self.after:.4g} after: {parts}"


def rescale(problem: Problem, network: Network) -> Network:
    """Return the network moved along its ray to the least objective, if the loss is quadratic.

    Otherwise it is returned as it is. A solver leaves t within its tolerance of 1, and the step
    disturbs its dual point by as much, which a certificate sees. So the sizes of the neurons are
    refitted first, where that is affordable: then t = 1 up to rounding.
    """
    if not problem.loss.quadratic:
        return network
    network = _refitted(problem, network)
    output = network.forward(problem.X[:, :-1])
    return _multiplied(network, _best_factor(problem, network, output))


def rescale_within(problem: Problem, network: Network, slack: float) -> Network:
    """Return the network at the best point of its ray at which no residual has grown by more than slack.

    With e what is left before and N the output, |e - t N| <= |e| + slack holds for every entry up to
    some t: t N is at most 2 |e| + slack in the direction of e, and slack in the other. Where that t
    comes before the best one, the identity above has a defect: the squared error falls by more than
    output and penalty account for.
    """
    output = network.forward(problem.X[:, :-1])
    left = problem.y - problem.offset
    along = np.where(left < 0.0, -output, output)
    room = np.where(along > 0.0, 2.0 * np.abs(left), 0.0) + slack
    ratio = np.divide(room, np.abs(along), out=np.full_like(room, np.inf), where=along != 0.0)
    return _multiplied(network, min(float(ratio.min()), _best_factor(problem, network, output)))


def _best_factor(problem: Problem, network: Network, output: Array) -> float:
    size = _inner(problem.weights, output, output)
    gain = _inner(problem.weights, problem.y - problem.offset, output)
    gain -= problem.alpha * network.path_norm
    return gain / size if gain > 0.0 and size > 0.0 else 0.0


def measure(y: Array, weights: Array, before: Array, after: Array, penalty: float) -> Energy:
    """Return where the squared error before a grade went.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_outputs)
        Coded targets.
    weights : ndarray of shape (n_samples,)
        Weights of the rows, summing to 1.
    before, after : ndarray of shape (n_samples, n_outputs)
        Output of the chain before and after the grade.
    penalty : float
        alpha times the sum of norms of its neurons.
    """
    error, rest, size = (_inner(weights, a, a) for a in (y - before, y - after, after - before))
    return Energy(error, rest, size, 2.0 * penalty, error - rest - size - 2.0 * penalty)


def _inner(weights: Array, a: Array, b: Array) -> float:
    return float(weights @ np.sum(a * b, axis=1))


def _refitted(problem: Problem, network: Network) -> Network:
    """Return the network with sizes of neurons, and unpenalised coefficients, of least objective.

    Two Newton steps towards A^T W (e - A x) = alpha s, with x the factors of sizes and the coefficients,
    A the outputs that belong to them and s the sizes of neurons. Directions in which the outputs
    hardly change are left alone. The same network where a size would change sign, or where neurons are
    too many.
    """
    p, m, k = problem, network.n_neurons, problem.n_outputs
    n_columns = m + p.free.size * k
    if m == 0 or len(p.X) * k * n_columns**2 > _AFFORDABLE:
        return network
    root = np.sqrt(p.weights)[:, None]
    neurons = (root * network.hidden(p.X[:, :-1]))[:, None, :] * network.output_coef.T
    free = np.einsum("nq,kl->nkql", root * p.Z, np.eye(k)).reshape(len(p.X), k, -1)
    A = np.concatenate([neurons, free], axis=2).reshape(-1, n_columns)
    sizes = np.zeros(n_columns)
    sizes[:m] = network.lengths * network.output_sizes
    coefficients = np.vstack([network.linear_coef, network.intercept])
    x = np.concatenate([np.ones(m), coefficients[p.free].ravel()])
    target = (root * (p.y - p.offset)).ravel()
    gram = A.T @ A
    for _ in range(2):
        x = x + least_squares(gram, A.T @ (target - A @ x) - p.alpha * sizes)
    if x[:m].min() <= 0.0:
        return network
    coefficients = coefficients.copy()
    coefficients[p.free] = x[m:].reshape(-1, k)
    resized = network.resized(x[:m])
    refit = replace(resized, linear_coef=coefficients[:-1], intercept=coefficients[-1])
    least = objective(p, network) * (1.0 + _ROUNDING)
    return refit if objective(p, refit) <= least else network


def _multiplied(network: Network, t: float) -> Network:
    """Return t times a network."""
    return replace(
        network.resized(np.full(network.n_neurons, t)),
        linear_coef=t * network.linear_coef,
        intercept=t * network.intercept,
    )
