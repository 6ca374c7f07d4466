"""The samples in a TIFF's strips and tiles; libtiff, which Pillow brings, only undoes their compression."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sesr_lab.data.jpeg import check_frame, check_pixels_whole
from sesr_lab.data.layout import FAX, JPEG, PLAIN, PREDICTED, YCBCR, Layout, Tags
from sesr_lab.data.refusal import damaged, reason, unread

_FAX_OPTIONS = (292, 293)
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]


def read_samples(content: bytes, tags: Tags, layout: Layout, label: str) -> NDArray[np.uint16]:
    """All samples as they are in the file: (H, W, samples)."""
    rows, columns = layout.part
    places = list(_places(layout))
    planes = layout.samples if layout.apart else 1
    starts = tags.get(324 if layout.tiled else 273, ())
    sizes = tags.get(325 if layout.tiled else 279, ())
    if layout.compression == PLAIN:
        sizes = (rows * layout.row_bytes,) * len(starts)
    if min(len(starts), len(sizes)) < len(places) * planes:
        raise damaged(f"{min(len(starts), len(sizes))} of {len(places) * planes} strips or tiles", label)
    whole = np.empty((layout.height, layout.width, layout.samples), np.uint16)
    for index in range(len(places) * planes):
        top, left = places[index % len(places)]
        here = rows if layout.tiled else min(rows, layout.height - top)
        size = here * layout.row_bytes if layout.compression == PLAIN else sizes[index]
        packed = content[starts[index] : starts[index] + size]
        if len(packed) < size or not packed or not starts[index]:
            raise damaged("cut short", label)
        samples = _unpacked(packed, here, tags, layout, label)
        target = whole[top : top + rows, left : left + columns]
        plane = index // len(places)
        target = target[..., plane : plane + 1] if layout.apart else target
        target[...] = samples[: target.shape[0], : target.shape[1]]
    return whole


def _places(layout: Layout) -> Iterator[tuple[int, int]]:
    """Top and left of each strip or tile, in the file's order."""
    for top in range(0, layout.height, layout.part[0]):
        for left in range(0, layout.width, layout.part[1]):
            yield top, left


def _unpacked(packed: bytes, rows: int, tags: Tags, layout: Layout, label: str) -> NDArray[np.uint16]:
    """The samples of one strip or tile: (rows, columns, samples)."""
    if layout.compression == JPEG:
        return _from_jpeg(packed, tags, layout, label)
    count = layout.part[1] * layout.together
    raw = _bytes(packed, rows, tags, layout, label)
    samples = _widened(raw, count, layout).reshape(rows, layout.part[1], layout.together)
    if layout.compression in PREDICTED and layout.predicted:
        samples = np.cumsum(samples, axis=1, dtype=np.uint16) & np.uint16(2**layout.bits - 1)
    return samples


def _bytes(packed: bytes, rows: int, tags: Tags, layout: Layout, label: str) -> NDArray[np.uint8]:
    """One strip or tile without its compression: (rows, bytes of a row)."""
    if layout.compression == PLAIN:
        raw = np.frombuffer(packed, np.uint8).reshape(rows, layout.row_bytes)
        return _REVERSED[raw] if layout.reversed_bits else raw
    bits, width = (1, layout.part[1]) if layout.compression in FAX else (8, layout.row_bytes)
    options = {tag: numbers[0] for tag, numbers in tags.items() if tag in _FAX_OPTIONS}
    options |= {256: width, 257: rows, 258: bits, 259: layout.compression, 262: 1, 277: 1, 278: rows}
    options |= {266: 2} if layout.reversed_bits else {}
    try:
        with Image.open(BytesIO(_little_tiff(packed, options)), formats=["TIFF"]) as image:
            raw = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise damaged(reason(error), label) from error
    return np.packbits(raw, axis=1) if layout.compression in FAX else raw


def _little_tiff(strip: bytes, tags: dict[int, int]) -> bytes:
    """A TIFF of one strip."""
    data = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = sorted((tags | {273: data, 279: len(strip)}).items())
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", 0) + strip


def _widened(raw: NDArray[np.uint8], count: int, layout: Layout) -> NDArray[np.uint16]:
    """Samples of any number of bits, packed without gaps inside a row: (rows, count)."""
    if layout.bits == 8:
        return raw[:, :count].astype(np.uint16)
    if layout.bits == 16:
        return np.ascontiguousarray(raw).view(f"{layout.order}u2")[:, :count].astype(np.uint16)
    single = np.unpackbits(raw, axis=1)[:, : count * layout.bits].reshape(len(raw), count, layout.bits)
    samples = np.zeros((len(raw), count), np.uint16)
    for bit in range(layout.bits):
        samples = (samples << np.uint16(1)) | single[..., bit]
    return samples


def _from_jpeg(packed: bytes, tags: Tags, layout: Layout, label: str) -> NDArray[np.uint16]:
    """One strip or tile of JPEG, its shared tables put before it; YCbCr comes out as RGB."""
    tables = bytes(tags.get(347, (0xFF, 0xD8, 0xFF, 0xD9)))[2:-2]
    transform = 1 if layout.photometric == YCBCR else 0
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0" + bytes([transform]) if layout.together == 3 else b""
    content = b"\xff\xd8" + adobe + tables + packed[2:]
    segments = check_frame(content, label)
    try:
        with Image.open(BytesIO(content), formats=["JPEG"]) as image:
            samples = np.asarray(image)
            check_pixels_whole(content, segments, image, label)
    except OSError as error:
        raise damaged(reason(error), label) from error
    samples = samples.reshape(*samples.shape[:2], -1)
    samples = 255 - samples if layout.together == 4 else samples  # Pillow turns four samples around, as Adobe does
    if samples.shape[1:] != (layout.part[1], layout.together):
        raise unread("TIFF of JPEG whose size is not that of the strip or tile", label)
    return samples.astype(np.uint16)
