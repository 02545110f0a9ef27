"""The chain for classification."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.deep import DEPTH
from convexgrade.estimators.held_out import PENALTY, STOPPING, ManyGrades
from convexgrade.estimators.staged import StagedClassifier
from convexgrade.estimators.targets import CLASSIFICATION


class MultigradeClassifier(StagedClassifier, ManyGrades):
    """A chain of certified one-hidden-layer ReLU networks for classification.

    The chain of `MultigradeRegressor` under the log loss: each grade adds to the log-odds of the
    grades before it.

    Parameters
    ----------
    alpha : float or "auto", default="auto"
        Penalty of the first grade, positive. ``"auto"`` is min(0.01, 0.1 sqrt(d / n)) for d columns that
        vary and n rows (see ``sample_weight``): a tenth of the price that noise alone would give to a
        neuron, where that is less than 0.01. Where rows are held out, it is the one of 0.3, 1, 3 and 10
        times that which does best on them; or a larger one, each three times the last, while the last
        is the best or a constant is better than all.
    n_grades : int, default=3
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
        Certificates then no longer show optimal grades. For ``loss="log_loss"`` alone.
    whiten : bool, default=False
        Whether the grades after the first read uncorrelated columns instead of merely standardised
        ones. It opens functions that vary fast to the search and the penalty: much better where y
        is such a function of few inputs, without noise.
    activation : {"relu", "gated_relu"}, default="relu"
        As in `ConvexReLURegressor`.
    patterns : {"adaptive", "sampled", "exhaustive"}, default="adaptive"
        Where activation patterns come from. Later grades mostly read too many features to list all.
    n_patterns : int, default=300
        Patterns to sample, or neurons of the first search: no more than rows times outputs, and fewer
        where rows times columns of what a grade reads are more than a few hundred thousand.
    max_neurons : int, default=None
        Width limit of a grade; None sets none.
    loss : {"log_loss", "squared_hinge", "hinge"}, default="log_loss"
        Negative log-likelihood; or, without probabilities, hinges of the margins of each class against
        all others. The kink of the hinge is smoothed within 1e-3.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class, times the weights of its rows; ``"balanced"`` gives every class the same
        total weight.
    solver : {"auto", "native", "clarabel", "ecos", "scs"}, default="auto"
        Solver of the convex program.
    early_stopping : bool or "auto", default="auto"
        Hold out rows, stratified, stop where a grade raises their loss by more than half a standard
        error, then fit a chain of that depth to all rows. ``"auto"`` does so from 20 rows on, for
        more than one grade.
    validation_fraction : float, default=0.2
        Fraction held out at a time, in (0, 1): up to five times, other rows each time, where that is
        less than 1000 rows.
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
        Fit an unpenalised linear term in every grade. Where that alone separates the classes of the
        training rows, probabilities are all but 0 and 1.
    tol : float, default=1e-4
        Relative gap at which a grade counts as optimal; at most 1.
    max_iter : int, default=1
        Largest number of rounds of search and solve in a grade.
    warm_start : bool, default=False
        Keep the fitted grades and add the missing ones when ``n_grades`` has grown. Parameters of the
        loss, and of what grades read and hand on, must be as they were. (A ``correction`` then moves
        all grades.)
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
    classes_ : ndarray of shape (n_classes,)
        Class labels, but for those whose rows all have weight 0.
    grades_ : tuple of Grade
        The grades.
    certificates_ : list of Certificate
        How far from optimal each grade can be, given those before it.
    n_grades_ : int
        Number of grades.
    stop_reason_ : str
        Why there are no more.
    network_ : DeepNetwork
        Explicit weights in the units of the data; its output is log-odds (margins, with hinges).
    train_loss_ : ndarray of shape (``n_grades_``,)
        Mean training loss after each grade.
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
    MultigradeClassifierCV : Tries more penalties.
    ConvexReLUClassifier : One grade.
    certify : Recompute the certificates, on these or other rows.
    correct : Move the grades of a fitted chain, all together.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from convexgrade import MultigradeClassifier
    >>> X, y = make_moons(100, noise=0.1, random_state=0)
    >>> model = MultigradeClassifier(n_grades=2, alpha=0.01, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseChain._parameter_constraints,
        **CLASSIFICATION,
        **PENALTY,
        **DEPTH,
        **STOPPING,
    }

    def __init__(
        self,
        alpha: float | str = "auto",
        *,
        n_grades: int = 3,
        alpha_decay: float = 0.3,
        passthrough: str = "hidden",
        keep_inputs: bool = True,
        first_bias: bool = True,
        correction: str = "none",
        whiten: bool = False,
        activation: str = "relu",
        patterns: str = "adaptive",
        n_patterns: int = 300,
        max_neurons: int | None = None,
        loss: str = "log_loss",
        class_weight: dict[Any, float] | str | None = None,
        solver: str = "auto",
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.2,
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
        self.activation = activation
        self.patterns = patterns
        self.n_patterns = n_patterns
        self.max_neurons = max_neurons
        self.loss = loss
        self.class_weight = class_weight
        self.solver = solver
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
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
