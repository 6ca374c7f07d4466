"""A second, longer look at a study's best networks: trained again, with several seeds, and compared by their means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sesr_lab.study.space import Choice
from sesr_lab.study.spec import Confirm, StudySpec
from sesr_lab.sweep.records import ENDLESS, Entry
from sesr_lab.trials.outcome import Outcome, pareto

SUFFIX = "-confirm"


@dataclass(frozen=True)
class Confirmed:
    """One network, trained with several seeds."""

    network: str
    macs_720p: int
    psnrs: tuple[float, ...]
    """Of each seed, in dB."""
    latency_ms: float | None = None
    ties: tuple[str, ...] = ()
    """Networks whose mean is nearer than the spread of the two."""
    model: str | None = None
    """The registered version of the seed whose score is nearest to the mean."""

    @property
    def mean(self) -> float:
        """In dB."""
        return fmean(self.psnrs)

    @property
    def spread(self) -> float:
        """From the worst seed to the best, in dB."""
        return max(self.psnrs) - min(self.psnrs)


def confirmation(spec: StudySpec, confirm: Confirm, entries: Sequence[Entry]) -> StudySpec:
    """The study that trains the best of `spec` again; entries are those of its trials."""
    budgets = ("steps", "epochs", "max_seconds")
    train = {key: value for key, value in spec.train.items() if key not in (*budgets, "seed")}
    named = [
        {**{key: value for key, value in settings.items() if key not in budgets}, "seed": spec.seed + index}
        for settings in _chosen(spec, confirm, entries)
        for index in range(confirm.seeds)
    ]
    changes: dict[str, object] = {
        "name": spec.name + SUFFIX,
        "description": f"the best networks of {spec.name}, trained again with {confirm.seeds} seeds each",
        "trials": ENDLESS,
        "space": {},
        "enqueue": tuple(named),
        "candidates": None,
        "train": {**train, "steps": confirm.steps},
        "pruning": None,
        "confirm": None,
        "patience": None,
        "max_failure_rate": None,
    }
    kept = {name: getattr(spec, name) for name in StudySpec.model_fields}
    return StudySpec(**kept | changes)


def seeds_of(entries: Iterable[Entry]) -> list[list[Outcome]]:
    """How the trainings of each network ended that came to their end."""
    groups: dict[str, list[Outcome]] = {}
    for entry in entries:
        if entry.outcome is not None and entry.outcome.result == "finished" and entry.twin is None:
            settings = {key: value for key, value in entry.settings.items() if key != "seed"}
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append(entry.outcome)
    return list(groups.values())


def middle(seeds: Sequence[Outcome]) -> Outcome:
    """The training whose score is nearest to the mean: it stands for the network."""
    mean = fmean(outcome.psnr or 0.0 for outcome in seeds)
    return min(seeds, key=lambda outcome: abs((outcome.psnr or 0.0) - mean))


def confirmed(
    networks: Iterable[Sequence[Outcome]], models: Mapping[str, str | None], seeds: int
) -> tuple[Confirmed, ...]:
    """What the trainings of each network say, the best mean first; those last of whose seeds some are missing.

    Args:
        models: the registered versions, by the labels of their trials.
        seeds: how many each network was to be trained with; one lucky seed is no mean.
    """
    found = [_confirmed(each, models.get(middle(each).label)) for each in networks]
    ranked = sorted(found, key=lambda each: (len(each.psnrs) < seeds, -each.mean, each.macs_720p))
    return tuple(_with_ties(each, ranked) for each in ranked)


def _chosen(spec: StudySpec, confirm: Confirm, entries: Sequence[Entry]) -> list[Mapping[str, Choice]]:
    """The settings of the Pareto set's networks, or of the best, at most `top` of them."""
    ended = {entry.outcome.label: entry for entry in entries if entry.outcome is not None and entry.twin is None}
    outcomes = [entry.outcome for entry in ended.values() if entry.outcome is not None]
    if spec.objective == "pareto":
        best = pareto(outcomes)
    else:
        best = [outcome for outcome in outcomes if outcome.result == "finished" and outcome.psnr is not None]
    ranked = sorted(best, key=lambda outcome: -(outcome.psnr or 0.0))[: confirm.top]
    return [ended[outcome.label].settings for outcome in ranked]


def _confirmed(seeds: Sequence[Outcome], model: str | None) -> Confirmed:
    first = seeds[0]
    psnrs = tuple(outcome.psnr or 0.0 for outcome in seeds)
    return Confirmed(first.label.partition("-")[2], first.macs_720p, psnrs, first.latency_ms, model=model)


def _with_ties(own: Confirmed, every: Sequence[Confirmed]) -> Confirmed:
    near = [
        other.network
        for other in every
        if other is not own and abs(other.mean - own.mean) <= max(other.spread, own.spread)
    ]
    return Confirmed(own.network, own.macs_720p, own.psnrs, own.latency_ms, tuple(near), own.model)
