"""What does another reading of the columns bring? Chains without it, with it, and as rows say.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.readings distances results.jsonl [--splits 1]
    OMP_NUM_THREADS=1 python -m tests.benchmarks.readings log_tails results.jsonl

Chains as users get them but for that one parameter; where tails are the question, regressors read no
distances. Results are appended to the file as they come, one line a fit, so that an interrupted run goes
on where it stopped; the table is printed at the end. The generated sets have five log-normal columns and
a tenth of noise in 1000 training rows: a weighted sum of the columns, and a product of two.
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
from tests.benchmarks.datasets import Split, load

GENERATED = ("sum", "product")
SETS = {
    "distances": ("ionosphere", "statlog-vehicle", "statlog-image", "spambase", *REGRESSION[:4]),
    "log_tails": (
        *GENERATED,
        "concrete",
        "airfoil",
        "statlog-vehicle",
        "statlog-image",
        "spambase",
    ),
}
CHOICES = (False, True, "auto")


def generated(name: str, split: int) -> Split:
    """Draw the rows of a generated set."""
    rng = np.random.default_rng(split)
    X = np.exp(1.2 * rng.standard_normal((4000, 5)))
    y = X @ [1.0, 0.5, 0.5, 0.2, 0.0] if name == "sum" else X[:, 0] * np.sqrt(X[:, 1])
    noisy = y + 0.1 * y.std() * rng.standard_normal(len(y))
    return Split(X[:1000], noisy[:1000], X[1000:], y[1000:])


def fitted(parameter: str, choice: bool | str, name: str, split: int) -> dict[str, Any]:
    """Fit a chain; return what it reaches on the test rows."""
    regression = name in (*REGRESSION, *GENERATED)
    data = generated(name, split) if name in GENERATED else load(name, split=split)
    kind: Any = MultigradeRegressor if regression else MultigradeClassifier
    others = {"distances": False} if regression else {}
    model = kind(**{**others, parameter: choice}, random_state=0)
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gaps above the tolerance are not the question here
        model.fit(data.X_train, data.y_train)
    seconds = time.process_time() - begun
    if regression:
        scores = [root_mean_squared_error(data.y_test, model.predict(data.X_test))]
    else:
        probabilities = model.predict_proba(data.X_test)
        loss = log_loss(data.y_test, probabilities, labels=model.classes_)
        scores = [model.score(data.X_test, data.y_test), loss]
    reading = model.network_.reading
    return {
        "set": name,
        "split": split,
        "choice": choice,
        "scores": scores,
        "reads": reading.reads_distances if parameter == "distances" else reading.tails.draws_in,
        "seconds": seconds,
    }


def table(parameter: str, records: list[dict[str, Any]]) -> str:
    """Return means over splits, a line for each set: RMSE, or accuracy and log loss; and seconds."""
    lines = ["| set | splits | False | True | auto | chosen | seconds |", "|---" * 7 + "|"]
    for name in SETS[parameter]:
        of_set = [r for r in records if r["set"] == name]
        by_choice = [[r for r in of_set if r["choice"] == choice] for choice in CHOICES]
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
    parser.add_argument("parameter", choices=SETS)
    parser.add_argument("results", type=Path)
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--sets", nargs="+")
    arguments = parser.parse_args()
    done = []
    if arguments.results.exists():
        done = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    known = {(r["set"], r["split"], r["choice"]) for r in done}
    for name in arguments.sets or SETS[arguments.parameter]:
        for split in range(arguments.splits):
            for choice in CHOICES:
                if (name, split, choice) not in known:
                    done.append(fitted(arguments.parameter, choice, name, split))
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(done[-1]) + "\n")
    print(table(arguments.parameter, done))


if __name__ == "__main__":
    main()
