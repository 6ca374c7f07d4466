"""A picture, upscaled in strips: luma by a network, chroma and alpha by bicubic.

Every output sample is made by the same additions and multiplications in the same order wherever the cuts between
strips and tiles fall, so that the cuts leave no trace, not even in the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sesr_lab.errors import ModelError
from sesr_lab.results.decoding import Picture, Samples
from sesr_lab.results.inference import Network
from sesr_lab.results.interpolation import Plane, enlarged, rows_around

TILE = 256
"""Low-resolution pixels of a tile's side, its margin left out."""
_STRIP = 16
"""Low-resolution rows whose colour is made at once."""

# ITU-R BT.601, studio range, with the digits of MATLAB's rgb2ycbcr, as in data.image.
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
_CHROMA = np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_TO_RGB = np.linalg.inv(np.vstack([_LUMA, _CHROMA]))
_BLACK = 16.0


def upscaled(picture: Picture, network: Network, *, tile: int = TILE) -> Iterator[Samples]:
    """The picture `network.scale` times larger as strips of rows, top to bottom: (any, scale·W, channels).

    Args:
        tile: low-resolution pixels of a tile's side; 0 takes the whole picture at once. The samples are the same.

    Raises:
        ModelError: the network gives what is no number.
    """
    height, width = picture.samples.shape[:2]
    rows, columns = tile or height, (tile and (network.wide or tile)) or width
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        if network.colours == 3:
            planes = _run(picture, network, top, bottom, columns) * np.float32(picture.peak)
            yield _with_alpha(picture, planes, network.scale, top, bottom)
            continue
        y = _run(picture, network, top, bottom, columns)[0]
        for first in range(top, bottom, _STRIP):
            last = min(first + _STRIP, bottom)
            part = y[(first - top) * network.scale : (last - top) * network.scale]
            yield _with_alpha(picture, _coloured(picture, part, network.scale, first, last), network.scale, first, last)


def bicubic(picture: Picture, scale: int) -> Samples:
    """The picture `scale` times larger by bicubic alone, (scale·H, scale·W, channels)."""
    height = len(picture.samples)
    planes = [enlarged(rows_around(picture.samples[..., c], 0, height), scale) for c in range(picture.samples.shape[2])]
    return np.stack([_whole(plane, picture) for plane in planes], axis=2)


def luma01(samples: Samples) -> Plane:
    """A network's input, (H, W) in [0, 1], of grey (H, W, 1 or 2) or RGB (H, W, 3 or 4) samples."""
    peak = float(np.iinfo(samples.dtype).max)
    if samples.shape[2] < 3:
        return (samples[..., 0] / peak).astype(np.float32)
    r, g, b = (samples[..., c].astype(np.float64) for c in range(3))
    levels = _BLACK + (r * _LUMA[0] + g * _LUMA[1] + b * _LUMA[2]) * (255 / peak)
    scaled: Plane = (levels / 255).astype(np.float32)
    return scaled


def _run(picture: Picture, network: Network, top: int, bottom: int, tile: int) -> Plane:
    """Rows of the network's output: (colours, scale·(bottom - top), scale·W), from tiles with margins around them."""
    height, width = picture.samples.shape[:2]
    scale, margin = network.scale, network.radius
    output = np.empty((network.colours, scale * (bottom - top), scale * width), np.float32)
    above, below = max(top - margin, 0), min(bottom + margin, height)
    for left in range(0, width, tile):
        right = min(left + tile, width)
        start, end = max(left - margin, 0), min(right + margin, width)
        made = network.run(_input(picture.samples[above:below, start:end], network.colours))
        inner = made[
            :, scale * (top - above) : scale * (bottom - above), scale * (left - start) : scale * (right - start)
        ]
        output[:, :, scale * left : scale * right] = inner
    if not np.isfinite(output).all():
        raise ModelError(f"{network.name}: gives pixels that are no numbers (NaN or infinity); take another network")
    return output


def _input(samples: Samples, colours: int) -> Plane:
    if colours == 1:
        return luma01(samples)[None]
    rgb = samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray((rgb / float(np.iinfo(samples.dtype).max)).astype(np.float32).transpose(2, 0, 1))


def _coloured(picture: Picture, y01: Plane, scale: int, first: int, last: int) -> list[Plane]:
    """Colour planes, in the picture's own units, of rows whose luma is `y01`."""
    samples, peak = picture.samples, np.float32(picture.peak)
    if samples.shape[2] < 3:
        return [y01 * peak]
    rows = rows_around(samples[..., :3], first, last)
    cb, cr = (enlarged(_chroma(rows, row), scale) for row in _CHROMA)
    grey = (y01 * np.float32(255) - np.float32(_BLACK)) * np.float32(picture.peak / 255 * _TO_RGB[0, 0])
    return [grey + cb * np.float32(row[1]) + cr * np.float32(row[2]) for row in _TO_RGB]


def _chroma(rows: Samples | Plane, weights: NDArray[np.float64]) -> Plane:
    """A chroma plane around 0, in the picture's own units."""
    r, g, b = (rows[..., c].astype(np.float32) * np.float32(weights[c]) for c in range(3))
    total: Plane = r + g + b
    return total


def _with_alpha(picture: Picture, planes: list[Plane] | Plane, scale: int, first: int, last: int) -> Samples:
    """Rows of whole samples from colour planes, with the enlarged alpha as the last channel if there is one."""
    samples = picture.samples
    if len(planes) == 3 and samples.shape[2] < 3:  # a colour network that was given grey
        planes = [(planes[0] + planes[1] + planes[2]) / np.float32(3)]
    whole = [_whole(plane, picture) for plane in planes]
    if picture.has_alpha:
        whole.append(_whole(enlarged(rows_around(samples[..., -1], first, last), scale), picture))
    return np.stack(whole, axis=2)


def _whole(plane: Plane, picture: Picture) -> Samples:
    """The nearest samples, halves up, what is outside the range clipped."""
    nearest: Samples = np.floor(np.clip(plane, 0, picture.peak) + np.float32(0.5)).astype(picture.samples.dtype)
    return nearest
