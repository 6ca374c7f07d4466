"""The contact sheet of one upscaled picture: bicubic, the network, and, where it is known, the original."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sesr_lab.data.image import luma, shave
from sesr_lab.results import upscaling
from sesr_lab.results.decoding import Picture, Samples
from sesr_lab.results.inference import Network
from sesr_lab.results.sheet import Cell, contact_sheet
from sesr_lab.scores.metrics import psnr

LONGEST_SIDE = 768
"""High-resolution pixels of a larger picture's part that is shown: that in which the network changes most."""


def sheet(picture: Picture, network: Network, *, original: Picture | None = None) -> NDArray[np.uint8]:
    """The picture, or the part of it that shows most, by bicubic | the network (| as it was): (h, w, 3)."""
    scale = network.scale
    top, left, height, width = _telling_part(picture, network)
    part = Picture(picture.samples[top : top + height, left : left + width])
    inside = _part_of_whole(picture, network, top, left, height, width)
    shown = {"bicubic": upscaling.bicubic(part, scale), network.name: inside}
    if original is not None:
        shown["original"] = original.samples[scale * top :, scale * left :][: scale * height, : scale * width]
    pictures = {name: _eight_bits(samples) for name, samples in shown.items()}
    truth = pictures.get("original")
    is_grey = original is not None and original.samples.shape[2] < 3
    notes = {name: _note(rgb, truth, scale, is_grey=is_grey) for name, rgb in pictures.items()}
    return contact_sheet(
        [[Cell(_upright(rgb, picture.orientation), name, notes[name]) for name, rgb in pictures.items()]]
    )


def write_png(file: BinaryIO, picture: NDArray[np.uint8]) -> None:
    """Writes the picture (h, w, 3)."""
    Image.fromarray(picture).save(file, "PNG")


def _telling_part(picture: Picture, network: Network) -> tuple[int, int, int, int]:
    """Top, left, height and width, in low resolution, of the part to show."""
    full, longest = picture.samples.shape[:2], LONGEST_SIDE // network.scale
    height, width = (min(length, longest) for length in full)
    if (height, width) == tuple(full):
        return 0, 0, height, width
    detail = _detail(picture.samples)
    tops, lefts = (_starts(length, size) for length, size in zip(full, (height, width), strict=True))
    best = max(((top, left) for top in tops for left in lefts), key=lambda at: _sum(detail, at, height, width))
    return *best, height, width


def _detail(samples: Samples) -> NDArray[np.float64]:
    """Sums of the luma's steps from pixel to pixel, above and left of each place: an integral image."""
    grey = samples[..., : 3 if samples.shape[2] >= 3 else 1].astype(np.float32).mean(axis=2)
    steps = np.abs(np.diff(grey, axis=0, append=grey[-1:])) + np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    sums = np.zeros((steps.shape[0] + 1, steps.shape[1] + 1))
    sums[1:, 1:] = steps.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    return sums


def _starts(length: int, size: int) -> list[int]:
    return sorted({*range(0, length - size + 1, max(size // 4, 1)), length - size})


def _sum(sums: NDArray[np.float64], at: tuple[int, int], height: int, width: int) -> float:
    (top, left), (bottom, right) = at, (at[0] + height, at[1] + width)
    return float(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])


def _part_of_whole(picture: Picture, network: Network, top: int, left: int, height: int, width: int) -> Samples:
    """The part as it is in the whole result: with the pixels around it that it depends on."""
    margin, scale = max(network.radius, 2), network.scale
    above, before = max(top - margin, 0), max(left - margin, 0)
    window = picture.samples[above : top + height + margin, before : left + width + margin]
    made = np.concatenate(list(upscaling.upscaled(Picture(window), network)))
    return made[scale * (top - above) :, scale * (left - before) :][: scale * height, : scale * width]


def _eight_bits(samples: Samples) -> NDArray[np.uint8]:
    """RGB (h, w, 3) of 8 bits, over white where there is alpha."""
    levels = samples.astype(np.float64) * (255 / np.iinfo(samples.dtype).max)
    colours = levels[..., :3] if levels.shape[2] >= 3 else levels[..., :1].repeat(3, axis=2)
    if levels.shape[2] in (2, 4):
        opacity = levels[..., -1:] / 255
        colours = colours * opacity + 255 * (1 - opacity)
    return np.floor(colours + 0.5).astype(np.uint8)


def _note(rgb: NDArray[np.uint8], truth: NDArray[np.uint8] | None, scale: int, *, is_grey: bool) -> str:
    """What `evaluate` would say of it; a grey picture is its own luma."""
    if truth is None or min(truth.shape[:2]) <= 2 * scale:
        return ""
    if rgb is truth:
        return f"PSNR: luma, shave {scale}"
    found, wanted = (picture[..., 0].astype(np.float64) if is_grey else luma(picture) for picture in (rgb, truth))
    return f"{psnr(shave(found, scale), shave(wanted, scale)):.2f} dB"


def _upright(rgb: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    image = Image.fromarray(rgb)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))
