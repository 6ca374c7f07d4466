"""How the samples of a TIFF lie in its file and what they mean, by its tags.

Source of all numbers: TIFF 6.0 and its supplements.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sesr_lab.data.refusal import check_pixels, damaged, unread

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
"""Samples of a pixel's colour; further ones are alpha or unknown."""
PLAIN, JPEG, FAX = 1, 7, (2, 3, 4)
PREDICTED = {5, 8, 32946, 34925, 50000}
"""Compressions that may follow a predictor: LZW, Deflate under two numbers, LZMA and Zstandard."""
PACK_BITS = 32773
_NAMES = {4: "mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "raw sensor", 34892: "raw sensor"}
_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a thumbnail and a mask go with a picture, and are none."""
_MOST_PAGES, _MOST_SAMPLES, _MOST_BITS = 1000, 8, 16
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}
"""The types of tags that hold unsigned whole numbers or plain bytes, as `struct` writes them."""
Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """How the samples of one picture lie in its file."""

    width: int
    height: int
    bits: int
    samples: int
    photometric: int
    compression: int
    predicted: bool
    reversed_bits: bool
    apart: bool
    """Whether each sample has a plane of its own."""
    order: str
    """Of the bytes of a sample: < or >."""
    part: tuple[int, int]
    """Height and width of a tile or strip."""
    tiled: bool

    @property
    def together(self) -> int:
        """Samples of a pixel that lie side by side."""
        return 1 if self.apart else self.samples

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a tile or strip."""
        return -(-self.part[1] * self.together * self.bits // 8)


def read_tags(content: bytes, label: str) -> tuple[Tags, str]:
    """The tags of the only picture, and the order of bytes in the file; DataError where there are several, or none."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in {b"+\0", b"\0+"}
    try:
        at = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4)[0]
        pages: dict[int, Tags] = {}
        while at != 0 and at not in pages and len(pages) < _MOST_PAGES:
            pages[at], at = _directory(content, at, order, big=big)
    except struct.error:
        raise damaged("cut short", label) from None
    whole = [page for page in pages.values() if not page.get(254, (0,))[0] & (_REDUCED | _MASK)]
    if len(whole) != 1:
        raise unread(f"TIFF with {len(whole)} pages", label)
    return whole[0], order


def _directory(content: bytes, at: int, order: str, *, big: bool) -> tuple[Tags, int]:
    """The tags that hold whole numbers, and where the next directory lies; struct.error where bytes are missing."""
    count_format, entry, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    (count,) = struct.unpack_from(order + count_format, content, at)
    at += struct.calcsize(order + count_format)
    tags: Tags = {}
    for _ in range(count):
        tag, kind, length, value = struct.unpack_from(order + entry, content, at)
        at += struct.calcsize(order + entry)
        if kind in _WHOLE_NUMBERS and length:
            numbers = order + _WHOLE_NUMBERS[kind] * min(length, len(content))
            place = struct.unpack(order + ("Q" if big else "I"), value)[0]
            fits = struct.calcsize(numbers) <= inline
            tags[tag] = struct.unpack_from(numbers, *((value, 0) if fits else (content, place)))
    return tags, struct.unpack_from(order + ("Q" if big else "I"), content, at)[0]


def read_layout(tags: Tags, order: str, label: str) -> Layout:
    """How the samples lie; DataError where they lie in a way that is not read."""
    width, height = _number(tags, 256, label), _number(tags, 257, label)
    check_pixels(width, height, label)
    samples = tags.get(277, (1,))[0]
    bits = tags.get(258, (1,) * samples)
    if len(bits) < samples:
        raise damaged(f"bits of {len(bits)} of {samples} samples", label)
    kinds = tags.get(339, (1,))
    tiled = 322 in tags
    part = (_number(tags, 323, label), _number(tags, 322, label)) if tiled else (height, width)
    if not tiled:
        part = (min(tags.get(278, (height,))[0], height), width)
    layout = Layout(
        width=width,
        height=height,
        bits=bits[0],
        samples=samples,
        photometric=_number(tags, 262, label),
        compression=tags.get(259, (PLAIN,))[0],
        predicted=tags.get(317, (1,))[0] != 1,
        reversed_bits=tags.get(266, (1,))[0] == 2,
        apart=tags.get(284, (1,))[0] == 2 and samples > 1,
        order=order,
        part=part,
        tiled=tiled,
    )
    _check_layout(layout, tags, label)
    if len(set(bits)) > 1 or bits[0] > _MOST_BITS or bits[0] < 1:
        raise unread(
            f"{' and '.join(map(str, sorted(set(bits))))} bits a sample; allowed are 8 bits, or 1 to 16", label
        )
    if set(kinds) != {1}:
        raise unread(f"samples that are not unsigned integers (SampleFormat {kinds[0]})", label)
    return layout


def _check_layout(layout: Layout, tags: Tags, label: str) -> None:
    if layout.photometric not in COLOURS:
        kind = _NAMES.get(layout.photometric, f"PhotometricInterpretation {layout.photometric}")
        raise unread(f"TIFF with {kind} colour", label)
    if layout.photometric == YCBCR and layout.compression != JPEG:
        raise unread("TIFF with YCbCr colour outside JPEG", label)
    if layout.photometric == CMYK and tags.get(332, (1,))[0] != 1:
        raise unread("TIFF with other inks than CMYK", label)
    if not COLOURS[layout.photometric] <= layout.samples <= _MOST_SAMPLES:
        raise damaged(f"{layout.samples} samples a pixel", label)
    check_pixels(*layout.part[::-1], label)
    if layout.compression == JPEG and (layout.bits != 8 or layout.together not in (1, 3, 4)):
        raise unread(f"TIFF of JPEG with {layout.together} samples of {layout.bits} bits", label)
    if layout.compression not in {PLAIN, JPEG, PACK_BITS, *FAX, *PREDICTED}:
        raise unread(f"TIFF with compression {layout.compression}", label)
    if layout.compression in FAX and (layout.bits, layout.together) != (1, 1):
        raise damaged("fax compression of other than 1-bit samples", label)
    predictor = tags.get(317, (1,))[0] if layout.compression in PREDICTED else 1
    if predictor not in (1, 2) or (predictor == 2 and layout.bits not in (8, 16)):
        raise unread(f"TIFF with predictor {predictor} and {layout.bits} bits a sample", label)


def _number(tags: Tags, tag: int, label: str) -> int:
    if tag not in tags:
        raise damaged(f"no tag {tag}", label)
    return tags[tag][0]
