"""`sesr-lab ui`: the right store on a free port, and nothing left behind when it ends."""

from __future__ import annotations

import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from labs import spawn, until
from mlflow_store import new_store

from sesr_lab.cli.app import run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            return bool(page.status == 200)
    except OSError:
        return False


def test_a_port_that_is_taken_is_an_error_that_names_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_store(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["ui", "--port", str(port)]) == 1
    said = capsys.readouterr()
    assert said.err.endswith(f"error: port {port} of 127.0.0.1: Address already in use; try --port {port + 1}\n")
    assert said.out == "", "no address that shows something else"


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_ends_the_ui_and_the_servers_below_it(tmp_path: Path, number: signal.Signals) -> None:
    new_store(tmp_path)
    port = free_port()
    process = spawn(tmp_path, "ui", "--port", str(port))
    until(lambda: answers(port), timeout_s=120)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"http://127.0.0.1:{port}" in output
    assert "Traceback" not in errors
    until(lambda: not answers(port))
