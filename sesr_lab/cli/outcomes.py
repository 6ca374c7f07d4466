"""Trials and studies as tables: what each network costs and how it scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from sesr_lab.cli.tables import Sheet, giga, show_next
from sesr_lab.cli.terminal import console
from sesr_lab.trials.outcome import Outcome, best_of
from sesr_lab.trials.outcome import pareto as pareto_of

if TYPE_CHECKING:
    from sesr_lab.sweep.confirmation import Confirmed
    from sesr_lab.sweep.records import Standing

_TELLING = ("running", "pruned", "fail", "known before")
"""Trials' states that say more of a study than how many networks it has."""
_SCORES = ("PSNR", "gain", "SSIM", "steps", "time", "")
_EXPENDABLE = ("steps", "time", "SSIM", "weights", "gain")


def outcome_table(outcomes: Iterable[Outcome], *, title: str, bicubic: float | None = None) -> Sheet:
    """Trials with what they cost (GMAC to 720p, ms on the study's target) and how they scored (dB), bicubic first."""
    outcomes = list(outcomes)
    best = best_of(outcomes)
    timed = any(outcome.latency_ms is not None for outcome in outcomes)
    costs = ["weights", "GMAC", "ms"] if timed else ["weights", "GMAC"]
    first = [] if bicubic is None else [["bicubic", *[""] * len(costs), f"{bicubic:.2f}", *[""] * 5]]
    styles = dict.fromkeys(range(len(first)), "dim")
    styles |= {len(first) + place: "bold green" for place, outcome in enumerate(outcomes) if outcome is best}
    rows = [*first, *(_cells(outcome, timed=timed) for outcome in outcomes)]
    return Sheet(title, ["trial", *costs, *_SCORES], rows, styles=styles, expendable=_EXPENDABLE)


def show_outcomes(
    outcomes: Sequence[Outcome], *, title: str, pareto: Sequence[str] = (), next_lines: Sequence[str] = ()
) -> None:
    """The end of a study on standard output: best first, against bicubic, and what to type next."""
    ranked = sorted(outcomes, key=lambda outcome: -(outcome.psnr or 0.0))
    bicubic = next((outcome.bicubic_psnr for outcome in outcomes if outcome.bicubic_psnr is not None), None)
    console().print(outcome_table(ranked, title=title, bicubic=bicubic))
    if pareto:
        by_macs = [outcome.label for outcome in pareto_of(outcomes, by_macs=True)]
        timed = any(outcome.latency_ms is not None for outcome in outcomes)
        cheaper = "faster on the target" if timed else "cheaper"
        console().print(Text(f"Pareto set (no other is both better and {cheaper}): {', '.join(pareto)}"))
        if timed and by_macs != list(pareto):
            console().print(Text(f"by MACs it would be: {', '.join(by_macs)}"))
    show_next(next_lines)


def show_confirmed(found: Sequence[Confirmed]) -> None:
    """A study's best networks, trained again: means over the seeds, and which of them cannot be told apart."""
    timed = any(each.latency_ms is not None for each in found)
    rows = [
        [
            each.network,
            giga(each.macs_720p),
            *([] if not timed else ["" if each.latency_ms is None else f"{each.latency_ms:.2f}"]),
            f"{each.mean:.2f}",
            f"{each.spread:.2f}",
            str(len(each.psnrs)),
            ", ".join(each.ties),
        ]
        for each in found
    ]
    columns = ["network", "GMAC", *(["ms"] if timed else []), "mean PSNR", "spread", "seeds", "ties with"]
    title = "trained again: means over the seeds"
    console().print(Sheet(title, columns, rows, styles={0: "bold green"}, expendable=["ties with", "seeds"]))


def show_standing(found: Sequence[Standing], *, whole: bool, unsent: Mapping[str, int]) -> None:
    """Where studies stand: a line for each, or all trials of one; what runs, and what waits for MLflow's stores."""
    if not found:
        print("no study is stored here; start one: sesr-lab sweep")
        return
    columns = ["study", "state", "networks", "best, dB", "best network", "other trials"]
    expendable = ["other trials", "best network"]
    console().print(Sheet("studies", columns, [_standing(item) for item in found], expendable=expendable))
    if whole:
        show_outcomes(found[0].outcomes, title=f"study {found[0].study}", pareto=found[0].pareto)
    for item in found:
        _show_running(item)
    for store, count in unsent.items():
        console().print(Text(f"{count} writes wait for {store}; send them: sesr-lab sync"))


def _show_running(item: Standing) -> None:
    if item.running:
        rows = [
            [
                each.label,
                "" if each.step is None else f"{each.step:,}" + (f" of {each.steps:,}" if each.steps else ""),
                "" if each.psnr is None else f"{each.psnr:.2f}",
                each.worker,
            ]
            for each in item.running
        ]
        console().print(
            Sheet(f"{item.study}: begun and not over, as last heard", ["trial", "step", "PSNR", "worker"], rows)
        )
    if item.left is not None:
        console().print(Text(f"{item.study}: about {duration(item.left.seconds)} left, by {item.left.rests_on}"))


def duration(seconds: float) -> str:
    """A time as one says it when it is an estimate: 40 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def gain(outcome: Outcome) -> str:
    """How far a network is above bicubic, with its sign; nothing without a score."""
    if outcome.psnr is None or outcome.bicubic_psnr is None:
        return ""
    return f"{outcome.psnr - outcome.bicubic_psnr:+.2f}"


def _standing(item: Standing) -> list[str]:
    done = str(item.done) if item.wanted is None else f"{item.done} of {item.wanted}"
    best = ["", ""] if item.best is None else [f"{item.best.psnr:.2f}", item.best.network]
    others = [f"{number} {state}" for state, number in item.counts.items() if number and state in _TELLING]
    return [item.study, "finished" if item.finished else "not finished", done, *best, ", ".join(others)]


def _cells(outcome: Outcome, *, timed: bool) -> list[str]:
    scores = ["", "", ""]
    if outcome.psnr is not None and outcome.ssim is not None:
        scores = [f"{outcome.psnr:.2f}", gain(outcome), f"{outcome.ssim:.4f}"]
    return [
        outcome.label,
        f"{outcome.params:,}",
        giga(outcome.macs_720p),
        *([] if not timed else ["" if outcome.latency_ms is None else f"{outcome.latency_ms:.2f}"]),
        *scores,
        f"{outcome.steps:,}",
        f"{outcome.seconds:.0f} s",
        "" if outcome.result == "finished" else outcome.result,
    ]
