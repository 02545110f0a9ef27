"""Which chain? The test error after each grade for alternatives to what a chain does by default.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.chains results.jsonl [--split 0] [--grades 4] [--jobs 2]

Each variant changes some parameters; the first is the default. Results are appended to the file as they
come, so that an interrupted run goes on where it stopped; a table for each set is printed at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from convexgrade import MultigradeClassifier, MultigradeRegressor
from tests.benchmarks.accuracy import CLASSIFICATION, REGRESSION, append, measured, results
from tests.benchmarks.datasets import load

EVERY = {"alpha_decay": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "alpha 0.01": {},
    "alpha 0.003": {"alpha": 3e-3},
    "alpha 0.001": {"alpha": 1e-3},
    "alpha 0.001 in every grade": {"alpha": 1e-3, **EVERY},
    "alpha 0.0003 in every grade": {"alpha": 3e-4, **EVERY},
    "alpha 0.0001 in every grade": {"alpha": 1e-4, **EVERY},
    "alpha 0.001 in every grade, three rounds": {"alpha": 1e-3, **EVERY, "max_iter": 3},
    "alpha 0.0003 in every grade, hands on its output": {
        "alpha": 3e-4,
        **EVERY,
        "passthrough": "output",
    },
    "alpha 0.0003 in every grade, 50 neurons at most": {
        "alpha": 3e-4,
        **EVERY,
        "max_neurons": 50,
        "n_patterns": 60,
    },
    "hands on both": {"passthrough": "both"},
    "without inputs": {"keep_inputs": False},
    "whitened": {"whiten": True},
    "linear term": {"linear_term": True},
    "alpha 0.003, tails as they are": {"alpha": 3e-3, "log_tails": False},
}


def run(variant: str, name: str, split: int, n_grades: int, path: Path) -> None:
    """Fit, measure and append the result to the file."""
    kind = MultigradeRegressor if name in REGRESSION else MultigradeClassifier
    settings = {"alpha": 1e-2, "early_stopping": False, "random_state": 0, **VARIANTS[variant]}
    estimator = kind(n_grades=n_grades, **settings)
    about = {"entrant": variant, "dataset": name, "split": split}
    append(path, {**about, **measured(estimator, load(name, split))})


def table(found: list[dict[str, Any]], name: str) -> str:
    """Return the staged test errors on a set as Markdown."""
    here = [result for result in found if result["dataset"] == name]
    depth = max((len(result["staged"]) for result in here), default=0)
    head = ("variant", "split", *(f"grade {k}" for k in range(1, depth + 1)), "neurons", "seconds")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for result in here:
        cells = [f"{score:.4g}" for score in result["staged"]]
        if "log_loss" in result:
            losses = zip(cells, result["log_loss"], strict=True)
            cells = [f"{cell}, {loss:.3f}" for cell, loss in losses]
        cells += [""] * (depth - len(cells))
        cells += [", ".join(map(str, result["neurons"])), f"{result['seconds']:.0f}"]
        lines.append(f"| {result['entrant']} | {result['split']} | {' | '.join(cells)} |")
    return f"### {name}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--grades", type=int, default=4, help="most grades of a chain")
    parser.add_argument("--sets", nargs="+", default=[*REGRESSION, *CLASSIFICATION])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")
    options = parser.parse_args()
    done = {(r["entrant"], r["dataset"], r["split"]) for r in results(options.results)}
    todo = [
        (variant, name)
        for name in options.sets
        for variant in options.variants
        if (variant, name, options.split) not in done
    ]
    Parallel(n_jobs=options.jobs, verbose=10)(
        delayed(run)(variant, name, options.split, options.grades, options.results)
        for variant, name in todo
    )
    found = results(options.results)
    print("\n".join(table(found, name) for name in options.sets))


if __name__ == "__main__":
    main()
