"""Settings for every test: one BLAS thread a worker, no window system."""

import os

import pytest

# Before numpy is imported: workers run side by side, and results must not depend on the core count.
for _name in ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR", "RAYON"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# Their assertions show what they compare, as those of tests do.
pytest.register_assert_rewrite("tests.bank", "tests.cases")

# Run by hand, not with the tests: `python -m tests.benchmarks.<name>`.
collect_ignore = ["benchmarks"]
