"""When what a store did not take is tried again: each time later, without limit."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sesr_lab.tracking.outgoing import Lane

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


@dataclass
class Pause:
    """When something is tried again."""

    length_s: float = 0.0
    until: float = 0.0

    def begin(self) -> None:
        """It has failed now."""
        self.length_s = min(max(FIRST_PAUSE_S, 2 * self.length_s), LONGEST_PAUSE_S)
        self.until = time.monotonic() + self.length_s

    def end(self) -> None:
        """It has succeeded."""
        self.length_s = self.until = 0.0


class Pauses:
    """Those of each run's lanes, and that of the store: where it answers nobody, no run's numbers are tried."""

    def __init__(self) -> None:
        self.store = Pause()
        self._of: dict[tuple[str, Lane], Pause] = {}

    def of(self, key: str, lane: Lane) -> Pause:
        """That of one run in one lane."""
        return self._of.setdefault((key, lane), Pause())

    def until(self, key: str, lane: Lane) -> float:
        """When the run's next in that lane may be tried, by the monotonic clock."""
        return max(self.of(key, lane).until, self.store.until if lane == "numbers" else 0.0)

    def is_any(self) -> bool:
        """Whether something has failed, and has not succeeded since."""
        return any(pause.length_s for pause in self._all())

    def cut_short(self) -> None:
        """Lets everything be tried now."""
        for pause in self._all():
            pause.until = 0.0

    def _all(self) -> list[Pause]:
        return [self.store, *list(self._of.values())]
