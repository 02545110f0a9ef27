"""What do distances from the means of columns bring? Chains without them, with them, and as rows say.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.distances results.jsonl [--splits 1] [--sets ionosphere]

Chains as users get them but for ``distances``. Results are appended to the file as they come, one line
a fit, so that an interrupted run goes on where it stopped; the table is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import log_loss, root_mean_squared_error

from convexgrade import MultigradeClassifier, MultigradeRegressor
from tests.benchmarks.accuracy import REGRESSION
from tests.benchmarks.datasets import load

SETS = ("ionosphere", "statlog-vehicle", "statlog-image", "spambase", "magic", *REGRESSION[:4])
CHOICES = (False, True, "auto")


def fitted(name: str, split: int, distances: bool | str) -> dict[str, Any]:
    """Fit a chain; return what it reaches on the test rows."""
    X, y, X_test, y_test = load(name, split=split)
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gaps above the tolerance are not the question here
        if name in REGRESSION:
            model: Any = MultigradeRegressor(distances=distances, random_state=0).fit(X, y)
            scores = [root_mean_squared_error(y_test, model.predict(X_test))]
        else:
            model = MultigradeClassifier(distances=distances, random_state=0).fit(X, y)
            loss = log_loss(y_test, model.predict_proba(X_test), labels=model.classes_)
            scores = [model.score(X_test, y_test), loss]
    return {
        "set": name,
        "split": split,
        "distances": distances,
        "scores": scores,
        "reads": bool(model.network_.reading.distances.column.size),
        "seconds": time.process_time() - begun,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Return means over splits, a line for each set: RMSE, or accuracy and log loss; and seconds."""
    lines = ["| set | splits | without | with | auto | chosen | seconds |", "|---" * 7 + "|"]
    for name in SETS:
        of_set = [r for r in records if r["set"] == name]
        by_choice = [[r for r in of_set if r["distances"] == choice] for choice in CHOICES]
        if not all(by_choice):
            continue
        cells = [
            ", ".join(f"{score:.4g}" for score in np.mean([r["scores"] for r in some], axis=0))
            for some in by_choice
        ]
        chosen = sum(r["reads"] for r in by_choice[2])
        seconds = ", ".join(f"{np.mean([r['seconds'] for r in some]):.0f}" for some in by_choice)
        row = [name, str(len(by_choice[2])), *cells, f"{chosen} of {len(by_choice[2])}", seconds]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    arguments = parser.parse_args()
    done = []
    if arguments.results.exists():
        done = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    known = {(r["set"], r["split"], r["distances"]) for r in done}
    for name in arguments.sets:
        for split in range(arguments.splits):
            for choice in CHOICES:
                if (name, split, choice) not in known:
                    done.append(fitted(name, split, choice))
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(done[-1]) + "\n")
    print(table(done))


if __name__ == "__main__":
    main()
