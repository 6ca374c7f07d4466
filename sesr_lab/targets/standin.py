"""A network that stands for all of its shape: a target's time depends on the architecture alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sesr_lab.network.model import MID_GREY, Collapsed
from sesr_lab.targets.estimate import Shape
from sesr_lab.targets.quantize import Range, Ranges


def stand_in(shape: Shape) -> Collapsed:
    """A network of that shape with random weights, always the same; its PReLUs' slopes lie between 0 and 1."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator) / math.sqrt(math.prod(size[-3:]))

    slopes = torch.rand(shape.m, shape.f, generator=generator) if shape.activation == "prelu" else None
    return Collapsed(
        head=drawn(shape.f, 1, 5, 5),
        body=drawn(shape.m, shape.f, shape.f, 3, 3),
        slopes=torch.zeros(shape.m, shape.f) if slopes is None else slopes,
        tail=drawn(shape.scale**2, shape.f, 5, 5),
        offset=None if shape.input_residual else torch.tensor([MID_GREY]),
    )


def any_ranges(network: Collapsed) -> Ranges:
    """Ranges as they may well be, unlike each other: of them, too, the time is independent."""
    m = len(network.body)
    return Ranges(
        head=Range(-0.5, 0.4),
        blocks=tuple(Range(-0.8 - 0.01 * i, 0.7) for i in range(m)),
        active=tuple(Range(-0.1, 0.7 - 0.001 * i) for i in range(m)),
        skip=Range(-0.6, 0.9),
        tail=Range(-0.3, 0.3),
    )
