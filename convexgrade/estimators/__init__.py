"""The estimators: `shallow` has one grade, `deep` the chain, `base` what they share."""

from convexgrade.estimators.certify import certify
from convexgrade.estimators.convert import Conversion, to_relu
from convexgrade.estimators.deep import MultigradeClassifier, MultigradeRegressor
from convexgrade.estimators.shallow import ConvexReLUClassifier, ConvexReLURegressor

__all__ = [
    "Conversion",
    "ConvexReLUClassifier",
    "ConvexReLURegressor",
    "MultigradeClassifier",
    "MultigradeRegressor",
    "certify",
    "to_relu",
]
