"""Patches for a GPU from a training set that stays in the host's memory: cut there, sent ahead while it trains.

A ring of two halves lies on the device. While the steps of one half run, the host cuts the patches of the next one into
pinned memory, and a stream of their own carries them over.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from sesr_lab.data.patches import PatchPool
from sesr_lab.training.recipe import Recipe

HALF = 16
"""Steps whose patches are sent at once; a multiple of what a graph replays, so that no replay needs both halves."""


class Lane(Protocol):
    """A queue of work on a device beside the one that trains, and marks by which the two wait for each other."""

    def current(self) -> AbstractContextManager[Any]:
        """Inside, work goes into this queue."""
        ...

    def mark(self) -> Any:
        """A mark at the end of the current queue."""
        ...

    def wait(self, mark: Any) -> None:
        """Lets the current queue wait for a mark; the host does not."""
        ...

    def wait_here(self, mark: Any) -> None:
        """Lets the host wait for a mark."""
        ...


class HostLane:
    """Where the host itself trains: work is done in the order in which it is written."""

    def current(self) -> AbstractContextManager[None]:
        """As `Lane.current`."""
        return nullcontext()

    def mark(self) -> None:
        """As `Lane.mark`."""

    def wait(self, mark: None) -> None:
        """As `Lane.wait`."""

    def wait_here(self, mark: None) -> None:
        """As `Lane.wait_here`."""


class CudaLane:
    """A stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it unannotated

    def current(self) -> AbstractContextManager[Any]:
        """As `Lane.current`."""
        return torch.cuda.stream(self.stream)

    def mark(self) -> torch.cuda.Event:
        """As `Lane.mark`."""
        mark = torch.cuda.Event()  # type: ignore[no-untyped-call]  # as above
        mark.record()
        return mark

    def wait(self, mark: torch.cuda.Event) -> None:
        """As `Lane.wait`."""
        torch.cuda.current_stream().wait_event(mark)

    def wait_here(self, mark: torch.cuda.Event) -> None:
        """As `Lane.wait_here`."""
        mark.synchronize()


class Feed:
    """The ring, and the order in which its halves are filled, read and filled again.

    For the steps of a plan in order: `begin` once, then for each part of HALF steps `enter`, the steps themselves,
    which read `ring`, and `leave`.
    """

    def __init__(self, pool: PatchPool, recipe: Recipe, device: torch.device, lane: Lane | None = None) -> None:
        self.pool, self.patch = pool, recipe.patch
        shape = (HALF, recipe.batch_size, 1 + pool.scale**2, recipe.patch**2)
        on_gpu = device.type == "cuda"
        self.lane: Lane = lane or (CudaLane(device) if on_gpu else HostLane())
        self.ring = torch.zeros(2 * HALF, *shape[1:], dtype=torch.int16, device=device)
        self._staged = [torch.zeros(shape, dtype=torch.int16, pin_memory=on_gpu) for _ in range(2)]
        with torch.cuda.device(device) if on_gpu else nullcontext():
            self._sent: list[Any] = [self.lane.mark(), self.lane.mark()]
            self._read: list[Any] = [self.lane.mark(), self.lane.mark()]
        self._plan = torch.empty(0)

    def begin(self, plan: Tensor) -> None:
        """Sends the first part of a plan (steps, batch, 4), which lies on the CPU."""
        self._plan = plan
        self._send(0)

    def enter(self, part: int) -> None:
        """Lets the current queue wait for the patches of a part."""
        self.lane.wait(self._sent[part % 2])

    def leave(self, part: int) -> None:
        """To be called when the steps of a part are queued: the next one is cut and sent while they run."""
        self._read[part % 2] = self.lane.mark()
        self._send(part + 1)

    def _send(self, part: int) -> None:
        steps, half = self._plan[part * HALF : (part + 1) * HALF], part % 2
        if not len(steps):
            return
        self.lane.wait_here(self._sent[half])  # the host may not write what is still being sent
        staged = self._staged[half][: len(steps)]
        for place, where in zip(staged, steps, strict=True):
            place.copy_(self.pool.numbers(where, self.patch))
        with self.lane.current():
            self.lane.wait(self._read[half])  # nor may the copy overwrite what is still being read
            self.ring[half * HALF : half * HALF + len(steps)].copy_(staged, non_blocking=True)
            self._sent[half] = self.lane.mark()
