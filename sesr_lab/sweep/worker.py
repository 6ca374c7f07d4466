"""What runs on a worker's side, wherever Ray has put it: it trains what it is given, and says what happens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace

from sesr_lab.data.dataset import Data
from sesr_lab.sweep.executor import Job
from sesr_lab.training.trainer import Evaluation
from sesr_lab.trials import trial


class Worker:
    """One slot: a trial at a time, while another thread hears what is asked of it."""

    def __init__(self, device: str, engine: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._where = trial.place(device, engine)
        self._asked: dict[str, str] = {}

    def name(self) -> str:
        """Where it runs, as HOST:PROCESS."""
        return f"{socket.gethostname()}:{os.getpid()}"

    def stop(self, key: str) -> None:
        """Asks the trial of that key for a last checkpoint and its end."""
        self._asked.setdefault(key, "stop")

    def cancel(self, key: str) -> None:
        """Ends the trial of that key, of which nothing more is wanted."""
        self._asked[key] = "cancel"

    def run(self, job: Job, data: Data | None) -> Iterator[trial.Event]:
        """The job's events; `data` are its pictures, where this machine may not have them."""
        if data is not None:
            trial.offer_data(data)
        events = trial.run(
            job.config,
            self._where,
            parent=job.parent,
            resume=job.state,
            stop=lambda: job.key in self._asked,
        )
        for event in events:
            if self._asked.get(job.key) == "cancel":
                break
            yield _light(event)
        self._asked.pop(job.key, None)


def _light(event: trial.Event) -> trial.Event:
    """The event without weights that nobody asks for: they travel with checkpoints, and with the end."""
    if isinstance(event, Evaluation):
        return replace(event, weights={})
    if isinstance(event, trial.Finished) and event.last is not None:
        return replace(event, last=replace(event.last, weights={}))
    return event
