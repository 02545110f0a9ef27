"""All weights of a chain at once, downhill: quasi-Newton steps on the objective of a correction.

A step of one grade, the others as they are, is near to the best that can be done with it
(`correction`), and yet a slow way down where grades have to move together. Here all weights move along
one direction, that of limited-memory BFGS with the derivatives of `backpropagation`. Its line search
needs no smoothness, as the objective is not smooth where rows cross hyperplanes (Lewis & Overton 2013).

The weights that move are those that a correction may change: neurons, readouts, intercepts, and the
linear term of the first grade. Those of later grades bear no penalty (`readouts` says why they stay).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from convexgrade.backpropagation import frozen_grades, pulled_back
from convexgrade.chain import Chain, Data
from convexgrade.losses import Loss
from convexgrade.network import Network
from convexgrade.quasi_newton import Iterate, Pairs, step

Array = NDArray[np.float64]

_MEMORY = 20  # steps that the method remembers
_BESIDE = 1e-8  # relative displacement of the weights at the start
_STALLED = 1e-12  # gain of a step, relative to the objective, at which the descent ends


def objective(chain: Chain, data: Data, loss: Loss) -> float:
    """Return the mean loss of the chain's output plus the penalties of all its grades."""
    return data.under(loss)(chain.output(data.X)) + chain.penalty


@np.errstate(over="ignore", invalid="ignore")  # of trial steps: what is no number is not taken
def descended(
    chain: Chain, data: Data, loss: Loss, n_steps: int, goes_on: Callable[[], bool]
) -> Chain:
    """Return the chain after quasi-Newton steps of all its weights, none of which raises the objective.

    They begin beside the chain, by about 1e-8 of each weight. Rows of a solved program lie exactly on
    its neurons' hyperplanes, where the objective has no derivative, and what stands for it need not
    point downhill on either side. Without a step, or where they lead no lower than the chain, it is
    returned as it is.

    Parameters
    ----------
    chain : Chain
        With at least one grade.
    data : Data
        Rows, targets, weights.
    loss : Loss
        Loss.
    n_steps : int
        Most steps. Fewer are taken where none leads down any more, or one gains next to nothing.
    goes_on : callable
        Asked before each step whether to take it.
    """
    fields = [_moving(chain, index) for index in range(len(chain))]

    def evaluate(x: Array) -> tuple[float, Array]:
        return _value_and_gradient(_unpacked(x, chain, fields), fields, data, loss)

    x = _packed([grade.network for grade in chain.grades], fields)
    beside = 1.0 + _BESIDE * np.random.default_rng(0).standard_normal(x.size)
    start = point = Iterate.of(evaluate, x * beside)
    pairs = Pairs(x.size, _MEMORY)
    for _ in range(n_steps):
        found = step(evaluate, point, pairs) if goes_on() else None
        if found is None:
            break
        gain, point = point.value - found.value, found
        if gain <= _STALLED * point.value:
            break
    is_lower = point is not start and point.value < evaluate(x)[0]
    return _unpacked(point.x, chain, fields) if is_lower else chain


def _moving(chain: Chain, index: int) -> list[str]:
    """Return which weights of a grade move."""
    settings = chain.grades[index].settings
    moves = {
        "hidden_coef": True,
        "hidden_intercept": settings.hidden_bias,
        "output_coef": True,
        "linear_coef": settings.linear_term and index == 0,
        "intercept": settings.fit_intercept,
    }
    return [field for field, is_free in moves.items() if is_free]


def _packed(networks: list[Network], fields: list[list[str]]) -> Array:
    """Return the weights that move, or their derivatives, as one vector."""
    pairs = zip(networks, fields, strict=True)
    return np.concatenate([getattr(net, name).ravel() for net, names in pairs for name in names])


def _unpacked(x: Array, chain: Chain, fields: list[list[str]]) -> Chain:
    at = 0
    for index, names in enumerate(fields):
        network, moved = chain.grades[index].network, {}
        for name in names:
            like = getattr(network, name)
            moved[name], at = x[at : at + like.size].reshape(like.shape), at + like.size
        chain = chain.with_network(index, replace(network, **moved))
    return chain


def _value_and_gradient(
    chain: Chain, fields: list[list[str]], data: Data, loss: Loss
) -> tuple[float, Array]:
    frozen, output = frozen_grades(chain, data.X)
    by_output = data.under(loss).gradient(output)[:, None, :]
    slopes: list[Network] = []
    for index, by_response, by_this in pulled_back(chain, frozen, by_output):
        grade, here = chain.grades[index], frozen[index]
        vectors = here.H.T @ by_response[:, 0]
        of_loss = Network(
            hidden_coef=vectors[:-1],
            hidden_intercept=vectors[-1],
            output_coef=here.hidden.T @ by_this[:, 0],
            linear_coef=here.H[:, :-1].T @ by_this[:, 0],
            intercept=by_this[:, 0].sum(axis=0),
        )
        slopes.insert(0, _penalised(grade.network, grade.alpha, of_loss))
    return data.under(loss)(output) + chain.penalty, _packed(slopes, fields)


def _penalised(network: Network, alpha: float, slopes: Network) -> Network:
    """Add to the derivatives of the loss those of ``alpha sum_j ||u_j|| ||a_j||_1``.

    Where an output weight is 0, the derivatives of the objective by it are an interval. Taken is the one
    nearest to 0, which is 0 where neither sign lowers the objective. With another, weights that should
    be 0, as most are where there are many outputs, would leave it at every step only to come back.
    """
    pull, bound = alpha * network.pulls, alpha * network.lengths[:, None]
    weights, of_loss = network.output_coef, slopes.output_coef
    least = of_loss - np.clip(of_loss, -bound, bound)
    return replace(
        slopes,
        hidden_coef=slopes.hidden_coef + pull * network.hidden_coef,
        hidden_intercept=slopes.hidden_intercept + pull * network.hidden_intercept,
        output_coef=np.where(weights == 0.0, least, of_loss + bound * np.sign(weights)),
    )
