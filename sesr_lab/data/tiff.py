"""TIFF files as 8-bit pictures, read by their tags: Pillow goes by modes of its own, and some of them are wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sesr_lab.data.layout import (
    BLACK_IS_ZERO,
    CMYK,
    COLOURS,
    PALETTE,
    WHITE_IS_ZERO,
    Layout,
    Tags,
    read_layout,
    read_tags,
)
from sesr_lab.data.refusal import damaged, unread
from sesr_lab.data.strips import read_samples

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(content: bytes, label: str) -> NDArray[np.uint8]:
    """The picture, 8 bits deep: (H, W, 3) RGB, or (H, W) where the file is grey.

    Raises:
        DataError: it is damaged or cut short, or has a layout that is not read.
    """
    tags, order = read_tags(content, label)
    layout = read_layout(tags, order, label)
    extra = tags.get(338, ())
    samples = read_samples(content, tags, layout, label)
    colours = COLOURS[layout.photometric]
    most = 2**layout.bits - 1
    if 1 in extra and (samples[..., colours + extra.index(1)] != most).any():
        raise unread("colour premultiplied with an alpha that is not opaque everywhere", label)
    picture = _coloured(samples[..., :colours], layout, tags, label)
    return upright(picture, tags.get(274, (1,))[0])


def _coloured(samples: NDArray[np.uint16], layout: Layout, tags: Tags, label: str) -> NDArray[np.uint8]:
    """Grey (H, W) or RGB (H, W, 3) levels of the samples of a pixel's colour."""
    if layout.photometric == PALETTE:
        return from_palette(samples[..., 0], layout, tags.get(320, ()), label)
    levels = to_8_bits(samples, layout.bits)
    if layout.photometric == CMYK:
        inks = Image.frombytes("CMYK", (layout.width, layout.height), levels.tobytes())
        return np.asarray(inks.convert("RGB"))
    if layout.photometric in {WHITE_IS_ZERO, BLACK_IS_ZERO}:
        return 255 - levels[..., 0] if layout.photometric == WHITE_IS_ZERO else levels[..., 0]
    return levels


def from_palette(indices: NDArray[np.uint16], layout: Layout, colours: Sequence[int], label: str) -> NDArray[np.uint8]:
    """The RGB levels (H, W, 3) that indices (H, W) stand for; `colours` is the tag ColorMap."""
    if len(colours) != 3 * 2**layout.bits:
        raise damaged(f"a palette of {len(colours)} numbers", label)
    table = np.array(colours).reshape(3, -1).T
    # Entries are 16-bit, 256 or 257 times the level depending on who wrote them; some write the level itself.
    levels = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    picture: NDArray[np.uint8] = levels[indices]
    return picture


def to_8_bits(samples: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """The nearest 8-bit levels of unsigned samples whose largest value is 2**bits - 1."""
    if bits == 8:
        return samples.astype(np.uint8)
    most = 2**bits - 1
    levels: NDArray[np.uint8] = ((samples.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)
    return levels


def upright(picture: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The picture turned as the tag Orientation says."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
