"""What a study's networks cost: MACs by arithmetic, and milliseconds where it names a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from sesr_lab.errors import TargetError
from sesr_lab.network.cost import costs
from sesr_lab.study.config import Architecture
from sesr_lab.study.space import Choice
from sesr_lab.targets.estimate import MACS, Estimate, Size

COST_AXES = ("m", "f", "activation", "input_residual")
"""The settings on which the cost of a collapsed network depends, and that a study may search."""

Estimates = Callable[[str, Sequence[Architecture], Size], list[Estimate]]


@dataclass(frozen=True)
class Price:
    """What one network costs."""

    macs: int
    """To a 1280×720 picture."""
    estimate: Estimate | None = None
    """On the study's target, where it has one."""

    @property
    def ms(self) -> float:
        """Milliseconds on the target; 0 where there is none."""
        return 0.0 if self.estimate is None else self.estimate.milliseconds or 0.0


@dataclass(frozen=True)
class Excess:
    """By how much a network is over a study's limit, and that in words."""

    limit: str
    amount: float
    reason: str


@dataclass
class Prices:
    """The prices of one study's networks; those on a target are found once, `all_of` many at a time."""

    target: str
    size: Size
    max_macs: float | None
    max_ms: float | None
    estimates: Estimates | None = None
    """What estimates networks on the target; `targets.catalog` unless something else is given."""
    _known: dict[tuple[object, ...], Estimate] = field(default_factory=dict)

    @property
    def timed(self) -> bool:
        """Whether the target's cost is a time."""
        return self.target != MACS

    def of(self, network: Architecture) -> Price:
        """What the network costs.

        Raises:
            TargetError: the target's tool is missing, or the target cannot run the network.
        """
        return self.all_of([network])[0]

    def all_of(self, networks: Sequence[Architecture]) -> list[Price]:
        """What the networks cost, in order.

        Raises:
            TargetError: as `of`.
        """
        if not self.timed:
            return [Price(macs_of(network)) for network in networks]
        new = {key: network for network in networks if (key := _key(network)) not in self._known}
        if new:
            found = self._estimate(list(new.values()))
            self._known.update(zip(new, found, strict=True))
        return [Price(macs_of(network), self._known[_key(network)]) for network in networks]

    def excess(self, price: Price) -> Excess | None:
        """What keeps a network of that price out of the study; None if nothing does."""
        if self.max_macs is not None and price.macs > self.max_macs:
            text = f"{price.macs / 1e9:.2f} GMAC to 720p, over the study's {self.max_macs / 1e9:.2f}"
            return Excess("macs", price.macs - self.max_macs, text)
        if self.max_ms is not None and price.ms > self.max_ms:
            text = f"{price.ms:.2f} ms on {self.target}, over the study's {self.max_ms:g}"
            return Excess("ms", price.ms - self.max_ms, text)
        return None

    def combinations(self, base: Architecture, space: Mapping[str, object]) -> dict[tuple[Choice, ...], Price]:
        """The price of each combination of the settings that cost depends on, by these settings' values in order."""
        axes: list[tuple[Choice, ...]] = [
            axis if isinstance(axis := space.get(key), tuple) else (getattr(base, key),) for key in COST_AXES
        ]
        every = list(product(*axes))
        networks = [base.model_copy(update=dict(zip(COST_AXES, values, strict=True))) for values in every]
        return dict(zip(every, self.all_of(networks), strict=True))

    def _estimate(self, networks: list[Architecture]) -> list[Estimate]:
        if self.estimates is None:
            from sesr_lab.targets.catalog import estimates

            found = estimates(self.target, networks, self.size)
        else:
            found = self.estimates(self.target, networks, self.size)
        for network, estimate in zip(networks, found, strict=True):
            if estimate.fallbacks:
                raise TargetError(
                    f"{network.short_name}: {self.target} cannot run {', '.join(estimate.fallbacks)}, and what its CPU "
                    f"takes for that is not known; leave the network out, or take another target"
                )
        return found


def macs_of(network: Architecture) -> int:
    """MACs to a 1280×720 picture."""
    return costs(m=network.m, f=network.f, feature_size=network.feature_size, scale=network.scale).macs_720p


def _key(network: Architecture) -> tuple[object, ...]:
    return (network.scale, *(getattr(network, key) for key in COST_AXES))
