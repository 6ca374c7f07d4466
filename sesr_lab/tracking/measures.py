"""What runs measure: the metrics' names, whose first words are the UI's sections, and how many digits mean something.

Version 0.1 wrote `psnr`, `ssim`, `loss`, `learning_rate`, `patches_per_second`, `seconds`, `params` and `macs_720p`.
What a run has come to has kept its name, so that runs of any version stand in one column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

BEST_PSNR, BEST_SSIM = "best_psnr", "best_ssim"
PSNR, SSIM = "val/psnr", "val/ssim"
LOSS, LEARNING_RATE = "train/loss", "train/learning_rate"
PACE, SECONDS = "train/patches_per_second", "train/seconds"
GMACS, PARAMS, LATENCY = "cost/gmacs_720p", "cost/params", "cost/latency_ms"
TRIALS = "trials"
SYSTEM = "system/"
"""Before the names of what the machine did: the UI shows these on a page of their own."""

CURVES = (PSNR, SSIM, LOSS, LEARNING_RATE, PACE)
"""What is worth a chart by step."""
CONSTANTS = (BEST_PSNR, BEST_SSIM, GMACS, PARAMS, LATENCY, TRIALS, SECONDS)
"""What is worth a column, and no chart of its own."""
PICTURE = "val/picture"
"""The validation picture, whose steps are percent of the training, so that all runs have the same."""

_DECIMALS = {
    **dict.fromkeys([PSNR, BEST_PSNR, SSIM, BEST_SSIM, GMACS, LATENCY], 4),
    **dict.fromkeys([SECONDS, PACE], 1),
}
_LEAST_DIGITS = 6
"""Significant ones of everything else, a loss or a rate."""


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """The values with the digits that mean something; the UI shows every digit there is."""
    return {key: _rounded(key, float(value)) for key, value in values.items()}


def costs(params: int, macs_720p: int, latency_ms: float | None = None) -> dict[str, float]:
    """A network's costs as metrics: weights, GMACs to 1280×720, and milliseconds on a target if there is one."""
    timed = {} if latency_ms is None else {LATENCY: latency_ms}
    return rounded({PARAMS: params, GMACS: macs_720p / 1e9, **timed})


def best(psnr_db: float, ssim: float) -> dict[str, float]:
    """What a run has come to, as metrics."""
    return rounded({BEST_PSNR: psnr_db, BEST_SSIM: ssim})


def _rounded(key: str, value: float) -> float:
    if not math.isfinite(value) or value == 0:
        return value
    decimals = _DECIMALS.get(key)
    if decimals is None:
        return value if value.is_integer() else float(f"{value:.{_LEAST_DIGITS}g}")
    return round(value, decimals)
