"""Oracles: PyTorch on the whole picture, MATLAB's bicubic of data.image, and the same run without tiles."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from typed import Typed

from sesr_lab.data.image import rgb, upscale, ycbcr
from sesr_lab.errors import ConfigError, ModelError
from sesr_lab.network.model import SESR
from sesr_lab.registry.lookup import Named, lineage_of_file
from sesr_lab.results import openvino_engine
from sesr_lab.results.decoding import Picture
from sesr_lab.results.inference import Network, network, of_named, radius_of, runner
from sesr_lab.results.openvino_engine import openvino_network
from sesr_lab.results.upscaling import bicubic, upscaled
from sesr_lab.study.config import Architecture
from sesr_lab.training import cores


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


def colours(of: Network) -> Network:
    """An RGB network that does to each colour what `of` does to luma, as `export --rgb` has them for grey."""
    return Network("rgb", of.scale, of.radius, 3, lambda planes: np.concatenate([of.run(p[None]) for p in planes]))


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


# OpenVINO, whose sums are those of our own network, in the same order


def named(m: int, f: int, scale: int = 2) -> Named:
    shape = Architecture(m=m, f=f, feature_size=16, scale=scale)
    return Named("tiny", shape, weights(m=m, f=f, scale=scale).state_dict(), None, lineage_of_file("tiny", "0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size"),
    [((5, 16), (101, 97)), ((3, 4, 4), (64, 37)), ((1, 12), (7, 130)), ((2, 32), (45, 3)), ((2, 24), (2, 1))],
)
@pytest.mark.parametrize("wide", [None, 40, 4096])
def test_tiles_leave_no_trace_in_openvino_either(
    shape: tuple[int, ...], size: tuple[int, int], wide: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino_engine, "WIDEST", wide)
    picture, theirs = crop(*size, 4), openvino_network(named(*shape), threads=1)
    whole = made(picture, theirs)
    traces = 0 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 1  # elsewhere OpenVINO takes other kernels
    for tile in (16, 17, 33, 64):
        assert np.abs(made(picture, theirs, tile).astype(int) - whole).max() <= traces
    ours = made(picture, of_named(named(*shape)))
    assert np.abs(whole.astype(int) - ours).max() <= 1, "what a sum in another order can do to a level"


def test_what_openvino_has_made_stays_when_it_makes_more() -> None:
    pytest.importorskip("openvino")
    theirs, ours = openvino_network(named(2, 8), threads=1), of_named(named(2, 8))
    planes = np.random.default_rng(0).normal(0.5, 2.0, (2, 1, 20, 24)).astype(np.float32)
    first, second = theirs.run(planes[0]), theirs.run(planes[1])
    np.testing.assert_allclose(first, ours.run(planes[0]), atol=1e-5)  # unclipped, as ours
    np.testing.assert_allclose(second, ours.run(planes[1]), atol=1e-5)
    assert first.min() < 0
    assert first.max() > 1


def test_without_openvino_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"--engine openvino: it cannot be .*pip install 'sesr-lab\[openvino\]'"):
        openvino_network(named(1, 4))


def test_what_brings_its_own_engine_takes_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    typed = Typed(capsys)
    assert typed("upscale", "a.png", "--model", "a.onnx", "-o", "b.png", "--engine", "openvino") == 1
    assert "a.onnx: --engine is for networks whose weights are at hand; leave it out" in typed.err
    assert typed("upscale", "a.png", "--model", "a.onnx", "-o", "b.png", "--engine", "cuda") == 1
    assert "upscale: --engine: found 'cuda'; allowed are auto, openvino" in typed.err


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_network_of_colours_gives_each_colour_what_a_network_of_luma_gives_grey(channels: int, dtype: type) -> None:
    picture, luma_network = crop(40, 50, channels, dtype), ready()
    found = made(picture, colours(luma_network))
    for channel in range(channels - (channels in (2, 4))):
        grey = Picture(np.ascontiguousarray(picture.samples[..., channel : channel + 1]))
        expected = made(grey, luma_network)[..., 0]
        np.testing.assert_allclose(found[..., channel], expected, rtol=0, atol=1)
        assert expected.max() > 0.5 * picture.peak


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    broken = Network("broken", 2, 1, 1, lambda planes: np.full((1, 80, 100), np.nan, np.float32))
    with pytest.raises(ModelError, match=r"^broken: gives pixels that are no numbers"):
        made(crop(40, 50), broken)


def test_upscaling_keeps_to_its_cores(monkeypatch: pytest.MonkeyPatch, torch_threads: Callable[[int], None]) -> None:
    torch_threads(3)
    monkeypatch.setattr(cores, "allowed", lambda: 1)
    of_named(Named("m2", Architecture(m=2, f=8), weights().state_dict(), None, lineage_of_file("m2", "0")))
    assert torch.get_num_threads() == 1
