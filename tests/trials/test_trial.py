"""Which evaluation a trial counts as its best."""

import math

import pytest

from sesr_lab.scores.metrics import Score
from sesr_lab.training.trainer import Evaluation
from sesr_lab.trials.trial import _better


def evaluation(psnr: float) -> Evaluation:
    numbers = {
        "step": 1,
        "fraction": 0.5,
        "seconds": 1.0,
        "loss": 0.1,
        "learning_rate": 1e-3,
        "patches_per_second": 1.0,
    }
    return Evaluation(**numbers, score=Score(psnr, 0.9), weights={})  # type: ignore[arg-type]  # step is a whole number


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_a_score_that_is_not_finite_is_never_the_best(odd: float) -> None:
    good = evaluation(30)
    assert _better(evaluation(odd), None) is None
    assert _better(evaluation(odd), good) is good


def test_the_higher_of_two_scores_is_the_best_and_of_equals_the_first() -> None:
    low, high = evaluation(30), evaluation(31)
    assert _better(high, low) is _better(low, high) is high
    assert _better(evaluation(30), low) is low
