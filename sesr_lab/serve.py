"""`sesr-lab ui`: MLflow's own server and UI, on the store that sesr-lab writes to."""

from __future__ import annotations

import subprocess
import sys

from sesr_lab.errors import StoreError
from sesr_lab.store import is_http, shown
from sesr_lab.tracking import open_store


def serve(tracking_uri: str | None, port: int) -> None:
    """Runs `mlflow ui` on the store until it is stopped; a store that is a server already is only named.

    Raises:
        StoreError: the store cannot be opened, or the server does not start (the port is taken, say).
    """
    tracker = open_store(tracking_uri)
    address = shown(tracker.uri) if is_http(tracker.uri) else f"http://127.0.0.1:{port}"
    for name, experiment_id in tracker.experiments().items():
        print(f"{name}: {address}{tracker.page(experiment_id)}")
    if is_http(tracker.uri):
        return
    print(f"MLflow on {shown(tracker.uri)}: {address} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracker.uri, "--port", str(port)]
    try:
        status = subprocess.run([*command, "--workers", "1"], check=False).returncode
    except KeyboardInterrupt:
        return
    if status != 0:
        raise StoreError(f"mlflow ui ended with status {status}; is port {port} taken? try --port {port + 1}")
