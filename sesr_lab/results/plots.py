"""A study's plots, by matplotlib: quality against cost, history, importances; as PNG, and as SVG for a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from sesr_lab.results.ranking import Cost, Ranked, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart on white and on black, and by the colour-blind.
FRONT, TIED, OTHER = "#d55e00", "#cc9a06", "#5b8db8"
_INK = "#010203"
"""Stands for the colour of the page's text, which is put in its place."""
_SIZE = (4.6, 3.8)
_POINTS = "points-"
_DASHES = (0, (4, 3))
_PLACES = ((6, 4), (6, -11), (-6, 5), (-6, -11), (0, 9), (0, -16), (14, 12), (14, -20))
"""Where a name may stand beside its point, in points."""
_MOST_NAMED, _MOST_COVERED = 10, 2
"""Names of the Pareto set, and points that a name may cover."""


def pareto_figure(placed: Sequence[Ranked], cost: Cost, bicubic_psnr: float | None) -> Figure:
    """PSNR against cost: the Pareto set joined and named, presets named, bicubic as a line."""
    figure, axes = _figure()
    front = [item for item in placed if item.on_front]
    _draw_bicubic(axes, placed, bicubic_psnr)
    axes.step([i.cost for i in front], [i.psnr for i in front], where="post", color=FRONT, linewidth=1.2, alpha=0.7)
    _draw_points(axes, [(item.cost, item, index) for index, item in enumerate(placed)])
    for label, colour, marker in _legend(placed):
        axes.scatter([], [], c=colour, marker=marker, s=30, linewidths=0, label=label)
    if placed and max(i.cost for i in placed) > 8 * max(min(i.cost for i in placed), 1e-9):
        axes.set_xscale("log")
        axes.xaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel(cost.name)
    axes.set_ylabel("PSNR, dB")
    axes.margins(0.08)
    _put_legend(figure, axes)
    _arrange(figure)
    _name_points(axes, placed)
    return figure


def history_figure(trials: Sequence[Trial], placed: Sequence[Ranked], bicubic_psnr: float | None) -> Figure:
    """PSNR by trial in the order in which they began, and the best so far."""
    figure, axes = _figure()
    _draw_bicubic(axes, placed, bicubic_psnr)
    by_id = {id(item.trial): (index, item) for index, item in enumerate(placed)}
    points: list[tuple[float, Ranked, int]] = []
    numbers: list[int] = []
    best: list[float] = []
    for number, trial in enumerate(trials, start=1):
        if id(trial) not in by_id:
            continue
        index, item = by_id[id(trial)]
        points.append((number, item, index))
        numbers.append(number)
        best.append(max([item.psnr, *best[-1:]]))
    _draw_points(axes, points)
    axes.step(numbers, best, where="post", color=_INK, linewidth=1.2, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("PSNR, dB")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(0.05)
    _put_legend(figure, axes)
    _arrange(figure)
    return figure


def importances_figure(importances: Mapping[str, float]) -> Figure:
    """How much each setting decides PSNR: parts of 1."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    figure, axes = _figure(height=0.9 + 0.32 * max(len(ordered), 1))
    bars = axes.barh([name for name, _ in ordered], [value for _, value in ordered], color=OTHER, height=0.7)
    axes.bar_label(bars, [f"{value:.0%}" for _, value in ordered], padding=4, color=_INK)
    axes.set_xlim(0, max([*importances.values(), 0.01]) * 1.15)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(False, axis="y")
    _arrange(figure)
    return figure


def titles_of(placed: Sequence[Ranked]) -> list[str]:
    """What is said of each network when it is pointed at, in the order in which they were ranked."""
    return [_said_of(item) for item in placed]


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG, dark on white."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150, facecolor="white")
    return image.getvalue()


def svg_of(figure: Figure, titles: Sequence[str], name: str) -> str:
    """The figure as an SVG element in the colours of the page; a point's title is shown when it is pointed at.

    Args:
        titles: of the points, in the order in which they were ranked.
        name: part of the ids inside, by which elements on one page are told apart.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', lambda found: f"{found[1]}{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", svg, count=1)

    def titled(group: re.Match[str]) -> str:
        """The group with a title inside each of its points."""
        places = iter(group[1].split("-"))
        return re.sub(r"(<use [^>]*?)/>", lambda use: f"{use[1]}>{_title(titles, next(places))}</use>", group[0])

    return re.sub(rf'<g id="{name}-{_POINTS}([\d-]+)">.*?</g>\s*</g>', titled, svg, flags=re.DOTALL)


def _title(titles: Sequence[str], place: str) -> str:
    return f"<title>{escape(titles[int(place)])}</title>"


def _said_of(item: Ranked) -> str:
    outcome = item.trial.outcome
    gain = "" if outcome.bicubic_psnr is None else f" ({item.psnr - outcome.bicubic_psnr:+.2f})"
    time = "" if outcome.latency_ms is None else f"\n{outcome.latency_ms:.2f} ms"
    costs = f"{outcome.macs_720p / 1e9:.2f} GMACs{time}\n{outcome.params:,} weights"
    return f"{outcome.label}\n{item.psnr:.2f} dB{gain}\n{costs}"


def _figure(height: float = _SIZE[1]) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.tick_params(colors=_INK, labelsize=10)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(True, color=_INK, alpha=0.13, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _arrange(figure: Figure) -> None:
    """Finds everything's place once, not again for each file."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _draw_points(axes: Axes, points: Sequence[tuple[float, Ranked, int]]) -> None:
    """Points at (x, PSNR), one artist for each kind of them; its id holds their places among the ranked."""
    kinds: dict[tuple[str, int, str], list[tuple[float, float, int]]] = {}
    for x, item, index in points:
        colour, size = (FRONT, 36) if item.on_front else (TIED, 26) if item.is_tied else (OTHER, 20)
        kinds.setdefault((colour, size, "D" if item.preset else "o"), []).append((x, item.psnr, index))
    for (colour, size, marker), found in kinds.items():
        xs, ys, places = zip(*found, strict=True)
        gid = _POINTS + "-".join(map(str, places))
        axes.scatter(xs, ys, s=size, c=colour, marker=marker, linewidths=0, zorder=3, gid=gid)


def _draw_bicubic(axes: Axes, placed: Sequence[Ranked], psnr: float | None) -> None:
    """A line at bicubic's PSNR; where it lies so far below that it would press the networks together, words."""
    if psnr is None:
        return
    lowest, highest = min(item.psnr for item in placed), max(item.psnr for item in placed)
    if lowest - psnr > 0.5 * (highest - lowest):
        axes.plot([], [], color=_INK, linestyle=_DASHES, linewidth=1, label=f"bicubic: {psnr:.2f} dB, below")
    else:
        axes.axhline(psnr, color=_INK, linestyle=_DASHES, linewidth=1, label="bicubic")


def _legend(placed: Sequence[Ranked]) -> list[tuple[str, str, str]]:
    entries = [
        ("Pareto set", FRONT, "o", any(item.on_front for item in placed)),
        ("tied with it", TIED, "o", any(item.is_tied for item in placed)),
        ("other", OTHER, "o", any(not item.on_front and not item.is_tied for item in placed)),
        ("presets", OTHER, "D", any(item.preset for item in placed)),
    ]
    return [(label, colour, marker) for label, colour, marker, is_there in entries if is_there]


def _put_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside upper left", ncols=3, frameon=False, labelcolor=_INK, fontsize=9,
            handletextpad=0.3, columnspacing=1.2, borderaxespad=0.2,
        )  # fmt: skip


def _name_points(axes: Axes, placed: Sequence[Ranked]) -> None:
    """Names some points, the best first, where no other name is and few points are; one without room is left out."""
    points = axes.transData.transform([(item.cost, item.psnr) for item in placed])
    taken: list[Any] = []
    for item in _worth_naming(placed):
        texts = [_write_name(axes, item, right, up) for right, up in _PLACES]
        boxes = [text.get_window_extent().expanded(1.08, 1.0) for text in texts]  # a reader's font may be wider
        free = [i for i, box in enumerate(boxes) if _is_free(box, axes.get_window_extent(), taken)]
        covered = {i: boxes[i].count_contains(points) for i in free}
        chosen = min(free, key=covered.__getitem__, default=None)
        if chosen is not None and covered[chosen] <= _MOST_COVERED:
            taken.append(boxes[chosen])
        else:
            chosen = None
        for i, text in enumerate(texts):
            if i != chosen:
                text.remove()


def _worth_naming(placed: Sequence[Ranked]) -> list[Ranked]:
    """Of each preset the best network, and the Pareto set as far as a reader can take it in."""
    named: dict[str, Ranked] = {}
    for item in sorted(placed, key=lambda item: -item.psnr):
        if item.preset:
            named.setdefault(item.preset, item)
    front = [item for item in placed if item.on_front and item.preset is None]
    every = max(1, -(-len(front) // _MOST_NAMED))
    return [*front[::-every], *named.values()]


def _write_name(axes: Axes, item: Ranked, right: float, up: float) -> Any:
    name = item.preset.upper() if item.preset else item.name
    side = "left" if right > 0 else "right" if right < 0 else "center"
    at = (item.cost, item.psnr)
    return axes.annotate(name, at, (right, up), textcoords="offset points", ha=side, fontsize=9, color=_INK)


def _is_free(box: Any, inside: Any, taken: Sequence[Any]) -> bool:
    fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
    return bool(fits and not any(box.overlaps(other) for other in taken))
