"""A report's page: HTML that stands by itself, for a screen of any width, light or dark, and for paper."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib.resources import files

from sesr_lab import __version__
from sesr_lab.results.ranking import SPREAD_DB, Cost, Ranked, Spread, Trial, best
from sesr_lab.results.trial_table import Column, constants_of, html_of

NEAR_DB = 0.1
"""What is this close to the best is worth a look where it costs less."""
_MOST_LISTED = 12
"""Networks of the Pareto set that stand in a table of their own; the whole set is in the table of all trials."""


@dataclass(frozen=True)
class Plot:
    """A plot in both of its forms."""

    svg: str = field(repr=False)
    png: bytes = field(repr=False)


@dataclass(frozen=True)
class Content:
    """What stands on a page."""

    name: str
    description: str
    trials: Sequence[Trial]
    finished: bool
    placed: Sequence[Ranked]
    """By the first of the costs."""
    costs: Sequence[Cost]
    spread: Spread
    bicubic: float | None
    plots: Mapping[str, Plot]
    """`pareto`, `pareto-macs` where the study has a target, `history`, and `importances` where they are known."""
    columns: Sequence[Column]
    pictures: bytes | None
    """The contact sheet as PNG."""
    note: str
    """Why there is none."""


def page_of(content: Content) -> str:
    """The page as HTML that loads nothing from anywhere."""
    here = files("sesr_lab.results")
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    body = "\n".join(part for part in _parts(content) if part)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(content.name)}: report</title>
<style>
{style}</style></head>
<body>
{body}
<script>
{script}</script>
</body></html>
"""


def _parts(content: Content) -> list[str]:
    return [
        f"<h1>{escape(content.name)}</h1>",
        f'<p class="soft">{escape(content.description)}</p>' if content.description else "",
        *_headlines(content),
        '<div class="pair">',
        *_paretos(content),
        "</div>",
        *_front(content),
        *_pictures(content),
        '<div class="pair">',
        _importances(content),
        _figure("History", content.plots["history"], "In the order in which the trials began."),
        "</div>",
        *_table(content),
        f"<footer><p>sesr-lab {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. PSNR and SSIM: luma, validation"
        " pictures, border shaved. Beside this page lie the plots as PNG, and every digit in trials.csv.</p></footer>",
    ]


def _headlines(content: Content) -> list[str]:
    top = best(content.placed)
    assert top is not None  # a report has at least one trained network
    gain = "" if content.bicubic is None else f" ({top.psnr - content.bicubic:+.2f} over bicubic)"
    cost = content.costs[0]
    lines = [
        f'<p class="lead">Best: <b>{escape(top.name)}</b>, {top.psnr:.2f} dB{gain}, {_priced(top.cost, cost)}.</p>'
    ]
    near = min((item for item in content.placed if item.psnr >= top.psnr - NEAR_DB), key=lambda item: item.cost)
    if near is not top and top.cost > 0:
        lines.append(
            f"<p>Within {NEAR_DB:g} dB of it for {near.cost / top.cost:.0%} of the cost: <b>{escape(near.name)}</b>,"
            f" {near.psnr:.2f} dB, {_priced(near.cost, cost)}.</p>"
        )
    if not content.finished:
        lines.append(f"<p><b>The study has not finished</b>: {_count(len(content.trials))} ended so far.</p>")
    return lines


def _paretos(content: Content) -> list[str]:
    """The study's own plot, and the one by MACs where its own is by milliseconds."""
    tied = (
        f"within {content.spread.psnr_db:.2f} dB, twice the standard deviation between seeds in this study"
        if content.spread.measured_on
        else f"within {SPREAD_DB} dB, which another seed may turn round"
    )
    caption = (
        f"No other network is better than one of the Pareto set and costs no more. Tied with it: {tied}. Presets are"
        " the paper's networks."
    )
    if "pareto-macs" not in content.plots:
        return [_figure("Quality against cost", content.plots["pareto"], caption)]
    tools = ", ".join(sorted({str(trial.outcome.target_tool) for trial in content.trials if trial.outcome.target_tool}))
    said = f" Milliseconds are by {escape(tools)}." if tools else ""
    return [
        _figure("Quality against time", content.plots["pareto"], caption + said),
        _figure("Quality against MACs", content.plots["pareto-macs"], "The same networks by what they compute."),
    ]


def _front(content: Content) -> list[str]:
    """The Pareto set to choose from, and how to take a network."""
    front = [item for item in content.placed if item.on_front]
    every = -(-len(front) // _MOST_LISTED)
    rows = [
        f'<tr><td class="text">{escape(item.name)}</td><td>{item.psnr:.2f}</td><td>{item.cost:.2f}</td>'
        f'<td class="text"><code>{escape(item.trial.outcome.model or "")}</code></td></tr>'
        for item in front[::-1][::every][::-1]
    ]
    heads = f'<th>network</th><th>PSNR</th><th>{escape(content.costs[0].short)}</th><th class="text">MODEL</th>'
    left_out = f" Shown are {len(rows)} of its {len(front)} networks." if every > 1 else ""
    return [
        "<section><h2>The Pareto set</h2>",
        f'<p class="soft">Take one: <code>sesr-lab export MODEL -o network.onnx</code>.{left_out}</p>',
        f'<div class="scroll"><table class="front"><thead><tr>{heads}</tr></thead>',
        f"<tbody>{''.join(rows)}</tbody></table></div></section>",
    ]


def _pictures(content: Content) -> list[str]:
    if content.pictures is None:
        said = f'<h2>Pictures</h2><p class="soft">{escape(content.note)}</p>'
        return [said] if content.note else []
    data = f"data:image/png;base64,{base64.b64encode(content.pictures).decode()}"
    return [
        "<section><h2>The best networks on hard patches</h2>",
        f'<div class="pictures"><img alt="patches by bicubic, by networks, and as they were" src="{data}"></div>',
        '<p class="soft">Luma, each pixel enlarged; PSNR over each patch.</p></section>',
    ]


def _importances(content: Content) -> str:
    plot = content.plots.get("importances")
    return (
        ""
        if plot is None
        else _figure("What decides PSNR", plot, "What sets the best third apart, by PED-ANOVA; the sum is 100 %.")
    )


def _figure(title: str, plot: Plot, caption: str) -> str:
    figure = f"<figure>{plot.svg}\n<figcaption>{caption}</figcaption></figure>"
    return f"<section><h2>{escape(title)}</h2>\n{figure}</section>"


def _table(content: Content) -> list[str]:
    same = ", ".join(f"{name} {value}" for name, value in constants_of(content.columns).items())
    return [
        f"<h2>All {_count(len(content.trials))}</h2>" if len(content.trials) > 1 else "<h2>The trial</h2>",
        f'<p class="soft">The same in all of them: {escape(same)}.</p>' if same and len(content.trials) > 1 else "",
        f'<div class="scroll">{html_of(content.columns, content.trials, content.placed)}</div>',
    ]


def _count(number: int) -> str:
    return f"{number} trial{'s' if number != 1 else ''}"


def _priced(value: float, cost: Cost) -> str:
    return f"{value:.2f} {escape(cost.short)}"
