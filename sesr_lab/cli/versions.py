"""Registered networks as a tree of parents and children, and in plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sesr_lab.cli.tables import Sheet, giga
from sesr_lab.cli.terminal import console
from sesr_lab.registry.catalog import CHAMPION
from sesr_lab.registry.version import TAG, Version

_COLUMNS = ("network/version", "PSNR", "SSIM", "GMAC", "data", "age", "aliases")
_EXPENDABLE = ("data", "SSIM", "age", "GMAC", "aliases")


def show_models(versions: Sequence[Version]) -> None:
    """Registered networks: each x4 network stands below the x2 version that it started from."""
    if not versions:
        print("no network is registered here yet; train one: sesr-lab train --preset m5")
        return
    rows = [
        [
            f"{'└─ ' * depth}{version.name}/{version.version}",
            f"{version.psnr_db:.2f}",
            f"{version.ssim:.4f}",
            giga(version.macs_720p),
            version.data,
            age(version.created),
            " ".join(_telling(version.aliases)),
        ]
        for depth, version in _family(versions)
    ]
    console().print(Sheet("registered networks", _COLUMNS, rows, expendable=_EXPENDABLE))


def version_json(version: Version) -> dict[str, Any]:
    """A version in plain values, for scripts."""
    plain = asdict(version) | {
        "architecture": version.architecture.model_dump(),
        "created": version.created.isoformat(),
        "uri": version.uri,
        "aliases": list(version.aliases),
    }
    ms = version.tags.get(f"{TAG}latency_ms")
    origin = {key: version.tags.get(TAG + key) for key in ("target", "target_input", "target_tool")}
    on_target = {"latency_ms": None if ms is None else float(ms), **origin}
    return {key: value for key, value in plain.items() if key != "tags"} | on_target


def age(created: datetime) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = (datetime.now(UTC) - created).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _telling(aliases: Sequence[str]) -> Sequence[str]:
    """The aliases worth showing: the champion needs no word that it is the champion on its own data."""
    return [alias for alias in aliases if CHAMPION not in aliases or not alias.startswith(f"{CHAMPION}-")]


def _family(versions: Sequence[Version]) -> Iterator[tuple[int, Version]]:
    """Each version with its depth in the tree, children after their parent."""
    known = {f"{version.name}/{version.version}" for version in versions}
    roots = [version for version in versions if version.parent not in known]
    for root in roots:
        yield 0, root
        name = f"{root.name}/{root.version}"
        yield from ((1, version) for version in versions if version.parent == name)
