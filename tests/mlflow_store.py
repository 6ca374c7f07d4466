"""Real MLflow stores for tests, in a folder of the test's own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path

from sesr_lab.tracking.runs import Tracker, open_store

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # evaluations by language models: half of its start


_template = tempfile.TemporaryDirectory(prefix="sesr-lab-test-")  # goes when the tests end


@cache
def migrated() -> Path:
    """An empty, migrated database, made once: migrating takes seconds, copying does not."""
    path = Path(_template.name) / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


def new_store(folder: Path) -> Tracker:
    shutil.copy(migrated(), folder / "mlflow.db")
    return open_store(f"sqlite:///{folder / 'mlflow.db'}", state=folder / "state")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


class Server:
    """`mlflow server` on a free port of this machine, on a store in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        shutil.copy(migrated(), folder / "server.db")

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
