"""What becomes of an attempt that broke: it is made again where that may help, and has an outcome where it does not."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from dataclasses import replace

import torch

from sesr_lab.errors import DataError, ModelError, ParentError, SesrError
from sesr_lab.sweep.budget import Budget
from sesr_lab.sweep.executor import Broken
from sesr_lab.sweep.flight import Flight, Start
from sesr_lab.sweep.ledger import Ledger
from sesr_lab.sweep.records import ERRORS, LOSSES
from sesr_lab.trials import checkpoint
from sesr_lab.trials.lab import Lab, untrained
from sesr_lab.trials.lifecycle import new_key
from sesr_lab.trials.outcome import Outcome
from sesr_lab.trials.recorder import is_out_of_memory

TRIES = 3
"""How often a trial is tried, over all the lives of its study, that ends in an error which nobody expected."""
NOT_TO_BE = (ParentError, ModelError, DataError)
"""What keeps a trial from being trained, now and whenever it is tried again."""


class Repair:
    """Counts what went wrong with each trial of a study, in its ledger."""

    def __init__(self, lab: Lab, ledger: Ledger, budget: Budget, retries: int) -> None:
        self.lab, self.ledger, self.budget, self.retries = lab, ledger, budget, retries
        self._of_parents: Counter[tuple[str, str]] = Counter()

    def after(self, flight: Flight, broken: Broken) -> Start | Outcome:
        """The next attempt at what has broken, or how it ended.

        Raises:
            SesrError: a store or a disk is unfit, and so would be the next attempt's.
        """
        error = broken.error
        if isinstance(error, NOT_TO_BE) or is_out_of_memory(error):
            return flight.recorder.failed(error)
        if isinstance(error, SesrError):
            flight.recorder.interrupted()
            raise error
        return self._lost(flight, error) if broken.lost else self._failed(flight, error)

    def _lost(self, flight: Flight, error: BaseException) -> Start | Outcome:
        start = flight.start
        flight.recorder.lost()
        lost = self._count(start, LOSSES, str(error))
        self.budget.lose(flight.seconds if lost > self.retries else flight.lost_s)
        self.lab.view.note(f"warning: {start.task.label}: its worker was lost: {error}")
        if lost > self.retries:
            return untrained(start.task, "failed", f"its worker was lost {lost} times: {error}", key=start.key)
        return replace(start, goes_on=True)

    def _failed(self, flight: Flight, error: BaseException) -> Start | Outcome:
        start = flight.start
        self.budget.lose(flight.seconds)
        outcome = flight.recorder.failed(error)
        tries = self._count(start, ERRORS, "".join(traceback.format_exception(error))[-4000:])
        text = in_a_line(error)
        self.lab.view.note(f"warning: {start.task.label}: {text} (try {tries} of {TRIES})")
        if tries >= TRIES:
            return replace(outcome, result="failed", reason=f"the same happened {TRIES} times: {text}")
        checkpoint.remove(start.key)  # what it went on from may be what breaks it
        return replace(start, key=new_key(), goes_on=False)

    def _count(self, start: Start, name: str, what: str) -> int:
        """How often that has happened to a training, this time counted."""
        if start.number is None:
            self._of_parents[start.task.label, name] += 1
            return self._of_parents[start.task.label, name]
        known = [*self.ledger.entry(start.number).attributes.get(name, ()), what]
        self.ledger.note(start.number, name, known)
        return len(known)


def in_a_line(error: BaseException) -> str:
    """An error's name and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def is_poisoned(device: torch.device) -> bool:
    """Whether an error has left a GPU unusable for this process, as a failed assertion in a kernel does."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # what a dead trial has left there; refused after a capture that cannot be ended
    except RuntimeError:
        return True
    return False


def let_go(error: BaseException) -> None:
    """Frees what the frames of an error hold, a dead trial's tensors among them: the next one needs their memory."""
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            left += [below for below in (each.__cause__, each.__context__) if below is not None]
    gc.collect()
