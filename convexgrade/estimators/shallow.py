"""One grade: a single certified ReLU network for regression and for classification."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from convexgrade.certificate import Certificate
from convexgrade.chain import Chain
from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.targets import (
    CLASSIFICATION,
    REGRESSION,
    ClassifierTargets,
    RegressorTargets,
)
from convexgrade.network import Network


class OneGrade(BaseChain):
    """One grade; ``warm_start`` starts the search from the neurons of the last fit.

    But not from those that read another number of columns, or feed another number of outputs.
    """

    @property
    def certificate_(self) -> Certificate:
        """The certificate of the grade."""
        return self.certificates_[0]

    def _first_network(self, last: Chain) -> Network | None:
        if not self.warm_start:
            return None
        network = last.first_network
        shape = self.n_features_in_, self._coding.scaling.center.size
        fits = shape == (len(network.hidden_coef), network.output_coef.shape[1])
        return network if fits else None


class ConvexReLURegressor(RegressorTargets, OneGrade):
    """One-hidden-layer ReLU network for regression, trained to certified optimality.

    Solves the convex reformulation of the network over activation patterns [1]_::

        min  mean loss + alpha * sum_j ||u_j||_2 |a_j|,    f(x) = sum_j a_j max(0, u_j . x) + c,

    which for one output has the same optimum as weight decay alpha / 2 on all weights but the intercept
    c (of several, each has its own neurons), and certifies the result by a lower bound recomputed from
    the data. No learning rate, no epochs.

    Parameters
    ----------
    alpha : float, default=1e-3
        Penalty, positive; unitless, since targets are standardised.
    activation : {"relu", "gated_relu"}, default="relu"
        Neurons ``a (u . x)_+``, or ``a (u . x) 1[h . x >= 0]`` with gates h fixed by the patterns.
    patterns : {"adaptive", "sampled", "exhaustive"}, default="adaptive"
        Where activation patterns come from: searched by descent and pricing; sampled from Gaussian
        gates; or all of them, at most 20,000 (of 141 rows and two columns), which makes the
        certificate a statement about every network.
    n_patterns : int, default=300
        Patterns to sample, or neurons of the first search: no more than rows times outputs, and fewer
        where rows times columns of what a grade reads are more than a few hundred thousand.
    max_neurons : int, default=None
        Width limit; None sets none.
    loss : {"squared_error", "absolute_error", "huber", "quantile", "poisson"}, default="squared_error"
        What is minimised: half the squared error of standardised targets; in units of 1.4826 median
        absolute deviations of the targets, the absolute error, for medians, Huber's loss, for outliers,
        or twice the pinball loss, for quantiles; or half the Poisson deviance of counts y >= 0, in
        units of their mean, where the exponential of the network's output is the mean of a count. Kinks
        of the absolute error and the pinball loss are smoothed within 1e-3 of the unit.
    quantile : float, default=0.5
        What ``loss="quantile"`` predicts, in (0, 1).
    epsilon : float, default=0.3
        Error from which on ``loss="huber"`` is linear instead of quadratic, in units of 1.4826 median
        absolute deviations of the targets: from 1e-4, below which it would be the absolute error, to
        1e100.
    solver : {"auto", "native", "clarabel", "ecos", "scs"}, default="auto"
        Solver of the convex program; the last three through CVXPY.
    extrapolation : float or None, default=0.25
        How far predictions may lie outside the range of the training targets, in units of its width.
        Of rows unlike all training rows, a chain would predict whatever its steepest slopes lead to.
        None sets no limit. The explicit ``network_`` knows none.
    standardize : bool, default=True
        Standardise the columns of X.
    fit_intercept : bool, default=True
        Fit an unpenalised intercept.
    linear_term : bool, default=False
        Fit an unpenalised linear term.
    tol : float, default=1e-4
        Gap, as a fraction of the loss before the grade, at which a grade counts as optimal; at most 1.
    max_iter : int, default=3
        Largest number of rounds of search and solve.
    warm_start : bool, default=False
        Start the search from the neurons of the last fit, for instance along a path of alpha, if they
        read as many columns and feed as many outputs.
    random_state : int, RandomState instance or None, default=None
        Determines patterns and starts.
    verbose : int, default=0
        1 prints one line for each grade, 2 one for each round.
    n_jobs : int or None, default=None
        Threads of the search for better neurons. The result does not depend on it.

    Attributes
    ----------
    certificate_ : Certificate
        How far from optimal the network can be.
    grades_ : tuple of Grade
        The one grade, with ``network``, ``certificate``, ``n_neurons`` and ``seconds``.
    certificates_ : list of Certificate
        The one certificate; as chains have it, like the two that follow.
    n_grades_ : int
        1.
    stop_reason_ : str
        Why there are no more.
    network_ : DeepNetwork
        Explicit weights in the units of the data.
    prediction_range_ : tuple of two ndarray of shape (n_outputs,)
        Least and greatest prediction of each output (see ``extrapolation``).
    train_loss_ : ndarray of shape (1,)
        Mean training loss.
    n_iter_ : int
        Rounds of search and solve of the grade that took most; at most ``max_iter``.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Their names, if X had names.

    See Also
    --------
    MultigradeRegressor : A chain of such grades.
    certify : Recompute the certificates.

    References
    ----------
    .. [1] M. Pilanci, T. Ergen, "Neural Networks are Convex Regularizers", ICML 2020,
       arXiv 2002.10553, theorem 1.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import ConvexReLURegressor
    >>> X = np.linspace(-2, 2, 30).reshape(-1, 1)
    >>> model = ConvexReLURegressor(patterns="exhaustive").fit(X, np.abs(X[:, 0]))
    >>> bool(model.score(X, np.abs(X[:, 0])) > 0.99)
    True
    >>> model.certificate_.status.name
    'GLOBALLY_OPTIMAL'
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseChain._parameter_constraints,
        **REGRESSION,
    }

    def __init__(
        self,
        alpha: float = 1e-3,
        *,
        activation: str = "relu",
        patterns: str = "adaptive",
        n_patterns: int = 300,
        max_neurons: int | None = None,
        loss: str = "squared_error",
        quantile: float = 0.5,
        epsilon: float = 0.3,
        solver: str = "auto",
        extrapolation: float | None = 0.25,
        standardize: bool = True,
        fit_intercept: bool = True,
        linear_term: bool = False,
        tol: float = 1e-4,
        max_iter: int = 3,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.activation = activation
        self.patterns = patterns
        self.n_patterns = n_patterns
        self.max_neurons = max_neurons
        self.loss = loss
        self.quantile = quantile
        self.epsilon = epsilon
        self.solver = solver
        self.extrapolation = extrapolation
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.linear_term = linear_term
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs


class ConvexReLUClassifier(ClassifierTargets, OneGrade):
    """One-hidden-layer ReLU network for classification, trained to certified optimality.

    The network of `ConvexReLURegressor` under the log loss: one logit for two classes, one logit a
    class (softmax) for more. Patterns are shared by the logits; each has its own neurons.

    Parameters
    ----------
    alpha : float, default=1e-3
        Penalty, positive.
    activation : {"relu", "gated_relu"}, default="relu"
        As in `ConvexReLURegressor`, like all parameters below.
    patterns : {"adaptive", "sampled", "exhaustive"}, default="adaptive"
        Where activation patterns come from.
    n_patterns : int, default=300
        Patterns to sample, or neurons of the first search: no more than rows times outputs, and fewer
        where rows times columns of what a grade reads are more than a few hundred thousand.
    max_neurons : int, default=None
        Width limit; None sets none.
    loss : {"log_loss", "squared_hinge", "hinge"}, default="log_loss"
        Negative log-likelihood; or, without probabilities, hinges of the margins of each class against
        all others. The kink of the hinge is smoothed within 1e-3.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class, times the weights of its rows; ``"balanced"`` gives every class the same
        total weight.
    solver : {"auto", "native", "clarabel", "ecos", "scs"}, default="auto"
        Solver of the convex program.
    standardize : bool, default=True
        Standardise the columns of X.
    fit_intercept : bool, default=True
        Fit an unpenalised intercept.
    linear_term : bool, default=False
        Fit an unpenalised linear term. Where that alone separates the classes of the training rows,
        probabilities are all but 0 and 1.
    tol : float, default=1e-4
        Relative gap at which a grade counts as optimal; at most 1.
    max_iter : int, default=3
        Largest number of rounds of search and solve.
    warm_start : bool, default=False
        Start the search from the neurons of the last fit, if they read as many columns and feed as many
        outputs.
    random_state : int, RandomState instance or None, default=None
        Determines patterns and starts.
    verbose : int, default=0
        1 prints one line for each grade, 2 one for each round.
    n_jobs : int or None, default=None
        Threads of the search for better neurons.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, but for those whose rows all have weight 0.
    certificate_ : Certificate
        How far from optimal the network can be.
    grades_ : tuple of Grade
        The one grade, with ``network``, ``certificate``, ``n_neurons`` and ``seconds``.
    certificates_ : list of Certificate
        The one certificate; as chains have it, like the two that follow.
    n_grades_ : int
        1.
    stop_reason_ : str
        Why there are no more.
    network_ : DeepNetwork
        Explicit weights in the units of the data.
    train_loss_ : ndarray of shape (1,)
        Mean training loss.
    n_iter_ : int
        Rounds of search and solve of the grade that took most; at most ``max_iter``.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Their names, if X had names.

    See Also
    --------
    MultigradeClassifier : A chain of such grades.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from convexgrade import ConvexReLUClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = ConvexReLUClassifier(alpha=0.01, random_state=0).fit(X[::3], y[::3])
    >>> bool(model.score(X, y) > 0.9)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseChain._parameter_constraints,
        **CLASSIFICATION,
    }

    def __init__(
        self,
        alpha: float = 1e-3,
        *,
        activation: str = "relu",
        patterns: str = "adaptive",
        n_patterns: int = 300,
        max_neurons: int | None = None,
        loss: str = "log_loss",
        class_weight: dict[Any, float] | str | None = None,
        solver: str = "auto",
        standardize: bool = True,
        fit_intercept: bool = True,
        linear_term: bool = False,
        tol: float = 1e-4,
        max_iter: int = 3,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.activation = activation
        self.patterns = patterns
        self.n_patterns = n_patterns
        self.max_neurons = max_neurons
        self.loss = loss
        self.class_weight = class_weight
        self.solver = solver
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.linear_term = linear_term
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs
