"""Two grades with quadratic activations, in numpy: what backward feature correction was shown for.

    h1 = (X U)^2,   h2 = ([h1, X, 1] scaled @ W)^2,   output = [h1, h2, 1] @ a

Each grade is fitted through its lifted program: sum_j a_j (u_j'h)^2 = h'Sh, and the least penalty
sum_j |a_j| ||u_j||^2 of a given S is its nuclear norm, so that the grade is the convex program

    min over S, b of  mean((h'Sh + b - residual)^2) / 2 + strength * ||S||_*,

cut to its width by the largest eigenvalues. Correction is the library's, with Jacobians in place of
frozen patterns. Penalties are chosen on a quarter of the training rows that is held out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from convexgrade.kronecker import KroneckerSystem

Array = NDArray[np.float64]

STRENGTHS = (
    1e-3,
    3e-3,
    1e-2,
    3e-2,
)  # of a grade, relative to what leaves nothing; weak: zeros stay zero
RIDGES = (1e-5, 1e-4, 1e-3)  # of the penalty in correction
GREEDY_RIDGE = 1e-5
_STEPS = 400  # of the accelerated proximal gradient method


@dataclass(frozen=True)
class Quadratic:
    """Weights of both grades, the scaling between them, the readout, and the penalty of all."""

    U: Array
    W: Array
    center: Array
    scale: Array
    a: Array
    ridge: float = GREEDY_RIDGE

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
        ridge = self.ridge * len(X) * np.diag(np.append(np.ones(Phi.shape[1] - 1), 0.0))
        return replace(self, a=np.linalg.solve(Phi.T @ Phi + ridge, Phi.T @ y))

    def objective(self, X: Array, y: Array) -> float:
        """Return mean squared error plus ridges."""
        penalty = np.sum(self.U**2) + np.sum(self.W**2) + np.sum(self.a[:-1] ** 2)
        return float(np.mean((self.predict(X) - y) ** 2) + self.ridge * penalty)


def quadratic_grade(H: Array, residual: Array, width: int, strength: float) -> Array:
    """Return the vectors (d, <= width) of the quadratic form in H that the lifted program finds."""
    rows, cols = np.triu_indices(H.shape[1])
    entries = np.where(rows == cols, 1.0, np.sqrt(2.0))  # an isometry of symmetric matrices
    products = H[:, rows] * H[:, cols] * entries
    products -= products.mean(axis=0)
    gram, slope = products.T @ products / len(H), products.T @ (residual - residual.mean()) / len(H)

    def spectrum(v: Array) -> tuple[Array, Array]:
        S = np.zeros((H.shape[1], H.shape[1]))
        S[rows, cols] = S[cols, rows] = v / entries
        values, vectors = np.linalg.eigh(S)
        return values, vectors

    step = 1.0 / np.linalg.eigvalsh(gram)[-1]
    penalty = strength * np.abs(spectrum(slope)[0]).max()
    found, ahead, t = np.zeros(slope.size), np.zeros(slope.size), 1.0
    for _ in range(_STEPS):  # Beck & Teboulle (2009)
        values, vectors = spectrum(ahead - step * (gram @ ahead - slope))
        values = np.sign(values) * np.maximum(np.abs(values) - step * penalty, 0.0)
        before, found = found, ((vectors * values) @ vectors.T)[rows, cols] * entries
        t, last = (1.0 + np.sqrt(1.0 + 4.0 * t * t)) / 2.0, t
        ahead = found + (last - 1.0) / t * (found - before)
    values, vectors = spectrum(found)
    kept = np.argsort(-np.abs(values))[:width]
    return vectors[:, kept] * np.sqrt(np.abs(values[kept]))


def first_grade(X: Array, y: Array, width: int, strength: float) -> Quadratic:
    """Return the first grade alone."""
    U = quadratic_grade(X, y, width, strength)
    features = np.hstack([(X @ U) ** 2, X])
    none = np.zeros((features.shape[1] + 1, 0))
    center, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0.0, scale, 1.0)
    return Quadratic(U, none, center, scale, np.zeros(width + 1)).refitted(X, y)


def second_grade(one: Quadratic, X: Array, y: Array, width: int, strength: float) -> Quadratic:
    """Return both grades; the first is frozen, its readout included."""
    m = one.U.shape[1]
    residual = y - one.predict(X)
    W = quadratic_grade(one.second_input(X), residual, width, strength)
    both = replace(one, W=W, a=np.concatenate([one.a[:-1], np.zeros(width + 1)]))
    a2 = np.linalg.lstsq(both.columns(X)[:, m:], residual, rcond=None)[0]
    return replace(both, a=np.concatenate([one.a[:-1], a2[:-1], [one.a[-1] + a2[-1]]]))


@dataclass(frozen=True)
class Fits:
    """The first grade, both grades, and both corrected."""

    one: Quadratic
    both: Quadratic
    corrected: Quadratic


def fit(X: Array, y: Array, widths: tuple[int, int], sweeps: int) -> Fits:
    """Fit grade by grade and correct; each penalty is the best on held-out rows, given those before."""
    held_out = np.arange(len(X)) % 4 == 0  # rows come in random order
    train, rest = (X[~held_out], y[~held_out]), (X[held_out], y[held_out])

    def best(nets: dict[float, Quadratic]) -> float:
        return min(nets, key=lambda at: float(np.mean((nets[at].predict(rest[0]) - rest[1]) ** 2)))

    ones = {s: first_grade(*train, widths[0], s) for s in STRENGTHS}
    first = best(ones)
    boths = {s: second_grade(ones[first], *train, widths[1], s) for s in STRENGTHS}
    second = best(boths)
    start = boths[second]
    ridge = best({r: corrected(replace(start, ridge=r), *train, sweeps) for r in RIDGES})
    one = first_grade(X, y, widths[0], first)
    both = second_grade(one, X, y, widths[1], second)
    return Fits(one, both, corrected(replace(both, ridge=ridge), X, y, sweeps))


def corrected(net: Quadratic, X: Array, y: Array, sweeps: int) -> Quadratic:
    """Correct both grades, sweep by sweep, at a never rising objective."""
    mu = {"U": 1e-2, "W": 1e-2}
    value = net.objective(X, y)
    for _ in range(sweeps):
        for name in ("W", "U"):
            system = net.systems(X)[1 if name == "W" else 0]
            weights = getattr(net, name)
            residual = (y - net.predict(X))[:, None]
            slope = system.adjoint(residual) - len(X) * net.ridge * weights
            size = np.einsum("ikj,ikj->j", system.G, system.G)
            for _ in range(10):
                D = len(X) * net.ridge + mu[name] * np.maximum(size, 1e-8 * size.max())
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
            2.0 * (first.adjoint(residual) + trial.ridge * trial.U),
            2.0 * (second.adjoint(residual) + trial.ridge * trial.W),
            2.0 * (trial.columns(X).T @ residual[:, 0] + trial.ridge * trial.a * keep),
        ]
        return trial.objective(X, y), np.concatenate([g.ravel() for g in gradient])

    start = np.concatenate([net.U.ravel(), net.W.ravel(), net.a])
    found = minimize(function, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return unpacked(found.x)
