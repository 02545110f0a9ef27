"""Two grades with quadratic activations, in numpy: what backward feature correction was shown for.

    h1 = (X U)^2,   h2 = ([h1, X, 1] scaled @ W)^2,   output = [h1, h2, 1] @ a

Each grade is fitted through its lifted program, a quadratic form of least squares with a small nuclear
norm, cut to its width. Correction is the library's, with Jacobians in place of frozen patterns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from convexgrade.solvers._kronecker import KroneckerSystem

Array = NDArray[np.float64]

RIDGE = 1e-5


@dataclass(frozen=True)
class Quadratic:
    """Weights of both grades, the scaling between them, and the readout."""

    U: Array
    W: Array
    center: Array
    scale: Array
    a: Array

    def second_input(self, X: Array) -> Array:
        """Return what the second grade reads: features, inputs, 1."""
        features = np.hstack([(X @ self.U) ** 2, X])
        return np.column_stack([(features - self.center) / self.scale, np.ones(len(X))])

    def columns(self, X: Array) -> Array:
        """Return all features and a constant."""
        first, second = (X @ self.U) ** 2, (self.second_input(X) @ self.W) ** 2
        return np.column_stack([first, second, np.ones(len(X))])

    def predict(self, X: Array) -> Array:
        """Return the output."""
        return self.columns(X) @ self.a

    def systems(self, X: Array) -> tuple[KroneckerSystem, KroneckerSystem]:
        """Return the Jacobians of the output in U and in W."""
        m = self.U.shape[1]
        H = self.second_input(X)
        second = 2.0 * (H @ self.W) * self.a[m:-1]
        by_first = self.a[:m] + (second @ self.W[:m].T) / self.scale[:m]
        first = 2.0 * (X @ self.U) * by_first
        return KroneckerSystem(X, first[:, None, :]), KroneckerSystem(H, second[:, None, :])

    def refitted(self, X: Array, y: Array) -> Quadratic:
        """Return it with the best readout for its features."""
        Phi = self.columns(X)
        ridge = RIDGE * len(X) * np.diag(np.append(np.ones(Phi.shape[1] - 1), 0.0))
        return replace(self, a=np.linalg.solve(Phi.T @ Phi + ridge, Phi.T @ y))

    def objective(self, X: Array, y: Array) -> float:
        """Return mean squared error plus ridges."""
        penalty = np.sum(self.U**2) + np.sum(self.W**2) + np.sum(self.a[:-1] ** 2)
        return float(np.mean((self.predict(X) - y) ** 2) + RIDGE * penalty)


def quadratic_grade(H: Array, residual: Array, width: int) -> Array:
    """Return the vectors (d, <= width) of the quadratic form in H nearest to a residual."""
    rows, cols = np.triu_indices(H.shape[1])
    products = H[:, rows] * H[:, cols]
    gram = products.T @ products
    ridge = 1e-3 * np.trace(gram) / len(gram)
    coef = np.linalg.solve(gram + ridge * np.eye(len(gram)), products.T @ residual)
    form = np.zeros((H.shape[1], H.shape[1]))
    form[rows, cols] = coef / 2.0
    values, vectors = np.linalg.eigh(form + form.T)
    kept = np.argsort(-np.abs(values))[:width]
    return vectors[:, kept] * np.sqrt(np.abs(values[kept]))


def greedy(X: Array, y: Array, widths: tuple[int, int]) -> tuple[Quadratic, Quadratic]:
    """Return the first grade alone, and both."""
    d = X.shape[1]
    U = quadratic_grade(X, y - y.mean(), widths[0])
    features = np.hstack([(X @ U) ** 2, X])
    none = np.zeros((widths[0] + d + 1, 0))
    empty = np.zeros(widths[0] + 1)
    one = Quadratic(U, none, features.mean(axis=0), features.std(axis=0), empty).refitted(X, y)
    W = quadratic_grade(one.second_input(X), y - one.predict(X), widths[1])
    both = replace(one, W=W, a=np.concatenate([one.a[:-1], np.zeros(W.shape[1] + 1)]))
    Phi = both.columns(X)[:, widths[0] :]  # the first readout is frozen
    a2 = np.linalg.lstsq(Phi, y - one.predict(X), rcond=None)[0]
    a = np.concatenate([one.a[:-1], a2[:-1], [one.a[-1] + a2[-1]]])
    return one, replace(both, a=a)


def corrected(net: Quadratic, X: Array, y: Array, sweeps: int) -> Quadratic:
    """Correct both grades, sweep by sweep, at a never rising objective."""
    mu = {"U": 1e-2, "W": 1e-2}
    value = net.objective(X, y)
    for _ in range(sweeps):
        for name in ("W", "U"):
            system = net.systems(X)[1 if name == "W" else 0]
            weights = getattr(net, name)
            residual = (y - net.predict(X))[:, None]
            slope = system.adjoint(residual) - len(X) * RIDGE * weights
            size = np.einsum("ikj,ikj->j", system.G, system.G)
            for _ in range(10):
                D = len(X) * RIDGE + mu[name] * np.maximum(size, 1e-8 * size.max())
                trial = replace(net, **{name: weights + system.solve(slope, D)})
                if trial.objective(X, y) < value:
                    net, value, mu[name] = trial, trial.objective(X, y), mu[name] / 3.0
                    break
                mu[name] *= 4.0
        trial = net.refitted(X, y)
        if trial.objective(X, y) <= value:
            net, value = trial, trial.objective(X, y)
    return net


def joint(net: Quadratic, X: Array, y: Array) -> Quadratic:
    """Train all weights together by L-BFGS from a network."""
    shapes = [net.U.shape, net.W.shape, net.a.shape]
    edges = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def unpacked(flat: Array) -> Quadratic:
        U, W, a = (p.reshape(s) for p, s in zip(np.split(flat, edges), shapes, strict=True))
        return replace(net, U=U, W=W, a=a)

    def function(flat: Array) -> tuple[float, Array]:
        trial = unpacked(flat)
        residual = (trial.predict(X) - y)[:, None] / len(X)
        first, second = trial.systems(X)
        keep = np.append(np.ones(trial.a.size - 1), 0.0)
        gradient = [
            2.0 * (first.adjoint(residual) + RIDGE * trial.U),
            2.0 * (second.adjoint(residual) + RIDGE * trial.W),
            2.0 * (trial.columns(X).T @ residual[:, 0] + RIDGE * trial.a * keep),
        ]
        return trial.objective(X, y), np.concatenate([g.ravel() for g in gradient])

    start = np.concatenate([net.U.ravel(), net.W.ravel(), net.a])
    found = minimize(function, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return unpacked(found.x)
