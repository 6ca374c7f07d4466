"""What a picture file says before its samples, and the samples in strips of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sesr_lab.results.decoding import Samples

EXIF = b"Exif\0\0"
"""What stands before EXIF in a JPEG, and in no other format."""


@dataclass(frozen=True)
class Header:
    """What is known of a picture before its rows."""

    height: int
    width: int
    channels: int
    """1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
    bits: int
    """8 or 16."""
    icc: bytes | None
    exif: bytes | None
    orientation: int
    quality: int
    """Of JPEG and WebP, 1 to 100."""


def in_strips(parts: Iterable[Samples], rows: int) -> Iterator[Samples]:
    """The same rows, `rows` at a time; the last strip has what is left."""
    waiting: list[Samples] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= rows:
            joined = np.concatenate(waiting)
            whole = len(joined) // rows * rows
            yield from np.split(joined[:whole], whole // rows)
            waiting = [joined[whole:]]
    rest = np.concatenate(waiting)
    if len(rest):
        yield rest
