"""What runs write, on this machine's disk: appended by training, read by whoever delivers it, and never waited for.

A folder for each store, in it one for each run, named by the run's key:

    STATE/journal/STORE/KEY/journal.jsonl    what was written, a line for each record
                            N.blob           a picture or file of record N, until it is delivered
                            sent.jsonl       what of it was delivered
                            writer.lock      held by whoever writes to the run, for as long as its process lives
                            sender.lock      held by whoever delivers it
    STATE/journal/STORE/delivered/KEY.json   what stays of a run that has ended and is delivered
    STATE/journal/STORE/damaged/             what could not be read

The operating system takes a lock back when its process ends, however it ends: that a run is alive is never guessed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sesr_lab.errors import RunHeldError, StoreError
from sesr_lab.tracking.lines import checked, line_of
from sesr_lab.tracking.lock import FileLock
from sesr_lab.tracking.secrets import shown, without_credentials
from sesr_lab.tracking.store import sqlite_path

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "SESR_LAB_STATE"
BLOB_LIMIT_BYTES = 256 * 2**20
"""Beyond this much of one store's waits, pictures and files are dropped, so that there is room for numbers."""
COUNT_EVERY_S = 2.0
ATTEMPT = "sesr.attempt"
"""The tag with the number of the last attempt at a run that several machines may try."""
DELIVERED, DAMAGED = "delivered", "damaged"


def state_folder() -> Path:
    """Where what is not yet in a store is kept: $SESR_LAB_STATE, or .sesr-lab in the current folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or ".sesr-lab").absolute()


def _folder_of(state: Path, uri: str) -> Path:
    """Where the journals of one store's runs are; the same after its project's folder was moved, or its password."""
    path = sqlite_path(uri)
    if path is None:
        name = without_credentials(uri)
    else:
        name = str(path.relative_to(state.parent)) if path.is_relative_to(state.parent) else str(path)
    return state / "journal" / hashlib.sha256(name.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Record:
    """One change to a run; `content` holds what JSON can, `blob` is the name of the file with its picture or file."""

    number: int
    kind: str
    content: Mapping[str, Any]
    blob: str = ""
    attempt: int = 0
    """Which attempt at the run has written it, where attempts are counted."""


class Writer:
    """Appends to one run's journal, and keeps its lock."""

    def __init__(self, folder: Path, lock: FileLock, owner: Journals) -> None:
        self.folder, self._lock, self.owner = folder, lock, owner
        self.earlier: list[Record] = []
        """What an earlier life has written, that was not put away yet."""
        self._number = 0
        path = folder / "journal.jsonl"
        reader = Reader(folder)
        for record in reader.new():
            self._number = record.number + 1
            self.earlier.append(record)
        self._file = path.open("ab", buffering=0)  # a buffer would keep what a full disk did not take
        self._file.truncate(reader.end)  # a kill in the middle of a line: it was never there
        _writers[folder] = self

    def append(self, kind: str, content: Mapping[str, Any], blob: bytes | None = None) -> None:
        """Puts a record at the end; it outlives this process.

        Raises:
            OSError: the disk is full, or cannot be written; the journal is as it was.
            ValueError: the writer is closed.
        """
        name = "" if blob is None else f"{self._number}.blob"
        line = line_of({"n": self._number, "kind": kind, "content": content, "blob": name})
        start = self._file.seek(0, os.SEEK_END)
        try:
            if blob is not None:
                (self.folder / name).write_bytes(blob)
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(start)
            if name:
                with suppress(OSError):
                    (self.folder / name).unlink()
            raise
        self._number += 1

    def close(self) -> None:
        """Lets the run go: another process may have it now."""
        if _writers.get(self.folder) is self:
            _writers.pop(self.folder, None)
        self._file.close()
        self._lock.release()

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written."""
        return self._number == 0

    @property
    def is_closed(self) -> bool:
        """Whether the run was let go."""
        return self._file.closed


_writers: dict[Path, Writer] = {}
"""Those that this process has open."""


class Reader:
    """Reads a journal from its start, and later what was appended since."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.jsonl"
        self.end, self._lines = 0, 0

    def new(self) -> Iterator[Record]:
        """The records since the last call; a line without an end is one that is being written, or never was.

        From a line on that is not as it was written, the journal is set aside.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self.end)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    record = _record(line)
                    if record is None:
                        return self._set_aside()
                    self.end += len(line)
                    self._lines += 1
                    yield record
        except FileNotFoundError:
            return

    def _set_aside(self) -> None:
        """Copies the damaged journal to where it is in nobody's way, and cuts it before the damage."""
        aside = self._path.parent.parent / DAMAGED / f"{self._path.parent.name}.jsonl"
        aside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._path, aside)
        os.truncate(self._path, self.end)
        logger.warning(
            "%s: line %d is damaged; it is set aside as %s, and what comes before it is kept",
            self._path,
            self._lines + 1,
            aside,
        )


def unwritable(path: Path, error: OSError) -> StoreError:
    """What is wrong with this machine's disk, in one line."""
    return StoreError(f"{path}: {error.strerror or error}; free some space, or set {FOLDER_VARIABLE}")


def write_whole(path: Path, content: bytes) -> None:
    """Puts a file in its place at once: a reader, or a kill, finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


class Journals:
    """The journals of one store."""

    def __init__(self, state: Path, uri: str, *, folder: Path | None = None) -> None:
        self.uri = uri
        self.state = state
        self.folder = folder or _folder_of(state, uri)
        self._counted, self._waiting_bytes = float("-inf"), 0

    def others(self) -> Iterator[Journals]:
        """Those of the other stores that are kept in the same place, by what may be shown of their URIs."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self.state / "journal"):
                if entry.is_dir() and Path(entry.path) != self.folder:
                    folder = Path(entry.path)
                    yield Journals(self.state, _text_in(folder / "store.txt"), folder=folder)

    def open(self, key: str) -> Writer:
        """A writer for the run, whose lock it takes; one that this process had before is closed.

        Raises:
            RunHeldError: another process has the run.
            StoreError: the folder cannot be written.
        """
        folder = self.folder / key
        if folder in _writers:
            _writers[folder].close()
        try:
            if not (self.folder / "store.txt").exists():
                write_whole(self.folder / "store.txt", f"{shown(self.uri)}\n".encode())
            for _ in range(100):  # whoever delivers it may have it for the moment in which it is put away
                folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(folder / "writer.lock")
                if lock.take():
                    return Writer(folder, lock, self)
                time.sleep(0.01)
        except OSError as error:
            raise unwritable(folder, error) from error
        raise RunHeldError(f"run {key}: another process writes to it now; wait for it, or stop it first")

    def writes(self, key: str) -> bool:
        """Whether the run has a writer from here that is still open."""
        writer = _writers.get(self.folder / key)
        return writer is not None and writer.owner is self

    def pending(self) -> list[str]:
        """The runs that are not put away, the oldest first."""
        found = []
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self.folder):
                with suppress(FileNotFoundError):  # it is put away just now
                    if _is_key(entry.name) and entry.is_dir():
                        found.append((entry.stat().st_mtime_ns, entry.name))
        return [key for _, key in sorted(found)]

    def summary(self, key: str) -> dict[str, Any]:
        """What stays of a run that was delivered; nothing for one that is unknown here."""
        return _json_in(self.folder / DELIVERED / f"{key}.json")

    def summaries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All that was put away, the newest first."""
        with suppress(FileNotFoundError, NotADirectoryError):
            entries = [entry for entry in os.scandir(self.folder / DELIVERED) if entry.name.endswith(".json")]
            for entry in sorted(entries, key=lambda entry: -entry.stat().st_mtime_ns):
                yield entry.name.removesuffix(".json"), _json_in(Path(entry.path))

    def put_away(self, key: str, summary: Callable[[], Mapping[str, Any] | None]) -> bool:
        """Keeps the summary in place of a run's journal; False if somebody writes to it, or there is none.

        The caller holds the run's sender lock.

        Args:
            summary: asked once nobody can write any more; None where something was written just before.
        """
        folder = self.folder / key
        lock = FileLock(folder / "writer.lock")
        if not lock.take():
            return False
        try:
            kept = summary()
            if kept is None:
                return False
            if kept:
                write_whole(self.folder / DELIVERED / f"{key}.json", json.dumps(kept).encode())
            gone = self.folder / f"{key}.gone"
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        finally:
            lock.release()
        return True

    def has_room_for(self, size: int) -> bool:
        """Whether another picture or file of that many bytes may wait; what waits is counted again now and then."""
        if time.monotonic() - self._counted > COUNT_EVERY_S:
            self._counted, self._waiting_bytes = time.monotonic(), self._count()
        self._waiting_bytes += size
        return self._waiting_bytes <= BLOB_LIMIT_BYTES

    def _count(self) -> int:
        waiting = 0
        for key in self.pending():
            with suppress(OSError):
                waiting += sum(entry.stat().st_size for entry in os.scandir(self.folder / key) if _is_blob(entry.name))
        return waiting

    def is_free(self, key: str) -> bool:
        """Whether no living process writes to the run now; a glance, without taking it."""
        lock = FileLock(self.folder / key / "writer.lock")
        with suppress(FileNotFoundError):  # it was put away
            if not lock.take():
                return False
        lock.release()
        return True


def _record(line: bytes) -> Record | None:
    value = checked(line)
    if value is None or not {"n", "kind", "content"} <= value.keys():
        return None
    return Record(int(value["n"]), str(value["kind"]), value["content"], str(value.get("blob", "")))


def _json_in(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _text_in(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return "a store whose name is lost"


def _is_key(name: str) -> bool:
    return len(name) == 32 and all(letter in "0123456789abcdef" for letter in name)


def _is_blob(name: str) -> bool:
    return name.endswith(".blob")
