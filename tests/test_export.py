"""Models of tables: encoding, the file, and what is refused."""

import contextlib
import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import polars
import pytest
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from convexgrade import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeRegressor,
)
from convexgrade.export import TableModel, load_model, save_model, written_whole
from convexgrade.reading import Distances, Reading
from convexgrade.table_columns import encode, learn_columns, unknown_values

FAST = {"alpha": 0.05, "n_grades": 2, "patterns": "sampled", "n_patterns": 5, "random_state": 0}
FAST |= {"early_stopping": False}
GRADE = {"alpha": 0.01, "patterns": "sampled", "n_patterns": 5, "random_state": 0}


def _table(n=40):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=n),
            "colour": rng.choice(["red", "blue", "green"], size=n),
            "rooms": rng.integers(1, 6, size=n),
            "sold": rng.random(n) > 0.5,
        }
    )
    frame.loc[2, "size"] = np.nan
    frame.loc[[3, 4], "colour"] = None
    return frame


def _labels(frame, values):
    rank = frame["size"].fillna(0).rank(method="first") * len(values) // (len(frame) + 1)
    return np.array(values)[rank.to_numpy(dtype=int)]


def _number(frame):
    return np.abs(frame["size"].fillna(0)).to_numpy() + (frame["colour"] == "red") * 1.0


def _fitted(estimator, frame, y, target="price"):
    columns = learn_columns(frame)
    estimator.fit(encode(columns, frame), y)
    return TableModel.from_estimator(estimator, columns, target)


@pytest.mark.parametrize("library", ["default", "pandas", "polars"])
def test_columns_are_encoded_as_arrays_whatever_scikit_learn_is_configured_to_return(library):
    frame = pd.DataFrame({"k_a": ["b", "c"] * 2, "k": ["a_b", "x"] * 2})  # two indicators, "k_a_b"
    with config_context(transform_output=library):
        encoded = encode(learn_columns(frame), frame)
    np.testing.assert_array_equal(encoded, [[1, 0, 1, 0], [0, 1, 0, 1]] * 2)


@pytest.fixture(scope="module")
def model():
    frame = _table()
    return _fitted(MultigradeRegressor(**FAST), frame, _number(frame))


@pytest.fixture
def path(model, tmp_path):
    save_model(model, tmp_path / "model.npz")
    return tmp_path / "model.npz"


@pytest.mark.parametrize("extrapolation", [0.1, None])
def test_rows_far_out_are_predicted_as_the_estimator_does(extrapolation, tmp_path):
    frame = _table()
    estimator = MultigradeRegressor(**FAST, extrapolation=extrapolation)
    save_model(_fitted(estimator, frame, _number(frame)), tmp_path / "model.npz")
    far = frame.assign(size=1e5 * frame["size"].fillna(1.0))
    expected = estimator.predict(encode(learn_columns(frame), far))
    np.testing.assert_allclose(load_model(tmp_path / "model.npz").predict(far), expected)
    assert (expected.max() > 100.0) == (extrapolation is None)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"extrapolation": None},
        {"passthrough": "both", "whiten": True},
        {"activation": "gated_relu", "standardize": False},
        {"loss": "poisson"},
    ],
)
def test_predictions_of_finite_rows_are_finite(parameters):
    """Warnings are errors. Near the largest number, a distance or a sum need not be one."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.standard_normal((60, 3)), columns=["a", "b", "c"])
    frame["c"] = 1e-3 * np.exp(2.0 * frame["c"])  # a heavy tail
    y = np.abs(frame["a"]) + np.abs(frame["b"])
    signs = np.array([[1, 1, 1], [1, -1, 1], [-1, 1, -1], [0, 0, 1], [1, 0, 0], [0, 0, -1]])
    far = pd.DataFrame(1.7e308 * signs, columns=list(frame))
    estimator = MultigradeRegressor(**FAST, **parameters)
    model = _fitted(estimator, frame, y)
    outputs = *estimator.staged_predict(far.to_numpy()), estimator.transform(far.to_numpy())
    for output in (*outputs, estimator.predict(far.to_numpy()), model.predict(far)):
        assert np.isfinite(output).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_of_finite_rows_are_probabilities(n_classes):
    X = np.random.default_rng(0).standard_normal((60, 2))
    labels = np.digitize(X @ [1.0, 1.0], [0.0, 1.0][: n_classes - 1])
    estimator = MultigradeClassifier(**FAST).fit(X, labels)
    far = 1.7e308 * np.array([[1, 1], [-1, -1], [1, -1], [1, 0]])
    np.testing.assert_allclose(estimator.predict_proba(far).sum(axis=1), 1.0)
    assert estimator.predict(far)[:2].tolist() == [n_classes - 1, 0]
    assert np.isfinite(estimator.network_.forward(far)).all()


def test_columns_hold_the_imputation_values_and_the_categories_of_the_table():
    size, colour, rooms, sold = learn_columns(_table())
    assert size.fill == _table()["size"].median()
    assert size.categories is rooms.categories is sold.categories is None
    assert colour.categories == ("blue", "green", "red")
    assert colour.fill == _table()["colour"].mode()[0]


def test_encoding_puts_numbers_first_then_indicators():
    frame = pd.DataFrame({"kind": ["a", "b", None, "c"], "x": [1.0, None, 3.0, 5.0]})
    rows = encode(learn_columns(frame.iloc[:3]), frame)
    np.testing.assert_array_equal(rows, [[1, 1, 0], [2, 0, 1], [3, 1, 0], [5, 0, 0]])


def test_an_unknown_category_has_no_indicator_set(model):
    columns = [column for column in model.columns if column.name == "colour"]
    assert not encode(columns, pd.DataFrame({"colour": ["violet"]})).any()


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_tables_of_one_kind_of_columns(kind):
    frame = _table()[["size", "rooms"] if kind == "numeric" else ["colour"]]
    assert encode(learn_columns(frame), frame).shape == (40, 2 if kind == "numeric" else 3)


def test_categories_are_compared_as_text():
    frame = pd.DataFrame({"code": ["1", "2", "x"], 7: [1, 2, 3]})
    columns = learn_columns(frame)
    numbers = pd.DataFrame({"code": [2, 1, 2], "7": [1, 2, 3]})
    np.testing.assert_array_equal(
        encode(columns, numbers)[:, 1:], [[0, 1, 0], [1, 0, 0], [0, 1, 0]]
    )


@pytest.mark.parametrize(
    ("at_the_fit", "later"),
    [
        (pd.Categorical([0, 1, 2]), [0.0, 1.0, np.nan]),
        (pd.Categorical([0.0, 1.0, 2.0]), pd.array([0, 1, None], dtype="Int64")),
        (
            pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]),
            ["2020-01-01", "2020-01-02", None],
        ),
    ],
)
def test_categories_do_not_depend_on_how_pandas_holds_them(at_the_fit, later):
    columns = learn_columns(pd.DataFrame({"kind": at_the_fit}))
    found = encode(columns, pd.DataFrame({"kind": later}))
    np.testing.assert_array_equal(found[:2], np.eye(3)[:2])


def test_unknown_values_are_counted():
    columns = learn_columns(pd.DataFrame({"kind": ["a", "b"], "x": [1.0, 2.0]}))
    new = pd.DataFrame({"kind": ["a", "c", None, "d", "c"], "x": 9.0})
    assert list(unknown_values(columns, new)) == [("kind", 3, "c")]
    assert list(unknown_values(columns, new[:1])) == []


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (np.ones((2, 2)), TypeError, "must be a pandas.DataFrame; got numpy.ndarray"),
        (polars.DataFrame({"a": [1.0]}), TypeError, "pandas.DataFrame; got polars.DataFrame"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "has column 'a' more than once"),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), ValueError, "has column '1' more than once"),
        (pd.DataFrame([[1]], columns=[["a"], ["b"]]), ValueError, "names of one level"),
    ],
)
def test_tables_that_are_none_are_refused(frame, error, message):
    with pytest.raises(error, match=message):
        learn_columns(frame)
    with pytest.raises(error, match=message):
        encode(learn_columns(pd.DataFrame({"a": [1.0]})), frame)


def test_a_column_without_any_value_is_refused():
    frame = _table().assign(void=np.nan)
    with pytest.raises(ValueError, match="No value at all in column 'void'"):
        learn_columns(frame)


def test_infinite_values_are_refused():
    with pytest.raises(ValueError, match="'size' holds infinite"):
        learn_columns(_table().assign(size=np.inf))


@pytest.mark.parametrize(
    ("estimator", "values"),
    [
        (MultigradeRegressor(**FAST), None),
        (MultigradeRegressor(**FAST, activation="gated_relu", linear_term=True), None),
        (MultigradeClassifier(**FAST, passthrough="both", keep_inputs=False), ["dear", "cheap"]),
        (MultigradeClassifier(**FAST), ["a", "b", "c"]),
        (MultigradeClassifier(**FAST), [False, True]),
        (MultigradeClassifier(**FAST), [3, 5]),
    ],
)
def test_predictions_survive_the_file(estimator, values, tmp_path):
    frame = _table()
    y = _number(frame) if values is None else _labels(frame, values)
    model = _fitted(estimator, frame, y)
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    X = encode(model.columns, frame)
    if values is None:
        np.testing.assert_allclose(loaded.predict(frame), estimator.predict(X), rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="'price' is a number"):
            loaded.predict_proba(frame)
    else:
        np.testing.assert_array_equal(loaded.predict(frame), estimator.predict(X))
        assert loaded.predict(frame).dtype.kind == y.dtype.kind
        np.testing.assert_allclose(
            loaded.predict_proba(frame), estimator.predict_proba(X), rtol=0, atol=1e-10
        )
    assert loaded.describe() == model.describe()
    assert loaded.task == ("regression" if values is None else "classification")
    assert loaded.grades == model.grades
    assert loaded.columns == model.columns
    assert loaded.parameters == model.parameters == estimator.get_params()


def test_columns_may_come_in_any_order_and_company(model):
    frame = _table()
    shuffled = frame[["sold", "rooms", "colour", "size"]].assign(extra="?")
    np.testing.assert_array_equal(model.predict(shuffled), model.predict(frame))


def test_missing_values_are_imputed_as_at_the_fit(model):
    frame = _table()
    fills = {column.name: column.fill for column in model.columns if column.name != "sold"}
    np.testing.assert_array_equal(model.predict(frame), model.predict(frame.fillna(fills)))


def test_missing_columns_are_named(model):
    with pytest.raises(ValueError, match="lacks columns 'colour', 'sold'"):
        model.predict(_table().drop(columns=["colour", "sold"]))


def test_text_in_a_numeric_column_is_refused(model):
    with pytest.raises(ValueError, match="Column 'rooms' must hold numbers"):
        model.predict(_table().assign(rooms="many"))


def test_the_description_holds_columns_parameters_and_certificates(model):
    text = model.describe()
    for expected in (
        "regression: 'price' from 4 columns",
        "colour: 3 categories (blue, green, red), missing becomes",
        "All columns are read as they are.",
        "MultigradeRegressor(",
        "alpha=0.05",
        "loss='squared_error'",
        "relative gap",
        model.grades[1].certificate.status.value,
    ):
        assert expected in text


def test_what_is_read_otherwise_is_named_the_first_of_many():
    frame = _table()[["colour", "size"]].assign(
        **{f"n{i}": _table()["size"] * i for i in range(1, 10)}
    )
    columns = learn_columns(frame)
    X = encode(columns, frame)
    chain = MultigradeRegressor(**FAST, distances=True).fit(X, _number(frame))
    model = TableModel.from_estimator(chain, columns, "y")
    assert (
        "read of columns 'size', 'n1', 'n2', 'n3', 'n4', 'n5', 'n6', 'n7' and 2 more."
        in model.choices
    )
    assert model.network.reading.distances.column.size == 10
    distances = Distances(np.array([10]), np.zeros(1))  # no fit reads those of an indicator
    network = replace(model.network, reading=Reading(distances=distances))
    other = object.__new__(TableModel)
    vars(other).update({**vars(model), "network": network})
    assert "read of column 'colour=blue'." in other.choices


@pytest.mark.parametrize(
    ("classes", "written", "expected"),
    [
        ((), ["1.5", "2", "?", None], [1.5, 2.0, None, None]),
        ((3, 4), ["3", "4.0", "x", None], [3, 4, None, None]),
        ((False, True), ["TRUE", "false", "1", None], [True, False, None, None]),
        (("a", "b"), ["a", "c", "NA", None], ["a", "c", "NA", None]),
    ],
)
def test_targets_are_read_as_the_model_predicts_them(classes, written, expected, model):
    other = object.__new__(TableModel)
    vars(other).update({**vars(model), "classes": classes})
    found = other.targets(pd.Series(written, dtype="string"))
    assert [None if pd.isna(value) else value for value in found] == expected


def test_parameters_that_are_no_plain_values_become_text():
    frame = _table()
    estimator = ConvexReLURegressor(
        np.float64(0.1), patterns="sampled", n_patterns=5, random_state=np.random.RandomState(0)
    )
    parameters = _fitted(estimator, frame, _number(frame)).parameters
    assert parameters["alpha"] == 0.1
    assert parameters["random_state"].startswith("RandomState")
    json.dumps(parameters)


def test_only_fitted_estimators_of_chains_become_models():
    columns = learn_columns(_table())
    with pytest.raises(TypeError, match="needs a fitted chain or grade of convexgrade; got Ridge"):
        TableModel.from_estimator(Ridge(), columns, "y")
    with pytest.raises(NotFittedError):
        TableModel.from_estimator(ConvexReLURegressor(), columns, "y")


@pytest.mark.parametrize("unit", ["D", "ns"])
def test_dates_are_no_classes_of_models(unit):
    frame = _table()
    days = np.where(_number(frame) > np.median(_number(frame)), "2020-01-01", "2021-01-01")
    y = days.astype(f"datetime64[{unit}]")
    with pytest.raises(ValueError, match="Classes must be texts or numbers to be saved; got array"):
        _fitted(ConvexReLUClassifier(**GRADE), frame, y)


def test_limits_are_those_of_the_fit():
    frame = _table()
    estimator = ConvexReLURegressor(**GRADE)
    X = encode(learn_columns(frame), frame)
    estimator.fit(X, _number(frame)).set_params(extrapolation=None)
    model = TableModel.from_estimator(estimator, learn_columns(frame), np.str_("y"))
    far = frame.assign(size=1e5)
    np.testing.assert_allclose(model.predict(far), estimator.predict(encode(model.columns, far)))
    assert model.limits == tuple(float(end[0]) for end in estimator.prediction_range_)
    assert type(model.target) is str


def test_a_model_has_one_target():
    frame = _table()
    y = np.column_stack([_number(frame), _number(frame)])
    with pytest.raises(ValueError, match="one target; this ConvexReLURegressor was fitted on 2"):
        _fitted(ConvexReLURegressor(**GRADE), frame, y)


def test_an_interrupted_write_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(TypeError), written_whole(path) as file:  # noqa: PT012
        file.write(b"half")
        file.write("a half that is no bytes")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["nowhere/model.npz", "file/model.npz", "m" * 250])
def test_a_file_that_cannot_be_written_is_named_as_it_was_given(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as error, written_whole(tmp_path / name):  # noqa: PT011
        pytest.fail("it was opened")
    assert error.value.filename == str(tmp_path / name)


def test_a_device_is_written_to_directly():
    with written_whole("/dev/null") as file:
        file.write(b"anything")
    with open("/dev/null", "rb") as file:
        assert file.read() == b""


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "model.npz")


def _bytes_of(save, *values):
    buffer = io.BytesIO()
    save(buffer, *values)
    return buffer.getvalue()


def test_an_archive_of_something_else_describes_no_model(tmp_path):
    np.savez(tmp_path / "other.npz", np.zeros(3))
    with pytest.raises(ValueError, match="is no convexgrade model: it describes none"):
        load_model(tmp_path / "other.npz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a,b\n1,2\n",
        b"PK\x03\x04 and nothing else",
        pickle.dumps({"a": 1}),
        _bytes_of(np.save, np.zeros(3)),
        _bytes_of(np.savez, np.zeros(3)),
    ],
    ids=["empty", "text", "broken zip", "pickle", "npy", "foreign npz"],
)
def test_foreign_files_are_refused(content, tmp_path):
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.npz is no convexgrade model: "):
        load_model(path)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the file ran code",))


def test_nothing_in_a_file_is_unpickled(path):
    _rewrite(path, lambda arrays, about: arrays.update(baseline=np.array([_Bomb()], dtype=object)))
    with pytest.raises(ValueError, match=r"is no convexgrade model: .*allow_pickle"):
        load_model(path)


def _rewrite(path, change):
    with np.load(path) as archive:
        arrays = dict(archive)
    about = json.loads(str(arrays["about"]))
    change(arrays, about)
    arrays["about"] = np.array(json.dumps(about))
    np.savez(path, **arrays)


def _set(key, value):
    return lambda arrays, about: about.__setitem__(key, value)


def _weights(key, change):
    return lambda arrays, about: arrays.__setitem__(key, change(arrays[key]))


@pytest.mark.parametrize(
    "change",
    [
        _set("format", "something else"),
        _set("version", 2),
        _set("version", None),
        _set("classes", ["a", "b", "c"]),
        _set("classes", ["a"]),
        _set("columns", []),
        _set("columns", [{"name": "x", "fill": 0.0, "categories": None, "surprise": 1}]),
        _set("grades", [{}]),
        _set("parameters", None),
        lambda arrays, about: about.pop("target"),
        lambda arrays, about: about["grades"].pop(),
        lambda arrays, about: about["grades"][0]["certificate"].update(status="EXCELLENT"),
        lambda arrays, about: about["grades"][0]["certificate"].update(relative_gap="none"),
        lambda arrays, about: about["columns"][0].update(fill="middling"),
        lambda arrays, about: arrays.pop("grade_1_hidden_coef"),
        _weights("grade_1_hidden_coef", lambda a: a[:-1]),
        _weights("grade_2_hidden_coef", lambda a: np.full_like(a, np.nan)),
        _weights("grade_2_output_coef", lambda a: a.astype(str)),
        _weights("baseline", lambda a: a[0]),
        _weights("grade_2_low", lambda a: a + np.inf),
        _weights("grade_2_high", lambda a: np.full_like(a, np.nan)),
        _weights("grade_2_high", lambda a: np.tile(a, 2)),
        lambda arrays, about: arrays.pop("grade_1_low"),
    ],
)
def test_tampered_files_are_refused(change, path):
    _rewrite(path, change)
    with pytest.raises(ValueError, match=r"model\.npz is no convexgrade model: "):
        load_model(path)


def test_damaged_files_are_refused_or_harmless(model, path):
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(len(content), size=40):
        path.write_bytes(content[:position])
        with pytest.raises(ValueError, match="is no convexgrade model"):
            load_model(path)
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        path.write_bytes(flipped)
        with contextlib.suppress(ValueError):  # not all bytes of an archive matter
            load_model(path)


def test_a_model_is_of_the_loss_that_was_fitted():
    frame = _table()
    counts = np.exp(_number(frame))
    columns = learn_columns(frame)
    estimator = MultigradeRegressor(**FAST).fit(encode(columns, frame), counts)
    estimator.set_params(loss="poisson")
    model = TableModel.from_estimator(estimator, columns, target="y")
    np.testing.assert_allclose(
        model.predict(frame), estimator.predict(encode(model.columns, frame))
    )
    assert model.parameters["loss"] == "squared_error"
