"""Stored studies as reports show them, and what decides PSNR."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from studied import stored, trial, trials

from sesr_lab.errors import ConfigError
from sesr_lab.results.ranking import Trial
from sesr_lab.sweep.importance import FEWEST, importances, stored_study, study_of
from sesr_lab.sweep.records import Entry


def decided_by_f(count: int) -> list[Trial]:
    chance = random.Random(1)
    settings = [(chance.choice([3, 5, 7]), chance.choice([4, 8, 16]), chance.choice([64, 256])) for _ in range(count)]
    return [trial(m, f, size, 30.0 + f + m / 5 + chance.gauss(0, 0.1)) for m, f, size in settings]


def test_what_decides_psnr_comes_first_and_parts_sum_to_one() -> None:
    found = importances(decided_by_f(60))
    assert next(iter(found)) == "f"
    assert set(found) == {"m", "f", "feature_size"}  # block is the same in all
    assert sum(found.values()) == pytest.approx(1.0)
    assert list(found)[-1] == "feature_size"  # which decides nothing


def test_too_few_trials_say_nothing() -> None:
    assert importances(decided_by_f(FEWEST - 1)) == {}
    assert importances([]) == {}
    assert importances([trial(3, 16, 64, 36.0, number=number) for number in range(20)]) == {}
    assert set(importances(decided_by_f(FEWEST))) == {"m", "f", "feature_size"}


def test_settings_beside_the_networks_count_too() -> None:
    chance = random.Random(2)
    rates = [10 ** chance.uniform(-4, -2) for _ in range(40)]
    made = [
        replace(each, settings={**each.settings, "learning_rate": rate}, outcome=replace(each.outcome, psnr=30 + rate))
        for each, rate in zip(decided_by_f(40), rates, strict=True)
    ]
    assert next(iter(importances(made))) == "learning_rate"


def test_trials_that_have_not_ended_and_known_networks_are_left_out() -> None:
    ended = trial(3, 16, 64, 36.0).outcome

    def entry(number: int, **changes: object) -> Entry:
        values = {"state": "complete", "settings": {"m": 3, "seed": 7}, "outcome": ended, "twin": None}
        return Entry(number=number, fingerprint="f", key="k", **(values | changes))  # type: ignore[arg-type]

    entries = [entry(0), entry(1, state="running"), entry(2, twin=0), entry(3, outcome=None)]
    found = study_of("tiny", entries, finished=True)
    assert len(found.trials) == 1
    assert found.trials[0].settings["seed"] == 7
    assert found.trials[0].settings["activation"] == "prelu"


def test_a_stored_study_is_read_back(tmp_path: Path) -> None:
    made = trials(6)
    found = stored_study("tiny", stored(tmp_path, made, finished=False))
    assert [each.outcome for each in found.trials] == [each.outcome for each in made]
    assert (found.name, found.finished) == ("tiny", False)


def test_a_study_that_is_not_there_is_one_line_and_makes_no_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    with pytest.raises(ConfigError, match=r"^study 'tiny' is not in .*none\.db; stored there: none$"):
        stored_study("tiny", url)
    assert not (tmp_path / "none.db").exists()
