"""All readouts of a chain at once: what its grades make of their features is a convex program.

With the hidden features of every grade kept as they are, the output of a chain is linear in the output
weights a_lj of all its neurons, its linear terms and its intercept, and the objective

    F(baseline + sum_l hidden_l a_l + H_l c_l + b)  +  sum_l alpha_l sum_j ||u_lj|| ||a_lj||_1

is a weighted lasso. It is solved by Newton steps whose quadratic models `_lasso` solves to the end.
Where the loss does not couple outputs, or they are too many to be solved at once, each output in turn
until a round over them gains nothing: the non-smooth part is separable, so that is the optimum.

Where grades read the output of the chain so far, only the last readout is free of consequences for
later features; then it is refitted alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.losses import Loss
from convexgrade.multigrade import Chain, Data
from convexgrade.network import Network
from convexgrade.solvers._lasso import minimise_l1

Array = NDArray[np.float64]

Index = NDArray[np.intp]

_ROUNDS = 100
_GAIN = 1e-10  # relative fall of the objective that counts as none
_AT_ONCE = 1200  # unknowns that a Newton step takes on at most where outputs are coupled


def refit_readouts(chain: Chain, data: Data, loss: Loss) -> Chain:
    """Return the chain with the best readouts for its features.

    Parameters
    ----------
    chain : Chain
        A chain with at least one grade.
    data : Data
        Rows, targets, weights.
    loss : Loss
        Loss.

    Returns
    -------
    Chain
        The same features; output weights, linear terms and the intercept of the last grade that has
        one are the minimisers of mean loss plus penalties, to 1e-10 of the objective a round.
    """
    first = len(chain) - 1 if chain.handover.hands_output else 0
    columns, penalty, coef = _columns(chain, data.X, first)
    offset = chain.output(data.X) - columns @ coef
    coef = _minimise(columns, penalty, coef, offset, data, loss)
    return _with_readouts(chain, coef, first)


def _columns(chain: Chain, X: Array, first: int) -> tuple[Array, Array, Array]:
    """Return features (n, q), their penalties (q,) and their coefficients (q, k), grade by grade."""
    features, penalty, coef = [], [], []
    for index, (step, (_, grade)) in enumerate(zip(chain.walk(X), chain.links, strict=False)):
        if index < first:
            continue
        network = grade.network
        features.append(network.hidden(step.H))
        penalty.append(grade.alpha * np.linalg.norm(network.vectors, axis=0))
        coef.append(network.output_coef)
        if grade.settings.linear_term:
            features.append(step.H)
            penalty.append(np.zeros(step.H.shape[1]))
            coef.append(network.linear_coef)
    for index in _last_intercept(chain, first):
        features.append(np.ones((len(X), 1)))
        penalty.append(np.zeros(1))
        coef.append(chain.grades[index].network.intercept[None, :])
    return np.hstack(features), np.concatenate(penalty), np.vstack(coef)


def _last_intercept(chain: Chain, first: int) -> list[int]:
    """Return the last grade with an intercept, which serves for all of them; none if none has one."""
    return [i for i in range(first, len(chain)) if chain.grades[i].settings.fit_intercept][-1:]


def _with_readouts(chain: Chain, coef: Array, first: int) -> Chain:
    links, row = list(chain.links), 0
    for index in range(first, len(links)):
        grade = links[index].grade
        network = grade.network
        output_coef, row = coef[row : row + network.n_neurons], row + network.n_neurons
        linear_coef = network.linear_coef
        if grade.settings.linear_term:
            linear_coef, row = coef[row : row + len(linear_coef)], row + len(linear_coef)
        last = index in _last_intercept(chain, first)
        refitted = replace(
            network,
            output_coef=output_coef,
            linear_coef=linear_coef,
            intercept=coef[-1] if last else network.intercept,
        )
        links[index] = with_network(chain, index, refitted).links[index]
    return replace(chain, links=tuple(links))


def with_network(chain: Chain, index: int, network: Network) -> Chain:
    """Return the chain with another network in the grade at ``index``."""
    link = chain.links[index]
    changed = link._replace(grade=replace(link.grade, network=network))
    return replace(chain, links=(*chain.links[:index], changed, *chain.links[index + 1 :]))


def _minimise(
    columns: Array, penalty: Array, coef: Array, offset: Array, data: Data, loss: Loss
) -> Array:
    """Minimise ``weights @ loss(offset + columns @ coef) + penalty @ |coef|`` over coef, (q, k)."""

    def objective(coef: Array) -> float:
        value = data.weights @ loss.value(offset + columns @ coef, data.y)
        return float(value + penalty @ np.abs(coef).sum(axis=1))

    value = objective(coef)
    blocks = _blocks_of_outputs(loss.hessian(offset + columns @ coef, data.y), len(coef))
    for _ in range(_ROUNDS):
        before = value
        for outputs in blocks:
            step = _newton_step(columns, penalty, coef, offset, data, loss, outputs)
            tried = (coef + t * step for t in 0.5 ** np.arange(30))
            coef = next((c for c in tried if objective(c) < value), coef)
            value = objective(coef)
        if before - value <= _GAIN * abs(value):
            break
    return coef


def _blocks_of_outputs(hessian: Array, n_columns: int) -> list[Index]:
    k = hessian.shape[1]
    coupled = bool(np.any(hessian * (1.0 - np.eye(k))))
    if coupled and n_columns * k <= _AT_ONCE:
        return [np.arange(k)]
    return [np.array([output]) for output in range(k)]


def _newton_step(
    columns: Array,
    penalty: Array,
    coef: Array,
    offset: Array,
    data: Data,
    loss: Loss,
    outputs: Index,
) -> Array:
    """Return the step of some outputs' coefficients to the minimum of the quadratic model."""
    prediction = offset + columns @ coef
    slope = columns.T @ (data.weights[:, None] * loss.gradient(prediction, data.y)[:, outputs])
    hessian = data.weights[:, None, None] * loss.hessian(prediction, data.y)
    curvature = np.block(
        [[(columns.T * hessian[:, a, b]) @ columns for b in outputs] for a in outputs]
    )
    start = coef[:, outputs].T.ravel()
    linear = curvature @ start - slope.T.ravel()
    found = minimise_l1(curvature, linear, np.tile(penalty, outputs.size), start)
    step = np.zeros_like(coef)
    step[:, outputs] = (found - start).reshape(outputs.size, -1).T
    return step
