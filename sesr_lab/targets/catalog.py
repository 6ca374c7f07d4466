"""What networks cost on a target, remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Literal

from sesr_lab.targets.cache import key_of, recall, remember
from sesr_lab.targets.cpu import cpu_estimates, machine, onnxruntime_version
from sesr_lab.targets.estimate import CPU, MACS, Estimate, Shape, Size, check_target, macs_of
from sesr_lab.targets.vela import ACCELERATORS, FORM, vela_estimate, vela_version

Kind = Literal["counted", "computed", "measured"]


def kind_of(target: str) -> Kind:
    """How a target's costs are found; what is measured is measured while nothing trains.

    Raises:
        TargetError: there is no such target.
    """
    check_target(target)
    if target in ACCELERATORS:
        return "computed"
    return "measured" if target == CPU else "counted"


def estimates(target: str, shapes: Sequence[Shape], size: Size, *, fresh: bool = False) -> list[Estimate]:
    """What the networks cost on the target for a low-resolution picture of that size, in order.

    Networks that run alike, which differ in how they are trained alone, are estimated once, and what was estimated
    before is remembered, for the same version of the target's tool.

    Args:
        fresh: estimate again what is remembered.

    Raises:
        TargetError: the target is unknown, its tool is missing or of a version that is not known here, the picture is
            too large for it, or it cannot run a network.
    """
    if kind_of(target) == "counted":
        return [Estimate(MACS, "arithmetic", str(size), macs_of(shape, size), None) for shape in shapes]
    keys = [key_of(_identity(target, shape, size)) for shape in shapes]
    known = {} if fresh else {key: found for key in keys if (found := recall(key)) is not None}
    new = {key: shape for key, shape in zip(keys, shapes, strict=True) if key not in known}
    for key, estimate in zip(new, _estimated(target, list(new.values()), size), strict=True):
        remember(key, estimate)
        known[key] = estimate
    return [known[key] for key in keys]


def _estimated(target: str, shapes: Sequence[Shape], size: Size) -> Iterable[Estimate]:
    """Estimates in order; those that are computed come one by one, so that each is remembered when it is made."""
    if target == CPU:
        return cpu_estimates(shapes, size)
    return (vela_estimate(ACCELERATORS[target], shape, size) for shape in shapes)


def _identity(target: str, shape: Shape, size: Size) -> dict[str, object]:
    """All that an estimate depends on."""
    network = {key: getattr(shape, key) for key in ("m", "f", "scale", "activation", "input_residual")}
    if target == CPU:
        return {"target": CPU, "tool": onnxruntime_version(), "machine": machine(), **network, "input": str(size)}
    accelerator = asdict(ACCELERATORS[target])
    return {"target": accelerator, "tool": vela_version(), "form": FORM, **network, "input": str(size)}
