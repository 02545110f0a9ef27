"""The chain as a value: grades, what each of them reads, and what they give together.

How it grows is `multigrade`; here is what all who read or change a finished one have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.certificate import Certificate
from convexgrade.deep_network import MOST_FEATURES, DeepNetwork
from convexgrade.energy import Energy, measure
from convexgrade.grade import Grade, certify_grade, state_problem
from convexgrade.handover import HIDDEN_AND_INPUTS, Handover
from convexgrade.losses import Loss, MeanLoss
from convexgrade.network import Network, scale_output
from convexgrade.pieces import chunks
from convexgrade.program import Problem
from convexgrade.scaling import Scaling, combining, read_unscaled
from convexgrade.settings import Settings
from convexgrade.solution import Status
from convexgrade.span import UNLIMITED, Span

Array = NDArray[np.float64]


class Data(NamedTuple):
    """Rows, coded targets (n_samples, n_outputs) and weights summing to 1."""

    X: Array
    y: Array
    weights: Array

    def under(self, loss: Loss) -> MeanLoss:
        """Return the mean of a loss over the rows, as a function of predictions."""
        return MeanLoss(loss, self.y, self.weights)


class Link(NamedTuple):
    """A grade in its place.

    Attributes
    ----------
    scaling : Scaling
        Scaling of the features it reads.
    grade : Grade
        The grade.
    span : Span
        What it adds to the output is kept to that.
    """

    scaling: Scaling
    grade: Grade
    span: Span = UNLIMITED

    def added(self, hidden: Array, H: Array) -> Array:
        """Return what the grade adds on the rows of H, whose hidden features are known."""
        return self.span.apply(self.grade.network.read(hidden, H))

    def limited(self, H: Array) -> Link:
        """Return the link that adds to no row more or less than to any of H, its scaled input."""
        network = self.grade.network
        return self._replace(span=Span.of(network.read(network.hidden(H), H)))


class GradeInput(NamedTuple):
    """What one grade meets: its scaled input H and the output of the chain before it."""

    H: Array
    offset: Array


@dataclass(frozen=True)
class Chain:
    """Grades fitted so far, in the coordinates of the coded targets.

    Attributes
    ----------
    baseline : ndarray of shape (n_outputs,)
        Best constant prediction.
    links : tuple of Link
        The grades with their input scalings.
    handover : Handover
        What each grade hands on to the next.
    corrected : bool
        Whether grades were changed after their fit, together with others (`correction`).
    """

    baseline: Array
    links: tuple[Link, ...] = ()
    handover: Handover = HIDDEN_AND_INPUTS
    corrected: bool = False

    def __len__(self) -> int:
        return len(self.links)

    @property
    def grades(self) -> tuple[Grade, ...]:
        """The grades alone."""
        return tuple(link.grade for link in self.links)

    @property
    def first_network(self) -> Network:
        """The network of the first grade as it reads scaled columns, before they are combined."""
        scaling, grade, _ = self.links[0]
        return grade.network if scaling.mix is None else combining(grade.network, scaling.mix)

    @property
    def penalty(self) -> float:
        """The penalties of all grades."""
        return sum(grade.alpha * grade.network.path_norm for grade in self.grades)

    def with_grades(self, grades: Iterable[Grade]) -> Chain:
        """Return the chain with other grades in the places of these."""
        pairs = zip(self.links, grades, strict=True)
        return replace(self, links=tuple(link._replace(grade=grade) for link, grade in pairs))

    def with_network(self, index: int, network: Network) -> Chain:
        """Return the chain with another network in the grade at ``index``."""
        grades = list(self.grades)
        grades[index] = replace(grades[index], network=network)
        return self.with_grades(grades)

    def with_certificates(self, certificates: Iterable[Certificate]) -> Chain:
        """Return the chain with other certificates of its grades."""
        pairs = zip(self.grades, certificates, strict=True)
        return self.with_grades(replace(grade, certificate=found) for grade, found in pairs)

    def with_status(self, status: Status) -> Chain:
        """Return the chain whose certificates say that its grades came about in some other way."""
        return self.with_certificates(
            replace(grade.certificate, status=status) for grade in self.grades
        )

    def unlimited(self) -> Chain:
        """Return the chain whose grades add whatever their networks give."""
        return replace(self, links=tuple(link._replace(span=UNLIMITED) for link in self.links))

    def limited(self, X: Array) -> Chain:
        """Return the unlimited chain with limits, to what its later grades add to the rows of X."""
        (first, _), *later = zip(self.links, self.walk(X), strict=False)
        return replace(self, links=(first, *(link.limited(step.H) for link, step in later)))

    def walk(self, X: Array) -> Iterator[GradeInput]:
        """Yield what each grade meets, and last what a further grade would: its *unscaled* input."""
        if self.links:
            X = self.links[0].scaling.within_reach(X)
        features = X
        offset = np.broadcast_to(self.baseline, (len(X), self.baseline.size))
        for link in self.links:
            H = link.scaling.apply(features)
            yield GradeInput(H, offset)
            hidden = link.grade.network.hidden(H)
            offset = offset + link.added(hidden, H)
            features = self.handover.features(hidden, offset, X)
        yield GradeInput(features, offset)

    def staged(self, X: Array) -> Iterator[Array]:
        """Yield the chain's output after each grade, shape (n_samples, n_outputs)."""
        steps = self.walk(X)
        next(steps)
        for step in steps:
            yield step.offset

    def output(self, X: Array) -> Array:
        """Return the output of the whole chain: of some rows at a time, as features take memory."""
        widths = (link.grade.n_neurons + link.scaling.center.size for link in self.links)
        output = np.empty((len(X), self.baseline.size))
        for some in chunks(len(X), max(widths, default=1), most=MOST_FEATURES):
            for step in self.walk(X[some]):
                output[some] = step.offset
        return output

    def network(self, center: Array, scale: Array) -> DeepNetwork:
        """Return explicit weights, with the output times ``scale`` plus ``center``."""
        return DeepNetwork(
            baseline=self.baseline * scale + center,
            grades=tuple(
                scale_output(
                    read_unscaled(grade.network, self._in_units(index, center, scale)), scale
                )
                for index, grade in enumerate(self.grades)
            ),
            spans=tuple(link.span.times(scale) for link in self.links),
            handover=self.handover,
        )

    def _in_units(self, index: int, center: Array, scale: Array) -> Scaling:
        """Return the scaling of a grade's input where the output it may read has changed units."""
        scaling = self.links[index].scaling
        if index == 0 or not self.handover.hands_output:
            return scaling
        start = self.links[index - 1].grade.n_neurons if self.handover.hands_hidden else 0
        read = slice(start, start + scale.size)
        centers, scales = scaling.center.copy(), scaling.scale.copy()
        centers[read] = centers[read] * scale + center
        scales[read] *= scale
        return replace(scaling, center=centers, scale=scales)


def state_grade(
    step: GradeInput, data: Data, loss: Loss, alpha: float, settings: Settings
) -> Problem:
    """State what a grade that meets ``step`` has to fit."""
    return state_problem(step.H, data.y, step.offset, data.weights, loss, alpha, settings)


def staged_loss(chain: Chain, data: Data, loss: Loss, span: Span = UNLIMITED) -> tuple[float, ...]:
    """Return the mean loss of the chain after each grade, its outputs kept to a span."""
    return tuple(data.under(loss)(span.apply(output)) for output in chain.staged(data.X))


def measure_energy(chain: Chain, data: Data, loss: Loss) -> tuple[Energy, ...]:
    """Return where the squared error before each grade went; nothing if the loss is not quadratic."""
    return energies([step.offset for step in chain.walk(data.X)], chain.grades, data, loss)


def energies(
    offsets: list[Array], grades: tuple[Grade, ...], data: Data, loss: Loss
) -> tuple[Energy, ...]:
    """Return the same of some grades, from the chain's outputs before, between and after them."""
    if not loss.quadratic:
        return ()
    return tuple(
        measure(data.y, data.weights, before, after, grade.alpha * grade.network.path_norm)
        for before, after, grade in zip(offsets, offsets[1:], grades, strict=False)
    )


def certify_chain(chain: Chain, data: Data, loss: Loss, seed: int) -> list[Certificate]:
    """Recompute the certificate of every grade from data, given the grades before it."""
    certificates = []
    for index, (step, grade) in enumerate(zip(chain.walk(data.X), chain.grades, strict=False)):
        problem = state_grade(step, data, loss, grade.alpha, grade.settings)
        status = grade.certificate.status
        certificates.append(
            certify_grade(
                problem,
                grade.network,
                grade.patterns_on(problem),
                Status.OTHER_DATA if status.converged else status,
                grade.settings,
                (seed, index),
            )
        )
    return certificates
