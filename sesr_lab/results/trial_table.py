"""Every trial of a study as a table: for a page, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sesr_lab.results.ranking import Ranked, Trial

_LINKS = ("model", "run")
"""Columns for other programs: too wide for a page."""
Cell = str | int | float | None


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    name: str
    values: Sequence[Cell]
    pattern: str = ""
    """How numbers are shown, as in `.2f`."""

    @property
    def is_text(self) -> bool:
        """Whether it is sorted as text."""
        return any(isinstance(value, str) for value in self.values)

    @property
    def is_empty(self) -> bool:
        """Whether no trial has a value."""
        return all(value in (None, "") for value in self.values)

    def shown(self, index: int) -> str:
        """A value as people read it."""
        value = self.values[index]
        return "" if value is None else format(value, self.pattern if not isinstance(value, str) else "")


def columns_of(trials: Sequence[Trial]) -> list[Column]:
    """All that is known of the trials, in order."""
    outcomes = [trial.outcome for trial in trials]
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    gains = [None if o.psnr is None or o.bicubic_psnr is None else o.psnr - o.bicubic_psnr for o in outcomes]
    return [
        Column("trial", [outcome.label for outcome in outcomes]),
        Column("PSNR", [outcome.psnr for outcome in outcomes], ".2f"),
        Column("gain", gains, "+.2f"),
        Column("SSIM", [outcome.ssim for outcome in outcomes], ".4f"),
        Column("GMACs", [outcome.macs_720p / 1e9 for outcome in outcomes], ".2f"),
        Column("ms", [outcome.latency_ms for outcome in outcomes], ".2f"),
        Column("weights", [outcome.params for outcome in outcomes], ","),
        Column("scale", [outcome.scale for outcome in outcomes]),
        *(_settings_column(name, [_setting(trial.settings.get(name)) for trial in trials]) for name in names),
        Column("steps", [outcome.steps for outcome in outcomes], ","),
        Column("seconds", [outcome.seconds for outcome in outcomes], ".0f"),
        Column("result", [outcome.result for outcome in outcomes]),
        Column("reason", [outcome.reason for outcome in outcomes]),
        Column("parent", [outcome.parent for outcome in outcomes]),
        Column("model", [outcome.model for outcome in outcomes]),
        Column("run", [outcome.run_id for outcome in outcomes]),
    ]


def csv_of(columns: Sequence[Column]) -> str:
    """The table with all its digits, for other programs."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows(zip(*(["" if v is None else v for v in column.values] for column in columns), strict=True))
    return text.getvalue()


def constants_of(columns: Sequence[Column]) -> Mapping[str, str]:
    """What is the same in every trial, and so is no column of the page's table."""
    telling = [column for column in columns if column.name not in (*_LINKS, "result", "reason", "parent")]
    return {column.name: column.shown(0) for column in telling if _is_constant(column) and not column.is_empty}


def html_of(columns: Sequence[Column], trials: Sequence[Trial], placed: Sequence[Ranked]) -> str:
    """The table for a page: only what differs, the best first, the Pareto set of `placed` marked."""
    wanted = [column for column in columns if not _is_constant(column) and column.name not in _LINKS]
    marks = {id(item.trial): "front" if item.on_front else "tied" if item.is_tied else "" for item in placed}
    order = sorted(range(len(trials)), key=lambda i: (id(trials[i]) not in marks, -(trials[i].outcome.psnr or 0.0)))
    heads = "".join(f'<th scope="col"{_kind(column)}>{escape(column.name)}</th>' for column in wanted)
    rows = "\n".join(_row(wanted, index, marks.get(id(trials[index]), "untrained")) for index in order)
    return f'<table class="sortable"><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'


def _row(columns: Sequence[Column], index: int, mark: str) -> str:
    cells = []
    for column in columns:
        value = column.values[index]
        key = f' data-value="{value}"' if isinstance(value, int | float) else ""
        kind = ' class="text reason"' if column.name == "reason" else _kind(column)
        cells.append(f"<td{kind}{key}>{escape(column.shown(index))}</td>")
    return f'<tr class="{mark}">{"".join(cells)}</tr>'


def _kind(column: Column) -> str:
    return ' class="text"' if column.is_text else ""


def _is_constant(column: Column) -> bool:
    return column.is_empty or (column.name not in ("trial", "PSNR", "GMACs") and len(set(column.values)) == 1)


def _settings_column(name: str, values: Sequence[Cell]) -> Column:
    """Whole numbers in full: seeds of seven digits are not to look alike."""
    return Column(name, values, "g" if any(isinstance(value, float) for value in values) else "")


def _setting(value: bool | int | float | str | None) -> Cell:
    return str(value) if isinstance(value, bool) else value
