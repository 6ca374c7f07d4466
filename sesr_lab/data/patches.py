"""Training patches, cut on the device from pictures that live there; no workers and no decoding in the loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS = 32767
"""Luma in [0, 1] is stored as 16-bit integers: steps of 0.008 of an 8-bit level, half the memory of float32."""
RESIDENT_PART = 0.7
"""Part of a GPU's free memory that a training set may take; the rest is for networks, batches and scores."""
SYMMETRIES = 8
PLAN_BLOCK = 256
"""Steps whose crops are drawn from one seed, so that any step's crops can be drawn again after a resume."""


class Pair(NamedTuple):
    """One picture's luma in [0, 1]: lr (h, w) and hr (scale·h, scale·w)."""

    lr: NDArray[np.float32]
    hr: NDArray[np.float32]


class PatchPool:
    """All pictures of a training set, and the patches cut from them.

    Each LR pixel is a row of 1 + scale² numbers: its luma, and the luma of the scale×scale HR pixels that it
    stands for (the network's own layout, before depth-to-space). One gather then fetches a whole batch.
    """

    def __init__(self, pairs: Sequence[Pair], *, scale: int, device: torch.device, limit: float | None = None) -> None:
        """The pictures on the device, or in the host's memory where they take more than its room.

        Args:
            limit: bytes that they may take on the device; a part of what is free there unless told otherwise.
        """
        self.scale, self.device = scale, device
        self.images = len(pairs)
        sizes = torch.tensor([pair.lr.shape for pair in pairs])  # (images, 2): h, w
        self.heights, self.widths = sizes[:, 0], sizes[:, 1]
        counts = self.heights * self.widths
        self.starts = torch.cumsum(counts, 0) - counts
        rows = torch.empty(int(counts.sum()), 1 + scale**2, dtype=torch.int16)
        for start, count, pair in zip(self.starts.tolist(), counts.tolist(), pairs, strict=True):
            rows[start : start + count] = _rows(pair, scale)
        room = _room(device) if limit is None else limit
        self.resident = rows.nbytes <= room
        """Whether the pictures lie on the device."""
        self.rows = rows
        if self.resident:
            try:
                self.rows = rows.to(device)
            except torch.OutOfMemoryError:  # in pieces, what is free may hold no tensor of this size
                self.resident = False

    @property
    def smallest_side(self) -> int:
        """The shortest side of any LR picture, in pixels: no patch can be larger."""
        return int(torch.minimum(self.heights, self.widths).min())

    def plan(self, seed: int, step: int, count: int, *, batch_size: int, patch: int) -> Tensor:
        """Where the patches of steps `step` … `step + count - 1` lie: (count, batch_size, 4) int64 on the CPU.

        The last axis holds the first pixel's row, the picture's width, and the symmetry (0 to 7), then the
        picture's index. Every picture is equally likely, and every position in it. The same seed and step give
        the same patches, however the steps are grouped.
        """
        first, last = step // PLAN_BLOCK, (step + count - 1) // PLAN_BLOCK
        blocks = [self._plan_block(seed, block, batch_size, patch) for block in range(first, last + 1)]
        offset = step - first * PLAN_BLOCK
        return torch.cat(blocks)[offset : offset + count]

    def cut(self, where: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        """A batch: lr (N, 1, patch, patch) and target (N, scale², patch, patch), float32 in [0, 1].

        Args:
            where: (N, 4), one step of `plan`, on the pool's device.
            patch: side of the LR patches in pixels.
        """
        return self.scaled(self.numbers(where, patch), patch)

    def numbers(self, where: Tensor, patch: int) -> Tensor:
        """A batch as it is kept: (N, 1 + scale², patch²) int16, LR luma first; arguments as of `cut`."""
        start, width, symmetry = where[:, 0, None, None], where[:, 1, None, None], where[:, 2]
        table = _gather_table(patch, self.scale, where.device).index_select(0, symmetry)  # (N, 2 + scale², patch²)
        index = torch.addcmul(table[:, 1:], table[:, :1], width).add_(start * (1 + self.scale**2))
        return self.rows.view(-1).take(index)

    def scaled(self, numbers: Tensor, patch: int) -> tuple[Tensor, Tensor]:
        """What `cut` gives, of what `numbers` gave."""
        batch = (numbers * (1 / LEVELS)).view(-1, 1 + self.scale**2, patch, patch)
        return batch[:, :1], batch[:, 1:]

    def _plan_block(self, seed: int, block: int, batch_size: int, patch: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + block) % 2**63)
        shape = (PLAN_BLOCK, batch_size)
        image = torch.randint(self.images, shape, generator=generator)
        place = torch.rand((*shape, 2), generator=generator, dtype=torch.float64)
        symmetry = torch.randint(SYMMETRIES, shape, generator=generator)
        y = (place[..., 0] * (self.heights[image] - patch + 1)).long()
        x = (place[..., 1] * (self.widths[image] - patch + 1)).long()
        width = self.widths[image]
        return torch.stack([self.starts[image] + y * width + x, width, symmetry, image], dim=-1)


def _rows(pair: Pair, scale: int) -> Tensor:
    """(h·w, 1 + scale²) int16 rows of one picture."""
    lr = torch.from_numpy(np.ascontiguousarray(pair.lr))[None, None]
    hr = torch.from_numpy(np.ascontiguousarray(pair.hr))[None, None]
    packed = torch.cat([lr, torch.nn.functional.pixel_unshuffle(hr, scale)], 1)[0]
    return (packed * LEVELS).round().to(torch.int16).flatten(1).T.contiguous()


def _room(device: torch.device) -> float:
    """Bytes that a training set may take on a device: what is free, less a part for training itself."""
    if device.type != "cuda":
        return math.inf
    torch.cuda.empty_cache()  # what earlier trials have used and PyTorch keeps is free as well
    free, _ = torch.cuda.mem_get_info(device)
    return free * RESIDENT_PART


_TABLES: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor, Tensor]] = {}


def _symmetry_tables(patch: int, scale: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of the 8 symmetries: which row and column a patch's pixel comes from, and which HR channel.

    Returns (8, patch²), (8, patch²) and (8, scale²) int64.
    """
    key = (patch, scale, device)
    if key not in _TABLES:
        place = torch.arange(patch**2).view(patch, patch)
        source = torch.stack([_symmetry(place, k).flatten() for k in range(SYMMETRIES)])
        channel = torch.arange(scale**2).view(scale, scale)
        order = torch.stack([_symmetry(channel, k).flatten() for k in range(SYMMETRIES)])
        tables = source // patch, source % patch, order
        _TABLES[key] = tuple(table.to(device) for table in tables)  # type: ignore[assignment]  # three of them
    return _TABLES[key]


_GATHER: dict[tuple[int, int, torch.device], Tensor] = {}


def _gather_table(patch: int, scale: int, device: torch.device) -> Tensor:
    """Where a patch's numbers lie from its picture's first one on, for each symmetry: (8, 2 + scale², patch²) int64.

    First what the picture's width is multiplied with, the same for all numbers of a pixel; then what is added for
    the luma and for each HR channel.
    """
    key = (patch, scale, device)
    if key not in _GATHER:
        down, right, order = _symmetry_tables(patch, scale, torch.device("cpu"))
        numbers = 1 + scale**2
        channel = torch.cat([torch.zeros_like(order[:, :1]), 1 + order], 1)  # (8, 1 + scale²)
        added = right[:, None] * numbers + channel[:, :, None]
        _GATHER[key] = torch.cat([down[:, None] * numbers, added], 1).to(device)
    return _GATHER[key]


def symmetry_corners(patch: int) -> Tensor:
    """Where a patch's pixels (0, 0), (0, 1) and (1, 0) come from under each symmetry: (8, 3, 2) int64 rows, columns.

    A symmetry is linear in row and column, so that these three give all pixels.
    """
    down, right, _ = _symmetry_tables(patch, 1, torch.device("cpu"))
    return torch.stack([down, right], -1)[:, [0, 1, patch]].contiguous()


def symmetry_orders(scale: int) -> Tensor:
    """Which HR channel each of a target's channels comes from under each symmetry: (8, scale²) int64."""
    return _symmetry_tables(1, scale, torch.device("cpu"))[2].contiguous()


def _symmetry(square: Tensor, k: int) -> Tensor:
    """The last two axes of `square` under symmetry k: k % 4 quarter turns, transposed first from 4 on."""
    return torch.rot90(square.mT if k >= SYMMETRIES // 2 else square, k % 4, (-2, -1))
