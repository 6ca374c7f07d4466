"""Oracles: PyTorch on the whole picture, MATLAB's bicubic of data.image, and the same run without tiles."""

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray

from sesr_lab.data.image import rgb, upscale, ycbcr
from sesr_lab.network.model import SESR
from sesr_lab.results.decoding import Picture
from sesr_lab.results.inference import Network, network, radius_of, runner
from sesr_lab.results.upscaling import bicubic, upscaled


@torch.no_grad()
def weights(*, m: int = 2, f: int = 8, scale: int = 2) -> SESR:
    """A network that changes pictures as a trained one does: a little."""
    torch.manual_seed(0)
    made = SESR(m=m, f=f, feature_size=16, scale=scale)
    made.slopes.uniform_(-0.2, 0.5)
    made.tail.project.mul_(0.1)
    return made


def ready(**shape: int) -> Network:
    made = weights(**shape)
    return Network("tiny", made.scale, radius_of(made), 1, runner(made))


def nothing() -> None:
    raise AssertionError("no store is needed")


def crop(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> Picture:
    """A crop of a photograph, with a gradient as alpha where there is one."""
    levels = skimage.data.astronaut()[100 : 100 + height, 100 : 100 + width]
    colours = levels[..., :1] if channels < 3 else levels
    if channels in (2, 4):
        alpha = np.linspace(0, 255, height * width).reshape(height, width, 1).astype(np.uint8)
        colours = np.concatenate([colours, alpha], axis=2)
    if dtype is np.uint16:  # 16 bits that are not only 257 times 8 bits
        colours = colours.astype(np.uint16) * 256 + np.roll(colours, 1, axis=0)
    return Picture(np.ascontiguousarray(colours))


def made(picture: Picture, with_network: Network, tile: int = 0) -> NDArray[np.unsignedinteger]:
    return np.concatenate(list(upscaled(picture, with_network, tile=tile)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ({"m": 5, "f": 16}, (101, 97)),
        ({"m": 3, "f": 4, "scale": 4}, (64, 37)),
        ({"m": 1, "f": 12}, (7, 130)),
        ({"m": 2, "f": 32}, (45, 3)),
        ({"m": 1, "f": 1}, (1, 77)),
        ({"m": 2, "f": 24}, (2, 1)),
    ],
)
@pytest.mark.parametrize("channels", [1, 4])
def test_tiles_leave_no_trace(shape: dict[str, int], size: tuple[int, int], channels: int, dtype: type) -> None:
    picture, tiny = crop(*size, channels, dtype), ready(**shape)
    whole = made(picture, tiny)
    for tile in (16, 17, 33, 64):
        np.testing.assert_array_equal(made(picture, tiny, tile), whole)


@pytest.mark.parametrize("scale", [2, 4])
def test_luma_is_the_networks_and_chroma_is_bicubics(scale: int) -> None:
    picture, shape = crop(50, 61), {"m": 2, "f": 8, "scale": scale}
    y, cb, cr = ycbcr(picture.samples)
    with torch.no_grad():
        inside = weights(**shape).double()(torch.from_numpy(y / 255)[None, None])[0, 0].numpy() * 255
    expected = np.clip(rgb(inside, upscale(cb, scale), upscale(cr, scale)), 0, 255)
    # Sums are float32 here and float64 there, so that a value next to a half may be rounded either way.
    assert np.abs(made(picture, ready(**shape), 32) - expected).max() <= 0.5 + 1e-3


def test_16_bits_are_as_precise_as_they_are_deep() -> None:
    picture, tiny = crop(40, 40, 3, np.uint16), ready()
    y, cb, cr = ycbcr(picture.samples / 257)
    with torch.no_grad():
        inside = weights().double()(torch.from_numpy(y / 255)[None, None])[0, 0].numpy() * 255
    expected = np.clip(rgb(inside, upscale(cb, 2), upscale(cr, 2)) * 257, 0, 65535)
    assert np.abs(made(picture, tiny) - expected).max() <= 1  # of 65535


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_is_matlabs(scale: int) -> None:
    picture = crop(31, 44)
    expected = np.floor(np.clip(upscale(picture.samples.astype(np.float64), scale), 0, 255) + 0.5)
    np.testing.assert_array_equal(bicubic(picture, scale), expected)
    same = made(Picture(picture.samples[..., :1]), network("bicubic", scale=scale, open_tracker=nothing), 16)
    differ = same[..., 0] != expected[..., 0]  # a network's output is a part of 1, and rounded once more
    assert differ.mean() < 1e-3
    assert np.abs(same[..., 0] - expected[..., 0]).max() <= 1


def test_opaque_stays_opaque_and_alpha_is_bicubics() -> None:
    picture = crop(20, 24, 4)
    alpha = picture.samples[..., 3].astype(np.float64)
    np.testing.assert_array_equal(made(picture, ready())[..., 3], np.floor(np.clip(upscale(alpha, 2), 0, 255) + 0.5))
    picture.samples[..., 3] = 255
    assert (made(picture, ready())[..., 3] == 255).all()


def test_grey_stays_grey() -> None:
    assert made(crop(20, 24, 1), ready()).shape == (40, 48, 1)
    assert made(crop(20, 24, 2, np.uint16), ready()).shape == (40, 48, 2)
