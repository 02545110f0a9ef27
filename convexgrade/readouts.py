"""All readouts of a chain at once: what its grades make of their features is a convex program.

With the hidden features of every grade kept as they are, the output of a chain is linear in the output
weights a_lj of all its neurons, the linear term of its first grade and its intercept, and the objective

    F(baseline + sum_l hidden_l a_l + sum_l H_l c_l + b)  +  sum_l alpha_l sum_j ||u_lj|| ||a_lj||_1

is a weighted lasso. Linear terms c_l of later grades stay as they were fitted. They read the inputs once
more, which the first one does, and the features of earlier grades, for which they pay nothing: they
would take over from readouts that bear a penalty, and a correction would shrink features for ever, and
let their coefficients grow.

It is solved by Newton steps whose quadratic models `lasso` solves to the end. Where the loss does not
couple outputs, or they are too many to be solved at once, each output in turn until a round over them
gains nothing: the non-smooth part is separable, so that is the optimum.

Where grades read the output of the chain so far, only the last readout is free of consequences for
later features; then it is refitted alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.chain import Chain, Data
from convexgrade.lasso import minimise_l1
from convexgrade.losses import Loss, MeanLoss
from convexgrade.unpenalised import independent_columns, weighted_gram

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
        The same features; output weights, the linear term of the chain's first grade, if its readout
        may change, and the intercept of the last grade that has one are the minimisers of mean loss
        plus penalties, to 1e-10 of the objective a round.
    """
    first = len(chain) - 1 if chain.handover.hands_output else 0
    features = _features(chain, data, first)
    offset = chain.output(data.X) - features.columns @ features.coef
    F = data.under(loss)
    coef = _minimise(features.columns, features.penalty, features.coef, offset, F)
    return _with_readouts(chain, coef, first, features.linear)


class _Features(NamedTuple):
    """What readouts weigh, grade by grade."""

    columns: Array  # (n, q)
    penalty: Array  # (q,)
    coef: Array  # (q, k)
    linear: Index  # columns of the first linear term, of those that depend on no others


def _features(chain: Chain, data: Data, first: int) -> _Features:
    columns, penalty, coef = [], [], []
    linear = np.arange(0)
    for index, (step, grade) in enumerate(zip(chain.walk(data.X), chain.grades, strict=False)):
        if index < first:
            continue
        network = grade.network
        columns.append(network.hidden(step.H))
        penalty.append(grade.alpha * network.lengths)
        coef.append(network.output_coef)
        if index == 0 and grade.settings.linear_term:
            centred = grade.settings.fit_intercept
            linear = independent_columns(step.H, data.weights, centred=centred)
            columns.append(step.H[:, linear])
            penalty.append(np.zeros(linear.size))
            coef.append(network.linear_coef[linear])
    last = _last_intercept(chain, first)
    if last is not None:
        columns.append(np.ones((len(data.X), 1)))
        penalty.append(np.zeros(1))
        coef.append(chain.grades[last].network.intercept[None, :])
    return _Features(np.hstack(columns), np.concatenate(penalty), np.vstack(coef), linear)


def _last_intercept(chain: Chain, first: int) -> int | None:
    """Return the last grade with an intercept, which serves for all of them; None if none has one."""
    some = [i for i in range(first, len(chain)) if chain.grades[i].settings.fit_intercept]
    return some[-1] if some else None


def _with_readouts(chain: Chain, coef: Array, first: int, linear: Index) -> Chain:
    row, last = 0, _last_intercept(chain, first)
    for index in range(first, len(chain)):
        network, some = chain.grades[index].network, linear if index == first else linear[:0]
        output_coef, row = coef[row : row + network.n_neurons], row + network.n_neurons
        linear_coef = network.linear_coef.copy()
        linear_coef[some], row = coef[row : row + some.size], row + some.size
        refitted = replace(
            network,
            output_coef=output_coef,
            linear_coef=linear_coef,
            intercept=coef[-1] if index == last else network.intercept,
        )
        chain = chain.with_network(index, refitted)
    return chain


def _minimise(columns: Array, penalty: Array, coef: Array, offset: Array, F: MeanLoss) -> Array:
    """Minimise ``F(offset + columns @ coef) + penalty @ |coef|`` over coef, (q, k)."""

    def objective(coef: Array) -> float:
        return F(offset + columns @ coef) + float(penalty @ np.abs(coef).sum(axis=1))

    value = objective(coef)
    blocks = _outputs_at_once(F.loss, *coef.shape)
    for _ in range(_ROUNDS):
        before = value
        for outputs in blocks:
            step = _newton_step(columns, penalty, coef, offset, F, outputs)
            tried = (coef + t * step for t in 0.5 ** np.arange(30))
            coef = next((c for c in tried if objective(c) < value), coef)
            value = objective(coef)
        if before - value <= _GAIN * abs(value):
            break
    return coef


def _outputs_at_once(loss: Loss, n_columns: int, n_outputs: int) -> list[Index]:
    """Return the sets of outputs that a Newton step takes on together."""
    every = np.arange(n_outputs)
    return [every] if loss.coupled and n_columns * n_outputs <= _AT_ONCE else list(every[:, None])


def _newton_step(
    columns: Array, penalty: Array, coef: Array, offset: Array, F: MeanLoss, outputs: Index
) -> Array:
    """Return the step of some outputs' coefficients to the minimum of the quadratic model."""
    prediction = offset + columns @ coef
    slope = columns.T @ F.gradient(prediction)[:, outputs]
    curvature = weighted_gram(columns, F.hessian(prediction), outputs)
    start = coef[:, outputs].T.ravel()
    linear = curvature @ start - slope.T.ravel()
    found = minimise_l1(curvature, linear, np.tile(penalty, outputs.size), start)
    step = np.zeros_like(coef)
    step[:, outputs] = (found - start).reshape(outputs.size, -1).T
    return step
