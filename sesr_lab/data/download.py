"""Large files fetched once: resumed after a break, checked, and shared by the processes of one machine."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sesr_lab.data.connection import Progress, Wanted, by_hand, complete, length, unwritable
from sesr_lab.errors import DataError

_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


def fetch(url: str, to: Path, *, size: int, sha256: str, progress: Progress | None = None) -> None:
    """Leaves the file of that size and SHA-256 at `to`; one that is there, put by hand too, is only checked.

    A download that broke off goes on from where it stopped. A second process waits for the first.

    Args:
        size: bytes.
        progress: called with bytes done, bytes in all, and what is being done.

    Raises:
        DataError: the file cannot be reached or written, or is not the one that is wanted.
    """
    wanted = Wanted(url, to, size, sha256, progress)
    if _is_stamped(wanted):
        return
    with _alone(wanted):
        if _is_stamped(wanted):  # by the process that was waited for
            return
        if to.exists():
            _check_given(wanted)
        else:
            _download(wanted)
        _write_stamp(wanted)


@contextmanager
def _alone(wanted: Wanted) -> Iterator[None]:
    """While it lasts, no other process fetches the same file; the lock ends with its process."""
    lock = FileLock(wanted.to.with_name(wanted.to.name + ".lock"))
    try:
        wanted.to.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("%s: another process is downloading it; waiting", wanted.to)
            lock.acquire()
    except OSError as error:
        raise unwritable(wanted, error) from error
    try:
        yield
    finally:
        lock.release()


def _check_given(wanted: Wanted) -> None:
    found = wanted.to.stat().st_size
    if found != wanted.size:
        raise DataError(f"{wanted.to}: {found} bytes; {wanted.size} are expected; remove it to download it anew")
    found_sha256 = _sha256(wanted, wanted.to)
    if found_sha256 != wanted.sha256:
        expected = f"SHA-256 is {found_sha256}; {wanted.sha256} is expected"
        raise DataError(f"{wanted.to}: {expected}; remove it to download it anew")


def _download(wanted: Wanted) -> None:
    _check_room(wanted)
    complete(wanted)
    found = _sha256(wanted, wanted.part)
    if found != wanted.sha256:
        wanted.part.unlink(missing_ok=True)
        expected = f"SHA-256 is {found}; {wanted.sha256} is expected"
        raise DataError(f"{wanted.url}: {expected}; it was deleted; try again, or {by_hand(wanted)}")
    try:
        wanted.part.replace(wanted.to)
    except OSError as error:
        raise unwritable(wanted, error) from error


def _check_room(wanted: Wanted) -> None:
    needed = wanted.size - length(wanted.part)
    free = shutil.disk_usage(wanted.to.parent).free
    if free < needed:
        room = f"{free / 1e9:.1f} GB are free, {needed / 1e9:.1f} GB are needed"
        raise DataError(f"{wanted.to.parent}: {room} for {wanted.to.name}; set SESR_LAB_CACHE to a folder with room")


def _sha256(wanted: Wanted, path: Path) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            wanted.show(done, "checking")
    return digest.hexdigest()


def _stamp_text(wanted: Wanted) -> str:
    """What is written beside a file that was checked; it no longer fits once the file changes."""
    status = wanted.to.stat()
    return f"{wanted.sha256} {status.st_size} {status.st_mtime_ns}\n"


def _is_stamped(wanted: Wanted) -> bool:
    try:
        return wanted.stamp.read_text() == _stamp_text(wanted)
    except (OSError, UnicodeDecodeError):
        return False


def _write_stamp(wanted: Wanted) -> None:
    try:
        wanted.stamp.write_text(_stamp_text(wanted))
    except OSError as error:
        raise unwritable(wanted, error) from error
