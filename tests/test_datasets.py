"""The data that ships with the package, and the loader of the benchmark sets."""

import numpy as np
import pytest

from convexgrade.datasets import load_concrete, load_energy, make_depth_separation
from tests.benchmarks import datasets as benchmarks

SHIPPED = {"concrete": load_concrete, "energy": load_energy}
RANGES = {
    "concrete": {
        "cement": (102, 540),
        "slag": (0, 359.4),
        "fly_ash": (0, 200.1),
        "water": (121.8, 247),
        "superplasticizer": (0, 32.2),
        "coarse_aggregate": (801, 1145),
        "fine_aggregate": (594, 992.6),
        "age": (1, 365),
    },
    "energy": {
        "relative_compactness": (0.62, 0.98),
        "surface_area": (514.5, 808.5),
        "wall_area": (245, 416.5),
        "roof_area": (110.25, 220.5),
        "overall_height": (3.5, 7),
        "orientation": (2, 5),
        "glazing_area": (0, 0.4),
        "glazing_area_distribution": (0, 5),
    },
}


@pytest.fixture(params=SHIPPED)
def name(request):
    return request.param


def test_bunch_follows_the_convention_of_scikit_learn(name):
    bunch = SHIPPED[name]()
    n, d = bunch.data.shape
    assert (n, d) == {"concrete": (1030, 8), "energy": (768, 8)}[name]
    assert bunch.target.shape == (n,)
    assert bunch.data.dtype == bunch.target.dtype == np.float64
    assert len(bunch.feature_names) == d
    assert len(bunch.target_names) == 1
    assert bunch.frame is None
    assert bunch.filename == f"{name}.csv"
    assert "CC BY 4.0" in bunch.DESCR
    assert all(column in bunch.DESCR for column in [*bunch.feature_names, *bunch.target_names])


def test_columns_have_their_known_ranges(name):
    bunch = SHIPPED[name]()
    lowest, highest = bunch.data.min(axis=0), bunch.data.max(axis=0)
    found = dict(zip(bunch.feature_names, zip(lowest, highest, strict=True), strict=True))
    assert found == RANGES[name]


def test_shipped_rows_equal_the_benchmark_rows(name):
    X, y = SHIPPED[name](return_X_y=True)
    with np.load(benchmarks.DATA / f"{name}.npz") as arrays:
        np.testing.assert_array_equal(X, arrays["X"])
        np.testing.assert_array_equal(y, arrays["y"])


def test_as_frame(name):
    plain, framed = SHIPPED[name](), SHIPPED[name](as_frame=True)
    assert list(framed.data.columns) == plain.feature_names
    assert framed.target.name == plain.target_names[0]
    assert list(framed.frame.columns) == plain.feature_names + plain.target_names
    np.testing.assert_array_equal(framed.data.to_numpy(), plain.data)
    np.testing.assert_array_equal(framed.target.to_numpy(), plain.target)


def test_return_X_y_as_frame(name):
    X, y = SHIPPED[name](return_X_y=True, as_frame=True)
    assert X.shape[0] == y.shape[0]
    assert list(X.index) == list(y.index)


def test_loaded_arrays_are_independent(name):
    X, y = SHIPPED[name](return_X_y=True)
    X[:], y[:] = 0.0, 0.0
    assert SHIPPED[name]().data.any()


@pytest.mark.parametrize("set_name", benchmarks.names())
def test_every_benchmark_split_loads(set_name):
    for split in range(benchmarks.n_splits(set_name)):
        X_train, y_train, X_test, y_test = benchmarks.load(set_name, split)
        assert X_train.shape[0] == y_train.shape[0] > X_test.shape[0] == y_test.shape[0] > 0
        assert X_train.shape[1] == X_test.shape[1]
        assert np.isfinite(X_train).all()
        assert np.isfinite(X_test).all()


def test_benchmark_folds_part_the_rows():
    X_train, _, X_test, _ = benchmarks.load("energy", 0)  # no row of energy repeats another
    rows = np.vstack([X_train, X_test])
    assert rows.shape[0] == 768
    assert np.unique(rows, axis=0).shape[0] == 768


@pytest.mark.parametrize("d", [1, 5, 1000])
def test_a_depth_separation_that_would_need_a_huge_table_is_refused(d):
    with pytest.raises(
        ValueError, match=rf"must be above 0 and at most [0-9.e+]+ with n_features={d}: "
    ):
        make_depth_separation(d, d, truncate=1e6)


def test_unknown_benchmark_set_or_split():
    with pytest.raises(ValueError, match=r"No set named 'boston'; there are airfoil, .*yacht"):
        benchmarks.load("boston")
    with pytest.raises(ValueError, match="yacht has splits 0 to 19, got 20"):
        benchmarks.load("yacht", 20)
