"""A lock on a file that the operating system takes back when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from weakref import WeakSet


class FileLock:
    """An exclusive lock on a file of its own, between processes and between threads of one; nobody waits for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is held now.

        Raises:
            OSError: the file cannot be made or locked.
        """
        if self._descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = self.path.stat().st_ino == os.fstat(descriptor).st_ino
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        except BaseException:
            os.close(descriptor)
            raise
        if not is_there:  # another has it, or it was taken away with its folder
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        _held.add(self)
        return True

    def release(self) -> None:
        """Lets it go; nothing happens where it is not held."""
        if self._descriptor is not None:
            _held.discard(self)
            os.close(self._descriptor)
            self._descriptor = None


_held: WeakSet[FileLock] = WeakSet()


def _leave_to_parent() -> None:
    """In a forked child: the lock is the parent's, and must not outlive it here."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_leave_to_parent)
