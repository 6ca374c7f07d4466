"""Large files fetched once: resumed after a break, checked, and shared by the processes of one machine."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from io import FileIO
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout

from sesr_lab.data import Progress
from sesr_lab.data.mark import mark
from sesr_lab.errors import DataError

ATTEMPTS = 3
"""Connections in a row that may bring nothing before a download is given up."""
PAUSE_S = 1.0
"""Wait before the next attempt; twice as long each time."""
TIMEOUT_S = 30.0
"""Silence after which a connection counts as broken."""
_CHUNK = 1 << 20
_log = logging.getLogger(__name__)


class _BrokenError(Exception):
    """This connection failed; the next may not."""


class _Response(Protocol):
    status: int
    headers: Message

    def read1(self, amount: int, /) -> bytes: ...


@dataclass(frozen=True)
class Wanted:
    """A file as it must be, where it comes from and where it goes."""

    url: str
    to: Path
    size: int
    sha256: str
    progress: Progress | None

    @property
    def part(self) -> Path:
        """Where the bytes go until all are there and checked."""
        return self.to.with_name(self.to.name + ".part")

    @property
    def stamp(self) -> Path:
        """What remembers that the file was checked."""
        return self.to.with_name(self.to.name + ".checked")

    def show(self, done: int, doing: str) -> None:
        """Reports bytes done of what is being done."""
        if self.progress is not None:
            self.progress(done, self.size, f"{doing} {self.to.name}")


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
        raise _unwritable(wanted, error) from error
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
    _complete(wanted)
    found = _sha256(wanted, wanted.part)
    if found != wanted.sha256:
        wanted.part.unlink(missing_ok=True)
        expected = f"SHA-256 is {found}; {wanted.sha256} is expected"
        raise DataError(f"{wanted.url}: {expected}; it was deleted; try again, or {_by_hand(wanted)}")
    try:
        wanted.part.replace(wanted.to)
    except OSError as error:
        raise _unwritable(wanted, error) from error


def _check_room(wanted: Wanted) -> None:
    needed = wanted.size - _length(wanted.part)
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
    return f"{wanted.sha256} {' '.join(map(str, mark(wanted.to)))}\n"


def _is_stamped(wanted: Wanted) -> bool:
    try:
        return wanted.stamp.read_text() == _stamp_text(wanted)
    except (OSError, UnicodeDecodeError):
        return False


def _write_stamp(wanted: Wanted) -> None:
    try:
        wanted.stamp.write_text(_stamp_text(wanted))
    except OSError as error:
        raise _unwritable(wanted, error) from error


def _complete(wanted: Wanted) -> None:
    """Leaves a part of the whole length, not checked; gives up when ATTEMPTS connections in a row bring nothing.

    Raises:
        DataError: the file cannot be reached or written, or has another length.
    """
    failed, most = 0, _length(wanted.part)
    while _length(wanted.part) != wanted.size:
        try:
            _append(wanted, _length(wanted.part))
        except _BrokenError as error:
            failed = 0 if _length(wanted.part) > most else failed + 1
            most = max(most, _length(wanted.part))
            if failed >= ATTEMPTS:
                what = f"{wanted.url}: cannot be downloaded ({error})"
                raise DataError(f"{what}; try again when it can be reached, or {_by_hand(wanted)}") from error
            _log.info("%s: %s; trying again", wanted.url, error)
            time.sleep(PAUSE_S * 2**failed)


def _append(wanted: Wanted, offset: int) -> None:
    """One connection: adds what it brings to the part, or begins anew where the server cannot go on."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        with urlopen(Request(wanted.url, headers=headers), timeout=TIMEOUT_S) as response:
            start = _start(wanted, response, offset)
            with _opened(wanted, start) as part:
                _copy(wanted, response, part, start)
    except HTTPError as error:
        _refused(wanted, error)
    except (URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise _BrokenError(str(reason) or type(error).__name__) from error


def _start(wanted: Wanted, response: _Response, offset: int) -> int:
    """The position of the first byte that a server is about to send."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        _check_length(wanted, response.headers.get("Content-Length"))
        return 0
    given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if given is None or int(given[1]) != offset:
        _drop(wanted)
        raise _BrokenError(f"asked to go on from byte {offset}, the server sent another range")
    _check_length(wanted, given[2])
    return offset


def _check_length(wanted: Wanted, length: str | None) -> None:
    if length is not None and length.isdigit() and int(length) != wanted.size:
        _drop(wanted)
        what = f"{wanted.url}: the server has {length} bytes; {wanted.size} are expected"
        raise DataError(f"{what}; use another server, or put the right file at {wanted.to}")


def _copy(wanted: Wanted, response: _Response, part: FileIO, done: int) -> None:
    while chunk := response.read1(_CHUNK):
        done += len(chunk)
        if done > wanted.size:
            _drop(wanted)
            raise DataError(f"{wanted.url}: more than {wanted.size} bytes came; put the right file at {wanted.to}")
        _write(wanted, part, chunk)
        wanted.show(done, "downloading")
    if done != wanted.size:
        raise _BrokenError(f"the connection ended after {done} of {wanted.size} bytes")


def _write(wanted: Wanted, part: FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    try:
        while left:
            left = left[part.write(left) :]
    except OSError as error:
        raise _unwritable(wanted, error) from error


@contextmanager
def _opened(wanted: Wanted, start: int) -> Iterator[FileIO]:
    """The part, to be written from byte `start` on; without a buffer, so that a full disk is noticed in `_write`."""
    try:
        part = FileIO(wanted.part, "a" if start else "w")
    except OSError as error:
        raise _unwritable(wanted, error) from error
    with part:
        yield part
        os.fsync(part.fileno())


def _refused(wanted: Wanted, error: HTTPError) -> None:
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        _drop(wanted)
    elif error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
        reason = f"the server answers {error.code} {error.reason}"
        raise DataError(f"{wanted.url}: cannot be downloaded ({reason}); {_by_hand(wanted)}") from error
    raise _BrokenError(f"the server answers {error.code} {error.reason}") from error


def _drop(wanted: Wanted) -> None:
    wanted.part.unlink(missing_ok=True)


def _length(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _unwritable(wanted: Wanted, error: OSError) -> DataError:
    """The error that says that the file, or what goes with it, cannot be written."""
    reason = error.strerror or error
    return DataError(f"{wanted.to}: cannot be written ({reason}); make room, or set SESR_LAB_CACHE to another folder")


def _by_hand(wanted: Wanted) -> str:
    """What a user can do without this machine's network."""
    return f"download {wanted.url} by hand and put it at {wanted.to}"
