"""What the UI shows above a run: its headline first, since the UI folds the rest away."""

from __future__ import annotations

from sesr_lab.trials.lab import Task
from sesr_lab.trials.outcome import Outcome

NOTE, COLOUR = "mlflow.note.content", "mlflow.runColor"
"""Tags that MLflow's UI shows as a run's description, and draws it in."""
DARK = "#3b4148"
"""Of a study's own run, which is none of its trials."""
GREY = "#b8bec5"
"""Of a study's trials that are over: those of its Pareto set get colours of their own."""


def beginning(task: Task) -> str:
    """Of a run that is being trained."""
    return f"**{_what(task)}**: in training"


def ending(task: Task, outcome: Outcome, *, where: str = "") -> str:
    """Of a run that is over; `where` is what trained it."""
    if outcome.result != "finished" or outcome.psnr is None:
        return f"**{_what(task)}: {outcome.result}**. {outcome.reason}".strip()
    gain = "" if outcome.bicubic_psnr is None else f", {outcome.psnr - outcome.bicubic_psnr:+.2f} over bicubic,"
    time = "" if outcome.latency_ms is None else f", {outcome.latency_ms:.2f} ms on {outcome.target}"
    cost = f"{outcome.macs_720p / 1e9:.2f} GMACs to 720p{time}"
    start = f"started from {outcome.parent}" if outcome.parent else "from scratch"
    ssim = "" if outcome.ssim is None else f"; SSIM {outcome.ssim:.4f}"
    by = f" by {where}" if where else ""
    return (
        f"**{outcome.psnr:.2f} dB**{gain} for {cost}: {_what(task)}\n\n"
        f"{outcome.steps:,} steps in {outcome.seconds:.0f} s{by}, {start}, on {task.config.data}{ssim}."
    )


def closing(task: Task, outcome: Outcome, *, where: str = "") -> dict[str, str]:
    """The tags with which a run ends."""
    grey = {COLOUR: GREY} if task.study_key else {}
    return {NOTE: ending(task, outcome, where=where), **grey}


def _what(task: Task) -> str:
    return f"{task.config.architecture.name} ×{task.config.scale}"
