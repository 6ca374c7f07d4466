"""Tables on standard output, as wide as there is room for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sesr_lab.cli.terminal import console

if TYPE_CHECKING:
    from sesr_lab.cli.doctor import Finding
    from sesr_lab.network.cost import Costs
    from sesr_lab.results.onnx_file import Loss
    from sesr_lab.results.score_table import ScoreRow
    from sesr_lab.scores.evaluate import ModelScore

_NUMBER = re.compile(r"([-+0-9.,/ ]*[KMGT]?|[0-9.,]+ (s|dB))")
_ANY_WIDTH = 100_000


@dataclass(frozen=True)
class Sheet:
    """A table as data. Where there is no room, columns of `expendable` are left out, the first named first.

    The first column and texts stand to the left, numbers to the right; numbers are never folded.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    styles: Mapping[int, str] = field(default_factory=dict)
    """Styles of rows, by their place."""
    expendable: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        left_out: list[str] = []
        expendable = [name for name in self.expendable if name in self.columns]
        while not self._fits(table := self._table(left_out), console, options) and len(left_out) < len(expendable):
            left_out.append(expendable[len(left_out)])
        yield table
        if left_out:
            names = ", ".join(left_out).replace("\n", " ")
            yield Text(f"(a wider terminal also shows: {names})", style="dim")

    @staticmethod
    def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
        wanted = Measurement.get(console, options.update(max_width=_ANY_WIDTH), table).maximum
        return wanted <= options.max_width

    def _says(self, index: int) -> bool:
        return bool(self.columns[index]) or any(row[index] for row in self.rows)

    def _table(self, left_out: Sequence[str]) -> Table:
        table = Table(title=Text(self.title), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
        table.pad_edge = False
        kept = [index for index, name in enumerate(self.columns) if name not in left_out and self._says(index)]
        for index in kept:
            cells = [row[index] for row in self.rows]
            numbers = index > 0 and all(_NUMBER.fullmatch(cell) for cell in cells)
            table.add_column(
                self.columns[index],
                justify="right" if numbers else "left",
                overflow="fold",
                min_width=max(map(len, cells), default=None) if numbers else None,
            )
        for place, row in enumerate(self.rows):
            table.add_row(*(escape(row[index]) for index in kept), style=self.styles.get(place))
        return table


def show_next(lines: Sequence[str]) -> None:
    """What the user may want to type now."""
    shown = console()
    if lines:
        shown.print(Text("next:", style="bold"))
    for line in lines:
        shown.print(Text(f"  {line}"), soft_wrap=True)


def show_scores(results: Sequence[ModelScore], rows: Sequence[ScoreRow], *, scale: int, lr: str) -> None:
    """Scores of networks on benchmark sets, and of each picture where there is one network."""
    columns = ["model", "weights", "GMAC to 720p", *(f"{item.set}\nPSNR / SSIM" for item in results[0].sets)]
    cells = [
        [row.model, "" if row.params is None else f"{row.params:,}", giga(row.macs_720p), *row.scores] for row in rows
    ]
    title = f"x{scale}, luma, border of {scale} pixels shaved; LR: {lr}"
    console().print(Sheet(title, columns, cells, expendable=("weights", "GMAC to 720p")))
    for item in results[0].sets if len(results) == 1 else ():
        pictures = [[picture.name, f"{picture.psnr:.2f}", f"{picture.ssim:.4f}"] for picture in item.pictures]
        console().print(Sheet(item.set, ["picture", "PSNR", "SSIM"], pictures))


def show_losses(losses: Sequence[Loss]) -> None:
    """What int8 costs, against the float network on unrounded luma and on the same 8-bit luma."""
    columns = ["PSNR, dB", "float", "float, 8-bit luma", "int8", "loss", "loss to 8-bit luma"]
    numbers = [(x.float_db, x.float_8bit_db, x.int8_db, x.loss_db, x.loss_8bit_db) for x in losses]
    rows = [[x.set, *(f"{n:.3f}" for n in found)] for x, found in zip(losses, numbers, strict=True)]
    console().print(Sheet("what int8 costs", columns, rows))


def show_costs(counted: Costs, *, title: str, batch: str) -> None:
    """What a network costs."""
    meaning = {
        "params": "weights when collapsed",
        "params_expanded": "weights that are trained",
        "macs_720p": "MACs to a 1280x720 picture",
        "macs_train_expanded": f"MACs of a training forward, {batch}: expanded",
        "macs_train_paper": "  collapsed by the paper's algorithm",
        "macs_train": "  collapsed as here, by a matrix product",
    }
    rows = [[text, f"{getattr(counted, key):,}", in_units(getattr(counted, key))] for key, text in meaning.items()]
    console().print(Sheet(title, ["", "exactly", "about"], rows, expendable=("exactly",)))


def show_mapping(title: str, values: Mapping[str, object]) -> None:
    """Names and what they stand for."""
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(overflow="fold", style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(escape(key), escape(str(value)))
    console().print(table)


def show_findings(findings: Sequence[Finding]) -> None:
    """What was found, a tick or a cross before each."""
    shown = console()
    for finding in findings:
        mark = Text("ok   ", style="green") if finding.good else Text("WRONG", style="bold red")
        shown.print(mark, Text(f"{finding.what}: {finding.found}"), soft_wrap=True)


def in_units(count: int) -> str:
    """A count in thousands (K), millions (M) or billions (G), as papers print it."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def giga(count: float | None) -> str:
    """A count in billions; nothing where there is none."""
    return "" if count is None else f"{count / 1e9:.2f}"
