"""The bytes of one file over HTTP, in as many connections as it takes."""

from __future__ import annotations

import http.client
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from io import FileIO
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from sesr_lab.errors import DataError

Progress = Callable[[int, int, str], None]
"""Called with how much is done, how much there is, and what is being done."""

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


def complete(wanted: Wanted) -> None:
    """Leaves a part of the whole length, not checked; gives up when ATTEMPTS connections in a row bring nothing.

    Raises:
        DataError: the file cannot be reached or written, or has another length.
    """
    failed, most = 0, length(wanted.part)
    while length(wanted.part) != wanted.size:
        try:
            _append(wanted, length(wanted.part))
        except _BrokenError as error:
            failed = 0 if length(wanted.part) > most else failed + 1
            most = max(most, length(wanted.part))
            if failed >= ATTEMPTS:
                what = f"{wanted.url}: cannot be downloaded ({error})"
                raise DataError(f"{what}; try again when it can be reached, or {by_hand(wanted)}") from error
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
        raise unwritable(wanted, error) from error


@contextmanager
def _opened(wanted: Wanted, start: int) -> Iterator[FileIO]:
    """The part, to be written from byte `start` on; without a buffer, so that a full disk is noticed in `_write`."""
    try:
        part = FileIO(wanted.part, "a" if start else "w")
    except OSError as error:
        raise unwritable(wanted, error) from error
    with part:
        yield part
        os.fsync(part.fileno())


def _refused(wanted: Wanted, error: HTTPError) -> None:
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        _drop(wanted)
    elif error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
        reason = f"the server answers {error.code} {error.reason}"
        raise DataError(f"{wanted.url}: cannot be downloaded ({reason}); {by_hand(wanted)}") from error
    raise _BrokenError(f"the server answers {error.code} {error.reason}") from error


def _drop(wanted: Wanted) -> None:
    wanted.part.unlink(missing_ok=True)


def length(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def unwritable(wanted: Wanted, error: OSError) -> DataError:
    """The error that says that the file, or what goes with it, cannot be written."""
    reason = error.strerror or error
    return DataError(f"{wanted.to}: cannot be written ({reason}); make room, or set SESR_LAB_CACHE to another folder")


def by_hand(wanted: Wanted) -> str:
    """What a user can do without this machine's network."""
    return f"download {wanted.url} by hand and put it at {wanted.to}"
