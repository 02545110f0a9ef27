"""Is a part of each grade better than the whole? Sketched chains whose grades are shrunk.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.shrinkage [sets]

A grade's output times a step of at most 1 lowers the training loss as well, by convexity, and leaves
more to the grades after it; gradient boosting lives by that. For the usual penalty and three tenths of
it: the mean loss on the rows held out after each grade, with whole grades, with halves, and with the
steps that make it least (in brackets; chosen on the very rows, it is a little better than it is on
others). Takes a few minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar
from threadpoolctl import threadpool_limits

from convexgrade.chain import Data
from convexgrade.multigrade import Progress, extended
from convexgrade.network import scale_output
from tests.benchmarks.held_out import SHARES, Judges, judges

SETS = ("concrete", "airfoil", "ionosphere", "statlog-vehicle", "statlog-image", "spambase")
GRADES = 4

Risk = Callable[[float], float]  # mean loss on rows held out of the last grade's step


def best_step(risk: Risk) -> float:
    """Return the step in [0, 1] of least risk, which is convex in it."""
    found = minimize_scalar(risk, bounds=(0.0, 1.0), method="bounded")
    return 1.0 if risk(1.0) <= found.fun else float(found.x)


STEPS: dict[str, Callable[[Risk], float]] = {
    "whole": lambda risk: 1.0,
    "halves": lambda risk: 0.5,
    "by rows held out": best_step,
}


def shrunk(progress: Progress, step: float) -> Progress:
    """Return a chain with its last grade's output times a step, unless it has ended."""
    if progress.verdict:
        return progress
    chain, last = progress.chain, progress.chain.grades[-1].network
    network = scale_output(last, np.full(last.intercept.size, step))
    return replace(progress, chain=chain.with_network(len(chain) - 1, network))


def staged(judge: Judges, choose: Callable[[Risk], float]) -> Iterator[tuple[float, float]]:
    """Yield the step of each grade and the mean loss on the rows held out."""
    plan = replace(judge.plan.rough(), n_grades=GRADES)
    trains = [fold.train for fold in judge.folds]
    chains = [Progress.begin(plan.loss, train, judge.handover) for train in trains]

    def loss(outputs: list[np.ndarray]) -> float:
        means = [
            _mean(plan.loss.value(plan.span.apply(f), fold.validation.y), fold.validation)
            for f, fold in zip(outputs, judge.folds, strict=True)
        ]
        return float(np.mean(means))

    for _ in range(GRADES):
        before = _outputs(chains, judge)
        chains = [
            chain if chain.verdict else extended(chain, train, plan)
            for chain, train in zip(chains, trains, strict=True)
        ]
        change = [a - b for a, b in zip(_outputs(chains, judge), before, strict=True)]

        def risk(step: float, before: list = before, change: list = change) -> float:
            return loss([b + step * g for b, g in zip(before, change, strict=True)])

        step = choose(risk)
        chains = [shrunk(chain, step) for chain in chains]
        yield step, risk(step)


def _mean(losses: np.ndarray, data: Data) -> float:
    return float(data.weights @ losses)


def _outputs(chains: list[Progress], judge: Judges) -> list[np.ndarray]:
    return [c.chain.output(f.validation.X) for c, f in zip(chains, judge.folds, strict=True)]


def main() -> None:
    """Measure and print."""
    print("| set | alpha | " + " | ".join(STEPS) + " |\n" + "|---" * (2 + len(STEPS)) + "|")
    with threadpool_limits(1):
        for name in sys.argv[1:] or SETS:
            for share in SHARES:
                judge = judges(name, share)
                cells = []
                for choose in STEPS.values():
                    steps, losses = zip(*staged(judge, choose), strict=True)
                    cell = ", ".join(f"{loss:.3g}" for loss in losses)
                    if choose is best_step:
                        cell += " (" + ", ".join(f"{step:.2g}" for step in steps) + ")"
                    cells.append(cell)
                print(
                    f"| {name} | {judge.plan.alpha:.2g} | " + " | ".join(cells) + " |", flush=True
                )


if __name__ == "__main__":
    main()
