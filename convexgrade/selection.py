"""Alpha and depth of a chain by rows held out.

At one alpha, chains that have not seen some of the rows grow grade by grade, until the loss of these
rows rises by more than its noise (`deepen`). Cross-validation follows a decreasing path of alpha, and
ends when alpha is ``_FAR`` times smaller than where it was best. Every depth up to the last comes with
one chain a fold, and chains that only judge need not be fitted closely: that is what a search over a
grid of chains does not know.

Searches at one alpha do not start from the neurons at the alpha before. The chain that is fitted to all
rows in the end has no such past, and one that has may do better at small alphas than that will.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray

from convexgrade.chain import Data
from convexgrade.handover import Handover
from convexgrade.losses import Loss
from convexgrade.multigrade import ChainPlan, Progress, extended, first_price
from convexgrade.settings import Report
from convexgrade.solution import Status

Array = NDArray[np.float64]

_LARGEST = 1e-2  # largest usual alpha
_OF_NOISE = 0.1  # usual alpha, in units of the price of noise
_NOISE = 1.0  # standard errors up to which a rise of the squared error may be noise
_NOISE_OF_OTHERS = 0.5  # the same of other losses, which chains that overfit raise most
_ROUNDING = 1e-9  # of a number of rows
_JUDGES = 1000  # rows that are enough to judge by
_TIMES = 5  # most times that rows are held out, where fewer than that are at a time
_TIE = 0.25  # standard errors up to which losses hardly tell two readings apart
_EMPTY = 2.0  # times the highest price found: folds have higher ones, and searches find some later
_FAR = 30.0  # fall of alpha without a gain after which the path ends
_WORST = 1e100  # largest loss of a row: differences of losses, and their squares, are numbers


class Fold(NamedTuple):
    """Rows to train on and rows to validate on."""

    train: Data
    validation: Data


class Judged(NamedTuple):
    """A chain, its loss on every row of its fold that was held out, and their weighted mean."""

    progress: Progress
    losses: Array
    mean: float


class Tried(NamedTuple):
    """Chains of one alpha, one for each fold.

    Attributes
    ----------
    alpha : float
        Alpha of the first grade.
    chains : tuple of Progress
        The chains.
    losses : tuple of float
        Mean loss, after each grade, of the rows held out.
    by_fold : tuple of tuple of float
        Their means of each fold; after a grade that was dropped, too.
    rows : ndarray of shape (n_held_out,)
        Losses of the single rows, fold by fold, after the grade of least mean loss.
    verdict : str
        Why they ended, empty while they grow.
    """

    alpha: float
    chains: tuple[Progress, ...]
    losses: tuple[float, ...] = ()
    by_fold: tuple[tuple[float, ...], ...] = ()
    rows: Array = np.empty(0)
    verdict: str = ""

    @property
    def first(self) -> Progress:
        """The chain of the first fold, to predict with until there is one of all rows.

        Its grades say that they were tried: how their solver ended is true of some rows only.
        """
        tried = self.chains[0]
        chain = tried.chain.with_status(Status.TRIED)
        return replace(tried, chain=chain, validation_loss=self.losses[: len(chain)])


class Result(NamedTuple):
    """Mean validation losses at one alpha, by depth and fold, shape (n_grades_tried, n_folds)."""

    alpha: float
    losses: Array
    log_tails: bool = False  # whether any column was read on a logarithmic scale
    distances: bool = False  # and whether distances were read beside the columns


class Selection(NamedTuple):
    """What cross-validation has tried, and what it has chosen.

    Attributes
    ----------
    results : tuple of Result
        What was tried, in the order of the path.
    chosen : Tried
        What was chosen.
    corrected : tuple of float
        Mean loss, after each grade of the chosen chains once they were corrected, of the rows held out;
        empty where no correction was asked for, or it has not lowered the last of them.
    """

    results: tuple[Result, ...]
    chosen: Tried
    corrected: tuple[float, ...] = ()

    @property
    def alpha(self) -> float:
        """The alpha of the first grade."""
        return self.chosen.alpha

    @property
    def depth(self) -> int:
        """Number of grades."""
        return len(self.chosen.losses)


def usual_alpha(n_rows: float, n_columns: int) -> float:
    """Return an alpha of the first grade that suits most data: min(0.01, 0.1 sqrt(d / n)).

    The highest price that noise alone gives to a neuron falls with the rows: with independent e_i of
    mean 0 and variance 1, and columns of X of variance 1 (constant ones do not count),

        E max_{||u|| = 1} |1/n sum_i e_i (x_i . u)| <= (1/n^2 sum_i ||x_i||^2)^1/2 = (d / n)^1/2,

    and gates do not change its order. A tenth of that, since targets are rarely all noise.
    """
    return float(min(_LARGEST, _OF_NOISE * np.sqrt(n_columns / n_rows)))


class Alphas(NamedTuple):
    """Values of alpha, of the first grade, to try.

    Attributes
    ----------
    values : ndarray of shape (n_alphas,)
        The values, decreasing.
    usual : float
        The one that is taken where others are no better, or nearest to.
    empty : float or None
        One that leaves no neuron, to be tried where no other beats a constant.
    """

    values: Array
    usual: float
    empty: float | None = None


def path_of_alphas(data: Data, plan: ChainPlan, n_alphas: int, eps: float, usual: float) -> Alphas:
    """Return values of alpha in geometric progression, from below the largest useful to eps times it.

    At the largest, the highest price that a search finds, the first grade has no neuron. Where it has
    none at any alpha, as for constant targets, the largest is 1. The path is moved by up to half a step
    so that the ``usual`` alpha is on it, if it is so near, which a choice should not do worse than. A
    path of one is the usual alpha.
    """
    if n_alphas == 1:
        return Alphas(np.array([usual]), usual)
    steps = np.arange(1, n_alphas + 1) / n_alphas
    largest = first_price(data, plan) or 1.0
    path = largest * eps**steps
    off = np.log(usual / path)
    nearest = np.argmin(np.abs(off))
    if abs(off[nearest]) <= -0.5 * np.log(eps) / n_alphas:
        path *= np.exp(off[nearest])
        path[nearest] = usual  # to the last digit
    return Alphas(path, usual, empty=_EMPTY * largest)


def given_alphas(alphas: ArrayLike) -> Array:
    """Return values of alpha that a user gave, in decreasing order.

    Raises
    ------
    ValueError
        If they are not a sequence of positive finite numbers.
    """
    try:
        values = np.asarray(alphas, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 1 or values.size == 0 or not np.all((values > 0.0) & (values < np.inf)):
        raise ValueError(
            f"alphas={alphas!r} must be a sequence of positive numbers, all finite, or None."
        )
    return np.sort(values)[::-1]


def parts_held_out(labels: NDArray[Any], fraction: float, seed: int) -> list[NDArray[np.intp]]:
    """Return disjoint parts of the rows, each to be held out once: several where these are few.

    What few rows say is mostly chance. Every label lies evenly along a random order of the rows, and the
    parts are cut from it in turn: each has about its share of every label, however rare.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        Labels.
    fraction : float
        Size of a part, in (0, 1).
    seed : int
        Seed of the order.
    """
    n_rows = len(labels)
    size = max(1, int(fraction * n_rows + _ROUNDING))  # rounded up, one part less might be left
    order = np.random.default_rng(seed).permutation(n_rows)
    grouped = order[np.argsort(labels[order], kind="stable")]
    _, count = np.unique(labels, return_counts=True)
    rank = np.concatenate([(np.arange(m) + 0.5) / m for m in count])
    spread = grouped[np.argsort(rank, kind="stable")]
    times = min(_TIMES, n_rows // size, int(np.ceil(_JUDGES / size)))
    return [np.sort(part) for part in spread[: times * size].reshape(times, size)]


def worth_leaving_usual(
    tried: Sequence[Tried], folds: Sequence[Fold], usual: float, loss: Loss
) -> Tried:
    """Return the best on rows held out, if it is by enough better than the usual alpha.

    By a standard error where it is a factor of ten away from that, and in proportion by less where it
    is nearer: what suits most data is a better guess than what a few rows favour by chance. But the
    best in any case where a constant is better than the usual one, which then is no guess; and under
    other losses than the squared error, where this was found to do more harm than good.
    """

    def away(one: Tried) -> float:
        return abs(float(np.log10(one.alpha / usual)))

    weights, by_distance = _weights(folds), sorted(tried, key=away)
    nearest = by_distance[0]
    if not loss.quadratic or least_loss(nearest) >= loss_of_constants(folds, loss):
        return min(tried, key=least_loss)

    def cost(one: Tried) -> float:
        rise, further = one.rows - nearest.rows, min(away(one) - away(nearest), 1.0)
        return float(weights @ rise) + further * _standard_error(rise, weights)

    return min(by_distance, key=cost)


def least_loss(tried: Tried) -> float:
    """Return the least mean loss of rows held out after any grade."""
    return min(tried.losses)


def is_better(tried: Tried, other: Tried, folds: Sequence[Fold]) -> bool:
    """Return whether rows held out lose less by one than by the other, and can tell them apart."""
    return not _are_near(other.rows, tried.rows, _weights(folds), _TIE)


def asks_for_larger(best: Tried, last: Tried, folds: Sequence[Fold], loss: Loss) -> bool:
    """Return whether an alpha above the last and largest one is worth a trial.

    As it is where that was the best, or where a constant is better than all of them; unless it left no
    neuron already.
    """
    neurons = any(grade.n_neurons for progress in last.chains for grade in progress.chain.grades)
    return neurons and (best is last or least_loss(best) > loss_of_constants(folds, loss))


def loss_of_constants(folds: Sequence[Fold], loss: Loss) -> float:
    """Return the mean loss, of rows held out, of the best constant of the other rows."""
    constants = (train.under(loss).baseline for train, _ in folds)
    losses = [
        held_out.under(loss)(np.broadcast_to(constant, held_out.y.shape))
        for constant, (_, held_out) in zip(constants, folds, strict=True)
    ]
    return float(np.mean(losses))


def lasting(losses: tuple[float, ...], depth: int) -> tuple[float, ...]:
    """Return losses after each grade up to that depth: a chain that ended before stays as it is."""
    return losses + losses[-1:] * (depth - len(losses))


def deepen(
    folds: Sequence[Fold],
    plan: ChainPlan,
    handover: Handover,
    *,
    least: int = 0,
    run: Callable[..., list[Judged]] | None = None,
) -> Iterator[Tried]:
    """Grow chains until a grade raises the mean loss of the rows held out by more than its noise.

    A generator, so that grades already finished survive an interruption; the last yield has a verdict.

    Parameters
    ----------
    folds : sequence of Fold
        Folds.
    plan : ChainPlan
        How the chains are grown, rough or not.
    handover : Handover
        What grades hand on.
    least : int, default=0
        Grades that stay whatever they bring.
    run : Parallel, optional
        What shares out the folds.
    """
    empty = [Progress.begin(plan.loss, fold.train, handover) for fold in folds]
    tried, weights = Tried(plan.alpha, tuple(empty)), _weights(folds)
    noise = _NOISE if plan.loss.quadratic else _NOISE_OF_OTHERS
    grown = _deepened(empty, folds, plan, run or Parallel(n_jobs=1))
    for depth, judged in enumerate(grown, start=1):
        chains = tuple(one.progress for one in judged)
        deepest = max(chains, key=lambda progress: len(progress.chain))
        if len(deepest.chain) < depth:
            yield tried._replace(verdict=deepest.verdict)
            return
        losses = np.concatenate([one.losses for one in judged])
        tried = tried._replace(by_fold=(*tried.by_fold, tuple(one.mean for one in judged)))
        if depth > max(1, least) and not _are_near(losses, tried.rows, weights, noise):
            yield tried._replace(verdict=_UNIMPROVED.format(index=depth))
            return
        mean = float(weights @ losses)
        better = mean < min(tried.losses, default=np.inf)
        tried = tried._replace(
            chains=chains,
            losses=(*tried.losses, mean),
            rows=losses if better else tried.rows,
        )
        yield tried
    yield tried._replace(verdict=plan.complete)


_UNIMPROVED = "Grade {index} raised the validation loss by more than its noise and was dropped."


def _weights(folds: Sequence[Fold]) -> Array:
    """Return the weights of all rows held out, fold by fold."""
    return np.concatenate([fold.validation.weights for fold in folds]) / len(folds)


def _are_near(losses: Array, others: Array, weights: Array, noise: float) -> bool:
    """Return whether losses exceed others by at most so many standard errors of the mean difference."""
    rise = losses - others
    return float(weights @ rise) <= noise * _standard_error(rise, weights)


def _standard_error(values: Array, weights: Array) -> float:
    """Return the standard error of a weighted mean."""
    return float(np.linalg.norm(weights * (values - weights @ values)))


def select(
    folds: Sequence[Fold],
    plan: ChainPlan,
    handover: Handover,
    alphas: Alphas,
    n_jobs: int | None,
    report: Report,
) -> Selection:
    """Choose alpha, as tried in turn on all folds, and how deep a chain gets with it.

    See `worth_leaving_usual` for what is chosen.

    Parameters
    ----------
    folds : sequence of Fold
        Folds.
    plan : ChainPlan
        How the chosen chain will be grown; those that judge are grown roughly. Its alpha is replaced.
    handover : Handover
        What grades hand on.
    alphas : Alphas
        What to try.
    n_jobs : int or None
        Processes; the folds are shared out.
    report : callable
        Called with a line of text for every alpha and grade.
    """
    tried: list[Tried] = []
    rough = plan.rough()
    with Parallel(n_jobs=n_jobs) as run:

        def at(alpha: float) -> Tried:
            report(f"alpha={alpha:.3g}:")
            here = replace(rough, alpha=alpha)
            for one in deepen(folds, here, handover, run=run):
                report(said_of(one))
            return one

        for alpha in alphas.values.tolist():
            tried.append(at(alpha))
            best = min(tried, key=least_loss)
            if alpha * _FAR <= best.alpha:
                break
        if alphas.empty is not None and least_loss(best) > loss_of_constants(folds, plan.loss):
            tried.insert(0, at(alphas.empty))
    results = tuple(Result(one.alpha, np.array(one.by_fold)) for one in tried)
    return Selection(results, worth_leaving_usual(tried, folds, alphas.usual, plan.loss))


def said_of(tried: Tried) -> str:
    """Return what is to be said after a grade of chains that judge."""
    return tried.verdict or f"Grade {len(tried.losses)}: validation loss {tried.losses[-1]:.6g}."


def _deepened(
    chains: list[Progress],
    folds: Sequence[Fold],
    plan: ChainPlan,
    run: Callable[..., list[Judged]],
) -> Iterator[list[Judged]]:
    """Yield the chains of all folds with 1, 2, ... grades."""
    for _ in range(plan.n_grades):
        judged = run(
            delayed(_deeper)(chain, fold, plan) for chain, fold in zip(chains, folds, strict=True)
        )
        yield judged
        chains = [one.progress for one in judged]


def _deeper(chain: Progress, fold: Fold, plan: ChainPlan) -> Judged:
    """Judge a chain with one grade more, or as it is if that was trivial once."""
    grown = chain if chain.verdict else extended(chain, fold.train, plan)
    output = plan.span.apply(grown.chain.output(fold.validation.X))
    losses = np.fmin(plan.loss.value(output, fold.validation.y), _WORST)  # which NaN becomes, too
    return Judged(grown, losses, float(fold.validation.weights @ losses))
