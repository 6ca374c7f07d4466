"""What a network costs on a target: the targets by name, the question and the answer. Needs no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sesr_lab.errors import TargetError
from sesr_lab.network.cost import costs

MACS, CPU = "macs", "onnxruntime-cpu"
NPUS = ("ethos-u55-256", "ethos-u65-512", "ethos-u85-2048")
TARGETS: tuple[str, ...] = (MACS, *NPUS, CPU)
INPUT = "640x360"
"""The low-resolution picture that a target is given unless another is asked for."""
LARGEST_SIDE = 65_536
"""The largest side of a picture, low or high resolution, that the compilers' transposes take."""


class Shape(Protocol):
    """What a collapsed network's time depends on; an `Architecture` is one."""

    @property
    def m(self) -> int: ...  # noqa: D102 (the paper's words)
    @property
    def f(self) -> int: ...  # noqa: D102
    @property
    def scale(self) -> Literal[2, 4]: ...  # noqa: D102
    @property
    def activation(self) -> Literal["prelu", "relu"]: ...  # noqa: D102
    @property
    def input_residual(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Size:
    """A low-resolution picture's width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Estimate:
    """What a network costs on a target for one low-resolution picture."""

    target: str
    tool: str
    """What computed or measured it, with its version, as in `ethos-u-vela 5.2.0`."""
    input: str
    """The low-resolution picture's size, as in `640x360`."""
    macs: int
    milliseconds: float | None
    """None where the target counts MACs alone. What falls to the CPU of an NPU is not in it."""
    spread_ms: float | None = None
    """Of a measured time: the distance between the quartiles of its repeats."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """The most that is in use at once, by kind of memory."""
    fallbacks: tuple[str, ...] = ()
    """The layers that the target cannot run, and its CPU has to."""

    @property
    def origin(self) -> dict[str, str]:
        """What the time is of, and where it comes from, as records keep it."""
        return {"target": self.target, "target_input": self.input, "target_tool": self.tool}


def parse_size(text: str) -> Size:
    """A size such as `640x360`: width, then height, of the low-resolution picture.

    Raises:
        ValueError: it is not one.
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*[x×X]\s*(\d{1,9})\s*", text)
    if match is None or 0 in (width := int(match[1]), height := int(match[2])):
        raise ValueError(f"{text!r} is no size of a picture; give width and height in pixels, as in 640x360")
    return Size(width, height)


def check_target(target: str) -> None:
    """Nothing, if there is a target of that name.

    Raises:
        TargetError: there is none; the message lists those there are.
    """
    if target not in TARGETS:
        longer = [name for name in TARGETS if target and name.startswith(target)]
        near = longer or difflib.get_close_matches(target, TARGETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TargetError(f"target: {target!r} is unknown; {hint}allowed: {', '.join(TARGETS)}")


def check_fits(target: str, shape: Shape, size: Size, *, bytes_per_value: int, memory: int) -> None:
    """Nothing, if the network's activations fit into `memory` bytes on the target.

    Raises:
        TargetError: they do not, or the picture is too long for its compiler.
    """
    longest = max(size.width, size.height) * shape.scale
    if longest > LARGEST_SIDE:
        raise TargetError(
            f"{target}: input {size}: too large: at x{shape.scale} a side is {longest:,} pixels; "
            f"at most {LARGEST_SIDE:,} are allowed; give a smaller one"
        )
    needed = activation_bytes(shape, size, bytes_per_value)
    if needed > memory:
        raise TargetError(
            f"{target}: input {size}: too large: a network with f = {shape.f} needs {needed / 1e9:.1f} GB for its "
            f"activations and the target has {memory / 1e9:.1f}; give a smaller one"
        )


def activation_bytes(shape: Shape, size: Size, bytes_per_value: int) -> int:
    """The least memory for activations: what a block takes and gives, and the head's for the long skip.

    Channels come in sixteens, as NPUs and fast CPU code keep them.
    """
    channels = -(-shape.f // 16) * 16
    return 3 * channels * size.width * size.height * bytes_per_value


def macs_of(shape: Shape, size: Size) -> int:
    """Multiply-accumulates of one picture of that size."""
    # feature_size is of the training; the collapsed network has none
    return costs(m=shape.m, f=shape.f, feature_size=1, scale=shape.scale).params * size.width * size.height
