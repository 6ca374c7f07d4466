"""Which store it is, and opening it: on real files and ports."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import postgres
import pytest
from mlflow_store import migrated, new_store

import sesr_lab
from sesr_lab.errors import StoreError
from sesr_lab.tracking.runs import open_store
from sesr_lab.tracking.secrets import shown
from sesr_lab.tracking.store import absolute

REPOSITORY = Path(sesr_lab.__file__).parents[1]


def test_the_default_store_is_the_one_that_mlflow_ui_shows_in_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_store(tmp_path)
    tracker = open_store()
    assert tracker.uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    run = tracker.begin(uuid4().hex, experiment="trials", name="a run")
    run.log_file(b"text", "note.txt")
    assert tracker.flush() == 0
    assert [path.name for path in tmp_path.glob("mlruns/trials/*/artifacts/note.txt")] == ["note.txt"]
    assert list((tmp_path / "deeper").iterdir()) == []
    run.end("FINISHED")


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
        (spoil_with_a_folder, "is a folder; name a file in it"),
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


@pytest.mark.parametrize("port", [9, 40301])  # the second has the digits of a refusal
def test_a_server_that_is_down_is_reported_within_seconds(port: int) -> None:
    migrated()
    started = time.monotonic()
    says = rf"127\.0\.0\.1:{port}: cannot open it: no answer; is the MLflow server running"
    with pytest.raises(StoreError, match=says):
        open_store(f"http://127.0.0.1:{port}")
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


def test_a_database_without_a_server_is_refused_until_somebody_says_where_files_go(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="set MLFLOW_DEFAULT_ARTIFACT_ROOT to a folder or s3:// URI") as caught:
        open_store("postgresql+psycopg://u:secret@127.0.0.1:9/lab")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.slow
def test_a_database_keeps_files_below_the_root_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = postgres.Server()
    (tmp_path / "deeper").mkdir()
    try:
        monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "files")
        with pytest.raises(StoreError, match="'files' is another folder for each command; give a whole path"):
            open_store(server.database())
        monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "files"))
        tracker = open_store(server.database())
        monkeypatch.chdir(tmp_path / "deeper")
        run = tracker.begin(uuid4().hex, experiment="my trials", name="a run")
        run.log_metrics({"psnr": 34.5}, step=1)
        run.log_file(b"text", "note.txt")
        run.end("FINISHED")
        assert tracker.close() == 0
        assert [path.name for path in tmp_path.glob("files/my-trials/*/artifacts/note.txt")] == ["note.txt"]
        assert list((tmp_path / "deeper").iterdir()) == []
    finally:
        server.remove()


def test_messages_hide_passwords() -> None:
    assert shown("postgresql://u:secret@db/lab") == "postgresql://u:***@db/lab"


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


@pytest.mark.slow
def test_mlflow_reports_to_its_makers_only_where_somebody_wants_that(tmp_path: Path) -> None:
    program = """
from sesr_lab.tracking.runs import open_store
open_store()
from mlflow.telemetry.client import get_telemetry_client
print(get_telemetry_client())
"""
    ours = {"PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # without what says CI
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=tmp_path,
        env=kept | ours,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


# Another registry than the tracking store's


@pytest.mark.slow
@pytest.mark.parametrize(
    "registry", ["http://127.0.0.1:9", "databricks-uc", "s3://bucket", "sqlite:////proc/none/x.db"]
)
def test_a_registry_that_cannot_take_networks_is_named_at_once(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"^MLFLOW_REGISTRY_URI: ") as raised:
        open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "unset it, or set it to the tracking store" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_registry_that_is_the_tracking_store_is_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    assert open_store(uri).client.search_registered_models() == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["my project", "50%20", "a#b", "照片", "it's"])
def test_the_default_store_in_a_folder_of_any_name_is_made_there_and_nowhere_else(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    tracker = open_store(state=tmp_path / "state")
    run = tracker.begin(uuid4().hex, experiment="trials", name="a run")
    run.log_file(b"text", "note.txt")
    run.end("FINISHED")
    assert tracker.flush() == 0
    place = tracker.delivered(run.key)
    assert place is not None
    assert (tmp_path / folder / "mlruns" / "trials" / place.run_id / "artifacts" / "note.txt").read_bytes() == b"text"
    assert {entry.name for entry in tmp_path.iterdir()} == {folder, "state"}
