"""On real SQLite stores and real servers; nothing here is mocked but the folder."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mlflow_store import Server, migrated, new_store
from PIL import Image

import sesr_lab
from sesr_lab.errors import StoreError
from sesr_lab.tracking import runs as tracking
from sesr_lab.tracking import spool as spool_module
from sesr_lab.tracking.runs import RunLog, Tracker, open_store
from sesr_lab.tracking.spool import Outbox, Refused, Spool, Unavailable, Write
from sesr_lab.tracking.store import absolute, shown

REPOSITORY = Path(sesr_lab.__file__).parents[1]


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return new_store(tmp_path)


@pytest.fixture
def run(tracker: Tracker) -> RunLog:
    return tracker.start_run(tracker.experiment("trials"), "t0001-m5")


def history(tracker: Tracker, run: RunLog, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in tracker.client.get_metric_history(run.run_id, key)]


# Which store


def test_the_default_store_is_the_one_that_mlflow_ui_shows_in_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tmp_path)
    tracker = open_store()
    assert tracker.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    tracker.start_run(tracker.experiment("trials"), "a run").log_file(b"text", "note.txt")
    assert [path.name for path in tmp_path.glob("mlruns/trials/*/artifacts/note.txt")] == ["note.txt"]
    assert list((tmp_path / "deeper").iterdir()) == []


def test_the_environment_names_the_store_unless_the_caller_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert open_store().uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert open_store("sqlite:///mlflow.db").uri == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_folder_of_runs_in_the_old_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    with pytest.raises(StoreError, match="mlflow migrate-filestore") as caught:
        open_store()
    assert "\n" not in str(caught.value)


def spoil_with_a_folder(path: Path) -> None:
    path.mkdir()


def spoil_with_text(path: Path) -> None:
    path.write_text("not a database, but long enough to be looked at as one " * 40)


def spoil_the_parent(path: Path) -> None:
    path.parent.parent.mkdir(exist_ok=True)
    path.parent.rmdir()
    path.parent.write_text("a file where a folder should be")


def spoil_the_schema(path: Path) -> None:
    path.write_bytes(migrated().read_bytes())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
    database.close()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_with_a_folder, "unable to open database file"),
        (spoil_with_text, "file is not a database"),
        (spoil_the_parent, "exists"),
        (spoil_the_schema, "mlflow db upgrade sqlite:///"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_at_once(tmp_path: Path, spoil, says: str) -> None:
    path = tmp_path / "data" / "mlflow.db"
    path.parent.mkdir()
    spoil(path)
    migrated()
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        open_store(f"sqlite:///{path}")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 3  # MLflow alone tries for over a minute


def test_a_server_that_is_down_is_reported_within_seconds() -> None:
    migrated()
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9: cannot open it: no answer; is the MLflow server running"):
        open_store("http://127.0.0.1:9")
    assert time.monotonic() - started < 10  # MLflow alone tries for four minutes


def test_a_folder_called_mlflow_does_not_pass_for_the_package(tmp_path: Path) -> None:
    (tmp_path / "mlflow").mkdir()
    program = f"""
import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPOSITORY)!r}]
from sesr_lab.errors import StoreError
from sesr_lab.tracking.store import connect
try:
    connect()
except StoreError as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'mlflow>=3.17'" in answer.stdout


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://tracking.example:5000/", "http://tracking.example:5000"),
        ("postgresql://u:secret@db/lab", "postgresql://u:secret@db/lab"),
        ("sqlite:////var/lab/mlflow.db", "sqlite:////var/lab/mlflow.db"),
    ],
)
def test_uris_that_name_one_place_stay_as_they_are(uri: str, expected: str) -> None:
    assert absolute(uri) == expected


def test_messages_hide_passwords() -> None:
    assert shown("postgresql://u:secret@db/lab") == "postgresql://u:***@db/lab"


# Experiments and runs


def test_an_experiment_is_made_once_however_many_ask_for_it(tracker: Tracker) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(tracker.experiment, ["x2 on photos"] * 4))
    assert len(ids) == 1
    assert tracker.client.get_experiment(ids.pop()).name == "x2 on photos"


def test_the_ui_s_table_of_runs_starts_with_scores_and_costs_best_first(tracker: Tracker) -> None:
    number = tracker.experiment("trials")
    assert tracker.page(number) == f"/#/experiments/{number}/runs?viewStateShareKey=sesr&workflowType=machine_learning"
    view = json.loads(tracker.client.get_experiment(number).tags["mlflow.sharedViewState.sesr"])
    assert {"metrics.`best_psnr`", "metrics.`macs_720p`"} <= set(view["selectedColumns"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best_psnr`", False)


def test_a_deleted_experiment_is_named_with_the_commands_that_help(tracker: Tracker) -> None:
    number = tracker.experiment("gone")
    tracker.client.delete_experiment(number)
    with pytest.raises(StoreError, match=f"mlflow experiments restore --experiment-id {number}.*mlflow gc"):
        tracker.experiment("gone")


def test_a_run_says_what_made_it_and_keeps_all_its_params_and_tags(tracker: Tracker) -> None:
    experiment = tracker.experiment("trials")
    parent = tracker.start_run(experiment, "study")
    many = {f"p{index}": index for index in range(250)}
    log = tracker.start_run(
        experiment,
        "t0001-m5",
        params=many | {"learning_rate": 2e-3, "block": "collapsed"},
        tags={f"sesr.t{index}": str(index) for index in range(250)},
        parent_run_id=parent.run_id,
    )
    info = tracker.run(log.run_id)
    assert (info.name, info.status, info.parent_run_id) == ("t0001-m5", "RUNNING", parent.run_id)
    assert info.params == {key: str(value) for key, value in many.items()} | {
        "learning_rate": "0.002",
        "block": "collapsed",
    }
    assert {key: info.tags[f"sesr.t{key}"] for key in range(250)} == {key: str(key) for key in range(250)}
    assert {"sesr.git", "sesr.torch", "sesr.mlflow", "sesr.python", "sesr.host"} <= info.tags.keys()


def test_runs_are_found_by_tags_and_status_over_many_pages(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_PAGE", 2)
    names = ["it's", 'quoted "twice"', "plain"]
    logs = {
        (name, index): tracker.start_run(tracker.experiment(f"e{index}"), "r", tags={"sesr.study": name})
        for name in names
        for index in range(3)
    }
    logs[("plain", 0)].end("FINISHED")
    for name in names:
        found = tracker.runs(tags={"sesr.study": name})
        assert {info.run_id for info in found} == {logs[(name, index)].run_id for index in range(3)}
    running = tracker.runs(tags={"sesr.study": "plain"}, status="RUNNING")
    assert {info.run_id for info in running} == {logs[("plain", 1)].run_id, logs[("plain", 2)].run_id}
    assert len(tracker.runs(tracker.experiment("e0"))) == 3
    assert tracker.runs(tracker.experiment("empty")) == []


def test_a_reaped_run_is_killed_and_lost(tracker: Tracker) -> None:
    lost = tracker.start_run(tracker.experiment("trials"), "r")
    tracker.reap_run(tracker.run(lost.run_id))
    info = tracker.run(lost.run_id)
    assert (info.status, info.tags["sesr.end"]) == ("KILLED", "lost")


def test_a_store_knows_the_runs_that_it_holds(tracker: Tracker) -> None:
    held, deleted = (tracker.start_run(tracker.experiment("trials"), "r") for _ in range(2))
    tracker.client.delete_run(deleted.run_id)
    assert tracker.holds(held.run_id)
    assert not tracker.holds(deleted.run_id)
    assert not tracker.holds("f" * 32)


# What a run logs


def test_metrics_have_one_point_each_at_their_step(tracker: Tracker, run: RunLog) -> None:
    run.log_constants({"cost/params": 13520, "cost/macs_720p": 3.1e9})
    for step in (100, 200):
        run.log_metrics({"val/psnr_db": 30 + step / 100, "val/ssim": 0.9}, step)
    assert history(tracker, run, "val/psnr_db") == [(100, 31.0), (200, 32.0)]
    assert history(tracker, run, "cost/macs_720p") == [(0, 3.1e9)]


def test_what_is_not_finite_becomes_nan_and_takes_nothing_with_it(tracker: Tracker, run: RunLog) -> None:
    run.log_metrics({"nan": math.nan, "inf": math.inf, "minus": -math.inf, "good": 1.0}, 5)
    for key in ("nan", "inf", "minus"):
        assert [math.isnan(value) for _, value in history(tracker, run, key)] == [True]
    assert history(tracker, run, "good") == [(5, 1.0)]


def test_a_reopened_run_logs_no_step_twice(tracker: Tracker, run: RunLog) -> None:
    for step in (0, 100, 200):
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    run.end("KILLED", "interrupted")
    again = tracker.reopen_run(run.run_id)
    assert again.logged_until == 200
    assert tracker.run(run.run_id).status == "RUNNING"
    for step in (100, 200, 300):
        again.log_metrics({"loss": 0.5, "new": 2.0}, step)
    assert [step for step, _ in history(tracker, run, "loss")] == [0, 100, 200, 300]
    assert history(tracker, run, "new") == [(300, 2.0)]
    again.end("FINISHED")
    assert tracker.run(run.run_id).status == "FINISHED"


def test_reopening_a_run_that_is_not_there_says_so(tracker: Tracker) -> None:
    with pytest.raises(StoreError, match="reopen the run ffff"):
        tracker.reopen_run("f" * 32)


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_pictures_are_stored_as_the_ui_reads_them(tracker: Tracker, run: RunLog, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for step in (0, 500):
        run.log_picture("validation", picture, step=step)
    files = [Path(item.path).name for item in tracker.client.list_artifacts(run.run_id, "images")]
    whole = [name for name in files if name.startswith("validation+step+500+timestamp+") and name.endswith(".png")]
    assert len(files) == 4  # each one whole and as a thumbnail
    assert len(whole) == 1
    path = tracker.client.download_artifacts(run.run_id, f"images/{whole[0]}")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert tracker.run(run.run_id).tags["mlflow.loggedImages"] == "True"


def test_files_land_where_they_are_told_to(tracker: Tracker, run: RunLog, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"m = 5\n")
    run.log_file(tmp_path / "config.toml", "config.toml")
    run.log_file(b"Traceback", "logs/traceback.txt")
    top = {item.path for item in tracker.client.list_artifacts(run.run_id)}
    assert top == {"config.toml", "logs"}
    text = Path(tracker.client.download_artifacts(run.run_id, "logs/traceback.txt")).read_text()
    assert text == "Traceback"


@pytest.mark.parametrize(
    ("source", "kind", "location"),
    [
        ("hub:eugenesiow/Div2k", "hugging_face", {"path": "eugenesiow/Div2k"}),
        ("https://data.example/DIV2K.zip", "http", {"url": "https://data.example/DIV2K.zip"}),
        ("folder:pictures", "local", {"uri": "folder:pictures"}),
    ],
)
def test_the_data_is_an_input_of_the_run(
    tracker: Tracker, run: RunLog, source: str, kind: str, location: dict[str, str]
) -> None:
    for _ in range(2):  # again after a resume
        run.log_dataset("photos", source, digest="ab12" * 16, profile={"images": 20}, context="training")
    (found,) = tracker.client.get_run(run.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("photos", ("ab12" * 16)[:36])
    assert (found.dataset.source_type, json.loads(found.dataset.source)) == (kind, location)
    assert json.loads(found.dataset.profile) == {"images": 20}
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_a_run_ends_once(tracker: Tracker, run: RunLog) -> None:
    assert run.end("FAILED", "out of memory") == 0
    run.end("FINISHED")
    info = tracker.run(run.run_id)
    assert (info.status, info.tags["sesr.end"]) == ("FAILED", "out of memory")
    assert info.ended is not None


def test_a_run_that_was_deleted_meanwhile_does_not_stop_training(
    tracker: Tracker, run: RunLog, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.client.delete_run(run.run_id)
    run.log_metrics({"loss": 1.0}, 1)
    assert run.end("FINISHED") == 0
    assert f"does not take metrics of run {run.run_id}" in caplog.text


# Outages


class FakeStore:
    """Takes writes while `up`; what it has taken, in order."""

    def __init__(self) -> None:
        self.up = True
        self.calls = 0
        self.taken: list[Write] = []

    def __call__(self, write: Write) -> None:
        self.calls += 1
        if not self.up:
            raise Unavailable("no answer")
        if write.content.get("bad"):
            raise Refused("bad write")
        self.taken.append(write)


def number(step: int, **more: object) -> Write:
    return Write("run", "metrics", {"step": step, **more})


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def test_an_outage_delays_writes_and_keeps_their_order(
    tmp_path: Path, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(Spool(tmp_path, "store"), store)
    outbox.send(number(0))
    store.up = False
    for step in range(1, 50):
        outbox.send(number(step))
    assert store.calls == 2  # after the first failure the store is left alone for a while
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    store.up = True
    assert outbox.flush() == 0
    assert [write.content["step"] for write in store.taken] == list(range(50))


def test_what_waits_outlives_the_process(tmp_path: Path, store: FakeStore) -> None:
    store.up = False
    Outbox(Spool(tmp_path, "store"), store).send(Write("run", "picture", {"key": "a"}, b"\x89PNG"))
    store.up = True
    assert Spool(tmp_path, "another store").first() is None
    assert Outbox(Spool(tmp_path, "store"), store).flush() == 0
    assert store.taken == [Write("run", "picture", {"key": "a"}, b"\x89PNG")]


def test_a_write_that_is_refused_does_not_hold_up_the_rest(tmp_path: Path, store: FakeStore) -> None:
    outbox = Outbox(Spool(tmp_path, "store"), store)
    store.up = False
    outbox.send(number(1, bad=True))
    outbox.send(number(2))
    store.up = True
    assert outbox.flush() == 0
    assert [write.content["step"] for write in store.taken] == [2]


def test_a_full_spool_drops_pictures_before_numbers(
    tmp_path: Path, store: FakeStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spool_module, "BLOB_LIMIT_BYTES", 1000)
    monkeypatch.setattr(spool_module, "LIMIT_BYTES", 2000)
    spool = Spool(tmp_path, "store")
    outbox = Outbox(spool, store)
    store.up = False
    for _ in range(3):
        outbox.send(Write("run", "picture", {}, bytes(600)))
    outbox.send(number(1))
    assert len(spool) == 2
    assert "lost picture of run run" in caplog.text
    for step in range(200):
        outbox.send(number(step))
    assert len(spool) < 110


def test_without_a_folder_the_spool_is_temporary(store: FakeStore, tmp_path: Path) -> None:
    outbox = Outbox(Spool(None, "store"), store)
    assert outbox.flush() == 0
    store.up = False
    outbox.send(number(1))
    store.up = True
    assert outbox.flush() == 0
    assert list(tmp_path.iterdir()) == []


def test_leftovers_reach_the_store_when_it_is_opened_again(tracker: Tracker, run: RunLog, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", tracker.uri)
    spool.add(Write(run.run_id, "metrics", {"values": {"loss": 0.25}, "step": 700, "time_ms": 1}))
    spool.add(Write(run.run_id, "end", {"status": "FINISHED", "time_ms": 2}))
    again = open_store(tracker.uri, spool=tmp_path / "spool")
    assert history(again, run, "loss") == [(700, 0.25)]
    assert again.run(run.run_id).status == "FINISHED"


def test_sending_the_same_write_twice_stores_it_once(tracker: Tracker, run: RunLog, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", tracker.uri)
    for _ in range(2):
        spool.add(Write(run.run_id, "metrics", {"values": {"loss": 0.25, "nan": math.nan}, "step": 7, "time_ms": 1}))
        spool.add(Write(run.run_id, "params", {"values": {"m": "5"}}))
        spool.add(Write(run.run_id, "file", {"path": "a/b.txt"}, b"x"))
    assert tracker.flush() == 0
    assert history(tracker, run, "loss") == [(7, 0.25)]
    assert len(history(tracker, run, "nan")) == 1


# Real processes


@pytest.mark.slow
def test_first_users_that_meet_make_one_store_and_print_nothing(tmp_path: Path) -> None:
    program = "from sesr_lab.tracking.runs import open_store; print(open_store().experiment('both'))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_DISABLE_TELEMETRY": "true"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [process.communicate(timeout=180) for process in both] == [("1\n", ""), ("1\n", "")]
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.mark.slow
def test_what_is_logged_while_the_server_is_dead_appears_once_when_it_is_back(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = open_store(server.uri, spool=tmp_path / "spool")
    run = tracker.start_run(tracker.experiment("trials"), "t0001-m5", params={"m": 5})
    assert run.url == f"{server.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"
    run.log_metrics({"loss": 1.0}, 0)
    server.kill()
    started = time.monotonic()
    for step in range(1, 21):
        run.log_metrics({"loss": 1 / step, "psnr": math.nan}, step)
    run.log_picture("validation", np.zeros((8, 8), dtype=np.uint8), step=20)
    run.log_file(b"text", "logs/note.txt")
    blocked_s = time.monotonic() - started
    assert run.end("FINISHED") > 20
    server.start()
    again = open_store(server.uri, spool=tmp_path / "spool")
    assert again.flush(patience_s=60) == 0
    assert history(again, run, "loss") == [(0, 1.0), *[(step, 1 / step) for step in range(1, 21)]]
    assert len(history(again, run, "psnr")) == 20
    assert again.run(run.run_id).status == "FINISHED"
    assert len(again.client.list_artifacts(run.run_id, "images")) == 2
    assert [item.path for item in again.client.list_artifacts(run.run_id, "logs")] == ["logs/note.txt"]
    assert capsys.readouterr().out == ""
    assert blocked_s < 15
