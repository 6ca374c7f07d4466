"""Contact sheets: pictures side by side, each with a title above and a note below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_LEAST, _GAP, _LINE, _FONT = 256, 8, 24, 16
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet."""

    picture: NDArray[np.uint8] = field(repr=False)
    """(h, w, 3)."""
    title: str
    note: str = ""


def contact_sheet(rows: Sequence[Sequence[Cell]]) -> NDArray[np.uint8]:
    """The cells in a grid, (height, width, 3); pictures under 256 pixels wide are enlarged by whole factors."""
    enlarged = [[_enlarged(cell.picture) for cell in row] for row in rows]
    columns = max(len(row) for row in rows)
    widths = [max(row[c].shape[1] for row in enlarged if c < len(row)) for c in range(columns)]
    heights = [max(picture.shape[0] for picture in row) for row in enlarged]
    width = sum(widths) + _GAP * (columns + 1)
    sheet = Image.new("RGB", (width, sum(heights) + len(rows) * (2 * _LINE + _GAP) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    top = _GAP
    for cells, pictures, height in zip(rows, enlarged, heights, strict=True):
        left = _GAP
        for cell, picture, room in zip(cells, pictures, widths, strict=False):
            draw.text((left, top), _cut(cell.title, room, font), _INK, font)
            sheet.paste(Image.fromarray(picture), (left, top + _LINE))
            draw.text((left, top + _LINE + picture.shape[0] + 2), _cut(cell.note, room, font), _INK, font)
            left += room + _GAP
        top += height + 2 * _LINE + _GAP
    return np.asarray(sheet)


def _enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(1, -(-_LEAST // max(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _cut(text: str, room: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of the text as fits, its end kept: names of networks differ there."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength("…" + text) > room:
        text = text[1:]
    return "…" + text
