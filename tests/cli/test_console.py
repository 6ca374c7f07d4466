"""What a person watches while networks train: a live table on a real pseudo-terminal, lines without one."""

from __future__ import annotations

import os
import pty
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from typed import outcomes

from sesr_lab.cli.console import TELLING_S, LiveView, PlainView, time_left, watching
from sesr_lab.training.trainer import Progress


class Screen:
    """What was drawn on a pseudo-terminal that stands for standard error."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, size)
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self.drawn = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with suppress(OSError):
            while block := os.read(self.master, 65536):
                self.drawn += block

    def end(self) -> str:
        self.file.close()
        self.reader.join(10)
        os.close(self.master)
        return self.drawn.decode()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], Screen]:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def make(size: tuple[int, int]) -> Screen:
        made = Screen(size)
        monkeypatch.setattr(sys, "stderr", made.file)
        monkeypatch.setattr("rich.console._STD_STREAMS", (made.file.fileno(),))
        return made

    return make


def step(fraction: float, seconds: float) -> Progress:
    return Progress(10, fraction, seconds, loss=0.1, learning_rate=1e-3, patches_per_second=100.0)


@pytest.mark.parametrize("size", [(24, 80), (24, 40), (8, 30), (3, 20)])
def test_a_terminal_of_any_size_shows_the_study(
    screen: Callable[[tuple[int, int]], Screen], size: tuple[int, int]
) -> None:
    shown = screen(size)
    with watching("study tiny") as view:
        assert isinstance(view, LiveView)
        view.note("training with the simple engine")
        view.preparing(1, 2, "pictures")
        for outcome in outcomes(20):
            view.begin(outcome.label)
            view.event(step(0.5, 10.0), outcome.label)
            view.live.refresh()
            view.end(outcome)
        view.asked_to_stop("stopping at the next checkpoint")
        view.live.refresh()
    text = shown.end()
    assert "simple" in text
    assert "t0019" in text or size[0] < 5
    assert "stopping at" in text or size[0] < 5


def test_what_was_done_stays_on_the_screen_when_it_is_interrupted(screen: Callable[[tuple[int, int]], Screen]) -> None:
    shown = screen((24, 80))

    def interrupted() -> None:
        with watching("study tiny") as view:
            view.recall(outcomes(2), "2 of 8 networks are trained already")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "34.04" in shown.end().rsplit("study tiny", 1)[1]


def test_a_log_gets_a_line_for_each_thing_that_happens(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("study tiny") as view:
        assert isinstance(view, PlainView)
        view.begin("t0000")
        view.asked_to_stop("stopping at the next checkpoint; once more to stop at once")
        view.end(outcomes(1)[0])
    assert capsys.readouterr().err.splitlines() == [
        "t0000: started",
        "stopping at the next checkpoint; once more to stop at once",
        "t0000-m11-f16-p64: finished: 34.04 dB (+1.85), 6.30 GMAC, 15 s",
    ]


def test_the_time_left_is_shown_once_it_says_something() -> None:
    assert time_left(step(0.0001, 0.2)) == ""
    assert time_left(step(0.0, 100.0)) == ""
    assert time_left(step(0.5, 2 * TELLING_S)) == "0:10 left"
    assert time_left(step(0.01, 100.0)) == "2:45:00 left"
