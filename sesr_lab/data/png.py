"""PNG files: whether they are whole, and the 16 bits of which Pillow keeps 8."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sesr_lab.data.refusal import check_pixels, damaged, unread

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel, by colour type. Source: PNG specification, table 11.1; 4 and 6 end in alpha."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, and the steps to the next ones of each pass of an interlaced picture."""
_PIECE = 1 << 20


class Header(NamedTuple):
    """What IHDR says."""

    width: int
    height: int
    bits: int
    colour: int
    compression: int
    filtering: int
    interlaced: int


def check_png(content: bytes, label: str) -> Header:
    """The header of a file that holds all its pixels.

    Raises:
        DataError: the file is cut short or altered, claims too many pixels, or moves.
    """
    chunks = _chunks(content, label)
    header = _header(chunks, label)
    inflating, found, expected = zlib.decompressobj(), 0, _bytes_of_pixels(header)
    for kind, body in chunks:
        if kind == b"acTL" and int.from_bytes(body[:4]) > 1:
            raise unread(f"{int.from_bytes(body[:4])} frames of an animation", label)
        if kind == b"IDAT" and found < expected:
            found += _inflated(inflating, body, label)
    if found < expected:
        raise damaged(f"{found} of {expected} bytes of pixels", label)
    return header


def read_deep_png(content: bytes, header: Header) -> NDArray[np.uint16]:
    """The samples of a picture with 16 bits each: (H, W, channels), alpha last if it has any."""
    if _CHANNELS[header.colour] == 1:
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            return np.asarray(image).astype(np.uint16)[..., None]
    if header.colour == 4:
        # Two samples of two bytes are stored, and filtered, as four samples of one: RGBA that Pillow leaves alone.
        planes = _decoded(_with_header(content, header._replace(bits=8, colour=6)), "RGBA")
        return _joined(planes[..., ::2], planes[..., 1::2])
    mode = "RGB" if header.colour == 2 else "RGBA"
    high, low = (_decoded(content, f"{mode};16{order}") for order in "BL")  # of bytes 0 and 1, then of 1 and 0
    return _joined(high, low)


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    samples = high.astype(np.uint16)
    samples <<= 8  # in place: a large picture is not held once more
    samples |= low
    return samples


def _decoded(content: bytes, raw_mode: str) -> NDArray[np.uint8]:
    """What Pillow unpacks when told how samples lie; of two bytes it keeps the first in order B, the last in L."""
    with Image.open(BytesIO(content), formats=["PNG"]) as image:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.asarray(image)


def _with_header(content: bytes, header: Header) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", *header)
    return content[:12] + body + zlib.crc32(body).to_bytes(4) + content[12 + len(body) + 4 :]


def _chunks(content: bytes, label: str) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and body of each chunk up to the end, checked against their sums."""
    position, kind, whole = len(SIGNATURE), b"", memoryview(content)
    while kind != b"IEND":
        length = int.from_bytes(whole[position : position + 4])
        chunk = whole[position + 4 : position + 8 + length]  # its kind and its body
        checksum = whole[position + 8 + length : position + 12 + length]
        if len(checksum) < 4:
            raise damaged("cut short", label)
        kind = bytes(chunk[:4])
        critical = kind[:1].isupper()
        if critical and zlib.crc32(chunk) != int.from_bytes(checksum):
            raise damaged(f"wrong checksum of {kind.decode('latin-1')!r}", label)
        yield kind, chunk[4:]
        position += 12 + length


def _header(chunks: Iterator[tuple[bytes, memoryview]], label: str) -> Header:
    kind, body = next(chunks)
    if kind != b"IHDR" or len(body) != 13:
        raise damaged("no header", label)
    header = Header(*struct.unpack(">IIBBBBB", body))
    check_pixels(header.width, header.height, label)
    allowed = header.colour in _CHANNELS and header.bits in (1, 2, 4, 8, 16)
    if not allowed or (header.compression, header.filtering) != (0, 0):
        raise damaged(f"colour type {header.colour} with {header.bits} bits", label)
    return header


def _bytes_of_pixels(header: Header) -> int:
    """Bytes that the pixels take when inflated, a filter byte for each row included."""
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        width, height = -(-(header.width - left) // across), -(-(header.height - top) // down)
        if width > 0 and height > 0:
            total += height * (1 + -(-width * _CHANNELS[header.colour] * header.bits // 8))
    return total


def _inflated(inflating: zlib._Decompress, body: memoryview, label: str) -> int:
    """Bytes that come out of one IDAT chunk, piece by piece so that they never lie in memory together."""
    found, rest = 0, bytes(body)
    try:
        while rest and not inflating.eof:
            found += len(inflating.decompress(rest, _PIECE))
            rest = inflating.unconsumed_tail
    except zlib.error as error:
        raise damaged(str(error), label) from error
    return found
