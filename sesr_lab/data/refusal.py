"""What is said of a picture that is not taken, and what may be said of any name: always one line."""

from __future__ import annotations

import os
from pathlib import Path

from sesr_lab.errors import DataError

MAX_PIXELS = 200_000_000
"""Larger pictures are refused: a small file can unpack into more memory than there is."""


def shown(place: Path | str) -> str:
    """A path or name as it can be printed anywhere: what is not UTF-8 or not printable is escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in os.fspath(place))


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # how Python holds a byte that is not UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def check_name(path: Path | str) -> None:
    """Accepts a path that is UTF-8: tables, JSON and stores hold nothing else.

    Raises:
        DataError: a folder or a file in it has another name.
    """
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{shown(path)}: this name is not UTF-8; rename it") from None


def expanded(place: Path | str) -> Path:
    """A path whose `~` is a home folder.

    Raises:
        DataError: whose home that is is not known.
    """
    try:
        return Path(place).expanduser()
    except RuntimeError:
        raise DataError(f"{shown(place)}: no home folder is known for ~; give the path in full") from None


def is_file(place: Path | str) -> bool:
    """Whether a file is there, as far as this user may know; what is wrong with its name is said by reading it."""
    try:
        return Path(place).is_file()
    except OSError:  # a name that is too long, or a folder that may not be looked into
        return False


def is_folder(place: Path | str) -> bool:
    """As `is_file`, for folders."""
    try:
        return Path(place).is_dir()
    except OSError:
        return False


def check_pixels(width: int, height: int, label: str) -> None:
    """Accepts a size that a header claims, before anything is unpacked.

    Raises:
        DataError: it is empty, or more than MAX_PIXELS.
    """
    if width < 1 or height < 1:
        raise damaged(f"{width}x{height} pixels", label)
    if width * height > MAX_PIXELS:
        allowed = f"allowed are {MAX_PIXELS // 1_000_000} megapixels"
        raise DataError(f"{label}: {width}x{height} pixels; {allowed}; cut it into smaller pictures")


def unread(found: str, label: str) -> DataError:
    """The error for a sound picture whose layout is not read: better none than one that is read wrong."""
    return DataError(f"{label}: {found}; save it as an 8-bit grey or RGB PNG, without alpha and in one frame")


def damaged(found: str, label: str) -> DataError:
    """The error for a picture whose bytes are wrong or missing."""
    return DataError(f"{label}: damaged picture ({found}); replace it or remove it")


def reason(error: Exception) -> str:
    """An exception's message on one line, without the path that an OSError repeats."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(message.split())) or type(error).__name__
