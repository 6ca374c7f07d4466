"""What is shown while something runs: a live table and bar in a terminal, plain lines without one.

All of it goes to standard error; standard output is for results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from sesr_lab.cli.outcomes import gain, outcome_table
from sesr_lab.cli.progress import PLAIN_EVERY_S, Lines
from sesr_lab.cli.tables import giga
from sesr_lab.cli.terminal import console, redraws
from sesr_lab.training.trainer import Evaluation
from sesr_lab.training.trainer import Progress as Step
from sesr_lab.trials import trial
from sesr_lab.trials.outcome import Outcome, best_of

ROWS_SHOWN = 12
"""Trials in the live table; the end table has them all."""
TELLING_S = 5.0
"""Before a trial has run so long, its speed says little about the time that it needs."""
_AROUND = 8
"""Lines around the table's rows: title, header, rule, best, bar, and air."""


@dataclass
class _Running:
    """A trial that is being trained, and what is shown of it."""

    bar: TaskID | None = None
    psnr: float | None = None
    """The best so far, in a table; the last, in lines."""
    said: float = field(default_factory=time.monotonic)


class LiveView:
    """A table of the trials so far and a bar for the running one, redrawn in place."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self.outcomes: list[Outcome] = []
        self.bicubic: float | None = None
        self.stopping = ""
        self._running: dict[str, _Running] = {}
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[psnr]}  {task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._preparing: TaskID | None = self.bar.add_task("opening the study", total=None, psnr="", left="")
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self._render, transient=True)

    def note(self, text: str) -> None:
        self.live.console.print(Text(text, style="yellow" if text.startswith("warning") else "dim"))

    def asked_to_stop(self, text: str) -> None:
        self.stopping = text  # drawn by the next refresh: a signal's handler must not wait for the terminal's lock

    def recall(self, outcomes: Sequence[Outcome], text: str) -> None:
        self.outcomes = list(outcomes)
        self.note(text)

    def preparing(self, done: int, total: int, text: str) -> None:
        if self._preparing is None:
            self._preparing = self.bar.add_task("", psnr="", left="")
        self.bar.update(self._preparing, description=text, completed=done, total=total)

    def begin(self, label: str, worker: str = "") -> None:
        self._is_prepared()
        self._is_over(label)  # a trial that is begun again
        name = f"{label} on {worker}" if worker else label
        self._running[label] = _Running(self.bar.add_task(name, total=1.0, psnr="preparing", left=""))

    def event(self, event: trial.Event, label: str) -> None:
        running = self._running.get(label)
        if isinstance(event, trial.Started):
            self.bicubic = event.bicubic.psnr
        if running is None or running.bar is None:
            return
        if isinstance(event, Evaluation):
            running.psnr = max(event.score.psnr, running.psnr or 0.0)
        if isinstance(event, Step):
            psnr = f"{running.psnr:.2f} dB" if running.psnr else f"loss {event.loss:.4f}"
            self.bar.update(running.bar, completed=event.fraction, psnr=psnr, left=time_left(event))

    def end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._is_over(outcome.label)

    def _is_prepared(self) -> None:
        if self._preparing is not None:
            self.bar.remove_task(self._preparing)
            self._preparing = None

    def _is_over(self, label: str) -> None:
        running = self._running.pop(label, None)
        if running is not None and running.bar is not None:
            self.bar.remove_task(running.bar)

    def _render(self) -> Group:
        rows = max(1, min(ROWS_SHOWN, self.console.height - _AROUND - len(self._running)))
        table = outcome_table(self.outcomes[-rows:], title=self.title, bicubic=self.bicubic)
        hidden = len(self.outcomes) - rows
        above = [Text(f"… {hidden} earlier", style="dim")] if hidden > 0 else []
        best = best_of(self.outcomes)
        below = [Text(f"best so far: {best.label}, {best.psnr:.2f} dB", style="green")] if best else []
        below += [Text(self.stopping, style="yellow")] if self.stopping else []
        shown = [table] if self.outcomes else []
        return Group(*above, *shown, *below, self.bar)


class PlainView:
    """One line for each thing that happens, and one now and then while a trial runs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._running: dict[str, _Running] = {}
        self.lines = Lines(console)

    def note(self, text: str) -> None:
        self._line(text)

    def asked_to_stop(self, text: str) -> None:
        with suppress(OSError, RuntimeError):  # it is called by a signal's handler, in the middle of anything
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def recall(self, outcomes: Sequence[Outcome], text: str) -> None:
        self.note(text)

    def preparing(self, done: int, total: int, text: str) -> None:
        self.lines(done, total, text)

    def begin(self, label: str, worker: str = "") -> None:
        self._running[label] = _Running()
        self._line(f"{label}: started{f' on {worker}' if worker else ''}")

    def event(self, event: trial.Event, label: str) -> None:
        running = self._running.setdefault(label, _Running())
        if isinstance(event, Evaluation):
            running.psnr = event.score.psnr
        if isinstance(event, Step) and time.monotonic() - running.said > PLAIN_EVERY_S:
            running.said = time.monotonic()
            facts = [f"{event.fraction:.0%}", f"step {event.step}", f"{running.psnr:.2f} dB" if running.psnr else ""]
            self._line(f"{label}: {', '.join(filter(None, [*facts, time_left(event)]))}")

    def end(self, outcome: Outcome) -> None:
        self._running.pop(outcome.label, None)
        psnr = f"{outcome.psnr:.2f} dB ({gain(outcome)}), " if outcome.psnr else ""
        self._line(f"{outcome.label}: {outcome.result}: {psnr}{giga(outcome.macs_720p)} GMAC, {outcome.seconds:.0f} s")

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


@contextmanager
def watching(title: str) -> Iterator[LiveView | PlainView]:
    """A view on standard error for as long as something runs."""
    shown = console(stderr=True)
    if not redraws(sys.stderr):
        yield PlainView(shown)
        return
    view = LiveView(shown, title)
    with view.live:
        try:
            yield view
        except BaseException:
            view.live.transient = False  # what was done so far stays on the screen
            raise


def time_left(step: Step) -> str:
    """The time that a run still needs at its present speed; nothing while that says little."""
    if step.fraction <= 0 or step.seconds < TELLING_S:
        return ""
    seconds = round(step.seconds * (1 - step.fraction) / step.fraction)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02} left" if hours else f"{minutes}:{seconds % 60:02} left"
