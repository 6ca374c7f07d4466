"""What a data set's files are, as one hash; remembered as long as the files' sizes and times stay the same."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.data.pair import Row, content, file_of
from sesr_lab.data.prepared import Progress

if TYPE_CHECKING:
    from datasets import DatasetDict

_DIGITS = 64


def fingerprint(splits: DatasetDict, column: str, *, memory: Path, progress: Progress | None = None) -> str:
    """SHA-256 (hex) of split names, picture names and the files of one column.

    Files are read again when a path, size, modification time or inode has changed, as git does it.

    Args:
        memory: folder of what was computed before.

    Raises:
        DataError: a file cannot be read.
    """
    state = _state(splits, column)
    if state is None:
        return _computed(splits, column, progress)
    known = memory / hashlib.sha256(state.encode()).hexdigest()
    try:
        remembered = known.read_text()
    except (OSError, UnicodeDecodeError):
        remembered = ""
    if len(remembered) == _DIGITS and set(remembered) <= set("0123456789abcdef"):
        return remembered
    computed = _computed(splits, column, progress)
    _remember(known, computed)
    return computed


def _state(splits: DatasetDict, column: str) -> str | None:
    """All that says whether files have changed; None for pictures that are not in files of their own."""
    marks: dict[str, list[int]] = {}
    names = []
    for split, row in _rows(splits):
        if row[column]["bytes"] is not None:
            return None
        file = file_of(row, column)
        if file not in marks:
            marks[file] = _mark(Path(file))
        names.append([split, row["name"], row[column]["path"]])
    return json.dumps([names, marks])


def _mark(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError:
        return []  # reading it will say what is wrong
    return [status.st_size, status.st_mtime_ns, status.st_ino]


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


def _remember(known: Path, computed: str) -> None:
    """Writes aside and renames; a folder that cannot be written costs time only."""
    unfinished = known.with_name(f".{known.name}.{uuid.uuid4().hex}.tmp")
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(computed)
        unfinished.replace(known)
    except OSError:
        return
