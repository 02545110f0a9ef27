"""The chain for regression with alpha and depth chosen by cross-validation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from convexgrade.estimators.cross_validated import CrossValidated
from convexgrade.estimators.staged import StagedRegressor
from convexgrade.estimators.targets import REGRESSION


class MultigradeRegressorCV(StagedRegressor, CrossValidated):
    """`MultigradeRegressor` with alpha and depth chosen by cross-validation, in one fit.

    Goes along one decreasing path of alpha. At each, the chains of all folds grow together, grade by
    grade, until their mean validation loss rises by more than its noise. The alpha of least loss is then
    fitted to all rows, as deep as its folds grew. Under the squared error, one that is a factor of ten
    from the usual alpha has to be better than that by a standard error, nearer ones by less. Far cheaper
    than a grid search, which fits a chain of every depth, and closely. A given depth, more grades in a
    further fit and refinement are left to `MultigradeRegressor`.

    Parameters
    ----------
    alphas : array-like of shape (n_alphas,), default=None
        Values of alpha to try in the first grade, positive. None: ``n_alphas`` values in geometric
        progression, the largest below the one at which the first grade has no neuron, the smallest
        about ``eps`` times that: moved by up to half a step so that the usual alpha of the plain
        chain is among them, if it is so near. (Of one value, it is the usual alpha.) Where a constant
        is better than all of them, one that leaves no neuron is tried as well.
    n_alphas : int, default=6
        Number of values, without ``alphas``.
    eps : float, default=1e-3
        Smallest alpha, without ``alphas``, as a fraction of the one at which the first grade has no
        neuron, about; in (0, 1).
    n_grades : int, default=4
        Largest number of grades to try. To a row to come, those after the first add no more and no
        less than to training rows.
    alpha_decay : float, default=0.3
        Factor of alpha from each grade to the next, positive.
    cv : int, cross-validation generator or iterable, default=None
        Folds: shuffled; None is 5, of which from 5000 rows on the first 2 are tried. Generators and
        iterables of (train, test) rows are taken as they are; generators get the ``groups`` of `fit`.
    passthrough : {"hidden", "output", "both"}, default="hidden"
        What a grade hands on to the next: its hidden features, the output of the chain so far, or
        both.
    keep_inputs : bool, default=True
        Whether the grades after the first read X as well.
    first_bias : bool, default=True
        Whether the neurons of the first grade have biases.
    correction : {"none", "readouts", "backward"}, default="none"
        What happens once all grades are fitted: nothing; all readouts are fitted again, jointly; or the
        grades are moved as well (see `MultigradeRegressor` and `correct`). Only if that lowers the mean
        loss of the rows held out: the chosen chains of all folds are corrected first. Not for
        losses with kinks (absolute error, quantiles, Huber's).
    whiten : bool, default=False
        Whether the grades after the first read uncorrelated columns instead of merely standardised
        ones.
    activation : {"relu", "gated_relu"}, default="relu"
        As in `ConvexReLURegressor`.
    patterns : {"adaptive", "sampled", "exhaustive"}, default="adaptive"
        Where activation patterns come from.
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
        others are read as they are. ``"auto"``: unless the folds show that it is better not to. Without
        effect on ``standardize=False``, which keeps all columns as they are.
    distances : bool or "auto", default="auto"
        Whether grades read, beside the columns, how far each is from its mean (not those of two
        values). ``"auto"``: if the folds show that it is better.
    fit_intercept : bool, default=True
        Fit an unpenalised intercept in every grade.
    linear_term : bool, default=False
        Fit an unpenalised linear term in every grade.
    tol : float, default=1e-4
        Gap, as a fraction of the loss before the grade, at which a grade counts as optimal; at most 1.
    max_iter : int, default=1
        Largest number of rounds of search and solve in a grade.
    random_state : int, RandomState instance or None, default=None
        Determines patterns, starts and folds.
    verbose : int, default=0
        1 prints a line for every alpha and depth and for every grade of the final chain; 2 one for
        each round of search and solve as well.
    n_jobs : int or None, default=None
        Processes that the folds are shared out to, and threads of the search for better neurons in
        the fit to all rows. The result does not depend on it.

    Attributes
    ----------
    alpha_ : float
        The alpha of the first grade that was chosen.
    alphas_ : ndarray
        The values that were tried, decreasing; the path ends early, once alpha has fallen by a
        factor of 30 without a gain.
    n_grades_ : int
        Number of grades of the final chain.
    cv_results_ : dict of str to ndarray
        One row for each alpha, reading of the columns and depth, laid out as in scikit-learn's searches.
    grades_ : tuple of Grade
        The grades of the final chain.
    certificates_ : list of Certificate
        How far from optimal each grade can be, given those before it.
    stop_reason_ : str
        Why there are no more grades.
    network_ : DeepNetwork
        Explicit weights in the units of the data.
    prediction_range_ : tuple of two ndarray of shape (n_outputs,)
        Least and greatest prediction of each output (see ``extrapolation``).
    train_loss_ : ndarray of shape (``n_grades_``,)
        Mean training loss after each grade.
    validation_loss_ : ndarray of shape (``n_grades_``,)
        Mean loss, after each grade, of the rows held out, over the folds at ``alpha_``; empty after
        `correct`.
    energy_ : list of Energy
        For each grade, where the squared error before it went.
    objective_path_ : ndarray
        Mean loss plus the penalties of all grades during correction (see `correct`); empty without.
    n_iter_ : int
        Rounds of search and solve of the grade that took most; at most ``max_iter``.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (``n_features_in_``,)
        Their names, if X had names.

    See Also
    --------
    MultigradeRegressor : The chain itself.
    alpha_path : One grade along a path of alpha.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import MultigradeRegressorCV
    >>> X = np.linspace(-2, 2, 60).reshape(-1, 1)
    >>> y = np.sin(3 * X[:, 0])
    >>> model = MultigradeRegressorCV(alphas=[0.1, 0.01], n_grades=2, cv=3, random_state=0).fit(X, y)
    >>> model.alpha_, model.n_grades_
    (0.01, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CrossValidated._parameter_constraints,
        **REGRESSION,
    }

    def __init__(
        self,
        alphas: ArrayLike | None = None,
        *,
        n_alphas: int = 6,
        eps: float = 1e-3,
        n_grades: int = 4,
        alpha_decay: float = 0.3,
        cv: Any = None,
        passthrough: str = "hidden",
        keep_inputs: bool = True,
        first_bias: bool = True,
        correction: str = "none",
        whiten: bool = False,
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
        log_tails: bool | str = "auto",
        distances: bool | str = "auto",
        fit_intercept: bool = True,
        linear_term: bool = False,
        tol: float = 1e-4,
        max_iter: int = 1,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.alphas = alphas
        self.n_alphas = n_alphas
        self.eps = eps
        self.n_grades = n_grades
        self.alpha_decay = alpha_decay
        self.cv = cv
        self.passthrough = passthrough
        self.keep_inputs = keep_inputs
        self.first_bias = first_bias
        self.correction = correction
        self.whiten = whiten
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
        self.log_tails = log_tails
        self.distances = distances
        self.fit_intercept = fit_intercept
        self.linear_term = linear_term
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs
