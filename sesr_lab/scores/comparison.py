"""The picture that is logged while training: what bicubic, the network and the original make of one crop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sesr_lab.data.image import round_levels, shave
from sesr_lab.scores.metrics import PERFECT_DB, psnr

_SMALL, _GAP, _MARGIN, _TEXT = 256, 8, 4, 22
_LABELS = ("bicubic", "network", "original")
_PAPER, _INK = 255, 0


def draw_strip(
    bicubic: NDArray[np.generic], network: NDArray[np.generic], original: NDArray[np.generic], *, scale: int
) -> NDArray[np.uint8]:
    """The three luma crops (H, W), in levels of 255, side by side with names and PSNR: (height, width).

    PSNR is over the crop without `scale` pixels on each side. Crops under 256 pixels wide are enlarged by a
    whole factor, without smoothing.

    Raises:
        ValueError: the crops differ in size, or nothing is left inside the border.
    """
    crops = (bicubic, network, original)
    if len({crop.shape for crop in crops}) != 1 or original.ndim != 2:
        raise ValueError(f"three crops of one size (H, W) are needed, not {[crop.shape for crop in crops]}")
    inner = [shave(crop, scale) for crop in crops]
    before, after = psnr(inner[0], inner[2]), psnr(inner[1], inner[2])
    gain = f" ({after - before:+.2f})" if max(before, after) < PERFECT_DB else ""
    notes = (_decibels(before), _decibels(after) + gain, f"PSNR, luma, shave {scale}")
    return _compose([_enlarge(round_levels(crop.astype(np.float64))) for crop in crops], notes)


def _decibels(psnr_db: float) -> str:
    return f"{psnr_db:.2f} dB" if psnr_db < PERFECT_DB else "exact"


def _compose(crops: list[NDArray[np.uint8]], notes: tuple[str, str, str]) -> NDArray[np.uint8]:
    height, width = crops[0].shape
    sheet = Image.new("L", (3 * width + 2 * _GAP, height + 2 * (_TEXT + _MARGIN)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT - 4)
    for index, (crop, label, note) in enumerate(zip(crops, _LABELS, notes, strict=True)):
        left = index * (width + _GAP)
        draw.text((left + _MARGIN, 0), label, _INK, font)
        sheet.paste(Image.fromarray(crop), (left, _TEXT + _MARGIN))
        draw.text((left + _MARGIN, _TEXT + _MARGIN + height), note, _INK, font)
    return np.asarray(sheet)


def _enlarge(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The crop with each pixel repeated, so that it is at least 256 wide: (H, W) -> (kH, kW)."""
    factor = -(-_SMALL // crop.shape[1])
    return crop.repeat(factor, axis=0).repeat(factor, axis=1)
