"""Oracles: the samples that files were made of, by hand or by tifffile, which shares no code with libtiff."""

import struct
from io import BytesIO

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from sesr_lab.data.picture import read_picture
from sesr_lab.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
WHITE_IS_ZERO, BLACK_IS_ZERO, COLOUR, PALETTE = 0, 1, 2, 3


def by_hand(data: bytes, tags: dict[int, tuple[int, ...]], *, order: str = "<") -> bytes:
    """A TIFF of one strip, 9x6 and 8 bits grey but for the tags given."""
    grey = {256: (9,), 257: (6,), 258: (8,), 259: (1,), 262: (1,), 273: (0,), 277: (1,), 278: (6,), 279: (len(data),)}
    given = dict(sorted((grey | tags).items()))
    tables = {tag: struct.pack(f"{order}{len(value)}H", *value) for tag, value in given.items() if len(value) > 2}
    behind = 8 + 2 + 12 * len(given) + 4
    given[273] = (behind + sum(map(len, tables.values())),)
    entries = b""
    for tag, value in given.items():
        kind, here = ("I", value) if len(value) == 1 else ("HH", value) if len(value) == 2 else ("I", (behind,))
        entries += struct.pack(f"{order}HHI{kind}", tag, 4 if len(value) == 1 else 3, len(value), *here)
        behind += len(tables.get(tag, b""))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(given))
    return start + entries + bytes(4) + b"".join(tables.values()) + data


def packed(samples: NDArray[np.integer], bits: int) -> bytes:
    """Rows of samples of so many bits, most significant first, each row filled up to a byte."""
    rows = ["".join(f"{sample:0{bits}b}" for sample in row) for row in samples.reshape(len(samples), -1)]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8)) for row in rows)


def refusal(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(content, name="odd.tif")
    message = str(caught.value)
    assert message.startswith("odd.tif: ")
    assert "\n" not in message
    return message


def nearest(samples: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    return np.floor(samples * (255 / (2**bits - 1)) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_grey_of_any_depth_is_read_at_its_own_scale(bits: int, photometric: int, order: str) -> None:
    samples = RNG.integers(0, 2**bits, (6, 9))
    data = samples.astype(f"{order}u2").tobytes() if bits == 16 else packed(samples, bits)
    read = read_picture(by_hand(data, {258: (bits,), 262: (photometric,)}, order=order))
    levels = nearest(samples, bits)
    np.testing.assert_array_equal(read, levels if photometric == BLACK_IS_ZERO else 255 - levels)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_colour_of_any_depth_is_rounded_to_8_bits(bits: int, order: str) -> None:
    samples = RNG.integers(0, 2**bits, (6, 9, 3))
    data = samples.astype(f"{order}u2").tobytes() if bits == 16 else packed(samples, bits)
    read = read_picture(by_hand(data, {258: (bits,) * 3, 262: (COLOUR,), 277: (3,)}, order=order))
    np.testing.assert_array_equal(read, nearest(samples, bits))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bits_stored_from_the_least_significant_are_turned_around(bits: int) -> None:
    samples = RNG.integers(0, 2**bits, (6, 9))
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in packed(samples, bits))
    np.testing.assert_array_equal(read_picture(by_hand(turned, {258: (bits,), 266: (2,)})), nearest(samples, bits))


@pytest.mark.parametrize("factor", [1, 256, 257])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_of_8_or_16_bits_gives_its_colours(factor: int, bits: int) -> None:
    indices = RNG.integers(0, 2**bits, (6, 9))
    colours = RNG.integers(0, 256, (3, 2**bits))
    colours[0, 0] = 255
    tags = {258: (bits,), 262: (PALETTE,), 320: tuple(int(level) * factor for level in colours.flatten())}
    read = read_picture(by_hand(packed(indices, bits), tags))
    np.testing.assert_array_equal(read, colours.T[indices])


def test_a_palette_of_another_length_is_refused() -> None:
    assert "a palette of 9 numbers" in refusal(by_hand(packed(GREY, 8), {262: (PALETTE,), 320: (0,) * 9}))


@pytest.mark.parametrize("extra", [0, 1, 2, 999])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colours", [1, 3])
def test_alpha_that_is_opaque_leaves_the_colour_as_it_is(extra: int, bits: int, colours: int) -> None:
    samples = RNG.integers(0, 2**bits, (6, 9, colours))
    data = np.dstack([samples, np.full((6, 9), 2**bits - 1)]).astype("<u2" if bits == 16 else "u1").tobytes()
    count = colours + 1
    tags = {258: (bits,) * count, 262: (COLOUR if colours == 3 else 1,), 277: (count,), 338: (extra,)}
    np.testing.assert_array_equal(read_picture(by_hand(data, tags)), nearest(samples, bits).squeeze())


@pytest.mark.parametrize("colours", [1, 3])
def test_the_colour_beneath_straight_alpha_is_kept_and_that_of_premultiplied_refused(colours: int) -> None:
    samples = RNG.integers(0, 256, (6, 9, colours + 1), dtype=np.uint8)
    tags = {258: (8,) * (colours + 1), 262: (COLOUR if colours == 3 else 1,), 277: (colours + 1,)}
    straight = read_picture(by_hand(samples.tobytes(), tags | {338: (2,)}))
    np.testing.assert_array_equal(straight, samples[..., :-1].squeeze())
    assert "premultiplied with an alpha" in refusal(by_hand(samples.tobytes(), tags | {338: (1,)}))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({258: (32,)}, "32 bits a sample; allowed are 8 bits, or 1 to 16"),
        ({339: (2,)}, "SampleFormat 2"),
        ({339: (3,), 258: (16,)}, "SampleFormat 3"),
        ({258: (5, 6, 5), 277: (3,), 262: (2,)}, "5 and 6 bits a sample"),
        ({258: (8, 8, 8), 277: (3,), 262: (8,)}, "TIFF with CIE L*a*b* colour"),
        ({258: (8, 8, 8), 277: (3,), 262: (6,)}, "TIFF with YCbCr colour outside JPEG"),
        ({262: (32803,)}, "TIFF with raw sensor colour"),
        ({262: (32845,)}, "TIFF with PhotometricInterpretation 32845 colour"),
        ({258: (8,) * 4, 277: (4,), 262: (5,), 332: (2,)}, "other inks than CMYK"),
        ({259: (6,)}, "TIFF with compression 6"),
        ({259: (34712,)}, "TIFF with compression 34712"),
        ({259: (8,), 317: (3,)}, "TIFF with predictor 3"),
        ({254: (1,)}, "TIFF with 0 pages"),
    ],
)
def test_a_layout_that_is_not_read_is_named_with_what_to_do(tags: dict[int, tuple[int, ...]], found: str) -> None:
    message = refusal(by_hand(bytes(1000), tags))
    assert found in message
    assert "save it as an 8-bit grey or RGB PNG" in message
    assert "damaged" not in message


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma"])
@pytest.mark.parametrize("picture", [GREY, RGB, GREY.astype(np.uint16) * 257], ids=["grey", "colour", "deep"])
def test_what_libtiff_compresses_is_read_as_it_was_made(compression: str, picture: NDArray[np.uint8]) -> None:
    read = read_picture(saved(Image.fromarray(picture), compression=compression))
    np.testing.assert_array_equal(read, picture if picture.dtype == np.uint8 else GREY)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("picture", [GREY, RGB, GREY.astype(np.uint16) * 257], ids=["grey", "colour", "deep"])
def test_differences_to_the_left_are_summed_up(compression: str, picture: NDArray[np.uint8]) -> None:
    content = saved(Image.fromarray(picture), compression=compression, tiffinfo={317: 2})
    read = read_picture(content)
    np.testing.assert_array_equal(read, picture if picture.dtype == np.uint8 else GREY)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_a_fax_is_black_and_white(compression: str) -> None:
    bits = GREY > 127
    np.testing.assert_array_equal(read_picture(saved(Image.fromarray(bits), compression=compression)), bits * 255)


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
def test_jpeg_inside_is_read_as_libtiff_reads_it(mode: str) -> None:
    smooth = Image.fromarray(RGB).resize((70, 50)).convert(mode)
    content = saved(smooth, compression="jpeg")
    expected = np.asarray(Image.open(BytesIO(content)).convert("L" if mode == "L" else "RGB"))
    # Chroma is interpolated by libjpeg, and repeated by libtiff where it makes RGB itself.
    assert np.abs(read_picture(content).astype(int) - expected).max() <= (0 if mode != "YCbCr" else 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    as_png = BytesIO()
    Image.fromarray(RGB).save(as_png, "PNG", exif=exif)
    tags = {258: (8,) * 3, 262: (COLOUR,), 277: (3,), 274: (orientation,)}
    turned = read_picture(by_hand(RGB.tobytes(), tags))
    np.testing.assert_array_equal(turned, read_picture(as_png.getvalue()))  # by Pillow


def test_a_thumbnail_beside_a_picture_is_passed_over_and_a_second_page_refused() -> None:
    for subfile, accepted in ((1, True), (0, False)):
        buffer = BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(RGB, photometric="rgb", metadata=None)
            writer.write(RGB[::2, ::2], photometric="rgb", metadata=None, subfiletype=subfile)
        if accepted:
            np.testing.assert_array_equal(read_picture(buffer.getvalue()), RGB)
        else:
            assert "TIFF with 2 pages" in refusal(buffer.getvalue())


@pytest.mark.parametrize("seed", range(40))
def test_strips_tiles_planes_and_orders_of_bytes_are_those_of_tifffile(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731 (what is drawn, at a glance)
    height, width = rng.integers(1, 70, 2)
    bits, photometric = pick(8, 16), pick("minisblack", "miniswhite", "rgb")
    extra = pick((), ("unassalpha",), ("unspecified",))
    colours = 3 if photometric == "rgb" else 1
    samples = rng.integers(0, 2**bits, (height, width, colours + len(extra))).astype(f"u{bits // 8}")
    apart = samples.shape[2] > 1 and pick(True, False)
    compression = pick(None, "zlib")
    parts = pick({"tile": (pick(16, 32), pick(16, 32))}, {"rowsperstrip": int(rng.integers(1, 80))})
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        np.moveaxis(samples, 2, 0) if apart else samples.squeeze(2) if samples.shape[2] == 1 else samples,
        photometric=photometric,
        planarconfig=None if samples.shape[2] == 1 else "separate" if apart else "contig",
        extrasamples=extra or None,
        compression=compression,
        predictor=pick(True, None) if compression else None,
        byteorder=pick("<", ">"),
        bigtiff=pick(True, False),
        metadata=None,
        **parts,
    )
    levels = nearest(samples[..., :colours], bits)
    levels = 255 - levels if photometric == "miniswhite" else levels
    np.testing.assert_array_equal(read_picture(buffer.getvalue()), levels[..., 0] if colours == 1 else levels)


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_file_cut_at_any_place_is_refused(compression: str) -> None:
    whole = saved(Image.fromarray(RNG.integers(0, 256, (32, 40, 3), dtype=np.uint8)), compression=compression)
    pixels = slice(8, len(whole)) if compression == "raw" else slice(8, len(whole) - 2)
    for length in np.linspace(pixels.start, pixels.stop - 1, 25).astype(int):
        assert "damaged picture (" in refusal(whole[:length])


def test_a_strip_that_is_not_there_is_refused() -> None:
    assert "cut short" in refusal(by_hand(GREY.tobytes(), {})[:-1])
    assert "1 of 2 strips or tiles" in refusal(by_hand(GREY.tobytes(), {278: (3,)}))
    assert "1 of 2 strips or tiles" in refusal(by_hand(bytes(108), {258: (8, 8), 277: (2,), 284: (2,)}))
