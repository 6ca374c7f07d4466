"""What a stored study's trials say of those that run, and of the time that is left."""

from __future__ import annotations

import pytest
from studied import outcome

from sesr_lab.sweep.records import PROGRESS, Entry, Running, State, running_of, time_left


def entry(number: int, state: State, **attributes: object) -> Entry:
    return Entry(number, state, {"m": 3, "f": 8}, f"f{number}", "", None, None, attributes)


def test_a_running_trial_is_shown_as_its_driver_last_told_it() -> None:
    said = {"step": 40, "steps": 100, "fraction": 0.4, "psnr": 31.5, "worker": "a:7", "of a later version": 1}
    entries = (entry(0, "complete"), entry(1, "running", **{PROGRESS: said}), entry(2, "running"))
    assert running_of(entries) == (
        Running("t0001-m3-f8", 40, 100, 0.4, 31.5, "a:7"),
        Running("t0002-m3-f8"),
    )


def test_time_left_rests_on_the_networks_that_are_trained_and_counts_what_runs_in_part() -> None:
    done = tuple(outcome(3, 8, 64, 34.0, number=number, seconds=100.0) for number in range(4))
    half = Running("t0004", fraction=0.5)
    assert time_left(done[:1], (), 10) is None, "it would mean nothing yet"
    assert time_left(done, (), 4) is None, "nothing is left"
    alone = time_left(done, (), 10)
    assert alone is not None
    assert alone.seconds == pytest.approx(600.0)
    assert alone.rests_on == "4 networks that took 100 s each, one at a time"
    both = time_left(done, (half, half), 10)
    assert both is not None
    assert both.seconds == pytest.approx(250.0)
    last = time_left(done, (half,), 5)
    assert last is not None
    assert last.seconds == pytest.approx(50.0)
