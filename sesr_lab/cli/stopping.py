"""Asking a command to stop, in steps: Ctrl-C lets what runs finish, then stops it at a checkpoint, then at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SAME_REQUEST_S = 1.0
"""Signals so close to the last are the same request: `timeout`, `make` and a terminal send it to a process twice."""
WINDING_DOWN = "nothing new is begun, what runs is finished; once more to stop it at its next checkpoint"
STOPPING = "stopping at the next checkpoint; once more to stop at once"


@dataclass
class Stop:
    """How far the user has asked a command to stop."""

    steps: int = 0

    def begins_nothing(self) -> bool:
        """Whether nothing new shall be begun."""
        return self.steps >= 1

    def __call__(self) -> bool:
        """Whether what runs shall stop at its next checkpoint."""
        return self.steps >= 2


@contextmanager
def stop_on_signal(tell: Callable[[str], None], *, winds_down: bool = False) -> Iterator[Stop]:
    """Counts the user's requests to stop; puts the old handlers back at the end.

    Args:
        tell: called at each request but the last, inside the handler: it must not wait for anything.
        winds_down: whether the first Ctrl-C lets what runs finish; SIGTERM and a closed terminal never do.
    """
    stop, last = Stop(), float("-inf")

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        is_new = now - last > SAME_REQUEST_S
        if stop() and (number == signal.SIGHUP or not is_new):
            return
        if stop():
            raise KeyboardInterrupt
        if number != signal.SIGINT or not winds_down:
            stop.steps = 2
        elif is_new:
            stop.steps += 1
        else:
            return
        last = now
        tell(STOPPING if stop() else WINDING_DOWN)

    before = {number: signal.signal(number, handle) for number in _signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    """Those that ask to stop; a hangup does not where the user has said so (`nohup`)."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]
