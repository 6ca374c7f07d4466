"""Whole JPEGs are taken and cut ones refused. Oracle: what libjpeg makes of the whole file."""

import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sesr_lab.data.picture import read_picture
from sesr_lab.errors import DataError

PHOTO = Image.fromarray(data.astronaut()[100:220, 180:330])
KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 5},
    "optimised": {"optimize": True, "subsampling": 0},
    "coarse": {"quality": 10},
}
END = b"\xff\xd9"


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def scans(content: bytes) -> list[tuple[int, int]]:
    """Where the pixels of each scan begin and end."""
    found = []
    for start in re.finditer(rb"\xff\xda", content):
        begin = start.end() + int.from_bytes(content[start.end() : start.end() + 2])
        found.append((begin, re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]").search(content, begin).start()))  # type: ignore[union-attr]
    return found


def refusal(content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(content, name="odd.jpg")
    message = str(caught.value)
    assert message.startswith("odd.jpg: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_whole_jpeg_is_taken(kind: str, mode: str) -> None:
    content = encoded(PHOTO.convert(mode), **KINDS[kind])
    with Image.open(BytesIO(content)) as image:
        expected = np.asarray(image.convert("L" if mode == "L" else "RGB"))
    np.testing.assert_array_equal(read_picture(content), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.98])
def test_a_scan_cut_short_is_refused_though_the_file_ends_with_its_marker(kind: str, mode: str, part: float) -> None:
    content = encoded(PHOTO.convert(mode), **KINDS[kind])
    for begin, end in scans(content):
        kept = content[: begin + int((end - begin) * part)]
        assert "damaged picture (cut short: " in refusal(kept + END)
        # The scans behind it are whole; the last bytes of a scan may say no more than that nothing follows.
        if content[end : end + 2] != END and end - len(kept) > 4:
            assert "damaged picture (cut short: a scan ends before its last pixel)" in refusal(kept + content[end:])


def test_a_restart_that_comes_too_early_is_refused() -> None:
    content = encoded(PHOTO, restart_marker_blocks=5)
    middle = re.compile(rb"\xff[\xd0-\xd7]").search(content, len(content) // 2)
    assert middle is not None
    assert "cut short: a scan ends" in refusal(content[: middle.start() - 12] + content[middle.start() :])


def test_scans_that_are_missing_are_noticed() -> None:
    content = encoded(PHOTO, progressive=True)
    for _, end in scans(content)[:-1]:
        assert "cut short: scans are missing" in refusal(content[:end] + END)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_without_an_end_is_refused(kind: str) -> None:
    content = encoded(PHOTO, **KINDS[kind])
    assert "cut short: no end of the picture" in refusal(content.removesuffix(END))


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_behind_the_end_or_before_the_picture_does_not_matter(kind: str) -> None:
    exif = Image.Exif()
    exif[270] = "a comment"
    content = encoded(PHOTO, exif=exif, comment=b"\xff\xda\xff\xd9", **KINDS[kind])
    np.testing.assert_array_equal(read_picture(content + b"\xff\xd8\xffmore"), read_picture(content))


def test_a_flat_picture_is_not_taken_for_one_that_is_cut_short() -> None:
    for level in (0, 128, 255):
        for kind in KINDS.values():
            flat = Image.new("RGB", (64, 48), (level,) * 3)
            assert read_picture(encoded(flat, **kind)).std() == 0


@pytest.mark.parametrize(("at", "value", "found"), [(1, 0xC3, "lossless or hierarchical"), (4, 12, "12 bits a sample")])
def test_a_kind_of_jpeg_that_is_not_read_is_named(at: int, value: int, found: str) -> None:
    content = bytearray(encoded(PHOTO))
    content[content.index(b"\xff\xc0\x00\x11\x08") + at] = value
    message = refusal(bytes(content))
    assert found in message
    assert "damaged" not in message
