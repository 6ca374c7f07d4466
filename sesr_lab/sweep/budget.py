"""What a study may use, and whether it has used it up. Pure: the clock is handed in, and nothing is stored here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sesr_lab.study.spec import StudySpec
from sesr_lab.trials.outcome import Outcome, pareto

SPENT = "sesr:spent"
"""The attribute of a stored study in which it is kept what its earlier lives have spent."""
SPREAD_DB = 0.02
"""What differs by less than this between two seeds of one network is no gain."""
FAILURES_COUNT_FROM = 4
"""A failure rate means something from so many trials on."""


@dataclass(frozen=True)
class Limits:
    """What a study may use; None is no limit."""

    trials: int
    timeout_s: float | None = None
    device_s: float | None = None
    patience: int | None = None
    """So many networks in a row that gain nothing."""
    max_failure_rate: float | None = None
    """The part of its networks, from 0 to 1, that may fail."""


@dataclass(frozen=True)
class Spent:
    """What a study has used in all its lives."""

    elapsed_s: float = 0.0
    lost_s: float = 0.0
    """Seconds of devices for attempts that were lost, and that no outcome counts."""


class Budget:
    """The limits of one study and what it has used, over all its lives."""

    def __init__(self, limits: Limits, objective: str, clock: Callable[[], float], before: Spent | None = None) -> None:
        """A budget from which `before` was spent in earlier lives; `clock` gives seconds."""
        self.limits, self.objective, self._clock, self._before = limits, objective, clock, before or Spent()
        self._began, self._lost_s = clock(), 0.0

    def lose(self, device_s: float) -> None:
        """Counts a device's seconds that came to nothing."""
        self._lost_s += device_s

    def spent(self) -> Spent:
        """What is spent by now."""
        elapsed = self._before.elapsed_s + self._clock() - self._began
        return Spent(elapsed, self._before.lost_s + self._lost_s)

    def kept(self, stored: object) -> dict[str, float]:
        """What the study keeps at the end of this life, if `stored` is there by now: other drivers spend beside it."""
        before, own = _spent(stored), self.spent()
        return {
            "elapsed_s": max(before.elapsed_s, own.elapsed_s),
            "lost_s": before.lost_s + self._lost_s,
        }

    def over(self, outcomes: Sequence[Outcome], in_the_air: int = 0) -> str | None:
        """Why nothing more may be begun, in words; None while there is room.

        Args:
            outcomes: how the networks ended that count, in order.
            in_the_air: how many are being trained.
        """
        limits, spent = self.limits, self.spent()
        if len(outcomes) + in_the_air >= limits.trials:
            return f"all {limits.trials} networks are trained"
        if limits.timeout_s is not None and spent.elapsed_s >= limits.timeout_s:
            return f"its {limits.timeout_s:g} seconds are over"
        used = spent.lost_s + sum(outcome.seconds for outcome in outcomes)
        if limits.device_s is not None and used >= limits.device_s:
            return f"its {limits.device_s / 3600:g} device-hours are used"
        if limits.patience is not None and since_gain(outcomes, self.objective) >= limits.patience:
            return f"{limits.patience} networks in a row gained nothing"
        failed = sum(outcome.result in ("failed", "diverged", "out of memory") for outcome in outcomes)
        rate = limits.max_failure_rate
        if rate is not None and len(outcomes) >= FAILURES_COUNT_FROM and failed > rate * len(outcomes):
            return f"{failed} of {len(outcomes)} networks failed, more than {rate:.0%}"
        return None


def budget_of(spec: StudySpec, stored: object, clock: Callable[[], float]) -> Budget:
    """The budget of a study of which its earlier lives have stored what they spent."""
    limits = Limits(
        trials=spec.trials,
        timeout_s=spec.timeout,
        device_s=None if spec.device_hours is None else 3600 * spec.device_hours,
        patience=spec.patience,
        max_failure_rate=spec.max_failure_rate,
    )
    return Budget(limits, spec.objective, clock, _spent(stored))


def _spent(stored: object) -> Spent:
    known: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
    return Spent(float(known.get("elapsed_s", 0.0)), float(known.get("lost_s", 0.0)))


def since_gain(outcomes: Sequence[Outcome], objective: str) -> int:
    """How many networks ago there was a gain: of the best PSNR, or of the area under the Pareto set."""
    gained, best = 0, -math.inf
    for count in range(1, len(outcomes) + 1):
        value = _value(outcomes[:count], outcomes, objective)
        if value > best + SPREAD_DB:
            gained, best = count, value
    return len(outcomes) - gained


def _value(outcomes: Sequence[Outcome], every: Sequence[Outcome], objective: str) -> float:
    """The best PSNR in dB, or the area between the Pareto set and the worst of all, in dB times doublings of cost."""
    front = pareto(outcomes)
    if not front:
        return -math.inf
    if objective == "psnr":
        return front[-1].psnr or 0.0
    trained = [outcome for outcome in every if outcome.result == "finished" and outcome.psnr is not None]
    dearest, floor = max(o.cost for o in trained) * 2, min(o.psnr or 0.0 for o in trained)
    ends = [*(outcome.cost for outcome in front[1:]), dearest]
    areas = [
        ((outcome.psnr or 0.0) - floor) * math.log2(end / outcome.cost)
        for outcome, end in zip(front, ends, strict=True)
    ]
    return sum(areas)
