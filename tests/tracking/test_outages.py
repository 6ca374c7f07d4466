"""What a run logs while its server fails, refuses, hangs or is gone: nothing waits, and all of it arrives once."""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from labs import until
from mlflow_store import Server, new_store
from proxy import Proxy

from sesr_lab.errors import StoreAwayError
from sesr_lab.tracking.runs import RunLog, Tracker, open_store

pytestmark = pytest.mark.slow  # a real server

PICTURE = np.zeros((8, 8), dtype=np.uint8)
POINTS = [(step, 1 / step) for step in range(1, 31)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def tracker(proxy: Proxy, tmp_path: Path) -> Iterator[Tracker]:
    tracker = open_store(proxy.uri, state=tmp_path / "state")
    yield tracker
    proxy.mend()
    tracker.close(patience_s=0.0)


def begun(tracker: Tracker) -> RunLog:
    run = tracker.begin(uuid4().hex, experiment="trials", name="t0001-m5")
    assert tracker.wait_for(run.key, patience_s=30.0) is not None
    return run


def log_points(run: RunLog) -> float:
    """Logs the points; the seconds that it took."""
    started = time.monotonic()
    for step, value in POINTS:
        run.log_metrics({"loss": value}, step)
    return time.monotonic() - started


def points(tracker: Tracker, run: RunLog) -> list[tuple[int, float]]:
    place = tracker.delivered(run.key)
    assert place is not None
    return [(point.step, point.value) for point in tracker.client.get_metric_history(place.run_id, "loss")]


def pictures(tracker: Tracker, run: RunLog) -> int:
    place = tracker.delivered(run.key)
    assert place is not None
    return len([file for file in tracker.client.list_artifacts(place.run_id, "images") if file.path.endswith(".png")])


def test_uploads_that_fail_hold_back_no_number(
    proxy: Proxy, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    run = begun(tracker)
    proxy.fault = lambda method, path: 500 if "artifacts" in path and method == "PUT" else None
    run.log_picture("validation", PICTURE, step=0)
    log_points(run)
    until(lambda: points(tracker, run) == POINTS, timeout_s=30)
    assert pictures(tracker, run) == 0
    proxy.mend()
    run.end("FINISHED")
    assert tracker.flush(patience_s=60.0) == 0
    assert pictures(tracker, run) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_a_server_that_wants_a_password_loses_no_point_and_is_said_once(
    proxy: Proxy, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    run = begun(tracker)
    proxy.fault = lambda method, path: 401
    log_points(run)
    run.log_picture("validation", PICTURE, step=30)
    assert tracker.flush(patience_s=3.0) > 0
    proxy.mend()
    run.end("FINISHED")
    assert tracker.flush(patience_s=60.0) == 0
    assert points(tracker, run) == POINTS
    assert pictures(tracker, run) == 1
    said = [record.message for record in caplog.records if "401" in record.message]
    assert len(said) == 1
    assert "it is kept until that is mended" in said[0]


def test_training_never_waits_for_a_server_that_hangs(proxy: Proxy, tracker: Tracker) -> None:
    run = begun(tracker)
    proxy.fault = lambda method, path: "hang"
    took_s = log_points(run)
    started = time.monotonic()
    run.log_picture("validation", PICTURE, step=30)
    run.log_file(b"text", "logs/note.txt")
    run.end("FINISHED")
    assert took_s + time.monotonic() - started < 2.0
    proxy.mend()
    assert tracker.flush(patience_s=60.0) == 0
    assert points(tracker, run) == POINTS


def test_a_stored_answer_that_was_lost_on_its_way_stores_nothing_twice(proxy: Proxy, tracker: Tracker) -> None:
    run = begun(tracker)
    lost: set[str] = set()

    def lose_first_answers(method: str, path: str) -> str | None:
        if method == "GET" or path in lost:
            return None
        lost.add(path)
        return "lose"

    proxy.fault = lose_first_answers
    log_points(run)
    run.log_picture("validation", PICTURE, step=30)
    run.end("FINISHED")
    assert tracker.flush(patience_s=60.0) == 0
    assert len(lost) > 2
    assert points(tracker, run) == POINTS
    assert pictures(tracker, run) == 1


def test_what_is_logged_while_the_server_is_dead_appears_once_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path)
    server.start()
    tracker = open_store(server.uri, state=tmp_path / "state")
    run = begun(tracker)
    run.log_metrics({"loss": 1.0}, 0)
    server.kill()
    started = time.monotonic()
    for step in range(1, 21):
        run.log_metrics({"loss": 1 / step, "psnr": math.nan}, step)
    run.log_picture("validation", PICTURE, step=20)
    run.log_file(b"text", "logs/note.txt")
    new = tracker.begin(uuid4().hex, experiment="trials", name="t0002-m3")  # a run that begins in the dark
    new.log_metrics({"loss": 1.0}, 5)
    new.end("FINISHED")
    run.end("FINISHED")
    assert time.monotonic() - started < 2.0
    assert tracker.close(patience_s=2.0) > 20
    with pytest.raises(StoreAwayError, match="is the MLflow server running"):
        open_store(server.uri, state=tmp_path / "state")
    server.start()
    try:
        again = open_store(server.uri, state=tmp_path / "state")
        assert again.flush(patience_s=60.0) == 0
        assert points(again, run) == [(0, 1.0), *[(step, 1 / step) for step in range(1, 21)]]
        assert points(again, new) == [(5, 1.0)]
        info = again.run(again.delivered(run.key).run_id)  # type: ignore[union-attr]
        assert info.status == "FINISHED"
        assert pictures(again, run) == 1
        assert [item.path for item in again.client.list_artifacts(info.run_id, "logs")] == ["logs/note.txt"]
    finally:
        server.kill()
    assert capsys.readouterr().out == ""


WRITER = """
import sys, time
from pathlib import Path
from sesr_lab.tracking.runs import open_store
tracker = open_store(sys.argv[1], state=Path(sys.argv[2]))
run = tracker.begin(sys.argv[3], experiment="trials", name="killed")
print("ready", flush=True)
step = 0
while True:
    step += 1
    run.log_metrics({"loss": 1 / step}, step)
    print(step, flush=True)
    time.sleep(0.005)
"""


def test_a_writer_that_is_killed_leaves_every_point_it_has_logged_once(tmp_path: Path) -> None:
    new_store(tmp_path).close()
    uri, state, key = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "state", uuid4().hex
    command = [sys.executable, "-c", WRITER, uri, str(state), key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if line.strip().isdigit() and int(line) >= 600:  # some seconds: batches are on their way
                break
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
    last = max(600, *(int(step) for step in rest if step.isdigit())) if rest else 600
    tracker = open_store(uri, state=state)
    tracker.reap()
    assert tracker.flush() == 0
    run_id = tracker.delivered(key).run_id  # type: ignore[union-attr]
    steps = [point.step for point in tracker.client.get_metric_history(run_id, "loss")]
    assert sorted(steps) == list(range(1, len(steps) + 1)), "each once"
    assert len(steps) >= last, "what was logged is there"
    info = tracker.run(run_id)
    assert (info.status, info.tags["sesr.end"]) == ("KILLED", "lost")
