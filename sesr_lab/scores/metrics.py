"""PSNR and SSIM as the super-resolution papers compute them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PERFECT_DB = 100.0
"""From here on a picture counts as restored exactly, its PSNR as without bound: all that differs is a level at one
pixel in 150,000, or rounding."""
_WINDOW, _SIGMA = 11, 1.5
_MARGIN = _WINDOW - 1
_K1, _K2 = 0.01, 0.03
_STRIP = 64
"""Rows filtered at once: few enough to waste little work on the band's zeros."""


@dataclass(frozen=True)
class Score:
    """Mean scores over a set of pictures: PSNR in dB and SSIM, on luma, border shaved."""

    psnr: float
    ssim: float


class Truth:
    """A picture's true levels (H, W), against which many are scored: what is needed of it is computed once."""

    def __init__(
        self, levels: NDArray[np.float64], device: torch.device, *, border: int = 0, peak: float = 255
    ) -> None:
        """`border` pixels are left out on each side; `peak` is the largest value that levels may have."""
        self.device, self.peak = device, peak
        height, width = levels.shape
        self._inside = slice(border, height - border), slice(border, width - border)
        self._band = _gaussian_band(device)
        self._levels = torch.from_numpy(levels).to(device)[self._inside]
        self._mean, power = _blur(torch.stack([self._levels, self._levels**2]), self._band)
        self._variance = power - self._mean**2

    def score(self, levels: Tensor) -> Tensor:
        """PSNR in dB and SSIM, (2,) float64 on the device, of levels (H, W) float64; see `psnr` and `ssim`."""
        inside = levels[self._inside]
        psnr = 10 * torch.log10(self.peak**2 / ((inside - self._levels) ** 2).mean())
        return torch.stack([psnr, self._similarity(inside)])

    def _similarity(self, x: Tensor) -> Tensor:
        """The mean of equation 13 of Wang et al. over every full window."""
        c1, c2 = (_K1 * self.peak) ** 2, (_K2 * self.peak) ** 2
        mean, power, mixed = _blur(torch.stack([x, x**2, x * self._levels]), self._band)
        product, squares = mean * self._mean, mean**2 + self._mean**2
        covariance, variances = mixed - product, power - mean**2 + self._variance
        similarity: Tensor = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
        return similarity.mean()


def psnr(a: NDArray[np.generic], b: NDArray[np.generic], *, peak: float = 255.0) -> float:
    """Give the peak signal-to-noise ratio in dB; inf where the arrays are identical.

    The arrays have any one shape, in units where the largest value is `peak`. Raises ValueError where the
    shapes differ or nothing is in them.
    """
    _check_same_shape(a, b)
    mean_square = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return math.inf if mean_square == 0 else 10 * math.log10(peak**2 / mean_square)


def ssim(a: NDArray[np.generic], b: NDArray[np.generic], *, peak: float = 255.0) -> float:
    """Give the mean structural similarity in [-1, 1] over every full 11x11 window; no downsampling.

    The arrays are (H, W), at least 11x11, in units where the largest value is `peak`. Raises ValueError
    otherwise. Source: Wang et al. (2004), equation 13 and its ssim.m: Gaussian of sigma 1.5, K1 .01, K2 .03.
    """
    _check_same_shape(a, b)
    if a.ndim != 2 or min(a.shape) < _WINDOW:
        raise ValueError(f"SSIM needs an array of {_WINDOW}x{_WINDOW} or more, not {a.shape}")
    truth = Truth(b.astype(np.float64), torch.device("cpu"), peak=peak)
    return float(truth.score(torch.from_numpy(a.astype(np.float64)))[1])


def _blur(planes: Tensor, band: Tensor) -> Tensor:
    """The Gaussian-weighted mean of every full window: (N, H, W) to (N, H - 10, W - 10).

    Strips times a banded matrix: some ten times faster than a loop over the taps, with the same result. Strips are
    views, so that none is copied.
    """
    count, height, width = planes.shape
    rows = torch.cat([_part(band, n).T @ planes[:, at : at + n + _MARGIN] for at, n in _strips(height)], 1)
    lines = rows.flatten(0, 1)  # (N · (H - 10), W)
    columns = [lines[:, at : at + n + _MARGIN] @ _part(band, n) for at, n in _strips(width)]
    return torch.cat(columns, 1).view(count, height - _MARGIN, -1)


def _strips(length: int) -> list[tuple[int, int]]:
    """Where each strip of windows begins, and how many windows are in it."""
    windows = length - _MARGIN
    return [(at, min(_STRIP, windows - at)) for at in range(0, windows, _STRIP)]


def _part(band: Tensor, count: int) -> Tensor:
    """The band of `count` windows, (count + 10, count)."""
    return band[: count + _MARGIN, :count]


def _gaussian_band(device: torch.device) -> Tensor:
    """Column i holds the normalised window from row i on: (74, 64) float64."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    band = torch.zeros(_STRIP + _WINDOW - 1, _STRIP, dtype=torch.float64)
    for column in range(_STRIP):
        band[column : column + _WINDOW, column] = window / window.sum()
    return band.to(device)


def _check_same_shape(a: NDArray[np.generic], b: NDArray[np.generic]) -> None:
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"cannot compare arrays of shapes {a.shape} and {b.shape}")
