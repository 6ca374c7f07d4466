"""Asking a run to stop: Ctrl-C, SIGTERM or a closed terminal stops it at a checkpoint; Ctrl-C once more at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SAME_REQUEST_S = 1.0
"""Signals so close to the first are the same request: `timeout`, `make` and a terminal send it to a process twice."""


@contextmanager
def stop_on_signal(tell: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether the user has asked to stop; puts the old handlers back at the end.

    `tell` is called at the first signal, inside the handler: it must not wait for anything.
    """
    asked_at: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if asked_at is None:
            asked_at = now
            tell()
        elif number != signal.SIGHUP and now - asked_at > SAME_REQUEST_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in _signals()}
    try:
        yield lambda: asked_at is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    """Those that ask to stop; a hangup does not where the user has said so (`nohup`)."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]
