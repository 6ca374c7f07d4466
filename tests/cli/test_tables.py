"""Tables at any width: numbers stay whole, and what is left out is named."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from typed import outcomes

from sesr_lab.cli.outcomes import outcome_table
from sesr_lab.cli.tables import Sheet, in_units


def shown(sheet: Sheet, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(sheet)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_no_line_is_longer_than_the_terminal_and_no_score_is_cut(width: int) -> None:
    lines = shown(outcome_table(outcomes(), title="study quickstart", bicubic=32.19), width)
    assert max(len(line.rstrip()) for line in lines) <= width
    text = "\n".join(lines)
    for number in ("34.04", "35.04", "36.04", "32.19"):
        assert number in text


def test_at_40_columns_the_columns_left_out_are_named() -> None:
    text = "\n".join(shown(outcome_table(outcomes(), title="study"), 40))
    assert "SSIM" not in text.split("wider")[0]
    assert "steps" in text.split("(a wider terminal also shows:")[1]


def test_at_80_columns_nothing_is_left_out() -> None:
    lines = shown(outcome_table(outcomes(), title="study"), 80)
    assert "wider" not in "\n".join(lines)
    assert "12,345" in "\n".join(lines)


def test_words_in_brackets_are_no_markup() -> None:
    text = "\n".join(shown(Sheet("[red]a[/red]", ["[x]"], [["[bold]b[/bold]"]]), 80))
    assert "[red]a[/red]" in text
    assert "[bold]b[/bold]" in text


@pytest.mark.parametrize(
    ("count", "words"), [(999, "999"), (1_000, "1.00 K"), (13_520, "13.52 K"), (3_115_008_000, "3.12 G")]
)
def test_counts_are_in_the_papers_units(count: int, words: str) -> None:
    assert in_units(count) == words
