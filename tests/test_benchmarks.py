"""Benchmarks are run by hand: here, that they still can be."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from convexgrade.selection import deepen
from tests.benchmarks.held_out import judges
from tests.benchmarks.judging import trial
from tests.benchmarks.multigrade import NO_LIMIT, SAME_SIZE, parsed, repeated, summary
from tests.benchmarks.shrinkage import STEPS, staged

MODULES = sorted(p.stem for p in (Path(__file__).parent / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_they_import(module):
    assert importlib.import_module(f"tests.benchmarks.{module}").__doc__


@pytest.fixture(scope="module")
def judge():
    some = judges("yacht", 1.0)
    return some._replace(folds=some.folds[:1])


def test_whole_steps_make_the_chains_that_judge(judge):
    rough = judge.plan.settings.rough()
    *_, tried = deepen(judge.folds, replace(judge.plan, settings=rough), judge.handover)
    losses = [loss for _, loss in staged(judge, STEPS["whole"])]
    assert len(losses) >= len(tried.losses) > 1
    assert losses[: len(tried.losses)] == pytest.approx(tried.losses)
    assert trial(judge, rough).count(",") == len(tried.losses) - 1


def test_steps_by_rows_held_out_are_no_worse_there_grade_by_grade(judge):
    losses = [loss for _, loss in staged(judge, STEPS["by rows held out"])]
    assert losses == sorted(losses, reverse=True)


def test_published_experiments_are_repeated_for_random_states():
    options = parsed(["setting1", "--random-states", "1", "2", "--no-whiten"])
    (experiment,) = options.experiments
    (plan,) = experiment.plans.values()
    assert plan == {**SAME_SIZE, "whiten": False}
    plans = repeated(plan, options.random_states)
    assert [each["random_state"] for each in plans.values()] == [1, 2]
    assert repeated(NO_LIMIT, [1, 2]) == {"": NO_LIMIT}
    assert summary([4.0, 1.0, 2.0], ".1f") == "median 2.0, range 1.0 to 4.0"
    with pytest.raises(SystemExit):
        parsed(["setting3"])
