"""Alpha and depth by cross-validation, paths of alpha, class weights."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from joblib import parallel_config
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from convexgrade import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeClassifierCV,
    MultigradeRegressor,
    MultigradeRegressorCV,
    alpha_path,
    certify,
    selection,
)
from convexgrade.chain import Data
from convexgrade.estimators import cross_validated
from convexgrade.kinks import AbsoluteError
from convexgrade.losses import SquaredError
from convexgrade.selection import Tried, usual_alpha
from tests.samples import make_data, targets

SQUARED = SquaredError()
CROSS_VALIDATED = [MultigradeRegressorCV, MultigradeClassifierCV]
SMALL = {"n_patterns": 5, "cv": 2, "tol": 0.5, "random_state": 0, "distances": False}
# The contract is about the interface: the cheapest chain will do.
QUICK = {
    "alphas": [0.05],
    "n_grades": 1,
    "cv": 2,
    "activation": "gated_relu",
    "patterns": "sampled",
    "n_patterns": 3,
    "tol": 0.5,
    "distances": False,
    "random_state": 0,
}


@parametrize_with_checks([estimator(**QUICK) for estimator in CROSS_VALIDATED])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
# scikit-learn's own: the checks have classes of a single row, which a stratified fold cannot hold.
@pytest.mark.filterwarnings("ignore:The least populated class in y has only:UserWarning")
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def coded(estimator, y):
    return targets(estimator, y) if estimator is MultigradeClassifierCV else y


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("estimator", CROSS_VALIDATED)
def test_groups_stay_together(estimator, weighted):
    X, y = make_data()
    weight = np.where(np.arange(len(X)) < 3, 0.0, 2.0) if weighted else None
    y, groups = coded(estimator, y), np.array([f"patient {i % 7}" for i in range(len(X))])
    parameters = QUICK
    model = estimator(**parameters | {"cv": GroupKFold(3)}).fit(X, y, weight, groups=groups)
    splits = list(GroupKFold(3).split(X, y, groups))
    expected = estimator(**parameters | {"cv": splits}).fit(X, y, weight)
    for name, column in expected.cv_results_.items():
        np.testing.assert_array_equal(model.cv_results_[name], column)


def test_groups_are_asked_for_and_routed():
    X, y = make_data()
    groups = np.arange(len(X)) % 7
    model = MultigradeRegressorCV(**QUICK | {"cv": GroupKFold(2)})
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y, groups=groups[1:])
    for cv, name in ((2, "cv=2"), (list(KFold(2).split(X)), "cv, a list of splits,")):
        with pytest.raises(ValueError, match=f"groups are given, but {name} does not read them"):
            MultigradeRegressorCV(**QUICK | {"cv": cv}).fit(X, y, groups=groups)
    with pytest.raises(
        ValueError, match="fold 1 of cv has training or validation rows without weight"
    ):
        MultigradeRegressorCV(**QUICK | {"cv": [([0, 1], [2]), (np.arange(40), [])]}).fit(X, y)
    classes = MultigradeClassifierCV(**QUICK | {"cv": [(np.arange(20), np.arange(20, 40))]})
    with pytest.warns(
        UserWarning, match=r"fold 0 of cv has .* that its training rows lack, \['b'\]"
    ):
        classes.fit(X[:40], np.repeat(["a", "b"], 20))
    with config_context(enable_metadata_routing=True):
        asking = model.set_fit_request(groups=True)
        pipeline = make_pipeline(StandardScaler(), asking).fit(X, y, groups=groups)
    direct = clone(model).fit(StandardScaler().fit_transform(X), y, groups=groups)
    np.testing.assert_array_equal(pipeline[-1].alphas_, direct.alphas_)
    for name, column in direct.cv_results_.items():
        np.testing.assert_array_equal(pipeline[-1].cv_results_[name], column)


@pytest.mark.parametrize("estimator", CROSS_VALIDATED)
def test_the_table_holds_the_validation_losses_of_chains_fitted_on_the_folds(estimator):
    X, y = make_data()
    y = coded(estimator, y)
    folds = list(KFold(2, shuffle=True, random_state=1).split(X))
    parameters = {**SMALL, "n_patterns": 10, "cv": folds, "n_grades": 2, "alpha_decay": 0.5}
    model = estimator(alphas=[0.05], **parameters).fit(X, y)
    assert model.cv_results_["param_alpha"].tolist() == [0.05, 0.05]
    assert model.cv_results_["param_n_grades"].tolist() == [1, 2]
    single = MultigradeRegressor if estimator is MultigradeRegressorCV else MultigradeClassifier
    scale = y.std() if estimator is MultigradeRegressorCV else 1.0
    center = y.mean() if estimator is MultigradeRegressorCV else 0.0
    for k, (train, held_out) in enumerate(folds):
        chain = single(
            0.05,
            n_grades=2,
            alpha_decay=0.5,
            n_patterns=10,
            tol=1e-2,
            max_iter=1,
            random_state=0,
            distances=False,
            early_stopping=False,
        )
        chain.fit(X[train], (y[train] - center) / scale if scale != 1.0 else y[train])
        if estimator is MultigradeRegressorCV:
            expected = [
                0.5 * np.mean((p - (y[held_out] - center) / scale) ** 2)
                for p in chain.staged_predict(X[held_out])
            ]
        else:
            expected = [log_loss(y[held_out], p) for p in chain.staged_predict_proba(X[held_out])]
        # The coding of regression targets differs by the standardisation of the fold: a per cent.
        measured = -model.cv_results_[f"split{k}_test_score"]
        np.testing.assert_allclose(measured, expected, rtol=0.2)
    held_out = -model.cv_results_["mean_test_score"][: model.n_grades_]
    np.testing.assert_allclose(model.validation_loss_, held_out, rtol=1e-12)


@pytest.mark.parametrize("estimator", CROSS_VALIDATED)
def test_the_best_row_of_the_table_is_refitted(estimator):
    X, y = make_data()
    y = coded(estimator, y)
    model = estimator(n_grades=2, n_alphas=3, eps=0.3, **SMALL | {"tol": 1e-4}).fit(X, y)
    table = model.cv_results_
    best = int(np.argmax(table["mean_test_score"]))
    assert table["rank_test_score"][best] == 1
    assert (model.alpha_, model.n_grades_) == (
        table["param_alpha"][best],
        table["param_n_grades"][best],
    )
    splits = np.column_stack([table[f"split{i}_test_score"] for i in range(2)])
    np.testing.assert_allclose(table["mean_test_score"], splits.mean(axis=1))
    np.testing.assert_allclose(table["std_test_score"], splits.std(axis=1))
    assert (np.diff(model.alphas_) < 0).all()
    assert [grade.alpha for grade in model.grades_] == pytest.approx(
        [model.alpha_ * 0.3**k for k in range(model.n_grades_)]
    )
    again = certify(model, X, y)
    assert [c.primal for c in again] == pytest.approx([c.primal for c in model.certificates_])
    assert all(c.relative_gap < 1e-4 for c in again)


@pytest.mark.parametrize("estimator", CROSS_VALIDATED)
def test_the_path_leads_through_the_penalty_of_plain_chains(estimator):
    X, y = make_data(40)
    y = coded(estimator, y)
    parameters = QUICK | {"alphas": None, "n_alphas": 4}
    model = estimator(**parameters, eps=1e-3).fit(X, y)
    assert usual_alpha(40, X.shape[1]) in model.alphas_
    np.testing.assert_allclose(model.alphas_[1:] / model.alphas_[:-1], 1e-3 ** (1 / 4))
    short = estimator(**parameters, eps=0.9).fit(X, y)  # all of it far above
    assert short.alphas_.min() > 2.0 * usual_alpha(40, X.shape[1])


@pytest.mark.parametrize(
    ("usual", "moved"), [(-0.4, False), (-0.6, True), (-1.4, True), (-2.4, True), (-2.6, False)]
)
def test_a_path_is_moved_by_no_more_than_half_a_step(usual, moved, monkeypatch):
    monkeypatch.setattr(selection, "first_price", lambda data, plan: 1.0)
    path = selection.path_of_alphas(None, None, 2, 1e-2, 10.0**usual).values
    np.testing.assert_allclose(path[1], 0.1 * path[0])
    assert np.isclose(path, 10.0**usual).any() == moved
    assert np.isclose(path[0], 0.1) == (not moved)


# Processes start slowly: one estimator's folds are shared out by threads.
@pytest.mark.parametrize(
    ("estimator", "backend"),
    [(MultigradeRegressorCV, "threading"), (MultigradeClassifierCV, "loky")],
)
def test_neither_processes_nor_the_order_of_rows_nor_copies_change_the_choice(estimator, backend):
    X, y = make_data(40)
    y = coded(estimator, y)
    model = estimator(**SMALL, alphas=[0.3, 0.1], n_grades=2)
    weighted = clone(model).fit(X, y, sample_weight=np.repeat([2.0, 1.0], [10, 30]))
    copies = np.concatenate([np.arange(40), np.arange(10)])
    rows = np.random.default_rng(0).permutation(copies)
    with parallel_config(backend=backend):
        doubled = clone(model).set_params(n_jobs=2).fit(X[rows], y[rows])
    np.testing.assert_array_equal(doubled.predict(X), weighted.predict(X))
    for name in ("mean_test_score", "param_alpha"):
        np.testing.assert_array_equal(doubled.cv_results_[name], weighted.cv_results_[name])


def test_copies_of_a_row_in_other_classes_tell_their_shares():
    """Held out together, the copies of one class leave those of the others to claim all of it."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (600, 2)).astype(float)
    share = np.array([[0.2, 0.4], [0.9, 0.3]])[X[:, 0].astype(int), X[:, 1].astype(int)]
    y = rng.random(600) < share
    counted, copy_of = np.unique(np.column_stack([X, y]), axis=0, return_inverse=True)
    parameters = {**SMALL, "alphas": [0.1, 0.003], "n_grades": 1}
    model = MultigradeClassifierCV(**parameters).fit(X, y)
    assert model.alpha_ == 0.003
    observed = np.array([y[(x == X).all(axis=1)].mean() for x in X])
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], observed, atol=0.06)
    counts = MultigradeClassifierCV(**parameters)
    counts.fit(counted[:, :2], counted[:, 2] > 0, sample_weight=np.bincount(copy_of))
    np.testing.assert_allclose(
        counts.cv_results_["mean_test_score"], model.cv_results_["mean_test_score"]
    )
    fractions = MultigradeClassifierCV(**parameters)
    fractions.fit(X, y, sample_weight=np.full(600, 0.5))
    assert fractions.alpha_ == 0.003
    chain = MultigradeClassifier(
        n_grades=1, early_stopping=True, validation_fraction=0.5, n_patterns=5, random_state=0
    ).fit(X, y)
    np.testing.assert_allclose(chain.predict_proba(X)[:, 1], observed, atol=0.06)


def test_the_path_ends_once_alpha_has_fallen_far_without_a_gain():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 3)), rng.standard_normal(60)  # nothing to learn
    parameters = {**SMALL, "cv": 3, "alphas": np.geomspace(1e-4, 10.0, 8), "n_grades": 1}
    model = MultigradeRegressorCV(**parameters).fit(X, y)
    least = -model.cv_results_["mean_test_score"]
    assert len(model.alphas_) < 8
    assert least[-2:].min() >= least[:-2].min()
    assert model.alphas_[-1] <= model.alpha_ / 30.0 < model.alphas_[-2]
    assert model.alpha_ > 0.05


def test_an_alpha_that_leaves_no_neuron_is_the_first_of_the_path():
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((60, 8)), rng.standard_normal(60)  # nothing to learn
    model = MultigradeRegressorCV(**SMALL | {"n_alphas": 2, "n_grades": 1}).fit(X, y)
    assert len(model.alphas_) == 3
    assert (np.diff(model.alphas_) < 0.0).all()


def test_verbose_prints_a_line_for_every_alpha_and_grade(capsys):
    X, y = make_data(30)
    MultigradeRegressorCV(**QUICK | {"alphas": [0.1, 0.2], "verbose": 1}).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    for first, alpha in ((0, 0.2), (3, 0.1)):
        assert lines[first] == f"alpha={alpha}:"
        assert lines[first + 1].startswith("Grade 1: validation loss 0.")
        assert lines[first + 2] == "The one grade was fitted."


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alphas": [0.1, -1.0]}, r"alphas=\[0.1, -1.0\] must be a sequence of positive numbers"),
        ({"alphas": []}, r"alphas=\[\] must be a sequence of positive numbers"),
        ({"alphas": [np.inf]}, r"alphas=\[inf\] must be a sequence of positive numbers"),
        ({"alphas": [0.1], "cv": []}, r"cv=\[\] has no folds; an iterator serves one fit"),
        (
            {"alphas": [0.1], "cv": [(np.arange(20), np.arange(20, 61))]},
            "fold 0 of cv has rows from 20 to 60, but there are 60 rows: they must be numbered from 0",
        ),
        (
            {"alphas": [0.1], "cv": [([], [1])]},
            "fold 0 of cv has training or validation rows without",
        ),
        ({"eps": 1.0}, "'eps' parameter of MultigradeRegressorCV must be a float in the range"),
        (
            {"alphas": [0.1], "cv": [([0.5], [1])]},
            "fold 0 of cv has rows of type float64; they must be integers or a mask",
        ),
        (
            {"cv": 61},
            "cv=61 asks for 61 folds, more than there are rows of positive weight: n_samples=60",
        ),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    X, y = make_data()
    with pytest.raises(ValueError, match=message):
        MultigradeRegressorCV(n_patterns=10, **parameters).fit(X, y)


def test_too_few_rows_of_every_class_are_told():
    X, _ = make_data(12)
    message = "cv=None asks for 5 folds, more than there are rows of the largest class: n_samples=4"
    with pytest.raises(ValueError, match=message):
        MultigradeClassifierCV(n_patterns=3).fit(X, np.arange(12) % 3)


def test_a_class_of_fewer_rows_than_folds_is_no_error():
    X, _ = make_data(20)
    y = np.arange(20) % 2
    y[3] = 2
    with pytest.warns(UserWarning, match="The least populated class in y has only 1 members"):
        model = MultigradeClassifierCV(**QUICK).fit(X, y)
    assert model.classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("cv", "n_folds"), [(None, 2), (4, 4)])
def test_of_many_rows_two_folds_are_tried_unless_a_number_is_given(monkeypatch, cv, n_folds):
    monkeypatch.setattr(cross_validated, "_MANY", 40)
    X, y = make_data(40)
    parameters = QUICK | {"cv": cv}
    many = MultigradeRegressorCV(**parameters).fit(X, y)
    assert sum(name.startswith("split") for name in many.cv_results_) == n_folds
    few = MultigradeRegressorCV(**parameters).fit(X[1:], y[1:])
    assert sum(name.startswith("split") for name in few.cv_results_) == (cv or 5)


def test_a_fold_without_weight_is_refused():
    X, y = make_data(30)
    with pytest.raises(
        ValueError, match=r"fold \d of cv has training or validation rows without weight"
    ):
        MultigradeRegressorCV(cv=KFold(3)).fit(X, y, np.repeat([0.0, 1.0, 1.0], 10))


def test_chains_of_folds_end_at_a_trivial_grade_as_the_final_chain_does():
    X, y = make_data(40)
    trivial = (
        2.0 * alpha_path(ConvexReLURegressor(random_state=0), X, y, n_alphas=2, eps=0.9)[0].alpha
    )
    model = MultigradeRegressorCV(alphas=[trivial], n_grades=4, **SMALL).fit(X, y)
    # A second grade, of less alpha, would have neurons.
    scores = model.cv_results_["mean_test_score"]
    assert np.all(scores == scores[0])
    assert model.n_grades_ == 1
    assert "Grade 1 is trivial" in model.stop_reason_


def test_constant_targets_have_trivial_grades():
    X, _ = make_data(20)
    y = np.full(20, 3.0)
    model = MultigradeRegressorCV(n_alphas=2, **SMALL).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), y)
    for point in alpha_path(ConvexReLURegressor(n_patterns=5), X, y, n_alphas=2):
        np.testing.assert_array_equal(point.estimator.predict(X), y)


@pytest.mark.parametrize("kind", [tuple, list])
def test_folds_may_be_any_sequences_of_rows(kind):
    X, y = make_data(30)
    splits = list(KFold(3).split(X))
    model = MultigradeRegressorCV(**QUICK | {"cv": splits}).fit(X, y)
    folds = [(kind(train.tolist()), kind(test.tolist())) for train, test in splits]
    other = MultigradeRegressorCV(**QUICK | {"cv": folds}).fit(X, y)
    np.testing.assert_array_equal(
        other.cv_results_["mean_test_score"], model.cv_results_["mean_test_score"]
    )


def test_folds_may_count_rows_from_the_end():
    X, y = make_data(30)
    splits = list(KFold(3).split(X))
    model = MultigradeRegressorCV(**QUICK | {"cv": splits}).fit(X, y)
    folds = [(train - 30, test - 30) for train, test in splits]
    other = MultigradeRegressorCV(**QUICK | {"cv": folds}).fit(X, y)
    np.testing.assert_array_equal(
        other.cv_results_["mean_test_score"], model.cv_results_["mean_test_score"]
    )


def test_the_table_lists_parameters_as_searches_do():
    X, y = make_data(40)
    found = MultigradeRegressorCV(**QUICK | {"alphas": [0.2, 0.05], "n_grades": 2}).fit(X, y)
    table = found.cv_results_
    first = {"alpha": 0.2, "log_tails": False, "distances": False, "n_grades": 1}
    assert table["params"][0] == first
    for row, params in enumerate(table["params"]):
        assert params == {name: table[f"param_{name}"][row] for name in params}
    assert len(table["params"]) == len(table["mean_test_score"])


def judged(model):
    """Return the losses of the rows held out."""
    if isinstance(model, MultigradeClassifierCV):
        return -model.cv_results_["mean_test_score"]
    return model.validation_loss_


def test_what_classes_weigh_makes_no_copies_of_their_rows():
    """Copies in both parts of a fold would let labels without a rule be learned by heart."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
    parameters = {"n_patterns": 5, "tol": 0.5, "random_state": 0, "distances": False}
    for kind, penalties, more in (
        (MultigradeClassifierCV, [0.05, 0.01], {"n_grades": 1, "cv": 2}),
        (MultigradeClassifier, 0.03, {"n_grades": 2, "validation_fraction": 0.5}),
    ):
        one, ten, twice, two = (
            kind(penalties, **parameters, **more, class_weight=share).fit(X[rows], y[rows], weights)
            for share, rows, weights in (
                (None, slice(None), None),
                ({0: 10, 1: 10}, slice(None), None),
                ("balanced", np.tile(np.arange(40), 2), None),
                ("balanced", slice(None), np.full(40, 2.0)),
            )
        )
        assert (one.alpha_, one.n_grades_) == (ten.alpha_, ten.n_grades_)
        np.testing.assert_allclose(one.decision_function(X), ten.decision_function(X), atol=1e-6)
        assert (two.alpha_, two.n_grades_) == (twice.alpha_, twice.n_grades_)
        np.testing.assert_allclose(two.decision_function(X), twice.decision_function(X), atol=1e-6)
        np.testing.assert_allclose(judged(two), judged(twice), rtol=1e-6)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "log_loss"])
def test_a_class_that_a_fold_lacks_does_not_decide(loss):
    X, y = make_data(40)
    y = (y > np.median(y)).astype(int)
    parameters = {**SMALL, "alphas": [0.1], "n_grades": 1, "loss": loss, "cv": KFold(2)}
    without = MultigradeClassifierCV(**parameters).fit(X, y).cv_results_["mean_test_score"]
    y[4] = 2
    with pytest.warns(UserWarning, match=r"fold 0 of cv .* that its training rows lack, \[2\]"):
        found = MultigradeClassifierCV(**parameters).fit(X, y).cv_results_["mean_test_score"]
    assert np.abs(found - without).max() < 3.0


def test_a_class_that_has_no_weight_in_a_fold_is_one_that_it_lacks():
    X, _ = make_data(40)
    y, weights = np.arange(40) % 2, np.ones(40)
    y[[4, 30]] = 2
    weights[30] = 0.0
    model = MultigradeClassifierCV(**QUICK | {"cv": KFold(2)})
    with pytest.warns(UserWarning, match=r"fold 0 of cv .* that its training rows lack, \[2\]"):
        model.fit(X, y, weights)


def test_the_reason_to_stop_is_that_of_the_folds():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 3))
    y = X[:, 0] + rng.standard_normal(60)
    model = MultigradeRegressorCV(**SMALL | {"alphas": [0.01], "n_grades": 4}).fit(X, y)
    assert model.n_grades_ < 4
    dropped = f"Grade {model.n_grades_ + 1} raised the validation loss by more than its noise"
    assert model.stop_reason_ == f"{dropped} and was dropped."


def test_a_path_of_one_is_the_usual_alpha():
    X, y = make_data(40)
    model = MultigradeRegressorCV(**QUICK | {"alphas": None, "n_alphas": 1}).fit(X, y)
    assert model.alphas_ == [usual_alpha(*X.shape)]


@pytest.mark.parametrize("patterns", ["adaptive", "exhaustive"])
@pytest.mark.parametrize("estimator", [ConvexReLURegressor, ConvexReLUClassifier])
def test_a_path_runs_from_the_trivial_grade_with_certificates(estimator, patterns):
    X, y = make_data(12)
    y = np.digitize(y, np.quantile(y, [0.5])) if estimator is ConvexReLUClassifier else y
    template = estimator(n_patterns=8, patterns=patterns, random_state=0)
    path = alpha_path(template, X, y, n_alphas=3, eps=1e-2)
    alphas = np.array([point.alpha for point in path])
    np.testing.assert_allclose(alphas[1:] / alphas[:-1], 1e-2**0.5)
    assert path[0].estimator.grades_[0].n_neurons == 0
    assert path[1].estimator.grades_[0].n_neurons > 0
    objectives = [point.certificate.primal for point in path]
    assert (np.diff(objectives) < 0).all()
    for point in path:
        assert point.certificate.relative_gap < 1e-4
        assert certify(point.estimator, X, y)[0].primal == pytest.approx(point.certificate.primal)
        assert point.estimator.get_params() == {**template.get_params(), "alpha": point.alpha}
        if patterns == "exhaustive":
            cold = clone(template).set_params(alpha=point.alpha).fit(X, y)
            assert point.certificate.primal == pytest.approx(cold.certificate_.primal, rel=1e-4)


def test_a_path_says_what_it_needs():
    X, y = make_data(20)
    with pytest.raises(TypeError, match="one grade; got MultigradeRegressor"):
        alpha_path(MultigradeRegressor(), X, y)
    for parameters, message in (
        ({"n_alphas": 1}, "n_alphas == 1, must be >= 2"),
        ({"eps": 2.0}, "eps == 2.0, must be < 1.0"),
        ({"alphas": ["a"]}, r"alphas=\['a'\] must be a sequence of positive numbers"),
        ({"alphas": [0.0]}, r"alphas=\[0.0\] must be a sequence of positive numbers"),
        ({"alphas": 0.1}, r"alphas=0.1 must be a sequence of positive numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            alpha_path(ConvexReLURegressor(), X, y, **parameters)
    for parameters in ({"loss": "mse"}, {"loss": "quantile", "quantile": 1.5}):
        with pytest.raises(ValueError, match="parameter of ConvexReLURegressor must be"):
            alpha_path(ConvexReLURegressor(**parameters), X, y)
    for parameters, message in (
        ({"n_alphas": 2.5}, "n_alphas must be"),
        ({"eps": "s"}, "eps must be"),
    ):
        with pytest.raises(TypeError, match=message):
            alpha_path(ConvexReLURegressor(), X, y, **parameters)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_class_weights_are_sample_weights(n_classes):
    X, y = make_data(40)
    y = np.digitize(y, np.quantile(y, [0.2] if n_classes == 2 else [0.2, 0.5]))
    share = np.bincount(y)[y]
    given = {label: float(label + 1) for label in range(n_classes)}
    parameters = {"alpha": 0.05, "patterns": "sampled", "n_patterns": 5, "random_state": 0}
    for class_weight, weights in (("balanced", 1.0 / share), (given, y + 1.0)):
        weighted = ConvexReLUClassifier(class_weight=class_weight, **parameters).fit(X, y)
        expected = ConvexReLUClassifier(**parameters).fit(X, y, sample_weight=weights)
        np.testing.assert_allclose(weighted.predict_proba(X), expected.predict_proba(X), rtol=1e-3)
        assert weighted.certificate_.primal == pytest.approx(expected.certificate_.primal, rel=1e-7)
        recomputed = certify(weighted, X, y)[0]
        assert recomputed.primal == pytest.approx(weighted.certificate_.primal)
    for wrong in (-1.0, np.nan, np.inf, "a"):
        with pytest.raises(
            ValueError, match=r"class_weight=.* must have non-negative finite numbers"
        ):
            ConvexReLUClassifier(class_weight={0: wrong, 1: 1.0}).fit(X, np.minimum(y, 1))


def test_only_ratios_of_class_weights_count():
    X, y = make_data(30)
    labels = (y > np.median(y)).astype(int)
    quick = {"alpha": 0.05, "patterns": "sampled", "n_patterns": 3, "random_state": 0}
    usual, huge = (
        ConvexReLUClassifier(**quick, class_weight={0: unit, 1: 1.5 * unit}).fit(X, labels)
        for unit in (1.0, 1e308)
    )
    np.testing.assert_allclose(huge.predict_proba(X), usual.predict_proba(X), rtol=1e-6)


def test_balanced_weights_find_a_rare_class():
    X, y = make_classification(400, 5, weights=[0.93], class_sep=0.6, random_state=0)
    parameters = {"alpha": 0.02, "n_patterns": 5, "tol": 0.1, "random_state": 0}
    recall = {
        class_weight: np.mean(
            ConvexReLUClassifier(class_weight=class_weight, **parameters)
            .fit(X, y)
            .predict(X)[y == 1]
        )
        for class_weight in (None, "balanced")
    }
    assert recall["balanced"] > recall[None] + 0.2


def test_validation_losses_are_those_of_predictions():
    """A row far out, alone in its fold, counts as what is predicted there."""
    rng = np.random.default_rng(0)
    X = np.append(rng.uniform(-1.0, 1.0, 40), 1e4)[:, None]
    y = np.append(np.abs(X[:40, 0]), 1.0)
    folds = [(np.arange(40), np.array([40]))]
    model = MultigradeRegressorCV(
        alphas=[0.01], n_grades=1, cv=folds, n_patterns=5, extrapolation=0.0, random_state=0
    ).fit(X, y)
    low, high = y.min(), y.max()
    assert -model.cv_results_["mean_test_score"][0] <= 0.5 * ((high - low) / y.std()) ** 2


@cache
def fitted():
    return MultigradeRegressorCV(**QUICK).fit(*make_data(20))


def selected(losses, alphas, usual, constant, monkeypatch, loss=SQUARED):
    """Return what is chosen if chains of one grade, and a constant, have these losses."""
    (X, y), model = make_data(20), fitted()
    rows = Data(X[:4], y[:4, None], np.full(4, 0.25))
    chain = model._progress

    def deepen(folds, plan, *args, **kwargs):
        at = np.array(losses[alphas.index(plan.alpha)], dtype=float)
        yield Tried(plan.alpha, (chain,), (at.mean(),), ((at.mean(),),), at, "Enough.")

    monkeypatch.setattr(selection, "deepen", deepen)
    monkeypatch.setattr(selection, "loss_of_constants", lambda folds, loss: constant)
    folds = [selection.Fold(rows, rows)]
    plan, handover = replace(model._plan(model.alpha_), loss=loss), model._handover()
    tried = selection.Alphas(np.array(alphas), usual)
    return selection.select(folds, plan, handover, tried, None, lambda line: None)


@pytest.mark.parametrize(
    ("losses", "usual", "constant", "alpha"),
    [
        ([[5, 5, 5, 5], [4, 4, 4, 4]], 0.1, 9, 0.01),
        ([[4, 4, 4, 4], [4, 4, 4, 4]], 0.05, 9, 0.1),  # nearest by its factor
        ([[4, 4, 4, 4], [4, 4, 4, 4]], 0.02, 9, 0.01),
        ([[4.74, 3.74, 4.74, 3.74], [4, 4, 4, 4]], 0.1, 9, 0.1),  # 0.24 more, standard error 0.25
        ([[4.74, 3.74, 4.74, 3.74], [4, 4, 4, 4]], 0.1, 4, 0.01),  # the usual is no guess here
        ([[4.74, 3.74, 4.74, 3.74], [4, 4, 4, 4]], 0.01, 9, 0.01),
        ([[4.76, 3.76, 4.76, 3.76], [4, 4, 4, 4]], 0.1, 9, 0.01),
        ([[4.76, 3.76, 4.76, 3.76], [4, 4, 4, 4]], 0.001, 9, 0.01),
        ([[4, 4, 4, 4], [4.74, 3.74, 4.74, 3.74]], 0.01, 9, 0.01),
        ([[4, 4, 4, 4], [4.23, 3.73, 4.23, 3.73]], 0.04, 9, 0.1),  # .2 of a factor of ten further
        ([[4, 4, 4, 4], [4.22, 3.72, 4.22, 3.72]], 0.04, 9, 0.01),  # .2 of the error is 0.0255
    ],
)
def test_what_rows_can_hardly_tell_apart_goes_to_the_usual_alpha(
    losses, usual, constant, alpha, monkeypatch
):
    chosen = selected(losses, [0.1, 0.01], usual, constant, monkeypatch)
    assert chosen.alpha == alpha
    assert chosen.depth == 1
    assert [result.alpha for result in chosen.results] == [0.1, 0.01]


def test_the_best_alpha_is_taken_under_other_losses(monkeypatch):
    losses = [[4.74, 3.74, 4.74, 3.74], [4, 4, 4, 4]]
    assert selected(losses, [0.1, 0.01], 0.1, 9, monkeypatch, AbsoluteError()).alpha == 0.01


def test_a_fold_may_have_classes_whose_rows_have_no_weight():
    X = np.random.default_rng(0).standard_normal((60, 2))
    labels = np.digitize(X[:, 0] + X[:, 1] ** 2, [0.0, 1.0])
    weights = (labels < 2).astype(float)
    model = MultigradeClassifierCV(**QUICK | {"cv": KFold(2)})
    model.fit(X, labels, sample_weight=weights)
    np.testing.assert_array_equal(model.classes_, [0, 1])


def test_a_path_of_what_only_rounding_leaves_has_usual_penalties():
    X, _ = make_data()
    template = ConvexReLURegressor(linear_term=True, n_patterns=5, random_state=0)
    path = alpha_path(template, X, 3.0 * X[:, 0] + 1.0, n_alphas=2)
    assert [point.alpha for point in path] == pytest.approx([1.0, 1e-3])
    with pytest.raises(ValueError, match="eps == nan, must be > 0"):
        alpha_path(template, X, X[:, 0], eps=np.nan)
