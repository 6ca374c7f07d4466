"""Picture files: read, list, write."""

import re
import uuid
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sesr_lab.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Names that `list_pictures` takes for pictures, in lower case."""

MAX_PIXELS = 200_000_000
"""Larger pictures are refused: a small file can unpack into more memory than there is."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_ALLOWED_FORMATS = "PNG, JPEG, BMP, TIFF and WebP"
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_DEEP_MODES = frozenset({"I", "F"})


def read_picture(source: Path | str | bytes, *, name: str | None = None) -> NDArray[np.uint8]:
    """Give the picture upright and 8 bits deep: (H, W, 3) RGB, or (H, W) where the file is grey.

    `source` is a path or a file's content; `name` is what errors call it, the path by default. EXIF
    orientation is applied. Palette, CMYK and other colour become RGB, 16-bit grey is rounded to 8, 1-bit
    becomes 0 and 255. Alpha is dropped and the colour beneath it kept, so no background is invented. Of
    several pages or frames, the first is read. Raises DataError for anything else.
    """
    label = name if name is not None else "picture" if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else _read_content(Path(source), label)
    with _open(content, label) as image:
        _check_readable(image, label)
        return _decode(image, label)


def list_pictures(folder: Path | str) -> list[Path]:
    """Give the pictures that lie directly in a folder, in natural order: `2.png` before `10.png`.

    Hidden files and other suffixes are left out. Raises DataError where there is no such folder or no
    picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; give a folder of pictures ({', '.join(SUFFIXES)})")
    try:
        pictures = [path for path in folder.iterdir() if _is_picture(path)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({_reason(error)}); make it readable") from error
    if not pictures:
        raise DataError(f"{folder}: no pictures in this folder; put some in it ({', '.join(SUFFIXES)})")
    return sorted(pictures, key=_natural_key)


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
        raise DataError(f"{path}: cannot be written ({_reason(error)}); choose another place") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _read_content(path: Path, label: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{label}: cannot be read ({_reason(error)}); give a readable picture") from error


def _open(content: bytes, label: str) -> Image.Image:
    """Give the picture with its header read and its pixels not yet decoded."""
    # Pillow warns above this and refuses above twice this. It has no other switch than this global one.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        return Image.open(BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
        found = "not a picture" if content else "an empty file"
        raise DataError(f"{label}: {found}; allowed are {_ALLOWED_FORMATS}; replace it or remove it") from error
    except Image.DecompressionBombError as error:
        raise _too_large(f"over {2 * MAX_PIXELS // 1_000_000} megapixels", label) from error
    except Exception as error:  # Pillow's parsers raise anything on damaged bytes
        raise _damaged(error, label) from error


def _check_readable(image: Image.Image, label: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{image.width}x{image.height} pixels", label)
    if image.mode in _DEEP_MODES:
        raise DataError(f"{label}: 32 bits a sample; allowed are 8 bits, or 16 bits grey; save it as an 8-bit PNG")


def _decode(image: Image.Image, label: str) -> NDArray[np.uint8]:
    try:
        image.load()
        return _to_8_bits(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's decoders raise anything on damaged bytes
        raise _damaged(error, label) from error


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint32)
        return ((deep + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257: the nearest 8-bit level
    if image.mode in _GREY_MODES:
        return np.array(image.convert("L"))
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")  # by way of RGBA, or Pillow warns of transparency held as bytes
    return np.array(image.convert("RGB"))


def _too_large(found: str, label: str) -> DataError:
    allowed = f"allowed are {MAX_PIXELS // 1_000_000} megapixels"
    return DataError(f"{label}: {found}; {allowed}; cut it into smaller pictures")


def _damaged(error: Exception, label: str) -> DataError:
    return DataError(f"{label}: damaged picture ({_reason(error)}); replace it or remove it")


def _reason(error: Exception) -> str:
    """Give an exception's message on one line, without the path that an OSError repeats."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split()) or type(error).__name__


def _is_picture(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file()


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Give a key that compares runs of digits by value, and before text; the plain name settles the rest."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", path.name.casefold())
    return [(0, int(digits), "") if digits else (1, 0, text) for digits, text in parts], path.name
