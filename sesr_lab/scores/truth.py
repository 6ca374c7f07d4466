"""One picture against which many are scored: what PSNR and SSIM need to know of it is computed once, on the device.

The numbers are those of `metrics`; the tests hold the two together.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_STRIP = 64
"""Rows filtered at once: few enough to waste little work on the band's zeros."""


class Truth:
    """A picture's true luma levels (H, W), `border` pixels of which are left out on each side."""

    def __init__(self, levels: NDArray[np.float64], border: int, device: torch.device) -> None:
        self.border, self.device = border, device
        self.band = _gaussian_band(device)
        self.hr = torch.from_numpy(levels).to(device)[border:-border, border:-border]
        self.mean, power = _blur(torch.stack([self.hr, self.hr**2]), self.band)
        self.variance = power - self.mean**2

    def score(self, levels: Tensor) -> Tensor:
        """PSNR in dB and SSIM, (2,), of levels (H, W) in [0, 255]; formulas and sources as in `metrics`."""
        x = levels[self.border : -self.border, self.border : -self.border]
        psnr = 10 * torch.log10(255**2 / ((x - self.hr) ** 2).mean())
        mean, power, mixed = _blur(torch.stack([x, x**2, x * self.hr]), self.band)
        product, squares = mean * self.mean, mean**2 + self.mean**2
        covariance, variances = mixed - product, power - mean**2 + self.variance
        ssim = (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
        return torch.stack([psnr, ssim.mean()])


def _blur(planes: Tensor, band: Tensor) -> Tensor:
    """The Gaussian-weighted mean of every full window: (N, H, W) to (N, H - 10, W - 10)."""
    return _blur_rows_turned(_blur_rows_turned(planes, band), band)


def _blur_rows_turned(planes: Tensor, band: Tensor) -> Tensor:
    """The same along one axis, with the axes changed: (N, H, W) to (N, W, H - 10)."""
    count, height, width = planes.shape
    rows = height - _WINDOW + 1
    planes = F.pad(planes, (0, 0, 0, -rows % _STRIP))
    strips = planes.unfold(1, _STRIP + _WINDOW - 1, _STRIP)  # (N, strips, W, 74)
    blurred = (strips @ band).transpose(1, 2)  # (N, W, strips, 64)
    return blurred.reshape(count, width, -1)[:, :, :rows]


def _gaussian_band(device: torch.device) -> Tensor:
    """Column i holds the normalised window from row i on: (74, 64) float64."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    band = torch.zeros(_STRIP + _WINDOW - 1, _STRIP, dtype=torch.float64)
    for column in range(_STRIP):
        band[column : column + _WINDOW, column] = window / window.sum()
    return band.to(device)
