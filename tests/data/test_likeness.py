"""Crops, enlargements and mirror images of photographs, made by Pillow, found again in the pictures they are from."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from skimage import data as skimage_data
from torch import Tensor

from sesr_lab.data.image import luma
from sesr_lab.data.likeness import ALIKE, Likeness, Squares, Thumbnail, thumbnail

PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee")
TRANSPOSED = {
    "": (),
    "mirrored": (Image.Transpose.FLIP_LEFT_RIGHT,),
    "upside down": (Image.Transpose.FLIP_TOP_BOTTOM,),
    "turned by 180 degrees": (Image.Transpose.ROTATE_180,),
}


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage_data, name)())


def small(picture: Image.Image) -> Thumbnail:
    return thumbnail(luma(np.array(picture)) / 255)


@cache
def scenes() -> dict[str, Tensor]:
    return {name: torch.from_numpy(small(photograph(name))).float() for name in PHOTOGRAPHS}


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def found(picture: Image.Image, scene: str) -> Likeness:
    squares = Squares([small(picture)])
    return squares.refined(0, scenes()[scene], squares.starts(scenes()[scene])[0])


@pytest.mark.parametrize(
    ("part", "scale", "quality", "turn"),
    [
        (1.0, 0.4, 90, ""),
        (0.7, 1.5, 40, "mirrored"),
        (0.45, 1.0, 60, "upside down"),
        (0.3, 1.3, 80, "turned by 180 degrees"),
    ],
)
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_a_part_of_a_picture_is_found_and_placed(name: str, part: float, scale: float, quality: int, turn: str) -> None:
    whole = photograph(name)
    width, height = (round(part * length) for length in whole.size)
    left, top = (whole.width - width) // 3, (whole.height - height) // 2
    crop = whole.crop((left, top, left + width, top + height))
    crop = crop.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    for how in TRANSPOSED[turn]:
        crop = crop.transpose(how)
    likeness = found(jpeg(crop, quality), name)
    assert likeness.similarity > ALIKE
    assert likeness.turn == turn
    pixel = whole.height / scenes()[name].shape[0]
    side = min(width, height)
    # A twentieth of the square: two pixels at the level at which it is placed.
    expected = (top + (height - side) / 2, left + (width - side) / 2, side)
    assert [pixel * each for each in likeness.place] == pytest.approx(expected, abs=0.05 * side)


def test_different_pictures_are_not_alike() -> None:
    squares = Squares([small(photograph(name)) for name in PHOTOGRAPHS])
    for scene in PHOTOGRAPHS:
        starts = squares.starts(scenes()[scene])
        for index, name in enumerate(PHOTOGRAPHS):
            similarity = squares.refined(index, scenes()[scene], starts[index]).similarity
            assert (similarity > 0.9) if name == scene else (similarity < 0.5), (name, scene)


def test_brightness_and_contrast_do_not_matter() -> None:
    darker = ImageEnhance.Contrast(ImageEnhance.Brightness(photograph("chelsea")).enhance(0.7)).enhance(0.8)
    assert found(darker, "chelsea").similarity > 0.9


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (3, 200), (1000, 8)])
def test_pictures_of_one_colour_are_like_none(size: tuple[int, int]) -> None:
    flat = Image.new("L", size, 90)
    assert Squares([small(flat)]).plain(0)
    assert found(flat, "chelsea").similarity < ALIKE
    squares, scene = Squares([small(photograph("chelsea"))]), torch.from_numpy(small(flat)).float()
    assert squares.refined(0, scene, squares.starts(scene)[0]).similarity < ALIKE


def test_thumbnails_have_one_longest_side_and_are_never_enlarged() -> None:
    assert thumbnail(np.zeros((600, 300))).shape == (256, 128)
    assert thumbnail(np.zeros((20, 30))).shape == (20, 30)
    assert thumbnail(np.ones((2, 3))).max() == 255
