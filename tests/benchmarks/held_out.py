"""What judges a chain by default: rows held out of a set, and how the chains that judge are grown."""

from __future__ import annotations

from typing import NamedTuple

from convexgrade import MultigradeClassifier, MultigradeRegressor
from convexgrade.handover import Handover
from convexgrade.multigrade import ChainPlan
from convexgrade.selection import Fold, usual_alpha
from tests.benchmarks.accuracy import REGRESSION
from tests.benchmarks.datasets import load

SHARES = 1.0, 0.3  # of the usual penalty: those which sets without much noise choose


class Judges(NamedTuple):
    """Folds, and the plan of the final chain."""

    folds: list[Fold]
    plan: ChainPlan
    handover: Handover


def judges(name: str, share: float) -> Judges:
    """Return those of a default estimator for the training rows of split 0."""
    X, y, _, _ = load(name, split=0)
    kind = MultigradeRegressor if name in REGRESSION else MultigradeClassifier
    model = kind(random_state=0)
    model._learn_class_weight()
    rows = model._weighted(*model._validate(X, y, reset=True), None).distinct
    model._learn_from(rows)
    plan = model._plan(share * usual_alpha(*X.shape))
    folds = model._folds(list(model._parts(rows)), model._reading)
    return Judges(folds, plan, model._handover())
