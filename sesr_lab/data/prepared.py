"""Decoded pictures kept on disk as arrays, so that they are decoded and downscaled once; mem-mapped afterwards.

A kept array is a .npy file with four more bytes behind it: the CRC-32 of all before them. Files are written
aside and renamed, so any number of processes may fill the same folder.
"""

from __future__ import annotations

import logging
import os
import uuid
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from sesr_lab.data import Progress
from sesr_lab.data.patches import LEVELS, Pair

Array = NDArray[Any]
Kind = TypeVar("Kind", bound=np.generic)

_CHECKSUM_BYTES = 4
_MOST_THREADS = 8
_log = logging.getLogger(__name__)


class ArrayFolder:
    """Arrays by name, under a folder; in memory once the folder cannot be written, after one warning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._memory: dict[str, Array] = {}
        self._writable = True

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a kept array, or None where there is none or its file is cut short; data stay unread."""
        array = self._memory.get(name)
        if array is None:
            array = _mapped(self._path(name))
        return None if array is None else array.shape

    def read(self, name: str, make: Callable[[], Array]) -> Array:
        """The kept array; what `make` gives, kept again, where it is missing or damaged."""
        if name in self._memory:
            return self._memory[name]
        array = _mapped(self._path(name))
        if array is not None and _is_whole(self._path(name)):
            return array
        made = make()
        self.keep(name, made)
        return made

    def keep(self, name: str, array: Array) -> None:
        """Leaves the array under its name, whole or not at all."""
        if self._writable:
            try:
                _write(self._path(name), array)
                return
            except OSError as error:
                self._go_on_in_memory(error)
        self._memory[name] = array

    def _go_on_in_memory(self, error: OSError) -> None:
        self._writable = False
        _log.warning(
            "%s: cannot be written (%s); prepared pictures stay in memory and are made anew next time; "
            "set SESR_LAB_CACHE to a folder with room",
            self.folder,
            error.strerror or error,
        )

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


class PreparedPairs(Sequence[Pair]):
    """Training pictures, read from an `ArrayFolder` when they are asked for.

    Each is kept as int16 planes in steps of 1 / LEVELS, (1 + scale², h, w): LR luma, then HR luma before
    depth-to-space.
    """

    def __init__(self, arrays: ArrayFolder, names: Sequence[str], make: Callable[[int], NDArray[np.int16]]) -> None:
        self._arrays, self._names, self._make = arrays, names, make

    def prepare(self, progress: Progress | None) -> None:
        """Makes the pictures that are not kept yet."""
        missing = [i for i, name in enumerate(self._names) if self._arrays.shape(name) is None]
        each(self._keep, missing, progress, f"preparing {len(missing)} training pictures")

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each LR picture, in pixels."""
        shapes = [self._arrays.shape(name) or self.planes(i).shape for i, name in enumerate(self._names)]
        return [(shape[-2], shape[-1]) for shape in shapes]

    def planes(self, index: int) -> NDArray[np.int16]:
        """One picture as it is kept: (1 + scale², h, w)."""
        return self._arrays.read(self._names[index], lambda: self._make(index))

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        planes = self.planes(range(len(self))[index])
        return Pair(*unpack(planes.astype(np.float32) * np.float32(1 / LEVELS)))

    def _keep(self, index: int) -> None:
        self._arrays.keep(self._names[index], self._make(index))


def pack(lr: NDArray[Kind], hr: NDArray[Kind], scale: int) -> NDArray[Kind]:
    """LR (h, w, ...) and HR (scale·h, scale·w, ...) as planes (1 + scale², h, w, ...), HR before depth-to-space."""
    height, width, *rest = lr.shape
    blocks = hr.reshape(height, scale, width, scale, *rest)
    split = np.moveaxis(blocks, (1, 3), (0, 1)).reshape(scale**2, *lr.shape)
    return np.concatenate([lr[None], split])


def unpack(planes: NDArray[Kind]) -> tuple[NDArray[Kind], NDArray[Kind]]:
    """The LR and HR that `pack` packed."""
    count, height, width, *rest = planes.shape
    scale = round((count - 1) ** 0.5)
    blocks = np.moveaxis(planes[1:].reshape(scale, scale, height, width, *rest), (0, 1), (1, 3))
    return planes[0], np.ascontiguousarray(blocks).reshape(height * scale, width * scale, *rest)


def each(do: Callable[[int], None], items: Sequence[int], progress: Progress | None, text: str) -> None:
    """Does all items, on several threads (the decoding leaves the interpreter free); reports each one done."""
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        try:
            for done, _ in enumerate(threads.map(do, items), start=1):
                if progress is not None:
                    progress(done, len(items), text)
        except BaseException:  # an error or Ctrl-C: do not first finish what is queued
            threads.shutdown(cancel_futures=True)
            raise


def _mapped(path: Path) -> Array | None:
    """The array in a file, mem-mapped; None where there is none of the right length."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return None
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        offset = int(getattr(array, "offset", 0))
        whole = path.stat().st_size == offset + array.nbytes + _CHECKSUM_BYTES
    except Exception:  # the header is Python source to numpy: damaged, it raises anything
        return None
    return array if whole else None


def _is_whole(path: Path) -> bool:
    try:
        content = np.memmap(path, np.uint8, mode="r").data
    except (OSError, ValueError):
        return False
    checksum = int.from_bytes(content[-_CHECKSUM_BYTES:], "little")
    return zlib.crc32(content[:-_CHECKSUM_BYTES]) == checksum


def _write(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getbuffer()
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.write(zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little"))
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir():
            path.rmdir()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
