"""How a trial ended, in plain values: what a study remembers, a table shows and a script reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Result = Literal["finished", "diverged", "out of memory", "failed", "over budget"]


@dataclass(frozen=True)
class Outcome:
    """How one trial ended."""

    label: str
    network: str
    scale: int
    settings: Mapping[str, int | str | bool]
    """m, f, feature_size and block; activation and input_residual where they are not the paper's."""
    result: Result
    reason: str
    run_id: str
    params: int
    macs_720p: int
    steps: int = 0
    seconds: float = 0.0
    psnr: float | None = None
    """Mean over the validation pictures in dB, of the best evaluation."""
    ssim: float | None = None
    final_psnr: float | None = None
    bicubic_psnr: float | None = None
    model: str | None = None
    """The registered version, as `models:/NAME/3`."""
    parent: str | None = None
    """The x2 version that it started from, or the file."""


def best_of(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The trained network with the highest PSNR."""
    trained = (outcome for outcome in outcomes if outcome.result == "finished")
    return max(trained, key=lambda outcome: outcome.psnr or 0.0, default=None)


def pareto(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The trained networks that no other beats in both PSNR and MACs, cheapest first."""
    trained = [outcome for outcome in outcomes if outcome.result == "finished" and outcome.psnr is not None]
    front: list[Outcome] = []
    for outcome in sorted(trained, key=lambda o: (o.macs_720p, -(o.psnr or 0.0))):
        if not front or (outcome.psnr or 0.0) > (front[-1].psnr or 0.0):
            front.append(outcome)
    return front
