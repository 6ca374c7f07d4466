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

PAPER_SETS: Final = ("set5", "set14", "bsd100", "urban100", "manga109", "div2k")
_SPELLINGS: Final = {"b100": "bsd100", "bsds100": "bsd100", "div2k_valid": "div2k", "div2k_valid_hr": "div2k"}
_PUBLISHED: Mapping[int, Mapping[str, str]] = {
    2: {
        "m3": "37.21/.9577 32.70/.9100 31.56/.8920 29.92/.9034 36.47/.9717 35.03/.9373",
        "m5": "37.39/.9585 32.84/.9115 31.70/.8938 30.33/.9087 37.07/.9734 35.24/.9389",
        "m7": "37.47/.9588 32.91/.9118 31.77/.8946 30.49/.9105 37.14/.9738 35.32/.9395",
        "m11": "37.58/.9593 33.03/.9128 31.85/.8956 30.72/.9136 37.40/.9746 35.45/.9404",
        "xl": "37.77/.9601 33.24/.9145 31.99/.8976 31.16/.9184 38.01/.9759 35.67/.9420",
    },
    4: {
        "m3": "30.75/.8714 27.62/.7579 27.00/.7166 24.61/.7304 27.90/.8644 29.52/.8155",
        "m5": "30.99/.8764 27.81/.7624 27.11/.7199 24.80/.7389 28.29/.8734 29.65/.8189",
        "m7": "31.14/.8787 27.88/.7641 27.13/.7209 24.90/.7436 28.53/.8778 29.72/.8204",
        "m11": "31.27/.8810 27.94/.7660 27.20/.7225 25.00/.7466 28.73/.8815 29.81/.8221",
        "xl": "31.54/.8866 28.12/.7712 27.31/.7277 25.31/.7604 29.04/.8901 29.94/.8266",
    },
}
"""PSNR in dB and SSIM on PAPER_SETS, in that order, by scale and network: tables 1 and 2 of arXiv 2103.09404.

No copy of these tables was at hand when they were written down here. Checked was PSNR on Set14 at x2 alone, to 0.01 dB,
against the plot that the authors show beside their code (ARM-software/sesr, SESR_results.png); look the rest up before
you cite it."""

PAPER_NOTE: Final = (
    "The paper's rows: tables 1 and 2 of arXiv 2103.09404, of which PSNR on Set14 at x2 was checked against a copy; "
    "look the others up before you cite them"
)


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


def check_paper(sets: Sequence[str]) -> None:
    """Accepts sets of which the paper has scored one, by folder names in any case; B100 is BSD100.

    Raises:
        ConfigError: there is none.
    """
    if not any(_in_paper(name) in PAPER_SETS for name in sets):
        known = "Set5, Set14, BSD100, Urban100, Manga109 and DIV2K"
        raise ConfigError(
            f"evaluate: --paper: the paper has scores on {known}, by which a folder must be called; "
            f"found {', '.join(sets)}; rename it, or leave --paper out"
        )


def paper_rows(sets: Sequence[str], scale: int) -> list[ScoreRow]:
    """The paper's networks with their published scores on these sets, empty where the paper has none."""
    rows = []
    for name, preset in PRESETS.items():
        counted = costs(**preset, scale=scale)
        published = dict(zip(PAPER_SETS, _PUBLISHED[scale][name].split(), strict=True))
        scores = [published.get(_in_paper(item), "").replace("/", " / 0") for item in sets]
        rows.append(ScoreRow(f"SESR-{name.upper()}, paper", counted.params, counted.macs_720p, scores))
    return rows


def _in_paper(name: str) -> str:
    """What the paper calls a set, in small letters."""
    plain = name.casefold().replace("-", "_")
    return _SPELLINGS.get(plain, plain)


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
    psnr = "exact" if item.psnr == math.inf else f"{item.psnr:.2f}"
    return f"{psnr} / {item.ssim:.4f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _thousands(params: int | None) -> str:
    return "" if params is None else f"{params / 1e3:.2f}K"


def _giga(macs: int | None) -> str:
    return "" if macs is None else f"{macs / 1e9:.2f}G"
