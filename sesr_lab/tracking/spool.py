"""Writes to a tracking store that does not answer: kept on disk, in order, and sent when it is back.

Knows nothing of MLflow. Sending a write twice must have the effect of sending it once: two processes may share
a spool, and a store may die after it has stored and before it has answered.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

Kind = Literal["metrics", "params", "tags", "picture", "file", "dataset", "model_input", "end"]

LIMIT_BYTES = 320 * 2**20
BLOB_LIMIT_BYTES = 256 * 2**20
"""Beyond this, pictures and files are dropped, so that there is room for numbers."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
REPLAY_S = 5.0
"""How long one call may spend on sending what waits."""


class Unavailable(Exception):  # noqa: N818 (it is a state of the store, not a mistake)
    """The store does not answer now; the same write may succeed later."""


class Refused(Exception):  # noqa: N818
    """The store has answered that it will not take this write, now or later."""


@dataclass(frozen=True)
class Write:
    """One change to a run, in a form that can wait on disk; `content` holds what JSON can."""

    run_id: str
    kind: Kind
    content: dict[str, Any]
    blob: bytes = field(default=b"", repr=False)


class Spool:
    """A queue of writes for one store, in a SQLite file in `folder` (or in a temporary one), made when needed."""

    def __init__(self, folder: Path | None, store: str) -> None:
        self.store = store
        self._folder = folder

    def __len__(self) -> int:
        with self._database() as database:
            row = database.execute("SELECT count(*) FROM writes WHERE store = ?", [self.store]).fetchone()
        return int(row[0])

    def add(self, write: Write) -> None:
        """Appends `write`.

        Raises:
            OSError: no room, or the disk cannot be written.
        """
        content = json.dumps(write.content)
        try:
            with self._database(create=True) as database, database:
                (size,) = database.execute("SELECT coalesce(sum(size), 0) FROM writes").fetchone()
                if size + len(content) + len(write.blob) > (BLOB_LIMIT_BYTES if write.blob else LIMIT_BYTES):
                    raise OSError(f"{self._folder}: the spool is full")
                database.execute(
                    "INSERT INTO writes (store, run_id, kind, content, blob, size) VALUES (?, ?, ?, ?, ?, ?)",
                    [self.store, write.run_id, write.kind, content, write.blob, len(content + " ") + len(write.blob)],
                )
        except sqlite3.Error as error:
            raise OSError(f"{self._folder}: {error}") from error

    def first(self) -> tuple[int, Write] | None:
        """The oldest write and its number."""
        with self._database() as database:
            row = database.execute(
                "SELECT id, run_id, kind, content, blob FROM writes WHERE store = ? ORDER BY id LIMIT 1",
                [self.store],
            ).fetchone()
        return None if row is None else (row[0], Write(row[1], row[2], json.loads(row[3]), row[4]))

    def remove(self, number: int) -> None:
        """Forgets the write with that number, if it is still there."""
        with self._database() as database, database:
            database.execute("DELETE FROM writes WHERE id = ?", [number])

    def last_step(self, run_id: str) -> int:
        """The largest step of the metrics that wait for that run; -1 if there are none."""
        with self._database() as database:
            rows = database.execute(
                "SELECT content FROM writes WHERE store = ? AND run_id = ? AND kind = 'metrics'",
                [self.store, run_id],
            ).fetchall()
        return max((int(json.loads(content)["step"]) for (content,) in rows), default=-1)

    @contextmanager
    def _database(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """The spool's file; an empty stand-in if there is none and none is to be made."""
        if create and self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="sesr-lab-spool-"))
        path = None if self._folder is None else self._folder / "spool.db"
        if path is None or not (create or path.exists()):
            name = ":memory:"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            name = str(path)
        with closing(sqlite3.connect(name, timeout=20)) as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS writes (id INTEGER PRIMARY KEY AUTOINCREMENT, store TEXT,"
                " run_id TEXT, kind TEXT, content TEXT, blob BLOB, size INTEGER)"
            )
            yield database


class Outbox:
    """Sends writes through `perform`, in order; never raises because of the store, and never waits long for it.

    `perform` raises Unavailable or Refused; a failed store is left alone for a while, longer each time.
    """

    def __init__(self, spool: Spool, perform: Callable[[Write], None]) -> None:
        self.spool, self._perform = spool, perform
        self._lock = threading.Lock()
        self._pause_s, self._resting_until = 0.0, 0.0

    def send(self, write: Write) -> None:
        """Performs `write`, or keeps it for later."""
        with self._lock:
            if not (self._replay() and self._attempt(write)):
                self._keep(write)

    def flush(self, *, patience_s: float = 0.0) -> int:
        """Sends what waits, trying for `patience_s` at least; how many writes still wait."""
        deadline = time.monotonic() + patience_s
        with self._lock:
            self._resting_until = 0.0
            while not self._replay(seconds=max(patience_s, REPLAY_S)) and time.monotonic() < deadline:
                time.sleep(min(0.2, patience_s))
                self._resting_until = 0.0
            return len(self.spool)

    def _replay(self, *, seconds: float = REPLAY_S) -> bool:
        """Whether nothing waits any more."""
        if time.monotonic() < self._resting_until:
            return False
        deadline, sent = time.monotonic() + seconds, 0
        while (waiting := self.spool.first()) is not None:
            if time.monotonic() > deadline or not self._attempt(waiting[1]):
                return False
            self.spool.remove(waiting[0])
            sent += 1
        if sent:
            logger.info("%s is back: sent the %d writes that waited", self.spool.store, sent)
        return True

    def _attempt(self, write: Write) -> bool:
        """Whether the store has dealt with `write`, be it by refusing it."""
        try:
            self._perform(write)
        except Unavailable as error:
            self._rest(error)
            return False
        except Refused as error:
            logger.warning("%s does not take %s of run %s: %s", self.spool.store, write.kind, write.run_id, error)
        self._pause_s = 0.0
        return True

    def _rest(self, error: Unavailable) -> None:
        if self._pause_s == 0.0:
            logger.warning(
                "%s does not answer (%s); training goes on, and what it logs is kept until the store is back",
                self.spool.store,
                error,
            )
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
        self._resting_until = time.monotonic() + self._pause_s

    def _keep(self, write: Write) -> None:
        try:
            self.spool.add(write)
        except OSError as error:
            logger.warning("lost %s of run %s: %s", write.kind, write.run_id, error)
