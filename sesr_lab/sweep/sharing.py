"""Whose a study's trials are: on SQLite one driver has the study, on PostgreSQL several drivers share it.

Who trains a trial holds its lock, and nobody else takes the trial up while that lock is held. Choosing what comes next
is done by one driver at a time, so that no network is begun twice.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol
from uuid import uuid4

from sesr_lab.errors import StoreAwayError, StoreError
from sesr_lab.sweep.storage import Patience
from sesr_lab.trials.locks import POLL_SECONDS, Lock, Locks

OWNER_DIES_S = 2.0
"""So long a study's lock is waited for: the driver before this one may be dying just now."""
KEEP_S = 5.0
"""How often a driver sees to its locks, which a restart of the database takes from it."""
BACK_S = 15.0
"""So long after a restart of the database a lock that is free may be one that its owner has yet to take again."""


class Share(Protocol):
    """This driver's part in a study."""

    token: str
    """What marks a trial as this driver's in the study; empty where there is no other driver."""

    @property
    def mine(self) -> Collection[int]:
        """The trials that this driver trains."""
        ...

    def asking(self) -> AbstractContextManager[object]:
        """While it lasts, no other driver begins a trial or takes one up."""
        ...

    def ending(self) -> AbstractContextManager[object]:
        """While it lasts, no other driver ends the study."""
        ...

    def take(self, number: int) -> bool:
        """Whether the trial is this driver's from here on; not if it is another's."""
        ...

    def release(self, number: int) -> None:
        """The trial is over."""
        ...

    def holds(self, number: int) -> bool:
        """Whether the trial is still this driver's."""
        ...

    def of_others(self, numbers: Iterable[int], *, surely: bool = False) -> set[int]:
        """Which of the trials other drivers train that live; `surely`: waits where that cannot be told yet."""
        ...

    def keep(self) -> None:
        """Sees to the locks, so that nobody takes them after a restart of the database; called often."""
        ...

    def close(self) -> None:
        """Lets every trial go."""
        ...


def share_of(study: str, locks: Locks, surely: Patience) -> Share:
    """A driver's part in a study.

    Args:
        surely: asks the database, and again where it is away.

    Raises:
        StoreError: another process has the study, and it cannot be shared.
    """
    return Shared(study, locks, surely) if locks.shared else Alone(study, locks)


class Alone:
    """The only driver of a study: the study's lock is held, and covers every trial."""

    token = ""

    def __init__(self, study: str, locks: Locks) -> None:
        self._mine: set[int] = set()
        self._lock = _of_study(study, locks)

    @property
    def mine(self) -> Collection[int]:
        return self._mine

    def asking(self) -> AbstractContextManager[object]:
        return nullcontext()

    def ending(self) -> AbstractContextManager[object]:
        return nullcontext()

    def take(self, number: int) -> bool:
        self._mine.add(number)
        return True

    def release(self, number: int) -> None:
        self._mine.discard(number)

    def holds(self, number: int) -> bool:
        return self._lock.current()

    def of_others(self, numbers: Iterable[int], *, surely: bool = False) -> set[int]:
        return set()

    def keep(self) -> None:
        """A locked file stays locked."""

    def close(self) -> None:
        self._lock.release()


class Shared:
    """One of several drivers of a study on PostgreSQL: each trial has a lock."""

    def __init__(self, study: str, locks: Locks, surely: Patience) -> None:
        self.token = uuid4().hex
        self._study, self._locks, self._surely = study, locks, surely
        self._held: dict[int, Lock] = {}
        self._kept = time.monotonic()

    @property
    def mine(self) -> Collection[int]:
        return self._held.keys()

    def asking(self) -> AbstractContextManager[object]:
        return self._waited("ask")

    def ending(self) -> AbstractContextManager[object]:
        return self._waited("end")

    def take(self, number: int) -> bool:
        if number in self._held:
            return True
        lock = self._surely(lambda: self._locks.take(self._key(number)))
        if lock is not None:
            self._held[number] = lock
        return lock is not None

    def release(self, number: int) -> None:
        if (lock := self._held.pop(number, None)) is not None:
            lock.release()

    def holds(self, number: int) -> bool:
        return number in self._held and self._surely(self._held[number].current)

    def of_others(self, numbers: Iterable[int], *, surely: bool = False) -> set[int]:
        keys = {self._key(number): number for number in numbers if number not in self._held}
        if not keys:
            return set()
        while (up_s := self._surely(self._locks.up_s)) < BACK_S:
            if not surely:
                return set(keys.values())
            time.sleep(min(BACK_S - up_s, POLL_SECONDS))
            self._surely.stop()
        held = self._surely(lambda: self._locks.held(keys))
        return {keys[key] for key in held}

    def keep(self) -> None:
        if time.monotonic() - self._kept < KEEP_S:
            return
        self._kept = time.monotonic()
        for number, lock in self._held.items():
            try:
                is_ours = lock.current()
            except StoreAwayError:  # it is away: training goes on, and the locks are seen to when it is back
                return
            if not is_ours:
                raise lost(self._study, number)

    def close(self) -> None:
        for number in [*self._held]:
            self.release(number)

    def _waited(self, what: str) -> Lock:
        while (lock := self._surely(lambda: self._locks.take(f"{what}:{self._study}"))) is None:
            self._surely.stop()
            time.sleep(0.05)
        return lock

    def _key(self, number: int) -> str:
        return f"trial:{self._study}:{number}"


def lost(study: str, number: int) -> StoreError:
    """What ends a driver that has slept, or was cut off, for so long that another has its trial now."""
    return StoreError(f"study {study}: another process has taken over trial {number}; this one stops")


def _of_study(study: str, locks: Locks) -> Lock:
    key, end = f"study:{study}", time.monotonic() + OWNER_DIES_S
    while (lock := locks.take(key)) is None:
        if time.monotonic() > end:
            owner = locks.holder(key)
            raise StoreError(f"study {study}: {owner} is driving it now; wait for it, or stop it first")
        time.sleep(0.1)
    return lock
