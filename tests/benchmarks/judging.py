"""Do sketches judge a depth and a penalty as chains fitted closely do?

    OMP_NUM_THREADS=1 python -m tests.benchmarks.judging [sets]

For both penalties that ``alpha="auto"`` tries: the losses on the rows held out after each grade that was
kept, and the seconds of these grades, of chains that are sketched, as they are by default, and of chains
fitted as closely as those of all rows. Takes some minutes.
"""

from __future__ import annotations

import sys
from unittest import mock

from threadpoolctl import threadpool_limits

from convexgrade import MultigradeClassifier, MultigradeRegressor
from convexgrade.grade import Settings
from convexgrade.selection import usual_penalty
from tests.benchmarks.accuracy import REGRESSION
from tests.benchmarks.datasets import load

SETS = ("concrete", "airfoil", "statlog-vehicle", "statlog-image")


def trial(name: str, share: float, *, sketched: bool) -> str:
    """Return the losses of a chain that judges, and the seconds it took."""
    X, y, _, _ = load(name, split=0)
    kind = MultigradeRegressor if name in REGRESSION else MultigradeClassifier
    model = kind(share * usual_penalty(*X.shape), early_stopping=True, random_state=0)
    rough = Settings.rough if sketched else lambda settings: settings
    with mock.patch.object(Settings, "rough", rough):
        model.fit(X, y)
    assert model._trial is not None
    seconds = sum(grade.seconds for grade in model._trial.chain.grades)
    losses = ", ".join(f"{loss:.3g}" for loss in model.validation_loss_)
    return f"{losses} ({seconds:.2g} s)"


def main() -> None:
    """Measure and print."""
    print("| set | alpha | closely | sketched |\n|---|---|---|---|")
    with threadpool_limits(1):
        for name in sys.argv[1:] or SETS:
            for share in (1.0, 0.3):
                alpha = share * usual_penalty(*load(name, split=0).X_train.shape)
                cells = [trial(name, share, sketched=sketched) for sketched in (False, True)]
                print(f"| {name} | {alpha:.2g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
