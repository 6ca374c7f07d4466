"""The stores that a command opens, and what is said while they are."""

from __future__ import annotations

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
        from sesr_lab.trials.checkpoint import state_folder

        return open_store(tracking_uri, spool=state_folder() / "spool")
