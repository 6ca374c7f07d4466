"""Results as tables on standard output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sesr_lab.network.cost import Costs
from sesr_lab.registry.catalog import CHAMPION
from sesr_lab.registry.version import Version
from sesr_lab.results.onnx_file import Loss
from sesr_lab.scores.evaluate import ModelScore
from sesr_lab.trials.outcome import Outcome, best_of

_NUMBERS = re.compile(r"[-+0-9.,/ ]*[KMGT]?")


def outcome_table(outcomes: Iterable[Outcome], *, title: str, bicubic: float | None = None) -> Table:
    """Trials with what they cost (weights, GMAC to 720p) and how they scored (dB), bicubic first."""
    outcomes = list(outcomes)
    table = _table(title, ["trial", "weights", "GMAC", "PSNR", "gain", "SSIM", "steps", "time", ""])
    if bicubic is not None:
        table.add_row("bicubic", "", "", f"{bicubic:.2f}", style="dim")
    best = best_of(outcomes)
    for outcome in outcomes:
        table.add_row(*_cells(outcome), style="bold green" if outcome is best else None)
    return table


def show_outcomes(
    outcomes: Sequence[Outcome], *, title: str, pareto: Sequence[str] = (), next_lines: Sequence[str] = ()
) -> None:
    """The end of a study on standard output: best first, against bicubic, and what to type next."""
    console = Console(highlight=False)
    ranked = sorted(outcomes, key=lambda outcome: -(outcome.psnr or 0.0))
    bicubic = next((outcome.bicubic_psnr for outcome in outcomes if outcome.bicubic_psnr is not None), None)
    console.print(outcome_table(ranked, title=title, bicubic=bicubic))
    if pareto:
        console.print(Text(f"Pareto set (no other is both better and cheaper): {', '.join(pareto)}"))
    show_next(console, next_lines)


def show_next(console: Console, lines: Sequence[str]) -> None:
    """What the user may want to type now."""
    if lines:
        console.print(Text("next:", style="bold"))
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output, its first column and texts to the left, numbers to the right."""
    rows = list(rows)
    table = _table(title, columns)
    for index, column in enumerate(table.columns[1:], start=1):
        column.justify = "right" if all(_NUMBERS.fullmatch(row[index]) for row in rows) else "left"
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(highlight=False).print(table)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index > 0 else "left", overflow="fold")
    return table


def gain(outcome: Outcome) -> str:
    """How far a network is above bicubic, with its sign; nothing without a score."""
    if outcome.psnr is None or outcome.bicubic_psnr is None:
        return ""
    return f"{outcome.psnr - outcome.bicubic_psnr:+.2f}"


def _cells(outcome: Outcome) -> list[str]:
    scores = ["", "", ""]
    if outcome.psnr is not None and outcome.ssim is not None:
        scores = [f"{outcome.psnr:.2f}", gain(outcome), f"{outcome.ssim:.4f}"]
    state = "" if outcome.result == "finished" else outcome.result
    macs = f"{outcome.macs_720p / 1e9:.2f}"
    return [
        outcome.label,
        f"{outcome.params:,}",
        macs,
        *scores,
        f"{outcome.steps:,}",
        f"{outcome.seconds:.0f} s",
        state,
    ]


def show_scores(results: Sequence[ModelScore], *, scale: int) -> None:
    """Scores of networks on benchmark sets, and of each picture where there is one network."""
    columns = ["model", "weights", "GMAC to 720p", *(f"{item.set} PSNR / SSIM" for item in results[0].sets)]
    rows = [
        [
            result.model,
            "" if result.params is None else f"{result.params:,}",
            _giga(result.macs_720p),
            *(f"{item.psnr:.2f} / {item.ssim:.4f}" for item in result.sets),
        ]
        for result in results
    ]
    print_table(f"x{scale}, luma, border of {scale} pixels shaved", columns, rows)
    for item in results[0].sets if len(results) == 1 else ():
        pictures = [[picture.name, f"{picture.psnr:.2f}", f"{picture.ssim:.4f}"] for picture in item.pictures]
        print_table(item.set, ["picture", "PSNR", "SSIM"], pictures)


def show_losses(losses: Sequence[Loss]) -> None:
    """What int8 costs, against the float network on unrounded luma and on the same 8-bit luma."""
    columns = ["PSNR, dB", "float", "float, 8-bit luma", "int8", "loss", "loss to 8-bit luma"]
    numbers = [(x.float_db, x.float_8bit_db, x.int8_db, x.loss_db, x.loss_8bit_db) for x in losses]
    rows = [[x.set, *(f"{n:.3f}" for n in found)] for x, found in zip(losses, numbers, strict=True)]
    print_table("what int8 costs", columns, rows)


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
    print_table(title, ["", "exactly", "about"], rows)


def show_mapping(title: str, values: Mapping[str, object]) -> None:
    """Names and what they stand for."""
    table = _table(title, ["", ""])
    table.show_header = False
    table.columns[1].justify = "left"
    for key, value in values.items():
        table.add_row(Text(key, style="bold"), escape(str(value)))
    Console(highlight=False).print(table)


def show_models(versions: Sequence[Version]) -> None:
    """Registered networks as a tree: each x4 network stands below the x2 version that it started from."""
    if not versions:
        print("no network is registered here yet; train one: sesr-lab train --preset m5")
        return
    table = _table("registered networks", ["network/version", "PSNR", "SSIM", "GMAC", "data", "age", "aliases"])
    table.padding = (0, 0)
    table.columns[0].no_wrap = True
    table.columns[-1].justify = "left"
    for depth, version in _family(versions):
        name = f"{'└─ ' * depth}{version.name}/{version.version}"
        scores = [f"{version.psnr_db:.2f}", f"{version.ssim:.4f}", _giga(version.macs_720p)]
        aliases = " ".join(_telling(version.aliases))
        table.add_row(name, *scores, escape(version.data), age(version.created), Text(aliases, style="green"))
    Console(highlight=False).print(table)


def _telling(aliases: Sequence[str]) -> Sequence[str]:
    """The aliases worth showing: the champion needs no word that it is the champion on its own data."""
    return [alias for alias in aliases if CHAMPION not in aliases or not alias.startswith(f"{CHAMPION}-")]


def _family(versions: Sequence[Version]) -> Iterator[tuple[int, Version]]:
    """Each version with its depth in the tree, children after their parent."""
    known = {f"{version.name}/{version.version}" for version in versions}
    roots = [version for version in versions if version.parent not in known]
    for root in roots:
        yield 0, root
        name = f"{root.name}/{root.version}"
        yield from ((1, version) for version in versions if version.parent == name)


def show_standing(found: Sequence[Any], *, whole: bool) -> None:
    """Where studies stand: a line for each, or all trials of one."""
    if not found:
        print("no study is stored here; start one: sesr-lab sweep")
        return
    rows = []
    for item in found:
        counts = ", ".join(f"{number} {state}" for state, number in item.counts.items() if number)
        best = f"{item.best.psnr:.2f} dB, {item.best.network}" if item.best else ""
        rows.append([item.study, "finished" if item.finished else "not finished", counts, best])
    print_table("studies", ["study", "state", "trials", "best"], rows)
    if whole:
        show_outcomes(found[0].outcomes, title=f"study {found[0].study}", pareto=found[0].pareto)


def show_findings(findings: Sequence[Any]) -> None:
    """What was found, a tick or a cross before each."""
    console = Console(highlight=False)
    for finding in findings:
        mark = Text("ok   ", style="green") if finding.good else Text("WRONG", style="bold red")
        console.print(mark, Text(f"{finding.what}: {finding.found}"), soft_wrap=True)


def version_json(version: Version) -> dict[str, Any]:
    """A version in plain values, for scripts."""
    plain = asdict(version) | {
        "architecture": version.architecture.model_dump(),
        "created": version.created.isoformat(),
        "uri": version.uri,
        "aliases": list(version.aliases),
    }
    return {key: value for key, value in plain.items() if key != "tags"}


def age(created: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = (datetime.now(UTC) - created).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def in_units(count: int) -> str:
    """A count in thousands (K), millions (M) or billions (G), as papers print it."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def _giga(count: float | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f}"
