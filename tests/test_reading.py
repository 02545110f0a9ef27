"""How columns are read, heavy tails and distances from the middle, and that chains do so throughout."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from convexgrade import (
    MultigradeClassifier,
    MultigradeClassifierCV,
    MultigradeRegressor,
    MultigradeRegressorCV,
    certify,
    correct,
)
from convexgrade.export import TableModel, load_model, save_model
from convexgrade.reading import AS_THEY_ARE, Reading, Tails, heavy_tails
from convexgrade.table_columns import encode, learn_columns


def ones(n):
    return np.ones(n)


def heavy_data(n=80, seed=0, spread=2.5):
    """One normal column, one whose logarithm matters."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.standard_normal(n), np.exp(spread * rng.standard_normal(n))])
    return X, X[:, 0] + np.log1p(X[:, 1]) / spread + 0.05 * rng.standard_normal(n)


def test_what_is_near_stays_and_what_is_far_is_drawn_in_logarithmically():
    tails = Tails(np.array([-1.0, -np.inf]), np.array([3.0, np.inf]), np.ones(2))
    x = np.array([-1.0, 0.0, 3.0, 3.0 + np.e - 1.0, -1.0 - (np.e - 1.0), 1e9])
    read = tails.apply(np.column_stack([x, x]))
    # a distance of e - 1 reads as log(e) = 1
    np.testing.assert_allclose(read[:, 0], [-1.0, 0.0, 3.0, 4.0, -2.0, 3.0 + np.log1p(1e9 - 3.0)])
    np.testing.assert_array_equal(read[:, 1], x)


def test_reading_is_increasing_with_a_continuous_slope():
    tails = Tails(np.array([-0.5]), np.array([1.5]), np.array([0.5]))
    x = np.linspace(-20.0, 20.0, 4001)[:, None]
    slope = np.diff(tails.apply(x)[:, 0]) / np.diff(x[:, 0])
    assert slope.min() > 0.0
    assert slope.max() < 1.0 + 1e-9
    assert (
        np.abs(np.diff(slope)).max() < 0.03
    )  # 0.01 apart, and the slope falls by 2 a unit at most


def test_the_input_is_not_written_to():
    X = np.array([[1.0], [50.0]])
    Tails(np.array([0.0]), np.array([2.0]), np.array([1.0])).apply(X)
    np.testing.assert_array_equal(X, [[1.0], [50.0]])
    assert AS_THEY_ARE.apply(X) is X


@pytest.mark.parametrize("n", [1, 2, 30, 20_000])
def test_columns_without_heavy_tails_are_left_alone(n):
    rng = np.random.default_rng(n)
    rare = np.zeros(n)
    rare[: n // 30] = 1.0
    columns = [rng.standard_normal(n), rng.uniform(size=n), rare, np.full(n, 0.1), np.full(n, 1e9)]
    X = np.column_stack(columns)
    assert heavy_tails(X, ones(n)).apply(X) is X


def test_columns_with_heavy_tails_are_found_and_drawn_in():
    rng = np.random.default_rng(0)
    zeros = np.where(rng.uniform(size=1000) < 0.9, 0.0, rng.exponential(size=1000))
    one_outlier = np.append(rng.standard_normal(999), 1e6)
    X = np.column_stack([rng.standard_cauchy(1000), zeros, one_outlier, rng.standard_normal(1000)])
    tails = heavy_tails(X, ones(1000))
    np.testing.assert_array_equal(np.isfinite(tails.low), [True, False, True, False])
    np.testing.assert_array_equal(np.isfinite(tails.high), [True, True, True, False])
    # two standard deviations of normal values, which clipping them makes a little less
    assert -2.0 < tails.low[2] < -1.7
    assert 1.7 < tails.high[2] < 2.0
    read = tails.apply(X)
    away = np.abs(read - read.mean(axis=0)).max(axis=0) / read.std(axis=0)
    assert np.all(away < 15.0)
    assert np.abs(X - X.mean(axis=0)).max(axis=0)[2] / X[:, 2].std() > 31.0
    for before, after in zip(X.T, read.T, strict=True):
        assert np.unique(after).size == np.unique(before).size


def test_a_column_with_one_tail_is_read_from_its_other_end_on():
    """Of two columns with the ratios of a factor, the one that falls is read as minus the other."""
    rng = np.random.default_rng(0)
    ratios = np.exp(2.0 * rng.standard_normal(500))
    tails = heavy_tails(np.column_stack([ratios, 7.0 - ratios]), ones(500))
    np.testing.assert_array_equal(tails.low, [-np.inf, (7.0 - ratios).max()])
    np.testing.assert_array_equal(tails.high, [ratios.min(), np.inf])
    unit = tails.unit[0]
    # of most values: their own standard deviation is that of the few largest
    assert 0.0 < unit < 0.2 * ratios.std()
    new = np.array([-5.0, ratios.min(), ratios.min() + (np.e - 1.0) * unit, 1e6])
    read = tails.apply(np.column_stack([new, 7.0 - new]))
    np.testing.assert_allclose(read[:3, 0], [-5.0, ratios.min(), ratios.min() + unit])
    np.testing.assert_allclose(read[:, 0] + read[:, 1], 7.0, rtol=1e-9)
    skewness = [
        ((z - z.mean()) ** 3).mean() / z.std() ** 3
        for z in (ratios, tails.apply(np.column_stack([ratios, ratios]))[:, 0])
    ]
    assert abs(skewness[1]) < 0.2 * skewness[0]


@pytest.mark.parametrize("scale", [1e-8, -3.0, 1e8])
def test_tails_do_not_depend_on_units(scale):
    X, _ = heavy_data()
    tails, other = heavy_tails(X, ones(80)), heavy_tails(scale * X + 5.0 * scale, ones(80))
    again = scale * tails.apply(X) + 5.0 * scale
    np.testing.assert_allclose(other.apply(scale * X + 5.0 * scale), again, rtol=1e-9)


def test_a_weight_of_two_is_the_row_twice():
    X, _ = heavy_data()
    weights = np.repeat([1.0, 2.0, 3.0], [30, 30, 20])
    tails, other = heavy_tails(X, weights), heavy_tails(X.repeat(weights.astype(int), 0), ones(150))
    for name in ("low", "high", "unit"):
        np.testing.assert_allclose(getattr(tails, name), getattr(other, name), rtol=1e-9)


SMALL = {"n_patterns": 6, "n_grades": 2, "tol": 0.5, "random_state": 0}
HALF = {"validation_fraction": 0.5}  # rows are held out twice
CHAINS = [
    MultigradeRegressor(0.03, **SMALL, **HALF),
    MultigradeClassifier(0.03, **SMALL, **HALF),
    MultigradeRegressorCV([0.05], cv=2, **SMALL),
    MultigradeClassifierCV([0.05], cv=2, **SMALL),
]


def output(model, X):
    return model.decision_function(X) if hasattr(model, "classes_") else model.predict(X)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.15])
@pytest.mark.parametrize("placeholder", [-999.0, -1e6, 1e8, 1e30])
def test_placeholders_leave_the_other_values_their_scale(placeholder, share):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2000, 1))
    missing = rng.random(2000) < share
    x[missing] = placeholder
    read = heavy_tails(x, ones(2000)).apply(x)
    away = np.abs(read[missing] - read[~missing].mean()).max()
    assert 0.0 < away < 8.0 * np.log(1e30)  # in units of some deviations
    assert 0.3 < read[~missing].std() <= 1.05
    assert np.unique(read[~missing]).size == (~missing).sum()


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: type(chain).__name__)
def test_a_chain_reads_rows_with_their_tails_drawn_in(chain):
    X, y = heavy_data()
    y = (y > np.median(y)).astype(int) if "Classifier" in type(chain).__name__ else y
    new, _ = heavy_data(seed=1)
    model = chain.fit(X, y)
    tails = model.network_.reading.tails
    np.testing.assert_allclose(tails.high, heavy_tails(X, ones(len(X))).high, rtol=1e-12)
    drawn_in = type(chain)(**{**chain.get_params(), "log_tails": False})
    drawn_in.fit(tails.apply(X), y)
    np.testing.assert_array_equal(output(model, new), output(drawn_in, tails.apply(new)))
    np.testing.assert_array_equal(model.transform(new), drawn_in.transform(tails.apply(new)))
    as_they_are = type(chain)(**{**chain.get_params(), "log_tails": False}).fit(X, y)
    assert np.abs(output(as_they_are, new) - output(model, new)).max() > 0.05
    span = model._coding.span
    scaling = model._coding.scaling
    free = (model.network_.forward(new)[:, 0] - scaling.center[0]) / scaling.scale[0]
    expected = (output(model, new) - scaling.center[0]) / scaling.scale[0]
    np.testing.assert_allclose(span.apply(free[:, None])[:, 0], expected, rtol=1e-7, atol=1e-9)
    for stored, again in zip(model.certificates_, certify(model, X, y), strict=True):
        assert again.primal == pytest.approx(stored.primal)


def test_a_logarithm_is_learned_where_a_straight_column_says_nothing():
    X, y = heavy_data(400, spread=6.0)
    new, expected = heavy_data(400, seed=1, spread=6.0)
    errors = [
        np.sqrt(np.mean((model.fit(X, y).predict(new) - expected) ** 2))
        for model in (
            MultigradeRegressor(log_tails=log_tails, early_stopping=False, **SMALL)
            for log_tails in (True, False)
        )
    ]
    assert errors[0] < 0.5 * errors[1]


def test_tails_are_those_of_the_first_fit_when_grades_are_added_or_corrected():
    X, y = heavy_data()
    parameters = {**SMALL, "n_grades": 1, "early_stopping": False, "warm_start": True}
    model = MultigradeRegressor(0.1, **parameters)
    before = model.fit(X, y).network_.reading.tails
    near = np.abs(X[:, 1]) < 3.0
    model.set_params(n_grades=2).fit(X[near], y[near])
    np.testing.assert_array_equal(model.network_.reading.tails.high, before.high)
    corrected = correct(model, X, y, max_sweeps=1)
    np.testing.assert_array_equal(corrected.network_.reading.tails.high, before.high)


def test_files_hold_the_tails(tmp_path):
    X, y = heavy_data()
    frame = pd.DataFrame(X, columns=["a", "b"])
    columns = learn_columns(frame)
    estimator = MultigradeRegressor(0.1, **SMALL, early_stopping=False)
    estimator.fit(encode(columns, frame), y)
    model = TableModel.from_estimator(estimator, columns, target="y")
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    np.testing.assert_allclose(loaded.predict(frame), estimator.predict(X))
    arrays = dict(np.load(tmp_path / "model.npz"))
    for name, wrong in (("low", arrays["tails_high"] + 1.0), ("unit", np.zeros(2))):
        np.savez(tmp_path / "model.npz", **(arrays | {f"tails_{name}": wrong}))
        with pytest.raises(ValueError, match="its tails are not intervals of them"):
            load_model(tmp_path / "model.npz")


def test_log_tails_is_a_boolean_or_auto():
    X, y = heavy_data(20)
    with pytest.raises(ValueError, match="'log_tails' parameter of MultigradeRegressor must be"):
        MultigradeRegressor(log_tails="yes").fit(X, y)


def straight_data(n=100, seed=0):
    """Two columns, and targets along the one with a heavy tail as it is."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.exp(1.5 * rng.standard_normal(n)), rng.standard_normal(n)])
    return X, X[:, 0] + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("chain", [CHAINS[0], CHAINS[2]], ids=["held out", "folds"])
@pytest.mark.parametrize("distances", [False, True])
def test_rows_held_out_leave_tails_as_they_are_where_these_count(chain, distances, capsys):
    X, y = straight_data()
    new, expected = straight_data(seed=1)
    chain = clone(chain).set_params(distances=distances, verbose=1)
    model = clone(chain).fit(X, y)
    assert "With tails as they are:" in capsys.readouterr().out
    reading = model.network_.reading
    assert not reading.tails.draws_in
    assert reading.reads_distances == distances
    as_they_are = clone(chain).set_params(log_tails=False, verbose=0).fit(X, y)
    capsys.readouterr()
    np.testing.assert_allclose(model.predict(new), as_they_are.predict(new), rtol=1e-6)
    drawn_in = clone(chain).set_params(log_tails=True).fit(X, y)
    assert "With tails as they are:" not in capsys.readouterr().out
    assert drawn_in.network_.reading.tails.draws_in
    assert model.score(new, expected) > drawn_in.score(new, expected)


@pytest.mark.parametrize("chain", [CHAINS[0], CHAINS[2]], ids=["held out", "folds"])
def test_rows_held_out_draw_tails_in_where_ratios_count(chain):
    X, y = heavy_data()
    assert clone(chain).fit(X, y).network_.reading.tails.draws_in


def test_without_rows_held_out_tails_are_drawn_in():
    X, y = straight_data()
    model = MultigradeRegressor(0.1, **SMALL, early_stopping=False).fit(X, y)
    assert model.network_.reading.tails.draws_in


def test_a_grid_of_scores_tells_which_chains_drew_tails_in():
    X, y = straight_data()
    model = MultigradeRegressorCV([0.1, 0.03], cv=2, **SMALL).fit(X, y)
    results = model.cv_results_
    drawn_in = results["param_log_tails"]
    assert set(results["param_alpha"][drawn_in]) == {0.1, 0.03}
    assert len(set(results["param_alpha"][~drawn_in])) == 1
    best = np.argmax(results["mean_test_score"])
    assert not drawn_in[best]
    assert model.n_grades_ == results["param_n_grades"][best]


def test_columns_whose_scale_counts_are_read_as_they_are():
    X, y = heavy_data()
    model = MultigradeRegressor(0.1, standardize=False, early_stopping=False, **SMALL).fit(X, y)
    assert model.network_.reading.tails.apply(X) is X


def ring(n=100, d=8, seed=0):
    """Rows, and whether their columns are far from the middle on the whole."""
    X = np.random.default_rng(seed).standard_normal((n, d)) + 3.0
    far = np.abs(X - 3.0).sum(axis=1)
    return X, (far > np.median(far)).astype(int)


def slope(n=100, d=8, seed=0):
    """Rows, and on which side of a noisy plane they lie."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, (X[:, 0] + 0.5 * rng.standard_normal(n) > 0.0).astype(int)


def test_distances_are_from_weighted_means_of_columns_as_their_tails_read_them():
    tails = Tails(np.array([-np.inf, -np.inf]), np.array([1.0, np.inf]), np.ones(2))
    X = np.array([[0.0, 1.0], [1.0, 2.0], [np.e, 6.0]])
    reading = Reading(tails).with_distances(X, np.array([1.0, 1.0, 2.0]))
    drawn_in = np.array([0.0, 1.0, 1.0 + np.log(np.e)])
    middle = (drawn_in[0] + drawn_in[1] + 2.0 * drawn_in[2]) / 4.0
    expected = np.column_stack(
        [drawn_in, X[:, 1], np.abs(drawn_in - middle), np.abs(X[:, 1] - 3.75)]
    )
    np.testing.assert_allclose(reading.apply(X), expected, rtol=1e-12)
    assert reading.width(2) == 4


def test_columns_of_two_values_and_enormous_ones_have_no_distances():
    X = np.column_stack(
        [np.tile([0.0, 1.0], 5), np.arange(10.0), 1e200 * np.arange(10.0), np.ones(10)]
    )
    reading = Reading().with_distances(X, ones(10))
    np.testing.assert_array_equal(reading.distances.column, [1])
    np.testing.assert_array_equal(reading.apply(X), np.column_stack([X, np.abs(X[:, 1] - 4.5)]))
    assert reading.changes
    none = Reading().with_distances(X[:, :1], ones(10))
    assert not none.changes
    np.testing.assert_array_equal(none.apply(X[:, :1]), X[:, :1])


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: type(chain).__name__)
def test_a_chain_with_distances_is_one_of_more_columns(chain):
    X, labels = ring()
    y = labels if "Classifier" in type(chain).__name__ else np.abs(X - 3.0).sum(axis=1)
    new, _ = ring(seed=1)
    parameters = {**chain.get_params(), "log_tails": False}
    model = type(chain)(**{**parameters, "distances": True}).fit(X, y)
    beside = model.network_.reading.distances.beside
    np.testing.assert_allclose(beside(X)[:, 8:], np.abs(X - X.mean(axis=0)), atol=1e-12)
    by_hand = type(chain)(**{**parameters, "distances": False}).fit(beside(X), y)
    assert model.n_features_in_ == 8
    np.testing.assert_allclose(
        output(model, new), output(by_hand, beside(new)), rtol=1e-8, atol=1e-10
    )
    np.testing.assert_allclose(model.transform(new), by_hand.transform(beside(new)), atol=1e-8)
    for stored, again in zip(model.certificates_, certify(model, X, y), strict=True):
        assert again.primal == pytest.approx(stored.primal)
    if "Classifier" in type(chain).__name__:
        np.testing.assert_allclose(
            model.network_.forward(new)[:, 0], output(model, new), atol=1e-10
        )


@pytest.mark.parametrize(
    "chain",
    [
        MultigradeClassifier(0.03, **SMALL, **HALF),
        MultigradeClassifierCV([0.1, 0.03], cv=2, **SMALL),
    ],
    ids=["held out", "folds"],
)
def test_rows_held_out_choose_distances_where_they_tell_classes_apart(chain):
    X, y = ring()
    new, labels = ring(seed=1)
    model = clone(chain).fit(X, y)
    np.testing.assert_array_equal(model.network_.reading.distances.column, np.arange(8))
    plain = clone(chain).set_params(distances=False).fit(X, y)
    assert model.score(new, labels) > plain.score(new, labels)
    assert not clone(chain).fit(*slope()).network_.reading.changes


def test_a_grid_of_scores_tells_which_chains_read_distances():
    X, y = ring()
    model = MultigradeClassifierCV([0.1, 0.03], cv=2, **SMALL).fit(X, y)
    results = model.cv_results_
    reads = results["param_distances"]
    assert list(model.alphas_) == [0.1, 0.03]
    assert set(results["param_alpha"][~reads]) == {0.1, 0.03}
    assert len(set(results["param_alpha"][reads])) == 1
    best = np.argmax(results["mean_test_score"])
    assert reads[best]
    assert model.alpha_ == results["param_alpha"][best]
    assert model.n_grades_ == results["param_n_grades"][best]


def test_without_rows_held_out_there_are_distances_on_demand_alone():
    X, y = ring()
    parameters = {**SMALL, "early_stopping": False}
    assert not MultigradeClassifier(0.1, **parameters).fit(X, y).network_.reading.changes
    asked = np.True_  # as a grid of parameters has it
    on_demand = MultigradeClassifier(0.1, **parameters, distances=asked).fit(X, y)
    assert on_demand.network_.reading.width(8) == 16


def test_distances_stay_when_grades_are_added_or_corrected():
    X, y = ring()
    parameters = {**SMALL, **HALF, "n_grades": 1, "early_stopping": True, "warm_start": True}
    model = MultigradeClassifier(0.2, **parameters)
    before = model.fit(X, y).network_.reading.distances
    assert before.column.size == 8
    model.set_params(n_grades=2).fit(X[:80], y[:80])
    assert model.n_grades_ == 2
    np.testing.assert_array_equal(model.network_.reading.distances.center, before.center)
    corrected = correct(model, X, y, max_sweeps=1)
    np.testing.assert_array_equal(corrected.network_.reading.distances.center, before.center)
    assert corrected.score(X, y) > 0.9


def test_an_interrupted_fit_predicts_by_the_chain_that_there_is(monkeypatch):
    X, y = ring()
    lines = []

    def interrupt_after(last):
        def reporter(self, level):
            def report(text):
                lines.append(text)
                if last in text:
                    raise KeyboardInterrupt

            return report

        monkeypatch.setattr(MultigradeClassifier, "_reporter", reporter)

    for last in ("With distances:", "All rows"):
        interrupt_after(last)
        model = MultigradeClassifier(0.03, **SMALL, **HALF)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
        assert last in lines[-1]
        assert model.score(X, y) > 0.6
        assert model.network_.reading.changes == (last == "All rows")


def test_files_hold_the_distances(tmp_path):
    X, y = ring()
    frame = pd.DataFrame(X, columns=list("abcdefgh"))
    columns = learn_columns(frame)
    estimator = MultigradeClassifier(0.1, **SMALL, distances=True, early_stopping=False)
    estimator.fit(encode(columns, frame), y)
    model = TableModel.from_estimator(estimator, columns, target="y")
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    np.testing.assert_allclose(loaded.predict_proba(frame), estimator.predict_proba(X))
    arrays = dict(np.load(tmp_path / "model.npz"))
    column, center = arrays["distances_column"], arrays["distances_center"]
    for wrong in (
        {"distances_column": column + 1},
        {"distances_column": column.astype(float)},
        {"distances_center": center[:-1]},
        {"distances_center": np.full(8, np.nan)},
    ):
        np.savez(tmp_path / "model.npz", **(arrays | wrong))
        with pytest.raises(ValueError, match="it reads distances of others"):
            load_model(tmp_path / "model.npz")


def test_distances_are_chosen_or_given():
    with pytest.raises(ValueError, match="'distances' parameter of MultigradeClassifier must be"):
        MultigradeClassifier(distances="yes").fit(*ring())


def test_placeholders_of_little_weight_leave_the_other_values_their_scale():
    """More than half of the rows, but a fifth of the weight: less than a quarter."""
    x = np.concatenate([np.linspace(-1.0, 1.0, 41), np.full(60, -1e6)])[:, None]
    tails = heavy_tails(x, np.where(x[:, 0] < -10.0, 0.17, 1.0))
    assert tails.low[0] == 1.0  # read from its other end on
    assert tails.unit[0] < 20.0


def test_a_column_that_differs_by_rounding_alone_has_no_tails():
    x = 1e9 + 1e-7 * np.array([0.0] * 50 + [1.0, -1.0, 30.0])
    X = x[:, None]
    assert heavy_tails(X, np.ones(len(X))).apply(X) is X
