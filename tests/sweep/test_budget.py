"""When a study has used what it may use. The clock is the test's own."""

from __future__ import annotations

import pytest
from specs import ended, spec

from sesr_lab.sweep.budget import Budget, Limits, Spent, since_gain
from sesr_lab.sweep.search import Search
from sesr_lab.trials.outcome import Outcome


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def outcome(psnr: float | None = 30.0, *, f: int = 4, **changes: object) -> Outcome:
    return ended(Search(spec()).point({"m": 1, "f": f}), psnr, **changes)


def over(outcomes: list[Outcome], **limits: object) -> str | None:
    return Budget(Limits(**{"trials": 99, **limits}), "psnr", Clock()).over(outcomes)  # type: ignore[arg-type]


def test_a_budget_without_limits_ends_with_its_number_of_networks() -> None:
    assert over([outcome()] * 98) is None
    assert over([outcome()] * 99) == "all 99 networks are trained"


def test_time_goes_on_where_an_earlier_life_left_it() -> None:
    clock = Clock()
    budget = Budget(Limits(9, timeout_s=100.0), "psnr", clock, Spent(elapsed_s=60.0))
    clock.now += 39
    assert budget.over([]) is None
    clock.now += 1
    assert budget.over([]) == "its 100 seconds are over"
    assert budget.spent() == Spent(elapsed_s=100.0)


def test_seconds_of_devices_are_counted_those_of_lost_attempts_too() -> None:
    budget = Budget(Limits(9, device_s=3600.0), "psnr", Clock(), Spent(lost_s=1000.0))
    trained = [outcome(seconds=1000.0), outcome(None, seconds=1000.0)]
    assert budget.over(trained) is None
    budget.lose(600.0)
    assert budget.over(trained) == "its 1 device-hours are used"
    assert budget.spent().lost_s == 1600.0


def test_patience_with_one_objective_ends_when_the_best_stays_what_it_is() -> None:
    scores = [30.0, 31.0, 31.01, 30.5, None]
    assert since_gain([outcome(score) for score in scores], "psnr") == 3, "0.01 dB is no gain"
    assert over([outcome(score) for score in scores], patience=4) is None
    assert over([outcome(score) for score in scores], patience=3) == "3 networks in a row gained nothing"


def test_patience_with_two_objectives_counts_what_the_pareto_set_gains() -> None:
    dear, cheap, between = outcome(32.0, f=16), outcome(30.0, f=4), outcome(31.5, f=8)
    beaten = outcome(29.0, f=8)
    assert since_gain([dear, cheap], "pareto") == 1, "the first cheap one is the floor that the area is measured from"
    assert since_gain([dear, beaten, cheap], "pareto") == 0
    assert since_gain([dear, cheap, between], "pareto") == 0
    assert since_gain([dear, cheap, between, beaten, beaten], "pareto") in (2, 3)
    assert since_gain([], "pareto") == 0
    assert since_gain([outcome(None)] * 3, "pareto") == 3


@pytest.mark.parametrize("result", ["failed", "diverged", "out of memory"])
def test_a_study_whose_networks_fail_ends_once_there_are_enough_to_tell(result: str) -> None:
    bad, good = outcome(None, result=result), outcome()
    assert over([bad] * 3, max_failure_rate=0.5) is None
    assert over([bad, bad, good, good], max_failure_rate=0.5) is None
    assert over([bad, bad, bad, good], max_failure_rate=0.5) == "3 of 4 networks failed, more than 50%"
    assert over([bad] * 9) is None
