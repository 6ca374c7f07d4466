"""Scoring while training: what does not depend on the network is computed once, and the rest on the device.

The numbers are those of `evaluate` for the same pictures; the tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.evaluate import bicubic_levels, collapsed_forward
from sesr_lab.image import luma
from sesr_lab.model import SESR
from sesr_lab.row import Sample
from sesr_lab.trainer import Score

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_STRIP = 64
"""Rows filtered at once: few enough to waste little work on the band's zeros."""


class Strip(NamedTuple):
    """One picture three times, as luma levels in [0, 255], each (H, W) float64: for a strip of pictures."""

    bicubic: NDArray[np.float64]
    network: NDArray[np.float64]
    hr: NDArray[np.float64]


class Validator:
    """Scores networks on one validation set; called with a network, gives its `Score`."""

    def __init__(self, valid: Sequence[Sample], scale: int, device: torch.device) -> None:
        self.valid, self.scale, self.device = valid, scale, device
        # Apple's GPUs have no float64, which SSIM needs: scores are then computed on the CPU.
        measuring = device if device.type == "cuda" else torch.device("cpu")
        self._inputs = [_input(sample, device) for sample in valid]
        self._truths = [_Truth(luma(sample.hr), scale, measuring) for sample in valid]
        self.bicubic = self._mean([torch.from_numpy(bicubic_levels(s, scale)).to(measuring) for s in valid])
        """What bicubic upscaling scores on the same pictures."""

    def __call__(self, network: SESR) -> Score:
        """Mean PSNR and SSIM of the network's 8-bit luma; NaN from a network that gives NaN."""
        return self._mean([self._levels(network, index) for index in range(len(self.valid))])

    def strip_source(self, network: SESR, index: int) -> Strip:
        """Validation picture `index` by bicubic, by the network, and as it should be."""
        sample = self.valid[index]
        levels = self._levels(network, index).cpu().numpy()
        return Strip(bicubic_levels(sample, self.scale), levels, luma(sample.hr))

    def _levels(self, network: SESR, index: int) -> Tensor:
        """The network's output as whole levels, (H, W) float64."""
        output = collapsed_forward(network, self._inputs[index])[0, 0].to(self._truths[index].device)
        return torch.floor(output.double().clamp(0, 1) * 255 + 0.5)

    def _mean(self, pictures: Sequence[Tensor]) -> Score:
        scores = [truth.score(levels) for truth, levels in zip(self._truths, pictures, strict=True)]
        psnr, ssim = torch.stack(scores).mean(0).tolist()  # the only wait for the device
        return Score(psnr=psnr, ssim=ssim)


class _Truth:
    """A picture's true luma (H, W), its border shaved, and what SSIM needs to know of it."""

    def __init__(self, levels: NDArray[np.float64], border: int, device: torch.device) -> None:
        self.border, self.device = border, device
        self.band = _gaussian_band(device)
        self.hr = torch.from_numpy(levels).to(device)[border:-border, border:-border]
        self.mean, power = _blur(torch.stack([self.hr, self.hr**2]), self.band)
        self.variance = power - self.mean**2

    def score(self, levels: Tensor) -> Tensor:
        """PSNR and SSIM (2,) of a picture of the whole size. Source: `metrics.psnr` and `metrics.ssim`."""
        x = levels[self.border : -self.border, self.border : -self.border]
        psnr = 10 * torch.log10(255**2 / ((x - self.hr) ** 2).mean())
        mean, power, mixed = _blur(torch.stack([x, x**2, x * self.hr]), self.band)
        product, squares = mean * self.mean, mean**2 + self.mean**2
        covariance, variances = mixed - product, power - mean**2 + self.variance
        ssim = (2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))
        return torch.stack([psnr, ssim.mean()])


def _input(sample: Sample, device: torch.device) -> Tensor:
    """The LR luma that a network is given, (1, 1, h, w) float32 in [0, 1]."""
    return torch.from_numpy(luma(sample.lr) / 255).float().to(device)[None, None]


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
