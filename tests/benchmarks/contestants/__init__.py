"""Solvers that `tests.benchmarks.solvers` compares, each a program of its own.

A contestant is started as ``python <file> problem.npz report.json`` by the interpreter of an environment
in which it is installed. It imports `protocol` and its own package, nothing of convexgrade but its own
solver if it is ours.
"""
