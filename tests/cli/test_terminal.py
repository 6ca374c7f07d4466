"""What is shown may fail; what is done does not. Real pipes, pseudo-terminals, closed descriptors and full disks."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import command

from sesr_lab.cli import terminal
from sesr_lab.cli.terminal import Stream

EVERY_HELP = """
import sys
from sesr_lab.cli import terminal
terminal.take_over()
import typer
from sesr_lab.cli.app import app, run
group = typer.main.get_command(app)
words = [[name] for name in group.commands] + [["data", name] for name in group.commands["data"].commands]
for line in ([], *words):
    assert run([*line, "--help"]) == 0, line
assert run(["data", "list"]) == run(["sweep", "--list"]) == run(["cost"]) == 0
assert run(["sweep", "no/sesr-\\u20ac-\\u2500.toml"]) == 1
"""


@pytest.fixture(autouse=True)
def _spelling() -> None:
    terminal.codecs.register_error(terminal._SPELLED, terminal._spell)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            assert end == ends[0], "only the reader's end is closed by a test"


def said(stream: Stream, text: str) -> float:
    """The seconds that writing took."""
    started = time.monotonic()
    assert stream.write(text) == len(text)
    return time.monotonic() - started


# One stream


def test_a_reader_that_has_left_is_no_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    stream = Stream(pipe[1], "utf-8", may_be_lost=False)
    said(stream, "one\n")
    said(stream, "two\n")
    assert stream.failure is not None
    assert stream.failure.errno == errno.EPIPE


def test_a_terminal_that_was_closed_is_no_error() -> None:
    master, slave = pty.openpty()
    stream = Stream(slave, "utf-8", may_be_lost=True)
    assert stream.isatty()
    os.close(master)
    said(stream, "one\n")
    assert stream.failure is not None
    assert stream.failure.errno == errno.EIO
    os.close(slave)


def test_a_full_disk_loses_what_is_said_until_there_is_room() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    stream = Stream(full, "utf-8", may_be_lost=True)
    said(stream, "one\n")
    assert stream.failure is not None
    assert stream.failure.errno == errno.ENOSPC
    read, write = os.pipe()
    os.dup2(write, full)  # the disk has room again
    said(stream, "two\n")
    assert os.read(read, 100) == b"two\n"
    for descriptor in (full, read, write):
        os.close(descriptor)


def test_a_reader_that_does_not_read_holds_up_what_is_said_on_the_way_only_once(pipe: tuple[int, int]) -> None:
    stream = Stream(pipe[1], "utf-8", may_be_lost=True)
    assert said(stream, "x" * 1_000_000) < terminal.PATIENCE_S + 1
    assert said(stream, "lost\n") < 0.5
    os.read(pipe[0], 1_000_000)
    said(stream, "heard\n")
    assert os.read(pipe[0], 1_000_000).endswith(b"heard\n")


def test_a_terminal_that_is_stopped_with_ctrl_s_does_not_stop_what_runs() -> None:
    master, slave = pty.openpty()
    stream = Stream(slave, "utf-8", may_be_lost=True)
    termios.tcflow(slave, termios.TCOOFF)
    assert said(stream, "lost\n") < terminal.PATIENCE_S + 1
    termios.tcflow(slave, termios.TCOON)
    said(stream, "heard\n")
    assert b"heard" in os.read(master, 100)
    for descriptor in (master, slave):
        os.close(descriptor)


def test_a_result_waits_for_its_reader_and_is_whole(pipe: tuple[int, int]) -> None:
    """Also where another program has set the pipe not to block."""
    fcntl.fcntl(pipe[1], fcntl.F_SETFL, os.O_NONBLOCK)
    got = io.BytesIO()

    def read() -> None:
        while got.tell() < 300_000:
            time.sleep(0.001)
            got.write(os.read(pipe[0], 20_000))

    reader = threading.Thread(target=read)
    reader.start()
    said(Stream(pipe[1], "utf-8", may_be_lost=False), "0123456789" * 30_000)
    reader.join(30)
    assert got.getvalue() == b"0123456789" * 30_000


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "└─ ×4 … 照 ?"),
        ("latin-1", "`- ×4 ... ? ?"),
        ("ascii", "`- x4 ... ? ?"),
        ("cp437", "└─ x4 ... ? ?"),
        ("utf-16", "└─ ×4 … 照 ?"),
    ],
)
def test_a_character_that_the_encoding_lacks_is_spelled_out(pipe: tuple[int, int], encoding: str, shown: str) -> None:
    """The last one is half a character, as in the name of a file that is not UTF-8."""
    said(Stream(pipe[1], encoding, may_be_lost=False), "└─ ×4 … 照 \udcff")
    assert os.read(pipe[0], 1000).decode(encoding) == shown


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "unknown"}, False),
        ({}, False),
        ({"TERM": "xterm", "TTY_INTERACTIVE": "0"}, False),
        ({"TERM": "xterm", "TTY_COMPATIBLE": "0"}, False),
    ],
)
def test_lines_are_drawn_anew_only_where_a_terminal_can(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], drawn: bool
) -> None:
    for name in ("TERM", "TTY_INTERACTIVE", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as file:
        assert terminal.redraws(file) == drawn
    os.close(master)


@pytest.mark.parametrize("name", ["FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_nothing_that_is_forced_makes_a_log_a_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "log").open("w") as log:
        assert not terminal.redraws(log)


@pytest.mark.parametrize(
    ("settings", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"CLICOLOR_FORCE": "0"}, False),
    ],
)
def test_a_log_is_coloured_where_that_is_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, str], coloured: bool
) -> None:
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "NO_COLOR", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    terminal.console(stderr=True).print("[red]a[/red]")
    assert ("\x1b[31m" in capsys.readouterr().err) == coloured


# Whole processes


def sesr_lab(*words: str, redirected: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command line, typed into a shell."""
    line = f'exec "$@" {redirected}'
    return subprocess.run(
        ["sh", "-c", line, "sh", *command(*words)], capture_output=True, env={**os.environ, **variables}, check=False
    )


def test_a_result_that_cannot_be_written_is_one_line_and_exits_1() -> None:
    done = sesr_lab("cost", "--json", redirected="> /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        b"error: standard output: No space left on device; what was done stays done\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2> /dev/full"])
def test_closed_and_full_streams_do_not_change_the_exit_status(redirected: str) -> None:
    done = sesr_lab("cost", redirected=redirected)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sesr_lab("cost", "--scale", "3", redirected=redirected).returncode == 1


def test_a_reader_that_takes_the_first_line_only_sees_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -n 1', "bash", *command("train", "--help")],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_opened_later_never_gets_a_closed_streams_place(tmp_path: Path) -> None:
    """Or what a library says on standard error ends up in a database."""
    script = "from sesr_lab.cli import terminal; terminal.take_over(); file = open('x', 'w'); assert file.fileno() > 2"
    line = f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", line, script], check=False, cwd=tmp_path).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_every_help_and_every_list_can_be_shown_in_any_encoding(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_HELP], capture_output=True, env={**os.environ, **variables}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_a_json_document_is_ascii_and_alone_in_any_encoding() -> None:
    done = sesr_lab("data", "list", "--json", PYTHONIOENCODING="utf-16")
    assert done.stdout.decode("utf-16").startswith("{")


@pytest.mark.parametrize("words", [("models",), ("status",), ("doctor",), ("evaluate", "bicubic", "--benchmark", "x")])
def test_a_command_that_takes_longer_says_at_once_what_it_is_doing(words: tuple[str, ...], tmp_path: Path) -> None:
    """Before anything heavy is loaded: what it says comes while torch and MLflow cannot be imported at all."""
    (tmp_path / "blocked").mkdir()
    for package in ("torch", "mlflow", "optuna"):
        (tmp_path / "blocked" / f"{package}.py").write_text("import time; time.sleep(100)")
    path = os.pathsep.join([str(tmp_path / "blocked"), os.environ.get("PYTHONPATH", "")])
    master, slave = pty.openpty()
    process = subprocess.Popen(command(*words), env={**os.environ, "PYTHONPATH": path}, stderr=slave)
    os.close(slave)
    shown = os.read(master, 1000)
    process.kill()
    process.communicate()
    os.close(master)
    assert "…" in shown.decode()
