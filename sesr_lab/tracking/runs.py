"""MLflow runs: opening a store, beginning runs, knowing where they are, and ending what was killed.

Everything names its experiment and run: MLflow's notion of an active run is never used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sesr_lab.errors import RunHeldError, StoreAwayError, StoreError
from sesr_lab.tracking.answers import reporting
from sesr_lab.tracking.delivery import Delivery
from sesr_lab.tracking.experiments import experiment_id, put_right
from sesr_lab.tracking.journal import ATTEMPT, Journals, state_folder, unwritable
from sesr_lab.tracking.origin import origin
from sesr_lab.tracking.outgoing import Outgoing, Story, place_of
from sesr_lab.tracking.perform import Carrier
from sesr_lab.tracking.reading import Archive, RunInfo
from sesr_lab.tracking.runlog import RunLog, now_ms
from sesr_lab.tracking.secrets import hide, shown
from sesr_lab.tracking.store import connect, is_http
from sesr_lab.tracking.views import page, run_page

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Delivered", "RunInfo", "RunLog", "Trace", "Tracker", "open_store", "waiting_here"]

END_PATIENCE_S = 10.0
"""How long the end of a command waits for a store that takes nothing; what is left stays in the journals."""
_LEFTOVERS_PATIENCE_S, _LEFTOVERS_LIMIT_S = 2.0, 10.0


@dataclass(frozen=True)
class Delivered:
    """Where a run is in the store."""

    run_id: str
    experiment_id: str
    model: str = ""
    """The registered version, as `models:/NAME/3`; empty while there is none."""
    model_id: str = ""
    url: str = ""
    """The run's page in the UI; empty unless the store is a server."""


@dataclass(frozen=True)
class Trace:
    """What is known on this machine of a run that it has written."""

    key: str
    name: str
    tags: Mapping[str, str]
    end: str
    """Why it ended, as in `sesr.end`; empty while it has not."""


class Tracker(Archive):
    """An open MLflow store. Its methods raise StoreError; the RunLogs that it gives out do not."""

    def __init__(self, uri: str, client: MlflowClient, state: Path) -> None:
        super().__init__(uri, client)
        self.journals = Journals(state, uri)
        self._carrier = Carrier(uri, client)
        self._delivery = Delivery(self.journals, self._carrier)

    def begin(
        self,
        key: str,
        *,
        experiment: str,
        name: str,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, object] | None = None,
        parent_key: str | None = None,
    ) -> RunLog:
        """The run of that key, RUNNING: a new one, or the one there is, which goes on. Nothing is asked of the store.

        Args:
            key: 32 hex digits, drawn once by whoever starts the run; a run of version 0.1 has its id as its key.
            experiment: its name; it is made when need be.
            tags: beside those that say what made the run: the git commit, the versions, the host.
            parent_key: the key of the run below which the UI shows this one.

        Raises:
            RunHeldError: a living process has it.
            StoreError: this machine's disk cannot be written.
        """
        writer = self.journals.open(key)
        story = Story()
        story.remember(self.journals.summary(key))
        is_begun = bool(story.begin)
        for record in writer.earlier:
            is_begun = is_begun or record.kind == "begin"
            story.follow(record)
        attempt = int((tags or {}).get(ATTEMPT, 0))
        content = {
            "experiment": experiment,
            "name": name,
            "tags": {key: hide(str(value)) for key, value in {**origin(), **(tags or {})}.items()},
            "parent_key": parent_key,
            "time_ms": now_ms(),
        }
        try:
            if "experiment" not in story.begin:
                writer.append("begin", content)
            if is_begun:
                writer.append("resume", {"time_ms": now_ms(), "attempt": attempt})
        except OSError as error:
            writer.close()
            raise unwritable(self.journals.folder, error) from error
        self._delivery.add(key)
        log = RunLog(
            key,
            self.journals,
            writer,
            earlier=story if is_begun else None,
            logs_again=story.is_behind(attempt),
            tell=self._delivery.ring,
        )
        log.log_params(params or {})
        return log

    @contextmanager
    def adding_to(self, key: str) -> Iterator[RunLog]:
        """What writes to a run that has ended, whose state stays as it is.

        Raises:
            RunHeldError: a living process has the run.
            StoreError: this machine's disk cannot be written.
        """
        log = RunLog(key, self.journals, self.journals.open(key), tell=self._delivery.ring)
        try:
            yield log
        finally:
            log.let_go()
            self._delivery.add(key)

    def publish_kept(self, key: str, path: str) -> None:
        """A version of a registered model, of what a run that has ended has kept at `path` among its artifacts.

        Raises:
            RunHeldError: a living process has the run.
            StoreError: this machine's disk cannot be written.
        """
        with self.adding_to(key) as log:
            log.publish_kept(path)

    def delivered(self, key: str) -> Delivered | None:
        """Where the run is in the store, as far as this machine knows; None while it is in its journal only."""
        place = place_of(self.journals, key)
        if not place.run_id:
            return None
        url = shown(self.uri) + run_page(place.experiment_id, place.run_id)
        return Delivered(
            place.run_id, place.experiment_id, place.model, place.model_id, url if is_http(self.uri) else ""
        )

    def wait_for(
        self,
        key: str,
        what: Literal["run", "model"] = "run",
        *,
        stop: Callable[[], bool] = lambda: False,
        patience_s: float | None = None,
    ) -> Delivered | None:
        """Where the run is, once it is there, or once its version is; None if the wait was given up.

        Args:
            stop: asked while it waits.
            patience_s: how long a store that takes nothing is waited for; None waits without limit.

        Raises:
            StoreError: the store has refused it, or its user must do something first.
        """
        run = self._delivery.run(key)

        def is_done() -> bool:
            place = place_of(self.journals, key) if run is None or not run.is_ours else run.place
            if place.refused or key in self._delivery.obstacles:
                return True
            return bool(place.model if what == "model" else place.run_id)

        if not self._delivery.wait(is_done, patience_s=patience_s, stop=stop):
            return None
        reason = place_of(self.journals, key).refused or self._delivery.obstacles.get(key)
        found = self.delivered(key)
        if reason and not (found and (what == "run" or found.model)):
            raise StoreError(f"{shown(self.uri)}: does not take run {key}: {reason}")
        return found

    def trace(self, **tags: str) -> Iterator[Trace]:
        """The runs with those tags that this machine has written, the newest first; nothing is asked of the store."""
        for key, story in self._stories():
            known = story.begin.get("tags", {})
            if tags.items() <= known.items():
                yield Trace(key, story.begin.get("name", ""), known, story.end if story.is_ended else "")

    def tags_of(self, key: str) -> Mapping[str, str]:
        """The tags with which the run was begun, as this machine knows them, or else as the store does."""
        story = _story(self.journals, key)
        if story.begin.get("tags"):
            return dict(story.begin["tags"])
        with self.reporting(f"look for the run {key}"):
            found = self._carrier.find(key)
        return {} if found is None else dict(found.data.tags)

    def name_of(self, experiment_id: str) -> str:
        """The experiment's name."""
        with self.reporting("look up an experiment"):
            return str(self.client.get_experiment(experiment_id).name)

    def reap(self) -> None:
        """Ends the runs, of whichever store, that were being written on this machine by a process that is gone.

        Raises:
            StoreError: this machine's disk cannot be written.
        """
        for journals in (self.journals, *self.journals.others()):
            for key in journals.pending():
                if journals.is_free(key) and self._is_lost(journals, key):
                    self._end_lost(journals, key)

    def experiment(self, name: str) -> str:
        """The id of the experiment called `name`, made if there is none."""
        with self.reporting(f"use the experiment {name}"):
            return experiment_id(self.client, self.uri, name)

    def check_experiment(self, name: str) -> None:
        """Makes the experiment, if there is none; a store that does not answer now is asked when it does.

        Raises:
            StoreError: it was deleted, or may not be made.
        """
        with suppress(StoreAwayError):
            self.experiment(name)

    def page(self, experiment_id: str) -> str:
        """Where in the UI the experiment's runs are, to be put behind the server's address."""
        return page(experiment_id)

    def reporting(self, doing: str) -> AbstractContextManager[None]:
        """Turns what MLflow raises inside into a StoreError about `doing`."""
        return reporting(self.uri, doing)

    def flush(self, *, patience_s: float = END_PATIENCE_S, limit_s: float | None = None) -> int:
        """Sends what waits; how many writes still wait once the store has taken nothing for `patience_s`."""
        self._delivery.wait(lambda: self._delivery.waiting() == 0, patience_s=patience_s, limit_s=limit_s)
        return self._delivery.waiting()

    @property
    def waiting(self) -> int:
        """How many writes wait, of those that this process delivers."""
        return self._delivery.waiting()

    def sync(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Takes up what any process on this machine has left for this store, and sends it; how many writes still wait.

        It goes on while the store takes something, and gives up when it does not answer, or says what must be mended.
        """
        self.take_up()
        self._delivery.wait(lambda: self._delivery.waiting() == 0, patience_s=END_PATIENCE_S, stop=stop)
        return self._delivery.waiting()

    def waiting_elsewhere(self) -> dict[str, int]:
        """How many writes wait on this machine for other stores, by what may be shown of their URIs."""
        return {
            journals.uri: count
            for journals in self.journals.others()
            if (count := sum(_waiting(journals, key) for key in journals.pending()))
        }

    def take_up(self) -> None:
        """Delivers what processes that are gone have left."""
        for key in self.journals.pending():
            if self.journals.is_free(key):
                self._delivery.add(key)

    def close(self, *, patience_s: float = END_PATIENCE_S) -> int:
        """Sends what waits, and lets go of the rest; how many writes that is."""
        waiting = self.flush(patience_s=patience_s)
        self._delivery.close()
        return waiting

    def _stories(self) -> Iterator[tuple[str, Story]]:
        for key in reversed(self.journals.pending()):
            yield key, _story(self.journals, key)
        for key, summary in self.journals.summaries():
            story = Story()
            story.remember(summary)
            yield key, story

    def _is_lost(self, journals: Journals, key: str) -> bool:
        return not _story(journals, key).is_ended

    def _end_lost(self, journals: Journals, key: str) -> None:
        last = (journals.folder / key / "journal.jsonl").stat().st_mtime_ns // 1_000_000
        try:
            writer = journals.open(key)
        except RunHeldError:  # somebody goes on with it
            return
        story = Story()
        for record in writer.earlier:
            story.follow(record)
        try:
            if not story.is_ended:
                writer.append("tags", {"values": {"sesr.end": "lost"}})
                writer.append("end", {"status": "KILLED", "reason": "lost", "time_ms": last})
        except OSError as error:
            raise unwritable(journals.folder, error) from error
        finally:
            writer.close()
        if journals is self.journals:
            self._delivery.add(key)


def open_store(uri: str | None = None, *, state: Path | None = None) -> Tracker:
    """The store at `uri`, else at MLFLOW_TRACKING_URI, else the one that `mlflow ui` shows in this folder.

    What earlier processes have left for it in `state` (a folder; `state_folder()` without one) is sent first.

    Raises:
        StoreError: it cannot be reached, read or written.
    """
    from sesr_lab.tracking import spool

    found, client = connect(uri)
    put_right(found)
    tracker = Tracker(found, client, state or state_folder())
    spool.take_over(tracker.journals)
    tracker.take_up()
    tracker.flush(patience_s=_LEFTOVERS_PATIENCE_S, limit_s=_LEFTOVERS_LIMIT_S)
    return tracker


def waiting_here(state: Path | None = None) -> dict[str, int]:
    """How many writes wait on this machine, by what may be shown of the stores' URIs; no store is opened."""
    every = Journals(state or state_folder(), "").others()
    counts = {each.uri: sum(_waiting(each, key) for key in each.pending()) for each in every}
    return {uri: count for uri, count in counts.items() if count}


def _story(journals: Journals, key: str) -> Story:
    run = Outgoing(journals, key)
    run.read()
    return run.story


def _waiting(journals: Journals, key: str) -> int:
    run = Outgoing(journals, key)
    run.read()
    return run.waiting
