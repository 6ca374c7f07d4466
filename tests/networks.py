"""Small collapsed networks, pictures for them, and what they make of these in float."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)

from sesr_lab.network.model import SESR, Collapsed, run_collapsed


@torch.no_grad()
def small(*, m: int = 2, f: int = 8, scale: int = 2, slope: float = 0.25, input_residual: bool = True) -> Collapsed:
    torch.manual_seed(0)
    network = SESR(m=m, f=f, feature_size=16, scale=scale, input_residual=input_residual)
    network.slopes.fill_(slope)
    network.tail.project.mul_(0.1)  # a residual as small as a trained one's
    return network.collapse()


def patches(count: int = 4, side: int = 24) -> torch.Tensor:
    """Smooth pictures: noise of a quarter of the size, enlarged."""
    coarse = torch.rand(count, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)


@torch.no_grad()
def upscaled(network: Collapsed, lr: torch.Tensor) -> torch.Tensor:
    subpixels = run_collapsed(network, lr)
    return F.pixel_shuffle(subpixels, round(subpixels.shape[1] ** 0.5)).clamp(0, 1)
