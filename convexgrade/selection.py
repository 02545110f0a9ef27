"""Alpha and depth of a chain by rows held out.

At one alpha, chains that have not seen some of the rows grow grade by grade, until the loss of these
rows rises by more than its noise (`deepen`). Cross-validation follows a decreasing path of alpha:

    for alpha from large to small:
        grow the chains of all folds grade by grade, until the mean validation loss rises by more than
        its noise
    stop when alpha is ``_FAR`` times smaller than where it was best

Every depth up to the last comes with one chain a fold, and the first grade of a chain is searched from
the neurons it had at the alpha before: that is what a search over a grid of chains does not know. Nor
does it know that chains which only judge need not be fitted closely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray

from convexgrade.grade import Report
from convexgrade.losses import Loss
from convexgrade.multigrade import ChainPlan, Data, Progress, extended, first_price
from convexgrade.network import Handover, Network

Array = NDArray[np.float64]

_LARGEST = 1e-2  # penalty, unless chosen: at most this,
_OF_NOISE = 0.1  # and at most so much of the price of noise
_NOISE, _NOISE_OF_CLASSES = 1.0, 0.5  # standard errors up to which a rise of a loss may be none
_FAR = 30.0  # fall of alpha without a gain after which the path ends


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
        Penalty of the first grade.
    chains : tuple of Progress
        The chains.
    losses : tuple of float
        Mean loss of the rows held out after each grade.
    verdict : str
        Why they ended, empty while they grow.
    """

    alpha: float
    chains: tuple[Progress, ...]
    losses: tuple[float, ...] = ()
    verdict: str = ""


class Trial(NamedTuple):
    """Validation losses at one alpha, shape (n_grades_tried, n_folds)."""

    alpha: float
    losses: Array

    @property
    def mean(self) -> Array:
        """Mean over the folds, for each depth."""
        return self.losses.mean(axis=1)

    def depth(self, noise: float) -> int:
        """Return the largest depth whose rise above the least loss is within so many standard errors.

        More rows bear a deeper chain, and that of the choice has more than those of the folds.
        """
        best = np.argmin(self.mean)
        rise = self.losses - self.losses[best]
        n_folds = rise.shape[1]
        error = rise.std(axis=1, ddof=1) / np.sqrt(n_folds) if n_folds > 1 else 0.0
        near = rise.mean(axis=1) < noise * error
        near[best] = True
        return int(np.flatnonzero(near)[-1]) + 1


@dataclass(frozen=True)
class Selection:
    """What cross-validation has tried.

    Attributes
    ----------
    noise : float
        Standard errors of a mean loss that count for nothing.
    trials : tuple of Trial
        In the order of the path.
    """

    noise: float
    trials: tuple[Trial, ...] = ()

    def best(self) -> tuple[float, int]:
        """Return the alpha of least mean validation loss, and the depth that is best there."""
        trial = min(self.trials, key=lambda t: float(t.mean.min()))
        return trial.alpha, trial.depth(self.noise)

    def exhausted(self) -> bool:
        """Return whether alpha has fallen far without a gain."""
        return self.trials[-1].alpha * _FAR <= self.best()[0]


def usual_penalty(n_rows: float, n_columns: int) -> float:
    """Return an alpha of the first grade that suits most data: min(0.01, 0.1 sqrt(d / n)).

    The highest price that noise alone gives to a neuron falls with the rows: with independent e_i of
    mean 0 and variance 1, and columns of X of variance 1,

        E max_{||u|| = 1} |1/n sum_i e_i (x_i . u)| <= (1/n^2 sum_i ||x_i||^2)^1/2 = (d / n)^1/2,

    and gates do not change its order. A tenth of that, since targets are rarely all noise.
    """
    return float(min(_LARGEST, _OF_NOISE * np.sqrt(n_columns / n_rows)))


def penalty_path(data: Data, plan: ChainPlan, n_alphas: int, eps: float, usual: float) -> Array:
    """Return penalties in geometric progression from below the largest useful one to eps times it.

    At the largest, the highest price that a search finds, the first grade has no neuron. Where it has
    none at any penalty, as for constant targets, the largest is 1. The path is moved by up to half a
    step so that the ``usual`` penalty is on it, which a choice should not do worse than.
    """
    steps = np.arange(1, n_alphas + 1) / n_alphas
    path = (first_price(data, plan) or 1.0) * eps**steps
    off = np.log(usual / path)
    nearest = off[np.argmin(np.abs(off))]
    return path * np.exp(nearest) if abs(nearest) <= -0.5 * np.log(eps) / n_alphas else path


def given_penalties(alphas: ArrayLike) -> Array:
    """Return penalties that a user gave, in increasing order.

    Raises
    ------
    ValueError
        If they are not a sequence of positive finite numbers.
    """
    values = np.asarray(alphas, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.all((values > 0.0) & (values < np.inf)):
        raise ValueError(
            f"alphas={alphas!r} must be a sequence of positive numbers, all finite, or None."
        )
    return np.sort(values)


def noise_of(loss: Loss) -> float:
    """Return by how many standard errors a mean loss may rise and be taken for noise."""
    return _NOISE if loss.quadratic else _NOISE_OF_CLASSES


def deepen(
    folds: Sequence[Fold], plan: ChainPlan, handover: Handover, *, least: int = 0
) -> Iterator[Tried]:
    """Grow chains until a grade raises the mean loss of the rows held out by more than its noise.

    A squared error by more than the noise of one fold, however many there are: what is fitted to all
    rows, and closely, bears more grades than what judges. A generator, so that grades already finished
    survive an interruption; the last yield has a verdict.

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
    """
    empty = [Progress.begin(plan.loss, fold.train, handover) for fold in folds]
    weights = np.concatenate([fold.validation.weights for fold in folds]) / len(folds)
    tried, stages = Tried(plan.alpha, tuple(empty)), []
    starts, run = [plan.first_network] * len(folds), Parallel(n_jobs=1)
    noise = noise_of(plan.loss) * (np.sqrt(len(folds)) if plan.loss.quadratic else 1.0)
    for depth, judged in enumerate(_deepened(empty, folds, plan, starts, run), start=1):
        chains = tuple(one.progress for one in judged)
        deepest = max(chains, key=lambda progress: len(progress.chain))
        if len(deepest.chain) < depth:
            yield tried._replace(verdict=deepest.verdict)
            return
        stages.append(np.concatenate([one.losses for one in judged]))
        if depth > least and _is_worse(stages, weights, noise):
            yield tried._replace(verdict=_UNIMPROVED.format(index=depth))
            return
        losses = (*tried.losses, float(weights @ stages[-1]))
        tried = Tried(plan.alpha, chains, losses)
        yield tried
    yield tried._replace(verdict=f"All {plan.n_grades} grades were fitted.")


_UNIMPROVED = "Grade {index} raised the validation loss by more than its noise and was dropped."


def _is_worse(stages: Sequence[Array], weights: Array, noise: float) -> bool:
    """Return whether the last losses of rows are above the least before by more than their mean's noise.

    Chains that overfit grow ever surer, which costs a log loss most: there, less counts as noise.
    """
    if len(stages) < 2:
        return False
    best = min(stages[:-1], key=lambda losses: float(weights @ losses))
    rise = stages[-1] - best
    mean = float(weights @ rise)
    return mean > noise * float(np.linalg.norm(weights * (rise - mean)))


def select(
    folds: Sequence[Fold],
    plan: ChainPlan,
    handover: Handover,
    alphas: Array,
    n_jobs: int | None,
    report: Report,
) -> Selection:
    """Try depths 1 to ``plan.n_grades`` at each alpha, in decreasing order, on all folds.

    Parameters
    ----------
    folds : sequence of Fold
        Folds.
    plan : ChainPlan
        How the chosen chain will be grown; those that judge are grown roughly. Its alpha is replaced.
    handover : Handover
        What grades hand on.
    alphas : ndarray of shape (n_alphas,)
        Penalties of the first grade.
    n_jobs : int or None
        Processes; the folds are shared out.
    report : callable
        Called with a line of text for every alpha and depth.
    """
    selection, rough = Selection(noise_of(plan.loss)), replace(plan, settings=plan.settings.rough())
    starts: list[Network | None] = [None] * len(folds)
    with Parallel(n_jobs=n_jobs) as run:
        for alpha in np.sort(alphas)[::-1]:
            here = replace(rough, alpha=float(alpha))
            empty = [Progress.begin(plan.loss, fold.train, handover) for fold in folds]
            losses = []
            for judged in _deepened(empty, folds, here, starts, run):
                losses.append([one.mean for one in judged])
                report(_line(alpha, losses))
                if len(losses) == 1:
                    starts = [one.progress.chain.grades[0].network for one in judged]
                trial = Trial(float(alpha), np.array(losses))
                if trial.depth(selection.noise) < len(losses):
                    break
            selection = replace(selection, trials=(*selection.trials, trial))
            if selection.exhausted():
                break
    return selection


def _deepened(
    chains: list[Progress],
    folds: Sequence[Fold],
    plan: ChainPlan,
    starts: Sequence[Network | None],
    run: Callable[..., list[Judged]],
) -> Iterator[list[Judged]]:
    """Yield the chains of all folds with 1, 2, ... grades."""
    for _ in range(plan.n_grades):
        judged = run(
            delayed(_deeper)(chain, fold, replace(plan, first_network=start))
            for chain, fold, start in zip(chains, folds, starts, strict=True)
        )
        yield judged
        chains = [one.progress for one in judged]


def _deeper(chain: Progress, fold: Fold, plan: ChainPlan) -> Judged:
    """Judge a chain with one grade more, or as it is if that was trivial once."""
    grown = chain if chain.verdict else extended(chain, fold.train, plan)
    output = plan.span.apply(grown.chain.output(fold.validation.X))
    losses = plan.loss.value(output, fold.validation.y)
    return Judged(grown, losses, float(fold.validation.weights @ losses))


def _line(alpha: float, losses: list[list[float]]) -> str:
    return f"alpha={alpha:.3g}, {len(losses)} grades: validation loss {np.mean(losses[-1]):.6g}"
