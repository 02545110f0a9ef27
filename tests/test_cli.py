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
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import root_mean_squared_error

from convexgrade import MultigradeClassifier, MultigradeRegressor, cli
from convexgrade.cli import main
from convexgrade.export import load_model
from convexgrade.table_columns import encode

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


# "auto" tries four, on rows held out.
@pytest.mark.parametrize(("alpha", "correction"), [("auto", "none"), (0.05, "backward")])
def test_the_model_is_that_of_one_fit_with_these_parameters(run, alpha, correction):
    _, out, _ = run(
        *("fit", "data.csv", "--target", "price", *FAST),
        *("--alpha", alpha, "--correction", correction, "--early-stopping", "auto"),
        *("--validation-fraction", "0.5"),
    )
    model = load_model("model.npz")
    frame = pd.read_csv("data.csv")
    estimator = MultigradeRegressor(
        alpha,
        n_grades=2,
        patterns="sampled",
        n_patterns=5,
        correction=correction,
        validation_fraction=0.5,
        random_state=0,
    ).fit(encode(model.columns, frame), frame["price"])
    chosen = ", chosen on rows held out" if alpha == "auto" else ""
    assert f"The first penalty is alpha={estimator.alpha_:.3g}{chosen}.\n" in out
    corrected = estimator.objective_path_.size > 1
    assert ("its correction, which lowered the objective of all" in out) == corrected
    error = root_mean_squared_error(frame["price"], model.predict(frame))
    assert (f": training RMSE {error:.4g}." in out) == corrected
    np.testing.assert_allclose(
        model.predict(frame), estimator.predict(encode(model.columns, frame)), rtol=0, atol=1e-10
    )
    assert model.parameters == estimator.get_params()


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
    assert err == "convexgrade: warning: new.csv is read as separated by ';'.\n"


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
    assert (status, err) == (0, "")
    expected = model.predict(frame.assign(size=[i % 10 for i in range(40)]))
    np.testing.assert_allclose(np.array(out.splitlines()[1:], dtype=float), expected)


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


def test_a_category_the_model_does_not_know_is_told(run, price_model):
    frame = _table().replace({"colour": {"red": "red "}})
    frame.to_csv("new.csv", index=False)
    status, out, err = run("predict", "model.npz", "new.csv")
    number = (frame["colour"] == "red ").sum()
    assert status == 0
    assert err == (
        f"convexgrade: warning: {number} of 40 values of 'colour' are unknown to the model, "
        "as 'red '.\n"
    )
    expected = load_model("model.npz").predict(frame)
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
    ("target", "task"),
    [
        ("price", "regression"),
        ("kind", "classification"),
        ("stars", "classification"),
        ("fair", "classification"),
        ("place", "regression"),
    ],
)
def test_the_task_follows_from_the_target(target, task, run):
    _table().assign(place=range(40)).to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", target, *FAST)
    assert f"Task: {task}, as '{target}' has" in out
    assert load_model("model.npz").task == task


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
    frame = _table().assign(void=np.nan, name=[f"n{i}" for i in range(40)])
    frame.to_csv("data.csv", index=False)
    _, out, _ = run("fit", "data.csv", "--target", "price", *FAST)
    assert "Dropped column 'void' without any value." in out
    assert "Dropped column 'name' of texts all different." in out
    assert not {"void", "name"} & {column.name for column in load_model("model.npz").columns}


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
        ("", "No columns to parse"),
        ("x,y\n", "data.csv has no rows."),
        ("x,y\n1,2\n1,2,3,4\n", "data.csv: "),
        ("x,y\n1,2,3\n1,2,3\n", "data.csv: "),
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
    assert (done.returncode, done.stdout, done.stderr) == (0, "price\n", "")
