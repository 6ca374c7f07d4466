"""Which network a study trains next: those that were named, those that are left, and the sampler last. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

from sesr_lab.errors import ConfigError
from sesr_lab.network.cost import costs
from sesr_lab.study.config import TrialConfig
from sesr_lab.study.space import Choice, holds
from sesr_lab.study.spec import StudySpec

DRAWS = 5
"""So many draws of the sampler that are known or over the limit, and a network that is neither is drawn blindly."""
GIVE_UP = 100
"""So many known networks in a row from a space that cannot be listed, and it counts as exhausted."""
COST_AXES = ("m", "f")
"""The settings on which the MACs of a collapsed network depend."""

Settings = Mapping[str, Choice]
Draw = Callable[[int, Settings], dict[str, Choice]]
"""The sampler: its n-th draw for the next trial, some settings given."""


@dataclass(frozen=True)
class Point:
    """One network that can be trained, and what it costs."""

    settings: Settings
    config: TrialConfig
    fingerprint: str
    macs: int
    named: Settings | None = None
    """What the study asked for by name, where it did."""


@dataclass(frozen=True)
class History:
    """What a study has tried: finished, running and refused trials alike."""

    fingerprints: Collection[str] = frozenset()
    named: Sequence[Settings] = field(default=())
    trials: int = 0
    """How many were begun: with the study's seed it decides what is drawn next, whoever draws."""


class Search:
    """The search of one study. What does not change while it runs is computed once."""

    def __init__(self, spec: StudySpec, candidates: Sequence[Settings] = ()) -> None:
        """The search of `spec`, which tries `candidates` and the networks that it names first.

        Raises:
            ConfigError: none of its networks fits the study's limit.
        """
        self.spec = spec
        self.named = [*candidates, *spec.enqueue]
        self._check_limit()

    def next(self, history: History, remaining: int, draw: Draw) -> Point | None:
        """The next network to train; None when none is left that was not tried.

        Args:
            remaining: how many the study has yet to begin.
        """
        seen = set(history.fingerprints)
        asked_for = (self.point(self._complete(each, draw), each) for each in self.named if each not in history.named)
        first = next((point for point in asked_for if point.fingerprint not in seen), None)
        if first is not None or not self.spec.space:
            return first
        chance = random.Random(f"{self.spec.seed}:{history.trials}")
        if self.fitting is None:
            drawn = (self._within_limit(self.point(draw(n, {})), chance) for n in range(GIVE_UP if self._pairs else 0))
            return next((point for point in drawn if point.fingerprint not in seen), None)
        unseen = [point for point in self.fitting if point.fingerprint not in seen]
        if len(unseen) > remaining:  # else all of them will be trained, in whatever order
            draws = (self._listed.get(_key(draw(n, {}))) for n in range(DRAWS))
            found = next((point for point in draws if point and point.fingerprint not in seen), None)
            if found is not None:
                return found
        return chance.choice(unseen) if unseen else None

    def point(self, settings: Settings, named: Settings | None = None) -> Point:
        """The network with these settings.

        Raises:
            ConfigError: they do not make a trial.
        """
        config = self.spec.trial(settings)
        return Point(settings, config, config.fingerprint, macs_of(config), named)

    def over(self, point: Point) -> bool:
        """Whether the network costs more than the study allows."""
        return self.spec.max_macs is not None and point.macs > self.spec.max_macs

    def outside(self, settings: Settings) -> str:
        """What keeps settings that came from elsewhere out of the study; nothing if they belong to it."""
        strange = [key for key in settings if key not in self.spec.space]
        if strange:
            return f"{strange[0]} is not searched by the study"
        wrong = [key for key, value in settings.items() if not holds(self.spec.space[key], value)]
        return f"{wrong[0]} = {settings[wrong[0]]!r} is not in the study's space" if wrong else ""

    @cached_property
    def fitting(self) -> list[Point] | None:
        """All networks of the space that fit the limit, in order; None where it cannot be listed."""
        points = self.spec.points
        if points is None:
            return None
        cheap = [settings for settings in points if _pair(self._base, settings) in self._pairs]
        return [self.point(settings) for settings in cheap]

    @cached_property
    def _listed(self) -> dict[tuple[tuple[str, Choice], ...], Point]:
        return {_key(point.settings): point for point in self.fitting or ()}

    @cached_property
    def _base(self) -> TrialConfig:
        return self.spec.trial({})

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], int]:
        """MACs of every m and f of the space that fit the limit."""
        axes = [self.spec.space.get(key, (getattr(self._base, key),)) for key in COST_AXES]
        every = product(*(axis for axis in axes if isinstance(axis, tuple)))
        priced = {(int(m), int(f)): _macs(int(m), int(f), self._base) for m, f in every}
        limit = self.spec.max_macs
        return {pair: macs for pair, macs in priced.items() if limit is None or macs <= limit}

    def _check_limit(self) -> None:
        limit = self.spec.max_macs
        if limit is None or (self.spec.space and self._pairs):
            return
        named = [self.spec.trial({**self._first, **settings}) for settings in self.named]
        if any(macs_of(config) <= limit for config in named):
            return
        small = min([*named, *([self.spec.trial(self._first)] if self.spec.space else [])], key=macs_of, default=None)
        if small is not None:
            raise ConfigError(
                f"study {self.spec.name}: max_macs: none of its networks fits {limit / 1e9:g} GMAC; the cheapest, "
                f"{small.architecture.short_name}, takes {macs_of(small) / 1e9:.3f}; raise it, or add smaller networks"
            )

    @cached_property
    def _first(self) -> dict[str, Choice]:
        """The cheapest point of the space, near enough: the least of every setting."""
        listed = {key: axis for key, axis in self.spec.space.items() if isinstance(axis, tuple)}
        ranges = {key: axis.low for key, axis in self.spec.space.items() if not isinstance(axis, tuple)}
        return {key: min(axis) if _numbers(axis) else axis[0] for key, axis in listed.items()} | ranges

    def _complete(self, settings: Settings, draw: Draw) -> dict[str, Choice]:
        """Named settings with a value for every key that is searched."""
        given = {key: value for key, value in settings.items() if key in self.spec.space}
        return dict(settings) if len(given) == len(self.spec.space) else {**draw(0, given), **settings}

    def _within_limit(self, point: Point, chance: random.Random) -> Point:
        """The point itself, or the nearest that fits: the same but for m and f."""
        if not self.over(point):
            return point

        def distance(pair: tuple[int, int]) -> tuple[float, float]:
            m, f = pair
            apart = abs(math.log(m / point.config.m)) + abs(math.log(f / point.config.f))
            return apart, chance.random()

        m, f = min(self._pairs, key=distance)
        searched = {key: value for key, value in (("m", m), ("f", f)) if key in self.spec.space}
        return self.point({**point.settings, **searched})


def macs_of(config: TrialConfig) -> int:
    """MACs to a 1280×720 picture."""
    return _macs(config.m, config.f, config)


def _macs(m: int, f: int, like: TrialConfig) -> int:
    return costs(m=m, f=f, feature_size=like.feature_size, scale=like.scale).macs_720p


def _pair(base: TrialConfig, settings: Settings) -> tuple[int, int]:
    return int(settings.get("m", base.m)), int(settings.get("f", base.f))


def _key(settings: Settings) -> tuple[tuple[str, Choice], ...]:
    return tuple(sorted(settings.items()))


def _numbers(axis: Sequence[Choice]) -> bool:
    return all(isinstance(value, int | float) for value in axis)
