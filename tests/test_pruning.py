"""Pruning: the same function and no higher penalty, with at most as many neurons as the rank."""

import numpy as np
import pytest

from convexgrade.pruning import prune
from tests.bank import random_program


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_fit_is_kept_penalty_is_not_raised_and_neurons_are_independent(cones, k):
    rng = np.random.default_rng(0)
    program = random_program(0, n=9, d=3, k=k, cones=cones)
    # A neuron inside its cone: the gate of its pattern, at a random size.
    gates = program.patterns.gates[:, program.groups.pattern].T
    blocks = gates * rng.uniform(0.1, 1.0, len(gates))[:, None]
    assert program.violation(blocks) == 0.0
    c = np.zeros((program.free.size, k))

    pruned = prune(program, blocks)
    np.testing.assert_allclose(program.predict(pruned, c), program.predict(blocks, c), atol=1e-8)
    assert program.penalty(pruned) <= program.penalty(blocks) * (1.0 + 1e-10)
    assert program.violation(pruned) <= 1e-12
    size = np.linalg.norm(pruned, axis=1)
    for output in range(k):
        assert np.count_nonzero(size[program.groups.output == output]) <= len(program.X)


def test_independent_neurons_stay_as_they_are():
    program = random_program(1, n=9, d=3)
    chosen = program.over(program.patterns, program.groups.take(np.array([0, 5])))
    blocks = program.patterns.gates[:, chosen.groups.pattern].T
    np.testing.assert_allclose(prune(chosen, blocks), blocks, rtol=1e-12)
