import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import disk
import pytest
import torch
from safetensors.torch import load

from sesr_lab.errors import StoreError
from sesr_lab.trials import checkpoint

STATE = {
    "weights.head": torch.arange(24, dtype=torch.float32).view(2, 3, 4),
    "best": torch.tensor([1.5, 37.25], dtype=torch.float64),
    "step": torch.tensor(7),
    "rng": torch.arange(5, dtype=torch.uint8),
    "half": torch.tensor([0.5, float("inf")], dtype=torch.bfloat16),
    "flag": torch.tensor(True),
}


def kept() -> Path:
    """The file of run `r1`."""
    (path,) = checkpoint.folder().glob("*")
    return path


def test_a_state_comes_back_with_its_names_shapes_types_and_values() -> None:
    checkpoint.write("r1", STATE)
    found = checkpoint.read("r1")
    assert found is not None
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def test_a_state_may_hold_views_of_one_tensor() -> None:
    whole = torch.arange(12.0)
    checkpoint.write("r1", {"transposed": whole.view(3, 4).T, "strided": whole[::2]})
    found = checkpoint.read("r1")
    assert found is not None
    assert torch.equal(found["transposed"], whole.view(3, 4).T)
    assert torch.equal(found["strided"], whole[::2])


def test_the_last_state_written_is_the_one_that_is_read_and_nothing_else_stays() -> None:
    for step in range(3):
        checkpoint.write("r1", {"step": torch.tensor(step)})
    assert checkpoint.read("r1") == {"step": torch.tensor(2)}
    assert len(list(checkpoint.folder().iterdir())) == 1


@pytest.mark.faults
def test_a_state_that_a_full_disk_does_not_take_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    big = {"weights": torch.zeros(256, 1024), "step": torch.tensor(8)}  # a MiB
    with disk.mounted(tmp_path / "state") as full:
        checkpoint.write("r1", STATE)
        for room_kib in (0, 16, 900):
            full.leave(room_kib * 1024)
            with pytest.raises(StoreError, match="No space left on device; free some space, or set SESR_LAB_STATE"):
                checkpoint.write("r1", big)
            found = checkpoint.read("r1")
            assert found is not None
            assert all(torch.equal(found[name], value) for name, value in STATE.items())
            assert len(list(checkpoint.folder().iterdir())) == 1
        full.free()
        checkpoint.write("r1", big)
        assert checkpoint.read("r1")["step"] == 8  # type: ignore[index]


def test_runs_do_not_see_each_others_states() -> None:
    checkpoint.write("r1", {"step": torch.tensor(1)})
    checkpoint.write("r2", {"step": torch.tensor(2)})
    checkpoint.remove("r1")
    assert checkpoint.read("r1") is None
    assert checkpoint.read("r2") == {"step": torch.tensor(2)}


def test_no_state_is_none_and_removing_it_is_nothing() -> None:
    assert checkpoint.read("r1") is None
    checkpoint.remove("r1")


def test_states_are_in_the_current_folder_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESR_LAB_STATE", str(tmp_path / "named"))
    assert checkpoint.write("r1", STATE).is_relative_to(tmp_path / "named")
    monkeypatch.delenv("SESR_LAB_STATE")
    assert checkpoint.write("r1", STATE).is_relative_to(tmp_path / ".sesr-lab")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_no_state(part: float) -> None:
    checkpoint.write("r1", STATE)
    whole = kept().read_bytes()
    kept().write_bytes(whole[: int(part * len(whole))])
    assert checkpoint.read("r1") is None


def test_a_file_of_something_else_is_no_state() -> None:
    checkpoint.write("r1", STATE)
    for content in (b"not a checkpoint", b"\x80\x04\x95", bytes(1000), b"\xff" * 1000):
        kept().write_bytes(content)
        assert checkpoint.read("r1") is None


def test_a_damaged_header_never_ends_in_an_error() -> None:
    """200 damaged files: each is no state, or (where only a name was hit) one that can be read."""
    checkpoint.write("r1", STATE)
    whole, draw = kept().read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    unreadable = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(header)] = draw.randrange(256)
        kept().write_bytes(damaged)
        unreadable += checkpoint.read("r1") is None
    assert unreadable > 50


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SESR_LAB_STATE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"^checkpoint .*file.*: .*; free some space, or set SESR_LAB_STATE$"):
        checkpoint.write("r1", STATE)
    assert checkpoint.read("r1") is None
    checkpoint.remove("r1")


def test_a_file_in_the_states_place_is_the_users_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint.write("r1", STATE)
    taken = kept()
    taken.unlink()
    (taken / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match="SESR_LAB_STATE"):
        checkpoint.write("r1", STATE)
    assert list(checkpoint.folder().iterdir()) == [taken]


WRITER = """
import sys, torch
from sesr_lab.trials import checkpoint
step = 0
while True:
    checkpoint.write("r1", {"step": torch.tensor(step), "bulk": torch.full((500_000,), float(step))})
    if step == 0:
        print("ready", flush=True)
    step += 1
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_state() -> None:
    """Five real kills, spread over the 10 ms or so that a write of 2 MB takes."""
    for attempt in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(0.02 + 0.0057 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        found = checkpoint.read("r1")
        assert found is not None
        assert torch.equal(found["bulk"], torch.full((500_000,), float(found["step"])))
        (file,) = checkpoint.folder().glob("r1.safetensors")
        assert load(file.read_bytes()).keys() == {"step", "bulk"}
    checkpoint.remove("r1")
    assert list(checkpoint.folder().iterdir()) == []  # nor do unfinished files of the killed stay
