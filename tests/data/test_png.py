"""Oracles: the samples that files were made of, chunk by chunk."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sesr_lab.data.picture import read_picture
from sesr_lab.errors import DataError

RNG = np.random.default_rng(0)
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def rows(samples: NDArray[np.integer], bits: int) -> bytes:
    """Samples (H, W, channels) as a PNG holds them before compression; rows are stored as differences upwards."""
    if samples.size == 0:
        return b""
    flat = samples.reshape(len(samples), -1)
    if bits == 16:
        plain = flat.astype(">u2").view(np.uint8).reshape(len(flat), -1)
    else:
        single = (flat[..., None] >> np.arange(bits)[::-1]) & 1
        plain = np.packbits(single.reshape(len(flat), -1).astype(np.uint8), axis=1)
    above = np.vstack([np.zeros_like(plain[:1]), plain[:-1]])
    return b"".join(b"\2" + row.tobytes() for row in plain - above)


def by_hand(
    samples: NDArray[np.integer], colour: int, bits: int, *, interlaced: bool = False, more: bytes = b""
) -> bytes:
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width = samples.shape[:2]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    raw = b"".join(rows(samples[top::down, left::across], bits) for left, top, across, down in passes)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    return with_chunks(chunk(b"IHDR", header), more, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))


def with_chunks(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def refusal(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(content, name="odd.png")
    message = str(caught.value)
    assert message.startswith("odd.png: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "bits"),
    [(GREY, 1), (GREY, 2), (GREY, 4), *((colour, bits) for colour in (0, 2, 4, 6) for bits in (8, 16))],
)
def test_every_depth_and_colour_is_read_as_it_was_made(colour: int, bits: int, interlaced: bool) -> None:
    samples = RNG.integers(0, 2**bits, (13, 21, CHANNELS[colour]))
    read = read_picture(by_hand(samples, colour, bits, interlaced=interlaced))
    levels = np.floor(samples * (255 / (2**bits - 1)) + 0.5)
    expected = levels[..., 0] if colour in (GREY, GREY_ALPHA) else levels[..., :3]
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_gives_its_colours(bits: int) -> None:
    indices, colours = RNG.integers(0, 2**bits, (13, 21)), RNG.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    more = chunk(b"PLTE", colours.tobytes()) + chunk(b"tRNS", bytes([0, 100]))
    np.testing.assert_array_equal(read_picture(by_hand(indices, PALETTE, bits, more=more)), colours[indices])


@pytest.mark.parametrize("colour", [GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_picture_is_turned_upright_as_a_shallow_one_is(colour: int, orientation: int) -> None:
    samples = RNG.integers(0, 256, (13, 21, CHANNELS[colour]))
    exif = Image.Exif()
    exif[274] = orientation
    more = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    deep, shallow = by_hand(samples * 257, colour, 16, more=more), by_hand(samples, colour, 8, more=more)
    np.testing.assert_array_equal(read_picture(deep), read_picture(shallow))


def test_a_file_cut_at_any_place_is_refused() -> None:
    whole = by_hand(RNG.integers(0, 256, (13, 21, 3)), COLOUR, 8)
    for length in range(12, len(whole)):
        assert "damaged picture (" in refusal(whole[:length])


@pytest.mark.parametrize("interlaced", [False, True])
def test_pixels_that_are_missing_though_the_file_ends_as_it_should_are_noticed(interlaced: bool) -> None:
    whole = by_hand(RNG.integers(0, 256, (13, 21, 3)), COLOUR, 8, interlaced=interlaced)
    raw = zlib.decompress(whole[whole.index(b"IDAT") + 4 : -16])
    ended = chunk(b"IDAT", zlib.compress(raw[:-64]))  # the stream ends as it should, a row too early
    broken = chunk(b"IDAT", zlib.compress(raw)[:-70])  # the stream breaks off
    for pixels in (ended, broken, b""):
        assert " bytes of pixels" in refusal(with_chunks(whole[8:33], pixels, chunk(b"IEND", b"")))


def test_a_bit_that_flipped_is_noticed() -> None:
    whole = by_hand(RNG.integers(0, 256, (13, 21, 3)), COLOUR, 8)
    for position in range(33, len(whole) - 12, 7):
        altered = bytearray(whole)
        altered[position] ^= 4
        refusal(bytes(altered))


def test_an_animation_is_refused_and_a_single_frame_is_not() -> None:
    frames = [Image.fromarray(RNG.integers(0, 256, (8, 9, 3), dtype=np.uint8)) for _ in range(3)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        still, moving = BytesIO(), BytesIO()
        frames[0].save(still, kind, save_all=True, **options)
        frames[0].save(moving, kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read_picture(still.getvalue()), np.asarray(frames[0]))
        assert "3 frames of an animation; save it as" in refusal(moving.getvalue())
