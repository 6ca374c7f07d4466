"""Baseline JPEG written from strips of rows, which are encoded apart by Pillow and joined.

A decoder forgets all that went before at a restart marker, so scans that end at one can be joined: markers count
to eight, and a strip is eight rows of blocks. Source: ITU-T T.81, sections B.2.4.4 and E.1.4.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, BinaryIO

from PIL import Image

from sesr_lab.results.decoding import Samples
from sesr_lab.results.header import EXIF, Header, in_strips

_ROWS = 64
"""Of a strip: eight restart intervals of eight rows; a block is 8x8, as chroma is not reduced."""
_LAST_RESTART, _END = b"\xff\xd7", b"\xff\xd9"
_FRAME, _SCAN = 0xC0, 0xDA


def write_jpeg(file: BinaryIO, header: Header, parts: Iterable[Samples]) -> None:
    """Writes the picture whose rows are in `parts`, (any, W, 1 or 3), top to bottom, without chroma subsampling."""
    extras: dict[str, bytes] = {}
    if header.icc:
        extras["icc_profile"] = header.icc
    if header.exif:
        extras["exif"] = EXIF + header.exif.removeprefix(EXIF)
    for index, rows in enumerate(in_strips(parts, _ROWS)):
        encoded = _encoded(rows, header.quality, {} if index else extras)
        scan = _segments(encoded)[-1][1]
        file.write(_LAST_RESTART if index else _with_height(encoded[:scan], header.height))
        file.write(encoded[scan : -len(_END)])
    file.write(_END)


def _encoded(rows: Samples, quality: int, extras: dict[str, Any]) -> bytes:
    strip = io.BytesIO()
    image = Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows)
    image.save(strip, "JPEG", quality=quality, subsampling=0, restart_marker_rows=1, **extras)
    return strip.getvalue()


def _segments(encoded: bytes) -> list[tuple[int, int]]:
    """Marker and position of each segment up to the scan, and 0 with the position of the scan's data."""
    found, at = [], 2
    while True:
        marker = encoded[at + 1]
        found.append((marker, at))
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker == _SCAN:
            return [*found, (0, at)]


def _with_height(head: bytes, height: int) -> bytes:
    """All up to the scan's data, with another height in the frame's header."""
    at = next(at for marker, at in _segments(head) if marker == _FRAME)
    return head[: at + 5] + height.to_bytes(2, "big") + head[at + 7 :]
