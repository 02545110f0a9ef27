"""How well do chains predict? Default and cross-validated, beside the stored baselines, same splits.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.accuracy results.jsonl [--short] [--jobs 2]

Every entrant is fitted as a user gets it: no parameter is set but ``random_state``. Results are
appended to the file as they come, one line a fit, so that an interrupted run goes on where it stopped;
the table is printed at the end. ``--short`` takes one split of each set; otherwise the first five (four
where there are no more). Baselines (`data/baselines.csv`) are averaged over the same splits.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import is_regressor
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error

from convexgrade import (
    MultigradeClassifier,
    MultigradeClassifierCV,
    MultigradeRegressor,
    MultigradeRegressorCV,
)
from tests.benchmarks.datasets import DATA, Split, load, n_splits

REGRESSION = ("yacht", "energy", "concrete", "airfoil", "power-plant", "california")
CLASSIFICATION = ("ionosphere", "statlog-vehicle", "statlog-image", "spambase", "magic")
ENTRANTS = {
    "default": (MultigradeRegressor, MultigradeClassifier),
    "cv": (MultigradeRegressorCV, MultigradeClassifierCV),
}
BASELINES = ("linear", "mlp_default", "mlp_tuned", "svm_rbf_tuned", "histgb", "rf", "gp")
MOST_SPLITS = 5


class Fit(NamedTuple):
    """One fit to run: an entrant on a split of a set."""

    entrant: str
    dataset: str
    split: int


def fits(short: bool, entrants: list[str], only: str) -> Iterator[Fit]:
    """Yield every fit, small sets first."""
    for split in range(1 if short else MOST_SPLITS):
        for name in (*REGRESSION, *CLASSIFICATION):
            if split < n_splits(name) and only in name:
                for entrant in entrants:
                    yield Fit(entrant, name, split)


def run(fit: Fit, path: Path) -> None:
    """Fit, measure and append the result to the file."""
    estimator = ENTRANTS[fit.entrant][0 if fit.dataset in REGRESSION else 1](random_state=0)
    append(path, {**fit._asdict(), **measured(estimator, load(fit.dataset, fit.split))})


def measured(estimator: Any, data: Split) -> dict[str, Any]:
    """Fit an estimator of chains; return its test error after each grade, and what it cost."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gaps are in the results
        estimator.fit(data.X_train, data.y_train)
    result: dict[str, Any] = {
        "seconds": time.process_time() - start,
        "grades": estimator.n_grades_,
        "neurons": [grade.n_neurons for grade in estimator.grades_],
        "alpha": estimator.grades_[0].alpha,
        "gap": max(certificate.relative_gap for certificate in estimator.certificates_),
    }
    if is_regressor(estimator):
        staged = list(estimator.staged_predict(data.X_test))
        result["staged"] = [root_mean_squared_error(data.y_test, p) for p in staged]
    else:
        staged = list(estimator.staged_predict_proba(data.X_test))
        labels = estimator.classes_
        result["staged"] = [accuracy_score(data.y_test, labels[p.argmax(axis=1)]) for p in staged]
        result["log_loss"] = [log_loss(data.y_test, p, labels=labels) for p in staged]
    return result


def append(path: Path, result: dict[str, Any]) -> None:
    """Append a result to a file, as one line."""
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def results(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def baselines() -> dict[tuple[str, int], dict[str, float]]:
    """Return the stored score of every model, by set and split."""
    scores: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    with (DATA / "baselines.csv").open() as file:
        for row in csv.DictReader(file):
            if row["metric"] in ("rmse", "accuracy"):
                scores[row["dataset"], int(row["split"])][row["model"]] = float(row["value"])
    return scores


def means(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean score on every set, over the splits run, of every model that has them all."""
    stored = baselines()
    splits: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for result in found:
        name, split = result["dataset"], result["split"]
        splits[name][split] |= stored.get((name, split), {})
        splits[name][split][result["entrant"]] = result["staged"][-1]
    return {
        name: {
            model: float(np.mean([scores[model] for scores in by_split.values()]))
            for model in (*ENTRANTS, *BASELINES)
            if all(model in scores for scores in by_split.values())
        }
        for name, by_split in splits.items()
    }


def ranks(scores: Mapping[str, float], regression: bool) -> dict[str, float]:
    """Return the rank of each model, 1 the best; equal scores share the mean of their ranks."""
    sign = 1.0 if regression else -1.0
    values = np.array([sign * score for score in scores.values()])
    return {
        model: 0.5 + float((values < value).sum()) + 0.5 * float((values == value).sum())
        for model, value in zip(scores, values, strict=True)
    }


def table(found: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: scores, mean ranks, what the fits cost."""
    scores = means(found)
    models = [m for m in (*ENTRANTS, *BASELINES) if any(m in row for row in scores.values())]
    lines = ["| set | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    placed: dict[str, list[float]] = defaultdict(list)
    for name in (*REGRESSION, *CLASSIFICATION):
        if name in scores:
            cells = [f"{scores[name][m]:.4g}" if m in scores[name] else "" for m in models]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            for model, rank in ranks(scores[name], name in REGRESSION).items():
                placed[model].append(rank)
    cells = [f"{np.mean(placed[m]):.2f}" if len(placed[m]) == len(scores) else "" for m in models]
    lines += ["| mean rank | " + " | ".join(cells) + " |", ""]
    lines += [
        "| set | entrant | splits | log loss | seconds | grades | neurons | largest gap |",
        "|---" * 8 + "|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in found:
        groups[result["dataset"], result["entrant"]].append(result)
    for (name, entrant), group in groups.items():
        loss = np.mean([r["log_loss"][-1] for r in group]) if "log_loss" in group[0] else np.nan
        lines.append(
            f"| {name} | {entrant} | {len(group)} | {'' if np.isnan(loss) else f'{loss:.3f}'} "
            f"| {np.mean([r['seconds'] for r in group]):.0f} "
            f"| {np.mean([r['grades'] for r in group]):.1f} "
            f"| {np.mean([sum(r['neurons']) for r in group]):.0f} "
            f"| {max(r['gap'] for r in group):.0e} |"
        )
    return "\n".join(lines)


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Draw the test error by grade of every set: of default chains, a line for each split.

    Lines of other models are means over those of these splits whose scores are stored.
    """
    import matplotlib.pyplot as plt

    names = [n for n in (*REGRESSION, *CLASSIFICATION) if any(r["dataset"] == n for r in found)]
    rows = -(-len(names) // 4)
    size = (11, 2.4 * rows)
    figure, axes = plt.subplots(rows, 4, figsize=size, layout="constrained", squeeze=False)
    stored = baselines()
    for axis, name in zip(axes.flat, names, strict=False):
        group = [r for r in found if r["dataset"] == name and r["entrant"] == "default"]
        error = (lambda s: s) if name in REGRESSION else (lambda s: 1.0 - s)
        for result in group:
            axis.plot(
                range(1, result["grades"] + 1),
                [error(s) for s in result["staged"]],
                "o-",
                ms=3,
                color="C0",
                alpha=0.6,
            )
        for model, style in (("histgb", "--"), ("mlp_tuned", ":")):
            values = [
                stored[name, r["split"]][model] for r in group if model in stored[name, r["split"]]
            ]
            if values:
                axis.axhline(error(float(np.mean(values))), ls=style, color="0.4", label=model)
        axis.set(title=name, xlabel="grades", ylabel="RMSE" if name in REGRESSION else "error rate")
        most = max((result["grades"] for result in group), default=1)
        axis.set(xlim=(0.8, most + 0.2), xticks=range(1, most + 1))
        axis.set_ylim(0.0, 1.06 * axis.dataLim.ymax)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    axes.flat[0].legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--short", action="store_true", help="one split of each set")
    parser.add_argument("--only", default="", help="sets whose name holds this")
    parser.add_argument("--entrants", nargs="+", choices=list(ENTRANTS), default=list(ENTRANTS))
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")
    parser.add_argument("--plot", type=Path, help="draw the test error by grade to this file")
    options = parser.parse_args()
    done = {Fit(r["entrant"], r["dataset"], r["split"]) for r in results(options.results)}
    todo = [f for f in fits(options.short, options.entrants, options.only) if f not in done]
    Parallel(n_jobs=options.jobs, verbose=10)(delayed(run)(fit, options.results) for fit in todo)
    found = results(options.results)
    print(table(found))
    if options.plot is not None:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
