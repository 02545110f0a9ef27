"""Backward feature correction: earlier grades learn what the later ones need of them.

A chain is greedy: each grade fits what is left over, and nobody corrects the features it hands on. Here
every grade of a finished chain is moved once a sweep, given the others, each time by a convex program:

* With all activation patterns frozen, the output is linear in the grade's weights U (d, m). Its Jacobian
  has rows H_i (x) G_i, with H what the grade reads and G what the output gains from each of its neurons,
  through its own readout and through all later grades.
* The quadratic model of the mean loss (exact for the squared error, else with the loss's Hessian: Gauss
  and Newton's), the grade's penalty c_j ||u_j|| with c_j = alpha ||a_j||_1, and a trust region as a
  ridge:

      <g, J V> + |J V|^2_W / 2 + sum_j c_j ||u_j + v_j|| + mu/2 sum_j s_j ||v_j||^2,

  where ||u + v|| <= ||u + v||^2 / (2 ||u||) + ||u|| / 2 makes it least squares. With s_j, the curvature
  of the model in neuron j's response, mu is a pure number, since what grades read is scaled.
* The step counts only if the true objective, mean loss plus the penalties of all grades, falls: then
  mu/3 from there on, else 4 mu and again.

After every sweep all readouts are fitted jointly (`readouts`), and after the first one all weights of
the chain go downhill together for some steps (`descent`): sweeps are slow where grades have to move
together, and find no way down where rows lie on hyperplanes. So the objective never rises. Scalings
between grades stay as they were fitted: penalties of later grades are measured in those units. What
later grades add is not limited meanwhile, as it will be at the end to what they then add to the rows.

That networks are learned by correcting lower features through higher ones is Allen-Zhu & Li 2020
(arXiv 2001.04413); the algorithm, a sequence of convex programs, is this library's own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from convexgrade.backpropagation import FrozenGrade, each_output, frozen_grades, pulled_back
from convexgrade.chain import Chain, Data, certify_chain, measure_energy, staged_loss
from convexgrade.descent import descended, objective
from convexgrade.grade import Grade
from convexgrade.kronecker import KroneckerSystem
from convexgrade.losses import Loss
from convexgrade.multigrade import Progress
from convexgrade.network import Network
from convexgrade.patterns import TooManyPatterns
from convexgrade.readouts import refit_readouts
from convexgrade.settings import Report, silent
from convexgrade.solution import Status

Array = NDArray[np.float64]

_TRIES = 10  # trust regions that are tried for one step
_FIRST_MU, _LEAST_MU = 1e-2, 1e-8
_NARROWER, _WIDER = 4.0, 1.0 / 3.0  # factors of mu
_TOGETHER = 300  # quasi-Newton steps of all weights
_FLOOR = 1e-8  # least curvature of a neuron, relative to the largest, in the trust region


METHODS = ("readouts", "backward")


@dataclass(frozen=True)
class Limits:
    """When correction ends.

    Attributes
    ----------
    max_sweeps : int
        Most sweeps over the grades.
    max_seconds : float
        Time after which no further step begins; inf for none.
    tol : float
        Relative fall of the objective over a sweep below which it counts as converged.
    """

    max_sweeps: int = 25
    max_seconds: float = float("inf")
    tol: float = 1e-5


@dataclass(frozen=True)
class Correction:
    """A chain under correction.

    Attributes
    ----------
    chain : Chain
        The chain so far.
    objective_path : tuple of float
        Mean loss plus penalties of all grades: at first, with readouts refitted, and after every
        sweep. Never rises.
    """

    chain: Chain
    objective_path: tuple[float, ...]


def check_curved(loss: Loss, asked: str = "a correction") -> None:
    """Raise an error if corrections cannot lower a loss, naming what ``asked`` for one."""
    if loss.kinked:
        raise ValueError(
            f"{asked} moves grades by models of the loss's curvature, which loss={loss.name!r} has "
            f"not everywhere; correct chains of 'squared_error', 'poisson' or 'log_loss'."
        )


def check_correctable(chain: Chain, loss: Loss, asked: str = "a correction") -> None:
    """Raise an error if a correction would break what grades promise, or cannot lower the loss."""
    check_curved(loss, asked)
    for index, grade in enumerate(chain.grades, start=1):
        if grade.settings.refinement == "pointwise":
            raise ValueError(
                f"grade {index} was fitted with refinement='pointwise', so as to raise no training "
                f"residual; {asked} moves grades and refits their readouts, which may raise some."
            )


def with_alpha(chain: Chain, alpha: float) -> Chain:
    """Return the chain with one penalty for all its grades."""
    return chain.with_grades(replace(grade, alpha=alpha) for grade in chain.grades)


class Model(NamedTuple):
    """The convex model of one grade's step: least squares in V, and the ridge it asks for.

    ``minimise |J V|^2 / 2 + <slope, V> + sum_j (pull_j + mu size_j) ||v_j||^2 / 2``.
    """

    system: KroneckerSystem
    slope: Array
    pull: Array
    size: Array

    def step(self, mu: float) -> Array | None:
        """Return the minimiser; None where rounding leaves the system without one."""
        try:
            return self.system.solve(-self.slope, self.pull + mu * self.size)
        except np.linalg.LinAlgError:
            return None


def model_of(
    grade: Grade, frozen: FrozenGrade, by_response: Array, output: Array, data: Data, loss: Loss
) -> Model:
    """Return the model of a grade, given how the chain's ``output`` answers to its neurons."""
    gradient = data.under(loss).gradient(output)
    pull = grade.alpha * grade.network.pulls
    along = KroneckerSystem(frozen.H, by_response).adjoint(gradient)
    slope = along + pull * grade.network.vectors
    system = KroneckerSystem(frozen.H, data.under(loss).hessian(output).rooted(by_response))
    size = np.einsum("ikj,ikj->j", system.G, system.G)
    return Model(system, slope, pull, np.maximum(size, _FLOOR * size.max(initial=1e-100)))


@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def correct_chain(
    chain: Chain,
    data: Data,
    loss: Loss,
    method: str,
    limits: Limits,
    report: Report = silent,
) -> Correction:
    """Correct a finished chain.

    Parameters
    ----------
    chain : Chain
        With at least one grade.
    data : Data
        The rows it was fitted on.
    loss : Loss
        Loss it was fitted with.
    method : {"readouts", "backward"}
        Refit all readouts jointly, or also move the grades.
    limits : Limits
        When to end.
    report : callable
        Takes a line a sweep.

    Returns
    -------
    Correction
        The corrected chain with its objective after each sweep.
    """
    end = time.perf_counter() + limits.max_seconds
    chain = chain.unlimited()
    path = [objective(chain, data, loss)]
    chain, value = _if_no_higher(refit_readouts(chain, data, loss), chain, path[0], data, loss)
    path.append(value)
    mu = [_FIRST_MU] * len(chain)

    def goes_on() -> bool:
        return time.perf_counter() < end

    n_sweeps = limits.max_sweeps if method == "backward" else 0
    for sweep in range(1, n_sweeps + 1):
        for index in reversed(range(len(chain))):
            if not goes_on():
                break
            chain, value, mu[index] = _moved(chain, index, value, mu[index], data, loss)
        if goes_on():
            trial = refit_readouts(chain, data, loss)
            chain, value = _if_no_higher(trial, chain, value, data, loss)
        if sweep == 1:
            trial = descended(chain, data, loss, _TOGETHER, goes_on)
            chain, value = _if_no_higher(trial, chain, value, data, loss)
        path.append(value)
        report(f"sweep {sweep}: objective {value:.6g}")
        if path[-2] - value <= limits.tol * value or not goes_on():
            break
    return Correction(_without_faded(chain).limited(data.X), tuple(path))


def _without_faded(chain: Chain) -> Chain:
    """Return the chain without neurons that its output does not depend on any more.

    The penalty lets some fade away where a correction finds better use for the others. Those that hand
    their features on stay: later grades may read them.
    """
    hand_on = len(chain) - 1 if chain.handover.hands_hidden else 0
    for index in range(hand_on, len(chain)):
        network = chain.grades[index].network.without_faded()
        chain = chain.with_network(index, network)
    return chain


def _if_no_higher(
    trial: Chain, chain: Chain, value: float, data: Data, loss: Loss
) -> tuple[Chain, float]:
    """Return the trial if its objective is at most ``value``, the chain's, and else the chain.

    With the objective of the one that is returned.
    """
    after = objective(trial, data, loss)
    return (trial, after) if after <= value else (chain, value)


def _moved(
    chain: Chain, index: int, value: float, mu: float, data: Data, loss: Loss
) -> tuple[Chain, float, float]:
    """Return the chain with one grade moved, its objective, and the grade's mu for the next time."""
    grade = chain.grades[index]
    if grade.n_neurons == 0:
        return chain, value, mu
    frozen, output = frozen_grades(chain, data.X)
    back = pulled_back(chain, frozen, each_output(chain, len(data.X)))
    by_response = next(each.by_response for each in back if each.at == index)
    model = model_of(grade, frozen[index], by_response, output, data, loss)
    for tried in mu * _NARROWER ** np.arange(_TRIES):
        step = model.step(tried)
        if step is not None:
            trial = chain.with_network(index, _stepped(grade.network, step))
            after = objective(trial, data, loss)
            if after < value:
                return trial, after, max(tried * _WIDER, _LEAST_MU)
    return chain, value, mu  # when the others have moved, a step of this size may be one again


def _stepped(network: Network, V: Array) -> Network:
    return replace(
        network,
        hidden_coef=network.hidden_coef + V[:-1],
        hidden_intercept=network.hidden_intercept + V[-1],
    )


def correct_progress(
    progress: Progress,
    data: Data,
    loss: Loss,
    seed: int,
    method: str,
    limits: Limits,
    report: Report = silent,
) -> Progress:
    """Correct a chain, measure it again and certify what its grades still are."""
    correction = correct_chain(progress.chain, data, loss, method, limits, report)
    chain = _certified(correction.chain, data, loss, seed)
    return Progress(
        chain=chain,
        train_loss=staged_loss(chain, data, loss),
        verdict=progress.verdict,
        objective_path=correction.objective_path,
        energy=measure_energy(chain, data, loss),
    )


def _certified(chain: Chain, data: Data, loss: Loss, seed: int) -> Chain:
    """Certify each grade against its own program, given those before it, whatever serves later ones.

    Where what grades read has more patterns than before, too many to list, those of the fit count: on
    the corrected rows, the gates of all are some among others.
    """
    chain = replace(chain.with_status(Status.CORRECTED), corrected=True)
    try:
        certificates = certify_chain(chain, data, loss, seed)
    except TooManyPatterns:
        chain = chain.with_grades(replace(grade, exhaustive=False) for grade in chain.grades)
        certificates = certify_chain(chain, data, loss, seed)
    return chain.with_certificates(certificates)
