"""How times grow with rows, columns and patterns: ours and the peers', on generated programs.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.scaling folder [--plot scaling.svg]

The contests of `tests.benchmarks.solvers`, in the same kind of folder, on Gaussian rows whose targets
are ten neurons and noise. One of rows, columns and patterns grows at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.solvers import ENTRANTS, Case, measure, read, table

MIDDLE = Case("gaussian", 1000, 100, 1e-2, cones=False, d=10)
RANGES: dict[str, tuple[str, tuple[int, ...]]] = {
    "n": ("rows", (250, 500, 1000, 2000, 4000, 8000, 16000)),
    "d": ("columns", (2, 5, 10, 20, 40)),
    "n_patterns": ("patterns", (25, 50, 100, 200, 400, 800)),
}
CONTESTANTS = ("ours", "pyscnn", "adelie", "CLARABEL")


def line(what: str, cones: bool) -> list[Case]:
    """Return the problems along one range."""
    return [replace(MIDDLE, cones=cones, **{what: value}) for value in RANGES[what][1]]


def cases() -> Iterator[Case]:
    """Yield all problems once."""
    yield from dict.fromkeys(
        case for cones in (False, True) for what in RANGES for case in line(what, cones)
    )


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds to a relative error of 1e-6 against each size, on logarithmic axes."""
    import matplotlib.pyplot as plt

    seconds = {(r["case"], r["entrant"]): r.get("close") for r in records}
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True, layout="constrained")
    for row, cones in zip(axes, (False, True), strict=True):
        for axis, (what, (label, values)) in zip(row, RANGES.items(), strict=True):
            for index, entrant in enumerate(CONTESTANTS):
                found = [seconds.get((str(case), entrant)) for case in line(what, cones)]
                points = [(v, s) for v, s in zip(values, found, strict=True) if s is not None]
                if points:
                    axis.plot(
                        *zip(*points, strict=True), "o-", ms=3, color=f"C{index}", label=entrant
                    )
            axis.set(xlabel=label, title="relu" if cones else "gated", xscale="log", yscale="log")
            ticks = values[:: 1 + len(values) // 6]
            axis.set_xticks(ticks, labels=ticks)
            axis.minorticks_off()
        row[0].set_ylabel("seconds")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of problems, environments and results")
    parser.add_argument("--entrants", nargs="+", choices=ENTRANTS, default=list(CONTESTANTS))
    parser.add_argument("--only", default="", help="part of the names of the problems to run")
    parser.add_argument("--plot", type=Path, help="file to draw to")
    arguments = parser.parse_args()
    some = list(cases())
    to_run = [case for case in some if arguments.only in str(case)]
    measure(arguments.folder, arguments.entrants, to_run)
    names = {str(case) for case in some}
    records = [r for r in read(arguments.folder) if r["case"] in names]
    print(table(records))
    if arguments.plot is not None:
        plot(records, arguments.plot)


if __name__ == "__main__":
    main()
