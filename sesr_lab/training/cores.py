"""How many processor cores this process may use: by its affinity, and by the quotas of the groups it lies in."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")


def allowed(own: Path = Path("/proc/self/cgroup"), groups: Path = GROUPS) -> int:
    """At least 1; a quota of 1.5 cores counts as 2.

    Args:
        own: the file that names the control groups of this process, as Linux writes it.
        groups: where the control groups' files lie.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(own, groups))]))


def limit_torch() -> None:
    """Has PyTorch take no more threads than cores; in each other's way, 16 on two cores take twice as long as 2."""
    if torch.get_num_threads() > allowed():
        torch.set_num_threads(allowed())


def _quotas(own: Path, groups: Path) -> list[float]:
    """The quotas in cores that hold for this process, of both versions of control groups."""
    found: list[float | None] = []
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        version_1 = "cpu" in controllers.split(",")
        if controllers and not version_1:
            continue
        root = groups / "cpu" if version_1 else groups
        inside = root / path.lstrip("/")  # in a container this may not exist, and the root is the process's own
        around = [folder for folder in [inside, *inside.parents] if folder.is_relative_to(root)]
        found += [_quota_1(folder) if version_1 else _quota_2(folder) for folder in around]
    return [quota for quota in found if quota]


def _quota_2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _quota_1(folder: Path) -> float | None:
    quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
