"""`sesr-lab ui`: MLflow's own server and UI, on the store that sesr-lab writes to."""

from __future__ import annotations

import http.client
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from sesr_lab.cli.stores import opened
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import StoreError
from sesr_lab.tracking.store import is_http, shown

START_S = 120.0
"""So long MLflow's server may take until it answers."""
END_S = 10.0
"""So long it may take to end before it is killed."""
_LOG_LINES = 12
_PRIVATE = ("10.*", "192.168.*", *(f"172.{number}.*" for number in range(16, 32)))


def serve(tracking_uri: str | None, *, host: str, port: int) -> None:
    """Runs `mlflow ui` on the store until it is stopped; a store that is a server already is only named.

    Raises:
        StoreError: the store cannot be opened, or the server does not start (the port is taken, say).
    """
    tracker = opened(tracking_uri)
    remote = is_http(tracker.uri)
    address = shown(tracker.uri) if remote else f"http://{_name(host)}:{port}"
    if not remote:
        _check_port(host, port)
    for name, experiment_id in tracker.experiments().items():
        print(f"{name}: {address}{tracker.page(experiment_id)}")
    if remote:
        return
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracker.uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    with _running(command, _known_here(host, port)) as server:
        with doing("starting MLflow"):
            server.wait_until_it_answers(_reachable(host), port)
        print(f"MLflow on {shown(tracker.uri)}: {address} (Ctrl-C ends it)", flush=True)
        server.wait()


class _Server:
    """MLflow's server as a process of its own; what it says goes to a file, and `asked` tells that it shall end."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.log, self.asked = log, False
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def end(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler: ends the server and all that it has started, at the second signal by force."""
        os.killpg(self.process.pid, signal.SIGKILL if self.asked else signal.SIGTERM)
        self.asked = True

    def wait_until_it_answers(self, host: str, port: int) -> None:
        deadline = time.monotonic() + START_S
        while not _answers(host, port) and not self.asked:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self._failure()
            time.sleep(0.1)

    def wait(self) -> None:
        """Returns when the user has ended it."""
        while self.process.poll() is None and not self.asked:
            time.sleep(0.1)
        if not self.asked:
            raise self._failure()

    def stop(self) -> None:
        """Leaves nothing of it behind."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(END_S)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _failure(self) -> StoreError:
        status = self.process.poll()
        how = f"ended with status {status}" if status is not None else f"does not answer after {START_S:.0f} s"
        said = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return StoreError("\n".join([f"mlflow ui {how}; it said:", *(f"  {line}" for line in said)]))


@contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[_Server]:
    """The server while it runs; Ctrl-C, SIGTERM and a closed terminal end it."""
    with tempfile.TemporaryDirectory(prefix="sesr-lab-ui-") as folder:
        server = _Server(command, environment, Path(folder) / "log")
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, server.end) for number in signals}
        try:
            yield server
        finally:
            server.stop()
            for number, handler in before.items():
                signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    """Raises StoreError where something listens on the port already: what it shows would be another store."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except socket.gaierror as error:
        raise StoreError(f"--host {host}: {error.strerror}; use 127.0.0.1, or 0.0.0.0 for every network") from None
    except PermissionError as error:
        raise StoreError(f"port {port}: {error.strerror}; try one above 1023") from None
    except OSError as error:
        raise StoreError(f"port {port} of {host}: {error.strerror}; try --port {port % 65535 + 1}") from None


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)  # past any proxy
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _is_any(host: str) -> bool:
    return host in {"0.0.0.0", "::", "*"}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reachable(host: str) -> str:
    """The host's name from this machine."""
    return "127.0.0.1" if _is_any(host) else _bracketed(host)


def _name(host: str) -> str:
    """The host's name in a link, which others may open too."""
    return socket.gethostname() if _is_any(host) else _bracketed(host)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _known_here(host: str, port: int) -> dict[str, str]:
    """The environment in which MLflow answers to the names that the machine has, not to `localhost` alone.

    It starts in half the time without its executor of jobs, which evaluates language models.
    """
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    if _is_local(host):
        return environment
    names = {"localhost", "127.0.0.1", _name(host), socket.gethostname(), socket.getfqdn(), *_own_addresses()}
    served = [f"{name}:{port}" for name in sorted(names)]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*served, *_PRIVATE]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}" for name in served),
        **environment,
    }


def _own_addresses() -> set[str]:
    """The addresses by which others reach this machine, as far as it knows them."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        found = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the interface to the outside
        found.add(str(probe.getsockname()[0]))
    return {_bracketed(address) for address in found}
