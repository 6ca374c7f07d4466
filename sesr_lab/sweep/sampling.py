"""Optuna's samplers over a copy of the study in memory, pinned: what a study began with, it goes on with.

The copy keeps the database out of a draw, and a draw out of the database: only what is trained is stored. Each draw
has a seed of its own, taken from the study's seed and the number of its trials, so that a study that was killed draws
what it would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from sesr_lab.errors import ConfigError
from sesr_lab.study.space import Axis, Choice, Range
from sesr_lab.study.spec import StudySpec

KINDS = {"TPESampler": optuna.samplers.TPESampler, "RandomSampler": optuna.samplers.RandomSampler}


def directions(spec: StudySpec) -> list[StudyDirection]:
    """What Optuna is asked for: the highest PSNR, and the fewest MACs where the study wants both."""
    both = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    return both if spec.objective == "pareto" else both[:1]


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The study's space in Optuna's words."""
    return {key: _distribution(axis) for key, axis in spec.space.items()}


def sampler_of(spec: StudySpec) -> dict[str, Any]:
    """The sampler of a new study, as it is stored: its class, and every argument that decides what it draws."""
    if spec.sampler == "random":
        return {"class": "RandomSampler", "arguments": {}}
    arguments = {
        "multivariate": spec.objective == "psnr",
        "n_startup_trials": 8,
        "n_ei_candidates": 24,
        "constant_liar": True,
    }
    return {"class": "TPESampler", "arguments": arguments}


def pinned(spec: StudySpec, stored: object) -> dict[str, Any]:
    """The sampler that a stored study goes on with: the one it began with; version 0.1.0 stored no arguments.

    Raises:
        ConfigError: it is one that this version does not have.
    """
    now = sampler_of(spec)
    if not isinstance(stored, Mapping):
        return now
    if stored.get("class") != now["class"]:
        raise ConfigError(
            f"study {spec.name}: it was begun with the sampler {stored.get('class')}, which this version does not "
            f"have; give the study another name"
        )
    return {"class": now["class"], "arguments": {**now["arguments"], **stored.get("arguments", {})}}


class Draws:
    """What a sampler would try next, given the trials that it was shown."""

    def __init__(self, spec: StudySpec, sampler: Mapping[str, Any]) -> None:
        self.seed, self.sampler = spec.seed, sampler
        self.distributions = distributions(spec)
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(storage=self._storage, study_name=spec.name, directions=directions(spec))
        self._add(create_trial(state=TrialState.RUNNING))
        self._asking = self._study.trials[0]
        """Who asks, at every draw; the sampler leaves it out of what it looks at."""
        self._running: dict[int, int] = {}

    def show(self, number: int, trial: FrozenTrial) -> None:
        """Shows the sampler a trial of the study, running or ended; it may be shown again once it has ended."""
        known = self._running.get(number)
        if trial.state == TrialState.RUNNING:
            if known is None:
                self._running[number] = self._add(create_trial(**_plain(trial), state=TrialState.RUNNING))
        elif known is not None:
            self._study.tell(known, trial.values, state=trial.state)
            del self._running[number]
        else:
            values = trial.values if trial.state == TrialState.COMPLETE else None
            self._add(create_trial(**_plain(trial), state=trial.state, values=values))

    def draw(self, trials: int, attempt: int, given: Mapping[str, Choice]) -> dict[str, Choice]:
        """The sampler's settings for the next trial after `trials`, those in `given` kept."""
        kind = KINDS[self.sampler["class"]]
        sampler = kind(seed=_seed(self.seed, trials, attempt), **self.sampler["arguments"])
        fixed = {key: value for key, value in given.items() if key in self.distributions}
        # Anew for each draw: a study object goes on with the trials that it has read first.
        study = optuna.load_study(storage=self._storage, study_name=self._study.study_name)
        together = sampler.infer_relative_search_space(study, self._asking)
        together = {name: axis for name, axis in together.items() if name not in fixed}
        known = sampler.sample_relative(study, self._asking, together) | fixed
        for name, axis in self.distributions.items():
            if isinstance(axis, CategoricalDistribution) and axis.single():
                known[name] = axis.choices[0]
            elif name not in known:
                known[name] = sampler.sample_independent(study, self._asking, name, axis)
        return {name: known[name] for name in self.distributions}

    def _add(self, trial: FrozenTrial) -> int:
        self._study.add_trial(trial)
        return len(self._study.get_trials(deepcopy=False)) - 1


def _plain(trial: FrozenTrial) -> dict[str, Any]:
    """What a sampler looks at, without what we keep beside it."""
    return {
        "params": trial.params,
        "distributions": trial.distributions,
        "intermediate_values": trial.intermediate_values,
    }


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, Range):
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    return CategoricalDistribution(axis)


def _seed(*parts: int) -> int:
    """32 bits that depend on all parts, whatever their size."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
