"""A second, longer look at a study's best networks: trained again, with several seeds, and compared by their means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sesr_lab.study.space import Choice
from sesr_lab.study.spec import Confirm, StudySpec
from sesr_lab.sweep.records import Entry
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
        "trials": 100_000,  # it ends with its list
        "space": {},
        "enqueue": tuple(named),
        "candidates": None,
        "train": {**train, "steps": confirm.steps},
        "pruning": None,
        "confirm": None,
        "patience": None,
    }
    kept = {name: getattr(spec, name) for name in StudySpec.model_fields}
    return StudySpec(**kept | changes)


def confirmed(entries: Iterable[Entry], outcomes: Iterable[Outcome]) -> tuple[Confirmed, ...]:
    """What the trials of such a study say, the best mean first.

    Args:
        entries: its trials.
        outcomes: how they ended, with the names of their registered versions.
    """
    by_label = {outcome.label: outcome for outcome in outcomes}
    groups: dict[str, list[Outcome]] = {}
    for entry in entries:
        if entry.outcome is None or entry.outcome.result != "finished" or entry.twin is not None:
            continue
        settings = {key: value for key, value in entry.settings.items() if key != "seed"}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(by_label[entry.outcome.label])
    found = [_confirmed(group) for group in groups.values()]
    ranked = sorted(found, key=lambda each: (-each.mean, each.macs_720p))
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


def _confirmed(group: Sequence[Outcome]) -> Confirmed:
    psnrs = tuple(outcome.psnr or 0.0 for outcome in group)
    middle = min(group, key=lambda outcome: abs((outcome.psnr or 0.0) - fmean(psnrs)))
    network = group[0].label.partition("-")[2]
    return Confirmed(network, group[0].macs_720p, psnrs, group[0].latency_ms, model=middle.model)


def _with_ties(own: Confirmed, every: Sequence[Confirmed]) -> Confirmed:
    near = [
        other.network
        for other in every
        if other is not own and abs(other.mean - own.mean) <= max(other.spread, own.spread)
    ]
    return Confirmed(own.network, own.macs_720p, own.psnrs, own.latency_ms, tuple(near), own.model)
