"""Prices with a target that is a function: a millisecond for each block, and as much again for PReLU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sesr_lab.errors import TargetError
from sesr_lab.study.config import Architecture
from sesr_lab.study.price import Prices
from sesr_lab.targets.estimate import Estimate, Size

SIZE = Size(64, 48)


class Target:
    """Estimates without a tool, and counts what it was asked."""

    def __init__(self, fallbacks: tuple[str, ...] = ()) -> None:
        self.asked: list[list[str]] = []
        self.fallbacks = fallbacks

    def __call__(self, target: str, networks: Sequence[Architecture], size: Size) -> list[Estimate]:
        self.asked.append([network.short_name for network in networks])
        times = [network.m * (2.0 if network.activation == "prelu" else 1.0) for network in networks]
        return [Estimate(target, "tool 1", str(size), 1, ms, fallbacks=self.fallbacks) for ms in times]


def prices(target: Target, **limits: float) -> Prices:
    return Prices("npu", SIZE, limits.get("max_macs"), limits.get("max_ms"), target)


def test_each_network_is_estimated_once_and_those_that_run_alike_are_one() -> None:
    target = Target()
    found = prices(target)
    networks = [Architecture(m=1), Architecture(m=2), Architecture(m=2, feature_size=8, block="expanded")]
    assert [price.ms for price in found.all_of(networks)] == [2.0, 4.0, 4.0]
    assert found.of(Architecture(m=1, activation="relu")).ms == 1.0
    found.all_of(networks)
    assert [len(names) for names in target.asked] == [2, 1]


def test_without_a_target_there_are_macs_alone() -> None:
    found = Prices("macs", SIZE, None, None).of(Architecture())
    assert (found.macs, found.estimate, found.ms) == (3_115_008_000, None, 0.0)


def test_a_limit_is_on_macs_or_on_milliseconds_and_says_which() -> None:
    found = prices(Target(), max_macs=2.5e9, max_ms=5.0)
    assert found.excess(found.of(Architecture(m=2))) is None
    slow = found.excess(found.of(Architecture(m=3)))
    assert slow is not None
    assert (slow.limit, slow.amount, slow.reason) == ("ms", 1.0, "6.00 ms on npu, over the study's 5")
    dear = found.excess(found.of(Architecture(m=5)))
    assert dear is not None
    assert (dear.limit, dear.reason) == ("macs", "3.12 GMAC to 720p, over the study's 2.50")


def test_all_combinations_of_what_cost_depends_on_are_estimated_at_once() -> None:
    target = Target()
    space = {"m": (1, 2), "activation": ("prelu", "relu"), "feature_size": (8, 16)}
    found = prices(target).combinations(Architecture(f=8), space)
    assert found.keys() == {(m, 8, activation, True) for m in (1, 2) for activation in ("prelu", "relu")}
    assert found[2, 8, "relu", True].ms == 2.0
    assert len(target.asked) == 1


def test_a_network_that_the_target_cannot_run_is_named_with_its_layers() -> None:
    with pytest.raises(TargetError) as caught:
        prices(Target(fallbacks=("rows", "columns"))).of(Architecture(activation="relu"))
    assert str(caught.value).startswith("m5-f16-p256-relu: npu cannot run rows, columns, and what its CPU takes")
    assert "\n" not in str(caught.value)
