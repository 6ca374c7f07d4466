"""What a study would do, before it does anything: how large its space is, and what its networks cost."""

from __future__ import annotations

from collections.abc import Mapping

from sesr_lab.study.space import ENUMERABLE, Choice, Range
from sesr_lab.study.spec import StudySpec


def space_summary(spec: StudySpec) -> dict[str, object]:
    """What a study would do: its size, its range of costs, and how many networks its limit rules out."""
    points: list[Mapping[str, Choice]] = [*spec.enqueue, *(spec.points if spec.points is not None else corners(spec))]
    prices = spec.prices()
    found = prices.all_of([spec.trial(point).architecture for point in points])
    macs = [price.macs for price in found]
    ms = [price.ms for price in found if price.estimate is not None]
    over = sum(prices.excess(price) is not None for price in found)
    timed = {f"ms on {spec.target}, {spec.input} in": f"{min(ms):.2f} to {max(ms):.2f}"} if ms else {}
    return {
        "networks in the space": _size(spec),
        "trials": spec.trials,
        "first": len(spec.enqueue),
        "GMAC to 720p": f"{min(macs) / 1e9:.2f} to {max(macs) / 1e9:.2f}" if macs else "",
        **timed,
        "over the limit": over,
        "each trial": ", ".join(f"{key} = {value}" for key, value in spec.train.items()),
    }


def corners(spec: StudySpec) -> list[dict[str, Choice]]:
    """The cheapest and the dearest network of a space that cannot be listed: costs grow with every setting."""
    axes = {key: axis for key, axis in spec.space.items() if isinstance(axis, tuple)}
    numbers = {key: [value for value in axis if isinstance(value, int | float)] for key, axis in axes.items()}
    first = {key: axis[0] for key, axis in axes.items()}
    return [first | {key: pick(values) for key, values in numbers.items() if values} for pick in (min, max)]


def _size(spec: StudySpec) -> int | str:
    if spec.candidates is not None:
        return f"those of the Pareto set of {spec.candidates}"
    if spec.points is not None:
        return len(spec.points or spec.enqueue)
    ranges = any(isinstance(axis, Range) for axis in spec.space.values())
    return "continuous" if ranges else f"more than {ENUMERABLE:,}"
