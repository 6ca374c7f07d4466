"""What tells, without reading it whole, that a file is still the one that it was."""

from __future__ import annotations

import zlib
from pathlib import Path
from stat import S_ISREG

ENDS = 4096
"""Bytes at the start and at the end of a file that are looked at."""
SETTLED_S = 2.0
"""A file that changed so short a time ago may change again without a new time: clocks of files may tick slowly."""


def mark(file: Path) -> list[int]:
    """Size, times of change, inode and a checksum of both ends; empty where it is no file that can be read.

    Copying over a file, or unpacking over it, may keep its size and modification time, but not its inode or the time
    of its last change. File systems that know neither are why the ends are looked at.
    """
    try:
        status = file.stat()
        if not S_ISREG(status.st_mode):
            return []
        with file.open("rb") as opened:
            ends = zlib.crc32(opened.read(ENDS))
            opened.seek(max(0, status.st_size - ENDS))
            ends = zlib.crc32(opened.read(ENDS), ends)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, ends]


def settled(marks: list[int], now_s: float) -> bool:
    """Whether a file with this mark would show another one if it changed from now on."""
    return bool(marks) and max(marks[1:3]) < (now_s - SETTLED_S) * 1e9
