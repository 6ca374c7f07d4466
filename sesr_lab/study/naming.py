"""Names of studies: letters, digits, dots and dashes, and never one name for two things."""

from __future__ import annotations

import hashlib
import re

PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a study may be called: its name is that of an MLflow experiment, and of folders."""


def study_name(text: str) -> str:
    """`text` itself where a study may be called that; else what is left of it, and a few digits of its own."""
    return text if re.fullmatch(PATTERN, text) else _own(text, re.sub(r"[^A-Za-z0-9._-]+", "-", text))


def slug(source: str) -> str:
    """A data source as part of a study's name: two sources never share one, whatever letters they are written in."""
    plain = re.fullmatch(r"[a-z0-9]+(:[A-Za-z0-9.]+(-[A-Za-z0-9.]+)*)?", source)
    return source.replace(":", "-") if plain else _own(source, re.sub(r"[^A-Za-z0-9.]+", "-", source))


def _own(text: str, readable: str) -> str:
    """What can be read of `text`, and six hex digits that tell it from others of which the same can be read."""
    digits = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return "-".join(part for part in (readable.strip("-._")[:60], digits) if part)
