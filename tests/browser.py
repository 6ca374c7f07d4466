"""A headless Chromium: what a page shows, and what it looks like. Tests that need one are marked `needs_chromium`."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

PATIENCE_MS = 40_000
"""Of the browser's own clock, which runs faster than ours while nothing happens."""


def page(address: str, profile: Path, *, wait_ms: int = PATIENCE_MS) -> str:
    """The page's document once its scripts have run for that long by the browser's clock."""
    return _chromium(address, profile, "--dump-dom", f"--virtual-time-budget={wait_ms}")


def words(document: str) -> str:
    """What a document shows, tags left out."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", document, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def photograph(address: str, profile: Path, *, to: Path, size: tuple[int, int]) -> Path:
    """The page as a PNG at `to`, as a window of that width and height shows it."""
    window = f"--window-size={size[0]},{size[1]}"
    _chromium(address, profile, f"--screenshot={to}", window, f"--virtual-time-budget={PATIENCE_MS}")
    return to


def _chromium(address: str, profile: Path, *options: str) -> str:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--timeout=60000"]
    command += ["--window-size=1800,2400", f"--user-data-dir={profile}", *options, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
