"""Named points at which a process can be made to die, so that tests can kill it there. Off unless asked for."""

from __future__ import annotations

import os
import signal

VARIABLE = "SESR_LAB_FAULT"
"""NAME or NAME:N: the process is killed when it passes the point of that name for the N-th time."""
POINTS = (
    "trial begun",
    "run opened",
    "score heard",
    "checkpoint kept",
    "network kept",
    "run ended",
    "outcome stored",
    "trial told",
    "checkpoint removed",
    "run created",
    "numbers sent",
    "file sent",
    "model logged",
    "version made",
    "best handed over",
    "study finished",
)

_passed: dict[str, int] = {}


def point(name: str) -> None:
    """Kills this process, as `kill -9` does, where the environment asks for that."""
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return
    wanted, _, times = asked.partition(":")
    if wanted == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] >= int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)
