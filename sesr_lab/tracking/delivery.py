"""The threads that carry journals to the store, so that nobody else waits for it.

One carries numbers, the other pictures, files and models: an upload that hangs holds back no number. A store that
does not answer is asked again and again, with growing pauses, without limit; a write that it refuses is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from sesr_lab.tracking.answers import Answer, Away, Gone, NeedsUser, Refused
from sesr_lab.tracking.journal import Journals, Record
from sesr_lab.tracking.outgoing import Lane, Outgoing, place_of
from sesr_lab.tracking.pauses import Pause, Pauses
from sesr_lab.tracking.perform import BATCHED, Carrier, groups
from sesr_lab.tracking.secrets import shown
from sesr_lab.tracking.store import is_http

logger = logging.getLogger(__name__)

PACE_S = 2.0
"""Numbers are gathered for so long, and then sent together."""
SILENCE_S = 20.0
"""How long the end of a command waits for a server that says nothing at all."""
_ELSEWHERE_S = 1.0
"""How often it is looked whether another process still delivers a run that this one goes on with."""
_LOOK_AGAIN_S = 5.0
"""How often it is looked whether another process writes to a run of which something still waits here."""


class Delivery:
    """Delivers the runs of one store that it is told of; never raises because of the store."""

    def __init__(self, journals: Journals, carrier: Carrier) -> None:
        self.journals, self.carrier = journals, carrier
        self.name = shown(journals.uri)
        self._runs: dict[str, Outgoing] = {}
        self._pauses = Pauses()
        self.obstacles: dict[str, str] = {}
        """What must be mended before a run can be delivered."""
        self._said: set[str] = set()
        self._recreated: set[str] = set()
        self._gate = threading.Lock()
        """Whoever takes a run on, or puts it away."""
        self._progress = threading.Condition()
        self._last_progress = 0.0
        self._bells = {"numbers": threading.Event(), "files": threading.Event()}
        self._hurry, self._stop = threading.Event(), threading.Event()
        self._threads: dict[tuple[Lane, ...], threading.Thread] = {}

    def add(self, key: str) -> Outgoing:
        """Takes a run on, or goes on with it."""
        with self._gate:
            run = self._runs.get(key)
            if run is None:
                run = self._runs[key] = Outgoing(self.journals, key)
            self._start()
        self.ring()
        return run

    def ring(self) -> None:
        """Something was appended."""
        for bell in self._bells.values():
            bell.set()

    def run(self, key: str) -> Outgoing | None:
        """The run, while it is on its way."""
        return self._runs.get(key)

    def waiting(self) -> int:
        """How many records wait, of the runs that this process delivers."""
        return sum(run.waiting for run in list(self._runs.values()) if run.claim())

    def wait(
        self,
        is_done: Callable[[], bool],
        *,
        patience_s: float | None,
        limit_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Whether it is done.

        Gives up once the store has said for `patience_s` that it takes nothing, once it has been silent for too long,
        after `limit_s` in all, or when asked to stop.
        """
        started = time.monotonic()
        silence_s = SILENCE_S if is_http(self.journals.uri) else 3 * SILENCE_S  # a database here works for long at most
        self._pauses.cut_short()
        self._hurry.set()
        self.ring()
        try:
            while not is_done():
                idle_s = time.monotonic() - max(started, self._last_progress)
                if patience_s is not None and idle_s > (patience_s if self._pauses.is_any() else silence_s):
                    return False
                if stop() or (limit_s is not None and time.monotonic() - started > limit_s):
                    return False
                with self._progress:
                    self._progress.wait(0.05)
        finally:
            self._hurry.clear()
        return True

    def close(self) -> None:
        """Ends the threads as soon as their present request is answered, and lets go of what waits."""
        self._stop.set()
        self.ring()
        for thread in list(self._threads.values()):
            thread.join(0.2)  # a thread that hangs in a request is left to it
        for run in list(self._runs.values()):
            run.release()

    def _start(self) -> None:
        lanes: tuple[Lane, ...]
        for lanes in (("numbers",), ("files", "models")):
            if lanes not in self._threads:
                name = f"delivery of {lanes[0]}"
                self._threads[lanes] = threading.Thread(target=self._loop, args=[lanes], name=name, daemon=True)
                self._threads[lanes].start()

    def _loop(self, lanes: tuple[Lane, ...]) -> None:
        """Sends what comes; ends where no run is left, and is started again with the next."""
        bell = self._bells[lanes[0]]
        due_s: float | None = 0.0
        while not self._stop.is_set():
            bell.wait(due_s)
            if self._last_progress:
                self._hurry.wait(PACE_S)  # what is appended meanwhile goes with it
            bell.clear()
            due_s = self._round(lanes)
            with self._gate:
                if not self._runs:
                    del self._threads[lanes]
                    return

    def _round(self, lanes: tuple[Lane, ...]) -> float | None:
        """Sends what may be sent now; after how many seconds there is something to do again, if time alone tells."""
        for run in list(self._runs.values()):
            try:
                self._advance(run, lanes)
            except Exception as error:  # this machine's disk, or what nobody foresaw: nothing is lost, others go on
                reason = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                self._say(reason, f"cannot be given what waits in {run.folder}: {reason}; it is tried again")
                for lane in lanes:
                    self._pauses.of(run.key, lane).begin()
        return self._due(lanes)

    def _advance(self, run: Outgoing, lanes: tuple[Lane, ...]) -> None:
        if not run.claim():  # another process delivers it: it is taken up again once that is over
            if not run.folder.exists():
                self._forget(run)
            return
        for lane in lanes:
            while run.has_work(lane) and self._may_go(run, lane):
                with run.sending():
                    went = self._send(run, lane, self._pauses.of(run.key, lane))
                if not went:
                    break
        with self._gate:
            is_known = self._runs.get(run.key) is run  # the other thread may just have let it go
            if is_known and run.let_go(is_written=self.journals.writes(run.key)):
                self._runs.pop(run.key, None)
        self._tell()

    def _due(self, lanes: tuple[Lane, ...]) -> float | None:
        now = time.monotonic()
        waits = []
        for run in list(self._runs.values()):
            if not (run.is_ours and self.journals.writes(run.key)):
                waits.append(_LOOK_AGAIN_S if run.is_ours else _ELSEWHERE_S)
            waits += [max(self._pauses.until(run.key, lane) - now, 0.05) for lane in lanes if run.has_work(lane)]
        return min(waits, default=None)

    def _may_go(self, run: Outgoing, lane: Lane) -> bool:
        return time.monotonic() >= self._pauses.until(run.key, lane) and not self._stop.is_set()

    def _send(self, run: Outgoing, lane: Lane, pause: Pause) -> bool:
        """Whether the next of the lane went; a pause begins where it did not."""
        try:
            went = self._numbers(run) if lane == "numbers" else self._upload(run, lane)
        except Away as answer:
            (self._pauses.store if lane == "numbers" else pause).begin()
            text = f"does not answer ({answer}); training goes on, and what it logs is kept until the store is back"
            self._say("away" if lane == "numbers" else f"away {lane}", text)
            return False
        except NeedsUser as answer:
            pause.begin()
            self.obstacles[run.key] = str(answer)
            self._say(str(answer), f"does not take what is written: {answer}; it is kept until that is mended")
            return False
        if went:
            self._back(run, lane, pause)
        return went

    def _numbers(self, run: Outgoing) -> bool:
        if not run.place.run_id and not run.place.refused:
            return self._create(run)
        records = next(groups(list(run.numbers)), [])
        if not records or self._is_anothers(run, records):  # the other thread may have dropped them
            return True
        self._carry(run, "numbers", records)
        return True

    def _upload(self, run: Outgoing, lane: Lane) -> bool:
        if old := run.superseded():
            run.settle("files", old)
        record = run.first(lane)
        if record is None:  # the other thread may have dropped it
            return True
        try:
            if self._is_anothers(run, [record]):
                return True
            self._carry(run, lane, [record])
        except Answer:
            run.queue(lane).rotate(-1)  # the next one may go
            raise
        return True

    def _is_anothers(self, run: Outgoing, records: list[Record]) -> bool:
        """Whether some of what waits was dropped, because another machine has gone on with the run since."""
        if not run.is_to_be_looked_at(records):
            return False
        dropped = run.keep_from(self.carrier.attempt(run.place))
        if dropped:
            name = run.story.begin.get("name") or run.key
            logger.info("another machine has gone on with %s: %d writes of this one are dropped", name, dropped)
        return dropped > 0

    def _create(self, run: Outgoing) -> bool:
        """Whether the run has a place in the store now; not while its parent has none."""
        begin = run.story.begin
        if "experiment" not in begin:  # it was begun before its journal was
            found = self.carrier.look_for(run.key)
            if found is None:
                run.note(refused="the store does not have it")
            else:
                run.note(run_id=found.info.run_id, experiment_id=found.info.experiment_id)
            self._bells["files"].set()
            return True
        parent_key = begin.get("parent_key")
        parent = self._place_of(parent_key) if parent_key else ""
        if parent is None:
            return False
        try:
            place = self.carrier.create(run, parent)
        except Refused as answer:
            logger.warning("%s does not take the run %s: %s", self.name, begin["name"], answer)
            run.note(refused=str(answer))
        else:
            run.note(run_id=place.run_id, experiment_id=place.experiment_id, skip_until=place.skip_until)
        self._bells["files"].set()
        return True

    def _place_of(self, key: str) -> str | None:
        """The id of a run that another belongs to; empty if there is none, None if it is still to be made."""
        run = self._runs.get(key)
        if run is not None:
            return "" if run.place.refused else run.place.run_id or None
        place = place_of(self.journals, key)
        if place.run_id or place.refused:
            return "" if place.refused else place.run_id
        found = self.carrier.look_for(key)
        if found is None and (self.journals.folder / key).is_dir():  # another process here is about to make it
            return None
        return "" if found is None else str(found.info.run_id)

    def _carry(self, run: Outgoing, lane: Lane, records: list[Record]) -> None:
        """Delivers the records, dropping those that the store refuses.

        Raises:
            Away: it does not answer.
            NeedsUser: it will not take them before somebody has done something.
        """
        if run.place.refused:
            run.settle(lane, records)
            return
        try:
            if records[0].kind in BATCHED:
                self.carrier.batch(run.place, records)
            else:
                self.carrier.single(run, records[0])
        except Gone as answer:
            if lane == "numbers":
                self._restart(run, answer)
                return
            if run.numbers or lane == "models":
                raise
            self._refused(run, lane, records, Refused(str(answer)))
        except Refused as answer:
            self.carrier.check_experiment(run.place)
            self._refused(run, lane, records, answer)
        run.settle(lane, records)

    def _refused(self, run: Outgoing, lane: Lane, records: list[Record], answer: Refused) -> None:
        """Tries the records of a batch, then the values of a record, one by one: the rest of them may be taken."""
        parts = list(_parts(records))
        if len(parts) == 1:
            name = run.story.begin.get("name") or run.place.run_id
            what = parts[0].kind
            self._say(
                f"{run.key} {what} {answer}", f"does not take {what} of run {name} ({run.place.run_id}): {answer}"
            )
            return
        for part in parts:
            try:
                self.carrier.batch(run.place, [part])
            except Refused as each:
                self._refused(run, lane, [part], each)

    def _restart(self, run: Outgoing, answer: Gone) -> None:
        """Makes a run again that the store has lost, if its journal still has all of it."""
        if run.key in self._recreated or "experiment" not in run.story.begin or "run" not in str(answer).lower():
            raise answer
        self._recreated.add(run.key)
        run.start_over()

    def _forget(self, run: Outgoing) -> None:
        with self._gate:
            run.release()
            if self._runs.get(run.key) is run:
                self._runs.pop(run.key, None)
        self._tell()

    def _tell(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _back(self, run: Outgoing, lane: Lane, pause: Pause) -> None:
        if self._pauses.store.length_s and lane == "numbers":
            logger.info("%s is back", self.name)
            self._said.discard("away")
            self._pauses.store.end()
        pause.end()
        self.obstacles.pop(run.key, None)
        self._last_progress = time.monotonic()
        self._tell()

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning("%s %s", self.name, text)


def _parts(records: list[Record]) -> Iterator[Record]:
    """The records, or of a single one its values, each as a record of its own."""
    if len(records) > 1:
        yield from records
        return
    (record,) = records
    values = record.content.get("values", {}) if record.kind in BATCHED else {}
    if len(values) < 2:
        yield record
        return
    for key, value in values.items():
        yield Record(record.number, record.kind, {**record.content, "values": {key: value}})
