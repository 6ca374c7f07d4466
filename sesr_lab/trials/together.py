"""Trials that take turns in one process: on a GPU several small networks fill it, where one alone leaves it waiting.

A turn ends when a trial has handed its next steps to the device. By the time it has its next turn they are done, or
nearly, while those of the others are still queued: the device always has work. Each trial has a stream of its own, and
with it its own graphs. What a trial does depends on itself alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from sesr_lab.training.trainer import Launched
from sesr_lab.trials.trial import Event

Events = Generator[Event | Launched, None, None]
"""Of one trial, as `trial.run_in_turns` gives them."""


@dataclass(frozen=True)
class _Running:
    key: str
    events: Events
    stream: torch.cuda.Stream | None

    def current(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def settle(self) -> None:
        """Waits until the device has done what this trial has given it."""
        if self.stream is not None:
            self.stream.synchronize()


class Turns:
    """The trials that run, in the order of their turns; nothing happens outside of `advance`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waiting: deque[_Running] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: str, events: Events) -> None:
        """Lets a trial take part, its first turn after those of all others."""
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]  # by torch
        self._waiting.append(_Running(key, events, stream))

    def advance(self) -> tuple[str, Event | Exception] | None:
        """The next event of any trial, or what it died of, which ends it; None where no trial runs.

        A trial that has finished is to be removed.
        """
        while self._waiting:
            running = self._waiting[0]
            try:
                with running.current():
                    event = next(running.events)
                if not isinstance(event, Launched):
                    running.settle()  # what this trial has loaded or made may be used in another one's stream
                    return running.key, event
            except StopIteration:
                self.remove(running.key)
                return running.key, RuntimeError("a trial ended without saying how")
            except Exception as error:  # whatever a trial dies of is its own end, and not the others'
                self.remove(running.key)
                return running.key, error
            else:
                self._waiting.rotate(-1)
        return None

    def remove(self, key: str) -> None:
        """Ends a trial of which nothing more is wanted; nothing happens where there is none of this key."""
        for running in [each for each in self._waiting if each.key == key]:
            self._waiting.remove(running)
            with suppress(RuntimeError):  # a GPU that is broken will say so to whoever uses it next
                running.settle()
            running.events.close()
