"""Oracles: the definitions in exact fractions, hand calculations, Pillow, scikit-image's colours."""

import time
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import color, data

from sesr_lab.data import image


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def keys(distance: Fraction) -> Fraction:
    x = abs(distance)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2 if x <= 2 else Fraction(0)


def exact_sample(line: list[Fraction], position: int, length: int) -> Fraction:
    """One output sample by the definition: the kernel over the line continued by mirror images of itself."""
    scale = Fraction(length, len(line))
    centre = (position + Fraction(1, 2)) / scale - Fraction(1, 2)
    shrink = min(scale, Fraction(1))
    reach = int(2 / shrink) + 2
    mirrored = line + line[::-1]
    total = weight_sum = Fraction(0)
    for index in range(floor(centre) - reach, floor(centre) + reach + 1):
        weight = keys((centre - index) * shrink)
        total += weight * mirrored[index % len(mirrored)]
        weight_sum += weight
    return total / weight_sum


def exact_rows(grid: list[list[Fraction]], length: int, *, rounded: bool) -> list[list[Fraction]]:
    resized = [[exact_sample(column, row, length) for row in range(length)] for column in turned(grid)]
    if rounded:  # half away from zero: below zero the clip makes the direction irrelevant
        resized = [[Fraction(min(max(floor(v + Fraction(1, 2)), 0), 255)) for v in c] for c in resized]
    return turned(resized)


def turned(grid: list[list[Fraction]]) -> list[list[Fraction]]:
    return [list(line) for line in zip(*grid, strict=True)]


def exact_resize(grey: NDArray[np.uint8], height: int, width: int, *, rounded: bool) -> NDArray[np.float64]:
    grid = [[Fraction(int(sample)) for sample in row] for row in grey]
    if Fraction(width, len(grid[0])) < Fraction(height, len(grid)):
        grid = turned(exact_rows(turned(grid), width, rounded=rounded))
        return np.array(exact_rows(grid, height, rounded=rounded), dtype=np.float64)
    grid = exact_rows(grid, height, rounded=rounded)
    return np.array(turned(exact_rows(turned(grid), width, rounded=rounded)), dtype=np.float64)


SIZES = [(4, 6), (2, 3), (16, 24), (32, 48), (5, 7), (11, 17), (8, 3), (3, 12), (8, 12)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bicubic_of_floats_is_the_definition_in_exact_fractions(height: int, width: int) -> None:
    grey = noise(8, 12)
    expected = exact_resize(grey, height, width, rounded=False)
    resized = image.bicubic(grey.astype(np.float64), height=height, width=width)
    np.testing.assert_allclose(resized, expected, atol=1e-11)  # some ten float64 roundings of values near 255


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_8_bit_bicubic_is_exact_at_scales_2_and_4_ties_included(scale: int, seed: int) -> None:
    grey = noise(8, 12, seed=seed)
    smaller = exact_resize(grey, 8 // scale, 12 // scale, rounded=True)
    larger = exact_resize(grey, 8 * scale, 12 * scale, rounded=True)
    np.testing.assert_array_equal(image.downscale(grey, scale), smaller)
    np.testing.assert_array_equal(image.upscale(grey, scale), larger)


def test_the_weights_at_scale_2_are_the_ones_worked_out_by_hand() -> None:
    # Keys at .25 .75 1.25 1.75 is 111/128 29/128 -9/128 -3/128; halved, since the kernel is twice as wide.
    impulse = np.zeros((16, 16))
    impulse[8] = 256
    column = image.downscale(impulse, 2)[:, 0]
    np.testing.assert_array_equal(column, [0, 0, -3, 29, 111, -9, 0, 0])


def test_each_8_bit_axis_is_rounded_height_first() -> None:
    grey = noise(16, 16, seed=5)
    height_first = image.round_levels(image.bicubic(grey.astype(np.float64), height=8, width=16))
    both = image.round_levels(image.bicubic(height_first.astype(np.float64), height=8, width=8))
    np.testing.assert_array_equal(image.downscale(grey, 2), both)
    at_once = image.round_levels(image.downscale(grey.astype(np.float64), 2))
    assert (both != at_once).any()
    assert (both != image.downscale(grey.T, 2).T).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 40), (40, 3), (7, 11)])
def test_a_flat_picture_stays_flat_at_any_size(height: int, width: int) -> None:
    flat = np.full((9, 10, 3), 255, dtype=np.uint8)
    resized = image.bicubic(flat, height=height, width=width)
    assert resized.shape == (height, width, 3)
    assert (resized == 255).all()


def test_the_same_size_gives_the_same_picture() -> None:
    picture = noise(7, 9, 3)
    np.testing.assert_array_equal(image.bicubic(picture, height=7, width=9), picture)


def test_colours_are_resized_independently() -> None:
    picture = noise(12, 8, 3)
    planes = [image.downscale(picture[..., channel], 2) for channel in range(3)]
    np.testing.assert_array_equal(image.downscale(picture, 2), np.stack(planes, axis=-1))


def test_a_border_is_mirrored_with_its_edge_sample_repeated() -> None:
    picture = noise(12, 8).astype(np.float64)
    padded = image.downscale(np.pad(picture, 8, mode="symmetric"), 2)
    np.testing.assert_allclose(image.downscale(picture, 2), padded[4:-4, 4:-4], atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (128, 128), (1024, 1024), (768, 300)])
def test_bicubic_of_a_photo_is_that_of_pillow_away_from_the_border(height: int, width: int) -> None:
    # Pillow drops the taps beyond the border instead of mirroring, and sums in 32-bit floats.
    grey = data.camera().astype(np.float32)
    pillow = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC))
    resized = image.bicubic(grey, height=height, width=width)
    np.testing.assert_allclose(resized[5:-5, 5:-5], pillow[5:-5, 5:-5], atol=1e-3)


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_resizing_gives_back_the_kind_of_samples_it_was_given(kind: type) -> None:
    assert image.upscale(noise(4, 4).astype(kind), 2).dtype == kind


def test_floats_are_neither_clipped_nor_rounded() -> None:
    edge = np.repeat([[0.0, 0, 0, 0, 255, 255, 255, 255]], 8, axis=0)
    upscaled = image.upscale(edge, 2)
    assert upscaled.min() < -1
    assert upscaled.max() > 256


def test_downscaling_refuses_a_size_that_is_not_a_multiple() -> None:
    with pytest.raises(ValueError, match="9x8 picture is not a multiple of 2"):
        image.downscale(noise(9, 8), 2)


def test_an_empty_result_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot resize"):
        image.bicubic(noise(4, 4), height=0, width=2)


def test_a_2040x1400_picture_is_downscaled_in_well_under_a_second() -> None:
    picture = noise(1400, 2040, 3)
    start = time.process_time()
    image.downscale(picture, 2)
    assert time.process_time() - start < 1  # some 0.05 s; the rest is room for a busy machine


def test_luma_is_that_of_scikit_image() -> None:
    photo = data.astronaut()
    np.testing.assert_allclose(image.luma(photo), color.rgb2ycbcr(photo)[..., 0], atol=1e-10)


def test_luma_of_black_and_white_is_16_and_235() -> None:
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    np.testing.assert_allclose(image.luma(ends), [[16, 235]], atol=1e-12)


def test_a_grey_picture_is_its_own_luma() -> None:
    grey = noise(3, 4)
    np.testing.assert_array_equal(image.luma(grey), grey)
    assert image.luma(grey).dtype == np.float64


@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 4, 4), (4,)])
def test_luma_refuses_what_is_not_a_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="RGB picture"):
        image.luma(noise(*shape))


def test_luma_and_chroma_are_those_of_scikit_image_and_lead_back_to_the_picture() -> None:
    photo = data.astronaut()[::4, ::4]
    y, cb, cr = image.ycbcr(photo)
    np.testing.assert_allclose(np.stack([y, cb, cr], axis=-1), color.rgb2ycbcr(photo), atol=1e-10)
    np.testing.assert_allclose(image.rgb(y, cb, cr), photo, atol=1e-10)
    np.testing.assert_array_equal(image.round_levels(image.rgb(y, cb, cr)), photo)


def test_a_grey_pixel_has_neutral_chroma() -> None:
    _, cb, cr = image.ycbcr(np.full((1, 1, 3), 77, dtype=np.uint8))
    np.testing.assert_allclose([cb, cr], 128, atol=1e-12)


def test_halves_round_up_and_values_outside_8_bits_are_clipped() -> None:
    levels = np.array([-3.0, -0.5, 0.49, 0.5, 1.5, 2.5, 254.5, 255.5, 1e9])
    np.testing.assert_array_equal(image.round_levels(levels), [0, 0, 0, 1, 2, 3, 255, 255, 255])


def test_a_network_output_becomes_whole_levels() -> None:
    luma01 = np.array([-0.2, 0, 0.5 / 255 + 1e-6, 16.4 / 255, 1, 1.7], dtype=np.float32)
    np.testing.assert_array_equal(image.to_levels(luma01), [0, 0, 1, 16, 255, 255])


def test_every_8_bit_level_survives_the_way_through_a_network_range() -> None:
    levels = np.arange(256)
    np.testing.assert_array_equal(image.to_levels((levels / 255).astype(np.float32)), levels)


def test_a_nan_of_a_diverged_network_is_not_scored_as_black() -> None:
    assert np.isnan(image.to_levels(np.array([np.nan]))).all()


def test_modcrop_keeps_the_top_left_multiple() -> None:
    picture = noise(11, 9, 3)
    np.testing.assert_array_equal(image.modcrop(picture, 4), picture[:8, :8])
    np.testing.assert_array_equal(image.modcrop(picture, 1), picture)
    with pytest.raises(ValueError, match="3x9 picture has no multiple of 4"):
        image.modcrop(picture[:3], 4)


def test_shaving_takes_the_border_off_each_side() -> None:
    plane = noise(6, 7)
    np.testing.assert_array_equal(image.shave(plane, 2), plane[2:4, 2:5])
    np.testing.assert_array_equal(image.shave(plane, 0), plane)
    with pytest.raises(ValueError, match="nothing inside a border of 3"):
        image.shave(plane, 3)
