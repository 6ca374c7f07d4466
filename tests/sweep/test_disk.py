"""Studies on a disk that is full or breaks: what was kept stays whole, and with room again they come to their end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import disk
import pytest
from checker import faults_in, table
from forks import REFUSED, Forks
from labs import STUDY_FILE, lab, spawn

from sesr_lab.trials import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[disk.Disk]:
    """A disk of the test's own, on which the study's state lies."""
    with disk.mounted(tmp_path / "state") as made:
        yield made


def is_one_line(said: str, *parts: str) -> bool:
    return said.count("\n") == 1 and all(part in said for part in parts)


@pytest.mark.parametrize("room_kib", [24, pytest.param(80, marks=pytest.mark.long)])
def test_a_full_disk_stops_a_study_in_a_line_and_with_room_again_it_comes_to_its_end(
    forks: Forks, data: str, tmp_path: Path, small: disk.Disk, room_kib: int
) -> None:
    small.leave(room_kib * 1024)
    status = forks.run(tmp_path, data=data)
    assert status == REFUSED, "some room is enough for all: make it less"
    assert is_one_line(forks.said, "No space left on device; free some space"), forks.said
    small.free()
    assert forks.run(tmp_path, data=data) == 0
    assert faults_in(tmp_path, networks=3) == []
    assert list((tmp_path / "state" / "checkpoints").glob("*")) == []


def test_a_full_disk_under_the_studies_is_a_line_and_the_study_goes_on_with_room_again(
    forks: Forks, data: str, tmp_path: Path
) -> None:
    with disk.mounted(tmp_path / "studies") as small:
        url = f"sqlite:///{small.folder / 'optuna.db'}"
        assert forks.run(tmp_path, data=data, storage=url, study={"trials": 1}) == 0
        small.leave(8 * 1024)
        assert forks.run(tmp_path, data=data, storage=url) == REFUSED
        assert is_one_line(forks.said, "optuna.db: database or disk is full; free some space"), forks.said
        small.free()
        assert forks.run(tmp_path, data=data, storage=url) == 0
        assert faults_in(tmp_path, networks=3, url=url) == []


@pytest.mark.skipif(not disk.can_break(), reason="no disk can be made to break on this machine")
@pytest.mark.parametrize(
    "score", [4, pytest.param(1, marks=pytest.mark.long), pytest.param(15, marks=pytest.mark.long)]
)
def test_a_disk_that_breaks_stops_a_study_in_a_line_and_another_attempt_comes_to_its_end(
    forks: Forks, data: str, tmp_path: Path, score: int
) -> None:
    assert forks.run(tmp_path, data=data, disk_breaks_at=score) == REFUSED
    assert is_one_line(forks.said, "Input/output error"), forks.said
    states = {key: checkpoint.read(key) for key in checkpoint.kept()}
    assert all(state is not None for state in states.values())
    assert len(states) == (0 if score == 1 else 1)
    assert forks.run(tmp_path, data=data) == 0
    assert faults_in(tmp_path, networks=3) == []


def test_a_command_on_a_full_disk_ends_with_one_line_and_a_status_and_the_same_command_goes_on(
    data: str, tmp_path: Path, small: disk.Disk
) -> None:
    (tmp_path / "tiny.toml").write_text(STUDY_FILE.format(data=data))
    lab(tmp_path)  # the store is there before
    small.leave(24 * 1024)
    refused = spawn(tmp_path, "sweep", "tiny.toml")
    out, error = refused.communicate(timeout=300)
    assert refused.returncode == 1, error
    lines = [line for line in error.splitlines() if "No space left" in line]
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    assert "Traceback" not in out + error
    small.free()
    again = spawn(tmp_path, "sweep", "tiny.toml")
    assert again.wait(timeout=300) == 0, again.communicate()
    assert faults_in(tmp_path, networks=2) == []
    assert len(table(tmp_path)) == 2
