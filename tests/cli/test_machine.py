"""`sesr-lab sync`, `promote`, `status` and `doctor`: what they say of stores, and of a machine that lacks something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from labs import command
from mlflow_store import new_store
from typed import Typed

from sesr_lab.tracking.runs import open_store


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


def findings(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in {"HOME", "SESR_LAB_CACHE", "XDG_CACHE_HOME"}}
    clean.pop("SESR_LAB_STATE")
    return subprocess.run(
        command("doctor"),
        cwd=folder,
        env={**clean, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_sync_says_that_nothing_waits(typed: Typed, tmp_path: Path) -> None:
    new_store(tmp_path)
    assert typed("sync") == 0
    assert typed.out == f"nothing waits for sqlite:///{tmp_path / 'mlflow.db'}\n"
    assert typed.json("sync")["waiting"] == 0


def test_ui_names_a_study_called_default_and_no_empty_default(tmp_path: Path) -> None:
    tracker = new_store(tmp_path)
    assert tracker.experiments() == {}
    tracker.begin("0" * 32, experiment="Default", name="t0000").end("FINISHED", "finished")
    assert tracker.flush() == 0
    assert list(tracker.experiments()) == ["Default"]


def test_doctor_says_that_a_study_database_cannot_be_written(typed: Typed, tmp_path: Path) -> None:
    new_store(tmp_path)
    assert typed("sweep", "quickstart", "--storage", "x.db", "--data", "folder:nowhere") == 1
    (tmp_path / "x.db").unlink(missing_ok=True)
    from sesr_lab.sweep.storage import open_storage

    open_storage(f"sqlite:///{tmp_path / 'x.db'}")
    assert typed("doctor", "--storage", f"sqlite:///file:{tmp_path / 'x.db'}?mode=ro&uri=true") == 1
    (line,) = [line for line in typed.out.splitlines() if line.startswith("WRONG")]
    assert "study database" in line
    assert "readonly" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, marks=pytest.mark.long),
        {"HOME": "/proc/nope"},
        pytest.param({"HOME": "/"}, marks=pytest.mark.long),
    ],
)
def test_doctor_does_not_crash_without_a_home(tmp_path: Path, variables: dict[str, str]) -> None:
    done = findings(tmp_path, **variables)
    assert done.returncode in {0, 1}
    assert "Traceback" not in done.stderr
    assert "study database" in done.stdout


@pytest.mark.slow
def test_sync_names_other_stores_for_which_something_waits(typed: Typed, tmp_path: Path) -> None:
    tracker = new_store(tmp_path)
    (tmp_path / "other").mkdir()
    other = open_store(f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}", state=tmp_path / "state")
    other.close()
    journals = other.journals
    writer = journals.open("0" * 32)
    writer.append("tags", {"values": {"a": "b"}})
    writer.close()
    tracker.close()
    assert typed("sync") == 0
    assert f"1 writes wait for {other.uri}; send them: sesr-lab sync --tracking-uri {other.uri}" in typed.out
    assert typed.json("sync")["elsewhere"] == {other.uri: 1}
