"""The adaptive search against the truth: all patterns, where they can be listed."""

import numpy as np

from convexgrade.solution import Status
from tests.test_grade import fit

N_PROBLEMS = 40
SHORTFALLS_ALLOWED = 2  # 5 %


def random_problem(case):
    """A target with kinks, curves, products or nothing but noise; one or two features."""
    rng = np.random.default_rng([case, 40])
    d = 1 + case % 2
    n = 60 if case in (0, 1) else int(rng.integers(15, 61 if d == 1 else 26))
    H = rng.standard_normal((n, d))
    w = rng.standard_normal(d)
    targets = (
        np.abs(H[:, 0]),
        np.sin(2.0 * H @ w),
        np.maximum(H @ w, 0.0) - np.abs(H[:, -1] - 0.5),
        H.prod(axis=1),
        rng.standard_normal(n),
    )
    y = targets[case // 2 % 5] + 0.1 * rng.standard_normal(n)
    return H, ((y - y.mean()) / y.std())[:, None], (0.05, 0.01, 0.002)[case % 3]


def test_adaptive_reaches_the_global_optimum_of_small_problems():
    shortfalls = {}
    for case in range(N_PROBLEMS):
        H, y, alpha = random_problem(case)
        exhaustive = fit(H, y, alpha=alpha, patterns="exhaustive")[1].certificate
        adaptive = fit(H, y, alpha=alpha)[1].certificate
        assert exhaustive.status is Status.GLOBALLY_OPTIMAL
        assert adaptive.primal >= exhaustive.dual - 1e-9
        excess = adaptive.primal / exhaustive.primal - 1.0
        if excess > 1e-4:
            shortfalls[case] = excess
    assert len(shortfalls) <= SHORTFALLS_ALLOWED, f"excess over the optimum by case: {shortfalls}"
