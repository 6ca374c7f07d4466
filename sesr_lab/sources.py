"""Where pictures come from: each source as a list of file names, nothing read yet.

A location is a path, or `zip://MEMBER::ARCHIVE` for a picture inside a zip, as Hugging Face `datasets` writes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from sesr_lab.errors import DataError
from sesr_lab.picture import list_pictures

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

HOLD_OUT_PART = 0.05
HOLD_OUT_MOST = 16


class Location(NamedTuple):
    """One picture of a source: the name it is known by, and the locations of its HR and, if given, its LR."""

    name: str
    hr: str
    lr: str | None = None


class Splits(NamedTuple):
    """What a source holds: pictures to train on, and pictures to score on."""

    train: list[Location]
    valid: list[Location]


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


def folder(path: Path, *, scale: int) -> Splits:
    """The pictures of a folder: `train/` and `valid/` where it has them, or else a hold-out by name.

    Each of these folders holds pictures, or `HR/` and, for LR that is not made here, `LR_x{scale}/`.

    Raises:
        DataError: no such folder, no pictures, too few to hold one out, or LR pictures that are missing.
    """
    if not (path / "train").is_dir():
        return hold_out(paired_rows(path, scale=scale), str(path))
    train = paired_rows(path / "train", scale=scale)
    if not (path / "valid").is_dir():
        return hold_out(train, str(path / "train"))
    return Splits(train, paired_rows(path / "valid", scale=scale))


def paired_rows(path: Path, *, scale: int) -> list[Location]:
    """The pictures of one folder: of its `HR/`, with the LR of its `LR_x{scale}/`, or else of the folder itself.

    Raises:
        DataError: no such folder, no pictures in it, or no LR of a picture.
    """
    if not (path / "HR").is_dir():
        return [Location(file.name, str(file)) for file in list_pictures(path)]
    high = list_pictures(path / "HR")
    low = path / f"LR_x{scale}"
    if not low.is_dir():
        return [Location(file.name, str(file)) for file in high]
    places = pair_by_name([file.name for file in high], list_pictures(low), scale=scale, where=str(low))
    return [Location(file.name, str(file), str(place)) for file, place in zip(high, places, strict=True)]


def pair_by_name(names: Sequence[str], low: Sequence[Path], *, scale: int, where: str) -> list[Path]:
    """For each HR name the LR file of the same stem, or of the stem with `x{scale}` behind it as in DIV2K.

    Raises:
        DataError: a picture has no LR, or two.
    """
    stems: dict[str, list[Path]] = {}
    for file in low:
        stems.setdefault(file.stem, []).append(file)
    return [_only_match(stems, Path(name).stem, scale, where) for name in names]


def hold_out(rows: Sequence[Location], where: str) -> Splits:
    """About 5 % of the pictures as validation (1 to 16), always the same ones: those whose names hash lowest.

    Raises:
        DataError: fewer than two pictures.
    """
    if len(rows) < 2:
        raise DataError(f"{where}: 1 picture; training needs 2 or more, since one is kept for scoring; add some")
    count = min(max(1, round(len(rows) * HOLD_OUT_PART)), HOLD_OUT_MOST)
    by_hash = sorted(rows, key=lambda row: hashlib.sha256(row.name.encode()).digest())
    kept = {row.name for row in by_hash[:count]}
    return Splits([row for row in rows if row.name not in kept], [row for row in rows if row.name in kept])


def _only_match(stems: dict[str, list[Path]], stem: str, scale: int, where: str) -> Path:
    found = stems.get(stem, []) + stems.get(f"{stem}x{scale}", [])
    if len(found) != 1:
        names = " and ".join(file.name for file in found) or "no picture"
        wanted = f"{stem}.png or {stem}x{scale}.png"
        raise DataError(f"{where}: {names} for {stem}; exactly one is needed: {wanted}; add or remove pictures")
    return found[0]
