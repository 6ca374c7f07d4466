"""Files of JSON lines, each with its checksum: what a kill or a bad disk has damaged is told from what was written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def append_lines(path: Path, values: Mapping[str, Any]) -> None:
    """Appends one checked line to a file of marks."""
    with path.open("ab") as file:
        file.write(line_of(values))


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of marks; what is damaged is passed over, for what it marks can be sent again."""
    with suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True):
            value = checked(line)
            if value is not None:
                yield value


def line_of(value: Mapping[str, Any]) -> bytes:
    """A value as one line with its checksum."""
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def checked(line: bytes) -> dict[str, Any] | None:
    """The value of a line; None where it is not as it was written."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
