"""What runs log, and where it ends up: on real SQLite stores."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from mlflow_store import new_store
from PIL import Image

from sesr_lab.errors import RunHeldError, StoreError
from sesr_lab.tracking import reading
from sesr_lab.tracking.runs import RunInfo, RunLog, Tracker, open_store
from sesr_lab.tracking.views import page, views

pytestmark = pytest.mark.slow


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return new_store(tmp_path)


@pytest.fixture
def run(tracker: Tracker) -> RunLog:
    return begun(tracker)


def begun(tracker: Tracker, name: str = "t0001-m5", **others: object) -> RunLog:
    return tracker.begin(uuid4().hex, name=name, **{"experiment": "trials", **others})  # type: ignore[arg-type]


def stored(tracker: Tracker, run: RunLog) -> RunInfo:
    """The run as the store has it, once everything is there."""
    assert tracker.flush() == 0
    return tracker.run(run_id(tracker, run))


def run_id(tracker: Tracker, run: RunLog) -> str:
    found = tracker.wait_for(run.key)
    assert found is not None
    return found.run_id


def history(tracker: Tracker, run: RunLog, key: str) -> list[tuple[int, float]]:
    points = tracker.client.get_metric_history(stored(tracker, run).run_id, key)
    return [(point.step, point.value) for point in points]


# Experiments and runs


def test_an_experiment_is_made_once_however_many_ask_for_it(tracker: Tracker) -> None:
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(tracker.experiment, ["x2 on photos"] * 4))
    assert len(ids) == 1
    assert tracker.client.get_experiment(ids.pop()).name == "x2 on photos"


def test_an_experiment_has_the_views_that_its_page_opens_on(tracker: Tracker) -> None:
    number = tracker.experiment("trials")
    assert views().items() <= tracker.client.get_experiment(number).tags.items()
    assert tracker.page(number) == page(number)


def test_an_experiment_of_an_earlier_version_gets_the_views_and_keeps_what_users_have_saved(tracker: Tracker) -> None:
    mine = {"mlflow.sharedViewState.sesr-table": "mine", "mlflow.sharedViewState.sesr": "of 0.1.0"}
    number = tracker.client.create_experiment("old", tags=mine)
    assert tracker.experiment("old") == number
    tags = tracker.client.get_experiment(number).tags
    assert mine.items() <= tags.items()
    assert tags["mlflow.sharedViewState.sesr-pareto"] == views()["mlflow.sharedViewState.sesr-pareto"]


def test_a_run_can_describe_its_experiment_again_and_again(tracker: Tracker, run: RunLog) -> None:
    for text in ("first", "last"):
        run.describe_experiment({"mlflow.note.content": text})
    number = stored(tracker, run).experiment_id
    assert tracker.client.get_experiment(number).tags["mlflow.note.content"] == "last"


def test_a_deleted_experiment_is_named_with_the_commands_that_help(tracker: Tracker) -> None:
    number = tracker.experiment("gone")
    tracker.client.delete_experiment(number)
    with pytest.raises(StoreError, match=f"mlflow experiments restore --experiment-id {number}.*mlflow gc"):
        tracker.experiment("gone")


def test_a_run_says_what_made_it_and_keeps_all_its_params_and_tags(tracker: Tracker) -> None:
    study = begun(tracker, "study")
    many = {f"p{index}": index for index in range(250)}
    log = begun(
        tracker,
        params=many | {"learning_rate": 2e-3, "block": "collapsed"},
        tags={f"sesr.t{index}": str(index) for index in range(250)},
        parent_key=study.key,
    )
    info = stored(tracker, log)
    assert (info.name, info.status, info.parent_run_id) == ("t0001-m5", "RUNNING", run_id(tracker, study))
    assert info.params == {key: str(value) for key, value in many.items()} | {
        "learning_rate": "0.002",
        "block": "collapsed",
    }
    assert {key: info.tags[f"sesr.t{key}"] for key in range(250)} == {key: str(key) for key in range(250)}
    assert {"sesr.git", "sesr.torch", "sesr.mlflow", "sesr.python", "sesr.host"} <= info.tags.keys()
    assert info.tags["sesr.key"] == info.key == log.key


def test_runs_are_found_by_tags_and_status_over_many_pages(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAGE", 2)
    names = ["it's", 'quoted "twice"', "plain"]
    logs = {
        (name, index): begun(tracker, "r", experiment=f"e{index}", tags={"sesr.study": name})
        for name in names
        for index in range(3)
    }
    logs["plain", 0].end("FINISHED")
    ids = {key: stored(tracker, log).run_id for key, log in logs.items()}
    for name in names:
        found = tracker.runs(tags={"sesr.study": name})
        assert {info.run_id for info in found} == {ids[name, index] for index in range(3)}
    running = tracker.runs(tags={"sesr.study": "plain"}, status="RUNNING")
    assert {info.run_id for info in running} == {ids["plain", 1], ids["plain", 2]}
    assert len(tracker.runs(tracker.experiment("e0"))) == 3
    assert tracker.runs(tracker.experiment("empty")) == []


def test_a_store_knows_the_runs_that_it_holds(tracker: Tracker) -> None:
    held, deleted = (run_id(tracker, begun(tracker)) for _ in range(2))
    tracker.client.delete_run(deleted)
    assert tracker.holds(held)
    assert not tracker.holds(deleted)
    assert not tracker.holds("f" * 32)


# What a run logs


def test_metrics_have_one_point_each_at_their_step(tracker: Tracker, run: RunLog) -> None:
    run.log_constants({"cost/params": 13520, "cost/macs_720p": 3.1e9})
    for step in (100, 200):
        run.log_metrics({"val/psnr_db": 30 + step / 100, "val/ssim": 0.9}, step)
    assert history(tracker, run, "val/psnr_db") == [(100, 31.0), (200, 32.0)]
    assert history(tracker, run, "cost/macs_720p") == [(0, 3.1e9)]


def test_thousands_of_points_arrive_whole(tracker: Tracker, run: RunLog) -> None:
    for step in range(700):
        run.log_metrics({f"m{index}": step for index in range(5)}, step)
    assert [step for step, _ in history(tracker, run, "m3")] == list(range(700))


def test_what_is_not_finite_becomes_nan_and_takes_nothing_with_it(tracker: Tracker, run: RunLog) -> None:
    run.log_metrics({"nan": math.nan, "inf": math.inf, "minus": -math.inf, "good": 1.0}, 5)
    for key in ("nan", "inf", "minus"):
        assert [math.isnan(value) for _, value in history(tracker, run, key)] == [True]
    assert history(tracker, run, "good") == [(5, 1.0)]


@pytest.mark.parametrize("delivered_first", [True, False])
def test_a_reopened_run_logs_no_step_and_no_picture_twice(tracker: Tracker, run: RunLog, delivered_first: bool) -> None:
    for step in (0, 100, 200):
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    run.log_picture("validation", np.zeros((8, 8), np.uint8), step=100)
    run.end("KILLED", "interrupted")
    if delivered_first:
        assert tracker.flush() == 0
    again = tracker.begin(run.key, experiment="trials", name="t0001-m5")
    assert again.logged_until == 200
    assert stored(tracker, again).status == "RUNNING"
    for step in (100, 200, 300):
        again.log_metrics({"loss": 0.5, "new": 2.0}, step)
        again.log_picture("validation", np.zeros((8, 8), np.uint8), step=step)
    assert [step for step, _ in history(tracker, again, "loss")] == [0, 100, 200, 300]
    assert history(tracker, again, "new") == [(300, 2.0)]
    again.end("FINISHED")
    info = stored(tracker, again)
    assert info.status == "FINISHED"
    pictures = [file.path for file in tracker.client.list_artifacts(info.run_id, "images")]
    assert len([path for path in pictures if path.endswith(".png")]) == 3
    assert len(tracker.runs(tracker.experiment("trials"))) == 1


def test_a_run_whose_journal_is_gone_is_found_by_its_key_and_logs_no_step_twice(
    tracker: Tracker, run: RunLog, tmp_path: Path
) -> None:
    for step in (0, 100):
        run.log_metrics({"loss": 1.0}, step)
    run.end("KILLED", "interrupted")
    first = stored(tracker, run)
    elsewhere = open_store(tracker.uri, state=tmp_path / "another machine")
    again = elsewhere.begin(run.key, experiment="trials", name="t0001-m5")
    for step in (0, 100, 200):
        again.log_metrics({"loss": 0.5}, step)
    again.end("FINISHED")
    assert [step for step, _ in history(elsewhere, again, "loss")] == [0, 100, 200]
    assert stored(elsewhere, again).run_id == first.run_id


@pytest.mark.parametrize("was_there", [True, False])
def test_an_attempt_that_another_machine_has_gone_on_with_changes_nothing_when_it_comes_back(
    tmp_path: Path, was_there: bool
) -> None:
    """Each machine has a state folder; `was_there`: the first had made the run before it went."""
    first, key = new_store(tmp_path), uuid4().hex
    other = open_store(first.uri, state=tmp_path / "other")
    if not was_there:
        first.close()
    run = first.begin(key, experiment="trials", name="t0001", tags={"sesr.attempt": "1"})
    run.log_metrics({"loss": 1.0}, 1)
    if was_there:
        assert first.flush() == 0
        first.close()
    run.log_metrics({"loss": 2.0}, 2)
    run.let_go()
    again = other.begin(key, experiment="trials", name="t0001", tags={"sesr.attempt": "2"})
    for step in (1, 2, 3):
        again.log_metrics({"loss": float(step)}, step)
    again.end("FINISHED", "finished")
    assert other.flush() == 0

    back = open_store(first.uri, state=tmp_path / "state")
    back.reap()
    assert back.flush() == 0
    assert history(other, again, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert stored(other, again).status == "FINISHED"
    assert back.journals.pending() == []
    with back.adding_to(key) as adding:
        adding.set_tags({"colour": "green"})
    assert back.flush() == 0
    assert stored(other, again).tags["colour"] == "green", "it may still be added to"


@pytest.mark.parametrize("was_put_away", [True, False])
def test_a_third_attempt_on_the_first_machine_logs_what_that_one_had_written_and_never_sent(
    tmp_path: Path, was_put_away: bool
) -> None:
    first, key = new_store(tmp_path), uuid4().hex
    run = first.begin(key, experiment="trials", name="t0001", tags={"sesr.attempt": "1"})
    run.log_metrics({"loss": 1.0}, 1)
    assert first.flush() == 0
    first.close()
    for step in (2, 3, 4, 5):
        run.log_metrics({"loss": float(step)}, step)
    run.log_result({"loss_best": 4.0}, 4)
    run.let_go()
    other = open_store(first.uri, state=tmp_path / "other")
    second = other.begin(key, experiment="trials", name="t0001", tags={"sesr.attempt": "2"})
    for step in (1, 2, 3):
        second.log_metrics({"loss": float(step)}, step)
    assert other.flush() == 0
    second.let_go()
    other.close()

    back = open_store(first.uri, state=tmp_path / "state")
    if was_put_away:
        back.reap()
        assert back.flush() == 0
        assert back.journals.pending() == []
    third = back.begin(key, experiment="trials", name="t0001", tags={"sesr.attempt": "3"})
    assert third.logged_until == 5, "how far that one came is still known: by the clock no two come to the same steps"
    for step in (3, 4, 5, 6):
        third.log_metrics({"loss": float(step)}, step)
    third.log_result({"loss_best": 4.0}, 4)
    third.end("FINISHED", "finished")
    assert history(back, third, "loss") == [(step, float(step)) for step in range(1, 7)]
    assert history(back, third, "loss_best") == [(4, 4.0)]


def test_the_next_attempt_on_the_same_machine_repeats_nothing(tmp_path: Path) -> None:
    """Also after its journal was put away."""
    store, key = new_store(tmp_path), uuid4().hex
    for attempt, last in ((1, 3), (2, 5), (3, 6)):
        run = store.begin(key, experiment="trials", name="t0001", tags={"sesr.attempt": str(attempt)})
        for step in range(1, last + 1):
            run.log_metrics({"loss": float(step)}, step)
        run.log_result({"loss_best": 1.0}, 2)
        run.end("KILLED", "lost")
        assert store.flush() == 0
    assert history(store, run, "loss") == [(step, float(step)) for step in range(1, 7)]
    assert history(store, run, "loss_best") == [(2, 1.0)]


def test_a_second_life_in_one_process_closes_the_first(tracker: Tracker, run: RunLog) -> None:
    run.log_metrics({"loss": 1.0}, 0)
    again = tracker.begin(run.key, experiment="trials", name="t0001-m5")
    run.log_metrics({"loss": 9.0}, 1)
    again.log_metrics({"loss": 0.5}, 1)
    assert history(tracker, again, "loss") == [(0, 1.0), (1, 0.5)]


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_pictures_are_stored_as_the_ui_reads_them(tracker: Tracker, run: RunLog, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for step in (0, 500):
        run.log_picture("validation", picture, step=step)
    info = stored(tracker, run)
    files = [Path(item.path).name for item in tracker.client.list_artifacts(info.run_id, "images")]
    whole = [name for name in files if name.startswith("validation+step+500+timestamp+") and name.endswith(".png")]
    assert len(files) == 4  # each one whole and as a thumbnail
    assert len(whole) == 1
    path = tracker.client.download_artifacts(info.run_id, f"images/{whole[0]}")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert info.tags["mlflow.loggedImages"] == "True"


def test_files_land_where_they_are_told_to_the_last_of_each_name(tracker: Tracker, run: RunLog, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"m = 5\n")
    run.log_file(tmp_path / "config.toml", "config.toml")
    run.log_file(b"", "logs/empty.txt")
    for text in (b"first", b"Traceback"):
        run.log_file(text, "logs/traceback.txt")
    info = stored(tracker, run)
    assert {item.path for item in tracker.client.list_artifacts(info.run_id)} == {"config.toml", "logs"}
    text = Path(tracker.client.download_artifacts(info.run_id, "logs/traceback.txt")).read_text()
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
    (found,) = tracker.client.get_run(stored(tracker, run).run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("photos", ("ab12" * 16)[:36])
    assert (found.dataset.source_type, json.loads(found.dataset.source)) == (kind, location)
    assert json.loads(found.dataset.profile) == {"images": 20}
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_a_run_ends_once_and_is_put_away(tracker: Tracker, run: RunLog) -> None:
    run.log_metrics({"loss": 1.0}, 7)
    run.end("FAILED", "out of memory")
    run.end("FINISHED")
    run.log_metrics({"loss": 2.0}, 8)
    info = stored(tracker, run)
    assert (info.status, info.tags["sesr.end"]) == ("FAILED", "out of memory")
    assert info.ended is not None
    assert history(tracker, run, "loss") == [(7, 1.0)]
    deadline = time.monotonic() + 20
    while tracker.journals.pending() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tracker.journals.pending() == []
    assert tracker.delivered(run.key).run_id == info.run_id  # type: ignore[union-attr]


# What is known without asking the store


def test_where_a_run_is_is_known_once_it_is_there(tracker: Tracker, run: RunLog) -> None:
    found = tracker.wait_for(run.key)
    assert found is not None
    assert found == tracker.delivered(run.key)
    assert (found.experiment_id, found.model) == (tracker.experiment("trials"), "")
    assert tracker.delivered("f" * 32) is None


def test_runs_written_here_are_found_by_their_tags(tracker: Tracker) -> None:
    logs = [begun(tracker, f"r{index}", tags={"sesr.kind": "train"}) for index in range(3)]
    logs[0].end("KILLED", "interrupted")
    assert tracker.flush() == 0
    logs[1].end("FINISHED", "finished")
    found = {trace.name: trace.end for trace in tracker.trace(**{"sesr.kind": "train"})}
    assert found == {"r0": "interrupted", "r1": "finished", "r2": ""}
    assert list(tracker.trace(**{"sesr.kind": "parent"})) == []


def test_a_store_that_refuses_a_run_is_said_and_not_waited_for(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    run = begun(tracker, experiment="e" * 600)
    started = time.monotonic()
    with pytest.raises(StoreError, match="does not take run"):
        tracker.wait_for(run.key)
    run.log_metrics({"loss": 1.0}, 1)
    run.end("FINISHED")
    assert tracker.flush() == 0
    assert time.monotonic() - started < 20
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_one_value_that_the_store_refuses_takes_no_other_with_it(
    tracker: Tracker, run: RunLog, caplog: pytest.LogCaptureFixture
) -> None:
    run.log_params({"m": 5, "f": 16})
    assert tracker.flush() == 0
    run.log_params({"m": 6, "scale": 2})
    run.set_tags({"a" * 300: "too long a name", "good": "yes"})
    run.log_metrics({"loss": 1.0}, 3)
    info = stored(tracker, run)
    assert info.params == {"m": "5", "f": "16", "scale": "2"}
    assert info.tags["good"] == "yes"
    assert info.metrics == {"loss": 1.0}
    assert len([record for record in caplog.records if "does not take" in record.message]) == 2


def test_a_run_that_was_deleted_meanwhile_does_not_stop_training(
    tracker: Tracker, run: RunLog, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.client.delete_run(run_id(tracker, run))
    for step in range(5):
        run.log_metrics({"loss": 1.0}, step)
        assert tracker.flush() == 0
    run.end("FINISHED")
    assert tracker.flush() == 0
    assert len([record for record in caplog.records if "does not take metrics of run t0001-m5" in record.message]) == 1


def test_a_run_that_this_process_holds_is_free_for_no_other_state(tracker: Tracker, run: RunLog) -> None:
    assert not tracker.journals.is_free(run.key)
    run.end("FINISHED")
    assert tracker.journals.is_free(run.key)
    assert issubclass(RunHeldError, StoreError)
