"""Which networks are given up early. Pure but for Optuna's pruners: nothing is stored or stopped here.

A study of quality against cost has a rule of its own, as Optuna's pruners know one objective alone: at its rung, a
network is given up that some network of equal or lower cost beats, at the same step, by more than the margin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import optuna

from sesr_lab.study.spec import Pruning


@dataclass(frozen=True)
class Rung:
    """Where a network stood when it had trained for a part of its steps."""

    label: str
    step: int
    psnr: float
    cost: float
    """Milliseconds on the study's target, or else MACs."""
    given_up: str = ""
    """Why it was given up there, if it was: a driver that was killed just then does not judge again."""


def beaten_by(rung: Rung, others: Iterable[Rung], margin_db: float) -> Rung | None:
    """The best of the networks that make this one not worth its rest; None while there is none."""
    better = [
        other
        for other in others
        if other.step == rung.step and other.cost <= rung.cost and other.psnr > rung.psnr + margin_db
    ]
    return max(better, key=lambda other: other.psnr, default=None)


def pruner_of(pruning: Pruning, steps: int) -> optuna.pruners.BasePruner:
    """Optuna's pruner of that name; nothing is pruned before the rung of a training of so many steps."""
    first = max(1, round(pruning.rung * steps))
    if pruning.pruner == "successive-halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=first - 1)
