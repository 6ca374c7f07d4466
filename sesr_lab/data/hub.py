"""Data sets of the Hugging Face hub, and folders laid out like them. Their rows are not trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.data.folder import VALID_NAMES, held_out
from sesr_lab.data.refusal import check_name, reason, shown
from sesr_lab.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_MOST_REASON = 200
"""Characters of another library's message that are repeated."""
_OF_FILES = "imagefolder"
"""The loader of repositories of plain files; its rows are paths, which it found itself."""


def open_repository(repo: str) -> DatasetDict:
    """A repository's train split, and its validation or test split or a hold-out, not decoded.

    Raises:
        DataError: it cannot be loaded, has no pictures, or has a row that holds none or names a file outside it.
    """
    from datasets import DatasetDict, disable_progress_bars, load_dataset

    check_name(repo)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        loaded = load_dataset(repo)
    except Exception as error:  # repositories and networks fail in ways that datasets does not wrap
        advice = "check its name and the network, or use --data folder:PATH"
        raise DataError(f"hub:{repo}: cannot be loaded ({reason(error)[:_MOST_REASON]}); {advice}") from error
    if "train" not in loaded:
        raise DataError(f"hub:{repo}: no split train, only {', '.join(loaded)}; use a repository that has one")
    valid = next((split for split in VALID_NAMES if split in loaded), None)
    train = _pictures(loaded["train"], repo, "train")
    if valid is not None:
        return DatasetDict(train=train, valid=_pictures(loaded[valid], repo, valid))
    kept = held_out(train["name"], where=f"hub:{repo}")
    rest = [i for i in range(len(train)) if i not in kept]
    return DatasetDict(train=train.select(rest), valid=train.select(sorted(kept)))


def _pictures(split: Dataset, repo: str, name: str) -> Dataset:
    """The image column of a split as `hr`, not decoded, with names by position."""
    from datasets import Image

    column = _image_column(split, repo)
    pictures = split.select_columns([column]).cast_column(column, Image(decode=False))
    pictures = pictures.rename_column(column, "hr") if column != "hr" else pictures
    names = [f"hub:{repo} {name} picture {i}" for i in range(len(pictures))]
    _check_rows(pictures, names, repo)
    return pictures.add_column("name", names).add_column("lr", [None] * len(names))


def _image_column(split: Dataset, repo: str) -> str:
    from datasets import Image

    columns = [name for name, feature in split.features.items() if isinstance(feature, Image)]
    chosen = [name for name in ("image", "hr") if name in columns] or columns
    if len(chosen) != 1 and chosen != ["image", "hr"]:
        found = (
            f"image columns {', '.join(columns)}" if columns else f"no image column among {', '.join(split.features)}"
        )
        raise DataError(f"hub:{repo}: {found}; one is needed, or one called image or hr; use another repository")
    return chosen[0]


def _check_rows(pictures: Dataset, names: list[str], repo: str) -> None:
    """Accepts rows that hold their picture, or the path of a file of this repository."""
    import pyarrow.compute as pc

    if len(pictures) == 0:
        raise DataError(f"hub:{repo}: a split without pictures; use another repository")
    column = pictures.data.column("hr")
    without = pc.is_null(pc.struct_field(column, "bytes")).to_pylist()
    paths = pc.struct_field(column, "path")
    roots = _roots(repo) if pictures.info.builder_name == _OF_FILES else []
    for index in (i for i, is_null in enumerate(without) if is_null):
        path = paths[index].as_py()
        if path is None:
            raise DataError(f"{names[index]}: a row without a picture; remove the row, or use another repository")
        if not any(Path(path).resolve().is_relative_to(root) for root in roots):
            found = f"names {shown(path)} of this machine instead of holding a picture"
            raise DataError(f"{names[index]}: {found}; use another repository, or --data folder:PATH")


def _roots(repo: str) -> list[Path]:
    """Where the files of repositories lie: a folder that was named as one, and what the hub's libraries keep."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    places = [HF_HUB_CACHE, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH]
    return [Path(place).resolve() for place in ([repo] if Path(repo).is_dir() else []) + places]
