"""Picture files written from strips of rows, so that a picture never has to be in memory whole.

WebP alone cannot be written in strips; it holds 16383 pixels a side at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, Final

import numpy as np
from PIL import Image

from sesr_lab.results.decoding import Samples
from sesr_lab.results.header import Header
from sesr_lab.results.jpeg import write_jpeg
from sesr_lab.results.png import write_png
from sesr_lab.results.tiff import write_tiff

FORMATS: Final = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""What is written, by the suffix of the file's name."""
LONGEST_SIDE: Final = {"JPEG": 65_500, "WebP": 16_383}
DEEP = frozenset({"PNG", "TIFF"})
"""Formats that hold 16 bits a sample."""


def write(name: str, file: BinaryIO, header: Header, parts: Iterable[Samples]) -> None:
    """Writes a picture in the format called `name`, one of FORMATS' values, to an empty file.

    Args:
        parts: the picture's rows from top to bottom, (any, W, channels) each.
    """
    writers = {"PNG": write_png, "JPEG": write_jpeg, "TIFF": write_tiff, "WebP": _write_webp}
    writers[name](file, header, parts)


def _write_webp(file: BinaryIO, header: Header, parts: Iterable[Samples]) -> None:
    samples = np.concatenate(list(parts))
    if header.channels < 3:  # WebP has no grey
        samples = np.concatenate([samples[..., :1].repeat(3, axis=2), samples[..., 1:]], axis=2)
    extras = {"icc_profile": header.icc, "exif": header.exif}
    image = Image.fromarray(samples)
    image.save(file, "WEBP", quality=header.quality, **{key: value for key, value in extras.items() if value})
