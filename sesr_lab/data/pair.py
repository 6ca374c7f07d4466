"""One row of a data set: its files read, decoded, cut and paired.

A row is what Hugging Face `datasets` gives: a name, and under `hr` and `lr` a picture not decoded, that is
{"bytes", "path"}; `lr` is None where LR is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from sesr_lab.data.image import downscale, luma, modcrop
from sesr_lab.data.patches import LEVELS
from sesr_lab.data.picture import read_picture
from sesr_lab.data.prepared import pack
from sesr_lab.errors import DataError

Picture = NDArray[np.uint8]
Row = Mapping[str, Any]

VALID_SIDE = 512
"""Pictures to score on are cut to at most this many HR pixels a side, from their centre."""
_ALIGNMENT = 4
"""The crop begins at a multiple of this, which suits every scale, so that it is the same at all of them."""
_SSIM_WINDOW = 11


class Sample(NamedTuple):
    """A picture to score on: hr (scale·h, scale·w[, 3]) and lr (h, w[, 3]), 8-bit RGB or grey."""

    name: str
    hr: Picture
    lr: Picture


def content(row: Row, column: str) -> bytes:
    """The file of one column: of a path, of `zip://MEMBER::ARCHIVE`, or held in the row itself.

    Raises:
        DataError: the file cannot be read.
    """
    cell = row[column]
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    try:
        return _read(cell["path"])
    except (OSError, BadZipFile, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{_label(row, column)}: cannot be read ({reason}); put it back") from error


def train_planes(row: Row, scale: int) -> NDArray[np.int16]:
    """Luma of LR and HR as `prepared.pack` lays it out, in steps of 1 / LEVELS: (1 + scale², h, w).

    Raises:
        DataError: a picture is damaged or too small, or HR and LR do not match.
    """
    hr, lr = _high_and_low(row, scale, least=scale)
    planes = pack(luma(downscale(hr, scale) if lr is None else lr), luma(hr), scale)
    return np.rint(planes * (LEVELS / 255)).astype(np.int16)


def sample_planes(row: Row, scale: int) -> Picture:
    """The central crop to score on, HR and LR as `prepared.pack` lays them out: (1 + scale², h, w[, 3]).

    Raises:
        DataError: as `train_planes`.
    """
    hr, lr = _high_and_low(row, scale, least=scorable_side(scale))
    top, left, height, width = _central(hr, scale)
    hr = hr[top : top + height, left : left + width]
    if lr is None:
        return pack(downscale(hr, scale), hr, scale)
    top, left, height, width = (length // scale for length in (top, left, height, width))
    return pack(lr[top : top + height, left : left + width], hr, scale)


def whole_sample(row: Row, scale: int) -> Sample:
    """The whole picture to score on, HR cut to a multiple of `scale` at its right and bottom.

    Raises:
        DataError: as `train_planes`.
    """
    hr, lr = _high_and_low(row, scale, least=scorable_side(scale))
    return Sample(row["name"], hr, downscale(hr, scale) if lr is None else lr)


def match(hr: Picture, lr: Picture, *, scale: int, name: str) -> None:
    """Accepts an LR picture that is the whole HR picture, `scale` times smaller.

    Raises:
        DataError: the sizes do not match, or one is grey and the other is not.
    """
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    if lr.shape[:2] != (height, width):
        wanted = f"{_size(hr)} at high resolution needs {width}x{height}"
        raise DataError(f"{name}: LR is {_size(lr)} pixels; {wanted} at x{scale}; make it again from HR")
    if lr.ndim != hr.ndim:
        raise DataError(f"{name}: one of HR and LR is grey, the other is colour; make LR again from HR")


def scorable_side(scale: int) -> int:
    """The least HR side in which SSIM has room once `scale` pixels are shaved off each side."""
    return -(-(_SSIM_WINDOW + 2 * scale) // scale) * scale


def check_size(hr: Picture, *, least: int, name: str) -> None:
    """Accepts an HR picture of at least `least` pixels a side.

    Raises:
        DataError: the picture is smaller.
    """
    if min(hr.shape[:2]) < least:
        raise DataError(f"{name}: {_size(hr)} pixels; {least}x{least} or more are needed; remove it")


def file_of(row: Row, column: str) -> str:
    """The path of the file that holds a picture: its own, or that of the zip around it."""
    return _place(row[column]["path"])[0]


def _place(location: str) -> tuple[str, str | None]:
    """The file of a location, and the member where the file is a zip."""
    if not location.startswith("zip://"):
        return location, None
    member, _, archive = location.removeprefix("zip://").partition("::")
    return archive, member


def _read(location: str) -> bytes:
    file, member = _place(location)
    if member is None:
        return Path(file).read_bytes()
    with ZipFile(file) as opened:
        return opened.read(member)


def _high_and_low(row: Row, scale: int, *, least: int) -> tuple[Picture, Picture | None]:
    """HR cut to a multiple of `scale`, and the LR that came with it, if one did."""
    hr = read_picture(content(row, "hr"), name=_label(row, "hr"))
    check_size(hr, least=least, name=_label(row, "hr"))
    if row["lr"] is None:
        return modcrop(hr, scale), None
    lr = read_picture(content(row, "lr"), name=_label(row, "lr"))
    match(hr, lr, scale=scale, name=_label(row, "lr"))
    return modcrop(hr, scale), lr


def _central(hr: Picture, scale: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the central crop, all multiples of `scale`."""
    height, width = (min(VALID_SIDE, length) // scale * scale for length in hr.shape[:2])
    top, left = ((a - b) // 2 // _ALIGNMENT * _ALIGNMENT for a, b in zip(hr.shape, (height, width), strict=False))
    return top, left, height, width


def _label(row: Row, column: str) -> str:
    """What errors call a picture: its file where it has one, or else its name."""
    if row[column]["bytes"] is not None:
        return str(row["name"])
    file, member = _place(row[column]["path"])
    return file if member is None else f"{file}: {member}"


def _size(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
