"""Scores on benchmark sets as a table, like the paper's: for a terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sesr_lab.errors import ConfigError
from sesr_lab.network.cost import costs
from sesr_lab.scores.evaluate import ModelScore, SetScore
from sesr_lab.study.config import PRESETS

LR_ORIGINS: Final = {"bicubic": "bicubic", "paired": "given"}
"""Whether the low-resolution pictures are made here from the others, or came with them."""

_PUBLISHED: Mapping[tuple[str, int], Mapping[str, float]] = {
    ("set14", 2): {"m3": 32.70, "m5": 32.84, "m7": 32.91, "m11": 33.03, "xl": 33.24},
}
"""PSNR in dB by set and scale. Read to 0.01 dB off the plot that the authors show beside their code (ARM-software/sesr,
SESR_results.png); M5's stands in the paper's table 1 too. What could not be checked is left out."""


@dataclass(frozen=True)
class ScoreRow:
    """One line of the table."""

    model: str
    params: int | None
    macs_720p: int | None
    scores: Sequence[str]
    """For each set `PSNR / SSIM`, or what is known of it."""


def score_rows(results: Sequence[ModelScore]) -> list[ScoreRow]:
    """What was measured."""
    return [
        ScoreRow(result.model, result.params, result.macs_720p, [_scores(item) for item in result.sets])
        for result in results
    ]


def check_paper(sets: Sequence[str], scale: int) -> None:
    """Accepts sets on which the paper's scores are known.

    Raises:
        ConfigError: there is none.
    """
    if not any((name.casefold(), scale) in _PUBLISHED for name in sets):
        known = ", ".join(f"{name.capitalize()} at x{each}" for name, each in _PUBLISHED)
        raise ConfigError(
            f"evaluate: --paper: the paper's scores are known on {known} alone; add that set, or leave it out"
        )


def paper_rows(sets: Sequence[str], scale: int) -> list[ScoreRow]:
    """The paper's networks with what is known of their published PSNR on these sets."""
    rows = []
    for name, preset in PRESETS.items():
        counted = costs(**preset, scale=scale)
        known = [_PUBLISHED.get((item.casefold(), scale), {}).get(name) for item in sets]
        scores = ["" if psnr is None else f"{psnr:.2f}" for psnr in known]
        rows.append(ScoreRow(f"SESR-{name.upper()}, paper", counted.params, counted.macs_720p, scores))
    return rows


def lr_of(results: Sequence[ModelScore]) -> str:
    """Which LR the sets were scored on, as in `bicubic` or `Set5 bicubic, mine given`."""
    origins = {item.set: LR_ORIGINS[item.lr_origin] for item in results[0].sets}
    if len({*origins.values()}) == 1:
        return next(iter(origins.values()))
    return ", ".join(f"{name} {origin}" for name, origin in origins.items())


def markdown_of(results: Sequence[ModelScore], rows: Sequence[ScoreRow], scale: int) -> str:
    """The table as Markdown, with a line that says what it shows."""
    sets = [item.set for item in results[0].sets]
    head = ["model", "weights", "MACs", *sets]
    lines = [_line(head), "|---|" + "--:|" * (len(head) - 1)]
    lines += [_line([row.model, _thousands(row.params), _giga(row.macs_720p), *row.scores]) for row in rows]
    how = f"PSNR in dB / SSIM of luma at x{scale}, {scale} pixels shaved off each side"
    note = f"{how}; MACs to 1280x720; LR: {lr_of(results)}."
    return "\n".join([*lines, "", note])


def _scores(item: SetScore) -> str:
    psnr = f"{item.psnr:.2f}" if math.isfinite(item.psnr) else "exact"
    return f"{psnr} / {item.ssim:.4f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _thousands(params: int | None) -> str:
    return "" if params is None else f"{params / 1e3:.2f}K"


def _giga(macs: int | None) -> str:
    return "" if macs is None else f"{macs / 1e9:.2f}G"
