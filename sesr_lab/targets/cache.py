"""Estimates that were made before, one file each, by what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from sesr_lab.targets.estimate import Estimate


def key_of(identity: Mapping[str, object]) -> str:
    """The name of the file for an estimate that depends on `identity`, which JSON can hold."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def recall(key: str) -> Estimate | None:
    """The estimate that was remembered; None if there is none, or its file is of no use."""
    try:
        stored = json.loads((_folder() / f"{key}.json").read_text(encoding="utf-8"))
        return Estimate(**{**stored, "fallbacks": tuple(stored["fallbacks"])})
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):  # no home, missing, cut short, another version
        return None


def remember(key: str, estimate: Estimate) -> None:
    """Keeps the estimate: written aside and renamed, so that no reader meets half a file."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=folder, prefix=".new-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(estimate), file)
        Path(aside).replace(folder / f"{key}.json")
    except (OSError, RuntimeError):  # no home, or one that cannot be written, costs the time to estimate again
        return


def _folder() -> Path:
    """Raises a RuntimeError where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sesr-lab" / "estimates"
