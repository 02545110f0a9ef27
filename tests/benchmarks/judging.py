"""Do sketches judge a depth and a penalty as chains fitted closely do?

    OMP_NUM_THREADS=1 python -m tests.benchmarks.judging [sets]

For the usual penalty and three tenths of it: the losses on rows held out, once, after each grade that
was kept, and the seconds of these grades, of chains that are sketched, as they are by default, and
of chains fitted as closely as those of all rows. Takes some minutes.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from threadpoolctl import threadpool_limits

from convexgrade.selection import deepen
from convexgrade.settings import Settings
from tests.benchmarks.held_out import SHARES, Judges, judges

SETS = ("concrete", "airfoil", "statlog-vehicle", "statlog-image")


def trial(judge: Judges, settings: Settings) -> str:
    """Return the losses of a chain that judges, and the seconds it took."""
    plan = replace(judge.plan, settings=settings)
    *_, tried = deepen(judge.folds[:1], plan, judge.handover)
    seconds = sum(grade.seconds for grade in tried.chains[0].chain.grades)
    return ", ".join(f"{loss:.3g}" for loss in tried.losses) + f" ({seconds:.2g} s)"


def main() -> None:
    """Measure and print."""
    print("| set | alpha | closely | sketched |\n|---|---|---|---|")
    with threadpool_limits(1):
        for name in sys.argv[1:] or SETS:
            for share in SHARES:
                judge = judges(name, share)
                closely = judge.plan.settings
                cells = [trial(judge, settings) for settings in (closely, closely.rough())]
                print(
                    f"| {name} | {judge.plan.alpha:.2g} | " + " | ".join(cells) + " |", flush=True
                )


if __name__ == "__main__":
    main()
