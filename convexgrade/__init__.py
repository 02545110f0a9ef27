"""Train ReLU networks to certified optimality by convex programs, and build deep models from them.

See `ConvexReLURegressor` and `ConvexReLUClassifier` for one grade, `MultigradeRegressor` and
`MultigradeClassifier` for the chain (with a ``CV`` behind the name, alpha and depth are found by
cross-validation), `certify` for the certificates, `correct` for grades that learn from later ones,
`to_relu` for gated networks as ReLU networks, and `GeometricLayerwiseRegressor` for readouts with a
known rate a layer. `ConstructiveMultigrade` approximates a given function by a network that is written
down, not fitted.
"""

from convexgrade import datasets
from convexgrade.certificate import Certificate
from convexgrade.constructive import ConstructiveMultigrade
from convexgrade.display import GradesDisplay
from convexgrade.energy import Energy
from convexgrade.estimators import (
    Conversion,
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GeometricLayerwiseRegressor,
    MultigradeClassifier,
    MultigradeClassifierCV,
    MultigradeRegressor,
    MultigradeRegressorCV,
    PathPoint,
    alpha_path,
    certify,
    check_readout_bound,
    correct,
    to_relu,
)
from convexgrade.moduli import ReadoutCheck

__version__ = "0.1.0"

__all__ = [
    "Certificate",
    "ConstructiveMultigrade",
    "Conversion",
    "ConvexReLUClassifier",
    "ConvexReLURegressor",
    "Energy",
    "GeometricLayerwiseRegressor",
    "GradesDisplay",
    "MultigradeClassifier",
    "MultigradeClassifierCV",
    "MultigradeRegressor",
    "MultigradeRegressorCV",
    "PathPoint",
    "ReadoutCheck",
    "alpha_path",
    "certify",
    "check_readout_bound",
    "correct",
    "datasets",
    "to_relu",
]
