"""Several trials at a time in this process, on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.executor import Broken, Executor, Happening, Job
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Lab
from sesr_lab.trials.together import Turns


def turns_of(spec: StudySpec) -> Callable[[Lab], Executor] | None:
    """What lets a study's trials take turns on one device; None where it does not ask for that."""
    count = spec.trials_per_device
    return None if count is None else lambda lab: Together(lab.where, count)


class Together:
    """An `Executor` whose trials take turns, `count` of them at most: the same events as of so many workers."""

    is_here = True

    def __init__(self, where: trial.Place, count: int) -> None:
        self._where, self._count = where, count
        self._turns = Turns(where.device)
        self._asked: set[str] = set()
        self._keys: set[str] = set()

    def free(self) -> int:
        """As `Executor.free`."""
        return self._count - len(self._keys)

    def submit(self, job: Job) -> str:
        """As `Executor.submit`."""
        self._keys.add(job.key)
        events = trial.run_in_turns(
            job.config,
            self._where,
            parent=job.parent,
            resume=job.state,
            stop=lambda: job.key in self._asked,
        )
        self._turns.add(job.key, events)
        return ""

    def poll(self) -> Iterator[Happening]:
        """As `Executor.poll`: one event at most, so that the driver has the floor between any two."""
        advanced = self._turns.advance()
        if advanced is None:
            return
        key, event = advanced
        happened = Broken(event) if isinstance(event, Exception) else event
        if isinstance(happened, trial.Finished | Broken):
            self.cancel(key)
        yield key, happened

    def stop(self, key: str) -> None:
        """As `Executor.stop`."""
        if key in self._keys:
            self._asked.add(key)

    def cancel(self, key: str) -> None:
        """As `Executor.cancel`."""
        self._turns.remove(key)
        self._keys.discard(key)
        self._asked.discard(key)

    def close(self) -> None:
        """As `Executor.close`."""
        for key in [*self._keys]:
            self.cancel(key)
