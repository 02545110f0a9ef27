"""Penalty and depth that chains choose by themselves: "auto" for alpha and early_stopping."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import RegressorMixin, clone

from convexgrade import (
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeClassifierCV,
    MultigradeRegressor,
    MultigradeRegressorCV,
    certify,
    multigrade,
    selection,
)
from convexgrade.chain import Data, staged_loss
from convexgrade.estimators.rows import Rows
from convexgrade.kinks import AbsoluteError
from convexgrade.losses import BinaryLogLoss, SquaredError
from convexgrade.selection import parts_held_out, usual_alpha
from convexgrade.solution import Status

CHAINS = [MultigradeRegressor, MultigradeClassifier]
HALF = {"validation_fraction": 0.5}  # rows are held out twice


def make_data(n=120, d=2, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.sin(2 * X[:, 0]) + np.abs(X[:, -1]) + noise * rng.standard_normal(n)


def targets(estimator, y):
    return y if issubclass(estimator, RegressorMixin) else (y > np.median(y)).astype(int)


def small(estimator, **parameters):
    quick = {"n_patterns": 8, "n_grades": 2, "tol": 0.5, "random_state": 0, "distances": False}
    return estimator(**{**quick, **parameters})


def rows_of(model, X, y):
    return model._weighted(*model._validate(X, y, reset=False), None).distinct


@pytest.mark.parametrize(
    ("n", "d", "alpha"),
    [(10, 50, 1e-2), (1000, 10, 1e-2), (10_000, 1, 1e-3), (40_000, 4, 1e-3), (400.0, 1, 5e-3)],
)
def test_usual_penalties(n, d, alpha):
    assert usual_alpha(n, d) == pytest.approx(alpha)


def test_noise_alone_has_about_the_price_that_usual_penalties_assume():
    rng = np.random.default_rng(0)
    n, d = 2000, 20
    X = rng.standard_normal((n, d))
    noise = rng.standard_normal((n, 50))
    price = np.linalg.norm(X.T @ noise / n, axis=0).mean()  # over all u, without gates
    assert price == pytest.approx(np.sqrt(d / n), rel=0.05)


@pytest.mark.parametrize("estimator", CHAINS)
def test_alpha_auto_takes_the_effective_number_of_rows(estimator):
    X, y = make_data(n=300)
    X, y = X[:, :1], targets(estimator, y)
    model = small(estimator, n_grades=1).fit(X, y)
    assert model.alpha == "auto"
    assert model.alpha_ == model.grades_[0].alpha == usual_alpha(300, 1) < 1e-2
    for unit in (1e-200, 1.0 / 300, 3.0, 4.5):
        weighted = clone(model).fit(X, y, np.full(300, unit))
        assert weighted.alpha_ == pytest.approx(model.alpha_, rel=1e-12)
    with_constant = np.column_stack([X, np.full(300, 0.1)])
    assert clone(model).fit(with_constant, y).alpha_ == model.alpha_
    repeated = clone(model).fit(np.tile(X, (3, 1)), np.tile(y, 3))
    assert repeated.alpha_ == model.alpha_
    np.testing.assert_allclose(
        repeated._last_output(X), model._last_output(X), rtol=1e-6, atol=1e-6
    )
    uneven = np.where(np.arange(300) < 100, 0.5, 1e-6)
    assert clone(model).fit(X, y, uneven).alpha_ == pytest.approx(usual_alpha(100, 1), rel=1e-3)


@pytest.mark.parametrize("estimator", CHAINS)
def test_rows_that_were_copied_or_weigh_more_do_not_judge_what_they_taught(estimator):
    """Of targets that are mostly noise, copies on both sides are learnt by heart: four deep grades."""
    X, y = make_data(n=80, noise=3.0)
    y = targets(estimator, y)
    plain = small(estimator).fit(X, y)
    weighted = small(estimator).fit(X, y, np.full(80, 5.0))
    copied = small(estimator).fit(np.tile(X, (5, 1)), np.tile(y, 5))
    for model in (weighted, copied):
        assert (model.alpha_, model.n_grades_) == (plain.alpha_, plain.n_grades_)
        np.testing.assert_allclose(model.validation_loss_, plain.validation_loss_, rtol=1e-9)


def test_copies_of_rows_with_other_targets_are_drawn_one_by_one():
    X, y = np.array([[0.0], [1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    rows = Rows(X, y, np.array([3.0, 2.0, 1.0, 5.0]), np.ones(4)).drawn
    np.testing.assert_array_equal(rows.X[:, 0], [0.0, 1.0, 1.0, 1.0, 2.0])
    np.testing.assert_array_equal(rows.y, [0, 0, 0, 1, 1])
    np.testing.assert_allclose(5.0 * rows.copies, [3.0, 1.0, 1.0, 1.0, 5.0])
    few = Rows(X, y, np.array([2.0, 1.0, 1.0, 1.0]), np.ones(4)).drawn  # by chance
    np.testing.assert_array_equal(few.X[:, 0], [0.0, 0.0, 1.0, 1.0, 2.0])
    np.testing.assert_array_equal(few.copies, 0.5)  # relative to the largest weight
    parts = Rows(X, y, np.array([3.0, 2.5, 1.0, np.pi]), np.ones(4)).drawn
    np.testing.assert_allclose(np.pi * parts.copies, [3.0, 2.5, 1.0, np.pi])


@pytest.mark.parametrize("unit", [1.0, 10.0, 0.1, 1.0 / 3.0, 37.5])
def test_the_unit_of_weights_does_not_change_how_rows_are_drawn(unit):
    X, y = np.array([[0.0], [1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    for weights in ([3.0, 2.0, 1.0, 5.0], [1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 4.0, 3.0]):
        plain = Rows(X, y, np.array(weights), np.ones(4)).drawn
        other = Rows(X, y, unit * np.array(weights), np.ones(4)).drawn
        np.testing.assert_array_equal(other.X, plain.X)
        np.testing.assert_array_equal(other.y, plain.y)
        np.testing.assert_allclose(other.copies, plain.copies, rtol=1e-12)


def test_the_unit_of_weights_does_not_change_the_fit():
    """Not by a digit: a search makes other neurons of one."""
    X, y = make_data(48)
    labels = (y > np.quantile(y, 0.8)).astype(int)
    models = (
        small(MultigradeRegressor, alpha=0.01, n_grades=1),
        small(MultigradeRegressor, alpha="auto", n_grades=1),
        small(MultigradeClassifier, alpha=0.01, n_grades=1, class_weight="balanced"),
    )
    for model, target in zip(models, (y, y, labels), strict=True):
        for weights in (np.ones(48), np.arange(48) % 3 + 1.0, np.arange(48) % 9 + 1.0):
            plain = clone(model).fit(X, target, weights)._last_output(X)
            for unit in (0.1, 7.3, 1.0 / weights.mean(), 1.0 / weights.sum()):
                other = clone(model).fit(X, target, unit * weights)._last_output(X)
                np.testing.assert_array_equal(other, plain)


def test_a_validation_loss_beyond_all_numbers_only_counts_against_a_chain():
    """As exp of what a network extrapolates to at a row far out, unless predictions are limited."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 1))
    y = rng.poisson(np.exp(X[:, 0])).astype(float)
    X[0], y[0] = 8000.0, 1.0
    as_it_is = {"loss": "poisson", "extrapolation": None, "log_tails": False}
    model = small(MultigradeRegressorCV, cv=2, **as_it_is).fit(X, y)
    scores = model.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert scores.min() < -1e9


def test_rows_of_a_table_of_few_values_are_drawn_one_by_one():
    """With their own weights, in an order that is not that of the rows; a copied table is not one."""
    rng = np.random.default_rng(0)
    X = np.repeat(np.arange(40.0), 5)[:, None]
    uneven, weights = np.ones(200, dtype=bool), rng.uniform(1.0, 2.0, 200)
    uneven[:7] = False
    for some, number in ((uneven, 193), (X[:, 0] < 30, 150)):
        rows = Rows(X[some], X[some, 0], weights[some], np.ones(some.sum()))
        drawn = rows.drawn
        assert len(drawn.X) == number
        assert drawn.copies.sum() == pytest.approx(weights[some].sum())
        again = rows.take(rng.permutation(number)).drawn
        for part in ("X", "y", "copies", "share"):
            np.testing.assert_array_equal(getattr(drawn, part), getattr(again, part))
    copied = Rows(X, X[:, 0], np.ones(200), np.ones(200)).drawn
    np.testing.assert_array_equal(copied.copies, np.ones(40))
    few = Rows(X[:90], X[:90, 0], np.ones(90), np.ones(90)).drawn
    assert len(few.X) == 90


def test_chains_learn_tables_of_few_values():
    """Parity of four bits, without noise: copies of every row are among those to come."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (400, 4)).astype(float)
    y = X.sum(axis=1).astype(int) % 2
    for estimator, more in ((MultigradeClassifier, {}), (MultigradeClassifierCV, {"n_alphas": 2})):
        model = small(estimator, n_patterns=50, **more).fit(X, y)
        assert model.score(X, y) == 1.0


@pytest.mark.parametrize("estimator", [*CHAINS, MultigradeRegressorCV, MultigradeClassifierCV])
def test_where_no_penalty_beats_a_constant_the_constant_stays(estimator):
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((60, 8)), rng.standard_normal(60)
    more = {} if estimator in CHAINS else {"n_alphas": 2}
    model = small(estimator, **more).fit(X, targets(estimator, y))
    assert model.n_grades_ == 1
    assert model.grades_[0].n_neurons == 0
    assert model.stop_reason_.startswith("Grade 1 is trivial")


def test_a_chain_of_all_rows_that_ends_by_itself_says_why():
    """Whatever ended those that judged."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 2))
    y = 0.35 * np.abs(X[:, 0]) + rng.standard_normal(60)
    model = small(MultigradeRegressor, alpha=0.09, n_grades=3).fit(X, y)
    assert model.grades_[0].n_neurons == 0
    assert model.stop_reason_.startswith("Grade 1 is trivial")


@pytest.mark.parametrize("estimator", CHAINS)
def test_all_rows_are_fitted_as_deep_as_the_rows_held_out_say(estimator):
    X, y = make_data(n=100, noise=3.0)
    y = targets(estimator, y)
    model = small(estimator, alpha=0.03, n_grades=4, **HALF).fit(X, y)
    assert len(model.validation_loss_) == model.n_grades_ < 4
    assert "raised the validation loss by more than its noise" in model.stop_reason_
    given = {"alpha": model.alpha_, "n_grades": model.n_grades_, "early_stopping": False}
    plain = small(estimator, **given).fit(X, y)
    assert plain.validation_loss_.size == 0
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    np.testing.assert_array_equal(model.train_loss_, plain.train_loss_)
    for again, stored in zip(certify(model, X, y), model.certificates_, strict=True):
        assert again.primal == pytest.approx(stored.primal, rel=1e-12)


@cache
def fitted():
    X, y = make_data(n=10)
    return small(MultigradeRegressor, alpha=0.1, n_grades=1).fit(X, y)


def grown_to(stages, weights, loss, monkeypatch):
    """Return what is kept of chains that have these losses of the rows held out, in two folds."""
    X, y = make_data(n=10)
    data = Data(X, y[:, None], np.full(10, 0.1))
    half = len(weights) // 2
    rows = Data(X[:half], y[:half, None], np.full(half, 1.0 / half))
    model = fitted()
    chain = multigrade.Progress.begin(loss, data, model._handover())
    judged = []
    for depth, stage in enumerate(stages, start=1):
        grown = replace(chain, chain=replace(chain.chain, links=depth * (None,)))
        parts = stage[:half], stage[half:]
        judged.append([selection.Judged(grown, part, float(part.mean())) for part in parts])
    monkeypatch.setattr(selection, "_deepened", lambda *args: iter(judged))
    folds = 2 * [selection.Fold(data, rows)]
    plan = replace(model._plan(model.alpha_), loss=loss, n_grades=len(stages))
    return list(selection.deepen(folds, plan, model._handover()))[-1]


@pytest.mark.parametrize(
    ("losses", "worse", "worse_for_classes"),
    [
        ([[5, 5, 5, 5]], False, False),
        ([[5, 5, 5, 5], [4, 4, 4, 4]], False, False),
        ([[5, 5, 5, 5], [4, 4, 4, 4], [4.6, 3.6, 4.6, 3.6], [3, 3, 3, 3]], False, False),
        ([[5, 5, 5, 5], [5, 5, 5, 5]], False, False),
        ([[5, 5, 5, 5], [6.2, 4.2, 6.2, 4.2]], False, False),  # 0.2 more, standard error 0.5
        ([[5, 5, 5, 5], [6.4, 4.4, 6.4, 4.4]], False, True),  # 0.4 more
        ([[5, 5, 5, 5], [6.6, 4.6, 6.6, 4.6]], True, True),  # 0.6 more
        ([[5, 5, 5, 5], [4, 4, 4, 4], [4.5, 4.5, 4.5, 4.5]], True, True),  # than the best before
    ],
)
def test_a_grade_is_dropped_for_a_rise_that_is_no_noise(
    losses, worse, worse_for_classes, monkeypatch
):
    stages, weights = np.array(losses, dtype=float), np.full(4, 0.25)
    for loss, expected in ((SquaredError(), worse), (BinaryLogLoss(), worse_for_classes)):
        tried = grown_to(stages, weights, loss, monkeypatch)
        assert len(tried.losses) == len(stages) - expected
        assert len(tried.by_fold) == len(stages)
        assert tried.losses == pytest.approx(stages.mean(axis=1)[: len(tried.losses)])
        np.testing.assert_array_equal(tried.rows, stages[np.argmin(tried.losses)])
        assert ("was dropped" in tried.verdict) == expected


def test_validation_losses_are_of_chains_that_have_not_seen_the_rows():
    """Rows are held out forty at a time, twice: grades on the others, sketched, their losses."""
    X, y = make_data(n=100)
    model = small(MultigradeRegressor, alpha=0.03, validation_fraction=0.4).fit(X, y)
    rows, plan = rows_of(model, X, y), model._plan(model.alpha_)
    plan = plan.rough()
    losses = []
    for part in parts_held_out(np.zeros(100), 0.4, model._seed):
        some = np.setdiff1d(np.arange(100), part), part
        train, held_out = (model._data(rows.take(index).distinct) for index in some)
        *_, grown = multigrade.grow(model._begin(train), train, plan)
        losses.append(staged_loss(grown.chain, held_out, plan.loss, plan.span))
    np.testing.assert_allclose(model.validation_loss_, np.mean(losses, axis=0), rtol=1e-12)
    half = small(MultigradeRegressor, alpha=0.03, **HALF).fit(X, y)
    assert model.n_grades_ == half.n_grades_ == 2
    assert not set(half.validation_loss_) & set(model.validation_loss_)
    np.testing.assert_array_equal(half.predict(X), model.predict(X))


@pytest.mark.parametrize(
    ("n", "fraction", "size", "times"),
    [
        (2, 0.2, 1, 2),
        (100, 0.2, 20, 5),
        (100, 0.1, 10, 5),
        (100, 0.3, 30, 3),
        (100, 0.6, 60, 1),
        (100, 0.29, 29, 3),  # 28.999999999999996
        (273, 0.2, 54, 5),  # five parts of 55 are more
        (1500, 0.2, 300, 4),
        (5000, 0.2, 1000, 1),
    ],
)
@pytest.mark.parametrize("n_labels", [1, 2, 7])
def test_few_rows_are_held_out_several_times_each_once(n, fraction, size, times, n_labels):
    rng = np.random.default_rng(0)
    labels = np.floor(n_labels * rng.uniform(size=n) ** 3)  # of very different numbers
    parts = parts_held_out(labels, fraction, seed=1)
    assert [part.size for part in parts] == [size] * times
    assert np.unique(np.concatenate(parts)).size == size * times
    for label, number in zip(*np.unique(labels, return_counts=True), strict=True):
        for part in parts:
            off = np.sum(labels[part] == label) - number * size / n
            assert abs(off) <= 1.0 + n_labels * number / n
    again, other = parts_held_out(labels, fraction, 1), parts_held_out(labels, fraction, 2)
    np.testing.assert_array_equal(parts, again)
    assert n < 100 or not np.array_equal(parts, other)


@pytest.mark.parametrize("estimator", CHAINS)
def test_chains_judged_by_rows_are_fitted_to_all_others(estimator):
    X, y = make_data(n=100)
    model = small(estimator, n_grades=1).fit(X, targets(estimator, y))
    parts = list(model._parts(rows_of(model, X, targets(estimator, y))))
    folds = model._folds(parts, model._reading)
    assert len(folds) == 5
    for train, held_out in folds:
        assert len(held_out.X) == 20
        both = np.concatenate([train.X, held_out.X])
        np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(X, axis=0))


@pytest.mark.parametrize(
    ("n", "n_grades", "early_stopping", "held_out"),
    [
        (19, 2, "auto", False),
        (20, 2, "auto", True),
        (40, 1, "auto", False),
        (40, 1, True, True),
        (2, 2, True, True),
        (40, 2, False, False),
    ],
)
def test_when_rows_are_held_out(n, n_grades, early_stopping, held_out):
    X, y = make_data(n=n)
    given = {"n_grades": n_grades, "early_stopping": early_stopping}
    model = small(MultigradeRegressor, alpha=0.03, **given, **HALF)
    assert (model.fit(X, y).validation_loss_.size > 0) == held_out


@pytest.mark.parametrize("n_classes", [2, 3])
def test_rows_are_held_out_even_where_a_class_has_one(n_classes):
    """Two classes: where it is held out, there is nothing to learn from the others."""
    X, _ = make_data()
    y = np.arange(120) % (n_classes - 1)
    y[X[:, 0].argmax()] = n_classes - 1
    model = small(MultigradeClassifier, alpha=0.01, **HALF).fit(X, y)
    assert model.validation_loss_.size > 0
    assert np.all(np.isfinite(model.validation_loss_))
    assert model.predict_proba(X).shape == (120, n_classes)


def test_adding_grades_is_the_same_as_fitting_them_at_once():
    X, y = make_data(n=60)
    # With alpha="auto", chains of other depths may choose another one.
    model = small(MultigradeRegressor, alpha=0.03, warm_start=True, **HALF).fit(X, y)
    first = model.grades_
    model.set_params(n_grades=3).fit(X, y)
    assert model.grades_[:2] == first
    anew = clone(model).fit(X, y)
    assert model.n_grades_ == anew.n_grades_ == 3
    np.testing.assert_array_equal(model.validation_loss_, anew.validation_loss_)
    np.testing.assert_array_equal(model.predict(X), anew.predict(X))


@pytest.mark.parametrize("correction", ["none", "readouts"])
def test_grades_stay_where_chains_without_some_rows_have_fewer(correction):
    X, y = make_data(n=60)
    model = small(MultigradeRegressor, alpha=0.01, warm_start=True, early_stopping=False)
    model.set_params(n_grades=2).fit(X, y)
    assert model.n_grades_ == 2
    model.set_params(n_grades=3, alpha=100.0, early_stopping=True, correction=correction, **HALF)
    model.fit(X, y)
    assert model.n_grades_ == 2
    assert model.validation_loss_.shape == model.train_loss_.shape == (2,)
    assert model.validation_loss_[0] == model.validation_loss_[1]  # their only grade is trivial
    assert model.stop_reason_.startswith("Grade 1 has no neuron: a descent")


@pytest.mark.parametrize(
    ("estimator", "n_grades", "n", "noise", "shares"),
    [
        (MultigradeRegressor, 1, 120, 0.01, [0.3, 1.0]),
        (MultigradeRegressor, 1, 120, 3.0, [10.0, 30.0]),
        (MultigradeClassifier, 2, 200, 0.1, [0.3, 1.0]),  # where rounding decides
        (MultigradeClassifier, 1, 120, 1.0, [3.0]),
    ],
)
def test_alpha_auto_is_the_usual_one_unless_rows_held_out_show_that_another_is_better(
    estimator, n_grades, n, noise, shares
):
    X, y = make_data(n=n, noise=noise)
    y = targets(estimator, y)
    model = small(estimator, n_grades=n_grades, early_stopping=True, **HALF).fit(X, y)
    parts, plan = list(model._parts(rows_of(model, X, y))), model._plan(model.alpha_)
    folds = model._folds(parts, model._reading)
    tried, usual = {}, usual_alpha(*X.shape)
    for factor in (0.3, 1.0, 3.0, 10.0, 30.0):
        here = replace(plan.rough(), alpha=factor * usual)
        *_, tried[factor] = selection.deepen(folds, here, model._handover())
    losses = {factor: min(one.losses) for factor, one in tried.items()}
    costs = {}
    for factor, one in tried.items():
        rise = one.rows - tried[1.0].rows
        error = rise.std() / np.sqrt(rise.size)
        costs[factor] = rise.mean() + min(abs(np.log10(factor)), 1.0) * error
    constants = selection.loss_of_constants(folds, plan.loss)
    usual_is_a_guess = plan.loss.quadratic and losses[1.0] < constants
    costs = costs if usual_is_a_guess else losses
    share = min(costs, key=costs.get)
    assert share in shares
    given = clone(model).set_params(alpha=share * usual).fit(X, y)
    np.testing.assert_array_equal(model.validation_loss_, given.validation_loss_)
    assert model.validation_loss_.min() == losses[share]
    assert model.alpha_ == given.alpha_
    np.testing.assert_array_equal(model.predict(X), given.predict(X))


@cache
def interrupted_fit(grades_before):
    """Return a chain of two grades whose fit was interrupted after so many of all grades it fits.

    That are two of both chains under each of four penalties, and two of all rows.
    """
    original, calls = multigrade.fit_grade, []

    def interrupted(*args):
        if len(calls) == grades_before:
            raise KeyboardInterrupt
        calls.append(args)
        return original(*args)

    X, y = make_data(n=60)
    before = {"alpha": 0.1, "n_grades": 1, "early_stopping": False}
    model = small(MultigradeRegressor, **before, **HALF).fit(X[:50], y[:50])
    model.set_params(alpha="auto", n_grades=2, early_stopping="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multigrade, "fit_grade", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
    return model


@pytest.mark.parametrize(
    ("grades_before", "kept", "sketched"),
    [(2, 1, True), (4, 2, True), (16, 2, True), (17, 1, False)],
)
def test_an_interrupted_fit_keeps_finished_grades_or_the_first_chain_that_was_tried(
    grades_before, kept, sketched
):
    X, y = make_data(n=60)
    model = interrupted_fit(grades_before)
    assert model.n_grades_ == len(model.validation_loss_) == kept
    assert {c.status is Status.TRIED for c in model.certificates_} == {sketched}
    assert model.stop_reason_ == ""
    assert model.score(X, y) > 0.5


def test_a_fit_goes_on_with_finished_grades_but_not_with_sketches():
    X, y = make_data(n=60)
    anew = small(MultigradeRegressor, **HALF).fit(X, y)
    for grades_before in (4, 17):
        model = deepcopy(interrupted_fit(grades_before))
        first = model.grades_[0]
        model.set_params(warm_start=True).fit(X, y)
        assert (model.grades_[0] is first) == (grades_before == 17)
        np.testing.assert_array_equal(model.predict(X), anew.predict(X))
        np.testing.assert_array_equal(model.validation_loss_, anew.validation_loss_)


@pytest.mark.parametrize("settings", [{"patterns": "sampled"}, {"activation": "gated_relu"}])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_fit_does_not_go_on_with_what_was_solved_on_some_rows(settings, error, monkeypatch):
    """What was tried serves after an interruption, but says so; an error leaves the old model."""
    X, y = make_data(n=60)
    model = small(MultigradeRegressor, alpha=0.03, warm_start=True, **settings, **HALF)
    anew, original, calls = clone(model).fit(X, y), multigrade.fit_grade, []

    def ended(*args):
        if len(calls) == 2:
            raise error
        calls.append(args)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(multigrade, "fit_grade", ended)
        with pytest.raises(error):
            model.fit(X, y)
    assert hasattr(model, "_progress") == (error is KeyboardInterrupt)
    if error is KeyboardInterrupt:
        assert [c.status for c in model.certificates_] == [Status.TRIED]
    model.fit(X, y)
    assert Status.TRIED not in [c.status for c in model.certificates_]
    np.testing.assert_array_equal(model.predict(X), anew.predict(X))


def test_rows_of_no_weight_do_not_name_classes_to_a_fit_that_goes_on():
    X, y = make_data(n=60)
    labels, weights = np.where(np.arange(60) < 5, 2, targets(MultigradeClassifier, y)), np.ones(60)
    weights[:5] = 0.0
    model = small(MultigradeClassifier, alpha=0.01, n_grades=1, early_stopping=False)
    model.fit(X, labels, weights)
    model.set_params(warm_start=True, n_grades=2).fit(X, labels, weights)
    assert model.classes_.tolist() == [0, 1]
    whole = clone(model).fit(X, labels, weights)
    np.testing.assert_array_equal(model.predict_proba(X), whole.predict_proba(X))


def test_folds_are_shared_out_without_a_difference():
    X, y = make_data(n=60)
    y = targets(MultigradeClassifier, y)
    alone = small(MultigradeClassifier, alpha=0.03, **HALF).fit(X, y)
    with parallel_config(backend="threading"):  # processes start slowly; cross-validation has some
        shared_out = clone(alone).set_params(n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(shared_out.validation_loss_, alone.validation_loss_)
    np.testing.assert_array_equal(shared_out.predict(X), alone.predict(X))


def test_a_fit_says_what_it_does(capsys):
    X, y = make_data()
    small(MultigradeRegressor, n_grades=1, early_stopping=True, verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "24 of 120 rows held out, 5 times:"
    assert lines[1] == "alpha=0.01:"
    assert lines[2].startswith("Grade 1: validation loss 0.")
    assert lines[lines.index("alpha=0.003:") + 1].startswith("Grade 1: validation loss 0.")
    whole = next(
        k for k, text in enumerate(lines) if text.startswith("All rows, 1 grade from alpha=")
    )
    assert lines[whole + 1].startswith("Grade 1: ")


@pytest.mark.parametrize("fraction", [0.2, 0.97])
def test_holding_out_all_rows_is_an_error(fraction):
    X, y = make_data(n=1)
    model = small(MultigradeRegressor, early_stopping=True, validation_fraction=fraction)
    named = f"early_stopping=True and validation_fraction={fraction} hold out the only row"
    with pytest.raises(ValueError, match=named):
        model.fit(X, y)


@pytest.mark.parametrize("estimator", [MultigradeRegressor, MultigradeClassifier])
def test_some_row_is_left_to_fit(estimator):
    X, y = make_data(n=10)
    model = small(estimator, early_stopping=True, validation_fraction=0.97, verbose=1)
    model.fit(X, targets(estimator, y))
    assert model.n_grades_ >= 1
    assert np.all(np.isfinite(model.predict(X)))


def test_a_larger_alpha_is_asked_for_where_a_constant_is_better():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 20, 1))
    model = ConvexReLURegressor(0.01, n_patterns=5, random_state=0).fit(X, y[:, 0])
    rows = Data(X, y, np.full(20, 0.05))
    folds, chain = [selection.Fold(rows, rows)], model._progress
    constant = selection.loss_of_constants(folds, SquaredError())
    assert model.certificate_.n_patterns > 0
    for loss, expected in ((0.9 * constant, False), (1.1 * constant, True)):
        best = selection.Tried(0.01, (chain,), (loss,))
        last = selection.Tried(0.1, (chain,), (2.0 * constant,))
        assert selection.asks_for_larger(best, last, folds, SquaredError()) == expected
        assert selection.asks_for_larger(last, last, folds, SquaredError())


def test_the_loss_of_constants_is_of_those_that_suit_weighted_rows():
    train = Data(np.zeros((2, 1)), np.array([[0.0], [4.0]]), np.array([0.75, 0.25]))
    held_out = Data(np.zeros((1, 1)), np.array([[3.0]]), np.ones(1))
    folds = [selection.Fold(train, held_out)]
    assert selection.loss_of_constants(folds, SquaredError()) == pytest.approx(2.0)  # (3 - 1)^2 / 2
    assert selection.loss_of_constants(folds, AbsoluteError()) == pytest.approx(3.0, rel=1e-3)
