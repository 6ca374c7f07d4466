"""Oracles: the arrays that files were made from, Pillow's and tifffile's readers, and Pillow's own encoder."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sesr_lab.errors import DataError
from sesr_lab.results.decoding import read
from sesr_lab.results.encoding import FORMATS, write
from sesr_lab.results.header import Header

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[80:217, 120:251])
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def samples(channels: int, bits: int) -> NDArray[np.unsignedinteger]:
    alpha = np.roll(PHOTO[..., :1], 9, axis=1)
    levels = np.concatenate([PHOTO if channels >= 3 else PHOTO[..., :1], alpha], axis=2)[..., :channels]
    return levels if bits == 8 else levels.astype(np.uint16) * 256 + levels[::-1]


def header(picture: NDArray[np.unsignedinteger], **changes: object) -> Header:
    height, width, channels = picture.shape
    fields = {"bits": 8 * picture.itemsize, "icc": None, "exif": None, "orientation": 1, "quality": 95}
    return Header(height=height, width=width, channels=channels, **(fields | changes))


def written(path: Path, picture: NDArray[np.unsignedinteger], rows: int = 30, **changes: object) -> Path:
    parts = (picture[top : top + rows] for top in range(0, len(picture), rows))
    with path.open("wb") as file:
        write(FORMATS[path.suffix], file, header(picture, **changes), parts)
    return path


def png16(path: Path, picture: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG with 16 bits a sample, its rows not filtered."""
    height, width, channels = picture.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in picture)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path, label="x")
    message = str(caught.value)
    assert message.startswith("x: ")
    assert "\n" not in message
    return message


# reading


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_of_png_are_read_whole(tmp_path: Path, channels: int) -> None:
    made = samples(channels, 16)
    np.testing.assert_array_equal(read(png16(tmp_path / "a.png", made), label="x").samples, made)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_of_tiff_are_read_whole(tmp_path: Path, channels: int, compression: str | None, order: str) -> None:
    made = samples(channels, 16)
    kind = {1: "minisblack"}.get(channels, "rgb")
    extra = ["unassalpha"] if channels == 4 else None
    picture = made[..., 0] if channels == 1 else made
    tifffile.imwrite(
        tmp_path / "a.tif", picture, byteorder=order, compression=compression, photometric=kind, extrasamples=extra
    )
    np.testing.assert_array_equal(read(tmp_path / "a.tif", label="x").samples, made)


def test_a_tiff_whose_white_is_zero_is_not_a_negative(tmp_path: Path) -> None:
    made = samples(1, 16)
    tifffile.imwrite(tmp_path / "a.tif", 65535 - made[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "a.tif", label="x").samples, made)


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO).quantize(64)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", label="x").samples, np.asarray(image.convert("RGB")))
    image.save(tmp_path / "b.png", transparency=3)
    found = read(tmp_path / "b.png", label="x").samples
    np.testing.assert_array_equal(found[..., 3], np.where(np.asarray(image) == 3, 0, 255))
    image.save(tmp_path / "c.gif")
    np.testing.assert_array_equal(read(tmp_path / "c.gif", label="x").samples, np.asarray(image.convert("RGB")))


def test_a_colour_that_is_transparent_becomes_alpha(tmp_path: Path) -> None:
    key = tuple(int(level) for level in PHOTO[5, 5])
    Image.fromarray(PHOTO).save(tmp_path / "a.png", transparency=key)
    expected = np.where((key == PHOTO).all(axis=2), 0, 255)
    np.testing.assert_array_equal(read(tmp_path / "a.png", label="x").samples[..., 3], expected)
    deep = samples(3, 16)
    png16(tmp_path / "b.png", deep, (b"tRNS", deep[5, 5].astype(">u2").tobytes()))
    expected = np.where((deep == deep[5, 5]).all(axis=2), 0, 65535)
    np.testing.assert_array_equal(read(tmp_path / "b.png", label="x").samples[..., 3], expected)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO).convert("1")
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", label="x").samples[..., 0], np.asarray(image.convert("L")))


def test_a_phones_jpeg_with_a_second_picture_in_it_is_its_first(tmp_path: Path) -> None:
    first, second = Image.fromarray(PHOTO), Image.fromarray(PHOTO[:40, :40])
    first.save(tmp_path / "a.mpo", append_images=[second], save_all=True, quality=95)
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg", label="x").samples.shape == PHOTO.shape


def test_what_is_no_whole_grey_or_rgb_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    image, path = Image.fromarray(PHOTO), tmp_path / "a"
    image.convert("CMYK").save(path, "JPEG")
    assert "CMYK" in refused(path)
    image.convert("CMYK").save(path, "TIFF")
    assert "CMYK" in refused(path)
    for kind in ("PNG", "WEBP", "GIF"):
        image.save(path, kind, save_all=True, append_images=[image.rotate(90)])
        assert "frames" in refused(path)
    image.save(path, "TIFF", save_all=True, append_images=[image])
    assert "2 pages" in refused(path)
    image.resize((1, 1)).save(path, "PNG")
    assert "one pixel" in refused(path)
    path.write_bytes(b"")
    assert "empty file" in refused(path)
    path.write_text("no picture")
    assert "not a picture" in refused(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 50_000, 50_000, 8, 2, 0, 0, 0))
    refused(path)
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / "nosuch")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_truncated_picture_is_refused(tmp_path: Path, kind: str) -> None:
    whole = BytesIO()
    Image.fromarray(PHOTO).save(whole, kind)
    for part in (0.2, 0.5, 0.9):
        (tmp_path / "a").write_bytes(whole.getvalue()[: int(part * len(whole.getvalue()))])
        refused(tmp_path / "a")


# writing


@pytest.mark.parametrize("rows", [1, 30, 500])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_lossless_files_hold_what_was_written(tmp_path: Path, suffix: str, channels: int, bits: int, rows: int) -> None:
    made = samples(channels, bits)
    path = written(tmp_path / f"a{suffix}", made, rows, icc=PROFILE)
    np.testing.assert_array_equal(read(path, label="x").samples, made)
    assert read(path, label="x").icc == PROFILE
    if bits == 8:
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), made.squeeze())
            assert image.info["icc_profile"] == PROFILE
    if suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(path), made.squeeze())


def test_a_tiff_too_large_for_32_bits_is_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sesr_lab.results.tiff._BIG_BYTES", 1000)
    path = written(tmp_path / "a.tif", PHOTO, icc=PROFILE)
    assert path.read_bytes()[:4] == b"II+\0"
    np.testing.assert_array_equal(tifffile.imread(path), PHOTO)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), PHOTO)
        assert image.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("height", [1, 64, 65, 137])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_of_strips_decodes_as_one_of_the_whole(tmp_path: Path, channels: int, height: int) -> None:
    made, exif = samples(channels, 8)[:height], Image.Exif()
    exif[0x0112] = 1
    path = written(tmp_path / "a.jpg", made, quality=90, icc=PROFILE, exif=exif.tobytes())
    Image.fromarray(made.squeeze(axis=2) if channels == 1 else made).save(tmp_path / "b.jpg", quality=90, subsampling=0)
    with Image.open(path) as image, Image.open(tmp_path / "b.jpg") as whole:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(whole))
        assert image.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_webp_keeps_alpha_and_profile(tmp_path: Path, channels: int) -> None:
    made = samples(channels, 8)
    with Image.open(written(tmp_path / "a.webp", made, icc=PROFILE)) as image:
        assert image.mode == ("RGBA" if channels in (2, 4) else "RGB")
        assert image.info["icc_profile"] == PROFILE
        if channels in (2, 4):
            np.testing.assert_array_equal(np.asarray(image)[..., 3], made[..., -1])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("given", [".jpg", ".tif"])
def test_orientation_is_kept(tmp_path: Path, given: str, suffix: str) -> None:
    source = tmp_path / f"source{given}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(source, exif=exif)
    found = read(source, label="x")
    assert found.orientation == 6
    path = written(tmp_path / f"a{suffix}", found.samples, exif=found.exif, orientation=found.orientation)
    assert read(path, label="x").orientation == 6
