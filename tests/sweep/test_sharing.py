"""Several drivers of one study: real processes on a real PostgreSQL, killed, cut off and met by one another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import optuna
import postgres
import pytest
from checker import faults_in, table
from forks import KILLED, Forks
from labs import lab, study, until
from postgres import states

from sesr_lab.sweep import sharing
from sesr_lab.sweep.agenda import Agenda, Belonging
from sesr_lab.sweep.budget import budget_of
from sesr_lab.sweep.ledger import Ledger
from sesr_lab.sweep.search import Search
from sesr_lab.sweep.sharing import Shared, share_of
from sesr_lab.sweep.storage import Patience
from sesr_lab.trials.lab import untrained
from sesr_lab.trials.locks import Locks

pytestmark = [pytest.mark.slow, pytest.mark.faults]

TWELVE = {"trials": 12, "space": {"m": [1, 2, 3, 4], "f": [2, 4, 6], "feature_size": [8]}}


def test_two_drivers_train_each_network_once_and_both_have_a_part(
    server: postgres.Server, drivers: tuple[Forks, Forks], data: str, tmp_path: Path
) -> None:
    lab(tmp_path)  # the store is there before both come
    url = server.database()
    for number, driver in enumerate(drivers):
        driver.begin(tmp_path, data=data, study=TWELVE, storage=url, pause_s=0.05, slots=2, driver=number)
    assert [driver.end() for driver in drivers] == [0, 0]
    assert faults_in(tmp_path, networks=12, url=url) == []
    assert len(table(tmp_path)) == 12
    study = optuna.load_study(study_name="tiny", storage=url)
    assert len(study.trials) == 12, "none was begun in vain"
    assert len({trial.user_attrs["driver"] for trial in study.trials}) == 2
    assert study.user_attrs["sesr:finished"]


@pytest.mark.long
def test_what_a_killed_driver_had_in_the_air_is_finished_by_the_one_that_lives(
    server: postgres.Server, drivers: tuple[Forks, Forks], data: str, tmp_path: Path
) -> None:
    lab(tmp_path)
    url = server.database()
    case = {
        "data": data,
        "study": TWELVE,
        "storage": url,
        "pause_s": 0.3,
    }  # some 18 s: it is not over when it is killed
    drivers[0].begin(tmp_path, **case, slots=2, driver=0, kill_after_s=4.0)
    until(lambda: "RUNNING" in states(url))
    drivers[1].begin(tmp_path, **case, driver=1)
    assert drivers[0].end() == KILLED
    assert drivers[1].end() == 0
    assert faults_in(tmp_path, networks=12, url=url) == []
    assert list((tmp_path / "state" / "checkpoints").glob("*")) == []


def test_a_driver_that_finds_all_begun_leaves_the_rest_to_the_other(
    server: postgres.Server, drivers: tuple[Forks, Forks], data: str, tmp_path: Path
) -> None:
    lab(tmp_path)
    url = server.database()
    case = {"data": data, "study": {"trials": 1}, "storage": url}
    drivers[0].begin(tmp_path, **case, pause_s=1.0, driver=0)
    until(lambda: states(url) == ["RUNNING"])
    assert drivers[1].run(tmp_path, **case, driver=1) == 0
    assert "another driver finishes 1 network" in (tmp_path / "notes.txt").read_text()
    assert drivers[0].end() == 0
    assert faults_in(tmp_path, networks=1, url=url) == []


@pytest.mark.long
@pytest.mark.parametrize("number_of_drivers", [1, 2])
def test_a_restart_of_the_database_loses_no_trial_and_tells_none_twice(
    server: postgres.Server, drivers: tuple[Forks, Forks], data: str, tmp_path: Path, number_of_drivers: int
) -> None:
    lab(tmp_path)
    url = server.database()
    of_it = drivers[:number_of_drivers]
    for number, driver in enumerate(of_it):
        driver.begin(tmp_path, data=data, study=TWELVE, storage=url, pause_s=0.1, driver=number)
    until(lambda: states(url).count("COMPLETE") >= 2)
    server.kill()
    time.sleep(1.0)
    server.start()
    assert [driver.end() for driver in of_it] == [0] * number_of_drivers
    assert faults_in(tmp_path, networks=12, url=url) == []


def test_a_trial_is_one_drivers_until_it_lets_go_or_dies_and_a_restart_takes_it_from_nobody(
    server: postgres.Server,
) -> None:
    url = server.database()
    patience = Patience(url, lambda text: None, lambda: None)
    one, other = (Shared("tiny", Locks(url), patience) for _ in range(2))
    assert one.take(3)
    assert one.take(3)
    assert not other.take(3)
    server.kill()
    server.start()
    assert other.of_others([3]) == {3}, "its owner has yet to take it again"
    assert one.holds(3)
    assert not other.take(3)
    one.close()
    assert other.take(3)
    other.close()


def test_one_driver_at_a_time_asks(server: postgres.Server) -> None:
    url = server.database()
    patience = Patience(url, lambda text: None, lambda: None)
    one, other = (Shared("tiny", Locks(url), patience) for _ in range(2))
    order = []
    with one.asking():
        waiting = threading.Thread(target=lambda: order.append(str(other.asking().__enter__())))
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join()
    assert order[0] == "first"


def agenda(url: str, data: str, folder: Path, patience: Patience) -> Agenda:
    """What one of several drivers has to do, in this process."""
    spec = study(data)
    there = replace(lab(folder)[0], locks=Locks(url))
    ledger = Ledger(spec, url, patience)
    budget = budget_of(spec, None, time.monotonic)
    share = share_of(spec.name, there.locks, patience)
    belonging = Belonging({}, "0" * 32)
    return Agenda(spec, there, search=Search(spec), ledger=ledger, budget=budget, share=share, belonging=belonging)


def test_a_trial_that_ends_while_another_driver_looks_is_not_taken_up(
    server: postgres.Server, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "BACK_S", 0.0)
    url = server.database()
    patience = Patience(url, lambda text: None, lambda: None)
    one, other = (agenda(url, data, tmp_path, patience) for _ in range(2))
    start = one.next()
    assert start is not None
    assert start.number == 0
    of_others = other.share.of_others

    def and_meanwhile_it_ends(numbers: Iterable[int], *, surely: bool = False) -> set[int]:
        assert list(numbers) == [0], "it ran when it was looked at"
        one.settle(0, untrained(start.task, "failed", "as the test wants it", key=start.key))
        monkeypatch.setattr(other.share, "of_others", of_others)
        return of_others([0], surely=surely)

    monkeypatch.setattr(other.share, "of_others", and_meanwhile_it_ends)
    found = other.next()
    assert found is not None
    assert found.number == 1, "a new one"
    assert set(other.share.mine) == {1}
    for each in (one, other):
        each.share.close()
