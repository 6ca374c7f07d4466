"""A clock that stands still while the process does: Ctrl-Z, a scheduler's SIGSTOP, a frozen container."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TICK_S = 0.1
LONGEST_TICK_S = 1.0
"""A thread that sleeps for a tick and wakes so much later was stopped with all the others of its process."""


class AwakeClock:
    """Seconds for which this process was awake, told by a thread that ticks; it ends with `stop`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """A clock that starts at zero; `now` is the time by which a sleep is noticed."""
        self._now, self._counted, self._seen = now, 0.0, now()
        self._lock, self._end = threading.Lock(), threading.Event()
        threading.Thread(target=self._tick, name="awake clock", daemon=True).start()

    def __call__(self) -> float:
        """Seconds awake since the clock was made."""
        with self._lock:
            now = self._now()
            self._counted += min(max(now - self._seen, 0.0), LONGEST_TICK_S)
            self._seen = now
            return self._counted

    def stop(self) -> None:
        """Ends the thread; the clock is not asked any more."""
        self._end.set()

    def _tick(self) -> None:
        while not self._end.wait(TICK_S):
            self()
