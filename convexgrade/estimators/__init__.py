"""The estimators, and functions of fitted ones.

`shallow` has one grade, `multigrade_...` the chain, `geometric` networks written down for a function;
`path`, `certify`, `correct` and `convert` are functions of estimators, `base` is what these share.
"""

from convexgrade.estimators.certify import certify
from convexgrade.estimators.convert import Conversion, to_relu
from convexgrade.estimators.correct import correct
from convexgrade.estimators.geometric import GeometricLayerwiseRegressor, check_readout_bound
from convexgrade.estimators.multigrade_classifier import MultigradeClassifier
from convexgrade.estimators.multigrade_classifier_cv import MultigradeClassifierCV
from convexgrade.estimators.multigrade_regressor import MultigradeRegressor
from convexgrade.estimators.multigrade_regressor_cv import MultigradeRegressorCV
from convexgrade.estimators.path import PathPoint, alpha_path
from convexgrade.estimators.shallow import ConvexReLUClassifier, ConvexReLURegressor

__all__ = [
    "Conversion",
    "ConvexReLUClassifier",
    "ConvexReLURegressor",
    "GeometricLayerwiseRegressor",
    "MultigradeClassifier",
    "MultigradeClassifierCV",
    "MultigradeRegressor",
    "MultigradeRegressorCV",
    "PathPoint",
    "alpha_path",
    "certify",
    "check_readout_bound",
    "correct",
    "to_relu",
]
