"""The chain for regression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import StrOptions

from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.deep import DEPTH
from convexgrade.estimators.held_out import PENALTY, STOPPING, ManyGrades
from convexgrade.estimators.staged import StagedRegressor
from convexgrade.estimators.targets import REGRESSION
from convexgrade.multigrade import ChainPlan


class MultigradeRegressor(StagedRegressor, ManyGrades):
    """A chain of certified one-hidden-layer ReLU networks for regression.

    Each grade reads the hidden features of the grade before it together with X, fits what the chain
    so far leaves over, and is then frozen; the prediction is the sum of all grades (multigrade deep
    learning, Xu 2023 [1]_). Every grade is a convex program, solved and certified as in
    `ConvexReLURegressor`; the training loss cannot rise from grade to grade. A certificate speaks of
    one grade, given the grades before it.

    Parameters
    ----------
    alpha : float or "auto", default="auto"
        Penalty of the first grade, positive; unitless, since targets are standardised. ``"auto"`` is
        min(0.01, 0.1 sqrt(d / n)) for d columns that vary and n rows (see ``sample_weight``): a tenth
        of the price that noise alone would give to a neuron, where that is less than 0.01. Where rows
        are held out, 0.3, 3 and 10 times that are tried on them as well; and larger ones, each
        three times the last, while the last is the best or a constant is better than all. The best
        is taken; under the squared error only if it is better by up to a standard error (see
        `MultigradeRegressorCV`).
    n_grades : int, default=4
        Largest number of grades. To a row to come, those after the first add no more and no less than
        to training rows.
    alpha_decay : float, default=0.3
        Factor of alpha from each grade to the next, positive.
    passthrough : {"hidden", "output", "both"}, default="hidden"
        What a grade hands on to the next: its hidden features, the output of the chain so far, or
        both.
    keep_inputs : bool, default=True
        Whether the grades after the first read X as well.
    first_bias : bool, default=True
        Whether the neurons of the first grade have biases. Without, its output is a constant plus a
        function that grows in proportion to the scaled X.
    correction : {"none", "readouts", "backward"}, default="none"
        What happens once all grades are fitted: nothing; all readouts are fitted again, jointly (with
        ``passthrough`` "output" or "both", that of the last grade alone); or the grades are moved as
        well, sweep by sweep, so that earlier ones give the later ones what they need (see `correct`).
        Certificates then no longer show optimal grades. Not for losses with kinks (absolute error,
        quantiles, Huber's), nor ``refinement="pointwise"``.
    whiten : bool, default=False
        Whether the grades after the first read uncorrelated columns instead of merely standardised
        ones. It opens functions that vary fast to the search and the penalty: much better where y
        is such a function of few inputs, without noise.
    refinement : {"none", "pointwise"}, default="none"
        ``"pointwise"`` constrains every grade so that it raises the residual of no training row, as
        the chain has it before ``extrapolation`` limits predictions, by more than 1e-10 of the largest
        residual before the grade (over all rows and outputs, in units of the standardised targets).
        Each grade is then solved again through CVXPY, and its certificate measures against the program
        without the constraints. They exclude ``correction``.
    activation : {"relu", "gated_relu"}, default="relu"
        As in `ConvexReLURegressor`.
    patterns : {"adaptive", "sampled", "exhaustive"}, default="adaptive"
        Where activation patterns come from. Later grades mostly read too many features to list all.
    n_patterns : int, default=300
        Patterns to sample, or neurons of the first search: no more than rows times outputs, and fewer
        where rows times columns of what a grade reads are more than a few hundred thousand.
    max_neurons : int, default=None
        Width limit of a grade; None sets none.
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
        Solver of the convex program.
    early_stopping : bool or "auto", default="auto"
        Hold out rows, stop where a grade raises their loss by more than its noise (a standard error
        of the squared error, half of one of other losses), then fit a chain of that depth to all
        rows. ``"auto"`` does so from 20 rows on, for more than one grade.
    validation_fraction : float, default=0.2
        Fraction held out at a time, in (0, 1): up to five times, other rows each time, where that is
        less than 1000 rows.
    extrapolation : float or None, default=0.25
        How far predictions may lie outside the range of the training targets, in units of its width.
        Of rows unlike all training rows, a chain would predict whatever its steepest slopes lead to.
        None sets no limit. The explicit ``network_`` goes without it.
    standardize : bool, default=True
        Standardise the columns of X. What later grades read is standardised in any case.
    log_tails : bool or "auto", default="auto"
        Read columns with heavy tails on a logarithmic scale: those with one tail from their other end
        on, those with two where they are more than two standard deviations from their mean. Both are
        those of clipped values, and a column has heavy tails if a value is six such deviations away;
        others are read as they are. ``"auto"``: unless rows held out show that it is better not to.
        Without effect on ``standardize=False``, which keeps all columns as they are.
    distances : bool or "auto", default="auto"
        Whether grades read, beside the columns, how far each is from its mean (not those of two
        values). ``"auto"``: if rows are held out and show that it is better.
    fit_intercept : bool, default=True
        Fit an unpenalised intercept in every grade.
    linear_term : bool, default=False
        Fit an unpenalised linear term in every grade.
    tol : float, default=1e-4
        Gap, as a fraction of the loss before the grade, at which a grade counts as optimal; at most 1.
    max_iter : int, default=1
        Largest number of rounds of search and solve in a grade.
    warm_start : bool, default=False
        Keep the fitted grades and add the missing ones when ``n_grades`` has grown. Parameters of the
        loss, and of what grades read and hand on, must be as they were. (A ``correction`` then moves
        all grades.) Predictions may then be in the range of the new targets as well.
    random_state : int, RandomState instance or None, default=None
        Determines patterns, starts and the validation split.
    verbose : int, default=0
        1 prints what rows held out say of each alpha and depth, then a line for each grade; 2 one for
        each round as well, and for each sweep of a correction.
    n_jobs : int or None, default=None
        Processes that chains on rows held out are shared out to, and threads of the search for better
        neurons. The result does not depend on it.

    Attributes
    ----------
    alpha_ : float
        Penalty of the first grade.
    grades_ : tuple of Grade
        The grades, each with ``network``, ``certificate``, ``n_neurons`` and ``seconds``.
    certificates_ : list of Certificate
        How far from optimal each grade can be, given those before it.
    n_grades_ : int
        Number of grades.
    stop_reason_ : str
        Why there are no more.
    network_ : DeepNetwork
        Explicit weights in the units of the data.
    prediction_range_ : tuple of two ndarray of shape (n_outputs,)
        Least and greatest prediction of each output (see ``extrapolation``).
    train_loss_ : ndarray of shape (``n_grades_``,)
        Mean training loss after each grade.
    energy_ : list of Energy
        For each grade, where the squared error before it went: into what is left, the grade's output
        and its penalty. The three sum up to it, whatever the accuracy of the solve. What a correction,
        ``refinement="pointwise"`` or `to_relu` changes in that is each grade's ``defect``.
    validation_loss_ : ndarray of shape (``n_grades_``,)
        Mean loss, after each grade, of rows held out, by the chains that had not seen them; empty if
        none were, and after `correct`.
    objective_path_ : ndarray
        Mean loss plus the penalties of all grades: before correction, with readouts refitted, and
        after each sweep; empty without correction, and one number if held-out rows rejected it.
    n_iter_ : int
        Rounds of search and solve of the grade that took most; at most ``max_iter``.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Their names, if X had names.

    See Also
    --------
    MultigradeRegressorCV : Tries more penalties.
    ConvexReLURegressor : One grade.
    certify : Recompute the certificates, on these or other rows.
    correct : Move the grades of a fitted chain, all together.

    References
    ----------
    .. [1] Y. Xu, "Multi-Grade Deep Learning", 2023, arXiv 2302.00150.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import MultigradeRegressor
    >>> X = np.linspace(-2, 2, 60).reshape(-1, 1)
    >>> y = np.sin(3 * X[:, 0])
    >>> model = MultigradeRegressor(n_grades=2, alpha=0.01, random_state=0).fit(X, y)
    >>> bool(model.train_loss_[1] < model.train_loss_[0])
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseChain._parameter_constraints,
        **REGRESSION,
        **PENALTY,
        **DEPTH,
        "refinement": [StrOptions({"none", "pointwise"})],
        **STOPPING,
    }

    def __init__(
        self,
        alpha: float | str = "auto",
        *,
        n_grades: int = 4,
        alpha_decay: float = 0.3,
        passthrough: str = "hidden",
        keep_inputs: bool = True,
        first_bias: bool = True,
        correction: str = "none",
        whiten: bool = False,
        refinement: str = "none",
        activation: str = "relu",
        patterns: str = "adaptive",
        n_patterns: int = 300,
        max_neurons: int | None = None,
        loss: str = "squared_error",
        quantile: float = 0.5,
        epsilon: float = 0.3,
        solver: str = "auto",
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.2,
        extrapolation: float | None = 0.25,
        standardize: bool = True,
        log_tails: bool | str = "auto",
        distances: bool | str = "auto",
        fit_intercept: bool = True,
        linear_term: bool = False,
        tol: float = 1e-4,
        max_iter: int = 1,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.alpha = alpha
        self.n_grades = n_grades
        self.alpha_decay = alpha_decay
        self.passthrough = passthrough
        self.keep_inputs = keep_inputs
        self.first_bias = first_bias
        self.correction = correction
        self.whiten = whiten
        self.refinement = refinement
        self.activation = activation
        self.patterns = patterns
        self.n_patterns = n_patterns
        self.max_neurons = max_neurons
        self.loss = loss
        self.quantile = quantile
        self.epsilon = epsilon
        self.solver = solver
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.extrapolation = extrapolation
        self.standardize = standardize
        self.log_tails = log_tails
        self.distances = distances
        self.fit_intercept = fit_intercept
        self.linear_term = linear_term
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs

    def _plan(self, alpha: float) -> ChainPlan:
        if self.refinement == "pointwise" and self.correction != "none":
            raise ValueError(
                f"refinement='pointwise' and correction={self.correction!r} exclude each other: a "
                f"correction moves the grades that the constraints were made for."
            )
        if self.refinement == "pointwise" and self.loss != "squared_error":
            raise ValueError(
                f"refinement='pointwise' needs loss='squared_error'; this is loss={self.loss!r}."
            )
        plan = super()._plan(alpha)
        return replace(plan, settings=replace(plan.settings, refinement=self.refinement))
