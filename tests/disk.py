"""Disks that are full, and disks that break: real ones, of which nobody else's is touched."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE_BYTES = 8 * 2**20


class Disk:
    """A small file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def leave(self, room_bytes: int) -> None:
        """Fills it but for so much."""
        self._filler.unlink(missing_ok=True)
        found = os.statvfs(self.folder)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_bsize - room_bytes)

    def free(self) -> None:
        """Gives the space back."""
        self._filler.unlink()


@contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    """A disk at `folder`; the test is skipped where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip(f"no disk can be mounted: {made.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


_WRITES = {"x86_64": (1, 74, 75, 18, 317), "aarch64": (64, 82, 83, 68, 277)}
"""Of each machine, the numbers of write, fsync, fdatasync and pwrite64, and that of seccomp."""


def can_break() -> bool:
    """Whether `breaks` knows this machine."""
    return platform.system() == "Linux" and platform.machine() in _WRITES


def breaks() -> None:
    """From here on this process's writes to files fail with EIO, of all its threads; what it prints does not."""
    *numbers, seccomp = _WRITES[platform.machine()]
    load, equal, greater, give = 0x20, 0x15, 0x25, 0x06  # BPF_LD | BPF_W | BPF_ABS, and so on
    allow, fail = 0x7FFF0000, 0x00050000 | errno.EIO
    program = [(load, 0, 0, 0)]  # the call's number
    for place, number in enumerate(numbers):
        program.append((equal, len(numbers) - place, 0, number))
    program += [(give, 0, 0, allow), (load, 0, 0, 16), (greater, 0, 1, 2), (give, 0, 0, fail), (give, 0, 0, allow)]

    class Filter(ctypes.Structure):
        _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter)))

    filters = (Filter * len(program))(*[Filter(*each) for each in program])
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, all_threads = 38, 1, 1
    assert libc.prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert libc.syscall(seccomp, set_filter, all_threads, ctypes.byref(Program(len(program), filters))) == 0
