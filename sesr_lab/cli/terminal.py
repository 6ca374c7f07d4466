"""Standard output and standard error that cannot end a command: what is shown may fail, what is done does not.

A terminal is closed, `| head` and `| tee` end, a log's disk fills, an encoding lacks a letter: none of it is an
exception here. Needs nothing heavy, so that a word can be shown before anything heavy is loaded.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE_S = 1.0
"""So long a terminal that is stopped (Ctrl-S) or a reader that does not read may hold up what is said on the way."""
LOG_WIDTH = 200
"""Columns where nothing is a terminal: tables in a log need not be folded."""
_NO_READER = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO}
_PIECE = 512
"""Bytes that a pipe or terminal takes at once where it takes any."""
_ERASE_LINE = "\r\x1b[2K"
_SPELLED = "spelled-out"
_SPELLINGS = {"…": "...", "─": "-", "└": "`", "×": "x", "→": "->", "–": "-", "—": "-", "•": "*", "≥": ">=", "≤": "<="}


class Stream(io.TextIOBase):
    """Text to a file descriptor; never raises. What cannot be written is dropped, `failure` says why."""

    def __init__(self, descriptor: int, encoding: str, *, may_be_lost: bool) -> None:
        self.failure: OSError | None = None
        self._descriptor, self._encoding, self._may_be_lost = descriptor, encoding, may_be_lost
        self._encoder = codecs.getincrementalencoder(encoding)(_SPELLED)
        self._patience_s = PATIENCE_S

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as an attribute
        """The characters' encoding."""
        return self._encoding

    def write(self, text: str) -> int:
        """Writes what can be written."""
        data = memoryview(self._encoder.encode(text))
        while data and not self._has_no_reader() and self._ready():
            try:
                data = data[os.write(self._descriptor, data[:_PIECE] if self._may_be_lost else data) :]
            except BlockingIOError:  # another program has set the terminal so
                select.select([], [self._descriptor], [], PATIENCE_S)
            except OSError as error:
                self.failure = error
                break
        return len(text)

    def isatty(self) -> bool:
        """Whether it is a terminal that is still there."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """The file descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Always."""
        return True

    def _has_no_reader(self) -> bool:
        return self.failure is not None and self.failure.errno in _NO_READER

    def _ready(self) -> bool:
        """Whether something can be written now; a result waits for its reader, words on the way only so long."""
        if not self._may_be_lost:
            return True
        _, ready, _ = select.select([], [self._descriptor], [], self._patience_s)
        self._patience_s = PATIENCE_S if ready else 0.0
        return bool(ready)


def take_over() -> None:
    """Puts such streams in the place of Python's own, for all that this process says from now on."""
    for descriptor in range(3):  # closed by `2>&-`: the next file that is opened would get what is meant for people
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(_SPELLED, _spell)
    sys.stdout = Stream(1, _encoding(sys.stdout), may_be_lost=False)
    sys.stderr = Stream(2, _encoding(sys.stderr), may_be_lost=True)


def result_was_lost() -> str | None:
    """Why standard output could not be written; None where it was, or where its reader left with what he wanted."""
    failure = sys.stdout.failure if isinstance(sys.stdout, Stream) else None
    return None if failure is None or failure.errno in _NO_READER else failure.strerror


def redraws(stream: TextIO) -> bool:
    """Whether the stream is a terminal on which a line can be drawn anew; a log never is, whatever is forced."""
    forbidden = any(os.environ.get(name) == "0" for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE"))
    return stream.isatty() and not forbidden and os.environ.get("TERM", "").lower() not in {"", "dumb", "unknown"}


def console(*, stderr: bool = False) -> Console:
    """Rich's console on standard output or error, as wide and as coloured as the user's environment says."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        highlight=False,
        force_terminal=True if _is_set("CLICOLOR_FORCE") or redraws(stream) else None,
        no_color=True if os.environ.get("CLICOLOR") == "0" and not _is_forced() else None,
        width=None if "COLUMNS" in os.environ or _has_a_terminal(stream) else LOG_WIDTH,
    )


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Says in a terminal what takes its time, until it is done; a log gets lines about results and errors alone."""
    stream, redrawn = sys.stderr, redraws(sys.stderr)
    if stream.isatty():
        stream.write(f"{what} …" if redrawn else f"{what} …\n")
        stream.flush()
    try:
        yield
    finally:
        if redrawn:
            stream.write(_ERASE_LINE)
            stream.flush()


def _encoding(stream: TextIO | None) -> str:
    return stream.encoding if stream is not None else "utf-8"


def _spell(error: UnicodeError) -> tuple[str, int]:
    """What stands in for characters that the encoding lacks."""
    failed = cast(UnicodeEncodeError, error)  # the only one that an encoder raises
    missing = failed.object[failed.start : failed.end]
    return "".join(_SPELLINGS.get(character, "?") for character in missing), failed.end


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in {"", "0"}


def _is_forced() -> bool:
    return _is_set("FORCE_COLOR") or _is_set("CLICOLOR_FORCE")


def _has_a_terminal(stream: TextIO) -> bool:
    """Whether the width of some terminal is known: that of the stream, or of what it is piped to."""
    return stream.isatty() or any(os.isatty(descriptor) for descriptor in range(3))
