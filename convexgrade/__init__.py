"""Train ReLU networks to certified global optimality, and stack them into deep models.

See `ConvexReLURegressor` and `ConvexReLUClassifier` for one grade, `MultigradeRegressor` and
`MultigradeClassifier` for the chain (with a ``CV`` behind the name, alpha and depth are found by
cross-validation), `certify` for the certificates, and `to_relu` for gated networks as ReLU networks.
"""

from convexgrade import datasets
from convexgrade.certificate import Certificate
from convexgrade.display import GradesDisplay
from convexgrade.estimators import (
    Conversion,
    ConvexReLUClassifier,
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeClassifierCV,
    MultigradeRegressor,
    MultigradeRegressorCV,
    PathPoint,
    alpha_path,
    certify,
    to_relu,
)

__all__ = [
    "Certificate",
    "Conversion",
    "ConvexReLUClassifier",
    "ConvexReLURegressor",
    "GradesDisplay",
    "MultigradeClassifier",
    "MultigradeClassifierCV",
    "MultigradeRegressor",
    "MultigradeRegressorCV",
    "PathPoint",
    "alpha_path",
    "certify",
    "datasets",
    "to_relu",
]
