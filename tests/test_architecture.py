"""The architecture, read off the syntax trees: who may import whom, and what stays small."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

# From the ground up. A module imports only modules of lower layers; the one exception: an __init__
# listed in `INSIDE` may import the modules of its own package. A level is a position in this list.
LAYERS = [
    {
        "checks",
        "groups",
        "handover",
        "losses",
        "patterns",
        "pieces",
        "quadratics",
        "span",
        "wording",
    },
    {
        "cones",
        "datasets",
        "geometric",
        "kronecker",
        "lattice",
        "quasi_newton",
        "reading",
        "refinement",
        "settings",
        "solution",
        "solvers._*",
        "unpenalised",
    },
    {
        "kinks",
        "lasso",
        "moduli",
        "network",
        "program",
        "solvers._columns",
        "solvers._gradients",
        "solvers._kkt",
    },
    {
        "dual",
        "constructive",
        "curvature",
        "decomposition",
        "deep_network",
        "geometric_network",
        "neurons",
        "pruning",
        "scaling",
        "solvers._coupling",
    },
    {"search", "solvers._systems", "certificate"},
    {"energy", "solvers._proximal"},
    {"point", "polishing", "solvers", "solvers.*"},
    {"working_set", "solvers.native"},
    {"cutting", "pointwise", "proposals"},
    {"sources"},
    {"grade"},
    {"chain", "estimators.rows", "estimators.unwrapped"},
    {"multigrade", "estimators.targets", "readouts", "backpropagation"},
    {"descent", "selection", "estimators.base"},
    {"correction"},
    {"estimators.deep", "estimators.shallow"},
    {"estimators.cross_validated", "estimators.held_out", "estimators.staged"},
    {"estimators", "estimators.*"},
    {"display", "table_columns"},
    {"export", "tables"},
    {"telling"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVELS = {name: level for level, layer in enumerate(LAYERS) for name in layer}
INSIDE = {
    "convexgrade.estimators",  # its __init__ lists them
    "convexgrade.solvers",  # its __init__ chooses among them
}

ONLY_IMPORTER_OF_CVXPY = "convexgrade.solvers.cvx"
LOWEST_LEVEL_WITH_SKLEARN = LEVELS["chain"]
ALSO_WITH_SKLEARN = {"convexgrade.datasets"}  # returns scikit-learn's Bunch

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 55  # without its docstring
MAX_PARAMETERS = 8  # without self and cls
MORE_PARAMETERS = {
    # Public: users give data and settings by these names.
    ("convexgrade.estimators.correct", "correct"),
}

ROOT = Path(__file__).parents[1]


class Import(NamedTuple):
    module: str
    line: int
    on_load: bool  # outside every function: runs when the importing module is imported


def _module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {_module_name(path): path for path in sorted((ROOT / "convexgrade").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in PATHS.items()}


def level(module):
    """Return the level of a module of the package."""
    name = module.partition(".")[2] or "__init__"
    package, _, file = name.rpartition(".")
    for entry in (name, f"{package}.{'_*' if file.startswith('_') else '*'}"):
        if entry in LEVELS:
            return LEVELS[entry]
    pytest.fail(f"{module} has no level: add it to LAYERS in {__file__}.")


def imports_of(name):
    """List what a module imports, as absolute module names, wherever the import stands."""
    return list(_imports_below(TREES[name], name, on_load=True))


def _imports_below(node, name, on_load):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, on_load) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            source = _absolute(child, name)
            for alias in child.names:
                inner = f"{source}.{alias.name}"
                yield Import(inner if inner in PATHS else source, child.lineno, on_load)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports_below(child, name, on_load and not is_function)


def _absolute(node, name):
    if node.level == 0:
        return node.module
    package = name if PATHS[name].name == "__init__.py" else name.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _top(module):
    return module.partition(".")[0]


def _is_allowed(importer, imported):
    if importer in INSIDE and imported.startswith(importer + "."):
        return True
    return level(imported) < level(importer)


def _complain(name, rows):
    assert not rows, "\n" + "\n".join(f"{PATHS[name]}:{line}: {text}" for line, text in rows)


@pytest.fixture(params=PATHS)
def name(request):
    return request.param


def test_every_module_is_in_the_table(name):
    level(name)


def test_the_documentation_shows_the_same_levels():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, flags=re.MULTILINE)
    shown = {
        file.removesuffix(".py").rstrip("/").replace("/", ".").replace("…", "*"): int(number)
        for number, files in rows
        for file in re.findall(r"`(.*?)`", files)
    }
    assert shown == LEVELS


def test_imports_point_to_lower_levels(name):
    _complain(
        name,
        [
            (line, f"level {level(name)} imports {module}, level {level(module)}")
            for module, line, _ in imports_of(name)
            if _top(module) == "convexgrade" and not _is_allowed(name, module)
        ],
    )


def test_cvxpy_is_imported_in_one_place(name):
    if name != ONLY_IMPORTER_OF_CVXPY:
        found = [(i.line, "imports cvxpy") for i in imports_of(name) if _top(i.module) == "cvxpy"]
        _complain(name, found)


def test_sklearn_stays_out_of_the_core(name):
    if level(name) < LOWEST_LEVEL_WITH_SKLEARN and name not in ALSO_WITH_SKLEARN:
        found = [
            (i.line, f"level {level(name)} imports sklearn")
            for i in imports_of(name)
            if _top(i.module) == "sklearn"
        ]
        _complain(name, found)


@pytest.mark.parametrize("optional", ["flint", "matplotlib", "pandas"])
def test_optional_packages_are_imported_inside_functions(name, optional):
    found = [
        (i.line, f"imports {optional} on load")
        for i in imports_of(name)
        if i.on_load and _top(i.module) == optional
    ]
    _complain(name, found)


def test_importing_the_package_imports_no_optional_one():
    """Pandas is missing here: scikit-learn imports that itself where it is installed."""
    code = "import sys; sys.modules['pandas'] = None; import convexgrade; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert not {"flint", "matplotlib"} & set(done.stdout.split())


@cache
def _classes_of(prefix):
    return {
        node.name
        for name, tree in TREES.items()
        if name.startswith(prefix)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def test_no_isinstance_on_losses_or_solvers(name):
    """What differs between losses or solvers belongs in their methods, not in their callers."""
    levels = "convexgrade.losses", "convexgrade.kinks", "convexgrade.solvers"
    kinds = set().union(*map(_classes_of, levels))
    found = []
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"isinstance", "issubclass"}:
            words = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            words |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            if words & kinds or any("loss" in w.lower() or "solver" in w.lower() for w in words):
                found.append((node.lineno, ast.unparse(node)))
    _complain(name, found)


def test_files_stay_short(name):
    lines = len(PATHS[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{PATHS[name]} has {lines} lines, at most {MAX_FILE_LINES}."


def _length(function):
    lines = function.end_lineno - function.lineno + 1
    if function.name == "__init__":  # constructors only assign: a parameter counts once
        lines -= len(function.args.args) + len(function.args.kwonlyargs)
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def test_functions_stay_short(name):
    found = [
        (node.lineno, f"{node.name} has {_length(node)} lines, at most {MAX_FUNCTION_LINES}")
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and _length(node) > MAX_FUNCTION_LINES
    ]
    _complain(name, found)


def _parameters(function):
    """List the parameters of a function, self and cls left out."""
    args = function.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [arg.arg for arg in every if arg is not None and arg.arg not in {"self", "cls"}]


def _with_many_parameters(name):
    """List functions of many parameters, but for constructors of estimators: those are settings."""
    return [
        node
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and len(_parameters(node)) > MAX_PARAMETERS
        and not (node.name == "__init__" and name.startswith("convexgrade.estimators."))
    ]


def test_functions_have_few_parameters(name):
    """What is handed on together belongs in one value that has a name."""
    found = [
        (node.lineno, f"{node.name} has {len(_parameters(node))} of {MAX_PARAMETERS} parameters")
        for node in _with_many_parameters(name)
        if (name, node.name) not in MORE_PARAMETERS
    ]
    _complain(name, found)


def test_no_function_is_excused_that_has_few_parameters():
    found = {(name, node.name) for name in PATHS for node in _with_many_parameters(name)}
    assert found >= MORE_PARAMETERS
