"""A chain of grades as explicit weights: arrays, enough to predict with numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convexgrade.handover import HIDDEN_AND_INPUTS, Handover
from convexgrade.network import Network
from convexgrade.pieces import chunks
from convexgrade.reading import AS_IT_IS, Reading
from convexgrade.span import Span
from convexgrade.wording import counted, counted_each

Array = NDArray[np.float64]

_LARGEST = 0.25 * float(np.finfo(np.float64).max)  # of two such values, the difference is a number
MOST_FEATURES = 1 << 22  # that are formed at a time, where only the output is asked for
_NEARER = 1e-150  # share of the distance at which a row is read that is too far out for sums of it


def read_far(reading: Reading, X: Array) -> Array:
    """Return the rows of X as they are read, however far out."""
    if not reading.changes:
        return X
    # So that distances are numbers in that unit.
    reach = _LARGEST * np.minimum(1.0, reading.tails.unit)
    return reading.apply(np.clip(X, -reach, reach))


@dataclass(frozen=True, repr=False)
class DeepNetwork:
    """A chain of grades as explicit weights in the units of the data.

    Grade 1 reads X by way of ``reading``: heavy-tailed columns drawn in, and distances from the means
    behind them where these are read. Each later grade reads what ``handover`` says, by default the
    hidden features of the one before it, followed by what grade 1 reads. The output is ``baseline``
    plus the outputs of all grades: predictions for a regressor, and their logarithms for
    ``loss="poisson"``; for a classifier log-odds, and margins for hinge losses.

    Attributes
    ----------
    baseline : ndarray of shape (k,)
        Output of the empty chain.
    grades : tuple of Network
        One network a grade; without any, the output is ``baseline``.
    spans : tuple of Span
        What each grade adds to an output is kept to that: to its range on training rows, from ``low``
        to ``high``; without ends for the first grade.
    handover : Handover
        What each grade hands on to the next.
    reading : Reading
        How the columns of X are read.

    Examples
    --------
    Predicting with numpy alone:

    >>> import numpy as np
    >>> from convexgrade import MultigradeRegressor
    >>> X = np.linspace(-1, 1, 40).reshape(-1, 1)
    >>> model = MultigradeRegressor(n_grades=2, random_state=0).fit(X, np.abs(X[:, 0]))
    >>> inputs = model.network_.reading.apply(X)  # X itself, but for heavy tails and distances
    >>> features, output = inputs, model.network_.baseline
    >>> for net, span in zip(model.network_.grades, model.network_.spans):
    ...     hidden = np.maximum(features @ net.hidden_coef + net.hidden_intercept, 0)
    ...     added = hidden @ net.output_coef + features @ net.linear_coef + net.intercept
    ...     output = output + np.clip(added, span.low, span.high)
    ...     features = np.hstack([hidden, inputs])
    >>> np.allclose(output[:, 0], model.predict(X))
    True
    """

    baseline: Array
    grades: tuple[Network, ...]
    spans: tuple[Span, ...]
    handover: Handover = HIDDEN_AND_INPUTS
    reading: Reading = AS_IT_IS

    def __repr__(self) -> str:
        neurons = [network.n_neurons for network in self.grades]
        width = f", {counted_each(neurons, 'neuron')}" if neurons else ""
        return f"DeepNetwork({counted(len(neurons), 'grade')}{width})"

    def forward(self, X: Array) -> Array:
        """Return the output on the rows of X, shape (n_samples, k).

        A row so far out that its output is no number is read on the way there, at 1e-150 of the
        distance.

        Raises
        ------
        ValueError
            If X is no table of as many columns as the chain was fitted to; without grades, no table.
        """
        X = np.asarray(X, dtype=np.float64)
        if not self.grades:
            return self._baseline_only(X)
        width = len(self.grades[0].hidden_coef) - self.reading.distances.column.size
        if X.ndim != 2 or X.shape[1] != width:
            raise ValueError(f"X must have shape (n_samples, {width}); got {X.shape}.")
        widths = (len(network.hidden_coef) + network.n_neurons for network in self.grades)
        output = np.empty((len(X), self.baseline.size))
        with np.errstate(over="ignore", invalid="ignore"):
            for some in chunks(len(X), max(widths), most=MOST_FEATURES):
                rows = read_far(self.reading, X[some])
                output[some] = self._output(rows)
                far = np.flatnonzero(~np.isfinite(output[some]).all(axis=1))
                if far.size:
                    output[far + some.start] = self._output(_NEARER * rows[far])
        return output

    def _baseline_only(self, X: Array) -> Array:
        """Return the output of the empty chain, which tells nothing of the columns of X."""
        if X.ndim != 2:
            raise ValueError(f"X must have shape (n_samples, n_features); got {X.shape}.")
        return np.tile(self.baseline, (len(X), 1))

    def _output(self, X: Array) -> Array:
        features, output = X, np.broadcast_to(self.baseline, (len(X), self.baseline.size))
        for network, span in zip(self.grades, self.spans, strict=True):
            hidden = network.hidden(features)
            output = output + span.apply(network.read(hidden, features))
            features = self.handover.features(hidden, output, X)
        return output
