"""The published experiments of multigrade learning, rerun: their figures beside ours.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.multigrade [setting1] [setting2] [sines] [equal]
        [rising] [--random-states 0 1 2 3] [--no-whiten]

Settings 1 and 2 (Zhang, Shen & Xu 2026, arXiv 2601.16884): sums of 3 and 5 sines without noise, 1024
rows, four grades of 32 ReLU neurons; half the mean squared error. They are fitted at that width and
depth, and once more by one grade without a width limit, whose floor is the linear spline on the rows.
``sines``, ``equal``, ``rising`` (Fang & Xu 2024, section 3.1): twenty sines of falling, equal and rising
size, 6000 rows; relative squared error. Published for the first, setting 2.

Fits of four grades start from random patterns: ``--random-states`` repeats them, and adds the median and
the range of the last grades.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade import MultigradeRegressor
from tests.benchmarks.datasets import load

Array = NDArray[np.float64]
Error = Callable[[Array, Array], float]

# Small alpha, since there is no noise; a first search as wide as the limit; loose rounds of solves.
SAME_SIZE: dict[str, Any] = {
    "alpha": 1e-5,
    "alpha_decay": 1.0,
    "n_grades": 4,
    "max_neurons": 32,
    "n_patterns": 32,
    "max_iter": 1,
    "tol": 1e-2,
    "whiten": True,
    "early_stopping": False,
    "random_state": 0,
}
NO_LIMIT: dict[str, Any] = {"alpha": 1e-10, "n_grades": 1, "patterns": "exhaustive"}


class Sines(NamedTuple):
    """A sum of sines, amplitude sin(2 pi frequency x + phase)."""

    frequencies: Array
    phases: Array
    amplitudes: Array

    def __call__(self, x: Array) -> Array:
        return sum(
            a * np.sin(2.0 * np.pi * k * x + p)
            for a, k, p in zip(self.amplitudes, self.frequencies, self.phases, strict=True)
        )


class Published(NamedTuple):
    """What the papers report; None where they do not."""

    train_by_grade: tuple[float, ...] | None
    test: float | None
    seconds: float | None
    end_to_end: str


class Experiment(NamedTuple):
    """Function, rows, error measure and published figures."""

    title: str
    f: Sines
    x_train: Array
    x_test: Array
    error: Error
    published: Published
    plans: dict[str, dict[str, Any]]


def half_mean_squared(prediction: Array, y: Array) -> float:
    """Return the loss of settings 1 and 2."""
    return float(0.5 * np.mean((prediction - y) ** 2))


def relative_squared(prediction: Array, y: Array) -> float:
    """Return the measure of ``sines``."""
    return float(np.sum((prediction - y) ** 2) / np.sum(y**2))


def setting(title: str, f: Sines, published: Published) -> Experiment:
    """Return one of the settings on 1024 rows."""
    plans = {"4 grades of at most 32": SAME_SIZE, "one grade, any width": NO_LIMIT}
    rows, new = np.linspace(0.0, 1.0, 1024), np.linspace(0.0, 1.0, 10_000)
    return Experiment(title, f, rows, new, half_mean_squared, published, plans)


def twenty_sines(title: str, amplitudes: Array, published: Published) -> Experiment:
    """Return an experiment on spectral bias."""
    phases = np.random.RandomState(0).uniform(0.0, 2.0 * np.pi, 40)[:20]
    f = Sines(np.arange(10.0, 201.0, 10.0), phases, amplitudes)
    x_train, x_test = np.arange(0.0, 1.0, 1.0 / 6000.0), np.random.RandomState(1).rand(2000)
    plans = {"one grade, any width": NO_LIMIT}
    return Experiment(title, f, x_train, x_test, relative_squared, published, plans)


def falling_sines() -> Experiment:
    """Return the published one, its rows drawn again and compared with the stored ones."""
    published = Published(None, 6.5e-6, 27_629.0, "validation 5.9e-3 in 32,054 s")
    title = "Twenty sines, 6000 rows (mgdl-sines)"
    experiment = twenty_sines(title, np.linspace(1.0, 0.05, 20), published)
    f, x_train, x_test = experiment.f, experiment.x_train, experiment.x_test
    stored = load("mgdl-sines")
    if not (
        np.array_equal(stored.X_train[:, 0], x_train)
        and np.array_equal(stored.X_test[:, 0], x_test)
        and np.allclose(stored.y_train, f(x_train), rtol=0.0, atol=1e-12)
        and np.allclose(stored.y_test, f(x_test), rtol=0.0, atol=1e-12)
    ):
        raise AssertionError("The stored rows of mgdl-sines are not those of its formula.")
    return experiment


def experiments() -> dict[str, Experiment]:
    """Return all of them by name."""
    one = Sines(np.array([1.0, 5.5, 10.0]), np.array([6.0652933, 1.9772031, 3.9774444]), np.ones(3))
    two = Sines(
        np.array([1.0, 8.25, 15.5, 22.75, 30.0]),
        np.array([3.6096928, 0.6263458, 2.4702985, 5.618288, 3.7483382]),
        np.ones(5),
    )
    unpublished = Published(None, None, None, "not compared")
    return {
        "setting1": setting(
            "Setting 1, 3 sines up to 10 periods",
            one,
            Published((0.4403, 0.1138, 3.18e-3, 8.39e-5), 8.38e-5, 2680.0, "not reported"),
        ),
        "setting2": setting(
            "Setting 2, 5 sines up to 30 periods",
            two,
            Published(None, None, None, "train 0.364, test 0.284"),
        ),
        "sines": falling_sines(),
        "equal": twenty_sines("Twenty sines of equal size", np.ones(20), unpublished),
        "rising": twenty_sines(
            "Twenty sines of rising size", np.linspace(0.05, 1.0, 20), unpublished
        ),
    }


def spline_floors(e: Experiment) -> str:
    """Describe what piecewise linear functions reach: through the rows, and with 128 uniform knots."""
    y, y_test = e.f(e.x_train), e.f(e.x_test)
    through = e.error(np.interp(e.x_test, e.x_train, y), y_test)
    knots = np.linspace(0.0, 1.0, 129)[:-1]

    def hats(x: Array) -> Array:
        return np.column_stack([np.ones_like(x), np.maximum(x[:, None] - knots, 0.0)])

    fitted = np.linalg.lstsq(hats(e.x_train), y, rcond=None)[0]
    uniform = e.error(hats(e.x_test) @ fitted, y_test)
    return f"linear spline through the rows {through:.2e}, 128 uniform knots {uniform:.2e}"


class Row(NamedTuple):
    """What is reported of a chain up to one of its grades."""

    train: float
    test: float
    width: int
    gap: float

    def __str__(self) -> str:
        return f"{self.train:.2e} | {self.test:.2e} | {self.width} | {self.gap:.1e}"


def run(e: Experiment, plan: dict[str, Any]) -> tuple[list[Row], float]:
    """Fit, and return a row a grade, and the seconds."""
    y, y_test = e.f(e.x_train), e.f(e.x_test)
    start = time.perf_counter()
    model = MultigradeRegressor(**plan).fit(e.x_train[:, None], y)
    seconds = time.perf_counter() - start
    train = [e.error(p, y) for p in model.staged_predict(e.x_train[:, None])]
    test = [e.error(p, y_test) for p in model.staged_predict(e.x_test[:, None])]
    width = [grade.n_neurons for grade in model.grades_]
    gap = [certificate.relative_gap for certificate in model.certificates_]
    return [Row(*row) for row in zip(train, test, width, gap, strict=True)], seconds


def print_published(p: Published) -> None:
    """Print the rows of a paper."""
    for grade, train in enumerate(p.train_by_grade or (), start=1):
        last = grade == len(p.train_by_grade or ())
        test, seconds = (f"{p.test:.2e}", f"{p.seconds:,.0f}") if last else ("", "")
        print(f"| published | {grade} | {train:.2e} | {test} | 32 | | {seconds} |")
    if p.train_by_grade is None and p.test is not None:
        print(f"| published | 4 | | {p.test:.2e} | | | {p.seconds:,.0f} |")


def repeated(plan: dict[str, Any], states: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return the plan for each random state by a name for it; as it is where nothing is random."""
    if "random_state" not in plan:
        return {"": plan}
    return {f", random state {state}": {**plan, "random_state": state} for state in states}


def summary(values: Iterable[float], digits: str) -> str:
    """Return median and range of values."""
    found = np.array([*values])
    middle, low, high = (f"{v:{digits}}" for v in (np.median(found), found.min(), found.max()))
    return f"median {middle}, range {low} to {high}"


def report(e: Experiment, states: Sequence[int]) -> None:
    """Run an experiment and print it."""
    print(f"\n## {e.title}\n\nFloors on the test points: {spline_floors(e)}.")
    print(f"End-to-end training, published: {e.published.end_to_end}.\n")
    print("| | grade | train | test | neurons | relative gap | seconds |")
    print("|---|---|---|---|---|---|---|")
    print_published(e.published)
    summaries = []
    for name, plan in e.plans.items():
        fits = []
        for state, fixed in repeated(plan, states).items():
            rows, seconds = run(e, fixed)
            fits.append((rows, seconds))
            for grade, row in enumerate(rows, start=1):
                total = f"{seconds:.1f}" if grade == len(rows) else ""
                print(f"| {name}{state} | {grade} | {row} | {total} |", flush=True)
        if len(fits) > 1:
            summaries += summarised(name, fits)
    if summaries:
        print("\n" + "\n".join(summaries), flush=True)


def summarised(name: str, fits: Sequence[tuple[list[Row], float]]) -> list[str]:
    """Return lines about several fits of one plan: errors by grade, and seconds."""
    lines = []
    for grade in range(1, min(len(rows) for rows, _ in fits) + 1):
        train, test = (
            summary((getattr(rows[grade - 1], part) for rows, _ in fits), ".2e")
            for part in ("train", "test")
        )
        lines.append(f"{name}, {len(fits)} fits, grade {grade}: train {train}; test {test}.")
    return [*lines, f"Seconds: {summary((seconds for _, seconds in fits), '.1f')}."]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="experiment", help="default: all")
    parser.add_argument("--random-states", nargs="+", type=int, default=[0])
    parser.add_argument("--no-whiten", action="store_true", help="four grades without whitening")
    options = parser.parse_args(arguments)
    known = experiments()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no experiment named {', '.join(unknown)}; there are {', '.join(known)}")
    options.experiments = [known[name] for name in options.names or known]
    if options.no_whiten:
        options.experiments = [unwhitened(e) for e in options.experiments]
    return options


def unwhitened(e: Experiment) -> Experiment:
    """Return the experiment with the fits of four grades alone, which do not whiten."""
    plans = {
        f"{name}, not whitened": {**plan, "whiten": False}
        for name, plan in e.plans.items()
        if "whiten" in plan
    }
    return e._replace(plans=plans)


def main() -> None:
    """Run those named on the command line, or all."""
    options = parsed()
    for experiment in options.experiments:
        report(experiment, options.random_states)


if __name__ == "__main__":
    main()
