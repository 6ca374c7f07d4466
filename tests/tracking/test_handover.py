"""Who delivers a run: the process that writes it, and once that is done nobody who would not hear of more.

Two trackers on one state folder stand for two processes: file locks hold between them as they do between those.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_store import new_store

from sesr_lab.tracking.answers import Away, Refused
from sesr_lab.tracking.journal import Journals, Record
from sesr_lab.tracking.outgoing import Outgoing, Place
from sesr_lab.tracking.runs import RunLog, Tracker, open_store

pytestmark = pytest.mark.slow
KEY, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return new_store(tmp_path)


@pytest.fixture
def other(tracker: Tracker, tmp_path: Path) -> Tracker:
    return open_store(tracker.uri, state=tmp_path / "state")


def begun(tracker: Tracker, key: str = KEY, **others: Any) -> RunLog:
    return tracker.begin(key, experiment="trials", name="t0001-m5", **others)


def losses(tracker: Tracker) -> list[tuple[int, float]]:
    found = tracker.delivered(KEY)
    if found is None:
        return []
    return [(point.step, point.value) for point in tracker.client.get_metric_history(found.run_id, "loss")]


def becomes(look: Callable[[], object], wanted: object, timeout_s: float = 20) -> None:
    """Fails unless it does so in time, without anybody being told to hurry."""
    deadline = time.monotonic() + timeout_s
    while look() != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    assert look() == wanted


@pytest.mark.parametrize("delivered_first", [True, False])
def test_who_goes_on_with_a_run_delivers_it_though_who_let_it_go_lives_on(
    tracker: Tracker, other: Tracker, delivered_first: bool
) -> None:
    run = begun(tracker)
    run.log_metrics({"loss": 1.0}, 0)
    if delivered_first:
        assert tracker.flush() == 0
    run.let_go()
    again = begun(other)
    again.log_metrics({"loss": 0.5}, 1)
    becomes(lambda: losses(other), [(0, 1.0), (1, 0.5)])
    again.log_metrics({"loss": 0.25}, 2)
    becomes(lambda: losses(other), [(0, 1.0), (1, 0.5), (2, 0.25)])


def test_a_file_that_cannot_be_sent_holds_back_no_number_of_who_goes_on_with_the_run(
    tracker: Tracker, other: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = tracker._carrier.single

    def no_files(outgoing: Outgoing, record: Record) -> None:
        if record.kind == "file":
            raise Away("no artifacts now")
        single(outgoing, record)

    monkeypatch.setattr(tracker._carrier, "single", no_files)
    run = begun(tracker)
    run.log_metrics({"loss": 1.0}, 0)
    run.log_file(b"x", "x.txt")
    run.let_go()
    becomes(lambda: tracker.waiting, 1)
    begun(other).log_metrics({"loss": 0.5}, 1)
    becomes(lambda: losses(other), [(0, 1.0), (1, 0.5)])


def test_what_is_written_while_it_is_looked_whether_a_run_is_over_is_delivered(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tracker)
    run.log_metrics({"loss": 1.0}, 0)
    assert tracker.flush() == 0
    read, ended = Outgoing.read, []

    def look(outgoing: Outgoing) -> None:
        read(outgoing)
        if not ended and not outgoing.waiting and sys._getframe(1).f_code.co_name == "let_go":
            ended.append(True)
            run.end("FINISHED", "finished")

    monkeypatch.setattr(Outgoing, "read", look)
    tracker._delivery.ring()
    becomes(lambda: [tracker.run(found.run_id).status for found in [tracker.delivered(KEY)] if found], ["FINISHED"])
    assert ended


def test_what_is_added_while_a_run_is_put_away_is_delivered(
    tracker: Tracker, other: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_away, added = Journals.put_away, []

    def add_first(journals: Journals, *arguments: Any) -> bool:
        if not added:
            added.append(True)
            with other.adding_to(KEY) as log:
                log.set_tags({"colour": "green"})
        return put_away(journals, *arguments)

    monkeypatch.setattr(Journals, "put_away", add_first)
    begun(tracker).end("FINISHED", "finished")
    becomes(tracker.journals.pending, [])
    found = tracker.delivered(KEY)
    assert found is not None
    assert tracker.run(found.run_id).tags["colour"] == "green"


def test_the_child_of_a_run_that_the_store_has_refused_is_made_without_it(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = tracker._carrier.create

    def refuse_parent(run: Outgoing, parent: str) -> Place:
        if run.key == OTHER:
            raise Refused("not this one")
        return create(run, parent)

    monkeypatch.setattr(tracker._carrier, "create", refuse_parent)
    begun(tracker, OTHER).let_go()
    becomes(lambda: tracker.waiting, 0)
    begun(tracker, parent_key=OTHER).log_metrics({"loss": 1.0}, 0)
    becomes(lambda: losses(tracker), [(0, 1.0)])


def test_a_run_is_not_let_go_while_a_request_about_it_is_on_its_way(tracker: Tracker) -> None:
    run = begun(tracker)
    outgoing = Outgoing(tracker.journals, KEY)
    run.let_go()
    tracker.close()
    assert outgoing.claim()
    with outgoing.sending():
        assert not outgoing.let_go(is_written=False)
    assert outgoing.let_go(is_written=False)


def test_what_nobody_foresaw_holds_up_no_other_run_and_is_tried_again(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch, failed = tracker._carrier.batch, []

    def fail_once(place: Place, records: list[Record]) -> None:
        if not failed:
            failed.append(place.run_id)
            raise KeyError("surprise")
        batch(place, records)

    monkeypatch.setattr(tracker._carrier, "batch", fail_once)
    begun(tracker).log_metrics({"loss": 1.0}, 0)
    begun(tracker, OTHER).log_metrics({"loss": 1.0}, 0)
    becomes(lambda: losses(tracker), [(0, 1.0)])
    becomes(lambda: tracker.waiting, 0)
    assert failed
    assert "KeyError" in caplog.text


def test_one_trackers_writer_is_no_others(tracker: Tracker, other: Tracker) -> None:
    run = begun(tracker)
    assert (tracker.journals.writes(KEY), other.journals.writes(KEY)) == (True, False)
    begun(other)
    run.let_go()  # it was closed already
    assert (tracker.journals.writes(KEY), other.journals.writes(KEY)) == (False, True)
