"""Where trials run. Whatever runs them gives back the same events; the inline executor is a function call."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from sesr_lab.study.config import TrialConfig
from sesr_lab.trials import trial


@dataclass(frozen=True)
class Job:
    """One attempt at a trial: all that a worker needs, and nothing with which it could write anywhere."""

    key: str
    """The run's."""
    config: TrialConfig
    parent: Mapping[str, Tensor] | None = field(default=None, repr=False)
    """The expanded weights of the x2 network that a x4 one starts from."""
    state: dict[str, Tensor] | None = field(default=None, repr=False)
    """The checkpoint to go on from."""


@dataclass(frozen=True)
class Broken:
    """An attempt that ended without saying how."""

    error: BaseException
    lost: bool = False
    """Whether its worker is gone, by no fault of the trial that is known."""


Happening = tuple[str, "trial.Event | Broken"]
"""A job's key, and what happened to it; a job is over with a `Finished` or a `Broken`."""


class Executor(Protocol):
    """Runs jobs, as many at once as it has slots."""

    @property
    def is_here(self) -> bool:
        """Whether its jobs run in the driver's process, and share with it what an error leaves broken."""
        ...

    def free(self) -> int:
        """How many more jobs may be submitted now."""
        ...

    def submit(self, job: Job) -> str:
        """Starts a job; the worker's name, empty where there is one."""
        ...

    def poll(self) -> Iterator[Happening]:
        """What has happened, after half a second at most where nothing does."""
        ...

    def stop(self, key: str) -> None:
        """Asks a job for a last checkpoint and its end."""
        ...

    def cancel(self, key: str) -> None:
        """Ends a job of which nothing more is wanted: no event of it follows, and its slot is free soon."""
        ...

    def close(self) -> None:
        """Ends what still runs, without waiting for it."""
        ...


class Inline:
    """Runs one job at a time, in this process: the driver has the floor between any two of its events."""

    is_here = True

    def __init__(self, where: trial.Place) -> None:
        self._where = where
        self._key = ""
        self._events: Generator[trial.Event] | None = None
        self._asked = False

    def free(self) -> int:
        return 1 if self._events is None else 0

    def submit(self, job: Job) -> str:
        self._key, self._asked, self._events = job.key, False, self._run(job)
        return ""

    def _run(self, job: Job) -> Generator[trial.Event]:
        yield from trial.run(job.config, self._where, parent=job.parent, resume=job.state, stop=lambda: self._asked)

    def poll(self) -> Iterator[Happening]:
        if self._events is None:
            return
        key, event = self._key, self._next(self._events)
        if isinstance(event, trial.Finished | Broken):
            self.cancel(key)
        yield key, event

    def _next(self, events: Generator[trial.Event]) -> trial.Event | Broken:
        try:
            return next(events)
        except Exception as error:  # whatever a trial dies of is the driver's to judge
            return Broken(error)

    def stop(self, key: str) -> None:
        self._asked = True

    def cancel(self, key: str) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def close(self) -> None:
        self.cancel(self._key)
