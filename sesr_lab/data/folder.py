"""Folders of pictures: which are trained and scored on, and which LR belongs to which HR. Nothing is read yet.

What a folder may be called is taken from the data sets that are out there; what cannot be understood is refused, so
that no pictures are passed over in silence.
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sesr_lab.data.picture import holds_pictures, list_pictures
from sesr_lab.data.refusal import check_name, shown
from sesr_lab.errors import DataError

_log = logging.getLogger(__name__)
HOLD_OUT_PART = 0.05
HOLD_OUT_MOST = 16
VALID_NAMES = ("validation", "valid", "val", "test")
"""What pictures to score on are called, the first that is there being taken; also by the hub's data sets."""
_SAME = VALID_NAMES[:3]
"""Names for one and the same split: two of them are one too many."""
_SCALE = r"[-_ ]?(?:x?(?P<scale>\d+)|(?P<scale_first>\d+)x)"
_LOW = re.compile(rf"lr[-_ ]?(?:bicubic|bic)?{_SCALE}")
"""LR of one scale, as in LR_x2, LRbicx2 and LR_bicubic_X2; in lower case."""
_LOW_OF_ALL = re.compile(r"lr[-_ ]?(?:bicubic|bic)?")
"""LR of several scales in folders of their own, as in LR_bicubic/X2."""


class Location(NamedTuple):
    """One picture of a source: the name it is known by, and the locations of its HR and, if given, its LR."""

    name: str
    hr: str
    lr: str | None = None


class Splits(NamedTuple):
    """What a source holds: pictures to train on, and pictures to score on."""

    train: list[Location]
    valid: list[Location]


def split_folder(path: Path, *, scale: int) -> Splits:
    """The pictures of a folder: of its `train/` and `valid/` where it has them, or else a hold-out by name.

    Each of these folders holds pictures, or `HR/` and, for LR that is not made here, `LR_x{scale}/`.

    Raises:
        DataError: no such folder, no pictures, too few to hold one out, folders that contradict each other, or LR
            pictures that are missing.
    """
    check_name(path)
    children = _children(path)
    train, valid = _one(children, ("train", "training"), path), _valid(children, path)
    if train is None:
        if valid is not None:
            raise DataError(f"{path}: {valid.name}/ but no train/; put the pictures to train on into {path / 'train'}")
        return _hold_out(paired_rows(path, scale=scale), str(path))
    if holds_pictures(path) or _one(children, ("hr",), path) is not None:
        raise DataError(f"{path}: pictures both in it and in {train.name}/; move them into {train.name}/, or away")
    _mention_unused([child for child in children if child not in (train, valid)], path)
    rows = paired_rows(train, scale=scale)
    return _hold_out(rows, str(train)) if valid is None else Splits(rows, paired_rows(valid, scale=scale))


def paired_rows(path: Path, *, scale: int) -> list[Location]:
    """The pictures of one folder: of its `HR/`, with the LR of its `LR_x{scale}/`, or else of the folder itself.

    Raises:
        DataError: no such folder, no pictures in it, no LR of a picture, or folders that contradict each other.
    """
    children = _children(path)
    high, low = _one(children, ("hr",), path), _low(children, path, scale)
    if high is None:
        if low is not None:
            found = f"{low.relative_to(path)}/ but no HR/"
            raise DataError(f"{path}: {found}; put the high-resolution pictures into {path / 'HR'}")
        rows = [Location(file.name, str(file)) for file in list_pictures(path)]
        _mention_unused(children, path)
        return rows
    if holds_pictures(path):
        raise DataError(f"{path}: pictures both in it and in {high.name}/; move them into {high.name}/, or away")
    files = list_pictures(high)
    _mention_unused(
        [child for child in children if child not in (high, low) and not _LOW.fullmatch(child.name.lower())], path
    )
    if low is None:
        return [Location(file.name, str(file)) for file in files]
    given = {file.name: str(file) for file in list_pictures(low)}
    places = pair_by_name([file.name for file in files], given, scale=scale, where=str(low))
    return [Location(file.name, str(file), place) for file, place in zip(files, places, strict=True)]


def pair_by_name(names: Sequence[str], low: Mapping[str, str], *, scale: int, where: str) -> list[str]:
    """For each HR name the location of the LR picture with its stem, or its stem and `x{scale}` as in DIV2K.

    An LR picture that has the stem of some HR picture is that one's alone.

    Args:
        low: locations of LR pictures by file name.

    Raises:
        DataError: a picture has no LR, or two, or has to share it.
    """
    stems: dict[str, list[str]] = {}
    for name in low:
        stems.setdefault(_stem(name), []).append(name)
    owners: dict[str, str] = {}
    for name in names:
        if (other := owners.setdefault(_stem(name), name)) != name:
            raise DataError(f"{where}: {other} and {name} would share one LR picture; rename one of them and its LR")
    return [low[_only_match(stems, _stem(name), owners, scale=scale, where=where)] for name in names]


def held_out(names: Sequence[str], *, where: str) -> set[int]:
    """The positions of about 5 % of the pictures (1 to 16): always the same, those whose names hash lowest.

    Raises:
        DataError: fewer than two pictures.
    """
    if len(names) < 2:
        raise DataError(f"{where}: {len(names)} picture; 2 or more are needed, since one is kept for scoring; add some")
    count = min(max(1, round(len(names) * HOLD_OUT_PART)), HOLD_OUT_MOST)
    return set(sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())[:count])


def _hold_out(rows: Sequence[Location], where: str) -> Splits:
    kept = held_out([row.name for row in rows], where=where)
    return Splits([row for i, row in enumerate(rows) if i not in kept], [rows[i] for i in sorted(kept)])


def _children(path: Path) -> list[Path]:
    """The folders in a folder; none where it cannot be listed, which listing its pictures will say."""
    try:
        return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []


def _one(children: Sequence[Path], names: Sequence[str], where: Path) -> Path | None:
    """The child of one of these names, in whatever case; DataError where there are two."""
    found = [child for child in children if child.name.lower() in names]
    if len(found) > 1:
        raise DataError(f"{where}: both {' and '.join(f'{child.name}/' for child in found)}; keep one of them")
    return found[0] if found else None


def _valid(children: Sequence[Path], where: Path) -> Path | None:
    """The folder of pictures to score on; one without pictures does not count."""
    full = [child for child in children if child.name.lower() in VALID_NAMES and _used(child)]
    return _one(full, _SAME, where) or _one(full, VALID_NAMES[3:], where)


def _low(children: Sequence[Path], where: Path, scale: int) -> Path | None:
    """The folder of LR pictures at this scale; DataError where it is not clear which that is."""
    found, unclear = [], []
    for child in children:
        name = child.name.lower()
        if given := _LOW.fullmatch(name):
            found += [child] if _scale(given) == scale else []
        elif name == "lr" or name.startswith(("lr_", "lr-", "lr ", "lrb")):
            inside = {folder: re.fullmatch(_SCALE, folder.name.lower()) for folder in _children(child)}
            at_scale = [folder for folder, given in inside.items() if given and _scale(given) == scale]
            known = _LOW_OF_ALL.fullmatch(name) is not None
            found += at_scale if known else []
            unclear += [child] if holds_pictures(child) or (at_scale and not known) else []
    if len(found) > 1 or (unclear and not found):
        names = " and ".join(f"{folder.relative_to(where)}/" for folder in found or unclear)
        advice = f"call the one to use LR_x{scale}/ and move others away"
        raise DataError(f"{where}: LR pictures in {names}, not clear whether these are meant at x{scale}; {advice}")
    return found[0] if found else None


def _mention_unused(children: Sequence[Path], where: Path) -> None:
    """Says of folders beside the pictures that are used that theirs are not."""
    if unused := [f"{child.name}/" for child in children if holds_pictures(child)]:
        _log.warning("%s: the pictures in %s are not used", shown(where), shown(", ".join(unused)))


def _scale(match: re.Match[str]) -> int:
    return int(match["scale"] or match["scale_first"])


def _used(folder: Path) -> bool:
    """Whether pictures are in a folder, in its `HR/` included."""
    return holds_pictures(folder) or any(child.name.lower() == "hr" for child in _children(folder))


def _stem(name: str) -> str:
    """A name without its suffix, written one way where Unicode knows two."""
    return unicodedata.normalize("NFC", Path(name).stem)


def _only_match(stems: Mapping[str, list[str]], stem: str, owners: Mapping[str, str], *, scale: int, where: str) -> str:
    guesses = [guess for guess in (f"{stem}x{scale}", f"{stem}X{scale}") if guess not in owners]
    found = [name for known in (stem, *guesses) for name in stems.get(known, [])]
    if len(found) != 1:
        wanted = " or ".join([f"{stem}.png", *(f"{guess}.png" for guess in guesses[:1])])
        held = " and ".join(found) or "no LR picture"
        raise DataError(f"{where}: {held} for {stem}; one is needed: {wanted}; add or remove pictures")
    return found[0]
