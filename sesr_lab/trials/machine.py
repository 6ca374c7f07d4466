"""How hard a trial works its machine, under the names that MLflow gives such numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sampling:
    """When the machine is looked at; a trial that is over sooner is spared it."""

    after_s: float = 60.0
    """Of training, over all the lives of a run."""
    every_s: float = 10.0


@dataclass(frozen=True)
class MachineUse:
    """The machine since the last look, at a step of the training."""

    step: int
    time_ms: int
    """Since 1970."""
    values: Mapping[str, float]
    """Percent and megabytes; of the process, 100 % are one core."""


class Meter:
    """Looks at the machine between a trial's steps: nothing runs beside them, or is loaded before it is due."""

    def __init__(self, device: torch.device, sampling: Sampling) -> None:
        self._device, self._sampling = device, sampling
        self._machine: _Machine | None = None
        self._next = 0.0

    def look(self, step: int, seconds: float) -> MachineUse | None:
        """The machine's use where it is time for it, `seconds` of training into the run."""
        if seconds < self._sampling.after_s or time.monotonic() < self._next:
            return None
        if self._machine is None:
            self._machine = _Machine(self._device)
            self._next = time.monotonic() + min(1.0, self._sampling.every_s)  # a share of time needs some to pass
            return None
        self._next = time.monotonic() + self._sampling.every_s
        values = {name: round(value, 1) for name, value in self._machine.use().items()}
        return MachineUse(step, time.time_ns() // 1_000_000, values)


class _Machine:
    """Counters of the machine and of this process, read against where they stood before."""

    def __init__(self, device: torch.device) -> None:
        import psutil

        self._psutil, self._process = psutil, psutil.Process()
        self._gpu = device if device.type == "cuda" else None
        self._before = self._counted()

    def use(self) -> dict[str, float]:
        before, self._before = self._before, self._counted()
        wall, total, busy, ours = (new - old for new, old in zip(self._before, before, strict=True))
        memory = self._psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": 100 * busy / total if total > 0 else 0.0,
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "process_cpu_utilization_percentage": 100 * ours / wall,
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
            **({} if self._gpu is None else _gpu_use(self._gpu)),
        }

    def _counted(self) -> tuple[float, float, float, float]:
        """Seconds: of the clock, of all cores, of those that worked, and of the work of this process."""
        cores: Any = self._psutil.cpu_times()
        total = sum(cores) - getattr(cores, "guest", 0.0) - getattr(cores, "guest_nice", 0.0)  # within user and nice
        busy = total - cores.idle - getattr(cores, "iowait", 0.0)
        ours = self._process.cpu_times()
        return time.monotonic(), total, busy, ours.user + ours.system


def _gpu_use(device: torch.device) -> dict[str, float]:
    """Memory of the GPU, and how busy it is where NVIDIA's management library for Python is installed."""
    index = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(device)
    found = {
        f"gpu_{index}_memory_usage_megabytes": (total - free) / 1e6,
        f"gpu_{index}_memory_usage_percentage": 100 * (total - free) / total,
    }
    with suppress(ModuleNotFoundError, RuntimeError):  # the library is missing, or does not know this GPU
        found[f"gpu_{index}_utilization_percentage"] = float(torch.cuda.utilization(device))
    return found
