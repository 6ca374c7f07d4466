"""What a data set's files are, as one hash; remembered as long as the files' marks stay the same."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.data import Progress
from sesr_lab.data.mark import mark, settled
from sesr_lab.data.pair import Row, content, file_of

if TYPE_CHECKING:
    from datasets import DatasetDict


def fingerprint(splits: DatasetDict, column: str, *, memory: Path, progress: Progress | None = None) -> str:
    """SHA-256 (hex) of split names, picture names and the files of one column.

    Files are read again when the `mark` of one has changed, or was too young to be relied on.

    Args:
        memory: folder of what was computed before.

    Raises:
        DataError: a file cannot be read.
    """
    started = time.time()
    marks = _marks(splits, column)
    if marks is None:
        return _computed(splits, column, progress)
    names = [[split, row["name"], row[column]["path"]] for split, row in _rows(splits)]
    known = memory / hashlib.sha256(json.dumps([names, marks]).encode()).hexdigest()
    remembered = _remembered(known)
    if remembered is not None:
        return remembered
    computed = _computed(splits, column, progress)
    if all(settled(found, started) for found in marks.values()):
        _remember(known, computed)
    return computed


def _marks(splits: DatasetDict, column: str) -> dict[str, list[int]] | None:
    """The mark of each file; None for pictures that are not in files of their own."""
    marks: dict[str, list[int]] = {}
    for _, row in _rows(splits):
        if row[column]["bytes"] is not None:
            return None
        file = file_of(row, column)
        if file not in marks:
            marks[file] = mark(Path(file))
    return marks


def _computed(splits: DatasetDict, column: str, progress: Progress | None) -> str:
    total = sum(map(len, splits.values()))
    digest = hashlib.sha256()
    for done, (split, row) in enumerate(_rows(splits), start=1):
        file = content(row, column)
        digest.update(f"{split}/{row['name']}\0{len(file)}\0".encode())
        digest.update(file)
        if progress is not None:
            progress(done, total, "reading pictures")
    return digest.hexdigest()


def _rows(splits: DatasetDict) -> Iterator[tuple[str, Row]]:
    for split in ("train", "valid"):
        for row in splits[split]:
            yield split, row


def _remembered(known: Path) -> str | None:
    try:
        text, checksum = known.read_text().split()
    except (OSError, ValueError):
        return None
    return text if checksum == _checksum(text) else None


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _remember(known: Path, computed: str) -> None:
    """Writes aside and renames; a folder that cannot be written costs time only."""
    unfinished = known.with_name(f".{known.name}.{uuid.uuid4().hex}.tmp")
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(f"{computed} {_checksum(computed)}\n")
        unfinished.replace(known)
    except OSError:
        return
