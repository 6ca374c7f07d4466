"""TIFF written from strips of rows, deflated, 8 or 16 bits a sample; BigTIFF where 32-bit offsets might not do.

Source: TIFF 6.0, sections 2, 8 and 14, and its technical note 2 on Deflate.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

from sesr_lab.results.decoding import Samples
from sesr_lab.results.header import Header, in_strips

_SHORT, _LONG, _UNDEFINED, _LONG8 = 3, 4, 7, 16
_CODES = {_SHORT: "H", _LONG: "I", _UNDEFINED: "B", _LONG8: "Q"}
_Entry = tuple[int, int, list[int]]
"""A tag, its type and its values."""
_BIG_BYTES = 3_500_000_000
_ROWS = 64
_LEVEL = 4


def write_tiff(file: BinaryIO, header: Header, parts: Iterable[Samples]) -> None:
    """Writes the picture whose rows are in `parts`, (any, W, channels), top to bottom; of EXIF, the orientation."""
    is_big = header.height * header.width * header.channels * header.bits // 8 > _BIG_BYTES
    # The directory's place is filled in at the end.
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if is_big else struct.pack("<2sHI", b"II", 42, 0))
    offsets, lengths = [], []
    for rows in in_strips(parts, _ROWS):
        packed = zlib.compress(_differences(rows), _LEVEL)
        offsets.append(file.tell())
        lengths.append(len(packed))
        file.write(packed)
    file.write(b"\0" * (file.tell() % 2))  # a directory begins at an even place
    place = file.tell()
    file.write(_directory(_entries(header, offsets, lengths, is_big=is_big), place, is_big=is_big))
    file.seek(8 if is_big else 4)
    file.write(struct.pack("<Q" if is_big else "<I", place))


def _differences(rows: Samples) -> bytes:
    """Each sample less that of the pixel to its left, modulo 2^bits."""
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]
    return differences.astype(differences.dtype.newbyteorder("<")).tobytes()


def _entries(header: Header, offsets: list[int], lengths: list[int], *, is_big: bool) -> list[_Entry]:
    long, channels = _LONG8 if is_big else _LONG, header.channels
    entries: list[_Entry] = [
        (256, _LONG, [header.width]),
        (257, _LONG, [header.height]),
        (258, _SHORT, [header.bits] * channels),
        (259, _SHORT, [8]),  # Deflate
        (262, _SHORT, [2 if channels >= 3 else 1]),  # RGB, or grey with black as zero
        (273, long, offsets),
        (274, _SHORT, [header.orientation]),
        (277, _SHORT, [channels]),
        (278, _LONG, [_ROWS]),
        (279, long, lengths),
        (284, _SHORT, [1]),  # samples of a pixel side by side
        (317, _SHORT, [2]),  # horizontal differences
    ]
    if channels in (2, 4):
        entries.append((338, _SHORT, [2]))  # alpha, not multiplied in
    if header.icc:
        entries.append((34675, _UNDEFINED, list(header.icc)))
    return entries


def _directory(entries: list[_Entry], place: int, *, is_big: bool) -> bytes:
    """The directory that begins at `place`, with what does not fit into its entries behind it."""
    count, entry, offset, room = ("<Q", "<HHQ", "<Q", 8) if is_big else ("<H", "<HHI", "<I", 4)
    size = struct.calcsize(entry) + room
    spare = place + struct.calcsize(count) + size * len(entries) + room
    table, behind = struct.pack(count, len(entries)), b""
    for tag, kind, values in entries:
        content = struct.pack(f"<{len(values)}{_CODES[kind]}", *values)
        table += struct.pack(entry, tag, kind, len(values))
        if len(content) <= room:
            table += content.ljust(room, b"\0")
            continue
        table += struct.pack(offset, spare + len(behind))
        behind += content + b"\0" * (len(content) % 2)
    return table + b"\0" * room + behind
