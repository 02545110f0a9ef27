"""Sphinx configuration."""

import re
from importlib.metadata import version as _version

project = "convexgrade"
author = "The convexgrade developers"
copyright = "2026, The convexgrade developers"
release = version = _version("convexgrade")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # numpydoc's parameter lists say it in words
numpydoc_show_class_members = False  # the templates list them

html_theme = "pydata_sphinx_theme"
html_title = f"convexgrade {release}"
html_show_sourcelink = False
_WIDE = ("getting_started", "architecture", "benchmarks", "changelog")
html_sidebars = {page: [] for page in _WIDE}
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}


def _drop_labels_of_sklearn(app, what, name, obj, options, lines):
    """Turn references that only scikit-learn's own pages can resolve into plain text."""
    if (getattr(obj, "__module__", "") or "").startswith("sklearn."):
        lines[:] = [re.sub(r":ref:`([^<`]+?)\s*<[^>]+>`", r"\1", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _drop_labels_of_sklearn)
