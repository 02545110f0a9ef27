"""Train ReLU networks to certified global optimality, and stack them into deep models.

See `ConvexReLURegressor` and `ConvexReLUClassifier` for one grade, `MultigradeRegressor` and
`MultigradeClassifier` for the chain, and `certify` for the certificates.
"""

from convexgrade import datasets
from convexgrade.certificate import Certificate
from convexgrade.display import GradesDisplay
from convexgrade.estimators import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeRegressor,
    certify,
)

__all__ = [
    "Certificate",
    "ConvexReLUClassifier",
    "ConvexReLURegressor",
    "GradesDisplay",
    "MultigradeClassifier",
    "MultigradeRegressor",
    "certify",
    "datasets",
]
