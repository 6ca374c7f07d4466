"""Picture files read whole for upscaling: colour, alpha, 16 bits, orientation and colour profile included."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from sesr_lab.data import jpeg, layout, png
from sesr_lab.data.picture import read_file, silence_pillow
from sesr_lab.data.refusal import check_pixels, damaged, reason
from sesr_lab.data.strips import read_samples
from sesr_lab.data.tiff import SIGNATURES, from_palette
from sesr_lab.errors import DataError

Samples = NDArray[np.unsignedinteger[Any]]
"""Of 8 or 16 bits."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_ALLOWED = "PNG, JPEG, WebP, TIFF, BMP and GIF"
_EXTRA_SAMPLES, _COLOUR_MAP, _ORIENTATION, _PROFILE = 338, 320, 274, 34675
_PREMULTIPLIED, _ALPHA = 1, 2
_STRIP = 256
"""Rows converted at once, so that no second whole picture is held."""
_MODES = {
    **{"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA"},
    **{"P": "RGB", "PA": "RGBA"},
}
"""As what pictures of Pillow's modes are read."""
_WITH_KEY = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA"}
"""The same where the file names a colour that is transparent."""


@dataclass(frozen=True)
class Picture:
    """A picture as its file stores it: not turned upright, not reduced to 8 bits."""

    samples: Samples = field(repr=False)
    """(H, W, channels): 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha."""
    icc: bytes | None = field(default=None, repr=False)
    """The colour profile."""
    exif: bytes | None = field(default=None, repr=False)
    orientation: int = 1
    """EXIF's number for how to turn the picture to see it upright; 1 is as stored."""

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is opacity."""
        return self.samples.shape[2] in (2, 4)

    @property
    def peak(self) -> int:
        """White: 255, or 65535 in a picture of 16 bits."""
        return int(np.iinfo(self.samples.dtype).max)


def read(path: Path, *, label: str) -> Picture:
    """The picture in a file; `label` is what errors call it.

    Palettes become RGB (with alpha where a colour is transparent), 1-bit grey becomes 8-bit.

    Raises:
        DataError: no picture, damaged, too large, of one pixel, animated, of several pages, or neither grey nor RGB.
    """
    content = read_file(path, label)
    try:
        picture = _read_tiff(content, label) if content.startswith(SIGNATURES) else _read(content, label)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Pillow's parsers and decoders raise anything on damaged bytes
        raise damaged(reason(error), label) from error
    if picture.samples.shape[:2] == (1, 1):
        raise DataError(f"{label}: one pixel; there is nothing in it to upscale")
    return picture


def _read(content: bytes, label: str) -> Picture:
    silence_pillow()
    header = png.check_png(content, label) if content.startswith(png.SIGNATURE) else None
    segments = jpeg.check_frame(content, label) if content.startswith(jpeg.SIGNATURE) else None
    with _open(content, label) as image:
        check_pixels(*image.size, label)
        frames = int(getattr(image, "n_frames", 1)) if image.format in {"WEBP", "GIF"} else 1
        if frames > 1:
            raise DataError(f"{label}: {frames} frames of an animation; one is allowed: save each as a picture")
        if image.mode == "CMYK":
            raise _cmyk(label)
        image.load()
        if segments is not None:
            jpeg.check_pixels_whole(content, segments, image, label)
        key = image.info.get("transparency")
        if header is not None and header.bits == 16:
            samples: Samples = _with_key(png.read_deep_png(content, header), key)
        else:
            samples = _shallow(image, has_key=key is not None, label=label)
        icc, exif = image.info.get("icc_profile"), image.info.get("exif")
        return Picture(samples, icc or None, exif or None, _orientation(image))


def _open(content: bytes, label: str) -> Image.Image:
    """The picture with its header read and its samples not yet."""
    try:
        return Image.open(BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
        found = "not a picture" if content else "an empty file"
        raise DataError(f"{label}: {found}; allowed are {_ALLOWED}; replace it or leave it out") from error


def _shallow(image: Image.Image, *, has_key: bool, label: str) -> NDArray[np.uint8]:
    """Samples of 8 bits."""
    mode = (_MODES | _WITH_KEY if has_key else _MODES).get(image.mode)
    if mode is None:
        raise DataError(f"{label}: {image.mode} colour; grey, RGB and palettes are allowed; convert it")
    width, height = image.size
    samples = np.empty((height, width, Image.getmodebands(mode)), np.uint8)
    for top in range(0, height, _STRIP):
        strip = image.crop((0, top, width, min(top + _STRIP, height)))
        strip = strip if strip.mode == mode else strip.convert(mode)
        samples[top : top + _STRIP] = np.asarray(strip).reshape(strip.height, width, -1)
    return samples


def _with_key(samples: NDArray[np.uint16], key: object) -> NDArray[np.uint16]:
    """The samples, with an alpha channel where the file names one colour that is transparent."""
    if key is None or samples.shape[2] in (2, 4):
        return samples
    opaque = (samples != np.asarray(key, np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([samples, np.where(opaque, 65535, 0).astype(np.uint16)], axis=2)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises anything; the picture is whole without it
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _read_tiff(content: bytes, label: str) -> Picture:
    tags, order = layout.read_tags(content, label)
    lies = layout.read_layout(tags, order, label)
    if lies.photometric == layout.CMYK:
        raise _cmyk(label)
    samples = read_samples(content, tags, lies, label)
    orientation = tags.get(_ORIENTATION, (1,))[0]
    orientation = orientation if 1 <= orientation <= 8 else 1
    return Picture(
        _tiff_channels(samples, tags, lies, label),
        icc=bytes(tags[_PROFILE]) if _PROFILE in tags else None,
        exif=None if orientation == 1 else exif_of(orientation),
        orientation=orientation,
    )


def exif_of(orientation: int) -> bytes:
    """EXIF that says this and nothing else, for formats that have no other place for it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def _tiff_channels(samples: NDArray[np.uint16], tags: layout.Tags, lies: layout.Layout, label: str) -> Samples:
    colours, extra = layout.COLOURS[lies.photometric], tags.get(_EXTRA_SAMPLES, ())
    if lies.photometric == layout.PALETTE:
        return from_palette(samples[..., 0], lies, tags.get(_COLOUR_MAP, ()), label)
    most = 2**lies.bits - 1
    if _PREMULTIPLIED in extra and (samples[..., colours + extra.index(_PREMULTIPLIED)] != most).any():
        raise DataError(f"{label}: colour multiplied with its alpha; allowed is alpha beside the colour; convert it")
    kept = [*range(colours)]
    if _ALPHA in extra and colours + extra.index(_ALPHA) < lies.samples:
        kept.append(colours + extra.index(_ALPHA))
    samples = samples if kept == [*range(lies.samples)] else samples[..., kept]
    if lies.photometric == layout.WHITE_IS_ZERO:
        samples[..., 0] = most - samples[..., 0]
    peak = 255 if lies.bits <= 8 else 65535
    if most != peak:
        samples = ((samples.astype(np.uint32) * peak + most // 2) // most).astype(np.uint16)
    return samples if peak > 255 else samples.astype(np.uint8)


def _cmyk(label: str) -> DataError:
    return DataError(f"{label}: CMYK colour; grey, RGB and palettes are allowed; convert it with its profile")
