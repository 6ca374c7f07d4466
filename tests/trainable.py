"""Small networks and pictures to train on, for the tests of engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sesr_lab.data.patches import Pair, PatchPool
from sesr_lab.network.model import SESR


def smooth_pool(scale: int, *, device: str = "cpu", limit: float | None = None) -> PatchPool:
    """Three soft random pictures, with LR pixels that are means of HR pixels."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(3):
        coarse = torch.rand(1, 1, 12, 15, generator=generator)
        hr = torch.nn.functional.interpolate(coarse, size=(36 * scale, 40 * scale), mode="bicubic").clamp(0, 1)
        lr = torch.nn.functional.avg_pool2d(hr, scale)
        pairs.append(Pair(lr[0, 0].numpy().astype(np.float32), hr[0, 0].numpy().astype(np.float32)))
    return PatchPool(pairs, scale=scale, device=torch.device(device), limit=limit)


def network(m: int = 2, f: int = 16, p: int = 24, scale: int = 2, **kind: Any) -> SESR:
    """A network whose slopes are not zero, so that both sides of every PReLU are tried."""
    torch.manual_seed(1)
    made = SESR(m=m, f=f, feature_size=p, scale=scale, **kind)
    with torch.no_grad():
        made.slopes.uniform_(-0.1, 0.3)
    return made
