"""A file that was replaced has another mark, whatever it kept of the old one."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from zipfile import ZipFile

import pytest

from sesr_lab.data.mark import ENDS, mark, settled

CONTENT = bytes(3 * ENDS)
MIDDLE = bytes(ENDS) + bytes([1]) * ENDS + bytes(ENDS)
"""Of the same size, and the same at both ends."""


def file(path: Path, content: bytes, time_ns: int = 10**18) -> Path:
    path.write_bytes(content)
    os.utime(path, ns=(time_ns, time_ns))
    return path


def copied(new: Path, old: Path) -> None:
    subprocess.run(["cp", "-p", str(new), str(old)], check=True)


def copied_by_python(new: Path, old: Path) -> None:
    shutil.copy2(new, old)


def moved(new: Path, old: Path) -> None:
    new.replace(old)


def linked(new: Path, old: Path) -> None:
    old.unlink()
    old.symlink_to(new)


def unpacked(new: Path, old: Path) -> None:
    with ZipFile(new.with_name("a.zip"), "w") as archive:
        archive.write(new, old.name)
    with ZipFile(new.with_name("a.zip")) as archive:
        archive.extract(old.name, old.parent)
    os.utime(old, ns=(10**18, 10**18))


@pytest.mark.parametrize("put", [copied, copied_by_python, moved, linked, unpacked])
def test_a_file_replaced_by_one_of_the_same_size_and_time_has_another_mark(tmp_path: Path, put) -> None:  # type: ignore[no-untyped-def]  # one of five
    old, new = file(tmp_path / "old", CONTENT), file(tmp_path / "new", MIDDLE)
    before, status = mark(old), old.stat()
    time.sleep(0.02)  # longer than a tick of the clock of files
    put(new, old)
    assert (old.stat().st_size, old.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert mark(old) != before


def test_both_ends_count_where_a_file_system_keeps_neither_inodes_nor_times(tmp_path: Path) -> None:
    marks = [mark(file(tmp_path / "a", content))[-1] for content in (CONTENT, b"x" + CONTENT[1:], CONTENT[:-1] + b"x")]
    assert len(set(marks)) == 3


def test_an_untouched_file_keeps_its_mark(tmp_path: Path) -> None:
    path = file(tmp_path / "a", CONTENT)
    before = mark(path)
    path.read_bytes()
    assert mark(path) == before


def test_what_is_no_file_has_no_mark(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert mark(tmp_path / "pipe") == mark(tmp_path) == mark(tmp_path / "none") == []


def test_a_mark_is_relied_on_once_a_change_would_show(tmp_path: Path) -> None:
    found = mark(file(tmp_path / "a", CONTENT))
    assert not settled(found, time.time())
    assert settled(found, time.time() + 3)
    assert not settled([], time.time())
