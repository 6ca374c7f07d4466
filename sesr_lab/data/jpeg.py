"""JPEG files whose pixels are all there.

libjpeg fills up what is missing with grey and calls it a warning, which Pillow drops. So the picture is decoded a
second time with noise put behind each scan: a scan that is whole ends by itself and leaves the noise unread.
"""

from __future__ import annotations

import hashlib
import re
from io import BytesIO
from typing import NamedTuple

from PIL import Image

from sesr_lab.data.refusal import damaged, reason, unread

SIGNATURE = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
_END, _SCAN, _BITS = 0xD9, 0xDA, 8
_RESTARTS = range(0xD0, 0xD8)
_BARE = {0x01, 0xD8, _END, *_RESTARTS}
"""Markers without a length behind them."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_READ_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_PROGRESSIVE = {0xC2, 0xCA}
_ARITHMETIC = {0xC9, 0xCA}
"""Frames whose scans may rightly end early: missing bytes are zeros. Source: ITU-T T.81, D.2.4."""
_NOISE = b"\xaa" + b"".join(hashlib.sha512(bytes([i])).digest() for i in range(4)).replace(b"\xff", b"\x5a")
"""It begins with a 1: libjpeg reads zeros where bits are missing, so that the first missing bit makes a difference."""


class Segment(NamedTuple):
    """A marker and what belongs to it, the pixels behind a scan's header left out."""

    kind: int
    start: int
    end: int
    body: bytes


def check_frame(content: bytes, label: str) -> list[Segment]:
    """The segments of a JPEG with 8 bits a sample, baseline or progressive, all of whose scans are there.

    Raises:
        DataError: as said.
    """
    segments = _segments(content)
    frame = next((segment for segment in segments if segment.kind in _FRAMES), None)
    if frame is None or segments[-1].kind != _END:
        raise damaged("cut short: no end of the picture", label)
    if frame.kind not in _READ_FRAMES:
        raise unread("lossless or hierarchical JPEG", label)
    if frame.body[0] != _BITS:
        raise unread(f"JPEG with {frame.body[0]} bits a sample", label)
    components = frame.body[6::3]
    missing = {component: [True] * 64 for component in components}
    for segment in segments:
        if segment.kind == _SCAN:
            _strike_out(missing, segment.body, in_parts=frame.kind in _PROGRESSIVE)
    if any(map(any, missing.values())):
        raise damaged("cut short: scans are missing", label)
    return segments


def check_pixels_whole(content: bytes, segments: list[Segment], image: Image.Image, label: str) -> None:
    """Accepts the file whose decoded picture is `image` if none of its scans is cut short.

    Raises:
        DataError: one is.
    """
    if any(segment.kind in _ARITHMETIC for segment in segments):
        return
    try:
        with Image.open(BytesIO(_with_noise(content, segments)), formats=["JPEG"]) as other:
            same = other.tobytes() == image.tobytes()
    except OSError as error:
        raise damaged(reason(error), label) from error
    if not same:
        raise damaged("cut short: a scan ends before its last pixel", label)


def _strike_out(missing: dict[int, list[bool]], scan: bytes, *, in_parts: bool) -> None:
    """Marks the coefficients that a scan brings to their last bit: all of them, or as a progressive scan says.

    Source: ITU-T T.81, B.2.3 and G.1.1.1.
    """
    count = scan[0]
    first, last, bits = scan[1 + 2 * count : 4 + 2 * count] if in_parts else (0, 63, 0)
    if bits & 15 == 0:
        for component in scan[1 : 1 + 2 * count : 2]:
            missing[component][first : last + 1] = [False] * (last + 1 - first)


def _with_noise(content: bytes, segments: list[Segment]) -> bytes:
    """The file with noise behind each scan and before each restart."""
    parts, copied = [], 0
    for segment in segments:
        if segment.kind == _SCAN:
            for marker in _MARKER.finditer(content, segment.end):
                parts += [content[copied : marker.start()], _NOISE]
                copied = marker.start()
                if marker[1][0] not in _RESTARTS:
                    break
    return b"".join([*parts, content[copied:]])


def _segments(content: bytes) -> list[Segment]:
    """The segments up to the end of the picture."""
    segments, position = [], 2
    while marker := _MARKER.search(content, position):
        kind, position = marker[1][0], marker.end()
        if kind not in _BARE:
            position += int.from_bytes(content[position : position + 2])
        segments.append(Segment(kind, marker.start(), position, content[marker.end() + 2 : position]))
        if kind == _END:
            break
    return segments
