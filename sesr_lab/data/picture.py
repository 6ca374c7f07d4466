"""Picture files: read, list, write."""

import re
import uuid
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sesr_lab.data import jpeg, png
from sesr_lab.data.png import check_png, read_deep_png
from sesr_lab.data.refusal import check_name, check_pixels, damaged, reason, shown, unread
from sesr_lab.data.tiff import SIGNATURES, read_tiff, to_8_bits, upright
from sesr_lab.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Names that `list_pictures` takes for pictures, in lower case."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_ALLOWED_FORMATS = "PNG, JPEG, BMP, TIFF and WebP"
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""The filter that keeps Pillow's warnings off the terminal."""
_GREY_MODES = frozenset({"1", "L", "LA"})


def read_picture(source: Path | str | bytes, *, name: str | None = None) -> NDArray[np.uint8]:
    """Give the picture upright and 8 bits deep: (H, W, 3) RGB, or (H, W) where the file is grey.

    `source` is a path or a file's content; `name` is what errors call it, the path by default. EXIF
    orientation is applied. Palette, CMYK and other colour become RGB, deeper samples are rounded to 8 bits, 1-bit
    becomes 0 and 255. Alpha is dropped and the colour beneath it kept, so no background is invented.
    Raises DataError for anything else, animations and several pages included.
    """
    label = shown(name if name is not None else "picture" if isinstance(source, bytes) else source)
    content = source if isinstance(source, bytes) else read_file(Path(source), label)
    try:
        return _read(content, label)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers and decoders raise anything on damaged bytes
        raise damaged(reason(error), label) from error


def list_pictures(folder: Path | str) -> list[Path]:
    """Give the pictures that lie directly in a folder, in natural order: `2.png` before `10.png`.

    Hidden files and other suffixes are left out. Raises DataError where there is no such folder or no
    picture in it, and for a picture whose name is not UTF-8 or which is no file (a broken link, say).
    """
    folder = Path(folder)
    check_name(folder)
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{shown(folder)}: {found}; give a folder of pictures ({', '.join(SUFFIXES)})")
    try:
        pictures = [path for path in folder.iterdir() if _is_picture(path)]
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot be listed ({reason(error)}); make it readable") from error
    if not pictures:
        raise DataError(f"{shown(folder)}: no pictures in this folder; put some in it ({', '.join(SUFFIXES)})")
    for path in pictures:
        check_name(path)
        if not path.is_file():
            raise DataError(f"{shown(path)}: not a file, or a link to none; put it back or remove it")
    return sorted(pictures, key=_natural_key)


def holds_pictures(folder: Path) -> bool:
    """Whether a picture lies directly in a folder that can be listed."""
    try:
        return any(_is_picture(path) for path in folder.iterdir())
    except OSError:
        return False


def write_png(path: Path | str, picture: NDArray[np.uint8]) -> None:
    """Leave the complete picture, (H, W, 3) RGB or (H, W) grey, at `path`, or what was there before.

    Raises DataError where the file cannot be written.
    """
    path = Path(path)
    if picture.dtype != np.uint8:
        raise ValueError(f"a PNG is written from uint8, not {picture.dtype}")
    image = Image.fromarray(np.ascontiguousarray(picture))
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        image.save(unfinished, format="PNG")
        unfinished.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({reason(error)}); choose another place") from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_file(path: Path, label: str) -> bytes:
    """Give the content of a regular file.

    Raises DataError for anything else: a device can be read without end, a pipe waited for without end.
    """
    try:
        if not path.is_file() and path.exists():
            raise DataError(f"{label}: cannot be read (not a file); give a readable picture")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{label}: cannot be read ({reason(error)}); give a readable picture") from error


def _read(content: bytes, label: str) -> NDArray[np.uint8]:
    silence_pillow()
    if content.startswith(SIGNATURES):
        return read_tiff(content, label)
    header = check_png(content, label) if content.startswith(png.SIGNATURE) else None
    segments = jpeg.check_frame(content, label) if content.startswith(jpeg.SIGNATURE) else None
    with _open(content, label) as image:
        check_pixels(*image.size, label)
        if image.format == "WEBP" and getattr(image, "n_frames", 1) > 1:
            raise unread(f"{getattr(image, 'n_frames', 1)} frames of an animation", label)
        image.load()
        if segments is not None:
            jpeg.check_pixels_whole(content, segments, image, label)
        if header is not None and header.bits == 16:
            return _upright_array(image, to_8_bits(read_deep_png(content, header), 16))
        return _to_8_bits(ImageOps.exif_transpose(image))


def silence_pillow() -> None:
    """Leaves it to this room to say what is wrong, in one line; Pillow has no other switches than global ones."""
    Image.MAX_IMAGE_PIXELS = None
    if warnings.filters[:1] != [_QUIET]:
        warnings.filterwarnings("ignore", module=_QUIET[3].pattern)


def _open(content: bytes, label: str) -> Image.Image:
    """Give the picture with its header read and its pixels not yet decoded."""
    try:
        return Image.open(BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
        found = "not a picture" if content else "an empty file"
        raise DataError(f"{label}: {found}; allowed are {_ALLOWED_FORMATS}; replace it or remove it") from error


def _upright_array(image: Image.Image, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give levels (H, W, channels) without alpha, turned as the picture's EXIF says."""
    channels = levels.shape[2] - 1 if levels.shape[2] in (2, 4) else levels.shape[2]
    colours = levels[..., 0] if channels == 1 else levels[..., :channels]
    return upright(colours, image.getexif().get(ExifTags.Base.Orientation, 1))


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in _GREY_MODES:
        return np.array(image.convert("L"))
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")  # by way of RGBA, or Pillow warns of transparency held as bytes
    return np.array(image.convert("RGB"))


def _is_picture(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in SUFFIXES and not path.is_dir()


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Give a key that compares runs of digits by value, and before text; the plain name settles the rest."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", path.name.casefold())
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in parts], path.name
