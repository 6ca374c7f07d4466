"""The networks of a study against each other: the Pareto set, what is tied with it, and what a cost is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sesr_lab.study.config import PRESETS
from sesr_lab.trials.outcome import Outcome

SPREAD_DB = 0.02
"""Two networks this close are tied: another seed moves a network's PSNR by about as much."""
_FEWEST_PAIRS = 3
"""Networks trained with several seeds that a study must hold before its own spread is believed."""

Settings = Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class Trial:
    """How a trial ended, and all that tells it from the study's others."""

    outcome: Outcome
    settings: Settings
    """The network's, and what else the study searches: a learning rate, a seed."""

    @property
    def name(self) -> str:
        """Of the network, as in `m5-f16-p256`."""
        return self.outcome.network.replace("-collapsed", "")

    @property
    def preset(self) -> str | None:
        """The paper's name for this network, if it is one of the paper's."""
        settings = self.outcome.settings
        if settings.get("activation", "prelu") != "prelu" or not settings.get("input_residual", True):
            return None
        shape = {key: settings.get(key) for key in ("m", "f", "feature_size")}
        return next((name for name, preset in PRESETS.items() if preset == shape), None)


@dataclass(frozen=True)
class Cost:
    """What networks are ranked by beside PSNR: less is better."""

    name: str
    """As an axis is labelled: `GMACs to 720p`."""
    short: str
    """As it stands beside a number: `GMACs`."""
    key: str
    """As programs call it: `gmacs`."""
    values: Sequence[float | None]
    """One for each trial, in the trials' order; None where it is not known."""


@dataclass(frozen=True)
class Ranked:
    """A trained network among the others."""

    trial: Trial
    psnr: float
    cost: float
    on_front: bool
    """Whether no other is better and costs no more."""
    is_tied: bool
    """Whether it is not on the front, but within the spread of the best that costs no more."""

    @property
    def name(self) -> str:
        """Of the network."""
        return self.trial.name

    @property
    def preset(self) -> str | None:
        """The paper's name for it, if it has one."""
        return self.trial.preset


@dataclass(frozen=True)
class Spread:
    """By how much two networks may differ and yet be tied."""

    psnr_db: float
    measured_on: int
    """Networks of the study that several seeds have trained; 0 where SPREAD_DB is taken."""


def costs_of(trials: Sequence[Trial]) -> list[Cost]:
    """What the trials cost: milliseconds first, where the study has a target, and MACs."""
    macs = Cost("GMACs to 720p", "GMACs", "gmacs", [trial.outcome.macs_720p / 1e9 for trial in trials])
    scored = [trial.outcome for trial in trials if trial.outcome.psnr is not None]
    timed = [outcome for outcome in scored if outcome.latency_ms is not None]
    if not timed:
        return [macs]
    size = f", {timed[0].target_input} in" if timed[0].target_input else ""
    name = f"ms on {timed[0].target or 'the target'}{size}"
    return [Cost(name, "ms", "latency_ms", [trial.outcome.latency_ms for trial in trials]), macs]


def spread_of(trials: Sequence[Trial]) -> Spread:
    """Twice the standard deviation between seeds, where the study has trained networks with several; SPREAD_DB else."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for trial in trials:
        if trial.outcome.result == "finished" and trial.outcome.psnr is not None:
            key = tuple(sorted((name, value) for name, value in trial.settings.items() if name != "seed"))
            groups.setdefault((trial.outcome.network, trial.outcome.scale, *key), []).append(trial.outcome.psnr)
    repeated = [group for group in groups.values() if len(group) > 1]
    if len(repeated) < _FEWEST_PAIRS:
        return Spread(SPREAD_DB, 0)
    squares = sum(sum((value - sum(group) / len(group)) ** 2 for value in group) for group in repeated)
    return Spread(2 * math.sqrt(squares / sum(len(group) - 1 for group in repeated)), len(repeated))


def ranked(trials: Sequence[Trial], cost: Cost, spread: Spread) -> list[Ranked]:
    """The trained networks, cheapest first, and the better first among equally cheap ones."""
    trained = [
        (price, -trial.outcome.psnr, index, trial)
        for index, (trial, price) in enumerate(zip(trials, cost.values, strict=True))
        if trial.outcome.result == "finished" and trial.outcome.psnr is not None and price is not None
    ]
    placed: list[Ranked] = []
    highest = float("-inf")
    for price, loss, _, trial in sorted(trained, key=lambda item: item[:3]):
        on_front, is_tied = -loss > highest, -loss >= highest - spread.psnr_db
        highest = max(highest, -loss)
        placed.append(Ranked(trial, -loss, price, on_front, is_tied and not on_front))
    return placed


def best(placed: Iterable[Ranked]) -> Ranked | None:
    """The network with the highest PSNR, the cheapest of these."""
    return max(placed, key=lambda item: (item.psnr, -item.cost), default=None)
