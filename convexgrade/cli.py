"""The command line: fit a table, predict, describe a model; without arguments, a demonstration."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import PredictionErrorDisplay, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from convexgrade.datasets import load_energy
from convexgrade.display import GradesDisplay
from convexgrade.estimators import MultigradeClassifier, MultigradeRegressor
from convexgrade.estimators.rows import Rows
from convexgrade.export import TableModel, load_model, save_model, written_whole
from convexgrade.table_columns import (
    encode,
    learn_columns,
    listed,
    refuse_infinite,
    unknown_values,
)
from convexgrade.tables import (
    STANDARD_STREAM,
    are_too_many,
    guess_task,
    holds_numbers,
    kind_of,
    may_be_classes,
    read_table,
    refuse_other_separator,
    tell_constant,
    tell_counts,
    tell_dates,
    tell_names,
    what_is_odd,
)
from convexgrade.telling import (
    Outlasting,
    filled,
    fit_and_tell,
    held_out,
    prediction_errors,
    silence,
    tell_columns,
)
from convexgrade.wording import counted

_ESTIMATORS = {"regression": MultigradeRegressor, "classification": MultigradeClassifier}
_PARAMETERS = tuple(
    name
    for name in dict.fromkeys(
        p for e in _ESTIMATORS.values() for p in inspect.signature(e).parameters
    )
    if name != "warm_start"  # it speaks of a second fit of the same object
)
_DEFAULTS: dict[str, Any] = {"random_state": 0}  # here, other than those of the estimators
_PICTURE = Path("convexgrade.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; None takes those of the process.

    Returns
    -------
    int
        Exit status: 0, 2 after an error that was reported in one line, 130 after an interruption.

    Examples
    --------
    >>> from convexgrade.cli import main
    >>> main(["describe", "no-such-model.npz"])
    2
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            arguments, unknown = _parser().parse_known_args(argv)
            if unknown:
                arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            arguments.run(arguments)
            print(end="", flush=True)  # where there is a standard output
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was saved.", 130)
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        silence(sys.stdout)
        return 0
    except OSError as error:
        parts = (error.filename, error.strerror)
        return _complain(f"error: {': '.join(str(p) for p in parts if p) or error}", 2)
    except (MemoryError, ValueError) as error:
        return _complain(f"error: {str(error) or 'not enough memory.'}", 2)
    return 0


def _complain(message: str, status: int) -> int:
    _say(message)
    return status


def _say(message: str) -> None:
    print("convexgrade:", " ".join(message.split()), file=sys.stderr)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="convexgrade", description=__doc__, allow_abbrev=False)
    parser.set_defaults(run=_demonstrate, parser=parser)
    parser.add_argument("--version", action="version", version=version("convexgrade"))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(run: Callable[[Any], None], name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run, parser=sub)
        return sub

    fit = command(_fit, "fit", "Fit a table and save the model.")
    fit.add_argument("data", type=Path, help="CSV file with a header line; - for standard input")
    fit.add_argument("--target", required=True, metavar="COLUMN", help="column to predict")
    fit.add_argument("--task", choices=["auto", *_ESTIMATORS], default="auto")
    fit.add_argument("--out", type=Path, default=Path("model.npz"), help="default: %(default)s")
    _add_parameters(fit.add_argument_group("parameters of the estimator"))
    predict = command(_predict, "predict", "Predict the rows of a table.")
    predict.add_argument("model", type=Path, help="file that `fit` saved")
    predict.add_argument("data", type=Path, help="CSV file with the model's columns; - likewise")
    predict.add_argument("--out", type=Path, help="CSV file to write; default: standard output")
    predict.add_argument("--proba", action="store_true", help="add class probabilities")
    describe = command(_describe, "describe", "Say what a model is and what is certified of it.")
    describe.add_argument("model", type=Path, help="file that `fit` saved")
    return parser


def _add_parameters(group: Any) -> None:
    """Offer every parameter of the estimators, which check the values themselves."""
    documented = {task: _documented(estimator) for task, estimator in _ESTIMATORS.items()}
    for name in _PARAMETERS:
        said = {task: texts[name] for task, texts in documented.items() if name in texts}
        text = " ".join(f"For {task}: {one}" for task, one in said.items())
        if len(said) == len(documented) and len(set(said.values())) == 1:
            text = next(iter(said.values()))
        if name == "random_state":
            text = re.sub(r"default=\w+", f"default={_DEFAULTS[name]}", text)
            text += " None gives another model in every run."
        group.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            type=_value,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=text.replace("%", "%%"),
        )


def _documented(estimator: Any) -> dict[str, str]:
    """Return what values each parameter takes, and the first sentence on what it does."""
    entry = re.compile(r"^(\w+) : (.+)\n((?:    .+\n)+)", re.MULTILINE)
    # Cleaned, as Python 3.13 does itself: before, docstrings keep their indentation.
    parameters = inspect.cleandoc(estimator.__doc__ or "").split("\nAttributes\n")[0]
    return {
        name: f"{kind}. {' '.join(text.split()).split('. ')[0].rstrip('.')}."
        for name, kind, text in entry.findall(parameters)
    }


def _value(text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if text.startswith("{"):
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _fit(arguments: argparse.Namespace) -> None:
    if not arguments.out.resolve().parent.is_dir() or arguments.out.is_dir():
        raise ValueError(f"--out {arguments.out} is a folder, or in a folder that does not exist.")
    if arguments.out.resolve() == arguments.data.resolve():
        raise ValueError(f"--out {arguments.out} is the table itself.")
    if arguments.out == STANDARD_STREAM:
        raise ValueError("--out - is no file: a model is not written to the standard output.")
    with redirect_stdout(Outlasting(sys.stdout)):  # a model is worth saving though nobody reads
        _fit_and_save(arguments)


def _fit_and_save(arguments: argparse.Namespace) -> None:
    table = read_table(arguments.data)
    frame, values = _split_target(table, arguments.target)
    task = _task(values, arguments.target, arguments.task)
    estimator = _ESTIMATORS[task](**_given_parameters(arguments, _ESTIMATORS[task]))
    estimator._validate_params()
    y = np.array(values.tolist(), dtype=np.float64 if task == "regression" else None)
    columns = learn_columns(frame)
    X = encode(columns, frame)
    tell_columns(columns, frame)
    _announce(estimator, X, y)
    fit_and_tell(estimator, X, y, {"training": (X, y)})
    model = TableModel.from_estimator(estimator, columns, arguments.target)
    print(f"\n{model.choices}")
    if estimator.validation_loss_.size:
        print(textwrap.fill(held_out(estimator), width=100))
    save_model(model, arguments.out)
    print(f"Model saved: {arguments.out}")


def _announce(estimator: Any, X: NDArray[Any], y: NDArray[Any]) -> None:
    """Say what comes before the first grade, if anything does."""
    single = np.ones(len(X))
    if estimator._holds_out(Rows(X, y, single, single).drawn):
        found = "the penalty and the depth" if estimator.alpha == "auto" else "the depth"
        print(f"First, rows held out choose {found}: for seconds, or minutes where rows are many.")
        print("Then a line comes with each grade:\n", flush=True)


def _split_target(frame: Any, target: str) -> tuple[Any, Any]:
    """Return inputs and target, less rows and columns that teach nothing; say which."""
    if target not in frame:
        refuse_other_separator(list(frame.columns), [target])
        raise ValueError(f"There is no column {target!r}, only {listed(list(frame.columns))}.")
    known = frame[target].notna()
    if not known.any():
        raise ValueError(f"Column {target!r} has no value.")
    if not known.all():
        print(f"Rows dropped for having no value of {target!r}: {(~known).sum()}.")
    frame = frame[known]
    values = frame.pop(target)
    if holds_numbers(values):
        refuse_infinite(target, values.to_numpy(dtype=np.float64))
    frame = _without_useless(frame)
    if not len(frame.columns):
        raise ValueError(f"No column is left to predict {target!r} from.")
    return frame, values


def _without_useless(frame: Any) -> Any:
    """Return the columns that teach something; say which do not, and what is not read of the others."""
    dates = tell_dates(frame)
    if dates:
        print(
            f"Dates and times are not read as such, as in {listed(dates)}. Give year, month, day, hour "
            "or differences in days as columns of numbers."
        )
    useless: dict[str, Callable[[Any], list[str]]] = {
        "without any value": lambda frame: [name for name in frame if frame[name].isna().all()],
        "of one value alone": tell_constant,
        "without a name that counts the rows": tell_counts,
    }
    for reason, tell in useless.items():
        dropped = tell(frame)
        if dropped:
            print(f"Dropped {listed(dropped)} {reason}.")
            frame = frame.drop(columns=dropped)
    for name in tell_names(frame):
        example = frame[name].dropna().iloc[0]
        print(
            f"Dropped column {name!r} of texts that are (nearly) all different, such as {example!r}."
        )
        frame = frame.drop(columns=name)
    return frame


def _task(values: Any, target: str, task: str) -> str:
    from pandas.api.types import is_float_dtype

    if task == "regression" and not holds_numbers(values):
        raise ValueError(
            f"Column {target!r} is not numeric, it holds {values.iloc[0]!r}: regression is impossible."
        )
    if task == "classification" and is_float_dtype(values) and (values % 1.0).any():
        raise ValueError(f"Column {target!r} has numbers with fractions: they are no classes.")
    if task == "auto":
        task = guess_task(values)
        kinds = counted(values.nunique(), f"distinct {kind_of(values)}")
        other = "regression" if task == "classification" else "classification"
        either = holds_numbers(values) and may_be_classes(values)
        said = f"; `--task {other}` overrules that" if either else ""
        print(f"Task: {task}, as {target!r} has {kinds}{said}.")
    odd = what_is_odd(values)
    if odd:
        print(f"Column {target!r} {odd}: each is a class. Empty cells that have no value.")
    if task == "classification" and are_too_many(values):
        raise ValueError(
            f"Column {target!r} has {values.nunique()} different values in {len(values)} rows, as "
            f"{values.tolist()[0]!r}: too many for classes. Choose a column whose values recur; if "
            "they are quantities, write them as plain numbers, such as 1234.5, and choose regression."
        )
    return task


def _given_parameters(arguments: argparse.Namespace, estimator: Any) -> dict[str, Any]:
    given = {name: getattr(arguments, name) for name in _PARAMETERS if name in arguments}
    known = inspect.signature(estimator).parameters
    for name in set(given) - set(known):
        raise ValueError(f"{estimator.__name__} has no parameter {name!r}.")
    for name, value in given.items():
        if value is None and known[name].default == "none":  # a word, of this parameter
            given[name] = "none"
    return {**_DEFAULTS, **given}


def _predict(arguments: argparse.Namespace) -> None:
    import pandas as pd

    model = load_model(arguments.model)
    names = [column.name for column in model.columns]
    texts = [column.name for column in model.columns if column.categories is not None]
    # The target may be there, too. What it holds must not matter to the predictions.
    texts.append(model.target)
    frame = read_table(arguments.data, only=[*names, model.target], texts=texts)
    table = pd.DataFrame({model.target: model.predict(frame)})
    missing = filled(model.columns, frame)
    if missing:
        _warn(f"missing values of {counted(len(frame), 'row')} filled: {missing}.")
    for name, number, first in unknown_values(model.columns, frame):
        _warn(
            f"{number} of {len(frame)} values of {name!r} are unknown to the model, as {first!r}."
        )
    if arguments.proba:
        names = [f"proba_{label}" for label in model.classes]
        if model.target in names:
            names = [f"probability_{label}" for label in model.classes]
        table[names] = model.predict_proba(frame)
    text = table.to_csv(index=False)
    if arguments.out == STANDARD_STREAM:
        arguments.out = None
    for given in (arguments.model, arguments.data):
        if arguments.out is not None and arguments.out.resolve() == given.resolve():
            raise ValueError(f"--out is {given}, which this command reads: give it another name.")
    if arguments.out is not None:
        with written_whole(arguments.out) as file:
            file.write(text.encode())
        text = f"{len(table)} predictions saved: {arguments.out}\n"
    if model.target in frame:
        for said in prediction_errors(model, frame[model.target], table[model.target].to_numpy()):
            _say(said)
    print(text, end="")


def _describe(arguments: argparse.Namespace) -> None:
    print(load_model(arguments.model).describe())


def _demonstrate(arguments: argparse.Namespace) -> None:
    X, y = load_energy(return_X_y=True)
    parts = train_test_split(X, y, random_state=0)
    X_train, X_test, y_train, y_test = parts
    chain = MultigradeRegressor(**_DEFAULTS)
    print(f"Heating load of buildings, {len(X_train)} training rows and {len(X_test)} test rows.")
    print(
        "A chain of ReLU networks, each trained by a convex program. First, rows held out choose the\n"
        "penalty and the depth, for some seconds; then a line comes with each grade:\n",
        flush=True,
    )
    fit_and_tell(chain, X_train, y_train, {"train": (X_train, y_train), "test": (X_test, y_test)})
    errors = {"MultigradeRegressor": root_mean_squared_error(y_test, chain.predict(X_test))}
    for name, rival in _rivals().items():
        # On one BLAS thread, as the chain: more of them round otherwise, and the network ends elsewhere.
        with warnings.catch_warnings(), threadpool_limits(limits=1, user_api="blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            rival.fit(X_train, y_train)
        errors[name] = root_mean_squared_error(y_test, rival.predict(X_test))
    print("\nTest RMSE: " + ", ".join(f"{name} {error:.3g}" for name, error in errors.items()))
    try:
        _draw(chain, parts, errors["MLPRegressor"])
    except ImportError:
        print("No picture was drawn: it needs matplotlib (`pip install matplotlib`).")
    else:
        print(f"Picture: {_PICTURE.resolve()}")


def _rivals() -> dict[str, Any]:
    # lbfgs: on a table of this size it ends lower than the default solver.
    network = MLPRegressor(
        hidden_layer_sizes=(100, 100), solver="lbfgs", max_iter=2000, random_state=0
    )
    return {
        "MLPRegressor": make_pipeline(
            StandardScaler(), TransformedTargetRegressor(network, transformer=StandardScaler())
        ),
        "Ridge": make_pipeline(StandardScaler(), Ridge()),
    }


def _draw(chain: Any, parts: Sequence[NDArray[Any]], mlp_error: float) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import AutoLocator

    X_train, X_test, y_train, y_test = parts
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    points = {"s": 16, "alpha": 0.6}
    GradesDisplay.from_estimator(chain, X_train, y_train, name="training rows", ax=left)
    GradesDisplay.from_estimator(chain, X_test, y_test, name="test rows", ax=left)
    left.axhline(mlp_error, color="0.4", linestyle="--", label="MLPRegressor, test rows")
    left.set(title="What is left over, by grade", ylabel="RMSE (kWh/m²)")
    left.set_ylim(0.0, 1.35 * max(mlp_error, left.get_ylim()[1]))
    left.legend(loc="upper right")
    PredictionErrorDisplay.from_predictions(
        y_test, chain.predict(X_test), kind="actual_vs_predicted", ax=right, scatter_kwargs=points
    )
    right.set(title="Test rows", xlabel="Predicted (kWh/m²)", ylabel="Observed (kWh/m²)")
    right.xaxis.set_major_locator(AutoLocator())
    right.yaxis.set_major_locator(AutoLocator())
    with written_whole(_PICTURE) as file:
        figure.savefig(file, format="png", dpi=150)
