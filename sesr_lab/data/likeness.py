"""Pictures that show the same, one of them perhaps a crop, an enlargement or a mirror image of the other.

The largest square in the middle of one picture is looked for in the other one: at first 12 pixels wide, at every place
and in sizes down to a quarter of the other's shorter side; what looks most alike is then compared at 24 and at 48
pixels, place and size being refined. Fine detail decides (`_detail`): what two different scenes have in common is
where they are bright and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray
from torch import Tensor

Turn = Literal["", "mirrored", "upside down", "turned by 180 degrees"]
TURNS: tuple[Turn, ...] = ("", "mirrored", "upside down", "turned by 180 degrees")
_AXES: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""What each of them flips."""
SIDE = 256
"""Pixels of a thumbnail's longer side."""
COARSE, LEVELS = 12, (24, 48)
"""Pixels of the square's side: where it is looked for everywhere, and where place and size are refined."""
SMALLEST, STEP = 0.25, 1.15
"""The square's least side, as a part of the other picture's shorter one; and the ratio of two sizes that are tried."""
SIZES = {24: (0.94, 0.97, 1.0, 1.03, 1.06), 48: (0.98, 0.99, 1.0, 1.01, 1.02)}
"""Sizes that are tried around the best so far."""
SHIFT = 3
"""Pixels in each direction within which the place is refined at each level."""
CANDIDATES = 8
"""Pictures that are compared closely, for each that is asked about."""
CLOSER = 3
"""Sizes from which a closer look begins."""
ALIKE, PLAIN, ALIKE_IF_PLAIN = 0.65, 0.4, 0.85
"""Similarity from which on two pictures show the same; and where one shows less detail than PLAIN (0 to 1)."""
_FLAT = 1.0
"""Spread in 8-bit levels below which there is nothing to see."""
_GRAIN = 2.0
"""Levels of what compression leaves behind: detail fainter than that counts for less."""
_LEAST = 1e-3
"""Length that a vector is at least taken to have, so that nothing is divided by zero."""
_HOPELESS = 0.35
"""Similarity at the first level below which the second is not tried."""

Thumbnail = NDArray[np.uint8]


class Place(NamedTuple):
    """A square in a thumbnail, in its pixels; it may reach out a little where its place is not known exactly."""

    top: float
    left: float
    side: float


@dataclass(frozen=True)
class Likeness:
    """That a picture shows, somewhere in it, the middle of another one."""

    similarity: float
    """Of fine detail, as a correlation: 1 for the very same, about 0 for different pictures."""
    place: Place
    """Where the other picture's central square lies."""
    turn: Turn
    """How it lies there."""


def thumbnail(luma01: NDArray[np.floating]) -> Thumbnail:
    """Luma (h, w) in [0, 1] as 8-bit levels, at most SIDE pixels a side, antialiased."""
    height, width = luma01.shape
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = _resized(torch.from_numpy(np.ascontiguousarray(luma01, np.float32)), size)
    levels: Thumbnail = (small * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return levels


class Squares:
    """The central squares of pictures, to be looked for in others."""

    def __init__(self, thumbnails: Sequence[Thumbnail]) -> None:
        self.squares = [_central(torch.from_numpy(np.array(each)).float()) for each in thumbnails]
        turned = torch.stack([self._at(i, COARSE) for i in range(len(thumbnails))])
        self.coarse = _unit(turned.flatten(2)).view(-1, 1, COARSE, COARSE)

    def starts(self, scene: Tensor) -> Tensor:
        """Where each square may lie in a scene (h, w): (squares, sizes, 5), the best place in each size.

        The last axis holds similarity, turn, and the place's top, left and side.
        """
        count, found = len(self.squares), []
        for small, scales in _pyramid(scene):
            alike = F.conv2d(small[None, None], self.coarse)[0] * scales  # (squares · turns, rows, columns)
            similarity, at = alike.view(count, -1).max(1)
            rows, columns = scales.shape
            high, wide = scene.shape[0] / small.shape[0], scene.shape[1] / small.shape[1]
            side = torch.full((count,), COARSE * (high + wide) / 2)
            place = [at // columns % rows * high, at % columns * wide, side]
            found.append(torch.stack([similarity, at // (rows * columns), *place], 1))
        return torch.stack(found, 1)

    def refined(self, index: int, scene: Tensor, starts: Tensor) -> Likeness:
        """What a closer look at a scene says of one square, from the most promising of its starts (sizes, 5)."""
        first, second = LEVELS
        promising = starts[starts[:, 0].argsort(descending=True)[:CLOSER]].tolist()
        looks = [(*self._look(index, scene, int(turn), Place(*at), first), int(turn)) for _, turn, *at in promising]
        similarity, place, turn = max(looks)
        if similarity >= _HOPELESS:
            similarity, place = self._look(index, scene, turn, place, second)
        if similarity >= ALIKE:  # once more, for the sake of the place
            similarity, place = self._look(index, scene, turn, place, second)
        return Likeness(similarity, place, TURNS[turn])

    def plain(self, index: int) -> bool:
        """Whether a square shows so little that others may look like it by chance."""
        return float((_detail(self._at(index, LEVELS[-1])[0]) ** 2).mean()) < PLAIN

    def _look(self, index: int, scene: Tensor, turn: int, place: Place, level: int) -> tuple[float, Place]:
        """The best similarity at a level around a place, and where it is."""
        square = _unit(_detail(self._at(index, level)[turn]).flatten())
        sizes = (place._replace(side=place.side * size) for size in SIZES[level])
        return max(_best_shift(square, scene, tried, place, level) for tried in sizes)

    def _at(self, index: int, level: int) -> Tensor:
        """A square in all its turns, (turns, level, level)."""
        small = _resized(self.squares[index], (level, level))
        return torch.stack([small.flip(axes) for axes in _AXES])


def _best_shift(square: Tensor, scene: Tensor, place: Place, around: Place, level: int) -> tuple[float, Place]:
    """The place of a square of unit detail (level²,) near a place, and its similarity there.

    `around` tells the middle, and `place` the size.
    """
    pixel = place.side / level
    middle = around.top + around.side / 2, around.left + around.side / 2
    first = [max(0, round(at - place.side / 2 - SHIFT * pixel)) for at in middle]
    last = [min(size, round(at + place.side / 2 + SHIFT * pixel)) for at, size in zip(middle, scene.shape, strict=True)]
    size = [round((b - a) / pixel) for a, b in zip(first, last, strict=True)]
    size = [level if each == level - 1 else each for each in size]  # rounding may not rule out a whole picture
    if min(size) < level:
        return -1.0, place
    part = _resized(scene[first[0] : last[0], first[1] : last[1]], (size[0], size[1]))
    windows = F.unfold(_detail(part)[None, None], level)[0]  # (level², places)
    windows = windows - windows.mean(0)
    found, at = (square @ windows / windows.norm(dim=0).clamp(min=_LEAST)).max(0)
    row, column = divmod(int(at), size[1] - level + 1)
    high, wide = ((b - a) / count for a, b, count in zip(first, last, size, strict=True))  # of one pixel, as rounded
    return float(found), Place(first[0] + row * high, first[1] + column * wide, level * (high + wide) / 2)


def _pyramid(scene: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A scene in falling sizes (h, w), and what makes their windows of unit length (h - COARSE + 1, ...)."""
    made, part = [], 1.0
    scene = scene - scene.mean()
    while part > SMALLEST / STEP:
        scale = COARSE / (part * min(scene.shape))
        size = max(COARSE, round(scene.shape[0] * scale)), max(COARSE, round(scene.shape[1] * scale))
        small = _resized(scene, size)
        both = torch.stack([small, small**2])[:, None]
        mean, power = F.avg_pool2d(both, COARSE, 1)[:, 0]
        made.append((small, 1 / ((power - mean**2).clamp(min=_FLAT**2).sqrt() * COARSE)))
        part /= STEP
    return made


def _central(picture: Tensor) -> Tensor:
    side = min(picture.shape)
    top, left = ((length - side) // 2 for length in picture.shape)
    return picture[top : top + side, left : left + side]


def _detail(picture: Tensor) -> Tensor:
    """What is between some two and nine pixels wide in a picture (h, w), the faint about as strong as the strong."""
    band = _mean(picture, 3) - _mean(picture, 9)
    return band / (_mean(band**2, 9) + _GRAIN**2).sqrt()


def _mean(picture: Tensor, width: int) -> Tensor:
    """The mean of each pixel's surroundings, (h, w)."""
    around = F.pad(picture[None, None], [width // 2] * 4, mode="replicate")
    return F.avg_pool2d(around, width, stride=1)[0, 0]


def _unit(vectors: Tensor) -> Tensor:
    """Vectors in the last axis with mean 0 and length 1; flat ones stay (nearly) 0."""
    centred = vectors - vectors.mean(-1, keepdim=True)
    unit: Tensor = centred / centred.norm(dim=-1, keepdim=True).clamp(min=_LEAST)
    return unit


def _resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (h, w) in another size, antialiased."""
    if picture.shape == size:
        return picture
    return F.interpolate(picture[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]
