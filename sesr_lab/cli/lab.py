"""The lab that a command trains in: its stores, its device, its view, and how the user stops it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sesr_lab.cli.console import watching
from sesr_lab.cli.options import model_prefix, storage_url
from sesr_lab.cli.stopping import stop_on_signal
from sesr_lab.cli.stores import opened
from sesr_lab.tracking.journal import state_folder
from sesr_lab.trials.lab import Lab
from sesr_lab.trials.locks import Locks
from sesr_lab.trials.trial import place


@contextmanager
def lab_for(
    title: str,
    tracking_uri: str | None,
    storage: str | None,
    device: str,
    engine: str,
    model_name: str,
    *,
    winds_down: bool = False,
) -> Iterator[tuple[Lab, str]]:
    """Everything that a command which trains needs, and the study database's URL.

    Args:
        winds_down: whether the first Ctrl-C lets what runs finish.
    """
    where, prefix = place(device, engine), model_prefix(model_name)
    url = storage_url(storage)
    tracker = opened(tracking_uri)
    with watching(title) as view, stop_on_signal(view.asked_to_stop, winds_down=winds_down) as stop:
        try:
            yield Lab(tracker, Locks(url), where, view, stop, stop.begins_nothing, prefix), url
        finally:
            if waiting := tracker.flush():
                text = f"{waiting} writes wait for the store in {state_folder() / 'journal'}; run any command"
                with suppress(OSError, ValueError):  # a terminal that is gone
                    view.note(f"warning: {text}")
