"""What a run has written and not yet sent: through damage, a full disk's limit, other stores and an earlier version."""

import json
import os
import shutil
import sqlite3
from collections import deque
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import disk
import numpy as np
import pytest
from mlflow_store import migrated, new_store

from sesr_lab.errors import RunHeldError, StoreError
from sesr_lab.tracking import journal
from sesr_lab.tracking.journal import Journals, Reader
from sesr_lab.tracking.runs import Tracker, open_store


def written(journals: Journals, *steps: int) -> str:
    """The key of a run that has logged those steps, and whose process is gone."""
    key = uuid4().hex
    writer = journals.open(key)
    begin = {"experiment": "trials", "name": "t0001", "tags": {}, "parent_key": None, "time_ms": 1}
    writer.append("begin", begin)
    for step in steps:
        writer.append("metrics", {"values": {"loss": 1.0}, "step": step, "time_ms": 1})
    writer.close()
    return key


def steps_in(tracker: Tracker, key: str) -> list[int]:
    assert tracker.flush() == 0
    place = tracker.delivered(key)
    assert place is not None
    return [point.step for point in tracker.client.get_metric_history(place.run_id, "loss")]


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    shutil.copy(migrated(), tmp_path / "mlflow.db")
    return Journals(tmp_path / "state", f"sqlite:///{tmp_path / 'mlflow.db'}")


def opened(tmp_path: Path) -> Tracker:
    return open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", state=tmp_path / "state")


@pytest.mark.parametrize("damage", [b"not a line of ours\n", b"00000000 {}\n", b"\xff\xfe\n"])
def test_what_comes_before_a_damaged_line_is_sent_and_the_file_is_set_aside(
    tmp_path: Path, journals: Journals, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    key = written(journals, 1, 2)
    path = journals.folder / key / "journal.jsonl"
    path.write_bytes(path.read_bytes() + damage)
    assert steps_in(opened(tmp_path), key) == [1, 2]
    assert (journals.folder / "damaged" / f"{key}.jsonl").read_bytes().endswith(damage)
    assert len([record for record in caplog.records if "line 4 is damaged" in record.message]) == 1


def test_a_line_that_a_kill_cut_short_was_never_there(tmp_path: Path, journals: Journals) -> None:
    key = written(journals, 1, 2)
    path = journals.folder / key / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert steps_in(opened(tmp_path), key) == [1]
    writer = journals.open(key)
    writer.append("metrics", {"values": {"loss": 1.0}, "step": 3, "time_ms": 1})
    writer.close()
    assert [record.content.get("step") for record in Reader(journals.folder / key).new()] == [None, 1, 3]


def test_damaged_marks_are_passed_over_and_nothing_is_stored_twice(tmp_path: Path, journals: Journals) -> None:
    key = written(journals, 1, 2)
    first = opened(tmp_path)
    assert steps_in(first, key) == [1, 2]
    first.close()
    (journals.folder / key / "sent.jsonl").write_bytes(b"\x00\x01 damaged\n")
    assert steps_in(opened(tmp_path), key) == [1, 2]


@pytest.mark.slow
def test_a_run_is_one_writers(tmp_path: Path, journals: Journals) -> None:
    key = uuid4().hex
    writer = journals.open(key)
    child = os.fork()
    if child == 0:
        try:
            Journals(tmp_path / "state", journals.uri).open(key)
        except RunHeldError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    writer.close()
    journals.open(key).close()


def test_pictures_give_way_to_numbers_where_too_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "BLOB_LIMIT_BYTES", 0)
    tracker = new_store(tmp_path)
    run = tracker.begin(uuid4().hex, experiment="trials", name="t0001")
    run.log_picture("val/picture", np.zeros((8, 8), dtype=np.uint8), step=0)
    run.log_metrics({"loss": 1.0}, 1)
    run.end("FINISHED")
    assert steps_in(tracker, run.key) == [1]
    assert "lost picture" in caplog.text
    assert tracker.client.list_artifacts(tracker.delivered(run.key).run_id, "images") == []  # type: ignore[union-attr]


def test_what_waits_for_another_store_is_counted_and_left_to_it(tmp_path: Path, journals: Journals) -> None:
    key = written(journals, 1, 2)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(migrated(), other / "mlflow.db")
    tracker = open_store(f"sqlite:///{other / 'mlflow.db'}", state=tmp_path / "state")
    assert tracker.flush() == 0
    assert tracker.delivered(key) is None
    assert list(tracker.waiting_elsewhere().values()) == [3]
    assert steps_in(opened(tmp_path), key) == [1, 2]


@pytest.mark.faults
def test_what_a_full_disk_does_not_take_was_never_there_and_what_it_took_stays(tmp_path: Path) -> None:
    """A record less and less fits: whichever of its bytes is the first too many, the journal is as it was."""
    with disk.mounted(tmp_path / "full") as full:
        journals = Journals(full.folder, "sqlite:///mlflow.db")
        writer = journals.open(uuid4().hex)
        kept = []
        full.leave(2 * 4096)
        for step in range(200):
            with suppress(OSError):
                writer.append("metrics", {"values": {"loss": "x" * 37 * (step % 5)}, "step": step, "time_ms": 1})
                kept.append(step)
            with suppress(OSError):
                writer.append("picture", {"key": "a", "step": step, "time_ms": 1}, b"p" * 9000)
                pytest.fail("there was no room for that")
        assert 20 < len(kept) < 200
        assert list(writer.folder.glob("*.blob")) == []
        full.free()
        writer.append("metrics", {"values": {"loss": 1.0}, "step": 200, "time_ms": 1})
        records = list(Reader(writer.folder).new())
        assert [record.content["step"] for record in records] == [*kept, 200]
        assert [record.number for record in records] == list(range(len(records)))
        writer.close()


@pytest.mark.faults
def test_a_run_on_a_full_disk_says_so_in_a_line_and_ends_when_there_is_room(tmp_path: Path) -> None:
    shutil.copy(migrated(), tmp_path / "mlflow.db")
    with disk.mounted(tmp_path / "state") as full:
        tracker = opened(tmp_path)
        run = tracker.begin(uuid4().hex, experiment="trials", name="t0001")
        run.log_metrics({"loss": 1.0}, 1)
        full.leave(0)
        steps = iter(range(2, 1000))
        with pytest.raises(StoreError, match="No space left on device; free some space, or set SESR_LAB_STATE"):
            deque(map(partial(run.log_metrics, {"loss": 1.0}), steps))
        run.break_off("KILLED", "interrupted")
        tracker.close(patience_s=0.0)
        full.free()
        again = opened(tmp_path)
        again.reap()
        assert steps_in(again, run.key) == list(range(1, next(steps) - 1))
        place = again.delivered(run.key)
        assert place is not None
        assert again.run(place.run_id).status == "KILLED"
        again.close()


# What version 0.1 has left


def old_spool(tmp_path: Path, store: str, run_id: str) -> Path:
    path = tmp_path / "state" / "spool" / "spool.db"
    path.parent.mkdir(parents=True)
    columns = "id INTEGER PRIMARY KEY, store TEXT, run_id TEXT, kind TEXT, content TEXT, blob BLOB"
    content = json.dumps({"values": {"loss": 1.0}, "step": 5, "time_ms": 1})
    with closing(sqlite3.connect(path)) as spool, spool:
        spool.execute(f"CREATE TABLE writes ({columns})")
        spool.execute("INSERT INTO writes VALUES (1, ?, ?, 'metrics', ?, NULL)", [store, run_id, content])
    return path


def test_what_an_earlier_version_had_spooled_is_sent_to_its_run(tmp_path: Path) -> None:
    first = new_store(tmp_path)
    run_id = first.client.create_run(first.experiment("trials")).info.run_id
    first.close()
    path = old_spool(tmp_path, first.uri, run_id)
    assert steps_in(opened(tmp_path), run_id) == [5]
    assert not path.exists()


def test_a_damaged_spool_is_set_aside_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    new_store(tmp_path).close()
    path = tmp_path / "state" / "spool" / "spool.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 4096)
    opened(tmp_path)
    assert not path.exists()
    assert path.with_name("spool.damaged").exists()
    assert len([record for record in caplog.records if "is set aside as spool.damaged" in record.message]) == 1
