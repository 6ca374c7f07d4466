"""The stores that a command opens, and what is said while they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sesr_lab.cli.terminal import doing

if TYPE_CHECKING:
    from sesr_lab.tracking.runs import Tracker


def opened(tracking_uri: str | None) -> Tracker:
    """MLflow's store; what waits for it in this folder has been sent, if it answers.

    Raises:
        StoreError: it cannot be reached, read or written.
    """
    with doing("opening MLflow's store"):
        from sesr_lab.tracking.runs import open_store

        return open_store(tracking_uri)


def send_waiting(tracker: Tracker, progress: Callable[[int, int, str], None]) -> int:
    """How many writes still wait for the store when it takes no more of them."""
    tracker.take_up()
    most = tracker.waiting

    def tell() -> bool:
        progress(most - min(tracker.waiting, most), most, "sending what waits")
        return False

    return tracker.sync(tell)
