"""The command line, mostly in this process: what it prints, what it writes, how it refuses."""

import inspect
import os
import runpy
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import version
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import root_mean_squared_error

from convexgrade import MultigradeClassifier, MultigradeRegressor, cli
from convexgrade.cli import main
from convexgrade.display import error_metric
from convexgrade.export import load_model
from convexgrade.table_columns import encode
from convexgrade.telling import in_units_of_y

ROOT = Path(__file__).parents[1]
FAST = ["--alpha", "0.05", "--n-grades", "2", "--patterns", "sampled", "--n-patterns", "5"]
FAST += ["--random-state", "0", "--early-stopping", "false"]


def _table(n=40):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"size": rng.normal(size=n), "colour": rng.choice(["red", "blue"], size=n)}
    )
    frame["price"] = frame["size"].abs() + (frame["colour"] == "red")
    frame["kind"] = np.where(frame["price"] > 1, "dear", "cheap")
    frame["stars"] = (frame["price"] > 1) + 3
    frame["fair"] = frame["price"] > 1
    return frame


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory with one table."""
    monkeypatch.chdir(tmp_path)
    _table().to_csv("data.csv", index=False)
    return tmp_path


@cache
def _model_of(target):
    """Return the file that `fit` saves for a target of the table."""
    with TemporaryDirectory() as place:
        data, model = f"{place}/data.csv", Path(place, "model.npz")
        _table().to_csv(data, index=False)
        with redirect_stdout(StringIO()):
            assert main(["fit", data, "--target", target, "--out", str(model), *FAST]) == 0
        return model.read_bytes()


@pytest.fixture
def price_model(folder):
    Path("model.npz").write_bytes(_model_of("price"))


@pytest.fixture
def kind_model(folder):
    Path("model.npz").write_bytes(_model_of("kind"))


@pytest.fixture
def run(folder, capsys):
    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def fails(run):
    """Run a command that must be refused in one line; return that line."""

    def fails(*arguments):
        status, _, err = run(*arguments)
        assert status == 2
        assert err.startswith("convexgrade: error: ")
        assert err.count("\n") == 1
        return err

    return fails


def test_fit_prints_a_line_a_grade_and_saves_the_model(run):
    status, out, err = run("fit", "data.csv", "--target", "price", *FAST)
    assert (status, err) == (0, "")
    assert "Task: regression" in out
    header, *rows = [
        line.split()
        for line in out.splitlines()
        if "grade" in line[:5] or line[:5].strip().isdigit()
    ]
    assert header[:3] == ["grade", "patterns", "neurons"]
    assert [row[0] for row in rows[:2]] == ["1", "2"]
    assert "Certified from data and weights alone" in out
    assert out.splitlines()[-1] == "Model saved: model.npz"
    assert len(load_model("model.npz").grades) == 2


def test_what_the_fit_prints_itself_comes_before_the_table_of_grades(run):
    fit = ("fit", "data.csv", "--target", "price", *FAST, "--verbose")
    quiet, said = (run(*fit, level)[1].splitlines() for level in ("0", "1"))
    start, at = (next(i for i, s in enumerate(o) if s.startswith("grade ")) for o in (quiet, said))
    assert [line[:70] for line in said[at : at + 4]] == [line[:70] for line in quiet[start:][:4]]
    assert [line[:6] for line in said[at : at + 4]] == ["grade ", "    1 ", "    2 ", ""]
    own = said[start:at]
    assert own[-1] == ""
    assert sum(line.startswith("Grade ") for line in own) == 2


def test_the_model_is_that_of_one_fit_with_these_parameters(run):
    _, out, _ = run(
        *("fit", "data.csv", "--target", "price", *FAST),
        *("--correction", "backward", "--early-stopping", "auto", "--validation-fraction", "0.5"),
    )
    model = load_model("model.npz")
    frame = pd.read_csv("data.csv")
    estimator = MultigradeRegressor(
        0.05,
        n_grades=2,
        patterns="sampled",
        n_patterns=5,
        correction="backward",
        validation_fraction=0.5,
        random_state=0,
    ).fit(encode(model.columns, frame), frame["price"])
    assert f"The first penalty is alpha={estimator.alpha_:.3g}.\n" in out
    corrected = estimator.objective_path_.size > 1
    assert ("its correction, which lowered the objective of all" in out) == corrected
    error = root_mean_squared_error(frame["price"], model.predict(frame))
    assert (f": training RMSE {error:.4g}." in out) == corrected
    np.testing.assert_allclose(
        model.predict(frame), estimator.predict(encode(model.columns, frame)), rtol=0, atol=1e-10
    )
    assert model.parameters == estimator.get_params()


@pytest.mark.parametrize(
    ("target", "loss"),
    [
        ("price", "squared_error"),
        ("price", "absolute_error"),
        ("price", "quantile"),
        ("price", "poisson"),
        ("price", "huber"),
        ("kind", "log_loss"),
        ("kind", "squared_hinge"),
    ],
)
def test_a_mean_loss_is_an_error_in_units_of_y(target, loss):
    """As seen by the training loss, of which the error is known."""
    frame = _table()
    X, y = frame[["size"]].to_numpy(), frame[target]
    options = {"loss": loss, "alpha": 0.05, "n_grades": 1, "n_patterns": 5, "random_state": 0}
    kind = MultigradeClassifier if target == "kind" else MultigradeRegressor
    if target == "price":
        y = 10.0 * y
        options |= {"quantile": 0.8, "extrapolation": None}
    model = kind(**options).fit(X, y)
    said = in_units_of_y(model, float(model.train_loss_[-1]))
    match loss:
        case "huber":
            spread = 1.4826 * np.median(np.abs(y - np.median(y)))
            width = 0.3 * spread
            away = np.abs(y - model.predict(X))
            cost = np.where(away < width, away**2 / (2 * width), away - width / 2).mean()
            name, number, rest = (
                "Huber's loss",
                cost,
                f" (linear from {width:.4g} on, and divided by that)",
            )
        case "log_loss":
            chance = model.predict_proba(X)[np.arange(len(y)), (y == "dear").astype(int)]
            name, number = "log loss", -np.log(chance).mean()
            mean = np.exp(np.log(chance).mean())
            rest = f" (right classes have probability {mean:.3g} in the geometric mean)"
        case "squared_hinge":
            margin = np.where(y == "dear", 1, -1) * model.decision_function(X)
            name, number, rest = "squared hinge loss", (np.maximum(1 - margin, 0) ** 2).mean(), ""
        case _:
            name, metric = error_metric(model)
            kink = loss in ("absolute_error", "quantile")
            number, rest = metric(y, model.predict(X)), " (with its kink smoothed)" if kink else ""
    assert said.endswith(rest)
    found = said.removeprefix(f"{name} ").removesuffix(rest)
    smoothed = loss in ("absolute_error", "quantile")  # kinks are, within 1e-3 of the spread
    assert float(found) == pytest.approx(number, rel=5e-3 if smoothed else 1e-3)


def test_classes_that_weigh_more_have_no_mean_probability():
    X = _table()[["size"]].to_numpy()
    model = MultigradeClassifier(
        0.05, n_grades=1, n_patterns=5, class_weight="balanced", random_state=0
    ).fit(X, _table()["kind"])
    assert in_units_of_y(model, 0.5) == "log loss 0.5 (rows weighted by class)"


HELD_OUT = ["--early-stopping", "auto", "--validation-fraction", "0.5"]


@pytest.mark.parametrize(
    ("options", "announced", "chosen"),
    [
        (["--alpha", "auto"], "the penalty and the depth", "alpha and depth"),
        ([], "the depth", "the depth"),
    ],
)
def test_rows_held_out_are_announced_and_their_error_told(options, announced, chosen, run):
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST, *HELD_OUT, *options)
    assert (
        f"First, rows held out choose {announced}: for seconds, or minutes where rows are many.\n"
        "Then a line comes with each grade:\n\n"
    ) in out
    model, frame = load_model("model.npz"), _table()
    X = encode(model.columns, frame)
    estimator = MultigradeRegressor(**model.parameters).fit(X, frame["price"])
    np.testing.assert_allclose(model.predict(frame), estimator.predict(X), rtol=0, atol=1e-10)
    found = ", chosen on rows held out" if "auto" in options else ""
    assert f"The first penalty is alpha={estimator.alpha_:.3g}{found}.\n" in out
    rmse = np.std(frame["price"]) * np.sqrt(2 * estimator.validation_loss_[-1])
    assert (
        f"On rows held out: RMSE {rmse:.4g}, by chains fitted to the other rows. As these rows chose "
        f"{chosen}, this can be a little optimistic. Model saved"
    ) in " ".join(out.split())


def test_nothing_is_said_of_rows_held_out_where_there_are_none(run):
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST)
    assert "held out" not in out
    _table(19).to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST, *HELD_OUT)
    assert "held out" not in out


def test_what_auto_chose_is_told_by_fit_and_describe(run):
    _table().assign(area=np.exp(_table()["size"] * 4)).to_csv("data.csv", index=False)
    options = ["--log-tails", "true", "--distances", "true"]
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST, *options)
    expected = (
        "Tails are read on a logarithmic scale in column 'area'; "
        "distances from the mean are read of columns 'size', 'area'."
    )
    assert f"\n{expected}\n" in out
    assert f"\n{expected}\n" in run("describe", "model.npz")[1]


def test_a_second_run_gives_the_same_model_unless_it_is_told_otherwise(run):
    without = [word for word in FAST if word not in ("--random-state", "0")]
    assert len(without) == len(FAST) - 2

    def predictions(*options):
        run("fit", "data.csv", "--target", "price", *without, *options)
        model = load_model("model.npz")
        return model.parameters["random_state"], model.predict(_table())

    seed, first = predictions()
    assert seed == 0
    np.testing.assert_array_equal(predictions()[1], first)
    seed, other = predictions("--random-state", "none")
    assert seed is None
    assert (other != first).any()


def test_predict_writes_one_column_named_after_the_target(run, price_model):
    _, out, _ = run("predict", "model.npz", "data.csv")
    lines = out.splitlines()
    assert lines[0] == "price"
    expected = load_model("model.npz").predict(_table())
    np.testing.assert_allclose(np.array(lines[1:], dtype=float), expected)
    status, out, _ = run("predict", "model.npz", "data.csv", "--out", "predictions.csv")
    assert (status, out) == (0, "40 predictions saved: predictions.csv\n")
    assert Path("predictions.csv").read_text().splitlines() == lines


def test_probabilities_are_added_for_classifiers(run, kind_model):
    status, _, _ = run("predict", "model.npz", "data.csv", "--proba", "--out", "p.csv")
    table = pd.read_csv("p.csv")
    assert status == 0
    assert list(table) == ["kind", "proba_cheap", "proba_dear"]
    assert ((table["proba_dear"] > 0.5) == (table["kind"] == "dear")).all()


def test_probabilities_do_not_take_the_place_of_predictions(run):
    frame = _table().rename(columns={"kind": "proba_dear"})
    frame.to_csv("data.csv", index=False)
    run("fit", "data.csv", "--target", "proba_dear", *FAST)
    _, out, _ = run("predict", "model.npz", "data.csv", "--proba")
    header, first, *_ = out.splitlines()
    assert header == "proba_dear,probability_cheap,probability_dear"
    assert first.split(",")[0] in ("cheap", "dear")


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_an_empty_line_of_one_column_is_a_row(kind, run, tmp_path):
    _table()[["size", "price"]].to_csv("data.csv", index=False)
    run("fit", "data.csv", "--target", "price", *FAST)
    Path("one.csv").write_text("size\n1.5\n\n2.5\n")
    path = "one.csv"
    if kind == "pipe":
        read, write = os.pipe()
        os.write(write, Path("one.csv").read_bytes())
        os.close(write)
        path = f"/dev/fd/{read}"
    _, out, _ = run("predict", "model.npz", path)
    expected = load_model("model.npz").predict(pd.DataFrame({"size": [1.5, np.nan, 2.5]}))
    np.testing.assert_allclose(np.array(out.splitlines()[1:], dtype=float), expected)


def test_an_empty_line_before_the_names_of_one_column_is_refused(run, fails):
    _table()[["size", "price"]].to_csv("data.csv", index=False)
    run("fit", "data.csv", "--target", "price", *FAST)
    Path("one.csv").write_text("\nsize\n1.5\n")
    assert "one.csv: its first line is empty." in fails("predict", "model.npz", "one.csv")


def test_a_table_with_semicolons_is_predicted_and_told(run, price_model):
    _, expected, _ = run("predict", "model.npz", "data.csv")
    _table().to_csv("new.csv", index=False, sep=";")
    warnings.simplefilter("default")
    status, out, err = run("predict", "model.npz", "new.csv")
    assert (status, out) == (0, expected)
    assert err.splitlines()[0] == "convexgrade: warning: new.csv is read as separated by ';'."


def test_predictions_for_a_folder_that_is_missing_are_refused(fails, price_model):
    message = fails("predict", "model.npz", "data.csv", "--out", "nowhere/p.csv")
    assert message == "convexgrade: error: nowhere/p.csv: No such file or directory\n"


def test_probabilities_of_a_regression_are_refused(fails, price_model):
    assert "no probabilities" in fails("predict", "model.npz", "data.csv", "--proba")


def test_categories_that_look_like_numbers_stay_text(run):
    frame = _table().assign(colour=lambda f: f["colour"].map({"red": "01", "blue": "x"}))
    frame.to_csv("data.csv", index=False)
    run("fit", "data.csv", "--target", "price", *FAST)
    red = frame[frame["colour"] == "01"]
    red.to_csv("red.csv", index=False)
    _, out, _ = run("predict", "model.npz", "red.csv")
    expected = load_model("model.npz").predict(frame)[frame["colour"] == "01"]
    np.testing.assert_allclose(np.array(out.splitlines()[1:], dtype=float), expected)


def test_codes_with_zeros_in_front_are_categories(run):
    frame = _table().assign(colour=lambda f: f["colour"].map({"red": "01003", "blue": "90210"}))
    frame.to_csv("data.csv", index=False)
    run("fit", "data.csv", "--target", "price", *FAST)
    model = load_model("model.npz")
    [colour] = [column for column in model.columns if column.name == "colour"]
    assert colour.categories == ("01003", "90210")
    frame.assign(size=[f"0{i % 10}" for i in range(40)]).to_csv("new.csv", index=False)
    status, out, err = run("predict", "model.npz", "new.csv")
    assert status == 0
    assert "warning" not in err
    expected = model.predict(frame.assign(size=[i % 10 for i in range(40)]))
    np.testing.assert_allclose(np.array(out.splitlines()[1:], dtype=float), expected)


def test_texts_of_many_categories_are_told(run):
    frame = _table(80)
    frame["place"], frame["town"] = [f"p{i % 21:02}" for i in range(80)], ["a", "b"] * 40
    frame.to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST)
    assert (
        "Columns of more than 20 categories, each an input: 'place' (21, such as 'p00').\n" in out
    )


def test_the_table_is_counted(run):
    _table()[["size", "price"]].to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST)
    assert "\n40 rows, 1 column, 1 input of the network\n\n" in out
    assert "'price' from 1 column\n" in run("describe", "model.npz")[1]


def test_tables_come_by_the_standard_input(run, monkeypatch):
    content = Path("data.csv").read_bytes()

    def given(*arguments):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))
        return run(*arguments)

    assert given("fit", "-", "--target", "price", *FAST)[0] == 0
    assert Path("model.npz").read_bytes()[:2] == b"PK"
    assert given("predict", "model.npz", "-") == run("predict", "model.npz", "data.csv")


def test_what_was_missing_is_told(run):
    frame = _table()
    frame.loc[:2, "size"], frame.loc[3, "colour"] = np.nan, None
    frame.to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST)
    size, colour, *_ = load_model("model.npz").columns
    assert (
        f"Missing values filled: 3 of 'size' by {size.fill:g}, 1 of 'colour' by {colour.fill}."
        in out
    )


def test_what_predict_fills_is_told(run, price_model):
    frame = _table()
    frame["size"], frame.loc[3, "colour"] = None, None
    frame.drop(columns="price").to_csv("new.csv", index=False)
    size, colour, *_ = load_model("model.npz").columns
    status, out, err = run("predict", "model.npz", "new.csv")
    assert (status, out.count("\n")) == (0, 41)
    assert err == (
        "convexgrade: warning: missing values of 40 rows filled: "
        f"40 of 'size' by {size.fill:g}, 1 of 'colour' by {colour.fill}.\n"
    )


def _said_of(target, cells, run):
    """Return what `predict` says on the standard error, given the target's cells of the first rows."""
    Path("m.npz").write_bytes(_model_of(target))
    _table().drop(columns=target).assign(**{target: [*cells, *[None] * (40 - len(cells))]}).to_csv(
        "new.csv", index=False
    )
    status, out, err = run("predict", "m.npz", "new.csv")
    assert (status, out.count("\n")) == (0, 41)
    return err


@pytest.mark.parametrize(
    ("target", "others"),
    [("kind", ["other", "NA"]), ("stars", ["7", "?"]), ("fair", ["maybe", "?"])],
)
def test_predict_tells_the_rate_of_wrong_classes_where_they_are_known(target, others, run):
    """A label that no class has is wrong, if it is of their kind: a text, a number."""
    Path("m.npz").write_bytes(_model_of(target))
    first, second, *_ = load_model("m.npz").predict(_table()).tolist()
    wrong = {"cheap": "dear", "dear": "cheap", 3: "4", 4: "3", False: "TRUE", True: "FALSE"}[second]
    err = _said_of(target, [str(first), wrong, *others], run)
    of_kind = {"kind": 2, "stars": 1, "fair": 0}[target]
    lost = [other for other in others if target == "fair" or other == "?"]
    warning = (
        f"convexgrade: warning: {len(lost)} of 4 values of {target!r} cannot be read, as "
        f"{lost[0]!r}: these rows do not count for the error.\n"
        if lost
        else ""
    )
    rate = (1 + of_kind) / (2 + of_kind)
    assert err == (
        f"{warning}convexgrade: error rate {rate:.4g}, of {2 + of_kind} rows with a known {target!r}.\n"
    )


def test_predict_tells_the_error_where_the_target_is_known(run):
    Path("m.npz").write_bytes(_model_of("price"))
    predicted = load_model("m.npz").predict(_table())[:2]
    rmse = root_mean_squared_error([1.5, 2.0], predicted)
    said = f"convexgrade: RMSE {rmse:.4g}, of 2 rows with a known 'price'.\n"
    assert _said_of("price", ["1.5", "2", "NA"], run) == said
    lost = "convexgrade: warning: {} values of 'price' cannot be read, as '?': these rows do not count "
    lost += "for the error.\n"
    assert _said_of("price", ["1.5", "2", "?", "NA"], run) == lost.format("1 of 4") + said
    assert _said_of("price", ["?", "-"], run) == lost.format("2 of 2")
    assert "warning: no RMSE, of 1 row with a known 'price': Input contains infinity" in _said_of(
        "price", ["inf"], run
    )


def test_a_category_the_model_does_not_know_is_told(run, price_model):
    frame = _table().replace({"colour": {"red": "red "}})
    frame.to_csv("new.csv", index=False)
    status, out, err = run("predict", "model.npz", "new.csv")
    number = (frame["colour"] == "red ").sum()
    assert status == 0
    expected = load_model("model.npz").predict(frame)
    error = root_mean_squared_error(frame["price"], expected)
    assert err == (
        f"convexgrade: warning: {number} of 40 values of 'colour' are unknown to the model, "
        f"as 'red '.\nconvexgrade: RMSE {error:.4g}, of 40 rows with a known 'price'.\n"
    )
    np.testing.assert_allclose(np.array(out.splitlines()[1:], dtype=float), expected)


def test_labels_come_back_as_they_were_written(run):
    frame = _table().assign(stars=lambda f: f["stars"].map({3: "03", 4: "04"}))
    frame.to_csv("data.csv", index=False)
    run("fit", "data.csv", "--target", "stars", *FAST)
    assert load_model("model.npz").classes == ("03", "04")
    _, out, _ = run("predict", "model.npz", "data.csv")
    assert set(out.splitlines()[1:]) == {"03", "04"}


def test_describe_says_what_the_model_is(run, kind_model):
    status, out, _ = run("describe", "model.npz")
    assert status == 0
    assert "classification of cheap, dear: 'kind' from 5 columns" in out


@pytest.mark.parametrize(
    ("target", "task", "kinds"),
    [
        ("price", "regression", "40 distinct numbers"),
        ("kind", "classification", "2 distinct texts"),
        ("stars", "classification", "2 distinct integers; `--task regression` overrules that"),
        ("whole", "regression", "2 distinct numbers; `--task classification` overrules that"),
        ("fair", "classification", "2 distinct truth values"),
        ("place", "regression", "40 distinct integers"),
    ],
)
def test_the_task_follows_from_the_target(target, task, kinds, run):
    frame = _table().assign(place=range(40))
    frame.assign(whole=frame["stars"] + 0.0).to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", target, *FAST)
    assert f"Task: {task}, as '{target}' has {kinds}.\n" in out
    assert load_model("model.npz").task == task


@pytest.mark.parametrize(
    ("cells", "odd"),
    [
        (["0", "1", "1", "?"], "has numbers, but also '?'"),
        (["1,5", "2,5"], "has numbers written as '1,5'"),
        (["a", "b", "1"], None),
    ],
)
@pytest.mark.parametrize("target", [True, False])
def test_texts_that_are_mostly_numbers_are_told(cells, odd, target, run):
    frame = _table().assign(odd=np.resize(cells, 40))
    frame.to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "odd" if target else "price", *FAST)
    as_what = (
        "each is a class. Empty cells that have no value." if target else "read as categories."
    )
    assert ("Column 'odd' has" in out) == (odd is not None)
    assert odd is None or f"Column 'odd' {odd}: {as_what}\n" in out


def test_a_dash_is_the_standard_output_of_predictions(run, kind_model):
    _, expected, _ = run("predict", "model.npz", "data.csv")
    assert run("predict", "model.npz", "data.csv", "--out", "-")[1] == expected
    assert not Path("-").exists()


def test_an_unknown_option_names_the_help_of_its_command(fails):
    said = fails("fit", "data.csv", "--target", "price", "--n-pattern", "10")
    assert "unrecognized arguments: --n-pattern 10 (see convexgrade fit --help)" in said


def test_integers_with_gaps_are_still_integers(run):
    frame = _table()
    frame["stars"] = frame["stars"].astype("Int64").mask(frame.index == 3)
    frame.to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "stars", *FAST)
    assert "Rows dropped for having no value of 'stars': 1." in out
    assert load_model("model.npz").classes == (3, 4)


def test_the_task_can_be_chosen(run):
    _, out, _ = run("fit", "data.csv", "--target", "stars", "--task", "regression", *FAST)
    assert "Task:" not in out
    assert load_model("model.npz").task == "regression"


def test_columns_that_teach_nothing_are_dropped(run):
    frame = _table().assign(void=np.nan, one=1.5, only="x", name=[f"n{i}" for i in range(40)])
    frame.loc[3, "only"] = None
    frame["day"] = pd.date_range("2020-01-01", periods=40).astype(str)
    frame["time"] = [f"{i % 7}:30" for i in range(40)]
    frame.to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST)
    assert "Dropped column 'void' without any value.\n" in out
    assert "Dropped columns 'one', 'only' of one value alone.\n" in out
    said = "of texts that are (nearly) all different, such as"
    assert f"Dropped column 'name' {said} 'n0'.\n" in out
    assert f"Dropped column 'day' {said} '2020-01-01'.\n" in out
    assert (
        "Dates and times are not read as such, as in columns 'day', 'time'. Give year, month, day, "
        "hour or differences in days as columns of numbers.\n"
    ) in out
    columns = [column.name for column in load_model("model.npz").columns]
    assert columns == ["size", "colour", "kind", "stars", "fair", "time"]


def test_the_index_that_pandas_writes_is_dropped(run):
    frame = _table()
    frame.loc[3, "price"] = np.nan
    frame.to_csv("data.csv")
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST)
    assert "Dropped column 'Unnamed: 0' without a name that counts the rows.\n" in out
    names = [column.name for column in load_model("model.npz").columns]
    assert names == ["size", "colour", "kind", "stars", "fair"]


def test_a_chain_that_ends_early_says_why(run):
    status, out, _ = run("fit", "data.csv", "--target", "price", *FAST, "--alpha", "30")
    assert status == 0
    assert "is trivial" in out
    assert len(load_model("model.npz").grades) == 1


def test_a_grade_short_of_the_tolerance_is_no_error(run):
    status, out, _ = run(
        "fit", "data.csv", "--target", "price", *FAST, "--tol", "1e-14", "--solver", "scs"
    )
    assert status == 0
    assert "Certified" in out


def test_every_parameter_can_be_given(run):
    status, *_ = run(
        *("fit", "data.csv", "--target", "price", *FAST, "--patterns", "sampled"),
        *("--early-stopping", "true", "--validation-fraction", "0.2", "--max-neurons", "none"),
        *("--linear-term", "True", "--standardize", "false", "--activation", "gated_relu"),
    )
    parameters = load_model("model.npz").parameters
    assert status == 0
    assert parameters["patterns"] == "sampled"
    assert parameters["early_stopping"] is parameters["linear_term"] is True
    assert parameters["standardize"] is False
    assert parameters["max_neurons"] is None
    assert parameters["n_grades"] == 2


def test_parameters_are_documented_whatever_python_makes_of_docstrings(monkeypatch, capsys):
    """From 3.13 on it strips their indentation, and with -OO there are none."""
    found = cli._documented(MultigradeRegressor)
    assert found["n_grades"].startswith("int, default=")
    assert set(found) == set(MultigradeRegressor().get_params())
    stripped = Mock(__doc__=inspect.cleandoc(MultigradeRegressor.__doc__))
    assert cli._documented(stripped) == found
    monkeypatch.setattr(cli, "_documented", lambda estimator: {})
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "--n-grades VALUE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--alpha", "-1", "'alpha' parameter of MultigradeRegressor must be a float in the range"),
        ("--alpha", "much", "Got 'much' instead."),
        ("--n-grades", "2.5", "The 'n_grades' parameter of MultigradeRegressor must be an int"),
        ("--patterns", "all", "'patterns' parameter of MultigradeRegressor must be a str among"),
        ("--random-state", "-1", "must be an int in the range [0, 4294967295]"),
        ("--warm-start", "true", "unrecognized arguments: --warm-start true"),
        ("--task", "guess", "invalid choice: 'guess'"),
        ("--patterns", "exhaustive", "patterns"),
    ],
)
def test_parameters_out_of_range_are_refused(option, value, message, fails):
    _table().assign(size=np.random.default_rng(1).normal(size=40)).to_csv("data.csv", index=False)
    assert message in fails("fit", "data.csv", "--target", "price", *FAST, option, value)
    assert not Path("model.npz").exists()


def test_a_missing_file_is_named(fails):
    assert "error: none.csv: No such file" in fails("fit", "none.csv", "--target", "price")
    assert "error: none.npz: No such file" in fails("describe", "none.npz")
    assert "error: none.npz: No such file" in fails("predict", "none.npz", "data.csv")


def test_an_unknown_target_is_refused_with_the_columns_there_are(fails):
    message = fails("fit", "data.csv", "--target", "prize")
    assert "There is no column 'prize', only columns 'size', 'colour', 'price'" in message


def test_regression_of_text_is_refused(fails):
    message = fails("fit", "data.csv", "--target", "kind", "--task", "regression")
    assert "Column 'kind' is not numeric, it holds 'cheap': regression" in message


def test_classification_of_real_numbers_is_refused(fails):
    message = fails("fit", "data.csv", "--target", "price", "--task", "classification", *FAST)
    assert "'price' has numbers with fractions: they are no classes." in message


@pytest.mark.parametrize(
    ("cells", "options", "example"),
    [
        ([f"n{i}" for i in range(40)], [], "'n0'"),
        ([f"n{i % 21}" for i in range(40)], ["--task", "classification"], "'n0'"),
        (range(40), ["--task", "classification"], "0"),
        ([f"${i}.50" for i in range(19)] + [None] * 21, [], "'$0.50'"),
    ],
)
def test_a_target_whose_values_hardly_recur_is_refused(cells, options, example, fails, monkeypatch):
    monkeypatch.setattr(MultigradeClassifier, "_fitting", lambda *_: pytest.fail("it was fitted"))
    _table().assign(name=cells).to_csv("data.csv", index=False)
    message = fails("fit", "data.csv", "--target", "name", *FAST, *options)
    assert "Column 'name' has " in message
    assert (
        f" rows, as {example}: too many for classes. Choose a column whose values recur" in message
    )
    assert "such as 1234.5" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "error: data.csv is empty. Its first line must hold the column names."),
        ("x,y\n", "data.csv has no rows."),
        ("x,y\n1,2\n1,2,3,4\n", "data.csv: line 3 has 4 cells, but the first line,"),
        ("x,y\n1,2,3\n1,2,3\n", "data.csv: line 2 has 3 cells, but the first line,"),
        ("a|b|y\n1|2|3\n", "error: the only column is 'a|b|y'. Cells must be separated by commas"),
        ("x,y\n3,1\n3,2\n", "No column is left to predict 'y' from."),
        ("x,y\n1,\n2,\n", "Column 'y' has no value."),
        ("y\n1\n2\n", "No column is left to predict 'y' from."),
        ("x,y\n,1\n,2\n", "No column is left to predict 'y' from."),
        ("x,y\ninf,1.5\n2,2.5\n", "Column 'x' holds infinite values."),
        ("x,y\n1,a\n2,a\n", "at least two classes"),
        ("x,y\n1,1.5\n2,inf\n", "Column 'y' holds infinite values."),
    ],
)
def test_tables_without_use_are_refused(text, message, fails):
    Path("data.csv").write_text(text)
    assert message in fails("fit", "data.csv", "--target", "y", *FAST)
    assert not Path("model.npz").exists()


def test_binary_files_are_no_tables(fails):
    Path("data.csv").write_bytes(bytes(range(256)))
    assert "data.csv: " in fails("fit", "data.csv", "--target", "y")


def test_missing_columns_are_named(fails, price_model):
    _table()[["size", "kind"]].to_csv("less.csv", index=False)
    message = fails("predict", "model.npz", "less.csv")
    assert "lacks columns 'colour', 'stars', 'fair'" in message


def test_what_is_no_model_or_command_is_refused(fails):
    assert "data.csv is no convexgrade model" in fails("describe", "data.csv")
    assert "data.csv is no convexgrade model" in fails("predict", "data.csv", "data.csv")
    assert "invalid choice: 'guess'" in fails("guess")


@pytest.mark.parametrize("out", ["nowhere/model.npz", "."])
def test_an_impossible_output_is_refused_before_the_fit(out, fails, monkeypatch):
    monkeypatch.setattr(MultigradeRegressor, "_fitting", lambda *_: pytest.fail("it was fitted"))
    assert "--out" in fails("fit", "data.csv", "--target", "price", "--out", out)


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--help"])
    assert exit_.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "For regression: int, default=4. Largest number of grades. For classification: int," in said
    )
    assert '"log_loss", "squared_hinge", "hinge"' in said
    assert (
        '--class-weight VALUE For classification: dict, "balanced" or None, default=None.' in said
    )
    assert "--random-state VALUE int, RandomState instance or None, default=0. Determines" in said
    assert "None gives another model in every run." in said
    assert (
        "linear instead of quadratic, in units of 1.4826 median absolute deviations of the targets"
    ) in said
    assert "the unit above" not in said
    assert "data CSV file with a header line; - for standard input" in said


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == version("convexgrade")


def test_class_weights_are_written_as_a_dict(run, fails):
    weights = "{'dear': 2, 'cheap': 1}"
    run("fit", "data.csv", "--target", "kind", "--class-weight", weights, *FAST)
    assert load_model("model.npz").parameters["class_weight"] == weights
    for wrong in ("{'a': 2", "{a: 2}"):
        said = fails("fit", "data.csv", "--target", "kind", "--class-weight", wrong, *FAST)
        assert "class_weight" in said


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt, 130, "interrupted; nothing was saved."),
        (MemoryError, 2, "error: not enough memory."),
    ],
)
def test_a_fit_that_ends_badly_saves_nothing(error, status, message, run, monkeypatch):
    monkeypatch.setattr(MultigradeRegressor, "_fitting", Mock(side_effect=error))
    got, _, err = run("fit", "data.csv", "--target", "price")
    assert (got, err) == (status, f"convexgrade: {message}\n")
    assert os.listdir() == ["data.csv"]


@pytest.mark.parametrize("out", ["model.npz", "data.csv"])
def test_predictions_do_not_take_the_place_of_what_they_come_from(out, fails, price_model):
    before = Path(out).read_bytes()
    error = fails("predict", "model.npz", "data.csv", "--out", out)
    assert f"--out is {out}, which this command reads" in error
    assert Path(out).read_bytes() == before


def test_a_model_of_counts_predicts_their_means(run):
    run("fit", "data.csv", "--target", "price", "--loss", "poisson", *FAST)
    model, frame = load_model("model.npz"), pd.read_csv("data.csv")
    estimator = MultigradeRegressor(**model.parameters).fit(
        encode(model.columns, frame), frame["price"]
    )
    expected = estimator.predict(encode(model.columns, frame))
    np.testing.assert_allclose(model.predict(frame), expected, rtol=1e-9)
    assert model.predict(frame).mean() == pytest.approx(frame["price"].mean(), rel=1e-4)


def test_margins_are_no_probabilities(run, fails):
    run("fit", "data.csv", "--target", "kind", "--loss", "hinge", *FAST)
    assert "loss='hinge' gives margins" in fails("predict", "model.npz", "data.csv", "--proba")
    _, out, _ = run("predict", "model.npz", "data.csv")
    assert set(out.splitlines()[1:]) <= set(pd.read_csv("data.csv")["kind"])


def test_the_table_is_not_written_over(fails):
    before = Path("data.csv").read_text()
    assert "is the table itself" in fails(
        "fit", "data.csv", "--target", "price", "--out", "data.csv"
    )
    assert Path("data.csv").read_text() == before


def test_an_error_of_the_system_says_what_it_knows(run, monkeypatch):
    monkeypatch.setattr(cli, "read_table", Mock(side_effect=OSError(28, "No space left")))
    _, _, err = run("fit", "data.csv", "--target", "price")
    assert err == "convexgrade: error: No space left\n"
    monkeypatch.setattr(cli, "read_table", Mock(side_effect=OSError("no such host")))
    assert run("fit", "data.csv", "--target", "price")[2] == "convexgrade: error: no such host\n"


def test_a_warning_is_one_line(run, monkeypatch):
    def warned(*_):
        warnings.warn("the solver\nwas replaced", RuntimeWarning, stacklevel=1)
        raise ValueError("and that failed")

    monkeypatch.setattr(MultigradeRegressor, "_fitting", warned)
    warnings.simplefilter("default")
    _, _, err = run("fit", "data.csv", "--target", "price")
    assert err.splitlines() == [
        "convexgrade: warning: the solver was replaced",
        "convexgrade: error: and that failed",
    ]


@pytest.fixture
def small_job(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = np.abs(X[:, 0]) + X[:, 1] + 1.0
    monkeypatch.setattr(cli, "load_energy", lambda **_: (X, y))
    monkeypatch.setattr(
        cli,
        "_DEFAULTS",
        {"alpha": 0.05, "n_grades": 2, "n_patterns": 5, "early_stopping": False, "random_state": 0},
    )


def test_without_arguments_the_main_job_runs(run, small_job, folder):
    status, out, err = run()
    assert (status, err) == (0, "")
    for expected in (
        "lower bound",
        "train RMSE",
        "test RMSE",
        "MLPRegressor",
        "Ridge",
        "Certified",
    ):
        assert expected in out
    assert f"Picture: {folder / 'convexgrade.png'}" in out
    assert Path("convexgrade.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_main_job_says_so(run, small_job, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, _ = run()
    assert status == 0
    assert "pip install matplotlib" in out
    assert not Path("convexgrade.png").exists()


@pytest.mark.parametrize(("target", "status"), [("price", 0), ("prize", 2)])
def test_the_exit_status_of_the_module_is_that_of_the_command(
    target, status, folder, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["convexgrade", "fit", "data.csv", "--target", target, *FAST])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("convexgrade", run_name="__main__")
    assert exit_.value.code == status
    out, err = capsys.readouterr()
    if status == 0:
        assert err == ""
        assert "Model saved: model.npz" in out
    else:
        assert err.startswith("convexgrade: error: ")


def test_a_reader_that_has_seen_enough_is_no_error(price_model):
    """In a process of its own: `python -m convexgrade`."""
    pd.concat([_table()] * 150).to_csv("long.csv", index=False)
    command = f"'{sys.executable}' -m convexgrade predict model.npz long.csv | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "price\n")
    assert done.stderr.count("\n") == 1  # the error, and nothing of the pipe


@pytest.mark.parametrize("unheard", ["| true", ">&-"])
def test_a_model_is_saved_though_nobody_reads(unheard, folder):
    """In a process of its own: whatever is printed, the reader is gone, or there was none."""
    fit = f"'{sys.executable}' -m convexgrade fit data.csv --target price {' '.join(FAST)}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{fit} --verbose 2 {unheard}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(load_model("model.npz").grades) == 2
