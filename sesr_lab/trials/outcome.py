"""How a trial ended, in plain values: what a study remembers, a table shows and a script reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

Result = Literal["finished", "diverged", "out of memory", "failed", "over budget", "pruned"]

VERSION = 2
"""Of what a study's database keeps of an outcome; 1 had no version, and no `key`."""


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
    key: str = ""
    """The run's key; empty in what version 0.1 has stored, where the run's id is its key."""
    latency_ms: float | None = None
    """On the study's target, where it has one; so are the next three."""
    target: str | None = None
    target_input: str | None = None
    """The low-resolution picture's size, as in `640x360`."""
    target_tool: str | None = None
    """What estimated or measured it, with its version."""

    @property
    def cost(self) -> float:
        """What quality is weighed against: milliseconds on the study's target, or else MACs."""
        return self.macs_720p if self.latency_ms is None else self.latency_ms


_EMPTY: Mapping[str, object] = {
    "label": "",
    "network": "",
    "scale": 2,
    "settings": {},
    "result": "failed",
    "reason": "",
    "run_id": "",
    "params": 0,
    "macs_720p": 0,
}
"""What a stored record that lacks a key is taken to say."""


def record_of(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain JSON values, with the version of their form."""
    return {"version": VERSION, **asdict(outcome)}


def outcome_from(record: object) -> Outcome | None:
    """The outcome in a stored record of any version; None where it holds none.

    What another version knows and this one does not is passed over, what is missing has its default, and a score
    that is not a finite number is none.
    """
    if not isinstance(record, Mapping):
        return None
    values: dict[str, Any] = {}
    for field in fields(Outcome):
        default = _EMPTY.get(field.name) if field.default is MISSING else field.default
        value = record.get(field.name, default)
        values[field.name] = value if _fits(value, default) else default
    return Outcome(**values)


def _fits(value: object, default: object) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if default is None:
        return value is None or isinstance(value, int | float | str)
    if isinstance(default, int | float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def best_of(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The trained network with the highest PSNR."""
    trained = (outcome for outcome in outcomes if outcome.result == "finished" and outcome.psnr is not None)
    return max(trained, key=lambda outcome: outcome.psnr or 0.0, default=None)


def pareto(outcomes: Iterable[Outcome], *, by_macs: bool = False) -> list[Outcome]:
    """The trained networks that no other beats in both PSNR and cost, cheapest first.

    Args:
        by_macs: weigh PSNR against MACs in a study with a target too.
    """
    trained = [outcome for outcome in outcomes if outcome.result == "finished" and outcome.psnr is not None]
    front: list[Outcome] = []
    for outcome in sorted(trained, key=lambda o: (o.macs_720p if by_macs else o.cost, -(o.psnr or 0.0))):
        if not front or (outcome.psnr or 0.0) > (front[-1].psnr or 0.0):
            front.append(outcome)
    return front
