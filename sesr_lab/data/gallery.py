"""Thumbnails of many pictures by name: of a folder, and of a training set, kept beside its prepared pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from sesr_lab.data import Progress
from sesr_lab.data.folder import Location
from sesr_lab.data.image import luma
from sesr_lab.data.likeness import Thumbnail, thumbnail
from sesr_lab.data.picture import read_picture
from sesr_lab.data.prepared import ArrayFolder, PreparedPairs

_NAMES = "names"


@dataclass(frozen=True)
class Gallery:
    """Pictures as thumbnails."""

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    """Height and width of the pictures themselves, in pixels."""
    thumbnails: Sequence[Thumbnail]
    memory: ArrayFolder | None = None
    """Where what was found out about these pictures may be kept."""


class KeptThumbnails(Sequence[Thumbnail]):
    """A training set's thumbnails, each made when it is first asked for."""

    def __init__(self, arrays: ArrayFolder, pairs: PreparedPairs) -> None:
        self._arrays, self._pairs = arrays, pairs

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Thumbnail: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Thumbnail]: ...
    def __getitem__(self, index: int | slice) -> Thumbnail | Sequence[Thumbnail]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        position = range(len(self))[index]
        return self._arrays.read(f"thumbnail-{position:05d}", lambda: thumbnail(self._pairs[position].hr))


def of_training(arrays: ArrayFolder, pairs: PreparedPairs, names: Sequence[str], *, scale: int) -> Gallery:
    """The training pictures of a prepared data set, whose names are left beside its arrays for `kept`."""
    sizes = [(scale * height, scale * width) for height, width in pairs.sizes()]
    listed = np.frombuffer(json.dumps({"names": list(names), "sizes": sizes}).encode(), np.uint8)
    arrays.read(_NAMES, lambda: listed)
    return Gallery(tuple(names), tuple(sizes), KeptThumbnails(arrays, pairs), arrays)


def kept(fingerprint: str, prepared: Path) -> Gallery | None:
    """The training pictures with a data set's fingerprint, if they were prepared here, at whatever scale."""
    for folder in sorted(prepared.glob(f"{fingerprint[:32]}-x*")) if fingerprint else ():
        arrays = ArrayFolder(folder)
        try:
            listed = json.loads(arrays.read(_NAMES, _nothing).tobytes())
        except LookupError:
            continue
        names, sizes = listed["names"], [(height, width) for height, width in listed["sizes"]]
        pairs = PreparedPairs(arrays, [training_name(i) for i in range(len(names))], lambda _: _nothing())
        return Gallery(tuple(names), tuple(sizes), KeptThumbnails(arrays, pairs), arrays)
    return None


def of_folder(rows: Sequence[Location], progress: Progress | None = None) -> Gallery:
    """The high-resolution pictures of a folder, all of them read.

    Raises:
        DataError: a picture is damaged.
    """
    thumbnails, sizes = [], []
    for done, row in enumerate(rows, start=1):
        picture = read_picture(Path(row.hr))
        sizes.append((picture.shape[0], picture.shape[1]))
        thumbnails.append(thumbnail(luma(picture) / 255))
        if progress is not None:
            progress(done, len(rows), "reading pictures")
    return Gallery(tuple(row.name for row in rows), tuple(sizes), thumbnails)


def training_name(index: int) -> str:
    """What a training picture is called among the kept arrays."""
    return f"train-{index:05d}"


def _nothing() -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    raise LookupError("not kept here")
