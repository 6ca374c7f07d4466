"""`sesr-lab ui`: MLflow's own server and UI, on the store that sesr-lab writes to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from types import FrameType

from sesr_lab.errors import StoreError
from sesr_lab.tracking.runs import open_store
from sesr_lab.tracking.store import is_http, shown


def serve(tracking_uri: str | None, port: int) -> None:
    """Runs `mlflow ui` on the store until it is stopped; a store that is a server already is only named.

    Raises:
        StoreError: the store cannot be opened, or the server does not start (the port is taken, say).
    """
    tracker = open_store(tracking_uri)
    address = shown(tracker.uri) if is_http(tracker.uri) else f"http://127.0.0.1:{port}"
    if not is_http(tracker.uri):
        _check_port(port)
    for name, experiment_id in tracker.experiments().items():
        print(f"{name}: {address}{tracker.page(experiment_id)}")
    if is_http(tracker.uri):
        return
    print(f"MLflow on {shown(tracker.uri)}: {address} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracker.uri, "--port", str(port)]
    status = _run_until_signal([*command, "--workers", "1"])
    if status != 0:
        raise StoreError(f"mlflow ui ended with status {status}; see what it said above")


def _check_port(port: int) -> None:
    """Raises StoreError where something listens on the port already: what it shows would be another store."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StoreError(f"port {port}: {error.strerror}; try --port {port + 1}") from None


def _run_until_signal(command: list[str]) -> int:
    """The command's exit status; 0 where Ctrl-C or SIGTERM ended it and all that it had started."""
    server = subprocess.Popen(command, start_new_session=True)
    asked = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        os.killpg(server.pid, signal.SIGTERM)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = server.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0 if asked else status
