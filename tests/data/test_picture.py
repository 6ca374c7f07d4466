"""Oracles: the arrays that the files were made from, and Pillow's own conversions."""

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from sesr_lab.data import refusal as limits
from sesr_lab.data.picture import list_pictures, read_picture, write_png
from sesr_lab.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0].copy()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"")
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def refusal(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(content, name="photos/a.png")
    message = str(caught.value)
    assert message.startswith("photos/a.png: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("picture", [RGB, GREY], ids=["rgb", "grey"])
def test_lossless_files_are_read_as_they_were_made(kind: str, picture: NDArray[np.uint8]) -> None:
    read = read_picture(encoded(Image.fromarray(picture), kind), name="a")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, picture)


def test_lossless_webp_is_read_as_it_was_made() -> None:
    read = read_picture(encoded(Image.fromarray(RGB), "WEBP", lossless=True), name="a")
    np.testing.assert_array_equal(read, RGB)


def test_a_jpeg_is_read_from_a_path_and_can_be_written_to_as_an_array(tmp_path: Path) -> None:
    photo = data.astronaut()
    Image.fromarray(photo).save(tmp_path / "a.jpg", quality=95)
    read = read_picture(tmp_path / "a.jpg")
    assert np.abs(read.astype(int) - photo).mean() < 3
    read[0] = 0


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (6, -1), (3, 2), (8, 1)])
def test_a_picture_is_turned_upright_as_its_exif_says(orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_picture(encoded(Image.fromarray(RGB), exif=exif), name="a")
    np.testing.assert_array_equal(read, np.rot90(RGB, turns))


def test_alpha_is_dropped_and_the_colour_beneath_it_kept() -> None:
    transparent = Image.fromarray(np.dstack([RGB, np.zeros_like(GREY)]))
    np.testing.assert_array_equal(read_picture(encoded(transparent), name="a"), RGB)
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (9, 6), 0)])
    np.testing.assert_array_equal(read_picture(encoded(grey), name="a"), GREY)


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": bytes([0, 128, 255])}])
def test_a_palette_becomes_its_colours_without_a_warning(options: dict[str, object]) -> None:
    palette = Image.fromarray(RGB).quantize(8)
    expected = np.asarray(palette.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_picture(encoded(palette, **options), name="a"), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_rounded_to_the_nearest_8_bit_level(kind: str) -> None:
    deep = np.array([[0, 128, 129, 257, 385, 386], [65535, 65407, 65406, 32768, 32767, 256]], dtype=np.uint16)
    read = read_picture(encoded(Image.fromarray(deep), kind), name="a")
    np.testing.assert_array_equal(read, [[0, 0, 1, 1, 1, 2], [255, 255, 254, 128, 127, 1]])
    assert read.dtype == np.uint8


def test_one_bit_becomes_black_and_white() -> None:
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    np.testing.assert_array_equal(read_picture(encoded(bits), name="a"), np.where(GREY > 127, 255, 0))


def test_cmyk_becomes_rgb() -> None:
    inks = Image.fromarray(RGB).convert("CMYK")
    read = read_picture(encoded(inks, "TIFF"), name="a")
    np.testing.assert_array_equal(read, np.asarray(inks.convert("RGB")))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_samples_are_refused_since_their_range_is_unknown(kind: type) -> None:
    message = refusal(encoded(Image.fromarray(GREY.astype(kind)), "TIFF"))
    assert "32 bits a sample; allowed are 8 bits" in message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_one_line_that_says_so(kind: str, part: float) -> None:
    whole = encoded(Image.fromarray(data.astronaut()[:128, :128]), kind)
    message = refusal(whole[: int(len(whole) * part)])
    assert "damaged picture (" in message or "not a picture" in message
    assert message.endswith("; replace it or remove it")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged metadata
def test_damaged_bytes_give_a_picture_or_a_data_error_and_nothing_else(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PIXELS", 10**6)  # or damaged sizes would unpack 200 megapixels
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = np.frombuffer(encoded(Image.fromarray(RGB), kind, exif=exif), dtype=np.uint8)
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 3)] = rng.integers(0, 256, 3)
        try:
            read = read_picture(damaged.tobytes(), name="a")
        except DataError:
            continue
        assert read.dtype == np.uint8


@pytest.mark.parametrize("content", [b"hello", b"%PDF-1.7 ...", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_file_that_is_no_picture_is_refused(content: bytes) -> None:
    assert "not a picture; allowed are PNG, JPEG, BMP, TIFF and WebP; replace it or" in refusal(content)


def test_an_empty_file_is_called_empty() -> None:
    assert "an empty file" in refusal(b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "found"),
    [(20_000, 10_001, "20000x10001 pixels"), (60_000, 60_000, "60000x60000 pixels")],
)
def test_a_decompression_bomb_is_an_error_before_it_is_unpacked(width: int, height: int, found: str) -> None:
    assert f"{found}; allowed are 200 megapixels; cut it" in refusal(png_header(width, height))


def test_pictures_up_to_200_megapixels_pass_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "damaged picture" in refusal(png_header(20_000, 10_000))  # there are no pixels behind it


def test_a_missing_file_is_a_data_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: cannot be read \(No such file or directory\)"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_picture(tmp_path)


def test_the_name_replaces_the_path_in_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"^img 7 of hub:someone/photos: not a picture"):
        read_picture(tmp_path / "a.png", name="img 7 of hub:someone/photos")


def test_pictures_are_listed_in_natural_order_without_hidden_and_other_files(tmp_path: Path) -> None:
    names = ["a10.png", "a2.PNG", "a1.jpg", "B1.jpeg", "c.tif", "c.tiff", "10.webp", "9.bmp", "a02.png"]
    for name in [*names, ".a0.png", "._a1.jpg", "notes.txt", "a.gif", "png"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    listed = [path.name for path in list_pictures(tmp_path)]
    assert listed == [
        "9.bmp", "10.webp", "a1.jpg", "a02.png", "a2.PNG", "a10.png", "B1.jpeg", "c.tif", "c.tiff"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "found"),
    [("none", "no such folder"), ("a.txt", "a file, not a folder"), ("empty", "no pictures in this folder")],
)
def test_a_folder_without_pictures_is_a_data_error(tmp_path: Path, where: str, found: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError) as caught:
        list_pictures(tmp_path / where)
    assert str(caught.value).startswith(f"{tmp_path / where}: {found}; ")
    assert ".png, .jpg" in str(caught.value)


@pytest.mark.parametrize("picture", [RGB, GREY, RGB[:, ::-1]], ids=["rgb", "grey", "view"])
def test_a_written_png_reads_back_the_same_and_leaves_nothing_else(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_png_that_cannot_be_written_is_a_data_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png: cannot be written \("):
        write_png(tmp_path / "a.png", RGB)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(DataError, match="No such file or directory"):
        write_png(tmp_path / "none" / "a.png", RGB)


def test_only_8_bit_pictures_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8, not float64"):
        write_png(tmp_path / "a.png", RGB / 255)  # type: ignore[arg-type] # the mistake under test
    assert not list(tmp_path.iterdir())
