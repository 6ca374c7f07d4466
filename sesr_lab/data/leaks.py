"""Pictures of a benchmark that a network may have seen in training: found by what they show, not by their files."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sesr_lab.data import Progress
from sesr_lab.data.gallery import Gallery
from sesr_lab.data.likeness import ALIKE, ALIKE_IF_PLAIN, CANDIDATES, Likeness, Squares, Turn

VERSION = 1
"""Of what is remembered; raise it whenever other pictures would be found."""
_CHUNK = 256
"""Training pictures whose squares are looked for at once."""


@dataclass(frozen=True)
class Leak:
    """A picture that shows what a training picture shows, or a part of it."""

    picture: str
    training: str
    similarity: float
    """Of fine detail, as a correlation: 1 for the very same."""
    within: Literal["training", "picture"]
    """Which of the two holds the other."""
    left: int
    """In pixels of the one that holds the other; so are the next three."""
    top: int
    width: int
    height: int
    turn: Turn
    """How it lies there."""

    @property
    def where(self) -> str:
        """In which of the two the other one lies, at what place, in words."""
        holder = self.training if self.within == "training" else self.picture
        turned = f", {self.turn}" if self.turn else ""
        return f"{self.width}x{self.height} at {self.left},{self.top} of {holder}{turned}"


class _Candidate(NamedTuple):
    """A training picture that is worth a closer look, and where it begins."""

    similarity: float
    training: int
    within: Literal["training", "picture"]
    starts: Tensor


def seen(training: Gallery, pictures: Gallery, progress: Progress | None = None) -> list[Leak]:
    """The pictures that are also in the training set, most similar first for each; remembered where there is room.

    Args:
        progress: called for each training picture twice: once it is read, and once it is compared.
    """
    if training.memory is None:
        return list(_found(training, pictures, progress))

    def search() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        found = [asdict(leak) for leak in _found(training, pictures, progress)]
        return np.frombuffer(json.dumps(found).encode(), np.uint8)

    known = training.memory.read(f"leaks-{_key(pictures)}", search)
    return [Leak(**each) for each in json.loads(known.tobytes())]


def _key(pictures: Gallery) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, pictures.names, pictures.sizes]).encode())
    for each in pictures.thumbnails:
        digest.update(each.tobytes())
    return digest.hexdigest()[:32]


def _found(training: Gallery, pictures: Gallery, progress: Progress | None) -> Iterator[Leak]:
    own = Squares(pictures.thumbnails)
    for at, candidates in enumerate(_candidates(training, pictures, own, progress)):
        compared = (_compared(training, pictures, own, at, candidate) for candidate in candidates)
        yield from sorted((leak for leak in compared if leak is not None), key=lambda leak: -leak.similarity)


def _candidates(
    training: Gallery, pictures: Gallery, own: Squares, progress: Progress | None
) -> list[list[_Candidate]]:
    """For each picture the training pictures that are worth a closer look."""
    best: list[list[_Candidate]] = [[] for _ in pictures.names]
    ticks = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(ticks), 2 * len(training.names), "comparing pictures")

    for first in range(0, len(training.names), _CHUNK):
        chunk = []
        for index in range(first, min(first + _CHUNK, len(training.names))):
            chunk.append(training.thumbnails[index])
            tick()
        theirs = Squares(chunk)
        of_theirs = torch.stack([theirs.starts(_scene(each)) for each in pictures.thumbnails])
        for offset, each in enumerate(chunk):
            within_training = own.starts(_scene(each))  # (pictures, sizes, 5)
            for at, kept in enumerate(best):
                _keep(kept, _better(first + offset, within_training[at], of_theirs[at, offset]))
            tick()
    return best


def _better(index: int, within_training: Tensor, within_picture: Tensor) -> _Candidate:
    """The more promising of two: the picture in the training picture, or that one in it."""
    first, second = float(within_training[:, 0].max()), float(within_picture[:, 0].max())
    if first >= second:
        return _Candidate(first, index, "training", within_training)
    return _Candidate(second, index, "picture", within_picture)


def _keep(kept: list[_Candidate], candidate: _Candidate) -> None:
    """Holds the most similar CANDIDATES, in a heap; no two have the same training picture."""
    if len(kept) < CANDIDATES:
        heapq.heappush(kept, candidate)
    elif candidate[:2] > kept[0][:2]:
        heapq.heapreplace(kept, candidate)


def _compared(training: Gallery, pictures: Gallery, own: Squares, at: int, candidate: _Candidate) -> Leak | None:
    """The leak that a candidate turns out to be, or None."""
    index = candidate.training
    theirs = training.thumbnails[index]
    if candidate.within == "training":
        squares, number, scene = own, at, theirs
        inner, outer = pictures.sizes[at], training.sizes[index]
    else:
        squares, number, scene = Squares([theirs]), 0, pictures.thumbnails[at]
        inner, outer = training.sizes[index], pictures.sizes[at]
    found = squares.refined(number, _scene(scene), candidate.starts)
    if found.similarity < (ALIKE_IF_PLAIN if squares.plain(number) else ALIKE):
        return None
    box = _box(found, inner, outer, scene.shape[0])
    return Leak(
        pictures.names[at], training.names[index], round(found.similarity, 3), candidate.within, *box, found.turn
    )


def _box(found: Likeness, inner: tuple[int, int], outer: tuple[int, int], rows: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the whole inner picture in the outer one, in its pixels, cut to it."""
    pixel = outer[0] / rows
    place = found.place
    scale = place.side * pixel / min(inner)  # outer pixels for one of the inner picture
    middle = [(first + place.side / 2) * pixel for first in (place.top, place.left)]
    first = [max(0, round(m - scale * length / 2)) for m, length in zip(middle, inner, strict=True)]
    last = [min(limit, round(m + scale * n / 2)) for m, n, limit in zip(middle, inner, outer, strict=True)]
    return first[1], first[0], last[1] - first[1], last[0] - first[0]


def _scene(thumbnail: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.array(thumbnail)).float()
