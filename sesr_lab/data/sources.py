"""Where pictures come from: each source as a list of file names, nothing read yet.

A location is a path, or `zip://MEMBER::ARCHIVE` for a picture inside a zip, as Hugging Face `datasets` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from sesr_lab.data import Progress
from sesr_lab.data.download import fetch
from sesr_lab.data.folder import Location, Splits, pair_by_name
from sesr_lab.errors import DataError

SOURCES = ("photos", "div2k", "folder:PATH", "hub:REPO")

PHOTOS_TRAIN = (
    "astronaut.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "coins.png",
    "brick.png",
    "grass.png",
    "gravel.png",
)
PHOTOS_VALID = ("camera.png", "chelsea.png", "coffee.png")

DIV2K_URL = "http://data.vision.ee.ethz.ch/cvl/DIV2K"
Archives = Mapping[str, tuple[int, str]]
"""Bytes and SHA-256 of each zip, by file name."""
DIV2K: Archives = {
    "DIV2K_train_HR.zip": (
        3530603713,
        "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
    ),
    "DIV2K_train_LR_bicubic_X2.zip": (
        925390592,
        "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
    ),
    "DIV2K_train_LR_bicubic_X4.zip": (
        246914039,
        "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a",
    ),
    "DIV2K_valid_HR.zip": (
        448993893,
        "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
    ),
    "DIV2K_valid_LR_bicubic_X2.zip": (
        117763600,
        "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
    ),
    "DIV2K_valid_LR_bicubic_X4.zip": (
        31505881,
        "a50a5d1c4b88de4e8d300d8fb2b904c52fe93b2b298a4899697760d7cbb6d553",
    ),
}
"""The official files. Source: the checksums of TensorFlow Datasets."""


def describe_sources() -> Mapping[str, str]:
    """What each source is, in one line; nothing is read or fetched."""
    zips = {scale: [name for split in ("train", "valid") for name in _zips(split, scale)] for scale in (2, 4)}
    sizes = [f"{sum(DIV2K[name][0] for name in names) / 1e9:.1f} GB at x{scale}" for scale, names in zips.items()]
    counts = f"{len(PHOTOS_TRAIN)} training and {len(PHOTOS_VALID)} validation pictures"
    return {
        "photos": f"{counts} that scikit-image's wheel ships; the default, works offline",
        "div2k": f"800 training and 100 validation pictures, fetched once: {' or '.join(sizes)}",
        "folder:PATH": "your pictures: PATH/train and PATH/valid, or PATH alone and about 5 % are kept for scoring",
        "hub:REPO": "a data set of the Hugging Face hub with an image column",
    }


def terms_of(source: str) -> str:
    """On which terms the pictures of a source may be used, in one line."""
    if source == "photos":
        return "public domain, CC0, or none stated (scikit-image names each picture's)"
    if source == "div2k":
        return "academic research only, as its authors say"
    kind, _, place = source.partition(":")
    return f"see https://huggingface.co/datasets/{place}" if kind == "hub" else "that of its pictures, not known here"


def photos() -> Splits:
    """The natural photographs inside scikit-image's wheel; docs/data.md names their authors and terms.

    Raises:
        DataError: scikit-image is not installed, or was packaged without its pictures.
    """
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("photos: scikit-image is not installed; install it, or use --data folder:PATH")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    missing = [name for name in PHOTOS_TRAIN + PHOTOS_VALID if not (folder / name).is_file()]
    if missing:
        found = f"{folder} has no {', '.join(missing)}"
        raise DataError(f"photos: {found}; reinstall scikit-image from its wheel, or use --data folder:PATH")
    rows = [[Location(name, str(folder / name)) for name in names] for names in (PHOTOS_TRAIN, PHOTOS_VALID)]
    return Splits(*rows)


def div2k(folder: Path, archives: Archives, *, scale: int, progress: Progress | None = None) -> Splits:
    """DIV2K's 800 training and 100 validation pictures with their bicubic LR, read inside the official zips.

    The zips are fetched into `folder` unless they are there; SESR_LAB_DIV2K_URL names another server.

    Args:
        archives: what the zips must be; `DIV2K` for the official ones.

    Raises:
        DataError: a zip cannot be fetched or is not the official one.
    """
    server = os.environ.get("SESR_LAB_DIV2K_URL", DIV2K_URL).rstrip("/")
    for split in ("train", "valid"):
        for name in _zips(split, scale):
            size, sha256 = archives[name]
            fetch(f"{server}/{name}", folder / name, size=size, sha256=sha256, progress=progress)
    return Splits(*(_zipped_rows(folder, split, scale) for split in ("train", "valid")))


def _zips(split: str, scale: int) -> tuple[str, str]:
    return f"DIV2K_{split}_HR.zip", f"DIV2K_{split}_LR_bicubic_X{scale}.zip"


def _zipped_rows(folder: Path, split: str, scale: int) -> list[Location]:
    high, low = (_members(folder / name) for name in _zips(split, scale))
    places = pair_by_name(list(high), low, scale=scale, where=str(folder / _zips(split, scale)[1]))
    return [Location(name, place, lr) for (name, place), lr in zip(high.items(), places, strict=True)]


def _members(archive: Path) -> dict[str, str]:
    """Locations of the pictures in a zip by file name, in order of their names."""
    try:
        with ZipFile(archive) as opened:
            members = [name for name in opened.namelist() if name.endswith(".png")]
    except (OSError, BadZipFile) as error:
        raise DataError(f"{archive}: not a readable zip ({error}); remove it to download it anew") from error
    return {Path(name).name: f"zip://{name}::{archive}" for name in sorted(members)}
