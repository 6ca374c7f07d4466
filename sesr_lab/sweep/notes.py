"""What the UI shows above a study and its run, and the colours of its Pareto set."""

from __future__ import annotations

from collections.abc import Sequence

from sesr_lab.trials.outcome import Outcome, best_of, pareto

MOST_ROWS = 20
_CHEAP, _GOOD = (0xF2, 0xA5, 0x41), (0xB0, 0x1E, 0x6E)


def study_note(description: str, outcomes: Sequence[Outcome], *, experiment_id: str, finished: bool) -> str:
    """Markdown: the best network, how many were trained, and the Pareto set, cheapest first, with links."""
    best, front = best_of(outcomes), pareto(outcomes)
    if best is None or best.psnr is None:
        return description
    gain = "" if best.bicubic_psnr is None else f", {best.psnr - best.bicubic_psnr:+.2f} over bicubic"
    trained = sum(outcome.result == "finished" for outcome in outcomes)
    state = "" if finished else "; it has not finished"
    timed = any(outcome.latency_ms is not None for outcome in front)
    shown = front[-MOST_ROWS:]
    left_out = len(front) - len(shown)
    gmacs = f"{best.macs_720p / 1e9:.2f} GMACs to 720p"
    lines = [
        f"**Best: {best.network} ×{best.scale}, {best.psnr:.2f} dB**{gain}, for {gmacs}.",
        f"{trained} networks were trained, of which {len(front)} are best for their cost{state}.",
        *([description] if description else []),
        "",
        f"| Pareto set | PSNR, dB | SSIM | {'ms | ' if timed else ''}GMACs | model |",
        f"|---|---|---|---|---|{'---|' if timed else ''}",
        *(_row(outcome, experiment_id, timed=timed) for outcome in shown),
        *([f"\nThe {left_out} cheapest are left out here."] if left_out else []),
    ]
    return "\n".join(lines)


def colours(count: int) -> list[str]:
    """Colours of a Pareto set, from the cheapest network to the best, each told from the next and from grey."""
    steps = [index / max(count - 1, 1) for index in range(count)]
    return [
        "#" + "".join(f"{round(low + at * (high - low)):02x}" for low, high in zip(_CHEAP, _GOOD, strict=True))
        for at in steps
    ]


def _row(outcome: Outcome, experiment_id: str, *, timed: bool) -> str:
    name = outcome.network
    if outcome.run_id and experiment_id:
        name = f"[{name}](#/experiments/{experiment_id}/runs/{outcome.run_id})"
    time = "" if not timed else f" {outcome.latency_ms:.2f} |" if outcome.latency_ms is not None else " |"
    gmacs = f"{outcome.macs_720p / 1e9:.2f}"
    ssim = "" if outcome.ssim is None else f"{outcome.ssim:.4f}"
    return f"| {name} | {outcome.psnr:.2f} | {ssim} |{time} {gmacs} | {_model(outcome.model)} |"


def _model(uri: str | None) -> str:
    """A link to a registered version, as the UI's addresses are."""
    if not uri:
        return ""
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    return f"[version {version}](#/models/{name}/versions/{version})"
