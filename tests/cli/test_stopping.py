"""How a run is asked to stop, and what a failing console must not do to it. Real processes, terminals and signals."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from labs import command, photographs, until
from mlflow_store import migrated

from sesr_lab.cli import stopping
from sesr_lab.cli.stopping import stop_on_signal

STUDY = """
trials = {trials}
[space]
m = [1, 2]
f = [2, 4, 6, 8]
feature_size = [8]
[train]
data = "{data}"
steps = {steps}
patch = 32
batch_size = 4
"""
ENDLESS = 100_000_000


# In this process


def send(*signals: signal.Signals, pause_s: float = 0.0) -> None:
    for number in signals:
        os.kill(os.getpid(), number)
        time.sleep(pause_s)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_request_to_stop_and_is_told_once(told: list[str], number: signal.Signals) -> None:
    with stop_on_signal(told.append) as stop:
        assert not stop()
        send(number)
        assert stop()
    assert told == [stopping.STOPPING]


def test_the_handlers_are_put_back(told: list[str]) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with stop_on_signal(lambda text: None):
        assert signal.getsignal(signal.SIGHUP) not in before
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_same_request_sent_twice_is_one(told: list[str]) -> None:
    """`timeout` signals its child and then its group; a terminal and `make` both pass Ctrl-C on."""
    with stop_on_signal(told.append) as stop:
        send(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
        assert stop()
    assert told == [stopping.STOPPING]


def test_a_second_request_stops_at_once(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SAME_REQUEST_S", 0.05)
    with stop_on_signal(lambda text: None):
        send(signal.SIGINT, pause_s=0.1)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_the_first_ctrl_c_lets_a_sweep_s_trials_finish_the_second_stops_them_the_third_is_at_once(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "SAME_REQUEST_S", 0.05)
    with stop_on_signal(told.append, winds_down=True) as stop:
        send(signal.SIGINT, pause_s=0.1)
        assert (stop.begins_nothing(), stop()) == (True, False)
        send(signal.SIGINT, pause_s=0.1)
        assert (stop.begins_nothing(), stop()) == (True, True)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert told == [stopping.WINDING_DOWN, stopping.STOPPING]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_other_signal_lets_trials_finish(told: list[str], number: signal.Signals) -> None:
    with stop_on_signal(told.append, winds_down=True) as stop:
        send(signal.SIGINT, number)
        assert stop()
    assert told == [stopping.WINDING_DOWN, stopping.STOPPING]


def test_a_closing_terminal_never_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell sends a hangup, and the system another when the shell has gone."""
    monkeypatch.setattr(stopping, "SAME_REQUEST_S", 0.05)
    with stop_on_signal(lambda text: None) as stop:
        send(signal.SIGHUP, signal.SIGHUP, signal.SIGHUP, pause_s=0.1)
        assert stop()


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal(lambda text: None) as stop:
            send(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


# Whole processes


class Folder:
    """A working folder with a migrated store, and what is left in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copy(migrated(), path / "mlflow.db")
        self.data = photographs(path / "pictures")

    def study(self, *, trials: int, steps: int) -> str:
        (self.path / "tiny.toml").write_text(STUDY.format(data=self.data, trials=trials, steps=steps))
        return "tiny.toml"

    def runs(self, name: str = "t0%") -> list[str]:
        """The states of the runs of that name, oldest first."""
        with closing(sqlite3.connect(self.path / "mlflow.db")) as database:
            found = database.execute("SELECT status FROM runs WHERE name LIKE ? ORDER BY start_time", [name]).fetchall()
        return [status for (status,) in found]

    def checkpoints(self) -> list[Path]:
        return list((self.path / "state" / "checkpoints").glob("*.safetensors"))

    def training(self) -> bool:
        """Whether a trial has come so far that it keeps a state."""
        return bool(self.checkpoints())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **variables}


class Terminal:
    """A pseudo-terminal, what was shown on it, and a process that has it as its own."""

    def __init__(self, *words: str, term: str = "xterm", columns: int = 80, stdout: int | None = None) -> None:
        self.master, slave = pty.openpty()
        self.shown = b""
        self.closed = False
        termios.tcsetwinsize(slave, (24, columns))
        variables = environment(TERM=term)
        variables.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env=variables,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (one system call, no lock)
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            while not self.closed and (block := os.read(self.master, 65536)):
                self.shown += block

    def close(self) -> None:
        """The window is closed: writing fails from now on."""
        self.closed = True
        os.close(self.master)

    def wait(self) -> int:
        status = self.process.wait(120)
        self._reader.join(5)
        return status


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*words: str, **settings: object) -> Terminal:
        made.append(Terminal(*words, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def is_interrupted(folder: Folder) -> bool:
    """Whether the one trial can be gone on with: its run is KILLED, not FAILED, and its state is there."""
    return folder.runs() == ["KILLED"] and len(folder.checkpoints()) == 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint(folder: Folder, number: signal.Signals) -> None:
    process = subprocess.Popen(
        command("sweep", folder.study(trials=1, steps=ENDLESS)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(folder.training, timeout_s=120)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    assert is_interrupted(folder)


@pytest.mark.slow
def test_a_sweep_of_very_short_trials_hears_a_signal_between_them(folder: Folder) -> None:
    process = subprocess.Popen(
        command("sweep", folder.study(trials=8, steps=1)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    until(lambda: "finished" in process.stderr.readline(), timeout_s=120)  # type: ignore[union-attr]
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(folder.runs()) < 8


@pytest.mark.slow
@pytest.mark.long
def test_a_terminal_that_is_gone_fails_no_trial(folder: Folder, terminal: Callable[..., Terminal]) -> None:
    """`sesr-lab sweep & disown`, and the window is closed; later somebody asks it to stop."""
    shown = terminal(
        "sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command("sweep", folder.study(trials=1, steps=ENDLESS))
    )
    until(folder.training, timeout_s=120)
    shown.close()
    time.sleep(2)
    assert shown.process.poll() is None
    shown.process.terminate()
    assert shown.wait() == 130
    assert is_interrupted(folder)


@pytest.mark.slow
def test_closing_a_terminal_stops_at_a_checkpoint(folder: Folder, terminal: Callable[..., Terminal]) -> None:
    shown = terminal(*command("sweep", folder.study(trials=1, steps=ENDLESS)))
    until(folder.training, timeout_s=120)
    shown.close()
    assert shown.wait() == 130
    assert is_interrupted(folder)


@pytest.mark.slow
def test_after_the_first_ctrl_c_the_running_trial_finishes_and_no_other_begins(folder: Folder) -> None:
    process = subprocess.Popen(
        command("sweep", folder.study(trials=8, steps=3_000)), env=environment(), stderr=subprocess.PIPE, text=True
    )
    until(lambda: bool(folder.runs()), timeout_s=120)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "what runs is finished" in err
    assert "the same command goes on from here" in err
    states = folder.runs()
    assert states == ["FINISHED"] * len(states)
    assert 1 <= len(states) < 8
    assert folder.checkpoints() == []


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_through_tee_leaves_a_checkpoint(folder: Folder) -> None:
    """tee dies of the same Ctrl-C, and what is said next has no reader."""
    words = ["bash", "-c", '"$@" 2>&1 | tee log', "bash", *command("sweep", folder.study(trials=1, steps=ENDLESS))]
    group = subprocess.Popen(words, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL)
    until(folder.training, timeout_s=120)
    os.killpg(group.pid, signal.SIGINT)
    time.sleep(stopping.SAME_REQUEST_S + 0.2)
    os.killpg(group.pid, signal.SIGINT)
    group.wait(120)
    until(lambda: folder.runs() == ["KILLED"], timeout_s=60)
    assert is_interrupted(folder)
    assert "Traceback" not in (folder.path / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell",
    [
        '"$@" 2>&1 | head -n 1',
        pytest.param('"$@" 2>&-', marks=pytest.mark.long),
        '"$@" 2> /dev/full',
        pytest.param('"$@" >&- 2>&-', marks=pytest.mark.long),
    ],
)
def test_a_study_is_finished_whatever_becomes_of_what_it_says(folder: Folder, shell: str) -> None:
    words = command("sweep", folder.study(trials=2, steps=3))
    line = f"set -o pipefail; {shell}"
    done = subprocess.run(["bash", "-c", line, "bash", *words], env=environment(), capture_output=True, check=False)
    assert done.returncode == 0
    assert folder.runs() == ["FINISHED"] * 2
    assert folder.checkpoints() == []
    assert b"Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_dumb_terminal_gets_lines(folder: Folder, terminal: Callable[..., Terminal]) -> None:
    shown = terminal(
        *command("sweep", folder.study(trials=1, steps=2), "--json"), term="dumb", stdout=subprocess.DEVNULL
    )
    assert shown.wait() == 0
    assert b"t0000-" in shown.shown
    assert b"finished" in shown.shown
    assert b"\x1b" not in shown.shown


@pytest.mark.slow
def test_a_log_gets_lines_also_where_colour_is_forced(folder: Folder) -> None:
    variables = environment(FORCE_COLOR="1", TERM="xterm", TTY_INTERACTIVE="1")
    words = command("sweep", folder.study(trials=1, steps=2))
    done = subprocess.run(words, env=variables, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"t0000-" in done.stderr
    for moving in (b"\x1b[2K", b"\x1b[1A", b"\x1b[?25l", b"\r"):
        assert moving not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, pytest.param(80, marks=pytest.mark.long)])
def test_a_terminal_sees_a_table_as_wide_as_it_is(
    folder: Folder, terminal: Callable[..., Terminal], columns: int
) -> None:
    shown = terminal(*command("sweep", folder.study(trials=2, steps=20)), columns=columns)
    assert shown.wait() == 0
    end = shown.shown.decode().rsplit("study tiny", 1)[1]
    table = end.split("next:")[0].replace("\r", "").splitlines()
    assert max(len(line.rstrip()) for line in table if "\x1b" not in line) <= columns
