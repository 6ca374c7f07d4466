"""How far something has come: a bar in a terminal, a line now and then without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from sesr_lab.cli.terminal import console, redraws

PLAIN_EVERY_S = 15.0
"""Without a terminal, a line at most this often."""


class Lines:
    """Says in a line how far something has come, at most every so many seconds."""

    def __init__(self, shown: Console) -> None:
        self._console, self._said = shown, time.monotonic()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Says it, if it is time again."""
        if time.monotonic() - self._said > PLAIN_EVERY_S:
            self._said = time.monotonic()
            self._console.print(Text(f"{text}: {done / max(total, 1):.0%}"), soft_wrap=True)


@contextmanager
def loading() -> Iterator[Callable[[int, int, str], None]]:
    """To be called with what is done, out of how much, and its name, while files are fetched, prepared or sent."""
    shown = console(stderr=True)
    if not redraws(sys.stderr):
        yield Lines(shown)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, console=shown, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)
