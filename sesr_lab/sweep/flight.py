"""One trial in the air: what its attempt needs, what is heard of it, and how it ended."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from sesr_lab.registry.lookup import Named
from sesr_lab.sweep.executor import Job
from sesr_lab.training.trainer import Checkpoint, Evaluation, Progress
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Lab, Task, load_data
from sesr_lab.trials.lifecycle import open_run, say
from sesr_lab.trials.outcome import Outcome
from sesr_lab.trials.parent import Missing
from sesr_lab.trials.recorder import Recorder

SHOWN_EVERY_S = 5.0
"""How far a training is is written into the study at most so often: a commit costs as much as some steps."""


@dataclass(frozen=True)
class Start:
    """A training that is to begin, or to go on."""

    task: Task
    key: str
    """Of its run."""
    number: int | None = None
    """Its trial in the ledger; a parent has none."""
    goes_on: bool = False
    """Whether there was an earlier attempt."""
    makes: Missing | None = None
    """The parent that it makes, where it makes one."""


class Flight:
    """An attempt that an executor runs, and that is written down as it is heard of."""

    def __init__(
        self,
        lab: Lab,
        start: Start,
        parent: Named | None,
        *,
        on_key: Callable[[str], None],
        may_publish: Callable[[], bool],
    ) -> None:
        """Opens the run; its numbers may ask for a new one, whose key `on_key` is told.

        Raises:
            SesrError: the data or a store is unfit.
        """
        data = load_data(lab, start.task.config)
        log, state = open_run(lab, start.task, data, parent, start.key, on_key)
        self.lab, self.start = lab, replace(start, key=log.key)
        self.recorder = Recorder(lab, start.task, data, parent, log, may_publish)
        weights = None if parent is None or state is not None else parent.weights
        self.job = Job(log.key, start.task.config, weights, state)
        self.worker = ""
        self._shown = time.monotonic()
        self.seconds = self._kept_seconds = 0.0
        self._began: float | None = None

    @property
    def lost_s(self) -> float:
        """Seconds of training that are lost if this attempt is lost now."""
        return self.seconds - self._kept_seconds

    def hear(self, event: trial.Event) -> Outcome | None:
        """Writes an event down; the outcome, once the trial is over and was not stopped.

        Raises:
            SesrError: it cannot be kept, or must not be published by this process.
        """
        with suppress(OSError, ValueError):  # a terminal that is gone: what is shown may fail, training does not
            self.lab.view.event(event, self.start.task.label)
        if isinstance(event, Progress):
            self.seconds = event.seconds
            if self._began is None:
                self._began = self._kept_seconds = event.seconds if self.job.state is not None else 0.0
        outcome = self.recorder.feed(event)
        if isinstance(event, Checkpoint):
            self._kept_seconds = self.seconds
        return outcome

    def progress(self, at: Evaluation) -> dict[str, object] | None:
        """How far the training is, for whoever asks where the study stands; None soon after it was last told."""
        now = time.monotonic()
        if now - self._shown < SHOWN_EVERY_S:
            return None
        self._shown = now
        steps = self.job.config.steps
        worker = self.worker or f"{socket.gethostname()}:{os.getpid()}"
        return {"step": at.step, "steps": steps, "fraction": at.fraction, "psnr": at.score.psnr, "worker": worker}

    def land(self, outcome: Outcome) -> None:
        """Shows how it ended."""
        say(self.lab, self.start.task, outcome)
        with suppress(OSError, ValueError):
            self.lab.view.end(outcome)
