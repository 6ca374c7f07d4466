"""One run on its way to the store: what waits in its journal, and what of it was delivered."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sesr_lab.tracking.journal import ATTEMPT, Journals, Reader, Record
from sesr_lab.tracking.lines import append_lines, lines_of
from sesr_lab.tracking.lock import FileLock

Lane = Literal["numbers", "files", "models"]
LANES: tuple[Lane, ...] = ("numbers", "files", "models")
LOOK_AGAIN_S = 5.0
"""So long nobody looks again whether another machine has gone on with a run."""
_LANE_OF: dict[str, Lane] = {"picture": "files", "file": "files", "publish": "models"}


@dataclass
class Place:
    """What is known of where a run is in the store; kept in marks while it is written, in the summary for good."""

    run_id: str = ""
    experiment_id: str = ""
    skip_until: int = -1
    """Steps up to here are in the store from an earlier life whose journal is gone."""
    model: str = ""
    """The registered version, as `models:/NAME/3`, once there is one."""
    model_id: str = ""
    refused: str = ""
    """Why the store does not take this run, if it does not."""


@dataclass
class Story:
    """What a run's journal says of the run as a whole."""

    begin: Mapping[str, Any] = field(default_factory=dict)
    last_step: int = -1
    pictured: dict[str, int] = field(default_factory=dict)
    """The last step of which there is a picture, by the picture's key."""
    result: Mapping[str, int] = field(default_factory=dict)
    """Step and time of what was logged as the run's result."""
    is_ended: bool = True
    end: str = ""
    """The reason in `sesr.end`."""
    attempt: int = 0
    """The last that this machine has made; 0 where attempts are not counted, since no other machine makes any."""

    def follow(self, record: Record) -> None:
        """Takes in what a record says of the run as a whole."""
        content = record.content
        if record.kind == "begin":
            self.begin, self.is_ended = content, False
            self.attempt = int(content.get("tags", {}).get(ATTEMPT, 0))
        elif record.kind == "resume":
            self.is_ended = False
            self.attempt = int(content.get("attempt", 0))
        elif record.kind == "metrics":
            self.last_step = max(self.last_step, int(content["step"]))
            if content.get("is_result"):
                self.result = {"step": content["step"], "time_ms": content["time_ms"]}
        elif record.kind == "picture":
            self.pictured[content["key"]] = max(int(content["step"]), self.pictured.get(content["key"], -1))
        elif record.kind == "end":
            self.is_ended, self.end = True, str(content.get("reason", ""))

    def summary(self) -> dict[str, Any]:
        """What stays of it once the run is delivered."""
        kept = {name: self.begin.get(name, empty) for name, empty in (("name", ""), ("tags", {}))}
        reached = {"last_step": self.last_step, "pictured": self.pictured, "result": self.result}
        return {**kept, **reached, "end": self.end, "attempt": self.attempt}

    def remember(self, summary: Mapping[str, Any]) -> None:
        """Takes over what an earlier life has left."""
        self.begin = {key: summary[key] for key in ("name", "tags") if key in summary}
        self.last_step = int(summary.get("last_step", -1))
        self.pictured = dict(summary.get("pictured", {}))
        self.result = dict(summary.get("result", {}))
        self.end = str(summary.get("end", ""))
        self.attempt = int(summary.get("attempt", 0))

    def is_behind(self, attempt: int) -> bool:
        """Whether another machine has tried since, before this attempt: what was written here may never be sent."""
        return attempt > self.attempt + 1


class Outgoing:
    """What of one run waits, in a queue for each lane: a picture that cannot be sent holds back no number."""

    def __init__(self, journals: Journals, key: str) -> None:
        self.journals, self.key = journals, key
        self.folder = journals.folder / key
        self.place, self.story = Place(), Story()
        self.numbers: deque[Record] = deque()
        self.files: deque[Record] = deque()
        self.models: deque[Record] = deque()
        self._is_released = False
        self._senders = 0
        """Threads in the middle of a request about it."""
        self.is_ours = False
        """Whether this process may send it."""
        self._looked_at = float("-inf")
        self._lock = threading.RLock()
        self._sender = FileLock(self.folder / "sender.lock")
        self._reader = Reader(self.folder)
        self._up_to, self._done = -1, set[int]()
        self.remember(journals.summary(key))

    def claim(self) -> bool:
        """Whether this process may send it now, its queues filled with what it has not seen yet."""
        with self._lock:
            with suppress(FileNotFoundError):  # another process has delivered it whole
                if not self.is_ours and not self._is_released and self._sender.take():
                    self.is_ours = True
                    for mark in lines_of(self.folder / "sent.jsonl"):
                        self._follow(mark)
            if self.is_ours:
                self.read()
            return self.is_ours

    def read(self) -> None:
        """Puts what was appended since the last time into the queues."""
        with self._lock:
            for record in self._reader.new():
                is_of_attempt = not self.story.is_ended or record.kind in ("begin", "resume")
                self.story.follow(record)
                attempt = self.story.attempt if is_of_attempt else sys.maxsize  # added to a run that is over
                record = replace(record, attempt=attempt)  # noqa: PLW2901
                lane = _LANE_OF.get(record.kind, "numbers")
                is_sent = record.number <= self._up_to if lane == "numbers" else record.number in self._done
                if not is_sent:
                    self.queue(lane).append(record)

    def first(self, lane: Lane) -> Record | None:
        """The oldest that waits in that lane."""
        with self._lock:
            return next(iter(self.queue(lane)), None)

    def queue(self, lane: Lane) -> deque[Record]:
        """What waits in that lane, the oldest first."""
        return {"numbers": self.numbers, "files": self.files, "models": self.models}[lane]

    @property
    def waiting(self) -> int:
        """How many records are not delivered yet."""
        with self._lock:
            return len(self.numbers) + len(self.files) + len(self.models)

    def has_work(self, lane: Lane) -> bool:
        """Whether something can be sent in that lane; the first to go is a place in the store, for the numbers."""
        with self._lock:
            if not (self.place.run_id or self.place.refused):
                return lane == "numbers" and self.waiting > 0
            return bool(self.queue(lane))

    def settle(self, lane: Lane, records: Iterable[Record]) -> None:
        """Takes delivered (or refused) records off their queue, and marks them, so that no later life sends them."""
        with self._lock:
            settled = {record.number: record for record in records}
            kept = [record for record in self.queue(lane) if record.number not in settled]
            self.queue(lane).clear()
            self.queue(lane).extend(kept)
            for record in settled.values():
                if lane == "numbers":
                    self._up_to = record.number
                else:
                    self._mark({"done": record.number})
                if record.blob:
                    with suppress(OSError):
                        (self.folder / record.blob).unlink()
            if lane == "numbers":
                self._mark({"up_to": self._up_to})

    def is_to_be_looked_at(self, records: Iterable[Record]) -> bool:
        """Whether it must be known, before these are sent, that no other machine has gone on with the run."""
        if not self.story.attempt or not self.place.run_id:
            return False
        ends = any(record.kind == "end" for record in records)
        return ends or time.monotonic() - self._looked_at > LOOK_AGAIN_S

    def keep_from(self, attempt: int) -> int:
        """Drops what earlier attempts have left: another machine has gone on with the run; how much that is."""
        with self._lock:
            self._looked_at = time.monotonic()
            dropped = 0
            for lane in LANES:
                old = [record for record in self.queue(lane) if record.attempt < attempt]
                dropped += len(old)
                if old:
                    self.settle(lane, old)
        return dropped

    def start_over(self) -> None:
        """Forgets that numbers were sent, and where: the store has lost the run."""
        with self._lock:
            self._mark({"restart": True, "place": vars(Place())})
            self._reader = Reader(self.folder)
            for lane in LANES:
                self.queue(lane).clear()
            self.read()

    def note(self, **known: str | int) -> None:
        """Keeps what became known of the run's place."""
        with self._lock:
            self._mark({"place": known})

    def blob(self, record: Record) -> bytes:
        """The bytes of a picture or file.

        Raises:
            FileNotFoundError: somebody has deleted them.
        """
        return (self.folder / record.blob).read_bytes()

    def waiting_file(self, path: str) -> bytes | None:
        """The content that waits to be stored at `path` among the run's artifacts."""
        with self._lock:
            found = [record for record in self.files if record.kind == "file" and record.content["path"] == path]
        with suppress(FileNotFoundError, IndexError):
            return self.blob(found[-1])
        return None

    def superseded(self) -> list[Record]:
        """Files that wait, and that a later one will replace."""
        with self._lock:
            last = {record.content["path"]: record.number for record in self.files if record.kind == "file"}
            return [
                record
                for record in self.files
                if record.kind == "file" and record.number < last[record.content["path"]]
            ]

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Inside, a thread asks something of the store, and no other lets the run go."""
        with self._lock:
            self._senders += 1
        try:
            yield
        finally:
            with self._lock:
                self._senders -= 1

    def let_go(self, *, is_written: bool) -> bool:
        """Whether nothing is to be done for it here: it is put away, or others may send what comes.

        A run that has not ended, and that nobody here writes to, may be gone on with by another process, of whose
        writing nobody is told here.

        Args:
            is_written: whether somebody here wrote to it just before; whatever was written then is seen now.
        """
        with self._lock:
            self.read()
            if self.waiting or self._senders:
                return False
            if self.story.is_ended and not self.journals.put_away(self.key, self._last_summary):
                return False
            if not self.story.is_ended and is_written:
                return False
            self.release()
            return True

    def _last_summary(self) -> dict[str, Any] | None:
        """What is kept in place of the journal; None where that has more than was delivered."""
        self.read()
        if self.waiting or not self.story.is_ended:
            return None
        return self.summary() if self.story.begin or self.place.run_id else {}

    def summary(self) -> dict[str, Any]:
        """What stays of the run: where it is, what it was, and how it ended."""
        return {"place": vars(self.place), **self.story.summary()}

    def remember(self, summary: Mapping[str, Any]) -> None:
        """Takes over what an earlier life has left."""
        for name, value in summary.get("place", {}).items():
            if name in vars(self.place):
                setattr(self.place, name, value)
        self.story.remember(summary)

    def release(self) -> None:
        """Lets another process send it, for good: a thread that still hangs in a request does not take it back."""
        with self._lock:
            self.is_ours, self._is_released = False, True
            self._sender.release()

    def _mark(self, mark: Mapping[str, Any]) -> None:
        with suppress(OSError):  # the disk is full: it is sent again, which changes nothing
            append_lines(self.folder / "sent.jsonl", mark)
        self._follow(mark)  # last: whoever is told of it here may look for it on the disk

    def _follow(self, mark: Mapping[str, Any]) -> None:
        if "restart" in mark:
            self._up_to = -1
        if "up_to" in mark:
            self._up_to = max(self._up_to, int(mark["up_to"]))
        if "done" in mark:
            self._done.add(int(mark["done"]))
        for name, value in mark.get("place", {}).items():
            setattr(self.place, name, value)


def place_of(journals: Journals, key: str) -> Place:
    """Where a run is, by the marks of whoever delivers or has delivered it."""
    marks = list(lines_of(journals.folder / key / "sent.jsonl"))
    run = Outgoing(journals, key)  # reads the summary, which is there before a run that is over puts its marks away
    for mark in marks:
        run._follow(mark)
    return run.place
