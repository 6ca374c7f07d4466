"""Which network a study trains next: those that were named, those that are left, and the sampler last. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sesr_lab.errors import ConfigError
from sesr_lab.study.config import TrialConfig
from sesr_lab.study.price import COST_AXES, Estimates, Excess, Price
from sesr_lab.study.space import Choice, holds
from sesr_lab.study.spec import StudySpec

GIVE_UP = 100
"""So many known networks in a row from a space that cannot be listed, and it counts as exhausted."""

Settings = Mapping[str, Choice]
Combination = tuple[Choice, ...]
"""Values of the settings that cost depends on, in the order of COST_AXES."""
Draw = Callable[[int, Settings], dict[str, Choice]]
"""The sampler: its n-th draw for the next trial, some settings given."""


@dataclass(frozen=True)
class Point:
    """One network that can be trained, and what it costs."""

    settings: Settings
    config: TrialConfig
    fingerprint: str
    price: Price
    named: Settings | None = None
    """What the study asked for by name, where it did."""

    @property
    def macs(self) -> int:
        """To a 1280×720 picture."""
        return self.price.macs


@dataclass(frozen=True)
class History:
    """What a study has tried: finished, running and refused trials alike."""

    fingerprints: Collection[str] = frozenset()
    named: Sequence[Settings] = field(default=())
    trials: int = 0
    """How many were begun: with the study's seed it decides what is drawn next, whoever draws."""


class Search:
    """The search of one study. What does not change while it runs is computed once."""

    def __init__(
        self, spec: StudySpec, candidates: Sequence[Settings] = (), estimates: Estimates | None = None
    ) -> None:
        """The search of `spec`, which tries `candidates` and the networks that it names first.

        What they cost on the study's target is found here, before anything trains.

        Args:
            estimates: what estimates networks on a target; `targets.catalog` if not given.

        Raises:
            ConfigError: none of its networks fits the study's limits.
            TargetError: the target's tool is missing, or the target cannot run a network.
        """
        self.spec = spec
        self._check_candidates(candidates)
        self.named = [*candidates, *spec.enqueue]
        self.prices = replace(spec.prices(), estimates=estimates)
        self._price_named()
        self._check_limits()

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
            drawn = (
                self._within_limit(self.point(draw(n, {})), chance) for n in range(GIVE_UP if self._affordable else 0)
            )
            return next((point for point in drawn if point.fingerprint not in seen), None)
        unseen = [n for n, point in enumerate(self.fitting) if point.fingerprint not in seen]
        if not unseen:
            return None
        if len(unseen) > remaining:  # else all of them will be trained, in whatever order
            far = np.abs(self._places - self._place(draw(0, {}))).sum(axis=1)[unseen]
            unseen = [unseen[n] for n in np.flatnonzero(far == far.min())]
        return self.fitting[chance.choice(unseen)]

    def point(self, settings: Settings, named: Settings | None = None) -> Point:
        """The network with these settings.

        Raises:
            ConfigError: they do not make a trial.
        """
        config = self.spec.trial(settings)
        return Point(settings, config, config.fingerprint, self.prices.of(config.architecture), named)

    def over(self, point: Point) -> Excess | None:
        """By how much the network costs more than the study allows; None if it does not."""
        return self.prices.excess(point.price)

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
        cheap = [settings for settings in points if self._combination(settings) in self._affordable]
        return [self.point(settings) for settings in cheap]

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        """Where each of the listed networks stands in the space, so that nearness can be told."""
        return np.array([self._place(point.settings) for point in self.fitting or ()])

    def _place(self, settings: Settings) -> list[float]:
        """The rank of each setting whose values have an order; any two values of the others are one apart."""
        place: list[float] = []
        for key, axis in self._listed.items():
            place += [axis.index(settings[key])] if _numbers(axis) else [(each == settings[key]) / 2 for each in axis]
        return place

    @cached_property
    def _listed(self) -> dict[str, Sequence[Choice]]:
        """The settings that have a list of values: in order, where they have one."""
        listed = {key: axis for key, axis in self.spec.space.items() if isinstance(axis, tuple)}
        return {key: sorted(axis) if _numbers(axis) else axis for key, axis in listed.items()}

    @cached_property
    def _base(self) -> TrialConfig:
        return self.spec.trial({})

    @cached_property
    def _affordable(self) -> dict[Combination, Price]:
        """The price of every combination of the settings that cost depends on, where it is within the limits."""
        priced = self.prices.combinations(self._base.architecture, self.spec.space)
        return {combination: price for combination, price in priced.items() if self.prices.excess(price) is None}

    def _combination(self, settings: Settings) -> Combination:
        """Which of the combinations these settings have."""
        return tuple(settings.get(key, getattr(self._base, key)) for key in COST_AXES)

    def _check_candidates(self, candidates: Sequence[Settings]) -> None:
        for settings in candidates:
            for key in self.spec.space.keys() & settings.keys():
                if not holds(self.spec.space[key], settings[key]):
                    raise ConfigError(
                        f"study {self.spec.name}: candidates: {key} = {settings[key]!r} of {self.spec.candidates} is "
                        f"not in space.{key}; add it there, or leave {key} out of the space"
                    )

    def _price_named(self) -> None:
        """Finds the prices of what is named by name, whatever else is drawn for it, together with the space's."""
        if not self.prices.timed:
            return
        for settings in [{}, *self.named] if self.spec.space else self.named:
            free = {key: axis for key, axis in self.spec.space.items() if key not in settings}
            self.prices.combinations(self.spec.trial({**self._first, **settings}).architecture, free)

    def _check_limits(self) -> None:
        if (self.spec.max_macs is None and self.spec.max_ms is None) or (self.spec.space and self._affordable):
            return
        networks = [self.spec.trial({**self._first, **settings}).architecture for settings in self.named]
        networks += [self.spec.trial(self._first).architecture] if self.spec.space else []
        priced = list(zip(networks, self.prices.all_of(networks), strict=True))
        if not priced or any(self.prices.excess(price) is None for _, price in priced):
            return
        if self.spec.max_macs is not None and all(price.macs > self.spec.max_macs for _, price in priced):
            network, price = min(priced, key=lambda each: each[1].macs)
            found = f"max_macs: none of its networks fits {self.spec.max_macs / 1e9:g} GMAC; the cheapest"
            takes = f"{price.macs / 1e9:.3f}"
        else:
            small = [each for each in priced if self.spec.max_macs is None or each[1].macs <= self.spec.max_macs]
            network, price = min(small, key=lambda each: each[1].ms)
            found = f"max_ms: none of its networks fits {self.spec.max_ms:g} ms on {self.spec.target}; the fastest"
            takes = f"{price.ms:.2f}"
        raise ConfigError(
            f"study {self.spec.name}: {found}, {network.short_name}, takes {takes}; raise it, or add smaller networks"
        )

    @cached_property
    def _first(self) -> dict[str, Choice]:
        """The cheapest point of the space, near enough: the least of every setting."""
        ranges = {key: axis.low for key, axis in self.spec.space.items() if not isinstance(axis, tuple)}
        return {key: axis[0] for key, axis in self._listed.items()} | ranges

    def _complete(self, settings: Settings, draw: Draw) -> dict[str, Choice]:
        """Named settings with a value for every key that is searched."""
        given = {key: value for key, value in settings.items() if key in self.spec.space}
        return dict(settings) if len(given) == len(self.spec.space) else {**draw(0, given), **settings}

    def _within_limit(self, point: Point, chance: random.Random) -> Point:
        """The point itself, or the nearest that fits: the same but for what cost depends on."""
        if self.over(point) is None:
            return point

        def distance(combination: Combination) -> tuple[float, float]:
            wanted = (getattr(point.config, key) for key in COST_AXES)
            return sum(map(_apart, combination, wanted)), chance.random()

        least: Combination = min(self._affordable, key=distance)
        nearest = dict(zip(COST_AXES, least, strict=True))
        return self.point({**point.settings, **{key: nearest[key] for key in COST_AXES if key in self.spec.space}})


def _apart(a: Choice, b: Choice) -> float:
    """How far apart two values of a setting are: in their logarithms where they are numbers of something."""
    if isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool):
        return abs(math.log(a / b))
    return float(a != b)


def _numbers(axis: Sequence[Choice]) -> bool:
    return all(isinstance(value, int | float) for value in axis)
