"""Parents as jobs: a x4 trial whose x2 parent is missing waits for it, and holds no worker while it does."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sesr_lab.registry.lookup import Named
from sesr_lab.sweep.flight import Start
from sesr_lab.trials.lab import Lab, load_data
from sesr_lab.trials.lifecycle import new_key, resumable_run
from sesr_lab.trials.locks import Lock
from sesr_lab.trials.outcome import Outcome
from sesr_lab.trials.parent import Missing, Parents

LOOK_AGAIN_S = 2.0
"""How often a parent that another process makes is looked for."""
NOTE_EVERY_S = 30.0


@dataclass
class _Making:
    """A parent that this process makes: trained, then published, then there for its children."""

    lock: Lock
    published_as: str = ""
    """The key of its run, once it is trained and waits to be registered."""


class Lineage:
    """Finds the parents of a study's trials, or has them made."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.parents = lab, Parents(lab)
        self.blocked: list[tuple[Start, Missing]] = []
        """Trials that wait for their parent."""
        self._making: dict[str, _Making] = {}
        self._looked, self._said = float("-inf"), float("-inf")

    def parent_of(self, start: Start) -> Named | Missing | None:
        """What the training starts from; a parent that is missing is wanted from here on.

        Raises:
            ParentError: there is none that fits, and none may or could be trained.
        """
        if start.makes is not None:
            return None
        return self.parents.look(start.task, start.key if start.goes_on else None)

    def block(self, start: Start, missing: Missing) -> Start | None:
        """Lets a trial wait for its parent; the parent's training, if it is for this process to begin it."""
        self.blocked.append((start, missing))
        if missing.lock in self._making:
            return None
        lock = self.lab.locks.take(missing.lock)
        if lock is None:
            self._say_who_makes(missing)
            return None
        if not isinstance(self.parents.look(start.task), Missing):  # it was published between the two lines
            lock.release()
            return None
        self._making[missing.lock] = _Making(lock)
        data = load_data(self.lab, missing.task.config)
        earlier = resumable_run(self.lab, missing.task, data)
        text = f"{start.task.label}: no x2 parent on {data.source} yet; training {missing.task.label} first"
        self.lab.view.note(text)
        return Start(missing.task, earlier or new_key(), goes_on=earlier is not None, makes=missing)

    @property
    def is_busy(self) -> bool:
        """Whether a trial waits for its parent, or a parent to be registered."""
        return bool(self.blocked or self._making)

    def holds(self, missing: Missing) -> bool:
        """Whether the parent is still for this process to make."""
        making = self._making.get(missing.lock)
        return making is not None and making.lock.current()

    def landed(self, missing: Missing, outcome: Outcome) -> None:
        """A parent's training is over."""
        making = self._making[missing.lock]
        if outcome.result == "finished":
            making.published_as = outcome.key
            return
        self.parents.fail(missing, outcome)
        self.given_up(missing)

    def given_up(self, missing: Missing) -> None:
        """A parent is not made by this process any more."""
        self._making.pop(missing.lock).lock.release()
        self._looked = float("-inf")

    def unblocked(self) -> list[Start]:
        """Trials whose parent may be there by now; they are blocked no more.

        Raises:
            StoreError: the store does not take a parent.
        """
        for key, making in list(self._making.items()):
            if making.published_as and self._is_published(making.published_as):
                del self._making[key]
                making.lock.release()
                self._looked = float("-inf")
        if time.monotonic() - self._looked < LOOK_AGAIN_S:
            return []
        self._looked = time.monotonic()
        free = [start for start, missing in self.blocked if missing.lock not in self._making]
        self.blocked = [(start, missing) for start, missing in self.blocked if missing.lock in self._making]
        return free

    def close(self) -> None:
        """Gives every lock back."""
        for making in self._making.values():
            making.lock.release()
        self._making.clear()

    def _is_published(self, key: str) -> bool:
        found = self.lab.tracker.wait_for(key, "model", patience_s=0.0)
        return found is not None and bool(found.model)

    def _say_who_makes(self, missing: Missing) -> None:
        if time.monotonic() - self._said > NOTE_EVERY_S:
            self._said = time.monotonic()
            holder = self.lab.locks.holder(missing.lock)
            self.lab.view.note(f"waiting for the x2 parent {missing.name}: {holder} is training it")
