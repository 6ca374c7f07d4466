"""Pictures and folders, upscaled one after the other: what becomes of each, whatever is wrong with another."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sesr_lab.data import Progress
from sesr_lab.data.picture import SUFFIXES
from sesr_lab.data.refusal import is_folder, shown
from sesr_lab.errors import ConfigError, DataError, SesrError
from sesr_lab.results import comparing, decoding, upscaling
from sesr_lab.results.decoding import Picture, Samples
from sesr_lab.results.encoding import DEEP, FORMATS, LONGEST_SIDE, write
from sesr_lab.results.header import Header
from sesr_lab.results.inference import Network

READ = (*SUFFIXES, ".gif")
"""Names that count as pictures in a folder, in lower case."""
LONGEST_EXIF = 65_533 - 6
"""Bytes of it in a JPEG, without its name."""
_BAR = 1000
"""Parts of one picture in the progress."""


@dataclass(frozen=True)
class Settings:
    """How pictures are written."""

    suffix: str | None = None
    """That of every written file, as `.png`; None keeps each picture's own where it can be written."""
    quality: int = 95
    """Of JPEG and WebP."""
    tile: int = upscaling.TILE
    compare: bool = False
    """Whether a contact sheet is written beside each picture."""
    originals: Path | None = None
    """The picture that the result should be, or the folder of them, for the contact sheet."""


@dataclass(frozen=True)
class Written:
    """A picture that was upscaled."""

    input: str
    output: str
    width: int
    height: int
    seconds: float
    sheet: str | None


@dataclass(frozen=True)
class Failed:
    """A picture that was not, and why, in one line."""

    input: str
    reason: str


@dataclass(frozen=True)
class _Order:
    source: Path
    target: Path
    sheet: Path | None
    """Where its contact sheet is written, if it gets one."""

    @property
    def places(self) -> list[str]:
        """What is written for it, links followed."""
        return [os.path.realpath(path) for path in (self.target, self.sheet) if path is not None]


def upscale_files(
    inputs: Sequence[Path],
    network: Network,
    *,
    out: Path,
    settings: Settings,
    progress: Progress | None = None,
    failed: Callable[[Failed], None] = lambda _: None,
) -> tuple[list[Written], list[Failed]]:
    """What was written, and what was not: the pictures of `inputs` and of the folders among them, in `out`.

    Args:
        out: a folder, made if need be, or the file to write if `inputs` is one picture.
        failed: told of each failure when it happens.

    Raises:
        ConfigError: `out` or a setting cannot be used for any picture.
    """
    orders, failures = _orders(inputs, out, settings)
    for failure in failures:
        failed(failure)
    written: list[Written] = []
    for index, order in enumerate(orders):
        name = shown(order.source)

        def show(part: float, index: int = index, name: str = name) -> None:
            if progress is not None:
                progress(index * _BAR + int(part * _BAR), len(orders) * _BAR, name)

        try:
            written.append(_upscale(order, network, settings, show))
        except (SesrError, MemoryError) as error:
            reason = str(error) if isinstance(error, SesrError) else "there is not enough memory; use a smaller --tile"
            failures.append(Failed(name, reason.removeprefix(f"{name}: ")))
            failed(failures[-1])
    return written, failures


def _orders(inputs: Sequence[Path], out: Path, settings: Settings) -> tuple[list[_Order], list[Failed]]:
    """Which file becomes which, and the inputs from which nothing can come."""
    is_file = _is_file(inputs, out)
    if is_file and settings.suffix and FORMATS.get(out.suffix.lower()) != FORMATS[settings.suffix]:
        raise ConfigError(f"{shown(out)}: its name says {out.suffix}, --format says {settings.suffix[1:]}; give one")
    sources, failures = _sources(inputs, out)
    orders = [_order(source, out if is_file else out / _name(source, settings), settings) for source in sources]
    claims: dict[str, list[_Order]] = {}
    for order in orders:
        for place in order.places:
            claims.setdefault(place, []).append(order)
    kept = {os.path.realpath(path): "original" for path in _originals(settings.originals)}
    kept |= {os.path.realpath(source): "input" for source in sources}
    fine: list[_Order] = []
    for order in orders:
        reason = _in_the_way(order, claims, kept)
        if reason:
            failures.append(Failed(shown(order.source), reason))
        else:
            fine.append(order)
    if fine:
        _make(out.parent if is_file else out)
    return fine, failures


def _order(source: Path, target: Path, settings: Settings) -> _Order:
    return _Order(source, target, target.with_name(f"{target.stem}-compare.png") if settings.compare else None)


def _in_the_way(order: _Order, claims: Mapping[str, Sequence[_Order]], kept: Mapping[str, str]) -> str:
    """Why what is written for an order would overwrite a picture that is needed, or be overwritten; nothing if not."""
    for place, path in zip(order.places, (order.target, order.sheet), strict=False):
        others = [claim for claim in claims[place] if claim is not order]
        if others:
            both = f"{shown(others[0].source)} would be written to {shown(str(path))} too"
            return f"{both}; rename one, or upscale them apart"
        if place in kept:
            return f"would be written over the {kept[place]} {shown(str(path))}; choose another -o"
    return ""


def _originals(place: Path | None) -> list[Path]:
    """The pictures that results are compared with; none where they cannot be listed, which is said when one is read."""
    if place is None or not is_folder(place):
        return [] if place is None else [place]
    try:
        return [path for path in place.iterdir() if path.suffix.lower() in READ]
    except OSError:
        return []


def _is_file(inputs: Sequence[Path], out: Path) -> bool:
    """Whether `out` names the one file to write, and not a folder."""
    suffix = out.suffix.lower()
    if is_folder(out) or suffix not in (*FORMATS, *READ):
        return False
    if suffix not in FORMATS:
        raise ConfigError(f"{shown(out)}: {suffix} cannot be written; allowed are {', '.join(FORMATS)}")
    if len(inputs) > 1 or is_folder(inputs[0]):
        raise ConfigError(f"{shown(out)}: one file for several pictures; give a folder as -o")
    return True


def _sources(inputs: Sequence[Path], out: Path) -> tuple[list[Path], list[Failed]]:
    found: dict[str, Path] = {}
    failures = []
    for given in inputs:
        try:
            for path in _listed(given, out) if is_folder(given) else [given]:
                found.setdefault(os.path.realpath(path), path)
        except DataError as error:
            failures.append(Failed(shown(given), str(error)))
    return list(found.values()), failures


def _listed(folder: Path, out: Path) -> list[Path]:
    """The pictures that lie directly in a folder."""
    if is_folder(out) and folder.samefile(out):
        raise DataError("is the output folder too; choose another -o")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot be listed ({error.strerror}); make it readable") from error
    pictures = [path for path in entries if path.suffix.lower() in READ and not path.name.startswith(".")]
    if not pictures:
        raise DataError(f"no pictures in this folder; put some in it ({', '.join(READ)})")
    return pictures


def _name(source: Path, settings: Settings) -> str:
    kept = source.suffix if source.suffix.lower() in FORMATS else ".png"
    return source.stem + (settings.suffix or kept) if source.suffix else source.name + (settings.suffix or ".png")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{shown(folder)}: cannot be made ({error.strerror}); choose another -o") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{shown(folder)}: cannot be written; choose another -o")


def _upscale(order: _Order, network: Network, settings: Settings, show: Callable[[float], None]) -> Written:
    began = time.monotonic()
    show(0.0)
    picture = decoding.read(order.source, label=shown(order.source))
    name = FORMATS[order.target.suffix.lower()]
    header = _header(picture, network.scale, name, settings, order)
    parts = (_fitted(rows, header) for rows in upscaling.upscaled(picture, network, tile=settings.tile))
    with _replaced(order.target) as file:
        write(name, file, header, _watched(parts, header.height, show))
    if order.sheet is not None:
        _sheet(order.sheet, order, picture, network, settings)
    seconds = time.monotonic() - began
    source, target = shown(order.source), shown(order.target)
    beside = None if order.sheet is None else shown(order.sheet)
    return Written(source, target, header.width, header.height, seconds, beside)


def _header(picture: Picture, scale: int, name: str, settings: Settings, order: _Order) -> Header:
    """What is written before the rows; DataError where the format cannot hold the picture."""
    height, width, channels = picture.samples.shape
    height, width = height * scale, width * scale
    longest = LONGEST_SIDE.get(name)
    label = shown(order.source)
    if longest is not None and max(height, width) > longest:
        found = f"{width}x{height} pixels are too many for {name}, which holds {longest} a side"
        raise DataError(f"{label}: {found}; write PNG or TIFF (--format png)")
    if picture.has_alpha and name == "JPEG":
        if (picture.samples[..., -1] != picture.peak).any():
            raise DataError(f"{label}: transparent, which JPEG cannot be; write PNG, WebP or TIFF (--format png)")
        channels -= 1
    return Header(
        height=height,
        width=width,
        channels=channels,
        bits=16 if picture.peak > 255 and name in DEEP else 8,
        icc=picture.icc,
        exif=decoding.exif_of(picture.orientation) if name == "JPEG" and _is_long(picture.exif) else picture.exif,
        orientation=picture.orientation,
        quality=settings.quality,
    )


def _is_long(exif: bytes | None) -> bool:
    """Whether EXIF is more than a JPEG holds in its one segment: of a longer one the orientation is kept."""
    return exif is not None and len(exif) > LONGEST_EXIF


def _fitted(rows: Samples, header: Header) -> Samples:
    """The rows as the format holds them: without an alpha that says nothing, and of no more bits than it has."""
    rows = rows[..., : header.channels]
    if header.bits == 8 and rows.dtype == np.uint16:
        return ((rows.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257
    return rows


def _watched(parts: Iterator[Samples], height: int, show: Callable[[float], None]) -> Iterator[Samples]:
    done = 0
    for rows in parts:
        yield rows
        done += len(rows)
        show(done / height)


class _replaced:  # noqa: N801  (used as a function, like contextlib's own)
    """A file to write that takes the place of `path` when all of it is there; DataError where it cannot."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")

    def __enter__(self) -> BinaryIO:
        try:
            self.file = self.unfinished.open("wb")
        except OSError as error:
            raise self._error(error) from error
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.file.close()
            if error is None:
                self.unfinished.replace(self.path)
        except OSError as late:
            error = late
        finally:
            self.unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._error(error) from error

    def _error(self, error: OSError) -> DataError:
        return DataError(f"{shown(self.path)}: cannot be written ({error.strerror or error}); choose another -o")


def _sheet(target: Path, order: _Order, picture: Picture, network: Network, settings: Settings) -> None:
    original = _original(order, settings.originals, network.scale, picture)
    sheet = comparing.sheet(picture, network, original=original)
    with _replaced(target) as file:
        comparing.write_png(file, sheet)


def _original(order: _Order, originals: Path | None, scale: int, picture: Picture) -> Picture | None:
    """The picture that the result should be: that of the same name in a folder, or the one given."""
    if originals is None:
        return None
    found = originals
    if is_folder(originals):
        same = [path for path in sorted(_originals(originals)) if _stem(path, scale) == _stem(order.source, scale)]
        if len(same) != 1:
            held = " and ".join(shown(p) for p in same) or "no picture"
            raise DataError(f"{shown(originals)}: {held} for {shown(order.source)}; one of its name is needed")
        found = same[0]
    read = decoding.read(found, label=shown(found))
    height, width = (scale * length for length in picture.samples.shape[:2])
    if read.samples.shape[:2] != (height, width):
        size = f"{read.samples.shape[1]}x{read.samples.shape[0]}"
        raise DataError(f"{shown(found)}: {size} pixels; the original of {shown(order.source)} has {width}x{height}")
    return read


def _stem(path: Path, scale: int) -> str:
    return path.stem.removesuffix(f"x{scale}")
